"""Pictures of what others computed: Axes in, Axes out, nothing shown and no global setting touched.

Without `ax` a figure is made with pyplot, so that a notebook shows it; `save_figure` writes it and
gives it back. Colours are Okabe and Ito's, which colour-blind people tell apart, and blue against
orange. History rows are dicts with `epoch` (from 1), `loss`, `accuracy`, `val_loss`,
`val_accuracy`, `val_f1`, `planned_lr`, `learning_rate`; what a row lacks is left out of the curve.
What shows learning rates stands in `plots_rates`, photos in `plots_images` and classes in
`plots_classes`; all of it is to be had here.
"""

import math
import os
from collections.abc import Collection, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from flowerkit.files import replacing
from flowerkit.metrics import most_confused
from flowerkit.plots.classes import plot_calibration, plot_classes, plot_confused, plot_histogram
from flowerkit.plots.fonts import lettering, set_letters
from flowerkit.plots.images import (
    plot_attention,
    plot_batch,
    plot_images,
    plot_mistakes,
    plot_results,
)
from flowerkit.plots.rates import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    HistoryRows,
    epochs_of,
    mark_phases,
    new_axes,
    plot_rate_search,
    plot_rates,
    plot_schedule,
    series_of,
    set_title,
    style_epochs,
)

__all__ = [
    "plot_attention",
    "plot_batch",
    "plot_calibration",
    "plot_classes",
    "plot_confused",
    "plot_confusion",
    "plot_curves",
    "plot_histogram",
    "plot_images",
    "plot_mistakes",
    "plot_rate_search",
    "plot_rates",
    "plot_results",
    "plot_schedule",
    "save_figure",
]

NUMBERED_CLASSES = 15  # up to here every cell of a confusion matrix holds its count
NAMED_CLASSES = 45  # up to here every class has its name at the side
LISTED_PAIRS = 12  # above it, this many of the worst pairs are named

PANELS = {"Loss": ("loss", "val_loss"), "Score": ("accuracy", "val_accuracy", "val_f1")}
CURVES = {
    "loss": ("training", BLUE),
    "val_loss": ("validation", ORANGE),
    "accuracy": ("training accuracy", BLUE),
    "val_accuracy": ("validation accuracy", ORANGE),
    "val_f1": ("validation macro F1", GREEN),
}


def plot_curves(history_rows: HistoryRows, best_epoch: int | None = None) -> np.ndarray:
    """Loss, and accuracy with macro F1, with the best epoch (from 1) marked: (2,) Axes.

    Where rows have a `phase`, a dotted line stands before the first epoch of each but the first.
    """
    epochs = epochs_of(history_rows)
    _, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for ax, (title, keys) in zip(axes, PANELS.items(), strict=True):
        for key in keys:
            _plot_curve(ax, history_rows, key, best_epoch)
        style_epochs(ax, epochs)
        phased = mark_phases(ax, history_rows)
        if best_epoch is not None:
            _mark_best(ax, best_epoch, height=1.08 if phased else 1.015)
        set_title(ax, title, pad=36 if phased else 20)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False)
    axes[0].set_ylim(bottom=0)
    bottom, top = axes[1].get_ylim()
    axes[1].set_ylim(max(bottom, 0), min(top, 1.02))
    return axes


def plot_confusion(counts: np.ndarray, class_names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Which class was taken for which: a row for each true class, darker for a larger share of it.

    `counts` is (num_classes, num_classes) from `evaluation.confusion_matrix`. Right guesses are
    blue, wrong ones orange. Up to 15 classes each cell holds its count; above 45 (an `ax` then
    wants 10 inches) names are small, and the worst pairs are ringed, numbered and listed. Classes
    that do not occur have no row, and guesses of them share the last column.
    """
    with lettering(class_names) as names:
        ax = _draw_confusion(*_occurring(np.asarray(counts), names), ax)
        set_letters(ax)
    return ax


def save_figure(axes: Axes | np.ndarray, path: str | os.PathLike, *, dpi: int = 150) -> None:
    """Write the figure of one Axes or of an array of them, whole or not at all, and close it.

    The suffix of `path` chooses the format (.png, .svg, .pdf).
    """
    figure = np.ravel(axes)[0].figure
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
    plt.close(figure)


def _draw_confusion(counts: np.ndarray, names: Sequence[str], ax: Axes | None) -> Axes:
    num_rows, support = len(counts), counts.sum(axis=1, keepdims=True)
    ax = new_axes(ax, figsize=_confusion_inches(names), layout="compressed")
    _draw_shares(ax, counts / support)
    if len(names) <= NUMBERED_CLASSES:
        _write_counts(ax, counts, counts / support)
    pairs = []
    if len(names) > NAMED_CLASSES:
        # Numbers stand for the names here, because the rings need places.
        pairs = most_confused(counts[:, :num_rows], range(num_rows), LISTED_PAIRS)
        _list_pairs(ax, pairs, support.ravel(), names)
    _name_classes(ax, names, num_rows, {place for pair in pairs for place in pair[:2]})
    set_title(ax, f"{np.trace(counts):,} of {counts.sum():,} right\nblue: right, orange: mistaken")
    return ax


def _plot_curve(ax: Axes, rows: HistoryRows, key: str, best_epoch: int | None) -> None:
    epochs, values = epochs_of(rows), series_of(rows, key)
    if np.isnan(values).all():
        return
    label, colour = CURVES[key]
    # Not clipped: a single epoch puts its dots on the very edge.
    style = {"color": colour, "clip_on": False}
    marker = "o" if len(epochs) <= 40 else None
    ax.plot(epochs, values, marker=marker, markersize=4, linewidth=1.8, label=label, **style)
    if key.startswith("val_"):
        best = epochs == best_epoch
        ax.plot(epochs[best], values[best], "o", markersize=9, markeredgecolor="k", **style)


def _mark_best(ax: Axes, best_epoch: int, height: float) -> None:
    ax.axvline(best_epoch, color=GREY, linestyle="--", linewidth=1, zorder=0)
    place = {"transform": ax.get_xaxis_transform(), "ha": "center"}
    ax.text(best_epoch, height, f"best: epoch {best_epoch}", color=GREY, **place)


def _occurring(counts: np.ndarray, class_names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    if counts.shape != (len(class_names), len(class_names)) or not counts.any():
        raise ValueError(
            f"counts of shape {counts.shape} and sum {counts.sum()} make no confusion matrix of "
            f"{len(class_names)} classes. Pass the counts and the names of the same data."
        )
    occurs = counts.sum(axis=1) > 0
    names = [name.strip() for name, kept in zip(class_names, occurs, strict=True) if kept]
    square = counts[np.ix_(occurs, occurs)]
    elsewhere = counts[np.ix_(occurs, ~occurs)].sum(axis=1, keepdims=True)
    if not elsewhere.any():
        return square, names
    return np.hstack([square, elsewhere]), [*names, "(another class)"]


def _confusion_inches(names: Sequence[str]) -> tuple[float, float]:
    """Room for the cells and for the longest name beside and below them."""
    if len(names) > NAMED_CLASSES:
        return 15.0, 11.5
    cells = max(3.0, 0.55 * len(names) if len(names) <= NUMBERED_CLASSES else 0.26 * len(names))
    text = 0.085 * max(map(len, names), default=0)
    return cells + text + 0.6, cells + 0.8 * text + 1.0


def _draw_shares(ax: Axes, shares: np.ndarray) -> None:
    right = np.eye(*shares.shape, dtype=bool)
    for hidden, colours in ((~right, "Blues"), (right, "Oranges")):
        # The square root lifts a mistake of a few per cent out of the white of a large matrix.
        depth = np.ma.array(np.sqrt(shares), mask=hidden | (shares == 0))
        ax.imshow(depth, cmap=colours, vmin=0, vmax=1.1)
    if len(shares) <= NAMED_CLASSES:
        num_rows, num_columns = shares.shape
        ax.hlines(np.arange(1, num_rows) - 0.5, *ax.get_xlim(), color="0.9", linewidth=0.6)
        ax.vlines(np.arange(1, num_columns) - 0.5, *ax.get_ylim(), color="0.9", linewidth=0.6)
    ax.set_xlabel("guessed")
    ax.set_ylabel("true")


def _write_counts(ax: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for (true, guess), share in np.ndenumerate(shares):
        if share > 0:
            style = {"ha": "center", "va": "center", "color": "white" if share > 0.4 else "black"}
            ax.text(guess, true, f"{counts[true, guess]:,}", fontsize=10, **style)


def _name_classes(ax: Axes, names: Sequence[str], num_rows: int, listed: Collection[int]) -> None:
    places = np.arange(len(names))
    ax.tick_params(length=0, pad=5)
    if len(names) <= NAMED_CLASSES:
        style = {"fontsize": 10 if len(names) <= NUMBERED_CLASSES else 8}
        slant = {"rotation": 50, "ha": "right", "va": "top", "rotation_mode": "anchor"}
    else:
        # 9 inches of rows hold 104 names of 6 points: not for a talk, but for whoever zooms in.
        style = {"fontsize": min(6.0, 620 / len(names)), "color": GREY}
        slant = {"rotation": 90}
    ax.set_yticks(places[:num_rows], names[:num_rows], **style)
    ax.set_xticks(places, names, **style, **slant)
    for axis in (ax.xaxis, ax.yaxis):
        for place, text in enumerate(axis.get_ticklabels()):
            if place in listed:
                text.set(color="black", fontweight="bold")


def _list_pairs(
    ax: Axes, pairs: Sequence[tuple[int, int, int]], support: np.ndarray, names: Sequence[str]
) -> None:
    lines = ["Most often mistaken", ""] if pairs else []
    taken = [(true, guess) for true, guess, _ in pairs]
    for rank, (true, guess, count) in enumerate(pairs, start=1):
        ax.plot(guess, true, "o", markersize=11, markerfacecolor="none", markeredgecolor="black")
        spot = _freest_corner(true, guess, taken)
        taken.append(spot)
        ax.text(spot[1], spot[0], f"{rank}", fontsize=12, ha="center", va="center")
        lines += [f"{rank}. {names[true]}", f"     taken for {names[guess]}"]
        lines += [f"     {count} of {support[true]}", ""]
    ax.text(1.02, 1, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=11)


def _freest_corner(true: int, guess: int, taken: Sequence[tuple]) -> tuple[float, float]:
    """The corner of a cell, in (row, column), farthest from the rings and numbers so far."""
    corners = [(true + 1.6 * down, guess + 1.8 * across) for down in (-1, 1) for across in (1, -1)]
    return max(corners, key=lambda corner: min(math.dist(corner, other) for other in taken))
