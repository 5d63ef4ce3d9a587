"""Plots by class: how many images each has, what it is mistaken for, and how sure the model is."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from flowerkit.metrics import Calibration, count_classes, most_confused
from flowerkit.plots import style
from flowerkit.text import pluralize

SPLIT_COLOURS = (style.BLUE, style.ORANGE, style.GREEN)
CLASSES_PER_COLUMN = 36
COLUMN_INCHES, ROW_INCHES = 5.2, 0.2
NUMBERED_CLASSES = 15  # up to here every cell of a confusion matrix has its count
NAMED_CLASSES = 45  # up to here every class has its name at the side
LISTED_PAIRS = 12  # above it, this many of the worst pairs are listed


def plot_histogram(labels: Mapping[str, np.ndarray], class_names: Sequence[str]) -> np.ndarray:
    """The images of each class in each split, the largest class of the first split on top.

    `labels` maps one to three splits to their labels, (n,) int. Up to 36 classes share a column:
    (columns,) Axes. Raises ValueError without labels and for labels that are no class.
    """
    if not 1 <= len(labels) <= len(SPLIT_COLOURS):
        raise ValueError(f"a histogram takes one to three splits. Received: {list(labels)}")
    counts = {split: count_classes(ids, len(class_names)) for split, ids in labels.items()}
    table = np.array(list(counts.values()))
    occurring = [i for i in np.argsort(-table[0], kind="stable") if table[:, i].any()]
    columns = math.ceil(len(occurring) / CLASSES_PER_COLUMN)
    rows = math.ceil(len(occurring) / columns)
    width = max(6.5, COLUMN_INCHES * columns)
    height = max(1.6, ROW_INCHES * len(table) ** 0.3 * rows) + 1
    axes = style.new_figure(1, columns, figsize=(width, height), sharex=True)[0]
    for ax, start in zip(axes, range(0, len(occurring), rows), strict=True):
        chosen = occurring[start : start + rows]
        names = [style.format_name(class_names[i]) for i in chosen]
        _draw_counts(ax, names, table[:, chosen], list(counts), rows)
    figure = axes[0].figure
    if len(counts) > 1:
        # Beside the title: inside the Axes it would cover the numbers of the rarest classes.
        shown = axes[-1].get_legend_handles_labels()
        figure.legend(*shown, frameon=False, loc="upper right")
    lines = [f"{split}: {describe_counts(of_split)}" for split, of_split in counts.items()]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)
    return axes


def describe_counts(counts: np.ndarray) -> str:
    """How many images and classes there are, by the images of each class, (num_classes,) int.

    >>> describe_counts(np.array([700, 20, 0]))
    '720 images of 2 classes, 20 to 700 of each (median 360); none of 1'
    """
    present = counts[counts > 0]
    text = (
        f"{pluralize(int(counts.sum()), 'image')} of {pluralize(len(present), 'class')}, "
        f"{present.min():,} to {present.max():,} of each (median {np.median(present):,.0f})"
    )
    num_absent = len(counts) - len(present)
    return f"{text}; none of {num_absent:,}" if num_absent else text


def _draw_counts(
    ax: Axes, names: Sequence[str], table: np.ndarray, splits: Sequence[str], rows: int
) -> None:
    places, height = np.arange(len(names)), 0.8 / len(splits)
    for number, (split, counts) in enumerate(zip(splits, table, strict=True)):
        y = places + (number - (len(splits) - 1) / 2) * height
        ax.barh(y, counts, height, color=SPLIT_COLOURS[number], label=split)
    for place, counts in zip(places, table.T, strict=True):
        text = " " + " + ".join(f"{count:,}" for count in counts)
        ax.text(counts.max(), place, text, va="center", fontsize=7.5, color="0.25")
    ax.set_yticks(places, names, fontsize=8.5, fontfamily=style.font_families(names))
    ax.set_ylim(rows - 0.4, -0.6)
    ax.margins(x=0.22)
    style.set_grid(ax, "x")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("images")


def plot_calibration(calibration: Calibration, ax: Axes | None = None) -> Axes:
    """How often predictions are right, by their probability; see `metrics.calibration`.

    A column is the accuracy and the dot the mean probability: on the line they agree. After Guo et al.
    2017, arXiv:1706.04599.
    """
    ax = ax or style.new_axes(figsize=(5.5, 4.2))
    filled, edges = np.flatnonzero(calibration.counts), calibration.edges
    red = style.VERMILION
    middles = ((edges[:-1] + edges[1:]) / 2)[filled]
    confidence, accuracy = calibration.confidence[filled], calibration.accuracy[filled]
    ax.bar(middles, accuracy, 0.92 * edges[1], color=style.BLUE, alpha=0.75, label="accuracy")
    ax.plot([0, 1], [0, 1], "--", color=style.GREY, linewidth=1, zorder=0)
    ax.vlines(middles, confidence, accuracy, color=red, linewidth=1.4, zorder=3)
    ax.plot(middles, confidence, "D", c=red, mec="k", ms=6, zorder=4, label="mean probability")
    tops = np.maximum(confidence, accuracy) + 0.03
    for place, top, count in zip(middles, tops, calibration.counts[filled], strict=True):
        ax.text(place, top, f"{count:,}", ha="center", fontsize=7.5, color="0.25", zorder=5)
    ax.set(xlim=(0, 1), ylim=(0, 1.14), xlabel="probability of the prediction", ylabel="accuracy")
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.spines[["top", "right"]].set_visible(False)
    # Below, for a column can be anywhere.
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
    error = f"{calibration.error:.3f} ({calibration.tendency})"
    style.set_title(
        ax, f"Expected calibration error {error}\nnumbers: images with such a probability"
    )
    return ax


def plot_confusion(counts: np.ndarray, class_names: Sequence[str], ax: Axes | None = None) -> Axes:
    """A row for each true class, a column for each predicted one, darker for a larger share of the row.

    `counts` is (num_classes, num_classes) from `metrics.confusion_matrix`. Right predictions are blue,
    wrong ones orange. Up to 15 classes each cell has its count; above 45 (an `ax` then wants 10
    inches) names are small, and the worst pairs are ringed, numbered and listed. Classes that do not
    occur have no row, and predictions of them share the last column.
    """
    counts, names = _select_occurring(np.asarray(counts), class_names)
    num_rows, support = len(counts), counts.sum(axis=1)
    shares = counts / support[:, None]
    ax = ax or style.new_axes(_confusion_inches(names), layout="compressed")
    right = np.eye(*shares.shape, dtype=bool)
    for hidden, colours in ((~right, "Blues"), (right, "Oranges")):
        # The square root makes a mistake of a few per cent visible in a large matrix.
        depth = np.ma.array(np.sqrt(shares), mask=hidden | (shares == 0))
        ax.imshow(depth, cmap=colours, vmin=0, vmax=1.1)
    ax.set(xlabel="predicted", ylabel="true")
    if len(names) <= NAMED_CLASSES:
        ax.hlines(np.arange(1, num_rows) - 0.5, *ax.get_xlim(), color="0.9", linewidth=0.6)
        ax.vlines(np.arange(1, len(names)) - 0.5, *ax.get_ylim(), color="0.9", linewidth=0.6)
    if len(names) <= NUMBERED_CLASSES:
        for true, predicted in np.argwhere(shares > 0):
            colour = "white" if shares[true, predicted] > 0.4 else "black"
            text = f"{counts[true, predicted]:,}"
            ax.text(predicted, true, text, ha="center", va="center", color=colour, fontsize=10)
    listed = set()
    if len(names) > NAMED_CLASSES:
        # Numbers instead of names, because the rings need places.
        pairs = most_confused(counts[:, :num_rows], range(num_rows), LISTED_PAIRS)
        _list_pairs(ax, pairs, support, names)
        listed = {place for pair in pairs for place in pair[:2]}
    _name_classes(ax, names, num_rows, listed)
    style.set_title(
        ax, f"{np.trace(counts):,} of {counts.sum():,} right\nblue: right, orange: mistaken"
    )
    return ax


def _select_occurring(
    counts: np.ndarray, class_names: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    if counts.shape != (len(class_names), len(class_names)) or not counts.any():
        raise ValueError(
            f"counts of shape {counts.shape} and sum {counts.sum()} make no confusion matrix of "
            f"{len(class_names)} classes. Pass the counts and the names of the same data."
        )
    occurs = counts.sum(axis=1) > 0
    names = [style.format_name(class_names[i]) for i in np.flatnonzero(occurs)]
    square = counts[np.ix_(occurs, occurs)]
    elsewhere = counts[np.ix_(occurs, ~occurs)].sum(axis=1, keepdims=True)
    if elsewhere.any():
        return np.hstack([square, elsewhere]), [*names, "(another class)"]
    return square, names


def _confusion_inches(names: Sequence[str]) -> tuple[float, float]:
    if len(names) > NAMED_CLASSES:
        return 15.0, 11.5
    cells = max(3.0, len(names) * (0.55 if len(names) <= NUMBERED_CLASSES else 0.26))
    text = 0.085 * max(map(len, names))
    return cells + text + 0.6, cells + 0.8 * text + 1.0


def _name_classes(ax: Axes, names: Sequence[str], num_rows: int, listed: Collection[int]) -> None:
    ax.tick_params(length=0, pad=5)
    if len(names) <= NAMED_CLASSES:
        size, colour = (10 if len(names) <= NUMBERED_CLASSES else 8), "black"
        slant = {"rotation": 50, "ha": "right", "va": "top", "rotation_mode": "anchor"}
    else:
        # 9 inches of rows hold 104 names of 6 points: readable only when enlarged.
        size, colour, slant = min(6.0, 620 / len(names)), style.GREY, {"rotation": 90}
    text_style = {"fontsize": size, "color": colour, "fontfamily": style.font_families(names)}
    ax.set_yticks(range(num_rows), names[:num_rows], **text_style)
    ax.set_xticks(range(len(names)), names, **text_style, **slant)
    for axis in (ax.xaxis, ax.yaxis):
        for place, text in enumerate(axis.get_ticklabels()):
            if place in listed:
                text.set(color="black", fontweight="bold")


def _list_pairs(
    ax: Axes, pairs: Sequence[tuple[int, int, int]], support: np.ndarray, names: Sequence[str]
) -> None:
    lines = ["Most often mistaken", ""] if pairs else []
    taken = [(true, predicted) for true, predicted, _ in pairs]
    for rank, (true, predicted, count) in enumerate(pairs, start=1):
        ax.plot(predicted, true, "o", markersize=11, fillstyle="none", color="black")
        row, column = _find_free_corner(true, predicted, taken)
        taken.append((row, column))
        ax.text(column, row, f"{rank}", fontsize=12, ha="center", va="center")
        lines += [f"{rank}. {names[true]}", f"     taken for {names[predicted]}"]
        lines += [f"     {count} of {support[true]}", ""]
    text_style = {"va": "top", "fontsize": 11, "fontfamily": style.font_families(names)}
    ax.text(1.02, 1, "\n".join(lines), transform=ax.transAxes, **text_style)


def _find_free_corner(true: int, predicted: int, taken: Sequence[tuple]) -> tuple[float, float]:
    """The corner of a cell, (row, column), that is farthest from the rings and numbers so far."""
    corners = [(true + 1.6 * y, predicted + 1.8 * x) for y in (-1, 1) for x in (1, -1)]
    return max(corners, key=lambda corner: min(math.dist(corner, place) for place in taken))
