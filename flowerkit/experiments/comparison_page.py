"""A comparison -> files: a page, its curves, and the table as markdown and csv."""

import os
from pathlib import Path

import flowerkit
from flowerkit import plots
from flowerkit.experiments.comparison import FIGURES, Comparison
from flowerkit.experiments.tables import (
    describe_shared,
    tabulate_figures,
    tabulate_runs,
    tabulate_settings,
    to_csv,
    to_markdown,
)
from flowerkit.files import write_text
from flowerkit.reports import encode_figure, new_panel, render
from flowerkit.text import format_value


def write_comparison(comparison: Comparison, folder: str | os.PathLike) -> list[Path]:
    """Write compare.html, compare.md, compare.csv and compare.png into `folder`; returns the files."""
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
    best = " and ".join(leader.name for leader in comparison.leaders)
    panels = plots.plot_comparison(histories, [new_panel() for _ in plots.COMPARED])
    num = len(comparison.experiments)
    heading = best if num == 1 else f"{num} experiments compared"
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
        shared=describe_shared(comparison),
        shared_values={name: format_value(value) for name, value in comparison.shared.items()},
        line_styles=list(map(plots.line_style, range(plots.MAX_EXPERIMENTS))),
        curves=[
            encode_figure(panel, f"{title} by epoch; the highest macro F1 has {best}.")
            for panel, title in zip(panels, plots.COMPARED.values(), strict=True)
        ],
    )
    write_text(html, page)
    return [html, markdown, numbers, curves]
