"""A csv that says which photo is of which class, and perhaps of which split."""

import csv
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}

_NAME_COLUMNS = (
    "file",
    "filename",
    "file_name",
    "path",
    "filepath",
    "image",
    "image_id",
    "image_name",
    "photo",
    "picture",
    "img",
    "id",
    "name",
)
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "species", "target")
_SPLIT_COLUMNS = ("split", "set", "subset")
_SHOWN = 3


@dataclass(frozen=True)
class Labels:
    """The class and the split by path (class None: an unlabelled photo of the test split)."""

    classes: dict[str, str | None] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class _Row(NamedTuple):
    line: int
    name: str
    label: str
    split: str


def read_labels(labels_csv: str | os.PathLike, paths: Iterable[str]) -> Labels:
    """Match the csv's rows to `paths` (relative, with slashes), and say what does not match.

    The header names the columns: one of file names (file, path, image, id ...), one of classes
    (label, class, species ...), and perhaps `split`. A file name may be a path, or a name that is
    there once, with or without its ending. A file that is not there is noted; a photo without a row,
    or whose rows disagree, is left out.

    Raises FileNotFoundError; ValueError for a file that is no UTF-8 text, lacks a column, names an
    unknown split, or names not one of the photos.
    """
    path = Path(labels_csv).expanduser()
    found, places = Labels(), _index_paths(paths)
    missing, twice, unlabelled = [], [], 0
    for row in _read_rows(path):
        place = places.get(_compose(row.name))
        split = _read_split(path, row)
        if not place:
            missing.append(f"line {row.line}: {row.name}")
        elif not row.label and split != "test":
            unlabelled += 1
        elif place not in found.classes and place not in found.left_out:
            found.classes[place] = row.label or None
            if split:
                found.splits[place] = split
        else:
            twice.append(_settle_twice(found, place, row, split))
    _note(found, path, missing, [text for text in twice if text], unlabelled)
    if not found.classes:
        raise ValueError(
            f"{path} names none of the photos ({_some(missing) or 'it has no rows with a label'}). "
            "Its file names are relative to the folder of photos."
        )
    rest = (place for place in dict.fromkeys(places.values()) if place)
    for place in rest:
        if place not in found.classes:
            found.left_out.setdefault(place, f"it has no label in {path.name}")
    return found


def _settle_twice(found: Labels, place: str, row: _Row, split: str | None) -> str:
    same = found.classes.get(place, "") == (row.label or None)
    if same and found.splits.get(place) == split:
        return f"line {row.line}: {row.name}"
    # Which of the two rows is right, nobody here can know.
    found.classes.pop(place, None)
    found.splits.pop(place, None)
    found.left_out[place] = f"its rows disagree (line {row.line} says {row.label!r})"
    return ""


def _note(found: Labels, path: Path, missing: list, twice: list, unlabelled: int) -> None:
    if missing:
        found.notes.append(
            f"{path.name}: {len(missing):,} rows name no photo that is there ({_some(missing)})"
        )
    if twice:
        found.notes.append(f"{path.name}: {len(twice):,} rows say the same twice ({_some(twice)})")
    if unlabelled:
        found.notes.append(f"{path.name}: {unlabelled:,} rows have no label")


def _some(lines: list[str]) -> str:
    return "; ".join(lines[:_SHOWN]) + ("; ..." if len(lines) > _SHOWN else "")


def _index_paths(paths: Iterable[str]) -> dict[str, str]:
    """Every spelling that means one path: whole, without its ending, or the name alone.

    A spelling that several paths share means none of them, and is kept as "".

    >>> _index_paths(["a/x.jpg", "b/x.jpg"])["x"]
    ''
    """
    places = {_compose(path): path for path in paths}
    for shorten in (
        lambda path: str(path.with_suffix("")),
        lambda path: path.name,
        lambda path: path.stem,
    ):
        shorter = {}
        for path in dict.fromkeys(place for place in places.values() if place):
            key = shorten(PurePosixPath(_compose(path)))
            shorter[key] = "" if key in shorter else path
        places = shorter | places
    return places


def _compose(name: str) -> str:
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    return name.removeprefix("./")


def _read_rows(path: Path) -> Iterable[_Row]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}). Save it as csv in UTF-8."
        ) from None
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}. Pass a csv of names and labels.") from None
    head = lines[0] if lines else ""
    mark = max(",;\t", key=head.count)
    columns = [column.strip().casefold() for column in next(csv.reader([head], delimiter=mark), [])]
    name, label = _find_column(columns, _NAME_COLUMNS), _find_column(columns, _LABEL_COLUMNS)
    split = _find_column(columns, _SPLIT_COLUMNS)
    if name is None or label is None:
        raise ValueError(
            f"{path} has the columns {', '.join(columns) or '(none)'}; wanted one of file names, "
            "such as 'file', and one of classes, such as 'label', named in its first line."
        )
    reader = csv.reader(lines[1:], delimiter=mark)
    for fields in reader:
        if any(map(str.strip, fields)):
            fields += [""] * (len(columns) - len(fields))
            yield _Row(
                reader.line_num + 1,
                fields[name].strip(),
                _compose(fields[label]),
                fields[split].strip() if split is not None else "",
            )


def _find_column(columns: list[str], wanted: tuple[str, ...]) -> int | None:
    return next((columns.index(name) for name in wanted if name in columns), None)


def _read_split(path: Path, row: _Row) -> str | None:
    split = SPLIT_NAMES.get(row.split.casefold())
    if row.split and not split:
        raise ValueError(
            f"{path}, line {row.line}: unknown split {row.split!r}. Write train, val or test."
        )
    return split
