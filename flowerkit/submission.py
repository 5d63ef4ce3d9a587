"""The csv that Kaggle takes: written whole, and checked line by line against the test set. Pure."""

import csv
import os
from collections.abc import Collection, Iterable, Sequence
from operator import index
from pathlib import Path

from flowerkit.files import write_text
from flowerkit.text import pluralize

HEADER = ["id", "label"]
HEADER_LINE = ",".join(HEADER)
NAMED_IDS = 5  # missing ids that a report names


def write_submission(path: str | os.PathLike, ids: Sequence[str], labels: Sequence[int]) -> None:
    """Write `id,label` and a row for each image; an older file stays whole if writing fails.

    `ids` are n distinct strings, `labels` n integers from 0 (NumPy's too). Raises ValueError,
    before anything is written, if they differ in number, are empty, or hold a repeated or
    unwritable id or a label that is no class.
    """
    if len(ids) != len(labels):
        raise ValueError(f"{len(ids)} ids but {len(labels)} labels. Each image needs both.")
    if len(ids) == 0:
        raise ValueError("no predictions to write. Does the test split hold any images?")
    row_of: dict[str, int] = {}
    lines = [HEADER_LINE]
    for row, (name, label) in enumerate(zip(ids, labels, strict=True)):
        _check_id(name, row, row_of)
        lines.append(f"{name},{_class_index(label, row)}")
        row_of[name] = row
    write_text(path, "\n".join(lines) + "\n")


def check_submission(path: str | os.PathLike, ids: Iterable[str], num_classes: int) -> list[str]:
    """Every problem of a submission as a sentence, in the order of its lines; [] if it is right.

    `ids` are those of the test set, in any order; labels must be integers 0..num_classes-1. A byte
    order mark, Windows line ends, quoted values and empty lines at the end are no problems. If no row
    has an id of the test set, that is the one problem. Raises FileNotFoundError for a missing file.
    """
    wanted = dict.fromkeys(ids)  # a set that keeps the order, so that reports do too
    try:
        lines = _read_lines(path)
    except UnicodeDecodeError as error:
        return [f"not UTF-8 text (byte {error.start}: {error.reason}); save it as csv in UTF-8"]
    if not lines:
        return [f"the file is empty; wanted the header '{HEADER_LINE}' and {len(wanted):,} rows"]
    problems = _check_header(lines[0], wanted)
    first_row = 1 if _split(lines[0])[0] in wanted else 2
    rows = [(n, _split(line)) for n, line in enumerate(lines, start=1) if n >= first_row]
    found = {fields[0] for _, fields in rows}
    if rows and not any(name in wanted for name in found):
        return [*problems, _describe_foreign(rows, wanted)]
    problems += _check_rows(rows, wanted, num_classes)
    return problems + _check_whole(len(rows), found, wanted)


def read_labels(path: str | os.PathLike) -> dict[str, int]:
    """The label of each id in a csv as `write_submission` writes it.

    Raises what `read_ids` raises, and ValueError for a row that is not an id and a whole number.
    """
    labels = {}
    for name, line in zip(read_ids(path), _read_lines(path)[1:], strict=True):
        fields = _split(line)
        if len(fields) != 2 or not fields[1].isdecimal():
            raise ValueError(f"{path}: {_short(line)} is not an id and its label.")
        labels[name] = int(fields[1])
    return labels


def read_ids(path: str | os.PathLike) -> list[str]:
    """The ids of a csv such as `sample_submission.csv`, in its order.

    Raises FileNotFoundError for a missing file, and ValueError if it is not text, its first column is
    not `id`, an id repeats, or there is none.
    """
    try:
        lines = _read_lines(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}). Fetch the file again."
        ) from None
    if len(lines) < 2 or _split(lines[0])[0] != HEADER[0]:
        found = f"starts with {_short(lines[0])}" if len(lines) > 1 else "holds no rows"
        raise ValueError(f"{path} {found}; wanted a csv whose first column is 'id'.")
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        name = _split(line)[0]
        if name in line_of:
            raise ValueError(
                f"{path}, line {number}: id {_short(name)} appears twice "
                f"(first on line {line_of[name]}). Fetch the file again."
            )
        line_of[name] = number
    return list(line_of)


def _check_id(name: str, row: int, row_of: dict[str, int]) -> None:
    if not isinstance(name, str):
        raise ValueError(f"row {row}: id {name!r} is {type(name).__name__}, not text. Decode it.")
    if not name or name != name.strip() or any(mark in name for mark in ',"\r\n'):
        raise ValueError(f"row {row}: id {name!r} does not fit into a csv. Are these the test ids?")
    if name in row_of:
        raise ValueError(
            f"row {row}: id {name!r} appears twice (first in row {row_of[name]}). "
            "Were the padded images of the last batch trimmed?"
        )


def _class_index(label: int, row: int) -> int:
    try:
        number = index(label)
    except TypeError:
        raise ValueError(
            f"row {row}: label {label!r} is not an integer. Pass class indices, not probabilities."
        ) from None
    if number < 0:
        raise ValueError(f"row {row}: label {number} is no class; they start at 0.")
    return number


def _read_lines(path: str | os.PathLike) -> list[str]:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}. Check the path, or write it first.")
    # utf-8-sig drops the byte order mark that spreadsheets put in front.
    text = path.read_bytes().decode("utf-8-sig")
    # Not splitlines(), which breaks at form feeds and Unicode separators inside a value too.
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    return text.split("\n") if text else []


def _split(line: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error:  # an unclosed quote breaks its line only
        return [line]


def _check_header(line: str, wanted: Collection[str]) -> list[str]:
    fields = _split(line)
    if fields == HEADER:
        return []
    if fields[0] in wanted:
        return [f"line 1: no header; wanted '{HEADER_LINE}'"]
    return [f"line 1: header is {_short(line)}, wanted '{HEADER_LINE}'"]


def _describe_foreign(rows: list[tuple[int, list[str]]], wanted: Collection[str]) -> str:
    number, fields = rows[0]
    expected = _short(next(iter(wanted))) if wanted else "nothing: it is empty"
    return (
        f"none of the {len(rows):,} rows starts with an id of the test set (line {number} starts "
        f"with {_short(fields[0])}, the test set with {expected}): other data, or other columns; "
        "the rows were not checked"
    )


def _check_rows(
    rows: list[tuple[int, list[str]]], wanted: Collection[str], num_classes: int
) -> list[str]:
    problems: list[str] = []
    line_of: dict[str, int] = {}
    for number, fields in rows:
        if fields == [""]:
            problems.append(f"line {number}: empty")
            continue
        if len(fields) != len(HEADER):
            columns = pluralize(len(fields), "column")
            problems.append(f"line {number}: {columns}, wanted 2 ({HEADER_LINE})")
        name = fields[0]
        if name in line_of:
            first = line_of[name]
            problems.append(
                f"line {number}: id {_short(name)} appears twice (first on line {first})"
            )
        elif name not in wanted:
            problems.append(f"line {number}: id {_short(name)} is not in the test set")
        line_of.setdefault(name, number)
        if len(fields) > 1:
            problems += _check_label(fields[1], number, num_classes)
    return problems


def _check_label(label: str, line: int, num_classes: int) -> list[str]:
    digits = label.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        return [f"line {line}: label {_short(label)} is not an integer"]
    # Nine digits are enough for any class; int() of thousands of digits is an error of its own.
    if label != digits or len(digits) > 9 or int(digits) >= num_classes:
        return [f"line {line}: label {label[:20]} is outside 0..{num_classes - 1}"]
    return []


def _check_whole(num_rows: int, found: Collection[str], wanted: Collection[str]) -> list[str]:
    problems = []
    if num_rows != len(wanted):
        problems.append(f"{pluralize(num_rows, 'row')}, wanted {len(wanted):,}")
    missing = [name for name in wanted if name not in found]
    if missing:
        named = ", ".join(_short(name) for name in missing[:NAMED_IDS])
        more = ", ..." if len(missing) > NAMED_IDS else ""
        problems.append(f"{pluralize(len(missing), 'id')} of the test set missing: {named}{more}")
    return problems


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
