"""Which photos stay, and where each goes: its split, its label, its place in the shards.

Photos that look the same stay on one side. What is decided here depends on the photos, their labels,
the fractions and the seed alone, so one machine and a cluster decide alike.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from flowerkit.data.duplicates import find_near_pairs, group_rows
from flowerkit.data.tfrecords import SPLITS
from flowerkit.photos.cache import PhotoCache
from flowerkit.photos.listing import Listing, Photo, spell, tell_some
from flowerkit.photos.splits import assign_splits, resolve_duplicates, shuffle_key
from flowerkit.text import pluralize


@dataclass(frozen=True)
class SplitAssignment:
    """The photos that go into the shards with their splits, row by row, and what was seen of the rest.

    `copies` are groups of paths of the same picture, `near_copies` groups that look the same,
    `left_out` has the reason by path, `notes` are for a person to read.
    """

    photos: list[Photo]
    class_names: tuple[str, ...]
    splits: list[str]
    copies: list[list[str]]
    near_copies: list[list[str]]
    left_out: dict[str, str]
    notes: list[str]


def divide_photos(
    spool: PhotoCache,
    listing: Listing,
    unreadable: dict[str, str],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> SplitAssignment:
    """Divide the photos of `listing` that were read; `spool` has their entries and thumbnails.

    Raises ValueError if fewer than two classes are left.
    """
    photos = [photo for photo in listing.photos if photo.path not in unreadable]
    digests = [spool.entries[photo.path].digest for photo in photos]
    same, refused = resolve_duplicates(
        digests, [photo.class_name for photo in photos], [photo.split for photo in photos]
    )
    left_out = {photos[row].path: reason for row, reason in refused.items()}
    copies = [[photos[row].path for row in rows] for rows in same]
    photos = [photo for photo in photos if photo.path not in left_out]
    names = tuple(sorted({photo.class_name for photo in photos} - {None}))
    if len(names) < 2:
        raise ValueError(_describe_rest(names, unreadable, left_out))
    groups = _find_groups(spool, photos)
    splits = assign_splits(
        [photo.id for photo in photos],
        [photo.class_name for photo in photos],
        [photo.split for photo in photos],
        groups,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    near = [[photos[row].path for row in rows] for rows in groups]
    notes = _note(photos, splits, groups, set(listing.class_names) - set(names))
    return SplitAssignment(photos, names, splits, copies, near, left_out, notes)


def _find_groups(spool: PhotoCache, photos: list[Photo]) -> list[list[int]]:
    """Rows that look the same, or are: a picture of one colour has copies, but looks like nothing."""
    entries = [spool.entries[photo.path] for photo in photos]
    hashes = np.array([entry.picture_hash for entry in entries], "uint64")
    pairs = find_near_pairs(hashes, spool.read_thumbnails([entry.path for entry in entries])).rows
    first = {}
    same = [(first.setdefault(entry.digest, row), row) for row, entry in enumerate(entries)]
    same = np.array([pair for pair in same if pair[0] != pair[1]], "int64").reshape(-1, 2)
    return group_rows(np.concatenate([pairs, same]))


def _describe_rest(names, unreadable: dict[str, str], left_out: dict[str, str]) -> str:
    reasons = [f"{spell(path)}: {reason}" for path, reason in (unreadable | left_out).items()]
    return (
        f"photos of {len(names)} class{'es' * (len(names) != 1)} are left, and a classifier needs two. "
        f"{len(unreadable):,} were unreadable, {len(left_out):,} left out; the first: {reasons[0]}"
    )


def _note(photos: list[Photo], splits: list[str], groups, lost: set[str]) -> list[str]:
    notes = [f"no readable photo is left of {', '.join(sorted(lost))}"] if lost else []
    crossing = [rows for rows in groups if len({photos[row].class_name for row in rows}) > 1]
    if crossing:
        shown = " and ".join(spell(photos[row].path) for row in crossing[0][:2])
        notes.append(
            f"{pluralize(len(crossing), 'group')} of photos that look the same in two classes, such as "
            f"{shown}: keep each in the class that it shows"
        )
    torn = [rows for rows in groups if len({splits[row] for row in rows}) > 1]
    if torn:
        notes.append(
            f"{pluralize(len(torn), 'group')} of photos that look the same in two of the splits you gave"
        )
    counts = Counter(zip(splits, (photo.class_name for photo in photos), strict=True))
    names = sorted({photo.class_name for photo in photos} - {None})
    for split in SPLITS:
        without = [name for name in names if not counts[split, name]]
        if without and len(without) < len(names):
            notes.append(f"no photo in {split} of {tell_some(without)}")
        elif without and not (split == "test" and counts[split, None]):
            notes.append(f"there are no {split} photos")
    return notes


def place_rows(division: SplitAssignment, split: str, seed: int) -> list[tuple[int, int | None]]:
    """A split's rows in the order of its shards, the classes mixed, each with its label.

    A photo of the test split has the label None, as in the competition.
    """
    number = {name: label for label, name in enumerate(division.class_names)}
    rows = [row for row, one in enumerate(division.splits) if one == split]
    rows.sort(key=lambda row: shuffle_key(seed, division.photos[row].id))
    if split == "test":
        return [(row, None) for row in rows]
    return [(row, number[division.photos[row].class_name]) for row in rows]
