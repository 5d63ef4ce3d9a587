"""A comparison as text: markdown for people, csv for programs. Computes means, decides nothing."""

import csv
import io
import math

from flowerkit.experiments.compare import Comparison, Experiment
from flowerkit.experiments.compared import FIGURES, ComparedRun
from flowerkit.training.plan import TrainingPlan

# Of the figures: what a table calls them, and their digits.
HEADINGS = {
    "val_f1": ("val macro F1", ".3f"),
    "val_accuracy": ("val accuracy", ".3f"),
    "val_loss": ("val loss", ".3f"),
    "accuracy": ("training accuracy", ".3f"),
    "best_epoch": ("best epoch", ".0f"),
    "epochs_done": ("epochs done", ".0f"),
    "minutes": ("minutes", ".1f"),
    "parameters": ("parameters", ",.0f"),
}
_COUNTED = ("best_epoch", "epochs_done")  # of several seeds the range is told, not a mean
_SPREAD = ("val_f1", "val_accuracy", "val_loss")  # the csv has the spread of all


def tabulate(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table, as text: figures first, then what differs.

    With several seeds (n counts the runs) figures are means, those of val ± the sample standard
    deviation, and epochs are ranges.
    """
    (figures, rows), (differing, settings) = (
        tabulate_figures(comparison),
        tabulate_settings(comparison),
    )
    whole = [row + setting[1:] for row, setting in zip(rows, settings, strict=True)]
    return figures + differing[1:], whole


def tabulate_figures(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The part of the table that says what came out."""
    header = ["experiment", "n", *(name for name, _ in HEADINGS.values())]
    return header, [
        [one.name, str(len(one.runs)), *(format_figure(one, figure) for figure in HEADINGS)]
        for one in comparison.experiments
    ]


def tabulate_settings(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """The part of the table that says what differed."""
    return ["experiment", *comparison.differing], [
        [one.name, *(format_value(one.setting[name]) for name in comparison.differing)]
        for one in comparison.experiments
    ]


def format_figure(experiment: Experiment, figure: str) -> str:
    """One cell of the table."""
    digits = HEADINGS[figure][1]
    mean, spread = experiment.mean(figure), experiment.spread(figure)
    if math.isnan(mean):
        return "-"
    if figure in _COUNTED:
        low, high = min(experiment.values(figure)), max(experiment.values(figure))
        return f"{low:.0f}" if low == high else f"{low:.0f}-{high:.0f}"
    if math.isnan(spread) or figure not in _SPREAD:
        return f"{mean:{digits}}"
    return f"{mean:{digits}} ± {spread:{digits}}"


def format_run(run: ComparedRun, figure: str) -> str:
    """The same of a single run."""
    value = FIGURES[figure](run)
    return "-" if math.isnan(value) else f"{value:{HEADINGS[figure][1]}}"


def format_value(value: object) -> str:
    """A plan's value as options are written.

    >>> [spell(value) for value in (None, True, False, 0.001, "tiny")]
    ['none', 'on', 'off', '0.001', 'tiny']
    """
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_shared(comparison: Comparison) -> list[tuple[str, str]]:
    """What is alike in all of them: data, device, and the fields of the plan that are no defaults."""
    default, shared = TrainingPlan().to_dict(), dict(comparison.shared)
    places = [(name, shared.pop(name)) for name in ("data", "device") if name in shared]
    fields = [
        f"{name}={format_value(value)}"
        for name, value in shared.items()
        if value != default[name] or name in ("epochs", "max_lr")
    ]
    return [*places, ("plan", ", ".join([*fields, "every other field its default"]))]


def to_markdown(comparison: Comparison) -> str:
    """The table, the statements, the notes and what is alike, in GitHub's markdown."""
    header, rows = tabulate(comparison)
    lines = [_row(header), _row([":--", *["--:"] * (len(header) - 1)]), *map(_row, rows), ""]
    lines += [f"- {statement}" for statement in comparison.statements]
    lines += [""] * bool(comparison.statements)
    if comparison.num_runs > 1:
        lines += ["Alike in all:", ""]
        lines += [f"- {name}: {value}" for name, value in describe_shared(comparison)] + [""]
    lines += [note + "\n" for note in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def to_csv(comparison: Comparison) -> str:
    """A row an experiment: name, n, seeds, mean and sample standard deviation of each figure, and what
    differs; numbers in full, empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [column for figure in HEADINGS for column in (figure, f"{figure}_sd")]
    writer.writerow(["experiment", "n", "seeds", *columns, *comparison.differing])
    for experiment in comparison.experiments:
        figures = [
            value
            for figure in HEADINGS
            for value in (experiment.mean(figure), experiment.spread(figure))
        ]
        writer.writerow(
            [
                experiment.name,
                len(experiment.runs),
                " ".join(str(run.facts.plan.seed) for run in experiment.runs),
                *map(_write_number, figures),
                *(format_value(experiment.setting[name]) for name in comparison.differing),
            ]
        )
    return out.getvalue()


def _write_number(value: float) -> str:
    """Whole numbers in full, others with the seven digits that a history has; "" for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if value.is_integer() else f"{value:.7g}"
