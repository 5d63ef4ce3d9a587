"""Pictures of classes: how many images each has, how well it is told, for what it is taken, how surely.

Axes out, as in `plots`, which shows these to the world; what `evaluation` computed goes in.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from flowerkit.metrics import Calibration, count_classes, most_confused
from flowerkit.plots.fonts import lettering, set_letters
from flowerkit.plots.rates import BLUE, GREEN, GREY, ORANGE, VERMILION, new_axes, set_title
from flowerkit.text import percent

SPLIT_COLOURS = (BLUE, ORANGE, GREEN)
CLASSES_A_COLUMN = 36
COLUMN_INCHES, ROW_INCHES = 5.2, 0.2


def plot_histogram(
    labels: Mapping[str, np.ndarray], class_names: Sequence[str], *, is_counted: bool = False
) -> np.ndarray:
    """How many images of each class every split has, the largest class of the first split on top.

    `labels` maps a split's name to its labels (n,) int, or with `is_counted` to its counts
    (num_classes,): one to three splits. Up to 36 classes stand in one column, others beside it:
    (columns,) Axes. Classes without any image are counted in the title and not drawn. Raises
    ValueError without labels and for labels that do not fit the names.
    """
    if not 1 <= len(labels) <= len(SPLIT_COLOURS):
        raise ValueError(f"a histogram takes one to three splits. Received: {list(labels)}")
    counts = {
        split: _check_counts(split, values, len(class_names))
        if is_counted
        else count_classes(values, len(class_names))
        for split, values in labels.items()
    }
    table = np.array(list(counts.values()))
    occurring = [i for i in np.argsort(-table[0], kind="stable") if table[:, i].any()]
    columns = max(1, math.ceil(len(occurring) / CLASSES_A_COLUMN))
    rows = math.ceil(len(occurring) / columns)
    with lettering(class_names) as names:
        size = (
            max(6.5, COLUMN_INCHES * columns),
            max(1.6, ROW_INCHES * len(table) ** 0.3 * rows) + 1,
        )
        figure, axes = plt.subplots(
            1, columns, figsize=size, layout="constrained", sharex=True, squeeze=False
        )
        for ax, start in zip(axes[0], range(0, len(occurring), rows), strict=True):
            chosen = occurring[start : start + rows]
            _draw_counts(ax, [names[i] for i in chosen], table[:, chosen], list(counts), rows)
        if len(counts) > 1:
            # Beside the title: inside the axes it would lie on the numbers of the rarest classes.
            shown = axes[0, -1].get_legend_handles_labels()
            figure.legend(*shown, frameon=False, loc="upper right")
        lines = [_describe_counts(split, one) for split, one in counts.items()]
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)
    return axes[0]


def plot_calibration(found: Calibration, ax: Axes | None = None) -> Axes:
    """How often guesses are right, by how sure the model was; `found` is `evaluation.calibration`'s.

    A column is what came true and the dot what was promised: on the line they would agree. Above or
    in each column stands how many images it is about. After Guo et al. 2017, arXiv:1706.04599.
    """
    ax = new_axes(ax, figsize=(5.5, 4.2))
    filled = np.flatnonzero(found.counts)
    middles, width = (found.edges[:-1] + found.edges[1:]) / 2, found.edges[1]
    sure, true = found.confidence[filled], found.accuracy[filled]
    ax.bar(middles[filled], true, 0.92 * width, color=BLUE, alpha=0.75, label="were right")
    ax.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, zorder=0)
    for place, low, high in zip(middles[filled], sure, true, strict=True):
        ax.plot([place, place], [low, high], color=VERMILION, linewidth=1.4, zorder=3)
    style = {"color": VERMILION, "markeredgecolor": "k", "markersize": 6, "zorder": 4}
    ax.plot(middles[filled], sure, "D", label="should have been", **style)
    for place, top, count in zip(
        middles[filled], np.maximum(sure, true), found.counts[filled], strict=True
    ):
        ax.text(place, top + 0.03, f"{count:,}", ha="center", fontsize=7.5, color="0.25", zorder=5)
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1.14),
        xlabel="probability of the guess",
        ylabel="share that was right",
    )
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.spines[["top", "right"]].set_visible(False)
    # Below, for a column can stand anywhere.
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
    set_title(ax, f"{_describe_error(found)}\nnumbers: images with such a probability")
    return ax


def plot_classes(report: Sequence[Mapping[str, Any]], k: int = 20, ax: Axes | None = None) -> Axes:
    """F1 of the k worst classes, the worst on top, with the precision and recall that make it.

    `report` is `evaluation.class_report`'s; the number of images stands behind each name. Raises
    ValueError for an empty one.
    """
    if len(report) == 0 or k < 1:
        raise ValueError(f"{len(report)} classes to show, k={k}: both must be at least 1.")
    worst = sorted(report, key=lambda row: (row["f1"], row["recall"], row["name"]))[:k]
    places = np.arange(len(worst))
    with lettering([row["name"] for row in worst]) as names:
        ax = new_axes(ax, figsize=(7.5, 0.27 * len(worst) + 1.5))
        ax.barh(places, [row["f1"] for row in worst], 0.72, color=BLUE, alpha=0.3, label="F1")
        for key, marker, colour in (("precision", "o", BLUE), ("recall", "D", ORANGE)):
            style = {"color": colour, "markeredgecolor": "k", "linestyle": "", "clip_on": False}
            ax.plot([row[key] for row in worst], places, marker, label=key, **style)
        told = [f"{name}  ({row['support']:,})" for name, row in zip(names, worst, strict=True)]
        ax.set_yticks(places, told, fontsize=9)
        set_letters(ax)
    ax.set(xlim=(0, 1), ylim=(len(worst) - 0.4, -0.6))
    _strip(ax)
    ax.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.9 / len(worst)))
    which = "All" if len(worst) == len(report) else f"The worst {len(worst)} of"
    set_title(ax, f"{which} {len(report)} classes, images in brackets")
    return ax


def plot_confused(
    counts: np.ndarray, class_names: Sequence[str], k: int = 12, ax: Axes | None = None
) -> Axes:
    """The k most frequent mistakes: which class was taken for which, how often, and how much of it.

    `counts` is (num_classes, num_classes) from `evaluation.confusion_matrix`.
    """
    counts = np.asarray(counts)
    with lettering(class_names) as names:
        pairs = most_confused(counts, range(len(names)), k)
        ax = new_axes(ax, figsize=(7.5, 0.3 * max(len(pairs), 1) + 1))
        places = np.arange(len(pairs))
        told = [f"{names[true]}  →  {names[guess]}" for true, guess, _ in pairs]
        ax.barh(places, [count for *_, count in pairs], 0.72, color=ORANGE)
        ax.set_yticks(places, told, fontsize=9)
        set_letters(ax)
        for place, (true, _, count) in enumerate(pairs):
            text = f" {count:,} of {counts[true].sum():,} ({percent(count / counts[true].sum())})"
            ax.text(count, place, text, va="center", fontsize=8.5)
    highest = max((count for *_, count in pairs), default=1)
    ax.set(xlim=(0, 1.3 * highest), ylim=(max(len(pairs), 1) - 0.4, -0.6))
    _strip(ax)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    set_title(ax, "Most often mistaken: true → guessed" if pairs else "Nothing was mistaken")
    return ax


def _check_counts(split: str, counts: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.asarray(counts)
    if counts.shape != (num_classes,) or not counts.any() or counts.min() < 0:
        raise ValueError(
            f"{split}: counts must be {num_classes} numbers, one a class, not all 0. Received: shape "
            f"{counts.shape}, sum {counts.sum()}"
        )
    return counts


def _draw_counts(
    ax: Axes, names: Sequence[str], table: np.ndarray, splits: Sequence[str], rows: int
) -> None:
    """The bars of some classes, `rows` places high; `table` (splits, classes) int."""
    places, height = np.arange(len(names)), 0.8 / len(splits)
    for number, (split, counts) in enumerate(zip(splits, table, strict=True)):
        y = places + (number - (len(splits) - 1) / 2) * height
        ax.barh(y, counts, height, color=SPLIT_COLOURS[number], label=split)
    for place, counts in zip(places, table.T, strict=True):
        text = " " + " + ".join(f"{count:,}" for count in counts)
        ax.text(counts.max(), place, text, va="center", fontsize=7.5, color="0.25")
    ax.set_yticks(places, names, fontsize=8.5)
    ax.set_ylim(rows - 0.4, -0.6)
    ax.margins(x=0.22)
    _strip(ax)
    ax.set_xlabel("images")


def _describe_counts(split: str, counts: np.ndarray) -> str:
    present = counts[counts > 0]
    absent = len(counts) - len(present)
    text = (
        f"{split}: {counts.sum():,} images of {len(present):,} classes, {present.min():,} to "
        f"{present.max():,} of each (median {np.median(present):,.0f})"
    )
    return text + (f"; none of {absent:,}" if absent else "")


def _describe_error(found: Calibration) -> str:
    side = "too sure" if found.overconfidence > 0 else "too modest"
    return (
        f"Expected calibration error {found.error:.3f} ({side} by {abs(found.overconfidence):.3f})"
    )


def _strip(ax: Axes) -> None:
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
