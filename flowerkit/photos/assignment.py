"""Which photos stay, and to which split each goes: stratified by class, by a seed.

The assignment depends on the photos, their labels, the fractions and the seed alone, so that one
machine and a cluster make the same. The order of the photos depends on the seed and each one's id, so a
new photo moves few others.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from flowerkit.data import SPLITS, find_near_pairs, group_rows, sort_class_names
from flowerkit.photos.listing import Listing
from flowerkit.photos.reader import ReadPhoto
from flowerkit.photos.walk import Photo, name_paths
from flowerkit.text import join_some, pluralize


@dataclass(frozen=True)
class SplitAssignment:
    """The photos that go into the shards, their splits and what is known of each, row by row.

    `near_duplicates` are groups of paths whose pictures are or look the same; `unreadable` and
    `left_out` have the reason by path, `notes` are for a person to read.
    """

    photos: list[Photo]
    splits: list[str]
    read: list[ReadPhoto]
    class_names: tuple[str, ...]
    seed: int
    near_duplicates: list[list[str]]
    unreadable: dict[str, str]
    left_out: dict[str, str]
    notes: list[str]

    def shuffled(self, split: str) -> list[tuple[Photo, int | None]]:
        """The photos of a split in the order of its shards, with their labels.

        A photo of the test split has the label None, as in the competition.
        """
        photos = [p for p, of in zip(self.photos, self.splits, strict=True) if of == split]
        photos.sort(key=lambda photo: shuffle_key(self.seed, photo.id))
        label_of = {name: label for label, name in enumerate(self.class_names)}
        return [(p, None if split == "test" else label_of[p.class_name]) for p in photos]


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Refuse fractions that leave nothing to train on, with ValueError."""
    for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} must be from 0 to below 1, such as 0.2.")
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction={val_fraction} and test_fraction={test_fraction} leave nothing to train "
            "on. Their sum must be below 1."
        )


def assign_photos(
    listing: Listing,
    results: Mapping[str, ReadPhoto | str],
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> SplitAssignment:
    """Assign the photos of `listing` to splits; `results` has by path what was read, or why nothing was.

    Raises ValueError if fewer than two classes are left.
    """
    text = name_paths(results)
    unreadable = {text[path]: why for path, why in results.items() if isinstance(why, str)}
    photos = [photo for photo in listing.photos if text[photo.path] not in unreadable]
    refused = resolve_duplicates([results[photo.path].digest for photo in photos], photos)
    left_out = {text[photos[row].path]: reason for row, reason in refused.items()}
    photos = [photo for row, photo in enumerate(photos) if row not in refused]
    read = [results[photo.path] for photo in photos]
    names = sort_class_names({photo.class_name for photo in photos} - {None})
    if len(names) < 2:
        first = ": ".join(next(iter((unreadable | left_out).items())))
        raise ValueError(
            f"photos of {pluralize(len(names), 'class')} are left, and a classifier needs "
            f"two. {len(unreadable):,} are unreadable, {len(left_out):,} left out; the first: {first}"
        )
    groups = _find_near_duplicates(read)
    splits = assign_splits(photos, groups, val_fraction, test_fraction, seed)
    near = [[text[photos[row].path] for row in rows] for rows in groups]
    notes = []
    if lost := sort_class_names(set(listing.class_names) - set(names)):
        notes.append(
            f"no photo is left, because they are unreadable or left out, of {', '.join(lost)}"
        )
    crossing = [rows for rows in groups if len({photos[row].class_name for row in rows}) > 1]
    if crossing:
        notes.append(
            f"{pluralize(len(crossing), 'group')} of photos that look the same in two classes, such as "
            f"{' and '.join(text[photos[row].path] for row in crossing[0][:2])}: keep each in the class "
            f"that it shows"
        )
    if torn := sum(len({splits[row] for row in rows}) > 1 for rows in groups):
        group = pluralize(torn, "group")
        notes.append(f"{group} of photos that look the same in two of the splits you gave")
    counts = Counter((split, photo.class_name) for split, photo in zip(splits, photos, strict=True))
    for split in SPLITS:
        missing = [name for name in names if not counts[split, name]]
        if missing and not counts[split, None]:
            some = join_some(missing) if len(missing) < len(names) else "any class"
            notes.append(f"no photo in {split} of {some}")
    return SplitAssignment(photos, splits, read, names, seed, near, unreadable, left_out, notes)


# Duplicates ---------------------------------------------------------------------------------------


def resolve_duplicates(digests: Sequence[str], photos: Sequence[Photo]) -> dict[int, str]:
    """The rows of photos with equal digests that are left out, with the reason.

    If a picture is in two classes, all its copies are left out: either label may be wrong. If it is
    given to a split, only the copies there stay; if to two, those in the later one, because what
    measures must not train. A copy without a label agrees with all.
    """
    copies_of = defaultdict(dict)
    for row, (digest, photo) in enumerate(zip(digests, photos, strict=True)):
        copies_of[digest][row] = photo
    left_out = {}
    for copies in copies_of.values():
        classes = sort_class_names({photo.class_name for photo in copies.values()} - {None})
        given = {photo.split for photo in copies.values()} - {None}
        last = max(given, key=SPLITS.index, default=None)
        names = " and ".join(map(repr, classes))
        for row, photo in copies.items():
            if len(classes) > 1:
                left_out[row] = f"the same picture is in {names}; keep it in one"
            elif photo.split != last:
                left_out[row] = f"the same picture is given to {last}"
    return left_out


def _find_near_duplicates(known: list[ReadPhoto]) -> list[list[int]]:
    """Rows that look the same, or are: pictures of one colour have digests, but look like nothing."""
    hashes = np.array([read.picture_hash for read in known], "uint64")
    pairs = find_near_pairs(hashes, np.stack([read.thumbnail for read in known])).rows
    first = {}
    same = [(first.setdefault(read.digest, row), row) for row, read in enumerate(known)]
    same = np.array([pair for pair in same if pair[0] != pair[1]], "int64").reshape(-1, 2)
    return group_rows(np.concatenate([pairs, same]))


# Splits -------------------------------------------------------------------------------------------


def shuffle_key(seed: int, id: str) -> bytes:
    """A key to sort by, for an order that looks random and is the same everywhere."""
    return sha256(f"{seed}:{id}".encode()).digest()


def assign_splits(
    photos: Sequence[Photo],
    groups: Sequence[Sequence[int]],
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> list[str]:
    """The split of each photo: "train", "val" or "test".

    A given split stays; where val is given none is drawn, and where any is given no test is. The rows
    of a group (duplicates) go to one split, that of a given one among them; a group too large for what
    val or test still lack goes to train. Of each class val and test get their rounded share, at least
    one photo of two (val) or three (test); train keeps one.
    """
    splits = [photo.split for photo in photos]
    if given := set(splits) - {None}:
        test_fraction = 0
        val_fraction = 0 if "val" in given else val_fraction
    grouped = {row for rows in groups for row in rows}
    free = []
    for rows in [*groups, *([row] for row in range(len(photos)) if row not in grouped)]:
        if chosen := next((splits[row] for row in rows if splits[row]), None):
            for row in rows:
                splits[row] = splits[row] or chosen
        else:
            free.append(rows)
    places = {"test": Counter(), "val": Counter()}  # left, by class
    counts = Counter(photos[row].class_name for rows in free for row in rows)
    for label, count in counts.items():
        val = max(round(count * val_fraction), count >= 2) if val_fraction else 0
        least = count >= (3 if val_fraction else 2)
        test = max(round(count * test_fraction), least) if test_fraction else 0
        places["val"][label] = val = min(val, count - 1)
        places["test"][label] = min(test, count - 1 - val)
    free.sort(key=lambda rows: shuffle_key(seed, min(photos[row].id for row in rows)))
    for rows in free:
        needed = Counter(photos[row].class_name for row in rows)
        split = next((name for name, left in places.items() if needed <= left), "train")
        if split != "train":
            places[split] -= needed
        for row in rows:
            splits[row] = split
    return splits
