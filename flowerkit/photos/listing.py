"""What a folder of photos holds, by names alone: the photos, their classes, ids and given splits.

A sub folder is a class, and what lies deeper in it belongs to it. Folders that hold the same class
folders are splits, see `tree`; or a csv names the class of each photo. Names are compared and kept in
Unicode's composed form (NFC), because a Mac writes Korean syllables in pieces.
"""

import os
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flowerkit.data import find_alike, find_sizes, sort_class_names
from flowerkit.files import explain_unpacking, near_path
from flowerkit.photos.decisions import decide, is_decisions
from flowerkit.photos.labels import LabelsCsv, find_label, name_class, read_labels, read_pattern
from flowerkit.photos.tree import Part, find_named_splits, find_parts, find_start
from flowerkit.photos.walk import (
    SUFFIXES,
    Photo,
    Walk,
    format_counts,
    name_paths,
    normalize_name,
    walk_photos,
)
from flowerkit.submission import to_id
from flowerkit.text import join_some, pluralize

Folders = str | os.PathLike | Iterable[str | os.PathLike] | None


@dataclass(frozen=True)
class Listing:
    """The photos in order, the classes in the order of their ids, and notes to read.

    `folder` is what the paths are relative to, `roots` are the folders that were walked through;
    `left_out` holds the paths that are photos but cannot be used, with the reason.
    """

    folder: Path
    roots: tuple[Path, ...]
    photos: tuple[Photo, ...]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


def list_photos(
    folder: str | os.PathLike,
    labels_csv: str | os.PathLike | LabelsCsv | None = None,
    label_pattern: str | None = None,
    decisions: str | os.PathLike | None = None,
    *,
    train: Folders = None,
    val: Folders = None,
    test: Folders = None,
) -> Listing:
    """The photos under `folder`, by their names alone; no file is opened but `labels_csv`.

    `train`, `val` and `test` are folders, in `folder` or elsewhere, whose sub folders are classes; with
    `train` nothing else of `folder` is taken. What the names of folders say of splits is found without.

    The csv's first line names the columns: one of file names, which is seen by what it holds, one of
    classes (label, class, species ...) or one for each class with 0 and 1, and perhaps one of splits
    (split, is_valid, fold); a `LabelsCsv` names them where they are called otherwise. A file name is a
    path, or a name that occurs once, with or without its suffix. A photo without a row, or whose rows
    disagree, is left out. `label_pattern` takes the class from the file name instead: its first group.
    `decisions` is a csv of `flowerkit clean`, which then changes labels and leaves photos out.

    Raises FileNotFoundError or NotADirectoryError without folder or csv; ValueError if the folder holds
    shards, no photos or fewer than two classes with clearly different names, if its tree can be read in
    two ways, or for an unclear csv.
    """
    folder = Path(folder).expanduser()
    _check_folder(folder)
    given = _find_given(folder, {"train": train, "val": val, "test": test})
    base, roots = _find_roots(folder, given)
    if labels_csv and label_pattern:
        raise ValueError(
            "labels come from a csv (--labels) or a pattern (--label-pattern). Pass one."
        )
    by_folder = not (labels_csv or label_pattern)
    walk, parts = _walk_roots(base, roots, given, None if by_folder else find_named_splits)
    if labels_csv:
        labels = labels_csv if isinstance(labels_csv, LabelsCsv) else LabelsCsv(labels_csv)
        photos = _label_by_csv(labels, walk, parts)
    elif label_pattern:
        photos = _label_by_pattern(label_pattern, walk, parts)
    else:
        photos = _label_by_folder(folder, walk, parts)
        if list(parts) == [""]:
            _check_copies(folder, photos)
    if any(part.split for part in parts.values()) and not any(p.split == "val" for p in photos):
        # No val split is given, so the training photos give some to it.
        photos = [replace(p, split=None) if p.split == "train" else p for p in photos]
    if decisions:
        photos = _decide(decisions, folder, photos, walk)
    names, photos = _find_classes(folder, photos, walk)
    texts = name_paths(walk.left_out)
    left_out = {texts[path]: reason for path, reason in walk.left_out.items()}
    ids = name_paths((photo.path for photo in photos), to_id)
    photos = tuple(replace(photo, id=ids[photo.path]) for photo in photos)
    return Listing(base, roots, photos, names, tuple(walk.describe()), left_out)


# Folders ------------------------------------------------------------------------------------------


def _check_folder(folder: Path, option: str = "") -> None:
    remedy = explain_unpacking(folder) or (
        "Pass the folder that holds the class folders; `flowerkit draw FOLDER --photos 40` draws one."
    )
    if not folder.exists():
        raise FileNotFoundError(
            f"no folder {folder}{option}. {near_path(folder).strip() or remedy}"
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file{option}. {remedy}")
    if sizes := find_sizes(folder):
        raise ValueError(
            f"{folder} holds shards (tfrecords-jpeg-{sizes[0]}x{sizes[0]}/), not photos. "
            "They need no conversion: train on them with --data."
        )


def _find_given(folder: Path, wanted: Mapping[str, Folders]) -> dict[Path, str]:
    """The split of each folder that was given to one; a relative path may be one in `folder`."""
    splits = {}
    for split, paths in wanted.items():
        if not paths or isinstance(paths, str | os.PathLike):
            paths = [paths] if paths else []
        for path in map(Path, paths):
            path = path.expanduser()
            if not path.exists() and (folder / path).exists():
                path = folder / path
            _check_folder(path, f" ({split}=, --{split})")
            if other := next(filter(path.samefile, splits), None):
                raise ValueError(f"{path} is given as {splits[other]} and as {split}. Pass one.")
            splits[path] = split
    return splits


def _find_roots(folder: Path, given: Mapping[Path, str]) -> tuple[Path, tuple[Path, ...]]:
    """The folder that paths are relative to, and the folders to walk through."""
    roots = (*([] if "train" in given.values() else [folder]), *given)
    absolute = [os.path.abspath(root) for root in roots]
    if os.path.commonpath([os.path.abspath(folder), *absolute]) == os.path.abspath(folder):
        return folder, roots
    return Path(os.path.commonpath(absolute)), roots


def _walk_roots(
    base: Path, roots: Iterable[Path], given: Mapping[Path, str], find_splits: Callable | None
) -> tuple[Walk, dict[str, Part]]:
    """What is in `roots`, and the parts of it by their paths; raises ValueError for no photos."""
    walk, parts = Walk(), {}
    skip = [os.path.realpath(path) for path in given]
    for root in roots:
        above = "/".join(Path(os.path.relpath(root, base)).parts)
        found = walk_photos(root, above, skip)
        walk.add(found)
        paths = [photo.path for photo in found.photos]
        if root in given:
            parts[find_start(above, paths)] = Part(given[root])
            continue
        inside = [path.removeprefix(above).removeprefix("/") for path in paths]
        inner = find_splits(inside) if find_splits else find_parts(root, inside)
        parts |= {f"{above}/{start}".strip("/"): part for start, part in inner.items()}
    if not walk.photos:
        held = f"it holds {format_counts(walk.others)}" if walk.others else "it is empty"
        held = "; ".join([held, *walk.notes])
        shown = " and ".join(map(str, roots))
        raise ValueError(f"no photos under {shown} ({held}). Photos end in {', '.join(SUFFIXES)}.")
    return walk, parts


# Classes by folder --------------------------------------------------------------------------------


def _label_by_folder(folder: Path, walk: Walk, parts: Mapping[str, Part]) -> list[Photo]:
    photos, loose, outside = [], [], []
    origins = defaultdict(dict)
    for photo in walk.photos:
        start, part = _find_part(photo.path, parts)
        if start is None:
            outside.append(photo.path)
            continue
        folders = photo.path[len(start) :].strip("/").split("/")[:-1]
        if part.class_name is not None:
            folders.insert(0, part.class_name)
        if folders:
            name = name_class(folders[0])
            origins[name][unicodedata.normalize("NFC", folders[0])] = folders[0]
            photos.append(replace(photo, class_name=name, split=part.split))
        elif part.split == "test":
            photos.append(replace(photo, split="test"))  # as a competition gives its test photos
        else:
            loose.append(photo.path)
        if len(folders) > 1:
            walk.notes.append(f"photos in {'/'.join(folders)}/ count as {name}")
    walk.notes[:] = dict.fromkeys(walk.notes)
    walk.left_out |= dict.fromkeys(loose, "it is in no class folder")
    starts = join_some([f"{start}/" for start in parts])
    walk.left_out |= dict.fromkeys(outside, f"it is in none of the splits {starts}")
    if not photos:
        raise ValueError(
            f"{folder} holds {pluralize(len(loose), 'photo')}, but none in a sub folder. Make a folder "
            "for each class, pass a csv of file names and labels (labels_csv=, --labels), or a pattern "
            "of the names (label_pattern=, --label-pattern)."
        )
    for name, written in origins.items():
        if len(written) > 1:
            first, second = (os.fsencode(each) for each in list(written.values())[:2])
            raise ValueError(
                f"the folders {first!r} and {second!r} differ, but both read {name!r}. Give both one "
                "name in UTF-8 if they are one class, or clearer names."
            )
    return photos


def _find_part(path: str, parts: Mapping[str, Part]) -> tuple[str | None, Part]:
    """The deepest of the parts that a photo is in, and where it starts; None: it is in none."""
    start = path
    while start:
        start = start.rpartition("/")[0]
        if start in parts:
            return start, parts[start]
    return None, Part(None)


def _check_copies(folder: Path, photos: Iterable[Photo]) -> None:
    """Refuse a class that holds folders named as the other classes: the whole, in a folder once more."""
    inside = defaultdict(set)
    for photo in photos:
        top, *deeper = photo.path.split("/")[:-1]
        inside[top] |= set(deeper[:1])
    for top, inner in inside.items():
        others = set(inside) - {top}
        if len(inner & others) > 1:
            shown = join_some([normalize_name(f"{name}/") for name in sorted(inner & others)], 3)
            whole = shlex.quote(normalize_name(str(folder / top)))
            raise ValueError(
                f"{folder} and {normalize_name(top)}/ in it both hold {shown}: one may be a copy of the "
                f"other. Pass {whole}, or move it out of {folder}."
            )


# Classes by csv -----------------------------------------------------------------------------------


def _label_by_csv(labels: LabelsCsv, walk: Walk, parts: Mapping[str, Part]) -> list[Photo]:
    files, file_name = walk.photos, Path(labels.file).name
    if is_decisions(labels.file):
        raise ValueError(
            f"{labels.file} holds decisions on labels, of `flowerkit clean`, not the labels of all "
            "photos. Pass it as decisions=, or in the command line by another --labels."
        )
    split_of = {photo.path: _find_part(photo.path, parts)[1].split for photo in files}
    found, missing, several, unlabelled = {}, [], [], 0
    for row in read_labels(labels, list(split_of), walk.notes):
        if not row.paths:
            missing.append(f"line {row.line}: {row.name}")
        elif len(row.paths) > 1:
            shown = join_some(list(map(normalize_name, row.paths)), 2, " and ")
            several.append(f"line {row.line}: {row.name} may be {shown}")
        elif not row.class_name and (row.split or split_of[row.paths[0]]) != "test":
            unlabelled += 1
        elif found.setdefault(row.paths[0], row)[3:] != row[3:]:
            reason = f"its rows disagree (line {row.line} says {row.class_name!r})"
            walk.left_out[row.paths[0]] = reason
    for num, fact, rows in (
        (len(missing), "without a photo of this name", missing),
        (len(several), "with a name of several photos, which need their folders", several),
        (unlabelled, "without a label", []),
    ):
        if num:
            some = f" ({join_some(rows, 3, '; ')})" if rows else ""
            walk.notes.append(f"{file_name}: {pluralize(num, 'row')} {fact}{some}")
    photos = []
    for photo in files:
        row, split = found.get(photo.path), split_of[photo.path]
        if row is None and split != "test":
            walk.left_out[photo.path] = f"it has no label in {file_name}"
        elif row is None:
            photos.append(replace(photo, split=split))
        elif photo.path not in walk.left_out:
            photos.append(replace(photo, class_name=row.class_name, split=row.split or split))
    if not photos:
        reason = join_some([*missing, *several], 3, "; ") or "it has no rows with a label"
        raise ValueError(
            f"{labels.file} labels none of the photos ({reason}). Its file names are relative to the "
            "folder of photos."
        )
    return photos


# Classes by a pattern -----------------------------------------------------------------------------


def _label_by_pattern(pattern: str, walk: Walk, parts: Mapping[str, Part]) -> list[Photo]:
    compiled = read_pattern(pattern)
    photos = []
    for photo in walk.photos:
        split = _find_part(photo.path, parts)[1].split
        name = find_label(compiled, photo.path)
        if name or split == "test":
            photos.append(replace(photo, class_name=name, split=split))
        else:
            walk.left_out[photo.path] = f"its name does not match {pattern!r}"
    if not any(photo.class_name for photo in photos):
        raise ValueError(
            f"label_pattern={pattern!r} (--label-pattern) matches no photo, such as "
            f"{walk.photos[0].path!r}. It is searched for in the file name, or in the path if it holds "
            "a slash."
        )
    return photos


def _decide(
    decisions: str | os.PathLike, folder: Path, photos: list[Photo], walk: Walk
) -> list[Photo]:
    """The photos with the labels that were decided; the others are left out."""
    name = Path(decisions).name
    texts = name_paths(photo.path for photo in photos)
    labels = {texts[photo.path]: photo.class_name for photo in photos if photo.class_name}
    classes = dict.fromkeys(labels.values())
    changes = decide(decisions, labels, classes, where=str(folder), by_file=True)
    out = [path for path, text in texts.items() if changes.get(text, "") is None]
    walk.left_out |= dict.fromkeys(out, f"{name} leaves it out")
    if num := len(changes) - len(out):
        walk.notes.append(f"{name}: {pluralize(num, 'label')} changed")
    return [
        replace(photo, class_name=changes.get(texts[photo.path], photo.class_name))
        for photo in photos
        if photo.path not in walk.left_out
    ]


# Checks -------------------------------------------------------------------------------------------


def _find_classes(
    folder: Path, photos: list[Photo], walk: Walk
) -> tuple[tuple[str, ...], list[Photo]]:
    """The class names in order, and the photos: those of a class in test alone have no label."""
    found = sort_class_names({photo.class_name for photo in photos} - {None})
    if alike := find_alike(found):
        raise ValueError(
            f"the classes {alike[0]!r} and {alike[1]!r} differ in case or blanks only, in marks that "
            "do not show, or as one number is written. Give both one name if they are one class, or "
            "clearer names."
        )
    counts = Counter(photo.class_name for photo in photos if photo.split != "test")
    names = tuple(name for name in found if counts[name])
    if names and (alone := [name for name in found if not counts[name]]):
        num = sum(photo.class_name in alone for photo in photos)
        walk.notes.append(
            f"without a label, {pluralize(num, 'photo')} of test, because no photo to learn from is of "
            f"{join_some(alone)}"
        )
        photos = [replace(p, class_name=None) if p.class_name in alone else p for p in photos]
    if len(names) < 2:
        fact = f"{pluralize(len(photos), 'photo')} under {folder}, all of one class, {''.join(names)!r}"
        shared = os.path.commonpath([os.path.dirname(photo.path) for photo in photos])
        inner = {photo.path[len(shared) :].strip("/").split("/")[0] for photo in photos}
        if shared and all("/" in photo.path[len(shared) + 1 :] for photo in photos):
            top = folder / normalize_name(shared)
            raise ValueError(
                f"{fact}. Did you mean {top}, which holds {pluralize(len(inner), 'folder')}?"
            )
        csv = next(iter(sorted(folder.glob("*.[ct]sv"))), None)
        labels = f", or pass the labels (labels_csv=FILE.csv, --labels {csv or 'FILE.csv'})"
        raise ValueError(f"{fact}. A classifier needs two classes: make a folder for each{labels}.")
    counts = Counter(photo.class_name for photo in photos)
    if single := [name for name in names if counts[name] == 1]:
        walk.notes.append(f"classes with one photo, which can only train: {join_some(single)}")
    return names, photos
