"""A comparison -> files: a page, its curves, and the table as markdown and csv."""

import logging
import os
from pathlib import Path

import numpy as np

import flowerkit
from flowerkit import plots
from flowerkit.experiments.comparison import FIGURES, Comparison
from flowerkit.experiments.tables import (
    describe_shared,
    tabulate_classes,
    tabulate_figures,
    tabulate_runs,
    tabulate_settings,
    to_csv,
    to_markdown,
)
from flowerkit.files import write_text
from flowerkit.reports import Picture, draw_experiments, encode_photos, render
from flowerkit.text import format_value
from flowerkit.training import RunFolder, SavedRun

SHOWN_DISAGREEMENTS = 12  # photos that one run alone has right, of each of two
PHOTO_PX = 160
PHOTO_BYTES = 1_000_000

_log = logging.getLogger("flowerkit")


def write_comparison(comparison: Comparison, folder: str | os.PathLike) -> list[Path]:
    """Write compare.html, compare.md, compare.csv and compare.png into `folder`; returns the files.

    The page has photos where the data of the best run is where it was in training.
    """
    html, markdown, numbers, curves = (
        Path(folder) / f"compare.{kind}" for kind in ("html", "md", "csv", "png")
    )
    write_text(markdown, to_markdown(comparison))
    write_text(numbers, to_csv(comparison))
    histories = {
        experiment.name: [run.history for run in experiment.runs]
        for experiment in comparison.experiments
    }
    with plots.off_screen():
        plots.save_figure(plots.plot_comparison(histories), curves)
    num = len(comparison.experiments)
    heading = comparison.experiments[0].name if num == 1 else f"{num} experiments compared"
    disagreements = find_disagreements(comparison)
    best = " and ".join(leader.name for leader in comparison.leaders)
    charts = [
        draw_experiments(title, f"The highest macro F1 has {best}.", histories, column, ".3f")
        for column, title in plots.COMPARED.items()
    ]
    page = render(
        "comparison.html.j2",
        title=f"{heading}: flowerkit",
        version=flowerkit.__version__,
        heading=heading,
        comparison=comparison,
        minutes=sum(FIGURES["minutes"].of(run) for run in comparison.runs),
        results=tabulate_figures(comparison),
        settings=tabulate_settings(comparison),
        runs=tabulate_runs(comparison),
        classes=tabulate_classes(comparison),
        disagreements=disagreements,
        shown=SHOWN_DISAGREEMENTS,
        photos=_encode_photos(comparison.leaders[0].runs[0], disagreements),
        shared=describe_shared(comparison),
        shared_values={name: format_value(value) for name, value in comparison.shared.items()},
        num_styles=plots.NUM_STYLES,
        charts=charts,
    )
    write_text(html, page)
    return [html, markdown, numbers, curves]


def find_disagreements(comparison: Comparison) -> tuple[list[int], list[int]]:
    """The rows of val that the best run alone has right, and those that its rival's first run alone has.

    In the order of the ids, and by the probability that the other gave the true class: least first.
    """
    if comparison.rival is None:
        return [], []
    best, rival = comparison.leaders[0].runs[0], comparison.rival.runs[0]
    found = []
    for right, wrong in ((best, rival), (rival, best)):
        rows = np.flatnonzero((right.predicted == best.labels) & (wrong.predicted != best.labels))
        given = wrong.probabilities[rows, best.labels[rows]]
        found.append(rows[np.argsort(given, kind="stable")].tolist())
    return tuple(found)


def _encode_photos(run: SavedRun, disagreements) -> dict[int, Picture]:
    """The val photos shown, by their row; {}, which is logged, where the run's data are gone."""
    rows = [row for side in disagreements for row in side[:SHOWN_DISAGREEMENTS]]
    if not rows:
        return {}
    try:
        val = RunFolder(run.path).split("val")
    except (OSError, ValueError) as error:
        _log.warning(f"a comparison without photos: {error}")
        return {}
    order = np.argsort(val.ids, kind="stable")  # of the predictions of a comparison
    sizes = dict.fromkeys(order[rows].tolist(), PHOTO_PX)
    row_of = dict(zip(sizes, rows, strict=True))
    found = encode_photos(val.images, sizes, PHOTO_BYTES)
    return {row_of[place]: picture for place, picture in found.items()}
