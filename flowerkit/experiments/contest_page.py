"""A contest as one page: what each step brought, and whether it is more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import flowerkit
from flowerkit.data import FlowerData
from flowerkit.files import write_text
from flowerkit.metrics import Interval
from flowerkit.reports import render


@dataclass(frozen=True)
class Step:
    """The score of a network, an average or a blend, `on` "out of fold" or "test".

    `interval` is its difference to the step `against`, None for the one to which others are compared;
    `minutes` are those of training, None where nothing was trained for it.
    """

    name: str
    on: str
    num_images: int
    macro_f1: float
    against: str = ""
    interval: Interval | None = None
    minutes: float | None = None

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if self.interval is None:
            return ""
        if self.interval.is_noise:
            return "inside the noise"
        return "better" if self.interval.difference > 0 else "worse"

    def __str__(self) -> str:
        text = f"{self.on}: {self.name}: macro F1 {self.macro_f1:.4f}"
        if self.interval is None:
            return text
        difference = f"{self.interval.difference:+.4f} to {self.against}"
        between = f"{self.interval.low:+.4f} to {self.interval.high:+.4f}"
        return f"{text}, {difference} ({self.verdict}; 95 % interval {between})"


def write_contest(
    out: Path,
    steps: Sequence[Step],
    *,
    data: FlowerData,
    runs: Sequence[str],
    winner: str,
    weights: Mapping[str, float],
) -> Path:
    """Write contest.html into `out`, of the finished `runs` in it; returns the file."""
    page = render(
        "contest.html.j2",
        title="Contest: flowerkit",
        version=flowerkit.__version__,
        out_of_fold=[step for step in steps if step.on != "test"],
        test=[step for step in steps if step.on == "test"],
        best=max((step for step in steps if step.on != "test"), key=lambda step: step.macro_f1),
        data=str(data),
        runs=runs,
        winner=winner,
        weights=weights,
    )
    write_text(out / "contest.html", page)
    return out / "contest.html"
