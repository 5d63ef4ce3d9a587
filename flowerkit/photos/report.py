"""What a conversion did, to read and to compute with: conversion.md, conversion.json, photos.csv."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flowerkit.data.tfrecords import SPLITS
from flowerkit.files import write_json, write_text
from flowerkit.photos.listing import spell, tell_some
from flowerkit.text import pluralize

_HEAD = ["id", "path", "class", "split", "width", "height", "notes"]
_LISTED = 200  # lines of a list in conversion.md; the json holds all


@dataclass(frozen=True)
class Conversion:
    """What became of the photos of a folder.

    `counts` has the photos of each class by split; `unreadable` and `left_out` the reason by path;
    `copies` groups of paths that are the same picture, `near_copies` groups that look the same (the
    copies among them); `seconds` and `photos_per_second` are those of the reading.
    """

    source: str
    options: Mapping[str, object]
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
            lines.append(
                f"copies or near-duplicates, {num:,} photos in {pluralize(len(self.near_copies), 'group')}, "
                f"{len(self.copies):,} of them byte for byte: each group is on one side"
            )
        return lines + list(self.notes)


def _shorten(lines: list[str]) -> str:
    return "; ".join(lines[:3]) + (f"; and {len(lines) - 3:,} more" if len(lines) > 3 else "")


def write_conversion(folder: Path, conversion: Conversion, rows: list[list]) -> None:
    """Write the three files; `rows` are those of photos.csv, see `_HEAD`."""
    write_json(folder / "conversion.json", _without_surrogates(asdict(conversion)))
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
    options = ", ".join(f"{name} {value}" for name, value in conversion.options.items())
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
