"""Plots by epoch or by learning rate. A history is a sequence of rows, see `training.History`."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flowerkit.plots import style
from flowerkit.schedules import Schedule

Rows = Sequence[Mapping[str, float]]

PANELS = {"Loss": ("loss", "val_loss"), "Score": ("accuracy", "val_accuracy", "val_f1")}
CURVES = {
    "loss": ("training", style.BLUE),
    "val_loss": ("validation", style.ORANGE),
    "accuracy": ("training accuracy", style.BLUE),
    "val_accuracy": ("validation accuracy", style.ORANGE),
    "val_f1": ("validation macro F1", style.GREEN),
}
COMPARED = {"val_f1": "Macro F1 on val", "val_loss": "Loss on val", "loss": "Loss in training"}
# Okabe and Ito's, without black and yellow: a page may be dark, or light.
LINE_COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, "#CC79A7", "#56B4E9")
LINE_COLOURS += (style.GREY,)
LINE_STYLES = ("solid", "dashed", "dotted")
NUM_STYLES = len(LINE_COLOURS) * len(LINE_STYLES)
_DIVERGED = 2.5  # times the median loss: a loss above would flatten the other curves


# One run ------------------------------------------------------------------------------------------


def plot_curves(history: Rows, best_epoch: int, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Loss, and accuracy with macro F1, with the best epoch (from 1) marked: (2,) Axes."""
    epochs = _column(history, "epoch")
    best = epochs == best_epoch
    marker = "o" if len(epochs) <= 40 else None
    axes = np.array(axes) if axes is not None else style.new_figure(1, 2, figsize=(8.6, 3.7))[0]
    for ax, (title, names) in zip(axes, PANELS.items(), strict=True):
        for name in names:
            label, colour = CURVES[name]
            values = _column(history, name)
            # Not clipped: a single epoch has its dots on the edge.
            ax.plot(
                epochs, values, c=colour, marker=marker, ms=4, lw=1.8, label=label, clip_on=False
            )
            if name.startswith("val_"):
                ax.plot(epochs[best], values[best], "o", c=colour, ms=9, mec="k", clip_on=False)
        _style_epochs(ax, epochs)
        has_phases = _mark_phases(ax, history)
        ax.axvline(best_epoch, c=style.GREY, ls="--", lw=1, zorder=0)
        height = 1.08 if has_phases else 1.015
        _write_above(ax, best_epoch, height, f"best: epoch {best_epoch}", ha="center")
        style.set_title(ax, title, pad=36 if has_phases else 20)
        ax.legend(frameon=False)
    axes[0].set_ylim(bottom=0)
    bottom, top = axes[1].get_ylim()
    axes[1].set_ylim(max(bottom, 0), min(top, 1.02))
    return axes


def plot_rates(history: Rows, ax: Axes | None = None) -> Axes:
    """The planned learning rate as a line, and the one that the optimizer used as dots."""
    epochs = _column(history, "epoch")
    planned, used = _column(history, "planned_lr"), _column(history, "learning_rate")
    differs = ~np.isclose(planned, used, rtol=1e-4, atol=0, equal_nan=True)
    ax = ax or style.new_axes()
    marker = "s" if len(epochs) == 1 else None  # a line through one epoch is invisible
    ax.plot(epochs, planned, c=style.ORANGE, marker=marker, ms=11, lw=5, alpha=0.7, label="planned")
    ax.plot(epochs, used, "o", c=style.BLUE, ms=_dot_size(epochs), label="used")
    if differs.any():
        (rings,) = ax.plot(epochs[differs], used[differs], "o", label="not as planned")
        rings.set(color=style.VERMILION, markersize=11, markeredgewidth=2, fillstyle="none")
    _style_epochs(ax, epochs)
    has_phases = _mark_phases(ax, history)
    _style_rates(ax, np.nan_to_num(np.concatenate([planned, used])))
    ax.legend(frameon=False)
    count = int(differs.sum())
    verdict = f"not as planned in {count} of {len(epochs)} epochs" if count else "as planned"
    style.set_title(ax, f"The learning rate was {verdict}", pad=20 if has_phases else 8)
    return ax


# Learning rates -----------------------------------------------------------------------------------


def plot_schedule(schedule: Schedule, epochs: int, ax: Axes | None = None) -> Axes:
    """The rate over `epochs` epochs, a dot at the start of each; counted from 1 as in a history.

    A schedule that moves within epochs (`per_step`) is drawn to the end of the last.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; a plot needs at least 1.")
    ax = ax or style.new_axes()
    whole = np.arange(epochs)
    fine = np.linspace(0, epochs if schedule.per_step else epochs - 1, 50 * epochs)
    dots, line = ([schedule(epoch) for epoch in places] for places in (whole, fine))
    ax.plot(fine + 1, line, c=style.BLUE, lw=2)
    ax.plot(whole + 1, dots, "o", c=style.BLUE, ms=_dot_size(whole))
    _style_epochs(ax, whole + 1)
    if schedule.per_step:
        ax.set_xlim(right=epochs + 1)
    _style_rates(ax, dots + line)
    style.set_title(ax, str(schedule))
    return ax


def plot_lr_finder(found, ax: Axes | None = None) -> Axes:
    """The loss at every rate of a `training.LRFinderResult`, raw and smoothed, with the suggestion.

    A loss that diverged leaves the plot, so that the valley fills it.
    """
    ax = ax or style.new_axes()
    ax.plot(found.rates, found.losses, ".", c=style.GREY, alpha=0.45, label="each batch")
    ax.plot(found.rates, found.smoothed, c=style.BLUE, lw=2.2, label="smoothed")
    rate = found.suggestion
    loss = np.interp(np.log(rate), np.log(found.rates), found.smoothed)
    ax.axvline(rate, c=style.GREEN, ls="--", lw=1, zorder=0)
    ax.plot(rate, loss, "o", c=style.GREEN, ms=9, mec="k", zorder=3, label=f"valley: {rate:.2g}")
    # Limits from the first half, before any divergence, down to the lowest loss.
    half = slice(0, len(found.rates) // 2 + 1)
    high = max(found.losses[half].max(), found.smoothed[half].max())
    low = min(found.losses.min(), found.smoothed.min())
    margin = 0.1 * (high - low) or 0.1
    ax.set(
        xscale="log",
        xlabel=f"learning rate, for batches of {found.global_batch:,}",
        ylabel="training loss",
        ylim=(low - margin, high + 2 * margin),
    )
    style.set_grid(ax, "both")
    ax.legend(framealpha=0.85, edgecolor="none")
    style.set_title(ax, f"Range test: {found.stop_reason}")
    return ax


# Several runs -------------------------------------------------------------------------------------


def line_style(number: int) -> tuple[str, str]:
    """Colour and line style of experiment `number`, from 0; 21 are different.

    >>> line_style(0), line_style(7)
    (('#0072B2', 'solid'), ('#0072B2', 'dashed'))
    """
    dashes, colour = divmod(number % NUM_STYLES, len(LINE_COLOURS))
    return LINE_COLOURS[colour], LINE_STYLES[dashes]


def plot_comparison(histories: Mapping[str, Sequence[Rows]]) -> np.ndarray:
    """Macro F1 and loss on val, and loss in training, by epoch, of experiments by name: (3,) Axes.

    Each experiment has one history for each seed. The line is their mean and the band their range, up
    to the epoch that all reached; from there each seed is a thin line. Experiments after the first 21
    are left out. Raises ValueError without experiments or epochs.
    """
    if not histories:
        raise ValueError("there is no history to draw.")
    drawn = dict(itertools.islice(histories.items(), NUM_STYLES))
    longest = max((_column(rows, "epoch") for seeds in drawn.values() for rows in seeds), key=len)
    panels = style.new_figure(1, 3, figsize=(9.6, 3.8))[0]
    for ax, (name, title) in zip(panels, COMPARED.items(), strict=True):
        lines = [
            _plot_seeds(ax, longest, [_column(rows, name) for rows in seeds], *line_style(number))
            for number, seeds in enumerate(drawn.values())
        ]
        _style_epochs(ax, longest)
        if name != "val_f1":
            losses = np.concatenate([line.get_ydata() for line in ax.lines])
            top, title = cut_diverged(losses, title)
            ax.set_ylim(0, 1.04 * top if top > 0 else 1.0)
        style.set_title(ax, title)
    names = list(map(style.format_name, drawn))
    columns = max(1, min(len(names), 95 // (max(map(len, names)) + 8)))
    panels[0].figure.legend(
        lines,
        names,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        prop={"family": style.font_families(names)},
    )
    return panels


def _plot_seeds(
    ax: Axes, epochs: np.ndarray, curves: Sequence[np.ndarray], colour: str, dashes: str
) -> Line2D:
    common = min(map(len, curves))
    together = np.stack([curve[:common] for curve in curves])
    shared = epochs[:common]
    marker = "o" if common == 1 else None  # a line through one epoch is invisible
    (line,) = ax.plot(shared, together.mean(0), c=colour, ls=dashes, lw=2, marker=marker, ms=4)
    ax.fill_between(shared, together.min(0), together.max(0), color=colour, alpha=0.16, lw=0)
    for curve in curves:
        if len(curve) > common:
            rest = slice(common - 1, len(curve))
            ax.plot(epochs[rest], curve[rest], c=colour, ls=dashes, lw=0.8)
    return line


def cut_diverged(losses: np.ndarray, title: str) -> tuple[float, str]:
    """The highest loss that has not diverged, and the title, which says if others are above."""
    losses = losses[np.isfinite(losses)]
    if not len(losses):
        return 1.0, title
    highest, limit = float(losses.max()), _DIVERGED * float(np.median(losses))
    if 0 < limit < highest:
        return limit, f"{title} (cut off above)"
    return highest, title


# Shared -------------------------------------------------------------------------------------------


def _column(history: Rows, name: str) -> np.ndarray:
    """One column, (n,) float64; NaN where a row lacks it. Raises ValueError without epochs."""
    if len(history) == 0:
        raise ValueError("the history is empty: no epoch was finished, so there is no curve.")
    return np.array([row.get(name, math.nan) for row in history], np.float64)


def find_phases(history: Rows) -> dict[float, str]:
    """Where phases begin, but the first, half an epoch before their first one; and their names."""
    return {
        row["epoch"] - 0.5: f"phase {row['phase']:.0f} →"
        for before, row in itertools.pairwise(history)
        if row.get("phase") != before.get("phase")
    }


def _mark_phases(ax: Axes, history: Rows) -> bool:
    """A line with its name before each phase but the first; whether there is one."""
    for place, name in (starts := find_phases(history)).items():
        ax.axvline(place, c=style.GREY, ls=":", lw=1.4, zorder=0)
        _write_above(ax, place, 1.015, name, ha="left", fontsize=9)
    return bool(starts)


def _write_above(ax: Axes, epoch: float, height: float, text: str, **text_style) -> None:
    ax.text(epoch, height, text, color=style.GREY, transform=ax.get_xaxis_transform(), **text_style)


def _dot_size(epochs: np.ndarray) -> float:
    return 5.0 if len(epochs) <= 40 else 2.5


def _style_epochs(ax: Axes, epochs: np.ndarray) -> None:
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    margin = max(0.5, 0.02 * len(epochs))
    ax.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    style.set_grid(ax, "y")


def _style_rates(ax: Axes, rates: np.ndarray | list[float]) -> None:
    """One power of ten for all ticks: 0.0001 beside 5e-05 is hard to compare."""
    highest = max(rates)
    power = math.ceil(math.log10(highest)) - 1 if 0 < highest < math.inf else 0
    ax.set_ylim(0, 1.08 * highest if highest > 0 else None)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate / 10**power:g}"))
    ax.set_ylabel(f"learning rate, in $10^{{{power}}}$")
