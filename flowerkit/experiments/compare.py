"""Run folders -> one honest table: what differed, what came out, and what of it is chance."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flowerkit.experiments.compared import FIGURES, ComparedRun, read_compared, was_interrupted
from flowerkit.metrics import Interval, bootstrap_difference
from flowerkit.training.run_folder import describe_difference


@dataclass(frozen=True, eq=False)
class Experiment:
    """The runs that differ in nothing but the seed, under one name."""

    name: str
    runs: tuple[ComparedRun, ...]

    @property
    def setting(self) -> dict:
        """See `ComparedRun.setting`."""
        return self.runs[0].setting

    def values(self, figure: str) -> np.ndarray:
        """One of `FIGURES` of each run, (n,) float64."""
        return np.array([FIGURES[figure](run) for run in self.runs], np.float64)

    def mean(self, figure: str) -> float:
        """The mean of a figure over the runs."""
        return float(self.values(figure).mean())

    def spread(self, figure: str) -> float:
        """The sample standard deviation (of n - 1) of a figure; NaN for a single run."""
        values = self.values(figure)
        return float(values.std(ddof=1)) if len(values) > 1 else math.nan


@dataclass(frozen=True, eq=False)
class Comparison:
    """Experiments, highest mean macro F1 on val first, and what can be said of them.

    `differing` are the fields (of the plan, device, data) in which they differ, `shared` those that
    are alike in all, with their values. `statements` say of each experiment whether chance explains
    its distance to the best one; `notes` how that was found, and what else a reader should know.
    `leaders` are the best of each set of experiments that can be compared: one, where all can.
    """

    experiments: tuple[Experiment, ...]
    differing: tuple[str, ...]
    shared: Mapping[str, object]
    statements: tuple[str, ...]
    notes: tuple[str, ...]
    leaders: tuple[Experiment, ...]

    @property
    def num_runs(self) -> int:
        """The runs of all experiments."""
        return sum(len(experiment.runs) for experiment in self.experiments)


def compare_runs(folders: Sequence[str | os.PathLike]) -> Comparison:
    """Compare finished runs; those that differ in nothing but the seed are one experiment.

    Device and data count like fields of the plan. Where all runs of two experiments were validated on
    the same images of the same classes, `metrics.bootstrap_difference` says whether the difference
    between them is noise.

    Raises FileNotFoundError for a folder that holds no run, ValueError for no folder, one that is given
    twice, and a run that is not finished or is damaged; the message names the folder.
    """
    runs = read_compared(folders)
    groups: dict[tuple, list[ComparedRun]] = {}
    for run in runs:
        chosen = json.dumps([run.setting, run.facts.class_names])
        groups.setdefault((chosen, run.ids.tobytes()), []).append(run)
    names = _name_groups(list(groups.values()))
    found = [
        Experiment(name, tuple(group)) for name, group in zip(names, groups.values(), strict=True)
    ]
    experiments = tuple(sorted(found, key=lambda one: -one.mean("val_f1")))
    settings = [experiment.setting for experiment in experiments]
    differing = tuple(
        name for name, value in settings[0].items() if any(one[name] != value for one in settings)
    )
    shared = {name: value for name, value in settings[0].items() if name not in differing}
    leaders, statements, intervals = _state(experiments)
    notes = _explain(experiments, intervals)
    if "device" in differing:
        notes.append("They ran on different devices: their minutes cannot be compared.")
    return Comparison(experiments, differing, shared, tuple(statements), tuple(notes), leaders)


def _name_groups(groups: list[list[ComparedRun]]) -> list[str]:
    """A name for each experiment: its folder's, without the seed; of clashing ones the path besides."""
    for depth in range(1, 10):
        names = [_name_group(group, depth) for group in groups]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def _name_group(group: list[ComparedRun], depth: int) -> str:
    stems = list(dict.fromkeys(_name_run(run, depth) for run in group))
    return stems[0] if len(stems) == 1 else f"{stems[0]} and {len(stems) - 1} more"


def _name_run(run: ComparedRun, depth: int) -> str:
    name = "/".join(run.folder.resolve().parts[-depth:])
    stem = name.removesuffix(f"seed{run.facts.plan.seed}")
    return stem.rstrip("-_. ") or name if stem != name else name


# What is chance -----------------------------------------------------------------------------------


def _state(
    experiments: Sequence[Experiment],
) -> tuple[tuple[Experiment, ...], list[str], list[Interval]]:
    """A sentence for each experiment but the best; the best of each set of val images leads its own."""
    leaders, statements, intervals = list(experiments[:1]), [], []
    for experiment in experiments[1:]:
        told = [compare_pair(leader, experiment) for leader in leaders]
        said, found = next((pair for pair in told if pair[1]), told[0])
        statements.append(said)
        if found is None:
            leaders.append(experiment)
        else:
            intervals.append(found)
    return tuple(leaders), statements, intervals


def compare_pair(a: Experiment, b: Experiment) -> tuple[str, Interval | None]:
    """What can be said of two experiments, and how far chance moves it; None where they do not compare.

    The interval is that of the higher mean macro F1 over the lower one.
    """
    best, other = sorted((a, b), key=lambda one: -one.mean("val_f1"))
    if reason := find_mismatch(best.runs[0], other.runs[0]):
        return f"{other.name} and {best.name} cannot be compared: {reason}.", None
    found = find_interval(best, other)
    return _describe_interval(best, other, found), found


def find_mismatch(run: ComparedRun, other: ComparedRun) -> str | None:
    """Why the scores of two runs cannot be compared, or None: other classes, images or labels."""
    known, held = run.facts.class_names, other.facts.class_names
    if list(known) != list(held):
        return f"they know other classes ({describe_difference(list(held), tuple(known))})"
    for one in (other, run):
        if repeated := len(one.ids) - len(np.unique(one.ids)):
            return f"{repeated:,} ids of {one.folder.name} occur twice, so images cannot be paired"
    if not np.array_equal(run.ids, other.ids):
        common = len(np.intersect1d(run.ids, other.ids))
        return (
            f"they were validated on other images ({len(other.ids):,} and {len(run.ids):,}, {common:,} "
            f"of them in both)"
        )
    if differ := int(np.sum(run.facts.labels[run.order] != other.facts.labels[other.order])):
        return f"{differ:,} of their validation images are labelled otherwise"
    return None


def find_interval(a: Experiment, b: Experiment) -> Interval:
    """How far macro F1 of `a` is above that of `b`, and how far chance can move that."""
    predicted = [[run.facts.predicted[run.order] for run in one.runs] for one in (a, b)]
    first = a.runs[0]
    return bootstrap_difference(first.facts.labels[first.order], *predicted)


def _describe_interval(best: Experiment, other: Experiment, found: Interval) -> str:
    # Adding zero: a rounded -0.0 would be written with its sign.
    difference, low, high = (
        f"{round(value, 3) + 0.0:.3f}" for value in (found.difference, found.low, found.high)
    )
    behind = f"{difference} of macro F1 behind {best.name}"
    between = f"95 % interval {low} to {high}"
    if found.is_noise:
        return f"{other.name} is {behind}, which is inside the noise ({between}): no winner."
    return f"{other.name} is {behind}, which is more than noise ({between})."


def _explain(experiments: Sequence[Experiment], intervals: Sequence[Interval]) -> list[str]:
    notes = []
    if intervals:
        notes.append(
            "A difference counts as noise where its 95 % interval holds zero. The interval is that of "
            "2,000 paired bootstrap draws of the validation images, the same for both (Efron & "
            "Tibshirani 1993, chapter 8)."
        )
    if any(sum(interval.num_seeds) > 2 for interval in intervals):
        notes.append(
            "Where there are several seeds, each draw also gets what other seeds could have changed: "
            "Student's t times the standard deviation over seeds, pooled over the two experiments."
        )
    if any(interval.num_seeds == (1, 1) for interval in intervals):
        notes.append(
            "Between two experiments of one seed each, what another seed would have given is not in "
            "the interval: a difference that is more than noise may still be that of the seeds."
        )
    if intervals:
        notes.append(
            "Best epochs, and the best experiment, were chosen by these same images, so all figures "
            "are a little too good."
        )
    return notes + [note for one in experiments for note in _note_runs(one)]


def _note_runs(experiment: Experiment) -> list[str]:
    notes = [
        f"{run.folder} was interrupted at epoch {run.facts.rows[-1]['epoch']} of "
        f"{run.facts.plan.freeze_epochs + run.facts.plan.epochs}."
        for run in experiment.runs
        if was_interrupted(run.facts.result)
    ]
    seeds = [run.facts.plan.seed for run in experiment.runs]
    if len(set(seeds)) < len(seeds):
        notes.append(
            f"{experiment.name} holds runs of the same seed ({', '.join(map(str, seeds))}): their "
            f"spread is not that of seeds."
        )
    return notes
