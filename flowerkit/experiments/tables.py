"""A comparison as text: markdown for people, csv for programs."""

import math

import numpy as np

from flowerkit.experiments.comparison import FIGURES, Comparison, Experiment
from flowerkit.metrics import class_report
from flowerkit.text import format_csv, format_value
from flowerkit.training import TrainingPlan

Table = tuple[list[str], list[list[str]]]  # header, rows

_RANGES = ("best_epoch", "epochs_done")  # shown as a range over the seeds, not as a mean
_SPREAD = ("val_f1", "val_accuracy", "val_loss")  # shown with ±; the csv has the spread of all


def tabulate_figures(comparison: Comparison) -> Table:
    """The results: a row for each experiment, n counts its runs."""
    header = ["experiment", "n", *(figure.heading for figure in FIGURES.values())]
    return header, [
        [each.name, str(len(each.runs)), *(_format(each, name) for name in FIGURES)]
        for each in comparison.experiments
    ]


def tabulate_settings(comparison: Comparison) -> Table:
    """The fields in which the experiments differ."""
    names = comparison.differing
    return ["experiment", *names], [
        [experiment.name, *(format_value(experiment.setting[name]) for name in names)]
        for experiment in comparison.experiments
    ]


def tabulate_runs(comparison: Comparison) -> Table:
    """A row for each run."""
    header = ["run", "seed", *(figure.heading for figure in FIGURES.values()), "stopped because"]
    rows = []
    for run in comparison.runs:
        figures = [format(figure.of(run), figure.form) for figure in FIGURES.values()]
        rows.append([run.name, str(run.plan.seed), *figures, run.result.stop_reason])
    return header, rows


def tabulate_classes(comparison: Comparison) -> list[dict]:
    """The F1 of each class, by the best experiment and its rival, the largest difference first.

    Each row has name, best, rival, difference (best - rival) and support; F1 is the mean over the seeds.
    Empty where there is no rival.
    """
    if comparison.rival is None:
        return []
    first, second = (
        [class_report(run.labels, run.predicted, run.class_names) for run in each.runs]
        for each in (comparison.leaders[0], comparison.rival)
    )
    found = []
    for place, row in enumerate(first[0]):
        best = float(np.mean([report[place]["f1"] for report in first]))
        rival = float(np.mean([report[place]["f1"] for report in second]))
        scores = {"best": best, "rival": rival, "difference": best - rival}
        found.append({"name": row["name"], "support": row["support"]} | scores)
    return sorted(found, key=lambda row: -abs(row["difference"]))


def _format(experiment: Experiment, name: str) -> str:
    form, values, spread = FIGURES[name].form, experiment.values(name), experiment.spread(name)
    if name in _RANGES and values.min() < values.max():
        return f"{values.min():{form}}-{values.max():{form}}"
    mean = f"{values.mean():{form}}"
    return f"{mean} ± {spread:{form}}" if name in _SPREAD and len(values) > 1 else mean


def describe_shared(comparison: Comparison) -> list[tuple[str, str]]:
    """What all have in common: data, device, and the fields of the plan that are no defaults."""
    default, shared = TrainingPlan().to_dict(), dict(comparison.shared)
    places = [(name, shared.pop(name)) for name in ("data", "device") if name in shared]
    values = [
        f"{name}={format_value(value)}"
        for name, value in shared.items()
        if value != default[name] or name in ("epochs", "max_lr")
    ]
    return [*places, ("plan", ", ".join([*values, "every other field its default"]))]


def to_markdown(comparison: Comparison) -> str:
    """The table (results, then differences), the statements, the notes and what all have in common."""
    figures, results = tabulate_figures(comparison)
    differing, settings = tabulate_settings(comparison)
    header = figures + differing[1:]
    rows = [result + setting[1:] for result, setting in zip(results, settings, strict=True)]
    rows = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [*(f"| {' | '.join(row)} |" for row in cells), ""]
    if comparison.statements:
        lines += [*(f"- {statement}" for statement in comparison.statements), ""]
    if len(comparison.runs) > 1:
        shared = [f"- {name}: {value}" for name, value in describe_shared(comparison)]
        lines += ["In common:", "", *shared, ""]
    lines += [note + "\n" for note in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"


def to_csv(comparison: Comparison) -> str:
    """A row for each experiment: name, n, seeds, mean and sample standard deviation of each figure, and
    the fields that differ; numbers in full, empty where there is none."""
    columns = [column for name in FIGURES for column in (name, f"{name}_sd")]
    rows = [["experiment", "n", "seeds", *columns, *comparison.differing]]
    for each in comparison.experiments:
        seeds = " ".join(str(run.plan.seed) for run in each.runs)
        values = [value for name in FIGURES for value in (each.mean(name), each.spread(name))]
        figures = ["" if math.isnan(value) else f"{value:.10g}" for value in values]
        differing = [format_value(each.setting[name]) for name in comparison.differing]
        rows.append([each.name, len(each.runs), seeds, *figures, *differing])
    return format_csv(rows)
