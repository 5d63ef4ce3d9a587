"""Pictures of learning rates: a schedule, planned beside used, and what a range test found.

Axes in, Axes out, as in `plots`, which shows these to the world besides its own and shares with
them the colours (Okabe and Ito's, which colour-blind people tell apart) and the look of the axes.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flowerkit.schedules import Schedule

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6E6E6E"

HistoryRows = Sequence[Mapping[str, Any]]

# The suggestions of a range test: colour, marker and what it is called.
SUGGESTED = {
    "valley": (GREEN, "o", "valley"),
    "steep": (ORANGE, "s", "steepest"),
    "minimum_over_10": (VERMILION, "D", "minimum / 10"),
}


def plot_schedule(schedule: Schedule, epochs: int, ax: Axes | None = None) -> Axes:
    """The rate over `epochs` epochs, a dot at the start of each; counted from 1 as in a history.

    A schedule that moves within epochs (`per_step`) is drawn to the end of the last.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; a plot needs at least 1.")
    ax = new_axes(ax)
    whole = np.arange(epochs)
    fine = np.linspace(0, epochs if schedule.per_step else epochs - 1, 50 * epochs)
    dots, line = ([schedule(epoch) for epoch in places] for places in (whole, fine))
    ax.plot(fine + 1, line, color=BLUE, linewidth=2)
    ax.plot(whole + 1, dots, "o", color=BLUE, markersize=dot_size(whole))
    style_epochs(ax, whole + 1)
    if schedule.per_step:
        ax.set_xlim(right=epochs + 1)
    _style_rates(ax, dots + line)
    set_title(ax, str(schedule))
    return ax


def plot_rates(history_rows: HistoryRows, ax: Axes | None = None) -> Axes:
    """The planned rate as a line and the one that the optimizer used as dots; they should agree."""
    epochs = epochs_of(history_rows)
    planned, used = series_of(history_rows, "planned_lr"), series_of(history_rows, "learning_rate")
    differs = ~np.isclose(planned, used, rtol=1e-4, atol=0, equal_nan=True)
    ax = new_axes(ax)
    # A line through one epoch would not be seen.
    marker = {"marker": "s", "markersize": 11} if len(epochs) == 1 else {}
    ax.plot(epochs, planned, "-", color=ORANGE, linewidth=5, alpha=0.7, label="planned", **marker)
    ax.plot(epochs, used, "o", color=BLUE, markersize=dot_size(epochs), label="used")
    if differs.any():
        style = {"s": 130, "facecolors": "none", "edgecolors": VERMILION, "linewidths": 2}
        ax.scatter(epochs[differs], used[differs], label="not as planned", **style)
    style_epochs(ax, epochs)
    marked = mark_phases(ax, history_rows)
    _style_rates(ax, np.nan_to_num(np.concatenate([planned, used])))
    ax.legend(frameon=False)
    count = int(differs.sum())
    verdict = f"not as planned in {count} of {len(epochs)} epochs" if count else "as planned"
    set_title(ax, f"The learning rate was {verdict}", pad=20 if marked else 8)
    return ax


def plot_rate_search(search, ax: Axes | None = None) -> Axes:
    """The loss at every rate of a range test, each batch's and smoothed, and what is suggested.

    `search` is a `lr_search.LRFinderResult`. The rates are those the optimizer used. A loss that
    diverged runs out of the picture, or the valley would be flat.
    """
    ax = new_axes(ax)
    ax.plot(search.rates, search.losses, ".", color=GREY, alpha=0.45, label="each batch")
    ax.plot(search.rates, search.smoothed, color=BLUE, linewidth=2.2, label="smoothed")
    for name, rate in search.suggestions.items():
        colour, marker, label = SUGGESTED.get(name, (GREY, "^", name))
        loss = np.interp(np.log(rate), np.log(search.rates), search.smoothed)
        ax.axvline(rate, color=colour, linestyle="--", linewidth=1, zorder=0)
        style = {"markersize": 9, "markeredgecolor": "k", "linestyle": "", "zorder": 3}
        ax.plot(rate, loss, marker, color=colour, label=f"{label}: {rate:.2g}", **style)
    ax.set_xscale("log")
    ax.set_xlabel(f"learning rate, for batches of {search.global_batch:,}")
    ax.set_ylabel("training loss")
    _show_the_valley(ax, search)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.9")
    ax.set_axisbelow(True)
    ax.legend(framealpha=0.85, edgecolor="none")
    set_title(ax, f"Range test: {search.stop_reason}")
    return ax


def _show_the_valley(ax: Axes, search) -> None:
    """Limits from the first half, which is before any divergence, down to the lowest loss of all."""
    half = slice(0, len(search.rates) // 2 + 1)
    high = max(search.losses[half].max(), search.smoothed[half].max())
    low = min(search.losses.min(), search.smoothed.min())
    room = 0.1 * (high - low) or 0.1
    ax.set_ylim(low - room, high + 2 * room)


def new_axes(ax: Axes | None, figsize=(7.5, 4.0), layout: str = "constrained") -> Axes:
    """`ax`, or without one those of a new pyplot figure (size in inches)."""
    return plt.subplots(figsize=figsize, layout=layout)[1] if ax is None else ax


def set_title(ax: Axes, text: str, pad: float = 8) -> None:
    """The title at the left, as in every picture here."""
    ax.set_title(text, loc="left", fontsize=11, pad=pad)


def series_of(rows: HistoryRows, key: str) -> np.ndarray:
    """One column of a history, (n,) float64; NaN where a row lacks it."""
    values = [row.get(key) for row in rows]
    return np.array([math.nan if value in (None, "") else float(value) for value in values])


def epochs_of(rows: HistoryRows) -> np.ndarray:
    """The epochs of a history, from 1. Raises ValueError if there are none."""
    if len(rows) == 0:
        raise ValueError("the history is empty: no epoch was finished, so there is no curve.")
    return series_of(rows, "epoch")


def find_phase_starts(rows: HistoryRows) -> list[tuple[int, int]]:
    """(phase, its first epoch) of each phase after the first; [] without a column `phase`."""
    phases, epochs = series_of(rows, "phase"), epochs_of(rows)
    known = np.flatnonzero(np.isfinite(phases))
    return [
        (int(phases[place]), int(epochs[place]))
        for before, place in itertools.pairwise(known)
        if phases[place] != phases[before]
    ]


def mark_phases(ax: Axes, rows: HistoryRows) -> bool:
    """A line, with its name, before each phase but the first; whether there is one."""
    starts = find_phase_starts(rows)
    for phase, epoch in starts:
        ax.axvline(epoch - 0.5, color=GREY, linestyle=":", linewidth=1.4, zorder=0)
        place = {"transform": ax.get_xaxis_transform(), "ha": "left"}
        ax.text(epoch - 0.5, 1.015, f"phase {phase} →", color=GREY, fontsize=9, **place)
    return bool(starts)


def dot_size(epochs: np.ndarray) -> float:
    """The marker size at which so many dots stay apart."""
    return 5.0 if len(epochs) <= 40 else 2.5


def style_epochs(ax: Axes, epochs: np.ndarray) -> None:
    """An x axis of whole epochs, and the look that all curves share."""
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    margin = max(0.5, 0.02 * len(epochs))
    ax.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9")
    ax.set_axisbelow(True)


def _style_rates(ax: Axes, rates: np.ndarray) -> None:
    """One power of ten for all ticks: 0.0001 beside 5e-05 is hard to compare."""
    highest = max(rates, default=0)
    power = math.ceil(math.log10(highest)) - 1 if 0 < highest < math.inf else 0
    ax.set_ylim(0, 1.08 * highest if highest > 0 else None)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate / 10**power:g}"))
    ax.set_ylabel(f"learning rate, in $10^{{{power}}}$")
