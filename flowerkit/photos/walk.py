"""One walk through a folder of photos, for whoever converts it and for whoever classifies it.

Photos are told by the endings of their names. Links are followed, but never in a circle; what systems
leave behind is passed over; what cannot be opened is kept, with the reason.
"""

import itertools
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flowerkit.text import join_some, readable

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
    *HEIC_SUFFIXES,
)

_SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
# Of macOS, Windows, Linux, Android, and of the disks of Synology and QNAP; hidden ones have a dot.
_SYSTEM_FOLDERS = (
    *("__macosx", "$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),
    *("lost+found", "lost.dir", "@eadir", "#recycle", "#snapshot", "@recycle", "@thumb", "thumbs"),
    *("@recently-snapshot", "thumbnails", "__pycache__", "windowsapps", "ipod photo cache"),
)


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


@dataclass
class Walk:
    """What is in a folder: `photos`, and by path in `left_out` why a photo cannot be opened.

    `others` counts files that are no photos by their suffix, `junk` has the names of folders that
    systems leave, `empty` the paths of those without a photo; `notes` are for a person to read.
    """

    photos: list[Photo] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    others: Counter = field(default_factory=Counter)
    junk: dict[str, None] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """Every photo, in order, those that cannot be opened too."""
        paths = [photo.path for photo in self.photos]
        return sorted([*paths, *self.left_out], key=_sort_key) if self.left_out else paths

    def add(self, other: "Walk") -> None:
        """What another walk found, behind this one."""
        self.photos += other.photos
        self.left_out |= other.left_out
        self.others += other.others
        self.junk |= other.junk
        self.empty += other.empty
        self.notes += other.notes

    def describe(self) -> list[str]:
        """The notes, and what was passed over or is not UTF-8, in words."""
        notes = [*self.notes, *_describe_encodings(self.paths)]
        if self.empty:
            notes.append(f"folders without a photo, passed over: {join_some(self.empty)}")
        if self.junk:
            notes.append(f"folders that systems leave, passed over: {join_some(list(self.junk))}")
        if self.others:
            notes.append(f"files that are no photos, passed over: {format_counts(self.others)}")
        return list(map(normalize_name, notes))


def walk_photos(folder: str | os.PathLike, above: str = "", skip: Collection[str] = ()) -> Walk:
    """Every photo in and under `folder`, sorted by path, and what else is there.

    Paths are relative to `folder`, with `above` in front; the folders in it whose real paths are
    in `skip` are not entered.
    """
    walk = Walk()
    walk.photos += _walk(Path(folder), walk, above, (), skip)
    return walk


def find_photos(folder: str | os.PathLike) -> Iterator[str]:
    """The paths of the photos in and under `folder`, relative to it, while they are found."""
    return (photo.path for photo in _walk(Path(folder), Walk()))


def normalize_name(name: str) -> str:
    """A file name as text: readable, and composed (NFC), because a Mac writes Korean in pieces.

    >>> normalize_name("\\u1100\\u1161") == "\\uac00"
    True
    """
    return unicodedata.normalize("NFC", readable(name))


def name_paths(paths: Iterable[str], fit: Callable[[str], str] = str.strip) -> dict[str, str]:
    """Each path as text that `fit` makes of it; no text is that of two paths.

    >>> from flowerkit.submission import to_id
    >>> name_paths(["a/1.jpg", "b,/1.jpg", "b_/1.jpg"], to_id)
    {'a/1.jpg': 'a/1.jpg', 'b,/1.jpg': 'b_/1.jpg', 'b_/1.jpg': 'b_/1-2.jpg'}
    """
    used, texts = set(), {}
    for path in paths:
        text = name = fit(normalize_name(path))
        for number in itertools.count(2):
            if text not in used:
                break
            text = f"-{number}".join(os.path.splitext(name))
        used.add(text)
        texts[path] = text
    return texts


def _describe_encodings(paths: Iterable[str]) -> list[str]:
    """Which names in the paths are not UTF-8, and as what they were read."""
    korean, unknown = {}, {}  # what is shown by the name
    for name in {part: None for path in paths for part in path.split("/")}:
        text = readable(name)
        if name != text:
            is_korean = os.fsencode(name) == text.encode("cp949", "ignore")
            (korean if is_korean else unknown)[name] = normalize_name(name)
    notes = []
    if korean:
        shown = join_some(list(korean.values()), 3)
        notes.append(f"names that are not UTF-8, read as CP949, Korean from Windows: {shown}")
    if unknown:
        shown = join_some(list(unknown.values()), 3)
        notes.append(
            f"names that are not UTF-8, read in no known encoding, with their bytes: {shown}"
        )
    return notes


def format_counts(counts: Counter) -> str:
    """The counts of suffixes, the most frequent first."""
    return join_some([f"{count:,} {suffix}" for suffix, count in counts.most_common()])


def _sort_key(path: str) -> list[tuple[str, str]]:
    return [(normalize_name(part), part) for part in path.split("/")]


def _walk(
    folder: Path,
    walk: Walk,
    above: str = "",
    seen: tuple[str, ...] = (),
    skip: Collection[str] = (),
) -> Generator[Photo, None, bool]:
    """Every photo; the value at the end: whether there are any, or the folder was not entered."""
    here = os.path.realpath(folder)
    if here in seen:
        walk.notes.append(f"{above} is a link to a folder above it, and is not followed")
        return True
    if seen and here in skip:
        return True
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: _sort_key(entry.name))
    except OSError as error:
        walk.notes.append(f"{above or folder} cannot be opened ({error.strerror})")
        return True
    has_photos = False
    for entry in entries:
        path = f"{above}/{entry.name}" if above else entry.name
        name, suffix = entry.name.lower(), os.path.splitext(entry.name)[1].lower()
        if name[0] == ".":
            continue
        try:
            status, reason = os.stat(entry.path), "it is no file of bytes"
        except OSError as error:  # a link to nothing, or to itself
            status, reason = None, f"cannot be opened ({error.strerror})"
        if status and stat.S_ISDIR(status.st_mode):
            if name in _SYSTEM_FOLDERS:
                walk.junk[entry.name] = None
            else:
                has_photos |= yield from _walk(Path(entry.path), walk, path, (*seen, here), skip)
        elif suffix not in SUFFIXES:
            if name not in _SYSTEM_FILES:
                walk.others[suffix or "without a suffix"] += 1
        else:
            has_photos = True
            if status and stat.S_ISREG(status.st_mode):
                yield Photo(path, path, None, None, status.st_size, status.st_mtime_ns)
            else:
                walk.left_out[path] = reason
    if seen and not has_photos:
        walk.empty = [path for path in walk.empty if not path.startswith(f"{above}/")] + [above]
    return has_photos
