"""What a folder of photos holds: which files are photos, their classes, ids and given splits.

A sub folder is a class, and what lies deeper in it belongs to it. Folders named train, val and test
that hold class folders are splits; or a csv says which photo is what (`photo_labels`). Names are
compared and kept in Unicode's composed form (NFC), for a Mac writes Korean syllables in pieces.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from flowerkit.data.tfrecords import find_sizes
from flowerkit.photos.labels import SPLIT_NAMES, read_labels

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
    *HEIC_SUFFIXES,
)
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_QUIET_FILES = ("thumbs.db", "desktop.ini")
_QUIET_FOLDERS = ("__macosx", "@eadir")
_SHOWN = 5


@dataclass(frozen=True)
class Photo:
    """A file that should be a photo.

    `path` is as on the disk, relative to the folder, with slashes; `id` the same to read, unique and
    fit for a csv; `class_name` is None for an unlabelled one of the test split; `split` None where
    nobody has said; `changed_ns` is the file's time of change.
    """

    path: str
    id: str
    class_name: str | None
    split: str | None
    num_bytes: int
    changed_ns: int


@dataclass(frozen=True)
class Listing:
    """The photos in order, the classes in the order of their ids, and what there is to say.

    `left_out` holds the paths that are photos but cannot be used, with the reason.
    """

    photos: tuple[Photo, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass
class _Walk:
    """What a walk through the folders meets beside photos."""

    other: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def list_photos(folder: str | os.PathLike, labels_csv: str | os.PathLike | None = None) -> Listing:
    """The photos under `folder`, by their names alone; nothing is opened but `labels_csv`.

    Raises FileNotFoundError or NotADirectoryError if there is no such folder; ValueError if it is an
    archive or holds shards, if there are no photos, fewer than two classes, or classes whose names
    differ in case or blanks only, and where the csv cannot be understood.
    """
    folder = Path(folder).expanduser()
    _check_folder(folder)
    walk = _Walk()
    files = list(_find_photos(folder, walk))
    if not files:
        raise ValueError(_describe_emptiness(folder, walk))
    if labels_csv:
        photos = _label_by_csv(files, Path(labels_csv), walk)
    else:
        photos = _label_by_folder(folder, files, walk)
    names = _settle_classes(folder, photos, walk)
    if not labels_csv:
        _note_empty_folders(folder, names, walk)
    if walk.other:
        walk.notes.append(f"files that are no photos, passed over: {_tell_counts(walk.other)}")
    return Listing(tuple(_set_ids(photos)), names, tuple(walk.notes), walk.left_out)


def holds_photos(folder: str | os.PathLike) -> bool:
    """Whether `folder` is one of photos: a sub folder of it, at any depth, holds a photo."""
    folder = Path(folder)
    if not folder.is_dir() or find_sizes(folder):
        return False
    return any("/" in photo.path for photo in _find_photos(folder, _Walk()))


def _check_folder(folder: Path) -> None:
    if folder.is_file() and folder.suffix.lower() in _ARCHIVES:
        target = folder.with_suffix("").with_suffix("")
        how = f"python -m zipfile -e {folder} {target}" if folder.suffix.lower() == ".zip" else ""
        how = how or f"tar -xf {folder}"
        raise ValueError(f"{folder} is an archive. Unpack it and pass the folder: {how}")
    if not folder.exists():
        raise FileNotFoundError(
            f"no folder {folder}. Pass the folder that holds the class folders."
        )
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is a file. Pass the folder that holds the class folders."
        )
    if sizes := find_sizes(folder):
        raise ValueError(
            f"{folder} holds shards (tfrecords-jpeg-{sizes[0]}x{sizes[0]}/), not photos. "
            "They need no conversion: train on them with --data."
        )


def _describe_emptiness(folder: Path, walk: _Walk) -> str:
    held = f"it holds {_tell_counts(walk.other)}" if walk.other else "it is empty"
    more = "".join(f"; {note}" for note in walk.notes)
    return f"no photos under {folder} ({held}{more}). Photos end in {', '.join(SUFFIXES)}."


def _tell_counts(counts: Counter) -> str:
    shown = [f"{count:,} {suffix}" for suffix, count in counts.most_common(_SHOWN)]
    return ", ".join(shown) + (", ..." if len(counts) > _SHOWN else "")


def tell_some(names: list[str]) -> str:
    """A few of the names, and how many there are more.

    >>> tell_some(["a", "b"]), tell_some(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


# Walking ------------------------------------------------------------------------------------------


def _find_photos(folder: Path, walk: _Walk, above: str = "", seen=()) -> Iterator[Photo]:
    """Every photo in and under `folder`, by name; links are followed, but never in a circle."""
    here = os.path.realpath(folder)
    if here in seen:
        walk.notes.append(f"{above} is a link to a folder above it, and is not followed")
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: spell(entry.name))
    except OSError as error:
        walk.notes.append(f"{above or folder} cannot be opened ({error.strerror})")
        return
    for entry in entries:
        path = f"{above}/{entry.name}" if above else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.name.lower() not in _QUIET_FOLDERS:
                yield from _find_photos(Path(entry.path), walk, path, (*seen, here))
        elif entry.name.lower() not in _QUIET_FILES:
            yield from _look_at(entry, path, walk)


def _look_at(entry: os.DirEntry, path: str, walk: _Walk) -> Iterator[Photo]:
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix not in SUFFIXES:
        walk.other[suffix or "without an ending"] += 1
        return
    try:
        status = entry.stat()
    except OSError as error:  # a link to nothing
        walk.left_out[path] = f"cannot be opened ({error.strerror})"
        return
    yield Photo(path, path, None, None, status.st_size, status.st_mtime_ns)


def spell(name: str) -> str:
    """A file name as text: composed (NFC), and bytes that are no UTF-8 as the replacement character.

    >>> spell("\\u1100\\u1161") == "\\uac00"
    True
    """
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


# Classes ------------------------------------------------------------------------------------------


def _label_by_csv(files: list[Photo], labels_csv: Path, walk: _Walk) -> list[Photo]:
    found = read_labels(labels_csv, [photo.path for photo in files])
    walk.notes += found.notes
    walk.left_out.update(found.left_out)
    return [
        replace(photo, class_name=found.classes[photo.path], split=found.splits.get(photo.path))
        for photo in files
        if photo.path in found.classes
    ]


def _label_by_folder(folder: Path, files: list[Photo], walk: _Walk) -> list[Photo]:
    splits = _find_split_folders(folder, files)
    photos, loose = [], []
    for photo in files:
        *folders, _ = photo.path.split("/")
        split = splits.get(folders.pop(0)) if splits and folders else None
        if folders:
            photos.append(replace(photo, class_name=spell(folders[0]), split=split))
        elif split == "test":
            photos.append(replace(photo, split=split))  # as a competition gives its test photos
        else:
            loose.append(photo.path)
        if len(folders) > 1:
            walk.notes.append(f"photos in {'/'.join(folders)}/ count as {spell(folders[0])}")
    walk.notes[:] = dict.fromkeys(walk.notes)
    walk.left_out.update(dict.fromkeys(loose, "it stands in no class folder"))
    if not photos:
        raise ValueError(
            f"{folder} holds {len(loose):,} photos, but none in a sub folder. Make a folder for each "
            "class, or pass a csv of file names and labels (labels_csv=, --labels)."
        )
    return photos if not splits else _free_what_is_missing(photos)


def _find_split_folders(folder: Path, files: list[Photo]) -> dict[str, str]:
    """The top folders as splits, if all of them are named so and train holds class folders."""
    tops = {photo.path.split("/")[0] for photo in files if "/" in photo.path}
    splits = {top: SPLIT_NAMES.get(top.lower()) for top in tops}
    if None in splits.values() or "train" not in splits.values():
        return {}
    trains = [top for top, split in splits.items() if split == "train"]
    deep = any(p.path.split("/")[0] in trains and p.path.count("/") > 1 for p in files)
    return splits if deep else {}


def _free_what_is_missing(photos: list[Photo]) -> list[Photo]:
    """Without val photos, the training photos are there to give some: nobody said which."""
    if any(photo.split == "val" for photo in photos):
        return photos
    return [replace(photo, split=None) if photo.split == "train" else photo for photo in photos]


def _settle_classes(folder: Path, photos: list[Photo], walk: _Walk) -> tuple[str, ...]:
    counts = Counter(photo.class_name for photo in photos if photo.class_name is not None)
    names = tuple(sorted(counts))
    _refuse_likenesses(names)
    if len(names) < 2:
        raise ValueError(_describe_one_class(folder, photos, names))
    if single := [name for name in names if counts[name] == 1]:
        walk.notes.append(f"classes with one photo, which can only train: {tell_some(single)}")
    _note_merged(photos, walk)
    return names


def _refuse_likenesses(names: tuple[str, ...]) -> None:
    first = {}
    for name in names:
        other = first.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            raise ValueError(
                f"the classes {other!r} and {name!r} differ in case or blanks only. "
                "Give both one name if they are one class, or clearer names."
            )


def _describe_one_class(folder: Path, photos: list[Photo], names: tuple[str, ...]) -> str:
    name = names[0] if names else None
    fact = f"all {len(photos):,} photos under {folder} are of one class, {name!r}"
    inner = {p.path.split("/")[1] for p in photos if p.path.count("/") > 1}
    if len(inner) > 1:
        top = folder / photos[0].path.split("/")[0]
        return f"{fact}. Did you mean {top}, which holds {len(inner)} folders?"
    return f"{fact}. A classifier needs two classes or more: make a folder for each."


def _note_merged(photos: list[Photo], walk: _Walk) -> None:
    written = {}
    for photo in photos:
        for part in photo.path.split("/")[:-1]:
            written.setdefault(spell(part), set()).add(part)
    for name, ways in sorted(written.items()):
        if len(ways) > 1:
            walk.notes.append(f"{len(ways)} folders are {name!r} in other Unicode forms: one class")


def _note_empty_folders(folder: Path, names: tuple[str, ...], walk: _Walk) -> None:
    folders = (entry.name for entry in folder.iterdir() if entry.is_dir())
    unused = [spell(name) for name in folders if name[0] != "." and spell(name) not in names]
    quiet = (*_QUIET_FOLDERS, *SPLIT_NAMES)
    if unused := sorted(name for name in unused if name.lower() not in quiet):
        walk.notes.append(f"folders without photos of a class: {tell_some(unused)}")


# Ids ----------------------------------------------------------------------------------------------


def _set_ids(photos: list[Photo]) -> Iterator[Photo]:
    used = set()
    for photo in photos:
        stem, suffix = os.path.splitext(make_id(photo.path))
        id, number = stem + suffix, 2
        while id in used:  # two paths that differ in their Unicode form, or in a comma
            id, number = f"{stem}-{number}{suffix}", number + 1
        used.add(id)
        yield replace(photo, id=id)


def make_id(path: str) -> str:
    """A path as an id: composed, and without what cannot stand in a csv.

    >>> make_id('daisy/a, "b".jpg')
    'daisy/a_ _b_.jpg'
    """
    marks = dict.fromkeys(map(ord, ',"\r\n\t'), "_")
    return spell(path).translate(marks).strip()
