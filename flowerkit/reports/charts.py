"""Numbers -> the geometry of small SVG charts, which the templates draw in the page's own colours.

Everything is in the units of a view box of `WIDTH` x `HEIGHT`, y downwards. What a pointer, a finger or
the arrow keys show of a chart are its `steps`.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from flowerkit import plots
from flowerkit.metrics import Calibration
from flowerkit.text import pluralize

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 20, 24  # of the box, around the plot

Rows = Sequence[Mapping[str, float]]


class Tick(NamedTuple):
    """A place on an axis and its text."""

    place: float
    text: str


class Step(NamedTuple):
    """A part of a chart that can be pointed at: its box, and what is there in words."""

    x: float
    y: float
    width: float
    height: float
    text: str


class Line(NamedTuple):
    """A curve: the `style` (0..20) that its colour and dashes come from, and paths of SVG.

    `path` is its line, `thin` what is drawn with a thin one, `band` an area; `dots` are (x, y).
    """

    label: str
    style: int
    path: str
    thin: str = ""
    band: str = ""
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart, ready to be drawn. `marks` are vertical lines; `summary` says in words what it shows."""

    title: str
    summary: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    bars: tuple[tuple[float, float, float, float], ...] = ()
    marks: tuple[Tick, ...] = ()
    steps: tuple[Step, ...] = ()


class _Scale(NamedTuple):
    """Values of `low` to `high` -> places of `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, num: int, integer: bool = False) -> tuple[Tick, ...]:
        found = MaxNLocator(num, steps=[1, 2, 2.5, 5, 10], integer=integer, min_n_ticks=1)
        values = found.tick_values(self.low, self.high)
        inside = [value for value in values if self.low - 1e-12 <= value <= self.high * (1 + 1e-9)]
        return tuple(Tick(self(value), f"{round(value, 12):g}") for value in inside)


# Curves by epoch ------------------------------------------------------------------------------------


def draw_history(
    title: str, summary: str, history: Rows, columns: Mapping[str, str], form: str, best_epoch: int
) -> Chart:
    """Columns of one run's history by epoch; `columns` maps them to their labels, `form` writes a value.

    The best epoch is a vertical line, and where a phase begins is another.
    """
    lines = {label: [history] for label in columns.values()}
    names = dict(zip(columns.values(), columns, strict=True))
    marks = {best_epoch: "", **plots.find_phases(history)}
    return _draw(title, summary, lines, names.get, form, marks=marks)


def draw_experiments(
    title: str, summary: str, histories: Mapping[str, Sequence[Rows]], column: str, form: str
) -> Chart:
    """One column of several experiments, by name; each has a history for each of its seeds.

    The line is their mean and the band their range, up to the epoch that all reached; from there each
    seed is a thin line. A loss that diverged leaves the chart.
    """
    drawn = dict(itertools.islice(histories.items(), plots.NUM_STYLES))
    return _draw(title, summary, drawn, lambda _: column, form, is_cut=column != "val_f1")


def _draw(title, summary, histories, column_of, form, *, marks=(), is_cut=False) -> Chart:
    curves = {
        label: [np.array([row.get(column_of(label), math.nan) for row in rows]) for rows in seeds]
        for label, seeds in histories.items()
    }
    values = np.concatenate([curve for seeds in curves.values() for curve in seeds])
    num_epochs = max(len(curve) for seeds in curves.values() for curve in seeds)
    top = max(values[np.isfinite(values)], default=1.0)
    if is_cut:
        top, title = plots.cut_diverged(values, title)
    x = _Scale(0.5, num_epochs + 0.5, LEFT, WIDTH - RIGHT)
    y = _Scale(0, 1.04 * top if top > 0 else 1.0, HEIGHT - BOTTOM, TOP)
    width = (WIDTH - LEFT - RIGHT) / num_epochs
    steps = []
    for epoch in range(1, num_epochs + 1):
        reached = {
            label: [curve[epoch - 1] for curve in seeds if len(curve) >= epoch]
            for label, seeds in curves.items()
        }
        means = {label: float(np.mean(found)) for label, found in reached.items() if found}
        said = ", ".join(
            f"{label} {mean:{form}}" for label, mean in means.items() if math.isfinite(mean)
        )
        left = round(x(epoch) - width / 2, 1)
        text = f"Epoch {epoch}: {said}"
        steps.append(Step(left, TOP, round(width, 1), HEIGHT - TOP - BOTTOM, text))
    lines = [_draw_line(label, k, curves[label], x, y) for k, label in enumerate(curves)]
    return Chart(
        title,
        summary,
        x_label="epoch",
        x_ticks=x.ticks(8, integer=True),
        y_ticks=y.ticks(5),
        lines=tuple(lines),
        marks=tuple(Tick(x(place), text) for place, text in dict(marks).items()),
        steps=tuple(steps),
    )


def _draw_line(label: str, style: int, seeds: Sequence[np.ndarray], x: _Scale, y: _Scale) -> Line:
    common = min(map(len, seeds))
    together = np.stack([curve[:common] for curve in seeds])
    mean, low, high = together.mean(axis=0), together.min(axis=0), together.max(axis=0)
    band = ""
    if len(seeds) > 1 and common > 1 and np.isfinite(together).all():
        there, back = enumerate(high, 1), reversed(list(enumerate(low, 1)))
        band = _path([*there, *back], x, y) + "Z"
    longer = [curve[common - 1 :] for curve in seeds if len(curve) > common]
    thin = [_path(enumerate(rest, common), x, y) for rest in longer]
    single = ((x(1), y(float(mean[0]))),) if common == 1 and math.isfinite(mean[0]) else ()
    return Line(label, style, _path(enumerate(mean, 1), x, y), " ".join(thin), band, single)


def _path(points: Iterable[tuple[float, float]], x: _Scale, y: _Scale) -> str:
    """Lines through the points, with gaps where a value is not a number."""
    parts, command = [], "M"
    for place, value in points:
        if math.isfinite(value):
            parts.append(f"{command}{x(place):g} {max(y(float(value)), -HEIGHT):g}")
        command = "L" if math.isfinite(value) else "M"
    return "".join(parts)


# Others ---------------------------------------------------------------------------------------------


def draw_calibration(calibration: Calibration) -> Chart:
    """How often predictions are right (bars), by their probability (dots); see `metrics.calibration`."""
    x, y = _Scale(0, 1, LEFT, WIDTH - RIGHT), _Scale(0, 1, HEIGHT - BOTTOM, TOP)
    edges, bars, steps, dots = calibration.edges, [], [], []
    for k in np.flatnonzero(calibration.counts):
        left, width = x(edges[k]), round(x(edges[k + 1]) - x(edges[k]), 1)
        right, sure = float(calibration.accuracy[k]), float(calibration.confidence[k])
        bars.append((left + 1, y(right), width - 2, round(y(0) - y(right), 1)))
        dots.append((round(left + width / 2, 1), y(sure)))
        num = pluralize(int(calibration.counts[k]), "image")
        said = f"{num} with a mean probability of {sure:.0%}: {right:.0%} right"
        steps.append(Step(left, TOP, width, y(0) - TOP, said))
    error = f"Expected calibration error {calibration.error:.3f}"
    lines = (
        Line("as sure as right", 6, f"M{x(0)} {y(0)}L{x(1)} {y(1)}"),
        Line("mean probability", 1, "", dots=tuple(dots)),
    )
    return Chart(
        title="Right predictions, by their probability",
        summary=f"{error}; {calibration.tendency} on average.",
        x_label="probability",
        x_ticks=x.ticks(5),
        y_ticks=y.ticks(5),
        lines=lines,
        bars=tuple(bars),
        steps=tuple(steps),
    )
