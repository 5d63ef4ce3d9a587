"""Pictures of several runs: their curves drawn together, a line an experiment, a band over its seeds.

Axes in the look of `plots_rates`; a colour and a kind of line for each experiment, so that neither
colour-blind people nor a grey print lose one.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from flowerkit.plots.rates import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    HistoryRows,
    epochs_of,
    series_of,
    set_title,
    style_epochs,
)

PANELS = {"val_f1": "Macro F1 on val", "val_loss": "Loss on val", "loss": "Loss in training"}
# Okabe and Ito's, without black and yellow: a page may be dark, or light.
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", "#56B4E9", GREY)
LINES = ("solid", "dashed", "dotted")
MOST_DRAWN = len(COLOURS) * len(LINES)
_CUT = (
    2.5  # times the median of all values; a loss above has diverged, and would flatten all others
)


def line_of(number: int) -> tuple[str, str]:
    """Colour and kind of line (CSS knows both) of the experiment `number`, from 0; 21 are different.

    >>> line_of(0), line_of(7)
    (('#0072B2', 'solid'), ('#0072B2', 'dashed'))
    """
    kind, colour = divmod(number % MOST_DRAWN, len(COLOURS))
    return COLOURS[colour], LINES[kind]


def plot_comparison(histories: Mapping[str, Sequence[HistoryRows]]) -> np.ndarray:
    """Macro F1 and loss on val, and loss in training, by epoch, of experiments by name: (3,) Axes.

    Each experiment has the history of every seed: the line is their mean, the band goes from the
    lowest to the highest, up to the epoch that all of them reached; from there each goes on as a thin
    line. Of more than 21 experiments the first 21 are drawn. Raises ValueError if there are none, or
    a history without epochs.
    """
    if not histories:
        raise ValueError("there is no history to draw.")
    drawn = dict(list(histories.items())[:MOST_DRAWN])
    figure, axes = plt.subplots(1, 3, figsize=(12.6, 4.3), layout="constrained")
    longest = max((epochs_of(rows) for seeds in drawn.values() for rows in seeds), key=len)
    for ax, (key, title) in zip(axes, PANELS.items(), strict=True):
        for number, seeds in enumerate(drawn.values()):
            _plot_experiment(ax, seeds, key, *line_of(number))
        style_epochs(ax, longest)
        is_cut = key != "val_f1" and _cut_losses(ax, drawn, key)
        set_title(ax, f"{title} (what is higher is cut off)" if is_cut else title)
    _add_legend(figure, axes[0], list(drawn))
    return axes


def _plot_experiment(
    ax: Axes, seeds: Sequence[HistoryRows], key: str, colour: str, kind: str
) -> None:
    curves = [series_of(rows, key) for rows in seeds]
    epochs = max((epochs_of(rows) for rows in seeds), key=len)
    common = min(map(len, curves))
    together = np.stack([curve[:common] for curve in curves])
    style = {"color": colour, "linestyle": kind}
    # A single epoch is a point, which no line shows.
    marker = {"marker": "o", "markersize": 4} if common == 1 else {}
    ax.plot(epochs[:common], together.mean(axis=0), linewidth=2, **style, **marker)
    if len(curves) == 1:
        return
    low, high = together.min(axis=0), together.max(axis=0)
    ax.fill_between(epochs[:common], low, high, color=colour, alpha=0.16, linewidth=0)
    for curve in curves:
        if len(curve) > common:
            ax.plot(epochs[common - 1 : len(curve)], curve[common - 1 :], linewidth=0.8, **style)


def _cut_losses(ax: Axes, histories: Mapping[str, Sequence[HistoryRows]], key: str) -> bool:
    """Limits from 0 to where losses still are losses; whether something is above."""
    values = np.concatenate(
        [series_of(rows, key) for seeds in histories.values() for rows in seeds]
    )
    values = values[np.isfinite(values)]
    highest = max(values, default=1.0)
    top = min(highest, _CUT * float(np.median(values))) if len(values) else highest
    ax.set_ylim(0, 1.04 * top if top > 0 else 1.0)
    return bool(highest > top)


def _add_legend(figure, ax: Axes, names: Sequence[str]) -> None:
    """Below all panels, in rows that do not run out of the figure."""
    handles = [
        ax.plot([], [], color=colour, linestyle=kind, linewidth=2)[0]
        for colour, kind in map(line_of, range(len(names)))
    ]
    columns = max(1, min(len(names), 125 // (max(map(len, names)) + 8)))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
