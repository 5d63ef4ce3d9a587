"""A contest: k folds of one network or several, their blend, the best once more on everything, in time.

`run_contest` is the story. Every run is an ordinary run folder, and contest.json says which there are,
so the same call goes on after a kill. Predictions of images that a run has not learned ("out of fold")
choose the winner and the weights of the blend.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flowerkit.accelerator import Accelerator, connect
from flowerkit.console import Progress, shows_progress
from flowerkit.data import FlowerData, check_is_data, load_split
from flowerkit.experiments.contest_page import Step, score_out_of_fold, score_test, write_contest
from flowerkit.experiments.entries import END_SECONDS, Entry, choose_entries, list_plans
from flowerkit.experiments.folds import Folds, make_folds
from flowerkit.experiments.runs import list_differing, train_or_continue
from flowerkit.files import check_room, locked, make_folder, read_dataclass, write_dataclass
from flowerkit.prediction import Predictions, blend, describe_split, find_weights, predict
from flowerkit.sources import check_test_split, choose_csv, read_test_labels, write_csv
from flowerkit.text import format_epochs, format_seconds
from flowerkit.training import (
    FINE_TUNE,
    NotEnoughTime,
    RunFolder,
    SavedRun,
    TrainingPlan,
    TrainingResult,
    check_is_plan,
    describe_difference,
    plan_phases,
)

_log = logging.getLogger("flowerkit")


@dataclass(frozen=True)
class ContestFile:
    """contest.json: what was asked for, and the networks that fit into the time."""

    plan: dict[str, Any]
    backbones: tuple[str, ...]
    folds: int
    class_names: tuple[str, ...]
    images: dict[str, str]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, eq=False)
class Contest:
    """What a contest came to; the same is in its folder.

    `weights` are those of the blend by network, of which `winner` has the highest macro F1 out of fold.
    `out_of_fold` and `predictions` are the blend's: of train and val, and of test (None without one).
    `problems` are those of its `csv`. `run` is the last fold that was trained, in this call if one was;
    None if no model of them is left.
    """

    folder: Path
    weights: dict[str, float]
    winner: str
    out_of_fold: Predictions
    predictions: Predictions | None
    problems: list[str]
    page: Path
    steps: list[Step]
    run: TrainingResult | None
    csv: Path | None = None

    def __str__(self) -> str:
        return "\n".join([*map(str, self.steps), f"the winner is {self.winner}"])


@shows_progress
def run_contest(
    data: FlowerData,
    plan: TrainingPlan = FINE_TUNE,
    *,
    out: str | os.PathLike,
    backbones: Sequence[str] | None = None,
    folds: int = 5,
    accelerator: Accelerator | None = None,
    started: float | None = None,
    progress: Progress | None = None,
) -> Contest:
    """Train folds of `plan` and a last run on everything, and blend them, in `plan.max_minutes`.

    `backbones` are the networks, the most important first, each NAME or NAME@PX with an input size;
    None: the plan's own and, if that is a pretrained one of Keras Applications, MORE_BACKBONES. As many
    take part as leave each run all the epochs that it has without a time limit, the first one always; a
    network whose folds are not all trained is left out of the blend. Runs that are finished in `out`
    stay as they are, an interrupted one continues, in a time that begins anew, at `started`
    (`time.monotonic()`). `progress(description, done, total)` is called after every step.

    Raises ValueError for a plan without a time limit, a time too short for the folds (with the least
    that would do), another plan or other data than those of the contest in `out`, and what `make_folds`
    refuses; RuntimeError when interrupted; else as `train` does.
    """
    check_is_data(data)
    deadline = (time.monotonic() if started is None else started) + 60 * _check_plan(plan)
    plans = list_plans(plan, backbones)
    accelerator = accelerator or connect()
    out = make_folder(out)
    check_room(out)
    with locked(out / ".lock", f"running a contest in {out}"):
        divided = make_folds(
            data, folds, seed=plan.seed, on_corrupt=plan.on_corrupt, progress=progress
        )
        test = check_test_split(data, on_corrupt=plan.on_corrupt)
        asked = ContestFile(
            plan=replace(plan, max_minutes=None).to_dict(),
            backbones=tuple(
                each.backbone + f"@{each.input_size}" * (each.input_size != plan.input_size)
                for each in plans.values()
            ),
            folds=folds,
            class_names=data.class_names,
            images={"train and val": divided.key, "test": describe_split(test) if test else "none"},
            entries=(),
        )
        entries = _find_before(out, asked)
        if entries is None:
            entries = choose_entries(
                plans, divided, accelerator, deadline, must_build=backbones is not None
            )
            write_dataclass(out / "contest.json", replace(asked, entries=entries))
        contest = _Running(out, divided, plans, entries, accelerator, deadline, progress)
        contest.check_runs()
        try:
            for entry in entries:
                for fold in range(folds):
                    contest.train(entry, fold)
            contest.train(contest.find_winner(), None)
        except NotEnoughTime as error:
            if not contest.find_scored():
                raise contest.explain_time(plan.max_minutes) from error
            _log.warning(f"no more runs: {error}")
        return contest.finish()


# Before the first run -------------------------------------------------------------------------------


def _check_plan(plan: TrainingPlan) -> float:
    """The minutes of a plan that a contest can follow."""
    check_is_plan(plan)
    if plan.max_minutes is None:
        raise ValueError(
            "a contest needs a time limit: max_minutes=480 (--max-minutes 480) is 8 hours."
        )
    if plan.has_own_backbone:
        raise ValueError(
            "a contest needs its backbone as a file: save the model, and pass backbone='FILE.keras'."
        )
    if plan.weights not in (None, "imagenet") and _is_of_run(Path(plan.weights)):
        raise ValueError(
            f"the run of {plan.weights} may have learned from pictures that its folds would be scored "
            f"on. Pass weights='imagenet', a weights file, or None (--weights none)."
        )
    return plan.max_minutes


def _is_of_run(weights: Path) -> bool:
    """Whether they are a run, or a file in one: its model, or a checkpoint."""
    return weights.is_dir() or any((each / "plan.json").is_file() for each in weights.parents[:2])


def _find_before(out: Path, asked: ContestFile) -> tuple[Entry, ...] | None:
    """The networks of the contest in `out`. Raises ValueError where it is another."""
    file, remedy = out / "contest.json", "Pass another folder (--out), or the same again"
    if (out / "plan.json").is_file():
        raise ValueError(f"{out} holds a run. Pass another folder (--out).")
    if not file.is_file():
        return None
    before = read_dataclass(file, ContestFile, remedy="Restore it, or pass another folder (--out)")
    differing = list_differing(
        {**before.plan, "folds": before.folds, "backbones": before.backbones},
        {**asked.plan, "folds": asked.folds, "backbones": asked.backbones},
    )
    if differing:
        raise ValueError(
            f"{out} holds a contest of another plan: {', '.join(differing)}. {remedy}."
        )
    if before.class_names != asked.class_names:
        difference = describe_difference(before.class_names, asked.class_names)
        raise ValueError(
            f"the contest in {out} began with other names of classes ({difference}). {remedy}."
        )
    for name, key in asked.images.items():
        if before.images.get(name) != key:
            raise ValueError(
                f"the contest in {out} began with other images, labels or ids in {name}. {remedy}."
            )
    return before.entries


# The runs -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Running:
    """A contest in its folder. A run is named by its entry and its fold; None: the one on everything."""

    out: Path
    folds: Folds
    plans: Mapping[str, TrainingPlan]
    entries: Sequence[Entry]
    accelerator: Accelerator
    deadline: float
    progress: Progress | None
    last: list[TrainingResult] = field(default_factory=list)

    def folder(self, entry: Entry, fold: int | None) -> RunFolder:
        part = "all" if fold is None else f"fold{fold + 1}"
        return RunFolder(self.out / f"{entry.name}-{part}")

    def check_runs(self) -> None:
        """Refuse a run that is damaged before another one is trained."""
        for entry in self.entries:
            for fold in (*range(self.folds.count), None):
                folder = self.folder(entry, fold)
                try:
                    self._check_run(folder, fold)
                except (FileNotFoundError, ValueError) as error:
                    raise ValueError(
                        f"{str(error).rstrip('.')}. Of a contest: remove the folder {folder}, and the "
                        f"same call or command trains that run again."
                    ) from error

    def _check_run(self, folder: RunFolder, fold: int | None) -> None:
        is_trained = _is_trained(folder)
        if is_trained and fold is not None:
            ids = SavedRun.load(folder.path).predictions.ids.tolist()
            if sorted(ids) != sorted(self.folds.ids[self.folds.fold_of == fold].tolist()):
                raise ValueError(f"{folder} holds a run of another fold")
        elif folder.history_file.is_file():
            folder.plan()
            folder.environment()
            folder.history()
        if is_trained and self._is_finished(folder):
            if self.folds.data.counts["test"]:
                self._load_test(folder)
        elif is_trained and not folder.model_file.is_file():
            raise FileNotFoundError(f"{folder} has lost its model.keras")

    def explain_time(self, minutes: float) -> NotEnoughTime:
        """The error where not even the first fold of a contest that goes on has been trained."""
        first = self.entries[0]
        least = format_seconds(first.pace.seconds(self.folds.without(0).counts, 0) + END_SECONDS)
        return NotEnoughTime(
            f"max_minutes={minutes:g} (--max-minutes {minutes:g}) leaves no time for the first fold of "
            f"{first.name} in {self.out}, which takes about {least} before its network learns at all; "
            f"there are {self.folds.count}. Pass more."
        )

    def train(self, entry: Entry, fold: int | None) -> None:
        """Train a run and predict test with it, as far as it has not been done before."""
        folder = self.folder(entry, fold)
        if self._is_finished(folder):
            _log.info(f"{folder}: finished before")
            return
        if _is_trained(folder):
            with self.accelerator.scope():
                model = folder.model()
        else:
            model = self._fit(folder, entry, fold)
        if self.folds.data.counts["test"]:
            plan, replicas = folder.plan(), self.accelerator.replicas
            test = load_split(self.folds.data, "test", on_corrupt=plan.on_corrupt)
            found = predict(model, test, global_batch=plan.batch * replicas, progress=self.progress)
            found.save(folder.test_predictions_file)
            self._write_csv(folder.path, found)
            self.blend()  # a valid csv is there from the first run on

    def _fit(self, folder: RunFolder, entry: Entry, fold: int | None):
        seconds = self._share(entry, fold)
        if seconds <= 0:
            raise NotEnoughTime(f"no time is left for {folder}")
        plan = replace(self.plans[entry.name], input_size=entry.pace.input_size)
        data = self.folds.without(fold or 0)
        if fold is None:
            plan, data = self._fix_epochs(plan, entry), self.folds.together()
        _log.info(f"{folder}: {format_seconds(seconds)}")
        plan = replace(plan, max_minutes=seconds / 60)
        result = train_or_continue(data, plan, folder, self.accelerator, self.progress)
        if fold is not None:
            self.last[:] = [result]
        return result.model

    def _share(self, entry: Entry, fold: int | None) -> float:
        """Seconds for a run: of what is left, its part of all that is not trained yet."""
        last = max(self._weigh(each, None) for each in self.entries)
        pending = sum(
            self._weigh(each, number)
            for each in self.entries
            for number, folder in enumerate(self._list_folds(each))
            if not _is_trained(folder)
        )
        own = last if fold is None else self._weigh(entry, fold)
        return (self.deadline - time.monotonic() - END_SECONDS) * own / (pending + last)

    def _weigh(self, entry: Entry, fold: int | None) -> float:
        data = self.folds.together() if fold is None else self.folds.without(fold)
        return entry.pace.seconds(data.counts, self.plans[entry.name].network_epochs)

    def _fix_epochs(self, plan: TrainingPlan, entry: Entry) -> TrainingPlan:
        """The plan of a run without validation: as many epochs as were best in the middle fold.

        Not their mean: where some folds were best with the head alone and others at the end of a cycle,
        nothing between is good.
        """
        counts = sorted(map(_count_best_epochs, self._list_folds(entry)), key=sum)
        small, epochs = counts[len(counts) // 2]
        if not epochs and small:  # the images of the last phase were of no use
            plan = replace(plan, input_size=plan.small_px(self.folds.data.image_size))
            small, epochs = 0, small
        _log.info(
            f"{format_epochs(small + epochs)} of the network, as were best in the middle fold"
        )
        return replace(plan, small_epochs=small, epochs=epochs, monitor="epoch", patience=None)

    def _is_finished(self, folder: RunFolder) -> bool:
        if not _is_trained(folder):
            return False
        files = (folder.test_predictions_file, folder.csv_file())
        return not self.folds.data.counts["test"] or all(file.is_file() for file in files)

    # What comes of them -------------------------------------------------------------------------------

    def find_scored(self) -> dict[str, Predictions]:
        """The predictions out of fold of each network whose folds are all trained, by its name.

        While there is none, of the first one, as far as they are.
        """
        found = {}
        for entry in self.entries:
            if runs := [run for run in self._list_folds(entry) if self._is_finished(run)]:
                found[entry.name] = _join([run.val_predictions() for run in runs])
        whole = {name: each for name, each in found.items() if len(each) == len(self.folds.ids)}
        return whole or dict(list(found.items())[:1])

    def find_winner(self) -> Entry:
        """The network with the highest macro F1 out of fold."""
        scored = self.find_scored()
        best = max(scored, key=lambda name: scored[name].score()["val_f1"])
        return next(entry for entry in self.entries if entry.name == best)

    def blend(self) -> tuple[dict[str, float], Predictions, Predictions | None, list[str]]:
        """(weights, the blend out of fold, on test, the problems of its csv), which it writes."""
        scored = self.find_scored()
        names, members, weights = list(scored), list(scored.values()), [1.0]
        if len(names) > 1:
            weights = find_weights(members, names=names).weights
        out_of_fold = blend(members, weights, names=names)
        by_name = dict(zip(names, weights, strict=True))
        if not self.folds.data.counts["test"]:
            return by_name, out_of_fold, None, []
        entries = [entry for entry in self.entries if entry.name in names]
        of_runs = [
            self._load_test(*self._list_folds(entry), self.folder(entry, None)) for entry in entries
        ]
        test = blend(list(map(blend, of_runs)), weights, names=names)
        return by_name, out_of_fold, test, self._write_csv(self.out, test)

    def _write_csv(self, folder: Path, predictions: Predictions) -> list[str]:
        file = folder / choose_csv(self.folds.data)
        problems = write_csv(file, predictions, self.folds.data)
        for problem in problems:
            _log.warning(f"{file}: {problem}")
        return problems

    def finish(self) -> Contest:
        """Blend what there is, and write the page."""
        data = self.folds.data
        winner = self.find_winner()
        everything = self.folder(winner, None)
        weights, out_of_fold, test, problems = self.blend()
        minutes = {
            entry.name: sum(
                epoch["seconds"] / 60 for run in self._list_folds(entry) for epoch in run.history()
            )
            for entry in self.entries
            if all(map(_is_trained, self._list_folds(entry)))
        }
        steps = score_out_of_fold(self.find_scored(), winner.name, out_of_fold, minutes=minutes)
        labels = read_test_labels(data) or {}
        if test and any(name in labels for name in test.ids.tolist()):
            folds, last = self._load_test(*self._list_folds(winner)), self._load_test(everything)
            blended = test if len(weights) > 1 else None
            steps += score_test(winner.name, folds, last, blended, labels)
        runs = [*(run for entry in self.entries for run in self._list_folds(entry)), everything]
        names = [run.path.name for run in runs if self._is_finished(run)]
        page = write_contest(
            self.out, steps, data=data, runs=names, winner=winner.name, weights=weights
        )
        csv = test and self.out / choose_csv(data)
        run = self.last[0] if self.last else self._load_last()
        return Contest(
            self.out, weights, winner.name, out_of_fold, test, problems, page, steps, run, csv
        )

    def _load_last(self) -> TrainingResult | None:
        """The last fold that was trained in an earlier call, if its model is there."""
        found = [
            (run, fold)
            for entry in self.entries
            for fold, run in enumerate(self._list_folds(entry))
            if self._is_finished(run) and run.model_file.is_file()
        ]
        if not found:
            return None
        folder, fold = found[-1]
        saved = SavedRun.load(folder.path)
        with self.accelerator.scope():
            model = folder.model()
        return TrainingResult(
            folder=saved.path,
            plan=saved.plan,
            model=model,
            history=saved.history,
            summary=saved.result,
            predictions=saved.predictions,
            val_images=folder.split("val", self.folds.without(fold)).images,
            accelerator=self.accelerator,
            environment=saved.environment,
            global_batch=saved.global_batch,
        )

    def _list_folds(self, entry: Entry) -> list[RunFolder]:
        return [self.folder(entry, fold) for fold in range(self.folds.count)]

    def _load_test(self, *runs: RunFolder) -> list[Predictions]:
        """The predictions of test by those of `runs` that are finished."""
        return [Predictions.load(r.test_predictions_file) for r in runs if self._is_finished(r)]


def _is_trained(folder: RunFolder) -> bool:
    return folder.result_file.is_file() and not folder.result().interrupted


def _join(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        np.concatenate([each.ids for each in parts]),
        np.concatenate([each.probabilities for each in parts]),
        np.concatenate([each.labels for each in parts]),
    )


def _count_best_epochs(folder: RunFolder) -> tuple[float, float]:
    """How often the network was shown all images until the run's best epoch: small ones, large ones.

    Both are 0 where the head was best.
    """
    plan, environment, best = folder.plan(), folder.environment(), folder.result().best_epoch
    global_batch = plan.per_replica_batch * environment.accelerator.replicas
    num_steps = environment.data.counts["train"] // global_batch
    counts = {True: 0.0, False: 0.0}
    for phase in plan_phases(plan, global_batch=global_batch):
        rows = [row for row in folder.history().of_phase(phase.number) if row["epoch"] <= best]
        if not phase.is_frozen:
            shown = sum(row["steps"] for row in rows) / num_steps
            counts[phase.is_small] = float(f"{shown:.3g}")
    return counts[True], counts[False]
