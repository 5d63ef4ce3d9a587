"""What a folder of photos holds, by names alone: the photos, their classes, ids and given splits.

A sub folder is a class, and what lies deeper in it belongs to it. Folders named train, val and test
that hold class folders are splits; or a csv names the class of each photo. Names are compared and kept
in Unicode's composed form (NFC), because a Mac writes Korean syllables in pieces.
"""

import csv
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flowerkit.data import find_sizes
from flowerkit.submission import to_id
from flowerkit.text import join_some

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    *HEIC_SUFFIXES,
)

_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_SYSTEM_FOLDERS = ("__macosx", "@eadir")
_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
} | dict.fromkeys(("val", "valid", "validation", "dev"), "val")
_NAME_COLUMNS = (
    *("file", "filename", "file_name", "path", "filepath", "image", "image_id", "image_name"),
    *("photo", "picture", "img", "id", "name"),
)
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "species", "target")
_SPLIT_COLUMNS = ("split", "set", "subset")


@dataclass(frozen=True)
class Photo:
    """A file that should be a photo.

    `path` is as on the disk, relative to the folder, with slashes; `id` is the same as readable text,
    unique and fit for a csv; `class_name` is None for an unlabelled photo of the test split; `split`
    is None where none is given.
    """

    path: str
    id: str
    class_name: str | None
    split: str | None
    num_bytes: int
    changed_ns: int


@dataclass(frozen=True)
class Listing:
    """The photos in order, the classes in the order of their ids, and notes to read.

    `left_out` holds the paths that are photos but cannot be used, with the reason.
    """

    photos: tuple[Photo, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass
class _Walk:
    """What a walk through the folders meets beside photos; `others` counts files by suffix."""

    others: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def list_photos(folder: str | os.PathLike, labels_csv: str | os.PathLike | None = None) -> Listing:
    """The photos under `folder`, by their names alone; no file is opened but `labels_csv`.

    The csv's first line names the columns: one of file names (file, path, image, id ...), one of
    classes (label, class, species ...), and perhaps `split`. A file name is a path, or a name that
    occurs once, with or without its suffix. A photo without a row, or whose rows disagree, is left out.

    Raises FileNotFoundError or NotADirectoryError without folder or csv; ValueError if the folder holds
    shards, no photos or fewer than two classes with clearly different names, or for an unclear csv.
    """
    folder = Path(folder).expanduser()
    _check_folder(folder)
    walk = _Walk()
    files = list(_find_photos(folder, walk))
    if not files:
        held = f"it holds {_format_counts(walk.others)}" if walk.others else "it is empty"
        held = "; ".join([held, *walk.notes])
        raise ValueError(f"no photos under {folder} ({held}). Photos end in {', '.join(SUFFIXES)}.")
    if labels_csv:
        photos = _label_by_csv(files, Path(labels_csv).expanduser(), walk)
    else:
        photos = _label_by_folder(folder, files, walk)
    names = _find_classes(folder, photos, walk)
    if walk.others:
        walk.notes.append(f"files that are no photos, passed over: {_format_counts(walk.others)}")
    notes = tuple(map(normalize_name, walk.notes))
    left_out = {normalize_name(path): reason for path, reason in walk.left_out.items()}
    return Listing(tuple(_set_ids(photos)), names, notes, left_out)


def find_photos(folder: str | os.PathLike) -> Iterator[str]:
    """The paths of the photos in and under `folder`, relative to it, sorted."""
    return (photo.path for photo in _find_photos(Path(folder), _Walk()))


def _check_folder(folder: Path) -> None:
    remedy = "Pass the folder that holds the class folders (unpack an archive first)."
    if not folder.exists():
        raise FileNotFoundError(f"no folder {folder}. {remedy}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file. {remedy}")
    if sizes := find_sizes(folder):
        raise ValueError(
            f"{folder} holds shards (tfrecords-jpeg-{sizes[0]}x{sizes[0]}/), not photos. "
            "They need no conversion: train on them with --data."
        )


def _format_counts(counts: Counter) -> str:
    return join_some([f"{count:,} {suffix}" for suffix, count in counts.most_common()])


def normalize_name(name: str) -> str:
    """A file name as text: composed (NFC), bytes that are not UTF-8 as the replacement character.

    >>> normalize_name("\\u1100\\u1161") == "\\uac00"
    True
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


# Walking ------------------------------------------------------------------------------------------


def _find_photos(folder: Path, walk: _Walk, above: str = "", seen=()) -> Iterator[Photo]:
    """Every photo in and under `folder`, by name; links are followed, but never in a circle."""
    here = os.path.realpath(folder)
    if here in seen:
        walk.notes.append(f"{above} is a link to a folder above it, and is not followed")
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: normalize_name(entry.name))
    except OSError as error:
        walk.notes.append(f"{above or folder} cannot be opened ({error.strerror})")
        return
    for entry in entries:
        path = f"{above}/{entry.name}" if above else entry.name
        name, suffix = entry.name.lower(), os.path.splitext(entry.name)[1].lower()
        if name[0] == ".":
            continue
        if entry.is_dir():
            if name not in _SYSTEM_FOLDERS:
                yield from _find_photos(Path(entry.path), walk, path, (*seen, here))
        elif suffix in SUFFIXES:
            try:
                status = entry.stat()
            except OSError as error:  # a link to nothing
                walk.left_out[path] = f"cannot be opened ({error.strerror})"
            else:
                yield Photo(path, path, None, None, status.st_size, status.st_mtime_ns)
        elif name not in _SYSTEM_FILES:
            walk.others[suffix or "without a suffix"] += 1


# Classes by folder --------------------------------------------------------------------------------


def _label_by_folder(folder: Path, files: list[Photo], walk: _Walk) -> list[Photo]:
    splits = _find_split_folders(files)
    photos, loose = [], []
    for photo in files:
        *folders, _ = photo.path.split("/")
        split = splits.get(folders.pop(0)) if splits and folders else None
        if folders:
            photos.append(replace(photo, class_name=normalize_name(folders[0]), split=split))
        elif split == "test":
            photos.append(replace(photo, split=split))  # as a competition gives its test photos
        else:
            loose.append(photo.path)
        if len(folders) > 1:
            top = normalize_name(folders[0])
            walk.notes.append(f"photos in {'/'.join(folders)}/ count as {top}")
    walk.notes[:] = dict.fromkeys(walk.notes)
    walk.left_out.update(dict.fromkeys(loose, "it is in no class folder"))
    if not photos:
        raise ValueError(
            f"{folder} holds {len(loose):,} photos, but none in a sub folder. Make a folder for each "
            "class, or pass a csv of file names and labels (labels_csv=, --labels)."
        )
    if splits and not any(photo.split == "val" for photo in photos):
        # No val split is given, so the training photos give some to it.
        return [replace(p, split=None) if p.split == "train" else p for p in photos]
    return photos


def _find_split_folders(files: list[Photo]) -> dict[str, str]:
    """The top folders as splits, if all of them are named so and train holds class folders."""
    tops = {photo.path.split("/")[0] for photo in files if "/" in photo.path}
    splits = {top: _SPLITS.get(top.lower()) for top in tops}
    deep = {photo.path.split("/")[0] for photo in files if photo.path.count("/") > 1}
    if None in splits.values() or "train" not in {splits[top] for top in deep}:
        return {}
    return splits


# Classes by csv -----------------------------------------------------------------------------------


class _Row(NamedTuple):
    line: int
    name: str
    class_name: str | None
    split: str | None


def _label_by_csv(files: list[Photo], labels_csv: Path, walk: _Walk) -> list[Photo]:
    path_of = _index_paths(photo.path for photo in files)
    found, missing, unlabelled = {}, [], 0
    for row in _read_rows(labels_csv):
        path = path_of.get(_compose(row.name))
        if not path:
            missing.append(f"line {row.line}: {row.name}")
        elif not row.class_name and row.split != "test":
            unlabelled += 1
        elif found.setdefault(path, row)[2:] != row[2:]:
            walk.left_out[path] = f"its rows disagree (line {row.line} says {row.class_name!r})"
    if missing:
        walk.notes.append(
            f"{labels_csv.name}: {len(missing):,} rows name no photo that is there "
            f"({join_some(missing, 3, '; ')})"
        )
    if unlabelled:
        walk.notes.append(f"{labels_csv.name}: {unlabelled:,} rows have no label")
    photos = []
    for photo in files:
        if photo.path not in found:
            walk.left_out[photo.path] = f"it has no label in {labels_csv.name}"
        elif photo.path not in walk.left_out:
            row = found[photo.path]
            photos.append(replace(photo, class_name=row.class_name, split=row.split))
    if not photos:
        reason = join_some(missing, 3, "; ") or "it has no rows with a label"
        raise ValueError(
            f"{labels_csv} labels none of the photos ({reason}). Its file names are relative to the "
            "folder of photos."
        )
    return photos


def _index_paths(paths: Iterable[str]) -> dict[str, str]:
    """Every spelling that means one path: whole, without its suffix, or the name alone.

    A spelling that several paths share means none of them, and is kept as "".

    >>> _index_paths(["a/x.jpg", "b/x.jpg"])["x"]
    ''
    """
    index = {_compose(path): path for path in paths}
    for shorten in (
        lambda path: str(path.with_suffix("")),
        lambda path: path.name,
        lambda path: path.stem,
    ):
        shorter = {}
        for path in {path for path in index.values() if path}:
            key = shorten(PurePosixPath(_compose(path)))
            shorter[key] = "" if key in shorter else path
        index = shorter | index
    return index


def _compose(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).replace("\\", "/").removeprefix("./")


def _read_rows(file: Path) -> Iterator[_Row]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 text (byte {error.start}). Save it as csv in UTF-8."
        ) from None
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {file}. Pass a csv of names and labels.") from None
    head = lines[0] if lines else ""
    mark = max(",;\t", key=head.count)
    columns = [column.strip().casefold() for column in next(csv.reader([head], delimiter=mark), [])]
    name, label, split = (
        next((column for column in known if column in columns), None)
        for known in (_NAME_COLUMNS, _LABEL_COLUMNS, _SPLIT_COLUMNS)
    )
    if name is None or label is None:
        raise ValueError(
            f"{file} has the columns {', '.join(columns) or '(none)'}; it needs one of file names, "
            "such as 'file', and one of classes, such as 'label', named in its first line."
        )
    reader = csv.DictReader(lines[1:], columns, delimiter=mark, restval="")
    for fields in reader:
        if not fields[name].strip() and not fields[label].strip():
            continue
        text, line = fields[split].strip() if split else "", reader.line_num + 1
        if text and text.casefold() not in _SPLITS:
            raise ValueError(
                f"{file}, line {line}: unknown split {text!r}. Write train, val or test."
            )
        class_name = unicodedata.normalize("NFC", fields[label].strip())
        yield _Row(line, fields[name].strip(), class_name or None, _SPLITS.get(text.casefold()))


# Checks and ids -----------------------------------------------------------------------------------


def _find_classes(folder: Path, photos: list[Photo], walk: _Walk) -> tuple[str, ...]:
    counts = Counter(photo.class_name for photo in photos if photo.class_name is not None)
    names = tuple(sorted(counts))
    first = {}
    for name in names:
        earlier = first.setdefault(" ".join(name.casefold().split()), name)
        if earlier != name:
            raise ValueError(
                f"the classes {earlier!r} and {name!r} differ in case or blanks only. "
                "Give both one name if they are one class, or clearer names."
            )
    if len(names) < 2:
        fact = f"all {len(photos):,} photos under {folder} are of one class, {''.join(names)!r}"
        inner = {photo.path.split("/")[1] for photo in photos if photo.path.count("/") > 1}
        if len(inner) > 1:
            top = folder / photos[0].path.split("/")[0]
            raise ValueError(f"{fact}. Did you mean {top}, which holds {len(inner)} folders?")
        raise ValueError(f"{fact}. A classifier needs two classes: make a folder for each.")
    if single := [name for name in names if counts[name] == 1]:
        walk.notes.append(f"classes with one photo, which can only train: {join_some(single)}")
    return names


def _set_ids(photos: list[Photo]) -> Iterator[Photo]:
    """The photos with ids: their paths, composed, without what a csv cannot hold, none twice."""
    used = set()
    for photo in photos:
        id = path = to_id(normalize_name(photo.path))
        for number in itertools.count(2):
            if id not in used:
                break
            id = f"-{number}".join(os.path.splitext(path))
        used.add(id)
        yield replace(photo, id=id)
