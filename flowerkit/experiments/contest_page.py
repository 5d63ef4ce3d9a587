"""A contest as one page: what each step brought, and whether it is more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import flowerkit
from flowerkit.data import FlowerData
from flowerkit.files import write_text
from flowerkit.metrics import Interval, bootstrap_difference
from flowerkit.prediction import Predictions, blend
from flowerkit.reports import render


@dataclass(frozen=True)
class Step:
    """The score of a network, an average or a blend, `on` "out of fold" or "test".

    `interval` is its difference to the step `against`, if any; `minutes` are those of training, if any.
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
        if (found := self.interval) is None:
            return text
        between = f"95 % interval {found.low:+.4f} to {found.high:+.4f}"
        return f"{text}, {found.difference:+.4f} to {self.against} ({self.verdict}; {between})"


def score_out_of_fold(
    scored: Mapping[str, Predictions],
    winner: str,
    blended: Predictions,
    *,
    minutes: Mapping[str, float],
) -> list[Step]:
    """What each network is worth, and what blending several brings: images that a run has not learned.

    `scored` are the predictions of each network by its name, row by row the same images as `blended`.
    """
    best = winner, [scored[winner]]
    steps = [
        _score(name, [each], None if name == winner else best, minutes=minutes.get(name))
        for name, each in scored.items()
    ]
    return steps + [_score("the blend", [blended], best)] * (len(scored) > 1)


def score_test(
    winner: str,
    folds: Sequence[Predictions],
    last: Sequence[Predictions],
    blended: Predictions | None,
    labels: Mapping[str, int],
) -> list[Step]:
    """What the average of the winner's folds brings, its run on everything (`last`), and the blend.

    `labels` are those of test images by their ids.
    """
    folds, last = ([_label(each, labels) for each in runs] for runs in (folds, last))
    single = "a fold alone", folds
    joined = "the folds averaged", [blend(folds)]
    steps = [_score(f"{winner}: {single[0]}, on average", folds, on="test")]
    steps.append(_score(*joined, single, on="test"))
    if last:
        steps.append(_score("once more on everything, alone", last, single, on="test"))
        both = "both averaged", [blend([*folds, *last])]
        steps.append(_score(*both, joined, on="test"))
        joined = both
    if blended:
        steps.append(_score("the blend", [_label(blended, labels)], joined, on="test"))
    return steps


def _label(predictions: Predictions, labels: Mapping[str, int]) -> Predictions:
    """Those rows whose labels are known, with them."""
    rows = np.isin(predictions.ids, list(labels))
    ids = predictions.ids[rows]
    true = np.array([labels[name] for name in ids.tolist()], "int32")
    return Predictions(ids, predictions.probabilities[rows], true)


def _score(
    name: str,
    ours: Sequence[Predictions],
    base: tuple[str, Sequence[Predictions]] | None = None,
    *,
    on: str = "out of fold",
    minutes: float | None = None,
) -> Step:
    """The mean macro F1 of `ours`, and how far it is from that of `base`, row by row the same images."""
    interval = base and bootstrap_difference(
        ours[0].labels, [each.predicted for each in ours], [each.predicted for each in base[1]]
    )
    f1 = float(np.mean([each.score()["val_f1"] for each in ours]))
    return Step(name, on, len(ours[0]), f1, base[0] if base else "", interval, minutes)


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
    out_of_fold = [step for step in steps if step.on != "test"]
    page = render(
        "contest.html.j2",
        title="Contest: flowerkit",
        version=flowerkit.__version__,
        out_of_fold=out_of_fold,
        test=[step for step in steps if step.on == "test"],
        best=max(out_of_fold, key=lambda step: step.macro_f1),
        data=str(data),
        runs=runs,
        winner=winner,
        weights=weights,
    )
    write_text(out / "contest.html", page)
    return out / "contest.html"
