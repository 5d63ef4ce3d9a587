"""A comparison -> files: a page that needs no other, its curves, and the table as markdown and csv."""

import os
from pathlib import Path

import numpy as np

import flowerkit
from flowerkit.experiments.compare import Comparison
from flowerkit.experiments.tables import (
    HEADINGS,
    describe_shared,
    format_run,
    format_value,
    tabulate_figures,
    tabulate_settings,
    to_csv,
    to_markdown,
)
from flowerkit.files import replacing, write_text
from flowerkit.plots.comparison import MOST_DRAWN, PANELS, line_of, plot_comparison
from flowerkit.reports.html import (
    Html,
    Picture,
    element,
    facts,
    figures,
    fold,
    image,
    join,
    page,
    section,
    table,
)
from flowerkit.reports.pictures import drawable, drawing, encode_panels
from flowerkit.text import pluralize

PAGE, TABLE, NUMBERS, CURVES = "compare.html", "compare.md", "compare.csv", "compare.png"
# Three beside each other on a screen, one below the other on a phone.
_THREE = "grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr))"
_CHIP = "display:inline-block;width:1.7em;vertical-align:middle;margin-right:.45em;border-top:.2em"


def write_comparison(comparison: Comparison, folder: str | os.PathLike) -> list[Path]:
    """Write compare.html, compare.md, compare.csv and compare.png into `folder`; returns the files."""
    folder = Path(folder)
    write_text(folder / TABLE, to_markdown(comparison))
    write_text(folder / NUMBERS, to_csv(comparison))
    with drawing([experiment.name for experiment in comparison.experiments]):
        axes = _plot(comparison)
        with replacing(folder / CURVES) as temporary:
            axes[0].figure.savefig(temporary, dpi=150)
        best = " and ".join(leader.name for leader in comparison.leaders)
        alts = [f"{title} by epoch; the highest macro F1 has {best}." for title in PANELS.values()]
        curves = encode_panels(axes, alts)  # which closes the figure
    write_text(folder / PAGE, build_page(comparison, curves))
    return [folder / name for name in (PAGE, TABLE, NUMBERS, CURVES)]


def build_page(comparison: Comparison, curves: list[Picture]) -> str:
    """The whole page as text, with the encoded pictures of `plot_comparison` inside."""
    best = comparison.experiments[0]
    title = f"{len(comparison.experiments)} experiments compared"
    if len(comparison.experiments) == 1:
        title = best.name
    return page(
        f"{title}: flowerkit",
        element("h1", title),
        figures(_headlines(comparison)),
        _describe_figures(comparison),
        _describe_chance(comparison),
        _describe_settings(comparison),
        _describe_curves(comparison, curves),
        _describe_shared(comparison),
        element("footer", f"flowerkit {flowerkit.__version__}", class_="soft"),
    )


def _plot(comparison: Comparison) -> np.ndarray:
    return plot_comparison(
        {
            drawable(experiment.name): [run.facts.rows for run in experiment.runs]
            for experiment in comparison.experiments
        }
    )


def _headlines(comparison: Comparison) -> list[tuple[str, str, str]]:
    minutes = sum(one.mean("minutes") * len(one.runs) for one in comparison.experiments)
    num_runs = comparison.num_runs
    # One figure for each set of experiments that can be compared, none over all.
    what = ", on val images of its own" if len(comparison.leaders) > 1 else ""
    return [
        *(
            ("Highest macro F1", f"{leader.mean('val_f1'):.3f}", leader.name + what)
            for leader in comparison.leaders
        ),
        ("Runs", f"{num_runs:,}", f"of {pluralize(len(comparison.experiments), 'experiment')}"),
        ("Training", f"{minutes:,.0f} min", "in all"),
    ]


def _chip(number: int) -> Html:
    """The line of an experiment, as in the curves; one that is not drawn has none."""
    if number >= MOST_DRAWN:
        return Html("")
    colour, kind = line_of(number)
    return element("span", style=f"{_CHIP} {kind} {colour}", aria_hidden="true")


def _experiment_table(part: tuple[list[str], list[list[str]]], what: str, **attributes) -> Html:
    header, rows = part
    named = [
        [_name_cell(_chip(number), element("bdi", row[0])), *row[1:]]
        for number, row in enumerate(rows)
    ]
    return table(map(_break_heading, header), named, what=what, **attributes)


def _describe_figures(comparison: Comparison) -> Html:
    # Small, so that all columns stand on a screen even with their spread.
    figures = _experiment_table(
        tabulate_figures(comparison), "what came out", style="font-size:.875rem"
    )
    return section("What came out", figures)


def _describe_settings(comparison: Comparison) -> Html:
    if not comparison.differing:
        return Html("")
    settings = _experiment_table(tabulate_settings(comparison), "what differed", class_="plan")
    return section("What differed", settings)


def _name_cell(*children: Html) -> Html:
    """The first cell of a row; wide enough on a screen that names need not break."""
    return element("td", *children, style="min-width:min(14rem,36vw)")


def _break_heading(text: str) -> Html:
    """Two lines where there are two words: so many columns fit."""
    return join(text.split(" ", 1), "<br>")


def _describe_chance(comparison: Comparison) -> Html:
    if not comparison.statements and not comparison.notes:
        return Html("")
    said = [element("li", statement) for statement in comparison.statements]
    notes = [element("p", note, class_="soft") for note in comparison.notes]
    return section("What of it is chance", element("ul", *said) if said else "", *notes)


def _describe_curves(comparison: Comparison, curves: list[Picture]) -> Html:
    shown = comparison.experiments[:MOST_DRAWN]
    names = [
        element(
            "span",
            _chip(number),
            element("bdi", one.name),
            style="margin-right:1.4em;display:inline-block",
        )
        for number, one in enumerate(shown)
    ]
    remark = ""
    if comparison.num_runs > len(comparison.experiments):
        remark = (
            "A line is the mean over the seeds, its band goes from the lowest to the highest; from "
            "where the first seed ended, each is a thin line. "
        )
    if len(shown) < len(comparison.experiments):
        remark += f"The best {len(shown)} of {len(comparison.experiments)} are drawn."
    plots = [element("figure", image(curve)) for curve in curves]
    return section(
        "Curves",
        element("p", *names),
        element("div", *plots, class_="plots", style=_THREE),
        element("p", remark, class_="soft") if remark else "",
        fold("Every run in numbers", _run_table(comparison)),
    )


def _run_table(comparison: Comparison) -> Html:
    header = ["run", "seed", *(name for name, _ in HEADINGS.values()), "stopped because"]
    rows = [
        [
            _name_cell(element("bdi", run.facts.name)),
            run.facts.plan.seed,
            *(format_run(run, figure) for figure in HEADINGS),
            run.facts.result.get("stop_reason") or "-",
        ]
        for experiment in comparison.experiments
        for run in experiment.runs
    ]
    return table(map(_break_heading, header), rows, what="every run")


def _describe_shared(comparison: Comparison) -> Html:
    pairs = [(name, format_value(value)) for name, value in comparison.shared.items()]
    title = "The plan" if len(comparison.experiments) == 1 else "Alike in all"
    return section(title, facts(describe_shared(comparison)), fold("Every field", facts(pairs)))
