"""The csv that Kaggle takes (submission.csv: ids and class ids), and the one that people read.

That is predictions.csv, of a folder of photos: names and probabilities. Written whole, checked line by
line.
"""

import contextlib
import csv
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from pathlib import Path

from flowerkit.files import near_path, write_text
from flowerkit.text import format_csv, is_formula, join_some, pluralize, to_cell

HEADER = ["id", "label"]
PREDICTIONS = ["photo", "predicted", "probability"]
TRUE_LABEL = "label"  # the column after them, where the photos have labels
_UNFIT = re.compile(r'[,"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')  # line ends and controls


def write_submission(
    path: str | os.PathLike,
    ids: Sequence[str],
    labels: Sequence[int],
    names: Sequence[str] | None = None,
) -> None:
    """Write `id,label` and a row for each image; an older file stays whole if writing fails.

    `ids` are n distinct strings, `labels` n class ids, integers from 0 (NumPy's too). With `names`, as
    in `FlowerData.csv_labels`, the file holds the name of each class instead of its id. Raises
    ValueError, before anything is written, for any others.
    """
    if len(ids) != len(labels):
        raise ValueError(f"{len(ids)} ids but {len(labels)} labels. Each image needs both.")
    if len(ids) == 0:
        raise ValueError("no predictions to write. Does the test split hold any images?")
    row_of: dict[str, int] = {}
    lines = [",".join(HEADER)]
    for row, (name, label) in enumerate(zip(ids, labels, strict=True)):
        if fault := _find_row_fault(name, label, row_of, names):
            raise ValueError(f"row {row}: {fault}")
        row_of[name] = row
        text = names[label].replace('"', '""') if names else str(index(label))
        lines.append(f'{name},"{text}"' if re.search('[,"]', text) else f"{name},{text}")
    write_text(path, "\n".join(lines) + "\n")


def _find_row_fault(name, label, row_of: Mapping[str, int], names) -> str | None:
    if not isinstance(name, str):
        return f"id {name!r} is {type(name).__name__}, not text. Decode it."
    if fault := find_id_fault(name):
        return f"{fault}. Are these the test ids?"
    if name in row_of:
        return (
            f"id {name!r} appears twice (first in row {row_of[name]}). Were the padded images of the "
            "last batch trimmed?"
        )
    try:
        number = index(label)
    except TypeError:
        return f"label {label!r} is not an integer. Pass class indices, not probabilities."
    if number < 0:
        return f"label {number} is no class; they start at 0."
    is_class = not names or number < len(names)
    return None if is_class else f"label {number} is no class; there are {len(names)}."


def check_submission(
    path: str | os.PathLike,
    ids: Iterable[str],
    num_classes: int,
    names: Sequence[str] | None = None,
) -> list[str]:
    """Every problem of a submission as a sentence, in the order of its lines; [] if it is right.

    `ids` are those of the test set, in any order; labels must be integers 0..num_classes-1, or where
    `names` are given, as in `FlowerData.csv_labels`, one of these. A byte order mark, Windows line ends,
    quotes and empty lines at the end are no problems. Raises FileNotFoundError for a missing file.
    """
    return _check(path, ids, HEADER, lambda label, *_: _find_label_fault(label, num_classes, names))


def write_predictions(
    path: str | os.PathLike,
    photos: Sequence[str],
    predicted: Sequence[int],
    probabilities: Sequence[float],
    class_names: Sequence[str],
    labels: Mapping[str, int] | None = None,
) -> None:
    """Write `photo,predicted,probability`: the name of each photo's class, and how sure that is, 0..1.

    With `labels`, the class ids of photos, `label` has the name of the true class, and is empty for a
    photo without one. An older file stays whole if writing fails.
    """
    rows = [[*PREDICTIONS, *[TRUE_LABEL] * (labels is not None)]]
    for photo, label, share in zip(photos, predicted, probabilities, strict=True):
        row = [photo, class_names[label], f"{share:.4f}"]
        if labels is not None:
            row.append(class_names[labels[photo]] if photo in labels else None)
        rows.append(row)
    write_text(path, format_csv(rows))


def holds_predictions(path: str | os.PathLike) -> bool:
    """Whether the csv is one of `write_predictions`, by its header."""
    with contextlib.suppress(UnicodeDecodeError):
        return _split(next(iter(_read_lines(path)), ""))[: len(PREDICTIONS)] == PREDICTIONS
    return False


def name_csv(*, is_of_photos: bool) -> str:
    """The file that holds what is predicted for test: names for people, or what a competition takes."""
    return "predictions.csv" if is_of_photos else "submission.csv"


def check_csv(
    path: str | os.PathLike,
    ids: Iterable[str],
    class_names: Sequence[str],
    csv_labels: Sequence[str] | None = None,
) -> list[str]:
    """Every problem of a csv of either kind, which its header tells apart."""
    if holds_predictions(path):
        return check_predictions(path, ids, class_names)
    return check_submission(path, ids, len(class_names), csv_labels)


def check_predictions(
    path: str | os.PathLike, photos: Iterable[str], class_names: Sequence[str]
) -> list[str]:
    """Every problem of a csv of `write_predictions`, each a sentence, as in `check_submission`."""
    names = [to_cell(name) for name in class_names]
    has_labels = TRUE_LABEL in _split(next(iter(_read_lines(path)), ""))

    def find_fault(label: str, share: str = "", true: str = "") -> str | None:
        if fault := _find_label_fault(label, len(names), names):
            return fault
        if not re.fullmatch(r"[01]\.\d+", share) or float(share) > 1:
            return f"has the probability {_short(share)}, wanted 0 to 1"
        return true and _find_label_fault(true, len(names), names)

    return _check(path, photos, [*PREDICTIONS, *[TRUE_LABEL] * has_labels], find_fault)


def read_predictions(path: str | os.PathLike, class_names: Sequence[str]) -> dict[str, int]:
    """The predicted class id of each photo in a csv of `write_predictions` that is valid."""
    id_of = {to_cell(name): number for number, name in enumerate(class_names)}
    return {fields[0]: id_of[fields[1]] for fields in map(_split, _read_lines(path)[1:])}


def _check(path, ids: Iterable[str], header: list[str], find_fault: Callable) -> list[str]:
    header_line = ",".join(header)
    wanted = dict.fromkeys(ids)  # a set that keeps the order, so that reports do too
    try:
        lines = _read_lines(path)
    except UnicodeDecodeError as error:
        return [f"not UTF-8 text (byte {error.start}: {error.reason}); save it as csv in UTF-8"]
    if not lines:
        return [f"the file is empty; wanted the header '{header_line}' and {len(wanted):,} rows"]
    rows = list(enumerate(map(_split, lines), start=1))
    problems = []
    if rows[0][1][0] in wanted:
        problems.append(f"line 1: no header; wanted '{header_line}'")
    elif rows.pop(0)[1] != header:
        problems.append(f"line 1: header is {_short(lines[0])}, wanted '{header_line}'")
    found = {fields[0] for _, fields in rows}
    if rows and found.isdisjoint(wanted):
        number, fields = rows[0]
        return [
            *problems,
            f"none of the {len(rows):,} rows starts with an id of the test set (line {number} starts "
            f"with {_short(fields[0])}, the test set with {_short(next(iter(wanted), ''))}): other "
            "data, or other columns; the rows were not checked",
        ]
    problems += _check_rows(rows, wanted, header, find_fault)
    if len(rows) != len(wanted):
        problems.append(f"{pluralize(len(rows), 'row')}, wanted {len(wanted):,}")
    if missing := [_short(name) for name in wanted if name not in found]:
        number = pluralize(len(missing), "id")
        problems.append(f"{number} of the test set missing: {join_some(missing)}")
    return problems


def find_single_label(path: str | os.PathLike) -> str | None:
    """A warning where several rows of a valid csv, of either kind, have one and the same label."""
    labels = [_split(line)[1] for line in _read_lines(path)[1:]]
    if len(labels) < 2 or len(set(labels)) > 1:
        return None
    return (
        f"warning: all {len(labels):,} rows have the label {_short(labels[0])}; a csv of a model that "
        f"has learned has several"
    )


def read_labels(path: str | os.PathLike, names: Sequence[str] | None = None) -> dict[str, int]:
    """The class id of each id in a csv as `write_submission` writes it, with the same `names`.

    Raises what `read_ids` raises, and ValueError for a row that is not an id and its label.
    """
    labels, id_of = {}, {name: id for id, name in enumerate(names or ())}
    for image, line in zip(read_ids(path), _read_lines(path)[1:], strict=True):
        label = ",".join(_split(line)[1:])
        if label not in id_of if names else not label.isdecimal():
            raise ValueError(f"{path}: {_short(line)} is not an id and its label.")
        labels[image] = id_of[label] if names else int(label)
    return labels


def read_ids(path: str | os.PathLike, *, column: str = "id") -> list[str]:
    """The ids of a csv such as `sample_submission.csv`, in its order.

    Raises FileNotFoundError, or ValueError if its first column is not `column`, an id repeats or there
    is none.
    """
    try:
        lines = _read_lines(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}). Fetch the file again."
        ) from None
    if len(lines) < 2 or _split(lines[0])[0] != column:
        found = f"starts with {_short(lines[0])}" if len(lines) > 1 else "holds no rows"
        raise ValueError(f"{path} {found}; wanted a csv whose first column is '{column}'.")
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


def find_id_fault(name: str) -> str | None:
    """Why a csv for Kaggle cannot hold the id `name`; None if it can.

    >>> find_id_fault("a,b"), find_id_fault("252d840db")
    ("id 'a,b' does not fit into a csv", None)
    """
    if not name or name != name.strip() or _UNFIT.search(name):
        return f"id {_short(name)} does not fit into a csv"
    return None


def to_id(text: str) -> str:
    """`text` as an id that a csv can hold, and that no spreadsheet computes.

    >>> to_id("=rose, red/1.jpg")
    '_=rose_ red/1.jpg'
    """
    text = _UNFIT.sub("_", text).strip() or "_"
    return f"_{text}" if is_formula(text) else text


def _read_lines(path: str | os.PathLike) -> list[str]:
    path = Path(path)
    if not path.exists():
        hint = f"{near_path(path)} Check the path."
        if (path.parent / "plan.json").is_file():
            hint = (
                f" The run has not written it: `flowerkit train --resume --out {path.parent}` does; in "
                f"Python write_submission(csv, p.ids, p.predicted), with p = predict(model, test, ...)."
            )
            for is_of_photos in (True, False):
                if (written := path.with_name(name_csv(is_of_photos=is_of_photos))).is_file():
                    hint = f" Did you mean {written}?"
        raise FileNotFoundError(f"no file {path}.{hint}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Pass its csv: {path / 'submission.csv'}.")
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


def _check_rows(rows, wanted, header: list[str], find_fault: Callable) -> list[str]:
    problems: list[str] = []
    line_of: dict[str, int] = {}
    for number, fields in rows:
        if fields == [""]:
            problems.append(f"line {number}: empty")
            continue
        if len(fields) != len(header):
            columns, line = pluralize(len(fields), "column"), ",".join(header)
            problems.append(f"line {number}: {columns}, wanted {len(header)} ({line})")
        name = fields[0]
        first = line_of.setdefault(name, number)
        if first != number:
            twice = f"id {_short(name)} appears twice (first on line {first})"
            problems.append(f"line {number}: {twice}")
        elif name not in wanted:
            problems.append(f"line {number}: id {_short(name)} is not in the test set")
        if len(fields) > 1 and (fault := find_fault(*fields[1 : len(header)])):
            problems.append(f"line {number}: label {fault}")
    return problems


def _find_label_fault(label: str, num_classes: int, names: Sequence[str] | None) -> str | None:
    if names:
        known = f"{names[0]}, {names[1]}, ... {names[-1]}" if len(names) > 2 else ", ".join(names)
        return None if label in names else f"{_short(label)} is none of the classes {known}"
    digits = label.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        return f"{_short(label)} is not an integer"
    # Nine digits are enough for any class; int() of thousands of digits is an error of its own.
    if label != digits or len(digits) > 9 or int(digits) >= num_classes:
        return f"{label[:20]} is outside 0..{num_classes - 1}"
    return None


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
