"""What a score must not hang on: pictures that stand in two splits, or under two labels.

A picture that is trained on and measured by is remembered, not recognised. It may carry the same id,
the same JPEG bytes, or only look the same (`fingerprints`). An external set, as the notebooks of the
top added it to the training shards, leaks where it holds pictures of val or test.
"""

import csv
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowerkit.data.duplicates import (
    THUMBNAIL_PX,
    find_near_pairs,
    match_values,
    picture_hash,
    thumbnail,
)
from flowerkit.data.split import Split, load_split
from flowerkit.data.tfrecords import SPLITS, FlowerData, check_counts, count_in_name
from flowerkit.files import replacing

EXTERNAL = "external"
KINDS = ("same id", "near duplicate", "same bytes")  # what is found twice gets the last

_BLOCK = 64

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Place:
    """Where a picture is; `split` is train, val, test or external, `label` None in an unlabelled one.

    >>> print(Place("val", Path("d/val/03-224x224-462.tfrec"), 118, "a1b2", 4))
    val/03-224x224-462.tfrec, record 118 (id a1b2, label 4)
    """

    split: str
    file: Path
    record: int
    id: str
    label: int | None

    def __str__(self) -> str:
        within = f"{self.file.parent.name}/{self.file.name}"
        within = f"{self.split}: {within}" if self.split == EXTERNAL else within
        label = "" if self.label is None else f", label {self.label}"
        return f"{within}, record {self.record} (id {self.id}{label})"


@dataclass(frozen=True)
class DuplicatePair:
    """Two records of one picture; `kind` is one of KINDS.

    `distance` in bits of 64 and `similarity` up to 1, as in `fingerprints`; None for a shared id.
    """

    kind: str
    one: Place
    other: Place
    distance: int | None
    similarity: float | None

    @property
    def crosses(self) -> bool:
        """Whether it stands on two sides of a measurement: external is on the side of train."""
        sides = {"train" if p.split == EXTERNAL else p.split for p in (self.one, self.other)}
        return len(sides) > 1

    @property
    def has_two_labels(self) -> bool:
        """Whether the two are labelled, and not alike."""
        labels = {self.one.label, self.other.label}
        return None not in labels and len(labels) > 1

    def __str__(self) -> str:
        near = ""
        if self.kind == "near duplicate":
            near = f", {self.distance} bits apart, similarity {self.similarity:.3f}"
        return f"{self.kind}{near}: {self.one} and {self.other}"


@dataclass(frozen=True)
class LeakReport:
    """What was found. `counts` are the pictures of each split, by the shards' names.

    `problems` are lines for what spoils a measurement, `notes` for what is good to know; `shared`
    are all pairs of records of one picture, those inside a split too.
    """

    counts: dict[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    shared: tuple[DuplicatePair, ...]


def find_leaks(
    data: FlowerData,
    *,
    external: FlowerData | None = None,
    near: bool = True,
    progress: Progress | None = None,
) -> LeakReport:
    """Look for pictures on two sides of `data`, and of `external`, which would be trained on as well.

    Problems are: shards that are cut off or hold another number than their names say (then nothing
    is compared), pictures that stand in two splits or under two labels, classes without a training
    picture. With near=False nothing is decoded, and only ids and bytes are compared. In memory are
    about a kilobyte a picture and a block of decoded ones. `progress(what, done, total)`.

    Raises ValueError for a damaged record, with its file and number, or if there is no picture.
    """
    sources = [(split, data, split) for split in SPLITS]
    if external:
        sources += [(EXTERNAL, external, split) for split in SPLITS]
    counts = Counter()
    for name, one, split in sources:
        counts[name] += one.counts[split]
    if not counts.total():
        raise ValueError(f"{data.folder} holds no pictures. Pass a folder with filled shards.")
    faults = [
        f"{fault.file.parent.name}/{fault}"
        for _, one, split in sources
        for fault in check_counts(one.files[split])
    ]
    if faults:
        notes = ("nothing was compared: repair the shards first",)
        return LeakReport(dict(counts), tuple(faults), notes, ())
    progress = progress or (lambda what, done, total: None)
    pictures = _read_pictures(sources, near, lambda n: progress("pictures", n, counts.total()))
    shared = tuple(_find_shared(pictures, near))
    problems, notes = _judge_classes(pictures, data.class_names)
    told = tuple(map(_tell_problem, filter(_is_problem, shared)))
    return LeakReport(dict(counts), told + problems, _count_shared(shared) + notes, shared)


def write_pairs(path: str | os.PathLike, report: LeakReport) -> None:
    """All of `report.shared` as a csv, a pair a line, problems first."""
    places = ("split", "file", "record", "id", "label")
    head = ["kind", "distance", "similarity", "crosses"]
    head += [f"{name}_{side}" for side in (1, 2) for name in places]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(head)
        for pair in list_by_weight(report):
            similarity = "" if pair.similarity is None else f"{pair.similarity:.4f}"
            row = [
                pair.kind,
                "" if pair.distance is None else pair.distance,
                similarity,
                pair.crosses,
            ]
            for place in (pair.one, pair.other):
                label = "" if place.label is None else place.label
                row += [place.split, place.file.name, place.record, place.id, label]
            rows.writerow(row)


def list_by_weight(report: LeakReport) -> list[DuplicatePair]:
    """All pairs, those that are problems first, and of these the surest first."""
    return sorted(
        report.shared,
        key=lambda pair: (not _is_problem(pair), -KINDS.index(pair.kind), -(pair.similarity or 0)),
    )


# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Pictures:
    """One row a picture, split after split: `splits`, `ids` (n,) str, `labels` (n,) int32 with -1 for
    none, `digests` (n,) int64, `hashes` and `thumbnails` as in `fingerprints`, or empty."""

    files: list[Path]
    splits: np.ndarray
    file_of: np.ndarray
    records: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    digests: np.ndarray
    hashes: np.ndarray
    thumbnails: np.ndarray

    def place(self, row: int) -> Place:
        label = int(self.labels[row])
        return Place(
            split=str(self.splits[row]),
            file=self.files[self.file_of[row]],
            record=int(self.records[row]),
            id=str(self.ids[row]),
            label=None if label < 0 else label,
        )


def _read_pictures(sources, near: bool, tell: Callable[[int], None]) -> _Pictures:
    files, columns, done = [], [], 0
    names = sources[0][1].class_names
    for name, data, split in sources:
        if not data.counts[split]:
            continue
        pictures = load_split(data, split, keep="none")
        counts = [count_in_name(file) for file in data.files[split]]
        known = pictures.labels is not None and data.class_names == names
        columns.append(
            (
                np.full(len(pictures), name),
                np.repeat(np.arange(len(counts)) + len(files), counts),
                np.concatenate([np.arange(count) for count in counts]),
                pictures.ids,
                pictures.labels if known else np.full(len(pictures), -1, "int32"),
                pictures.digests,
                *_look(pictures, near, done, tell),
            )
        )
        files += data.files[split]
        done += len(pictures)
    return _Pictures(files, *map(np.concatenate, zip(*columns, strict=True)))


def _look(pictures: Split, near: bool, done: int, tell) -> tuple[np.ndarray, np.ndarray]:
    """The hashes and thumbnails of a split, one block of it decoded at a time."""
    num = len(pictures) if near else 0
    hashes = np.empty(num, "uint64")
    thumbnails = np.empty((num, THUMBNAIL_PX, THUMBNAIL_PX, 3), "uint8")
    for start in range(0, num, _BLOCK):
        for row, image in enumerate(pictures.images[start : start + _BLOCK], start):
            hashes[row], thumbnails[row] = picture_hash(image), thumbnail(image)
        tell(done + min(start + _BLOCK, num))
    return hashes, thumbnails


# Comparing ----------------------------------------------------------------------------------------


def _find_shared(pictures: _Pictures, near: bool) -> list[DuplicatePair]:
    """Each picture with the first record of it, in the order of the rows."""
    found = {}
    # Sets number their pictures as they like: an id says something within one set only.
    own = np.flatnonzero(pictures.splits != EXTERNAL)
    for rows in own[_find_repeats(pictures.ids[own])].tolist():
        found[tuple(rows)] = "same id", None, None
    if near:
        pairs = find_near_pairs(pictures.hashes, pictures.thumbnails)
        for rows, distance, similarity in zip(*map(np.ndarray.tolist, pairs), strict=True):
            if pictures.digests[rows[0]] != pictures.digests[rows[1]]:
                found[tuple(rows)] = "near duplicate", distance, similarity
    for rows in _find_repeats(pictures.digests).tolist():
        found[tuple(rows)] = "same bytes", 0, 1.0
    return [
        DuplicatePair(kind, pictures.place(one), pictures.place(other), distance, similarity)
        for (one, other), (kind, distance, similarity) in sorted(found.items())
    ]


def _find_repeats(values: np.ndarray) -> np.ndarray:
    """Rows whose value stood before, each with the first row of it: (k, 2)."""
    pairs = match_values(values, values)
    return pairs[pairs[:, 0] != pairs[:, 1]]


# Judging ------------------------------------------------------------------------------------------


def _is_problem(pair: DuplicatePair) -> bool:
    return pair.crosses or pair.has_two_labels


def _tell_problem(pair: DuplicatePair) -> str:
    reasons = [f"in {pair.one.split} and {pair.other.split}"] * pair.crosses
    reasons += ["under two labels"] * pair.has_two_labels
    return f"{' and '.join(reasons)}, {pair}"


def _count_shared(shared: tuple[DuplicatePair, ...]) -> tuple[str, ...]:
    """How many pairs there are of each kind, between which splits."""
    counts = Counter()
    for pair in shared:
        counts[pair.one.split, pair.other.split, pair.kind] += 1
    sides = dict.fromkeys((one, other) for one, other, _ in counts)
    lines = []
    for one, other in sides:
        kinds = [f"{counts[one, other, kind]:,} {kind}" for kind in KINDS[::-1]]
        kinds = [text for text in kinds if not text.startswith("0 ")]
        where = f"within {one}" if one == other else f"between {one} and {other}"
        lines.append(f"pairs of one picture {where}: {', '.join(kinds)}")
    return tuple(lines)


def _judge_classes(
    pictures: _Pictures, class_names: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Problems and notes on classes that a split lacks."""
    counts = {
        split: np.bincount(
            pictures.labels[(pictures.splits == split) & (pictures.labels >= 0)],
            minlength=len(class_names),
        )
        for split in ("train", "val")
    }
    learned, measured = counts["train"] > 0, counts["val"] > 0
    problems = _tell_classes("in val, but never in train", measured & ~learned, class_names)
    notes = _tell_classes("in train, but not in val", learned & ~measured, class_names)
    notes += _tell_classes("neither in train nor in val", ~learned & ~measured, class_names)
    return problems, notes


def _tell_classes(where: str, chosen: np.ndarray, class_names) -> tuple[str, ...]:
    rows = np.flatnonzero(chosen).tolist()
    if not rows:
        return ()
    shown = ", ".join(f"{row} {class_names[row]}" for row in rows[:5])
    return (f"classes {where}: {len(rows)} ({shown}{', ...' if len(rows) > 5 else ''})",)
