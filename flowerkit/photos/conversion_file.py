"""What a conversion did, as conversion.json holds it."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from flowerkit.data import SPLITS
from flowerkit.files import read_dataclass, write_dataclass
from flowerkit.text import format_seconds, join_some, pluralize

RESIZE_METHODS = ("crop", "pad", "squish")

_FILE = "conversion.json"


def check_resize(resize: str) -> None:
    """Refuse a method that is none of RESIZE_METHODS, with ValueError."""
    if resize not in RESIZE_METHODS:
        raise ValueError(f"resize={resize!r} is none of {', '.join(RESIZE_METHODS)}")


@dataclass(frozen=True)
class Conversion:
    """How the photos of the folder `source` became a data set, and what became of each.

    `image_size` is in px, `resize` one of RESIZE_METHODS, the fractions are of each class. `counts` has
    the photos of each class by split; `unreadable` and `left_out` the reason by path; `near_duplicates`
    groups of paths whose pictures are or look the same; `seconds` is the time it took.
    """

    source: str
    image_size: int
    resize: str
    val_fraction: float
    test_fraction: float
    seed: int
    jpeg_quality: int
    class_names: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    num_unlabelled: int
    unreadable: dict[str, str]
    left_out: dict[str, str]
    near_duplicates: list[list[str]]
    notes: list[str]
    seconds: float

    def __post_init__(self) -> None:
        check_resize(self.resize)

    def save(self, folder: str | os.PathLike) -> None:
        """Write conversion.json into `folder`."""
        write_dataclass(Path(folder) / _FILE, self)

    @property
    def num_photos(self) -> int:
        """How many photos are in the shards."""
        return sum(sum(splits.values()) for splits in self.counts.values()) + self.num_unlabelled

    def summary(self) -> list[str]:
        """The lines to show at the end of a conversion."""
        totals = sum(map(Counter, self.counts.values()), Counter(test=self.num_unlabelled))
        shares = ", ".join(f"{split} {totals[split]:,}" for split in SPLITS)
        lines = [
            f"{pluralize(self.num_photos, 'photo')} of {len(self.class_names)} classes: {shares} "
            f"({format_seconds(self.seconds)})"
        ]
        for title, reasons in (("unreadable", self.unreadable), ("left out", self.left_out)):
            if reasons:
                some = join_some(list(map(": ".join, reasons.items())), 3, "; ")
                lines.append(f"{title}, {pluralize(len(reasons), 'photo')}: {some}")
        if self.near_duplicates:
            groups = pluralize(len(self.near_duplicates), "group")
            lines.append(
                f"duplicates or near duplicates: {sum(map(len, self.near_duplicates)):,} photos in "
                f"{groups}; each group is in one split"
            )
        return lines + list(self.notes)


def load_conversion(folder: str | os.PathLike) -> Conversion | None:
    """The conversion that made the data set in `folder`; None if its images were no photos.

    Raises ValueError if its conversion.json is damaged.
    """
    if not (file := Path(folder) / _FILE).is_file():
        return None
    return read_dataclass(file, Conversion, remedy="Convert the photos again, into a new folder.")
