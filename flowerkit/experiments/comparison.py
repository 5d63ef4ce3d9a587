"""Run folders -> a comparison: settings, results, and whether chance explains the differences."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowerkit.metrics import Interval, bootstrap_difference
from flowerkit.prediction import Predictions
from flowerkit.text import format_epochs, join_some, pluralize
from flowerkit.training import SavedRun, describe_difference


class Figure(NamedTuple):
    """A number of one run: its heading in a table, its format there, and where it comes from."""

    heading: str
    form: str
    of: Callable[[SavedRun], float]


FIGURES = {
    "val_f1": Figure("val macro F1", ".3f", lambda run: run.history.best["val_f1"]),
    "val_accuracy": Figure("val accuracy", ".3f", lambda run: run.history.best["val_accuracy"]),
    "val_loss": Figure("val loss", ".3f", lambda run: run.history.best["val_loss"]),
    "accuracy": Figure("training accuracy", ".3f", lambda run: run.history.best["accuracy"]),
    "best_epoch": Figure("best epoch", ".0f", lambda run: run.history.best["epoch"]),
    "epochs_done": Figure("epochs done", ".0f", lambda run: len(run.history)),
    "minutes": Figure("minutes", ".1f", lambda run: sum(x["seconds"] for x in run.history) / 60),
    "parameters": Figure("parameters", ",.0f", lambda run: run.num_parameters),
}


@dataclass(frozen=True, eq=False)
class Experiment:
    """Runs that differ in nothing but the seed, under one name."""

    name: str
    runs: tuple[SavedRun, ...]

    @cached_property
    def setting(self) -> dict[str, object]:
        """All that was chosen but the seed: the plan's fields, then device and data."""
        return _find_setting(self.runs[0])

    def values(self, figure: str) -> np.ndarray:
        """One of `FIGURES` of each run, (n,) float64."""
        return np.array([FIGURES[figure].of(run) for run in self.runs], np.float64)

    def mean(self, figure: str) -> float:
        """The mean of a figure over the runs."""
        return float(self.values(figure).mean())

    def spread(self, figure: str) -> float:
        """The sample standard deviation (of n - 1) of a figure; NaN for a single run."""
        values = self.values(figure)
        return float(values.std(ddof=1)) if len(values) > 1 else math.nan


@dataclass(frozen=True, eq=False)
class Comparison:
    """Experiments, highest mean macro F1 on val first.

    `differing` are the fields (of the plan, device, data) in which they differ, `shared` the others with
    their values. Of each experiment but the best a sentence of `statements` says whether chance
    explains its distance; `notes` name the method and its limits. `leaders` are the best of each set of
    experiments that can be compared; `rival` is the next best one that can be compared with the first,
    and `verdict` says in a sentence which wins.
    """

    verdict: str
    experiments: tuple[Experiment, ...]
    differing: tuple[str, ...]
    shared: Mapping[str, object]
    statements: tuple[str, ...]
    notes: tuple[str, ...]
    leaders: tuple[Experiment, ...]
    rival: Experiment | None

    @property
    def runs(self) -> list[SavedRun]:
        """The runs of all experiments."""
        return [run for experiment in self.experiments for run in experiment.runs]


def compare_runs(folders: Sequence[str | os.PathLike] | str | os.PathLike) -> Comparison:
    """Compare finished runs; those that differ in nothing but the seed are one experiment.

    Device and data count like fields of the plan. Where two experiments were validated on the same
    images of the same classes, `metrics.bootstrap_difference` decides whether their difference is noise.

    Raises ValueError for no folder and a folder that is given twice, and what `SavedRun.load` raises.
    """
    if isinstance(folders, str | os.PathLike):
        folders = [folders]
    if not folders:
        raise ValueError("there is nothing to compare: pass one run folder or more.")
    places = [Path(folder).resolve() for folder in folders]
    for number, folder in enumerate(folders):
        if places[number] in places[:number]:
            raise ValueError(f"{folder} is given twice. Pass each run once.")
    groups: dict[tuple, list[SavedRun]] = {}
    for run in map(_load_sorted, folders):
        chosen = json.dumps([_find_setting(run), run.class_names])
        groups.setdefault((chosen, run.predictions.ids.tobytes()), []).append(run)
    runs = list(map(tuple, groups.values()))
    found = map(Experiment, _name_groups(runs), runs)
    experiments = tuple(sorted(found, key=lambda experiment: -experiment.mean("val_f1")))
    settings = [experiment.setting for experiment in experiments]
    shared = {
        name: value
        for name, value in settings[0].items()
        if all(setting[name] == value for setting in settings)
    }
    differing = tuple(name for name in settings[0] if name not in shared)
    leaders, statements, intervals = _judge(experiments)
    notes = [*_explain(intervals), *(note for each in experiments for note in _note_runs(each))]
    if "device" in differing:
        notes.append("They ran on different devices: their minutes cannot be compared.")
    rival = next((each for each in experiments if each not in leaders), None)
    if rival and _find_mismatch(leaders[0].runs[0], rival.runs[0]):
        rival = None
    return Comparison(
        verdict=_name_winner(experiments, leaders, intervals),
        experiments=experiments,
        differing=differing,
        shared=shared,
        statements=tuple(statements),
        notes=tuple(notes),
        leaders=leaders,
        rival=rival,
    )


def _load_sorted(folder: str | os.PathLike) -> SavedRun:
    """The run with its predictions by ascending id, so that rows of two runs are the same image."""
    run = SavedRun.load(folder)
    order = np.argsort(run.predictions.ids, kind="stable")
    arrays = run.predictions.ids[order], run.probabilities[order], run.labels[order]
    return replace(run, predictions=Predictions(*arrays))


def _find_setting(run: SavedRun) -> dict[str, object]:
    values = run.fitted.asked(run.plan).to_dict()
    del values["seed"]
    if run.environment.schedule:  # given in Python, over the plan's
        values["schedule"] = run.environment.schedule
    device, data = run.environment.accelerator, run.environment.data
    replicas = f" x {device.replicas}" if device.replicas > 1 else ""
    origin = "" if data.origin == "folder" else f"{data.origin}, "
    return values | {
        "device": f"{device.kind}{replicas}, {device.backend}, {device.precision}",
        "data": f"{origin}{len(data.class_names):,} classes, {data.image_size} px, "
        f"{data.counts['train']:,} to train, {data.counts['val']:,} to validate",
    }


def _name_groups(groups: list[list[SavedRun]]) -> list[str]:
    """Names of experiments: their folders' without the seed, with as much of the path as they need."""

    def name_run(run: SavedRun, depth: int) -> str:
        name = "/".join(run.path.resolve().parts[-depth:])
        stem = name.removesuffix(f"seed{run.plan.seed}")
        return stem.rstrip("-_. ") or name if stem != name else name

    for depth in range(1, 10):
        stems = [dict.fromkeys(name_run(run, depth) for run in group) for group in groups]
        names = [join_some(list(each), 1) for each in stems]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


# Chance -------------------------------------------------------------------------------------------


def _judge(
    experiments: Sequence[Experiment],
) -> tuple[tuple[Experiment, ...], list[str], list[Interval]]:
    leaders, statements, intervals = list(experiments[:1]), [], []
    for experiment in experiments[1:]:
        mismatches = [_find_mismatch(leader.runs[0], experiment.runs[0]) for leader in leaders]
        if None in mismatches:
            leader = leaders[mismatches.index(None)]
            first, second = ([run.predicted for run in x.runs] for x in (leader, experiment))
            intervals.append(bootstrap_difference(leader.runs[0].labels, first, second))
            statements.append(_describe_interval(leader, experiment, intervals[-1]))
        else:
            leader, reason = leaders[0], mismatches[0]
            statements.append(f"{experiment.name} and {leader.name} cannot be compared: {reason}.")
            leaders.append(experiment)
    return tuple(leaders), statements, intervals


def _find_mismatch(first: SavedRun, second: SavedRun) -> str | None:
    """Why the scores of two runs cannot be compared, or None: their classes, images or labels differ."""
    if first.class_names != second.class_names:
        difference = describe_difference(second.class_names, first.class_names)
        return f"they know different classes ({difference})"
    first_ids, second_ids = first.predictions.ids, second.predictions.ids
    if not np.array_equal(first_ids, second_ids):
        common = len(np.intersect1d(first_ids, second_ids))
        return (
            f"they were validated on different images ({len(second_ids):,} and {len(first_ids):,}, "
            f"{common:,} of them in both)"
        )
    if repeated := len(first_ids) - len(np.unique(first_ids)):
        return (
            f"{first.name}: {pluralize(repeated, 'id')} more than once, so images cannot be paired"
        )
    if differ := int(np.sum(first.labels != second.labels)):
        return f"{differ:,} of their validation images have different labels"
    return None


def _name_winner(
    experiments: Sequence[Experiment], leaders: Sequence[Experiment], intervals: Sequence[Interval]
) -> str:
    best, *others = experiments
    score = f"macro F1 {best.mean('val_f1'):.3f} on val"
    if not others:
        return f"{best.name}: {score}."
    if len(leaders) > 1:
        names = join_some([leader.name for leader in leaders], 3)
        return f"No common winner: not all can be compared. The best of those that can are {names}."
    tied = [x.name for x, interval in zip(others, intervals, strict=True) if interval.is_noise]
    if tied:
        names = join_some(tied, 3, " and ")
        return f"No clear winner: {best.name} is first ({score}), but {names} might be as good."
    return f"{best.name} wins: {score}, ahead of {others[0].name} by more than noise."


def _describe_interval(leader: Experiment, experiment: Experiment, interval: Interval) -> str:
    # Adding zero: a rounded -0.0 would be written with its sign.
    difference, low, high = (
        f"{round(value, 3) + 0.0:.3f}"
        for value in (interval.difference, interval.low, interval.high)
    )
    behind = f"{experiment.name} is {difference} of macro F1 behind {leader.name}"
    between = f"95 % interval {low} to {high}"
    if interval.is_noise:
        return f"{behind}, which is inside the noise ({between}): no winner."
    return f"{behind}, which is more than noise ({between})."


def _explain(intervals: Sequence[Interval]) -> list[str]:
    if not intervals:
        return []
    seeds = [interval.num_seeds for interval in intervals]
    notes = [
        "A difference counts as noise where its 95 % interval holds zero. The interval is that of 2,000 "
        "paired bootstrap samples of the validation images, the same for both (Efron & Tibshirani 1993, "
        "chapter 8)."
    ]
    if any(sum(each) > 2 for each in seeds):
        notes.append(
            "Where there are several seeds, each sample also gets what other seeds could have changed: "
            "Student's t times the standard deviation over seeds, pooled over the two experiments."
        )
    if (1, 1) in seeds:
        notes.append(
            "Between two experiments of one seed each, the effect of another seed is not in the "
            "interval: a difference that is more than noise may still come from the seeds."
        )
    notes.append(
        "The best epochs, and the best experiment, were chosen by these same images, so all figures "
        "are a little too good."
    )
    return notes


def _note_runs(experiment: Experiment) -> list[str]:
    notes = [
        f"{run.path} ended after epoch {run.result.stopped_at_epoch} of "
        f"{format_epochs(run.plan.head_epochs + run.plan.network_epochs)}, because "
        f"{run.result.stop_reason}."
        for run in experiment.runs
        if run.result.interrupted or run.result.failed
    ]
    seeds = [run.plan.seed for run in experiment.runs]
    if len(set(seeds)) < len(seeds):
        notes.append(
            f"{experiment.name} has runs of the same seed ({', '.join(map(str, seeds))}): their spread "
            f"is not that of seeds."
        )
    return notes
