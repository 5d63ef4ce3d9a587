"""What a conversion did, to read and to compute with: conversion.md, conversion.json, photos.csv."""

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from flowerkit.data.tfrecords import SPLITS
from flowerkit.files import read_json, write_json, write_text
from flowerkit.photos.listing import spell, tell_some
from flowerkit.text import pluralize

RESIZE_METHODS = ("crop", "pad", "squish")
CONVERSION_FILE = "conversion.json"
_HEAD = ["id", "path", "class", "split", "width", "height", "notes"]
_REMEDY = "Convert the photos again, into a new folder."
_LISTED = 200  # lines of a list in conversion.md; the json holds all


@dataclass(frozen=True)
class Conversion:
    """What became of the photos of a folder, and how they were resized and split: conversion.json.

    `counts` has the photos of each class by split; `unreadable` and `left_out` the reason by path;
    `copies` groups of paths that are the same picture, `near_copies` groups that look the same (the
    copies among them); `seconds` and `photos_per_second` are those of the reading.
    """

    source: str
    image_size: int
    resize: str
    val_fraction: float
    test_fraction: float
    seed: int
    jpeg_quality: int
    class_names: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    num_unlabelled: int
    unreadable: Mapping[str, str]
    left_out: Mapping[str, str]
    copies: Sequence[Sequence[str]]
    near_copies: Sequence[Sequence[str]]
    notes: Sequence[str]
    seconds: float
    photos_per_second: float

    def save(self, folder: str | os.PathLike) -> None:
        """Write `folder`/conversion.json; paths that are not UTF-8 lose the bytes that are none."""
        write_json(Path(folder) / CONVERSION_FILE, _without_surrogates(asdict(self)))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Conversion":
        """Read what `save` wrote.

        Raises FileNotFoundError without the file, ValueError if it is damaged or lacks a key.
        """
        file = Path(folder) / CONVERSION_FILE
        names = [field.name for field in fields(cls)]
        try:
            value = read_json(file, what="a conversion")
            conversion = cls(**{name: value[name] for name in names})
            conversion = replace(conversion, class_names=tuple(conversion.class_names))
        except FileNotFoundError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{file} is damaged ({reason}). {_REMEDY}") from None
        if conversion.resize not in RESIZE_METHODS:
            raise ValueError(
                f"{file} has resize={conversion.resize!r}, which is none of "
                f"{', '.join(RESIZE_METHODS)}. {_REMEDY}"
            )
        return conversion

    @property
    def num_photos(self) -> int:
        """How many photos are in the shards."""
        return sum(sum(splits.values()) for splits in self.counts.values()) + self.num_unlabelled

    def summary(self) -> list[str]:
        """The lines that a person wants to see at the end."""
        totals = Counter()
        for splits in self.counts.values():
            totals.update(splits)
        totals["test"] += self.num_unlabelled
        shares = ", ".join(f"{split} {totals[split]:,}" for split in SPLITS)
        lines = [
            f"{self.num_photos:,} photos of {len(self.class_names)} classes: {shares} "
            f"({self.seconds:.1f} s, {self.photos_per_second:,.0f} photos/s)"
        ]
        for what, reasons in (("unreadable", self.unreadable), ("left out", self.left_out)):
            if reasons:
                some = [f"{spell(path)}: {reason}" for path, reason in reasons.items()]
                lines.append(f"{what}, {pluralize(len(reasons), 'photo')}: {_shorten(some)}")
        if self.near_copies:
            num = sum(map(len, self.near_copies))
            groups = pluralize(len(self.near_copies), "group")
            lines.append(
                f"copies or near-duplicates, {num:,} photos in {groups}, {len(self.copies):,} of them "
                "byte for byte: each group is on one side"
            )
        return lines + list(self.notes)


def _shorten(lines: list[str]) -> str:
    return "; ".join(lines[:3]) + (f"; and {len(lines) - 3:,} more" if len(lines) > 3 else "")


def load_conversion(folder: str | os.PathLike) -> Conversion | None:
    """The conversion that made the data set in `folder`; None if its images were not converted here.

    Raises ValueError if its conversion.json is damaged.
    """
    return Conversion.load(folder) if (Path(folder) / CONVERSION_FILE).is_file() else None


def write_conversion(folder: Path, conversion: Conversion, rows: list[list]) -> None:
    """Write the three files; `rows` are those of photos.csv, see `_HEAD`."""
    conversion.save(folder)
    write_text(folder / "conversion.md", "\n".join(describe(conversion)) + "\n")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_HEAD, *rows])
    write_text(folder / "photos.csv", text.getvalue())


def _without_surrogates(value):
    """Paths that are no UTF-8 can be read by Python, but not be written as text."""
    if isinstance(value, Mapping):
        return {_without_surrogates(key): _without_surrogates(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(one) for one in value]
    return spell(value) if isinstance(value, str) else value


def describe(conversion: Conversion) -> list[str]:
    """The report in Markdown, a line each."""
    options = (
        f"image_size {conversion.image_size}, resize {conversion.resize}, "
        f"val_fraction {conversion.val_fraction}, test_fraction {conversion.test_fraction}, "
        f"seed {conversion.seed}, jpeg_quality {conversion.jpeg_quality}"
    )
    lines = ["# Converted photos", "", f"From {spell(conversion.source)} ({options}).", ""]
    lines += [f"- {line}" for line in conversion.summary()]
    lines += ["", "| class | " + " | ".join(SPLITS) + " |", "|---|" + "---:|" * len(SPLITS)]
    for name in conversion.class_names:
        cells = " | ".join(f"{conversion.counts[name].get(split, 0):,}" for split in SPLITS)
        lines.append(f"| {name} | {cells} |")
    for title, reasons in (
        ("Unreadable", conversion.unreadable),
        ("Left out", conversion.left_out),
    ):
        lines += _list(title, [f"{spell(path)}: {reason}" for path, reason in reasons.items()])
    for title, groups in (
        ("The same picture", conversion.copies),
        ("Looks the same", conversion.near_copies),
    ):
        lines += _list(title, [tell_some([*map(spell, group)]) for group in groups])
    return lines


def _list(title: str, items: list[str]) -> list[str]:
    if not items:
        return []
    more = len(items) - _LISTED
    rest = [f"- and {more:,} more, in conversion.json"] if more > 0 else []
    return ["", f"## {title}", "", *(f"- {item}" for item in items[:_LISTED]), *rest]
