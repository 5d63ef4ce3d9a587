"""Labels beside the folders: a csv with any columns, or a pattern of the file names.

The csv may be in UTF-8, UTF-16 or, as Excel in Korea writes it, CP949. Which column holds the names of
photos is seen by what is in it; classes may be one column, or one column each (one-hot).
"""

import contextlib
import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flowerkit.files import near_path
from flowerkit.photos.tree import SPLIT_WORDS
from flowerkit.photos.walk import normalize_name
from flowerkit.text import did_you_mean

_SPLITS = {word: split for split in ("train", "val", "test") for word in SPLIT_WORDS[split].split()}
# What pandas writes for a label that is missing.
_MISSING = ("nan", "<na>", "none", "null", "nat")
_LABELS = ("label", "labels", "class", "class_name", "category", "species", "target", "breed")
_SPLIT_COLUMNS = ("split", "set", "subset", "is_valid", "is_test", "is_train", "fold")
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


@dataclass(frozen=True)
class LabelsCsv:
    """A csv of labels, and the names of its columns where they are not to be found by themselves."""

    file: str | os.PathLike
    image: str | None = None
    label: str | None = None
    split: str | None = None


class Row(NamedTuple):
    """A row of the csv: its line, the name it gives, the paths that this may mean, class and split."""

    line: int
    name: str
    paths: list[str]
    class_name: str | None
    split: str | None


def name_class(text: str) -> str:
    """A class by what a folder or a csv calls it: as `normalize_name`, line ends and such as blanks."""
    text = normalize_name(text)
    return "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)


# A pattern ----------------------------------------------------------------------------------------


def read_pattern(pattern: str) -> re.Pattern[str]:
    r"""The pattern that finds a class in a file name, or in a path if it holds a slash: its first group.

    Raises ValueError for one that is no pattern or has no group.

    >>> find_label(read_pattern(r"(.+)_\d+"), "images/great_dane_12.jpg")
    'great_dane'
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"label_pattern={pattern!r} is no pattern of Python's re: {error}."
        ) from None
    if not compiled.groups:
        raise ValueError(
            f"label_pattern={pattern!r} has no group. Put the class in brackets: "
            r"--label-pattern '(.+)_\d+' finds rose in rose_12.jpg."
        )
    return compiled


def find_label(pattern: re.Pattern[str], path: str) -> str | None:
    """The class that is in a path, or None."""
    text = normalize_name(path)
    match = pattern.search(text if "/" in pattern.pattern else text.rpartition("/")[2])
    return name_class(match[1]).strip() or None if match and match[1] else None


# A csv --------------------------------------------------------------------------------------------


def read_labels(labels: LabelsCsv, paths: Sequence[str], notes: list[str]) -> Iterator[Row]:
    """The rows of a csv of labels for the photos `paths`; what was decided is added to `notes`.

    Raises FileNotFoundError without the file, ValueError for text of an unknown encoding, a column that
    is not there or cannot be chosen, and a split that is none.
    """
    table = read_table(Path(labels.file).expanduser(), notes)
    image, found = _find_images(table, _PathIndex(paths), labels.image)
    split = table.find("split", labels.split, _SPLIT_COLUMNS)
    splits = _read_splits(table, split, notes)
    classes = _read_classes(table, labels.label, {image, split})
    rows = zip(table.rows, found, classes, splits, strict=True)
    for (line, values), of_name, class_name, of_split in rows:
        if values[image] or class_name:
            yield Row(line, values[image], of_name, class_name, of_split)


@dataclass(frozen=True)
class _Table:
    file: Path
    columns: list[str]
    rows: list[tuple[int, list[str]]]  # the line in the file, and a value a column

    def get(self, column: int) -> list[str]:
        return [values[column] for _, values in self.rows]

    def find(self, role: str, given: str | None, known: Sequence[str] = ()) -> int | None:
        """The column that is `given` by its name, or the first of the `known` ones, or None."""
        names = [column.casefold() for column in self.columns]
        if given is None:
            return next((names.index(name) for name in known if name in names), None)
        if given.strip().casefold() in names:
            return names.index(given.strip().casefold())
        raise ValueError(
            f"{self.file} has no column {given!r} (--csv-{role}), but {', '.join(self.columns)}."
            f"{did_you_mean(given, self.columns)}"
        )

    def lacks(self, wanted: str, role: str) -> ValueError:
        return ValueError(
            f"{self.file} has the columns {', '.join(self.columns) or '(none)'}; it needs one "
            f"{wanted}, named in its first line. Name it with --csv-{role}."
        )


def read_table(file: Path, notes: list[str]) -> _Table:
    """A csv of any encoding and separator that spreadsheets write; how it was read is added to `notes`.

    Raises FileNotFoundError, and ValueError for a folder, an unknown encoding and a quote that is left
    open, which would hide what follows it.
    """
    try:
        text = _decode(file, file.read_bytes(), notes)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no {file}.{near_path(file)} Pass a csv of names and labels."
        ) from None
    except IsADirectoryError:
        raise ValueError(f"{file} is a folder. Pass a csv of names and labels.") from None
    head = text.partition("\n")[0]
    # Not splitlines(), which ends a line at U+0085 and U+2028 too.
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, line = [], 1
    try:
        columns = [column.strip() for column in next(reader, [])]
        for values in reader:
            line = reader.line_num
            values = [value.strip() for value in values][: len(columns)]
            if any(values):
                rows.append((line, values + [""] * (len(columns) - len(values))))
    except csv.Error as error:
        raise ValueError(
            f"{file}, line {line} or later: {error}. Write a quote inside quotes twice, and close each."
        ) from None
    return _Table(file, columns, rows)


def _decode(file: Path, raw: bytes, notes: list[str]) -> str:
    encoding = "utf-8-sig"
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif b"\0" in raw[:200]:  # UTF-16 without a mark: letters of the header have a zero each
        encoding = "utf-16-be" if raw[:1] == b"\0" else "utf-16-le"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        position = error.start
    with contextlib.suppress(UnicodeDecodeError):
        text = raw.decode("cp949")
        letters = [letter for letter in text if letter > "\x7f"]
        if 2 * sum("가" <= letter <= "힣" for letter in letters) > len(letters):
            notes.append(f"{file.name} is read as Korean from Windows (CP949)")
            return text
    raise ValueError(
        f"{file} is text neither in UTF-8 nor in UTF-16 or Korean CP949 (byte {position}). Save it as "
        "csv in UTF-8."
    )


class _PathIndex:
    """The photos by every spelling: their paths, without the first folders, without the suffix."""

    def __init__(self, paths: Iterable[str]):
        # By how a name is spelled: whole paths, those without suffix, and what ends in them.
        self._tables = {str: ({}, {}, {}), str.casefold: ({}, {}, {})}
        for path in paths:
            folders = _compose(path).split("/")
            for start in range(len(folders)):
                tail = "/".join(folders[start:])
                for place, key in enumerate((tail, os.path.splitext(tail)[0])):
                    for fold, tables in self._tables.items():
                        tables[2 if start else place].setdefault(fold(key), {})[path] = None

    def find(self, name: str, *, whole: bool = False) -> list[str]:
        """The paths that a name may mean, as a `whole` path only: one, none, or several."""
        for fold, tables in self._tables.items():
            for table in tables[:2] if whole else tables:
                if found := table.get(fold(_compose(name))):
                    return list(found)
        return []


def _compose(name: str) -> str:
    return normalize_name(name.strip()).replace("\\", "/").removeprefix("./")


def _find_images(
    table: _Table, index: _PathIndex, given: str | None
) -> tuple[int, list[list[str]]]:
    """The column of file names, the one that names the most photos, and the paths of each name.

    All names may begin with folders of another machine (/kaggle/input/flowers/rose/1.jpg): what is left
    without them is a whole path then.
    """
    columns = range(len(table.columns)) if given is None else [table.find("image", given)]
    best, most = None, (-1, -1)
    for column in columns:
        names = table.get(column)
        folders = [_compose(name).split("/")[:-1] for name in names if name]
        shared = [first for first, *more in zip(*folders, strict=False) if {first} >= {*more}]
        for num in range(len(shared) + 1):
            start = "".join(f"{folder}/" for folder in shared[:num])
            shorter = [_compose(name).removeprefix(start) for name in names]
            found = [index.find(name, whole=num > 0) if name else [] for name in shorter]
            sure = {paths[0] for paths in found if len(paths) == 1}
            if (rank := (len(sure), sum(map(bool, found)))) > most:
                best, most = (column, found), rank
    # A first line that names a photo has no names of columns, and would be lost.
    if best is None or index.find(table.columns[best[0]]) or len(table.columns) < 2:
        raise table.lacks("of file names, such as 'file'", "image")
    return best


def _read_classes(table: _Table, given: str | None, others: set[int | None]) -> list[str | None]:
    column = table.find("label", given, _LABELS)
    if column is None:
        named = [
            k for k, name in enumerate(table.columns) if name and not name.startswith("Unnamed:")
        ]
        left = [k for k in named if k not in others]
        marks = [k for k in left if {v.casefold() for v in table.get(k)} <= {*_YES, *_NO, ""}]
        if len(marks) > 1 and table.rows:
            names = {k: name_class(table.columns[k]) for k in marks}
            said = [[names[k] for k in marks if v[k].casefold() in _YES] for _, v in table.rows]
            return [each[0] if len(each) == 1 else None for each in said]
        if len(left) != 1 or not table.rows:
            raise table.lacks("of classes, such as 'label'", "label")
        column = left[0]
    classes = [name_class(value).strip() for value in table.get(column)]
    return [None if name.casefold() in ("", *_MISSING) else name for name in classes]


def _read_splits(table: _Table, column: int | None, notes: list[str]) -> list[str | None]:
    if column is None:
        return [None] * len(table.rows)
    name = table.columns[column].casefold()
    values = [value.casefold() for value in table.get(column)]
    said = set(values) - {""}
    if said <= {*_YES, *_NO} and "fold" not in name:
        yes, no = ("test", None) if "test" in name else ("val", "train")
        yes, no = ("train", "val") if "train" in name else (yes, no)
        meaning = dict.fromkeys(_YES, yes) | dict.fromkeys(_NO, no)
    elif said and all(re.fullmatch(r"-?\d+(\.0)?", value) for value in said):
        folds = sorted(set(map(float, said)))
        meaning = {fold: "val" if float(fold) == folds[0] else "train" for fold in said}
        notes.append(
            f"{table.file.name}: fold {folds[0]:g} of the column {table.columns[column]!r} is val, "
            f"the other {len(folds) - 1} are train"
        )
    else:
        meaning = _SPLITS
    for (line, _), value in zip(table.rows, values, strict=True):
        if value and value not in meaning:
            raise ValueError(
                f"{table.file}, line {line}: unknown split {value!r}. Write train, val or test."
            )
    return [meaning.get(value) for value in values]
