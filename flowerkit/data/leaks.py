"""What spoils a score: pictures in two splits, or under two labels. Found, listed and drawn.

They may have the same id, the same JPEG bytes, or only look the same (`duplicates`). An external set,
added to the training shards, leaks where it holds pictures of val or test.
"""

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from flowerkit.console import Progress, shows_progress
from flowerkit.data.duplicates import (
    THUMBNAIL_PX,
    TURNS,
    find_near_pairs,
    thumbnail,
    turn_picture,
    turned_hashes,
)
from flowerkit.data.images import map_ahead
from flowerkit.data.jpeg import decode_jpeg, decode_strictly
from flowerkit.data.splits import load_split
from flowerkit.data.tfrecords import (
    SPLITS,
    FlowerData,
    check_counts,
    find_gaps,
    read_record,
    read_records,
)
from flowerkit.files import replacing, write_text
from flowerkit.text import format_csv, join_some

EXTERNAL = "external"
# What is found twice gets the last.
KINDS = ("same id", "turned copy", "near duplicate", "same bytes")

_BLOCK = 64
# Two flowers that are round look alike in one of seven turns more often than as they are: with the
# bounds of near duplicates 4 pairs of 8,309 pictures do, with these none; 100 of 100 copies are found.
_MAX_TURNED_DISTANCE = 6
_MIN_TURNED_SIMILARITY = 0.95
_MAX_DRAWN = 60
_SIDE_PX, _GAP_PX, _TEXT_PX, _COLUMNS = 160, 14, 44, 4


@dataclass(frozen=True)
class Place:
    """Where a picture is; `split` is train, val, test or external, `label` None in an unlabelled one."""

    split: str
    file: Path
    record: int
    id: str
    label: int | None
    class_name: str | None = None

    def __str__(self) -> str:
        within = f"{self.file.parent.name}/{self.file.name}"
        within = f"{self.split}: {within}" if self.split == EXTERNAL else within
        named = "" if self.class_name is None else f", {self.class_name}"
        return f"{within}, record {self.record} (id {self.id}{named})"


@dataclass(frozen=True)
class DuplicatePair:
    """Two records of the same picture; `kind` is one of KINDS.

    `distance` and `similarity` are those of `duplicates.Pairs`; None for a shared id. `turn`, one of
    `duplicates.TURNS`, is what was done to the second.
    """

    kind: str
    first: Place
    second: Place
    distance: int | None
    similarity: float | None
    turn: str = ""

    @property
    def crosses(self) -> bool:
        """Whether it is on two sides of a measurement: external is on the side of train."""
        sides = {"train" if p.split == EXTERNAL else p.split for p in (self.first, self.second)}
        return len(sides) > 1

    @property
    def has_two_labels(self) -> bool:
        """Whether both have a label, and not the same."""
        labels = {self.first.label, self.second.label}
        return None not in labels and len(labels) > 1

    @property
    def is_problem(self) -> bool:
        """Whether it spoils a measurement."""
        return self.crosses or self.has_two_labels

    @property
    def likeness(self) -> str:
        """How alike two near duplicates look, in words after a comma; else nothing."""
        if self.kind not in ("near duplicate", "turned copy"):
            return ""
        turn = f", {self.turn}" if self.turn else ""
        return f"{turn}, {self.distance} bits apart, similarity {self.similarity:.3f}"

    def __str__(self) -> str:
        return f"{self.kind}{self.likeness}: {self.first} and {self.second}"


@dataclass(frozen=True)
class LeakReport:
    """What was found: `counts` of pictures by split, `problems` that spoil a measurement, `notes`, and
    all `pairs` of records of the same picture, inside a split too."""

    counts: dict[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    pairs: tuple[DuplicatePair, ...]

    def sorted_pairs(self) -> list[DuplicatePair]:
        """All pairs, the problems first, and of these the surest first."""
        by_likeness = sorted(self.pairs, key=lambda pair: -(pair.similarity or 0))
        return sorted(by_likeness, key=lambda pair: (not pair.is_problem, -KINDS.index(pair.kind)))


@shows_progress
def find_leaks(
    data: FlowerData,
    *,
    external: FlowerData | None = None,
    near: bool = True,
    progress: Progress | None = None,
) -> LeakReport:
    """Look for pictures on two sides of `data`, and of `external`, which would be trained on as well.

    Problems are: shards that are cut off or hold another number than their names say (then nothing
    is compared), numbers of shards that are missing, pictures in two splits or under two labels,
    damaged pictures, classes without a training picture. Copies are found that were saved anew, resized,
    mirrored or turned by 90 degrees; not those that were cut by more than 5 % of a side. With near=False
    nothing is decoded, and only ids and bytes are compared.

    Raises ValueError for a damaged record, with its file and number, or if there is no picture.
    """
    sources = [(split, data, split) for split in SPLITS]
    if external:
        sources += [(EXTERNAL, external, split) for split in SPLITS]
    counts, faults, gaps = Counter(), [], []
    for name, source, split in sources:
        counts[name] += source.counts[split]
        faults += [f"{each.file.parent.name}/{each}" for each in check_counts(source.files[split])]
        gaps += find_gaps(source.files[split])
    if not counts.total():
        raise ValueError(f"{data.folder} holds no pictures. Pass a folder with filled shards.")
    if faults:
        notes = ("nothing was compared: repair the shards first",)
        return LeakReport(dict(counts), tuple(faults), notes, ())

    pictures = _read_pictures(sources, near, counts.total(), progress)
    pairs = tuple(_find_pairs(pictures, near))
    problems, notes = _judge_classes(pictures.places, data.class_names)
    of_pairs = []
    for pair in [pair for pair in pairs if pair.is_problem]:
        reasons = [f"in {pair.first.split} and {pair.second.split}"] * pair.crosses
        reasons += ["under two labels"] * pair.has_two_labels
        of_pairs.append(f"{' and '.join(reasons)}, {pair}")
    problems = (*of_pairs, *problems, *gaps, *pictures.damage)
    return LeakReport(dict(counts), problems, _count_pairs(pairs) + notes, pairs)


# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Pictures:
    """A row a picture, split after split: `ids` (n,) str, `digests` (n,) int64, `hashes` (n, 8) and
    `thumbnails` as in `duplicates`, or empty; `damage` names those that are not as they were saved."""

    places: list[Place]
    ids: np.ndarray
    digests: np.ndarray
    hashes: np.ndarray
    thumbnails: np.ndarray
    damage: list[str]


def _read_pictures(sources, near: bool, total: int, progress: Progress | None) -> _Pictures:
    places, columns, damage = [], [], []
    for name, data, split in sources:
        if not data.counts[split]:
            continue
        pictures = load_split(data, split, cache="none")
        done, labels = len(places), [None] * len(pictures)
        if pictures.labels is not None and data.class_names == sources[0][1].class_names:
            labels = pictures.labels.tolist()
        rows = zip(pictures.images.records(), pictures.ids.tolist(), labels, strict=True)
        for record, id, label in rows:
            class_name = None if label is None else data.class_names[label]
            places.append(Place(name, *record, id, label, class_name))
        num = len(pictures) if near else 0
        hashes = np.empty((num, len(TURNS)), "uint64")
        thumbnails = np.empty((num, THUMBNAIL_PX, THUMBNAIL_PX, 3), "uint8")
        for start in range(0, num, _BLOCK):
            for row, image in enumerate(pictures.images[start : start + _BLOCK], start):
                hashes[row], thumbnails[row] = turned_hashes(image), thumbnail(image)
            if progress:
                progress("pictures", done + min(start + _BLOCK, num), total)
        columns.append((pictures.ids, pictures.digests, hashes, thumbnails))
        if near:
            damage += itertools.chain(*map_ahead(_find_damage, data.files[split]))
    return _Pictures(places, *map(np.concatenate, zip(*columns, strict=True)), damage)


def _find_damage(file: Path) -> list[str]:
    """The pictures of a shard that decoders show, but not as they were saved."""
    found = []
    for number, record in read_records(file):
        try:
            decode_strictly(record.image)
        except ValueError as error:
            where = f"{file.parent.name}/{file.name}, record {number} (id {record.id})"
            found.append(f"{where}: {error}")
    return found


# Comparing ----------------------------------------------------------------------------------------


def _find_pairs(pictures: _Pictures, near: bool) -> list[DuplicatePair]:
    """Each picture with the first record of it, in the order of the rows."""
    found = {}
    # Sets number their pictures as they like: an id says something within a set only.
    own = np.array([row for row, p in enumerate(pictures.places) if p.split != EXTERNAL], int)
    for rows in own[_find_repeats(pictures.ids[own])].tolist():
        found[tuple(rows)] = "same id", None, None
    # From the last to the first: a picture that is symmetric is no turned copy, but a near duplicate.
    for number in reversed(range(len(TURNS) if near else 0)):
        turn = TURNS[-number % 4 if number < 4 else number]  # back from what was compared
        seconds = pictures.hashes[:, number], turn_picture(pictures.thumbnails, number)
        pairs = find_near_pairs(pictures.hashes[:, 0], pictures.thumbnails, seconds)
        for rows, distance, similarity in zip(*map(np.ndarray.tolist, pairs), strict=True):
            is_sure = distance <= _MAX_TURNED_DISTANCE and similarity >= _MIN_TURNED_SIMILARITY
            if pictures.digests[rows[0]] != pictures.digests[rows[1]] and (is_sure or not turn):
                kind = "turned copy" if turn else "near duplicate"
                found[tuple(rows)] = kind, distance, similarity, turn
    for rows in _find_repeats(pictures.digests).tolist():
        found[tuple(rows)] = "same bytes", 0, 1.0
    return [
        DuplicatePair(kind, *(pictures.places[row] for row in rows), *likeness)
        for rows, (kind, *likeness) in sorted(found.items())
    ]


def _find_repeats(values: np.ndarray) -> np.ndarray:
    """Rows whose value an earlier row has, each with the first row of it: (k, 2)."""
    _, firsts, places = np.unique(values, return_index=True, return_inverse=True)
    pairs = np.stack([firsts[places], np.arange(len(values))], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _count_pairs(pairs: tuple[DuplicatePair, ...]) -> tuple[str, ...]:
    counts = Counter((pair.first.split, pair.second.split, pair.kind) for pair in pairs)
    lines = []
    for first, second in dict.fromkeys(key[:2] for key in counts):
        numbers = [(counts[first, second, kind], kind) for kind in KINDS[::-1]]
        where = f"within {first}" if first == second else f"between {first} and {second}"
        texts = ", ".join(f"{number:,} {kind}" for number, kind in numbers if number)
        lines.append(f"pairs of the same picture {where}: {texts}")
    return tuple(lines)


def _judge_classes(
    places: list[Place], class_names: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    trained, measured = (
        {place.label for place in places if place.split == split} for split in ("train", "val")
    )
    every = set(range(len(class_names)))

    def tell(where: str, labels: set[int]) -> tuple[str, ...]:
        names = join_some([class_names[label] for label in sorted(labels)])
        return (f"classes {where}: {len(labels)} ({names})",) if labels else ()

    notes = tell("in train, but not in val", trained - measured)
    notes += tell("neither in train nor in val", every - trained - measured)
    return tell("in val, but never in train", measured - trained), notes


# Showing ------------------------------------------------------------------------------------------


def write_pairs(path: str | os.PathLike, report: LeakReport) -> None:
    """All of `report.pairs` as a csv, a pair a line, problems first."""
    head = ["kind", "distance", "similarity", "crosses"]
    columns = ("split", "file", "record", "id", "label", "class_name")
    head += [f"{name}_{side}" for side in (1, 2) for name in columns]
    rows = [head]
    for pair in report.sorted_pairs():
        similarity = None if pair.similarity is None else f"{pair.similarity:.4f}"
        rows.append([pair.kind, pair.distance, similarity, pair.crosses])
        for place in (pair.first, pair.second):
            rows[-1] += [place.split, place.file.name, place.record, place.id]
            rows[-1] += [place.label, place.class_name]
    write_text(path, format_csv(rows))


def draw_pairs(path: str | os.PathLike, pairs: Sequence[DuplicatePair]) -> int:
    """Write the first 60 pairs side by side, captioned, as a PNG; returns how many were drawn.

    Nothing is written for no pairs. Raises OSError where a shard is gone.
    """
    pairs = pairs[:_MAX_DRAWN]
    if not pairs:
        return 0
    rows, columns = -(-len(pairs) // _COLUMNS), min(_COLUMNS, len(pairs))
    width, height = 2 * _SIDE_PX + _GAP_PX, _SIDE_PX + _TEXT_PX
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for number, pair in enumerate(pairs):
        left, top = number % _COLUMNS * width, number // _COLUMNS * height
        for side, place in enumerate((pair.first, pair.second)):
            picture = Image.fromarray(decode_jpeg(read_record(place.file, place.record).image))
            picture = picture.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC)
            sheet.paste(picture, (left + side * _SIDE_PX, top))
        ink = "firebrick" if pair.has_two_labels else "black"
        ImageDraw.Draw(sheet).multiline_text((left, top + _SIDE_PX + 2), _caption(pair), fill=ink)
    with replacing(path) as temporary:
        sheet.save(temporary)
    return len(pairs)


def _caption(pair: DuplicatePair) -> str:
    lines = [f"{pair.kind}{pair.likeness}"]
    for place in (pair.first, pair.second):
        # The font of the picture has the letters of European languages.
        name = place.class_name
        named = f", {name if name.isascii() else place.label}" if name else ""
        lines.append(f"{place.split} {place.file.name.split('-')[0]}/{place.record}{named}")
    return "\n".join(lines)
