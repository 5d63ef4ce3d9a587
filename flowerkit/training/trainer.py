"""The story of a run: a plan and data in, a trained classifier and a run folder out."""

import functools
import gc
import importlib.util
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from flowerkit.accelerator import Accelerator, connect, hosts, is_out_of_memory
from flowerkit.console import Progress, showing
from flowerkit.data import FlowerData, Split, check_is_data, check_leak, load_split
from flowerkit.files import check_room, find_free_folder
from flowerkit.models import check_reload, choose_trainable, save_classifier
from flowerkit.photos import load_conversion
from flowerkit.pipeline import epoch_permutation, own_first, steps_per_epoch
from flowerkit.prediction import Predictions, describe_split
from flowerkit.schedules import Constant, Schedule, as_schedule
from flowerkit.sources import check_test_split
from flowerkit.synonyms import explain_arguments
from flowerkit.text import did_you_mean, format_epochs, pluralize
from flowerkit.training import callbacks as own
from flowerkit.training.early_stopping import EarlyStopping, is_stopping_due
from flowerkit.training.fitting import (
    MOST_IN_TIME,
    SMALL_SHARE,
    OutOfMemory,
    build_in_time,
    check_memory,
    fit_network,
    has_time_for_batch,
    shrink_batch,
)
from flowerkit.training.history import History
from flowerkit.training.phases import Clock, Phase, plan_phases, warn_about_schedule
from flowerkit.training.plan import (
    EPOCHS,
    FEWEST_STEPS_A_PHASE,
    FEWEST_STEPS_AN_EPOCH,
    FINE_TUNE,
    MONITORS,
    TrainingPlan,
    check_is_plan,
    name_plan,
)
from flowerkit.training.run_folder import (
    TIME_USED,
    Device,
    Environment,
    Fitted,
    RunFolder,
    RunResult,
    TrainedOn,
)
from flowerkit.training.saved_run import SavedRun
from flowerkit.training.step import STATISTICS_IMAGES, RunContext, TrainStep, compile_ahead
from flowerkit.training.validation import (
    SCORES,
    ModelCheckpoint,
    Validation,
    load_state,
    statistics_of,
)
from flowerkit.training.verdict import Verdict, judge

_log = logging.getLogger("flowerkit")

_RATE_SETTERS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


@dataclass(frozen=True, eq=False, repr=False)
class TrainingResult:
    """What a training run came to; the same is in its folder.

    `model` holds the best weights. `history` has a row (dict) an epoch, see `history.COLUMNS`.
    `predictions` are those of val at the best epoch, `val_images` (n, size, size, 3) uint8 its images,
    row by row. `summary` is what result.json holds, `environment` where and on what it was trained;
    `global_batch` counts a step's images. Printed, it says whether the score is good.
    """

    folder: Path
    plan: TrainingPlan
    model: keras.Model
    history: History
    summary: RunResult
    predictions: Predictions
    val_images: np.ndarray
    accelerator: Accelerator
    environment: Environment
    global_batch: int

    @property
    def verdict(self) -> Verdict | None:
        """Whether the score on val is good, and what held it back; None without validation."""
        if not len(self.predictions):
            return None
        what = self.plan, Fitted(), self.environment, self.history, self.summary, self.predictions
        return judge(SavedRun(self.folder, *what))

    def __str__(self) -> str:
        lines = [str(self.summary)]
        if verdict := self.verdict:
            lines += [verdict.headline, *(each.in_python() for each in verdict.findings)]
        return "\n".join(lines)

    __repr__ = __str__


@explain_arguments(plan=TrainingPlan)
def train(
    data: FlowerData,
    plan: TrainingPlan = FINE_TUNE,
    *,
    out: str | os.PathLike | None = None,
    accelerator: Accelerator | None = None,
    schedule: Schedule | Callable | float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = (),
    resume: bool = False,
    started: float | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train `plan` on `data` and leave a run folder at `out`, see `RunFolder`.

    `out` None: the next free runs/PLAN-N. What the plan leaves "auto" is chosen and measured
    (`fitting`); the result's plan has the values. With `resume` an interrupted run in `out` continues
    exactly where its last whole epoch ended; on another number of replicas or hosts, or in another
    precision, with the same batches, and a log line says what has changed.
    Of several hosts (`connect`) each calls it with the same arguments; host 0 alone writes `out`, and
    an error on one of them ends the processes of the others.
    `schedule`: your own for the last phase, used as it is: a `schedules.Schedule`, a function of the
    epoch (from 0) or of (epoch, rate), which begins with the plan's max_lr, an object of
    keras.optimizers.schedules, which counts the phase's steps, or a rate. A plan is data and holds no
    function, so a resumed run needs it again. `callbacks`, or one of them, are yours, called after the
    run's own; their `self.model` trains the classifier, which is its layer "flower_classifier", or on
    features its layer "head". One that sets `stop_training` ends the phase, one that sets the learning
    rate needs a constant rate. `started` (`time.monotonic()`) is when the clock of `max_minutes` began.
    `progress(description, done, total)` is called after every step; None: a live line on a terminal, and
    elsewhere a line a minute. Log lines are shown, too, unless you have configured logging;
    `logging.getLogger("flowerkit").setLevel("WARNING")` silences both.

    Raises ValueError for data that cannot be trained on (an empty split, one class, a batch larger
    than the split, validation that shares images with training), a time that is too short, two
    controllers of the learning rate and what is no schedule or no callback; FileExistsError when `out`
    holds a run; RuntimeError when training ended before there was a model to keep. After an error in the
    first epoch `out` is free for another run.
    """
    started = time.monotonic() if started is None else started
    schedule, callbacks = _read_arguments(data, plan, schedule, callbacks)
    given, accelerator = accelerator, accelerator or connect()
    with showing(progress, speaks=hosts.is_first()) as progress, hosts.listening():
        names = [type(each).__name__ for each in callbacks]
        _check_hosts(plan, {"schedule": str(schedule), "callbacks": names, "resume": resume})
        if given is None:
            _log.info(f"{accelerator}")
        folder = _open_folder(out, plan, schedule, resume)
        before = folder.environment().accelerator if resume and given is None else accelerator
        accelerator = replace(accelerator, precision=hosts.broadcast(before.precision))
        run = RunContext(data, plan, accelerator, folder, schedule, callbacks, progress)
        with folder.locked():
            return _train_in_memory(run, started, resume)


def _train_in_memory(asked: RunContext, started: float, resume: bool) -> TrainingResult:
    """`_train`; where the memory is too small and the plan allows it, again in more parts a step."""
    while True:
        run = replace(asked)
        try:
            return _train(run, started, resume)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            fault = OutOfMemory(run.plan, run.accelerator)
            if not (run.plan.halve_on_oom and fault.parts) or hosts.count() > 1:
                raise fault from error
        _log.warning(f"{fault.fault}: going on in {fault.parts} parts a step")
        asked = replace(asked, plan=replace(asked.plan, accumulate=fault.parts))
        resume = resume or run.folder.history_file.is_file()
        del run
        gc.collect()  # what has failed leaves its memory


def _train(run: RunContext, started: float, resume: bool) -> TrainingResult:
    """A run from its first step, or where it was left, to its end."""
    if resume:
        before, plan = run.folder.plan().to_dict(), run.folder.complete(run.plan)
        given = [name for name, value in plan.to_dict().items() if value != before[name]]
        run.fitted = run.folder.fitted().without(given)
        run.plan = run.folder.continue_with(plan, run.accelerator)
    run.settle()
    with hosts.together():
        _prepare(run, hosts.broadcast(started), resume)
        stop = _fit_phases(run)
    return _finish(run, stop, time.monotonic() - started)


def _prepare(run: RunContext, started: float, resume: bool) -> None:
    """The classifier and the splits; everything that can be refused is refused here."""
    data, folder = run.data, run.folder
    check_room(folder.path)
    test = check_test_split(data, on_corrupt=run.plan.on_corrupt)
    hosts.check_same([dict(data.counts), data.image_size, list(data.class_names)], "data")
    run.history = History(run.plan.monitor, path=folder.history_file)
    if resume:
        run.history = folder.take_up()
        _check_phases(run)
    run.clock = Clock(
        num_val=data.counts["val"] + min(STATISTICS_IMAGES, data.counts["train"]),
        num_test=data.counts["test"],
        earlier_seconds=sum(row["seconds"] for row in run.history),
    )
    if run.plan.max_minutes is not None:
        run.clock.at = started + 60 * run.plan.max_minutes
    # Before the data: a missing backbone or missing weights are reported at once.
    build_in_time(run)
    _check_layers(run)
    run.plan = folder.with_its_backbone(run.plan)
    run.report()
    check_memory(run)
    _load(run)
    for line in warn_about_schedule(run.plan, run.phases()[-1], global_batch=run.global_batch):
        _log.info(line)
    environment = _describe_environment(run, test)
    hosts.check_same(environment.data.images, "images")
    run.fitted = replace(run.fitted, replicas=run.accelerator.replicas)
    folder.write_start(run.plan, run.fitted, environment)
    if run.history:
        run.history.save()  # without the epochs that are done again
    folder.prune(len(run.history))


def _fit_phases(run: RunContext) -> own.StopFlag:
    """Train all phases: with what comes before them, the part that several hosts do together."""
    for phase in run.phases():
        if phase.number < run.phase_number:
            continue  # it was finished before the run was resumed
        stop = own.StopFlag()
        num_done = len(run.history.of_phase(phase.number))
        phase = replace(phase, first_epoch=len(run.history) - num_done)
        is_new = num_done == 0
        if run.is_small and not phase.is_small:
            _build_large(run)
        begins_network = (
            is_new and not phase.is_frozen and (phase.is_small or not run.plan.has_small)
        )
        if begins_network and "per_replica_batch" in run.fitted.reasons:
            shrink_batch(run)  # the network's batch need not be the head's
            run.save_plan()
        if not phase.is_frozen:
            run.clock.keep(1 - SMALL_SHARE if phase.is_small else 0.0)
        with run.accelerator.scope():
            step = TrainStep.for_phase(run, phase.is_frozen)
        if not is_new:
            phase = _resume_phase(run, phase, step, stop)
        elif not phase.is_frozen:
            phase = _begin_network(run, phase, step, stop)
        if stop.reason is None and (phase.number > 1 or phase.is_frozen):
            _log.info(f"{phase}")
        while phase and stop.reason is None:
            phase = fit(run, phase, step, stop)
        run.first_step_seconds = run.first_step_seconds or step.hooks.first_step_seconds
        if stop.ends_run:
            break
    return stop


def _finish(run: RunContext, stop: own.StopFlag, seconds: float) -> TrainingResult:
    """Put the best weights back, save them as model.keras, and check that the file predicts the same.

    `seconds` have passed since the run was started, or resumed.
    """
    folder, best = run.folder, run.history.best
    reason = stop.reason or _describe_end(run)
    if best is None:
        raise _explain_nothing(stop, reason)
    if (is_small := run.phases()[int(best["phase"]) - 1].is_small) != run.is_small:
        run.build(is_small=is_small)  # what was best saw images of that size
    if hosts.count() > 1:  # the classifier's variables lie on the devices of all
        run.classifier = keras.models.clone_model(run.classifier)
    run.classifier.load_weights(_find_best(run))
    folder.reopen()
    save_classifier(run.classifier, folder.model_file)
    check_reload(run.classifier, folder.model_file, batch=run.part_batch)
    predictions = Predictions.load(folder.find_epoch("predictions", best["epoch"]))
    predictions.save(folder.val_predictions_file)
    # Features are thousands a second, the network's images some; its first epoch compiles.
    last_phase = run.history.of_phase(run.history.last["phase"])
    steady = last_phase[1:] or last_phase[:]
    summary = RunResult(
        stopped_at_epoch=run.history.last["epoch"],
        stop_reason=reason,
        interrupted=stop.interrupted,
        failed=stop.failed,
        best_epoch=best["epoch"],
        best_weights="averaged" if best["averaged"] == 1 else "raw",
        **{name: best[name] for name in SCORES if len(predictions)},
        seconds_per_epoch=sum(row["seconds"] for row in steady) / len(steady),
        images_per_second=sum(row["images_per_second"] for row in steady) / len(steady),
        first_step_seconds=run.first_step_seconds,
        seconds=run.clock.earlier_seconds + seconds,
    )
    folder.write_result(summary)
    return TrainingResult(
        folder=folder.path,
        plan=run.plan,
        model=run.classifier,
        history=run.history,
        summary=summary,
        predictions=predictions,
        val_images=run.val.images,
        accelerator=run.accelerator,
        environment=folder.environment(),
        global_batch=run.global_batch,
    )


@explain_arguments(train, plan=TrainingPlan)
def fine_tune(
    data: FlowerData,
    epochs: float | Literal["auto"] = "auto",
    *,
    out: str | os.PathLike | None = None,
    freeze_epochs: int | Literal["auto"] = "auto",
    base_lr: float | None = None,
    backbone_lr_factor: float | Literal["auto"] = "auto",
    plan: TrainingPlan = FINE_TUNE,
    **options,
) -> TrainingResult:
    """The head for `freeze_epochs`, then the whole network for `epochs`: fastai's `fine_tune`.

    One cycle each, with rates that fall towards the first layer to `backbone_lr_factor` of the head's
    (fastai's is 0.01). `base_lr` is fastai's too: the head learns at up to it, the network at up to half
    of it, used as they are; None: the plan's rates. The rest comes from `plan`; `options` are those of
    `train`, and so is what is raised.
    """
    plan = replace(
        plan,
        schedule="one-cycle",
        freeze_epochs=freeze_epochs,
        epochs=epochs,
        backbone_lr_factor=backbone_lr_factor,
    )
    if base_lr is not None:
        plan = replace(plan, freeze_lr=base_lr, max_lr=base_lr / 2, lr_reference_batch=None)
    return train(data, plan, out=out, **options)


@explain_arguments(train, plan=TrainingPlan)
def fit_one_cycle(
    data: FlowerData,
    epochs: float,
    max_lr: float | Literal["auto"] = "auto",
    *,
    out: str | os.PathLike | None = None,
    plan: TrainingPlan = FINE_TUNE,
    **options,
) -> TrainingResult:
    """Train the whole network for `epochs` by one cycle up to `max_lr`: fastai's `fit_one_cycle`.

    The rate is used as it is. The rest comes from `plan`; `options` are those of `train`, and so is
    what is raised.
    """
    plan = replace(plan, schedule="one-cycle", freeze_epochs=0, epochs=epochs, max_lr=max_lr)
    if max_lr != "auto":
        plan = replace(plan, lr_reference_batch=None)
    return train(data, plan, out=out, **options)


# Before the first step ------------------------------------------------------------------------------


def _read_arguments(
    data: FlowerData, plan: TrainingPlan, schedule, callbacks
) -> tuple[Schedule | None, list[keras.callbacks.Callback]]:
    """(schedule, callbacks) as the run takes them. Refuses what can be refused without a device."""
    check_is_plan(plan)
    if callbacks is None:
        callbacks = []
    is_list = isinstance(callbacks, Iterable) and not isinstance(callbacks, str)
    callbacks = list(callbacks) if is_list else [callbacks]
    for callback in callbacks:
        _check_callback(callback, plan)
    packages = ("tensorboard", "tensorflow") if plan.tensorboard else ()  # Keras writes with both
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"tensorboard=True needs a missing package: pip install {package}, or leave it out"
            )
    if schedule is not None:
        schedule = as_schedule(schedule, start_lr=plan.highest_lr)
        plan_phases(plan, global_batch=1, schedule=schedule)  # refuses two controllers of the rate
    check_is_data(data)
    return schedule, callbacks


def _check_callback(callback, plan: TrainingPlan) -> None:
    """Refuse of yours what Keras would not call, and what the run does itself."""
    name = getattr(callback, "__name__", type(callback).__name__)
    if not isinstance(callback, keras.callbacks.Callback):
        made = f"{name}()" if isinstance(callback, type) else "a keras.callbacks.LambdaCallback"
        raise ValueError(
            f"callbacks must be objects of keras.callbacks.Callback, such as {made}. "
            f"Received: {callback!r}"
        )
    if isinstance(callback, _RATE_SETTERS):
        raise ValueError(
            f"two controllers of the learning rate: the plan's schedule={plan.schedule!r} and "
            f"your {name}. Leave it out, and put the rate into the plan; a function of the epoch "
            f"is train(..., schedule=f)."
        )
    if isinstance(callback, (keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint)):
        if callback.monitor not in MONITORS:  # of which Keras only warns, each epoch
            raise ValueError(
                f"your {name} monitors {callback.monitor!r}, which is not logged by this run; it "
                f"logs {', '.join(MONITORS)}.{did_you_mean(str(callback.monitor), MONITORS)}"
            )
        if callback.mode == "auto":  # Keras knows the directions of its own metrics alone
            callback.mode = MONITORS[callback.monitor]
    if isinstance(callback, keras.callbacks.BackupAndRestore):
        raise ValueError(
            f"{name} would begin where another run ended: every run is kept for this. Leave it "
            f"out, and continue a run by train(..., out=RUN, resume=True)."
        )


def _check_hosts(plan: TrainingPlan, options: dict) -> None:
    """Refuse on several hosts what cannot be the same on all, and arguments that are not."""
    if hosts.count() > 1 and plan.has_own_backbone:
        raise ValueError(
            "several hosts need the backbone as a file that each of them has: save the model, and pass "
            "backbone='FILE.keras' (--backbone FILE.keras)."
        )
    hosts.check_same(plan.to_dict() | options, "arguments")
    if hosts.count() > 1 and plan.halve_on_oom:
        _log.warning(
            "halve_on_oom (--halve-on-oom) has no effect on several hosts, which end together where a "
            "step does not fit: pass accumulate=2 (--accumulate 2) or more"
        )


def _open_folder(
    out: str | os.PathLike | None, plan: TrainingPlan, schedule: Schedule | None, resume: bool
) -> RunFolder:
    """The run's folder; of hosts that train together the others have one of their own for a while.

    There they do all that host 0 does, beginning with copies of its files.
    """

    def open_first() -> str:
        path = find_free_folder("runs", name_plan(plan)) if out is None else out
        return str(RunFolder.resume(path, schedule) if resume else RunFolder.start(path))

    path = Path(hosts.on_first(open_first))
    if hosts.count() == 1:
        return RunFolder(path)
    scratch = hosts.scratch() / f"run-{time.time_ns()}"
    if resume:
        hosts.copy_from_first(path, scratch)
    return RunFolder(path if hosts.is_first() else scratch)


def _check_phases(run: RunContext) -> None:
    """Refuse a plan in which what a resumed run has done would be of other phases."""

    def describe(plan: TrainingPlan) -> list[tuple[bool, bool]]:
        phases = plan_phases(plan, global_batch=run.global_batch)
        return [(each.is_frozen, each.is_small) for each in phases[: run.phase_number]]

    before = run.folder.plan()
    if run.history and describe(before) != describe(run.plan):
        names = ("freeze_epochs", "small_epochs", "epochs")
        values = [
            ", ".join(f"{name}={getattr(plan, name)}" for name in names)
            for plan in (before, run.plan)
        ]
        raise ValueError(
            f"the run in {run.folder} is in its phase {run.phase_number}, of {values[0]}, and would "
            f"go on with {values[1]}. Pass the same again, or train in a new folder."
        )


def _check_layers(run: RunContext) -> None:
    """Refuse layers to freeze and to unfreeze that are not there."""
    plan = run.plan
    if plan.freeze_epochs and not run.classifier.get_layer("backbone").weights:
        raise ValueError(
            f"freeze_epochs={plan.freeze_epochs}, but {plan.backbone} has no weights to freeze."
        )
    if plan.epochs:
        chosen = choose_trainable(
            run.classifier, plan.unfreeze_from, freeze_norms=plan.freeze_norms
        )
        if plan.unfreeze_from is not None:  # several layers may be meant
            _log.info(
                f"the backbone learns from {chosen[0]!r} on: {pluralize(len(chosen), 'layer')}"
            )


def _load(run: RunContext) -> None:
    """The splits, read while what the run is sure to need is traced and compiled."""
    phases = [True] * run.learns_head
    keeps_batch = "per_replica_batch" not in run.fitted.reasons or has_time_for_batch(run)
    if run.plan.epochs and keeps_batch:
        phases.append(False)
    with ThreadPoolExecutor(1) as reader:
        splits = reader.submit(_load_splits, run)
        with run.accelerator.scope():
            compile_ahead(run, phases=phases)
            for step in run.steps.values():
                statistics_of(step).prepare(run.part_batch, step.model.inputs[0].dtype)
        run.train, run.val = splits.result()
    run.num_steps = steps_per_epoch(len(run.train), run.global_batch)
    _log.info(
        f"{pluralize(run.num_steps, 'step')} an epoch, {pluralize(run.global_batch, 'image')} each"
    )
    if not run.history:
        _warn_about_few_steps(run)


def _warn_about_few_steps(run: RunContext) -> None:
    """Name the epochs of a small set that were given, not chosen, and are few."""
    given, needed = run.plan.epochs, math.ceil(FEWEST_STEPS_A_PHASE / run.num_steps)
    is_chosen = (
        given in ("auto", 0) or run.clock.is_limited or run.num_steps >= FEWEST_STEPS_AN_EPOCH
    )
    if not is_chosen and given + run.plan.small_epochs < needed:
        _log.warning(
            f"{format_epochs(given)} of so few steps may be too few: epochs={needed} (--epochs "
            f"{needed}) would be {FEWEST_STEPS_A_PHASE} steps"
        )


def _load_splits(run: RunContext) -> tuple[Split, Split]:
    data, plan = run.data, run.plan

    # In the order of the first epoch, so that it can begin before all is decoded, and what other hosts
    # take at last. Features are computed row by row; images that are needed once need not be kept.
    def order(num_images: int, epoch: int | None = None) -> np.ndarray:
        rows = np.arange(num_images)
        if epoch is not None:
            rows = epoch_permutation(num_images, seed=plan.seed, epoch=epoch)
        return own_first(rows, global_batch=run.global_batch)

    def load(name: str, order: Callable) -> Split:
        cache = plan.cache if plan.epochs else "none"
        return load_split(data, name, on_corrupt=plan.on_corrupt, cache=cache, order=order)

    first_epoch = None if run.learns_head else len(run.history)
    train_split = load("train", functools.partial(order, epoch=first_epoch))
    if len(set(train_split.labels.tolist())) < 2:
        raise ValueError(
            f"the train split of {data.folder} holds one class only "
            f"({data.class_names[train_split.labels[0]]!r}); there is nothing to distinguish."
        )
    if plan.monitor == "epoch" and not data.counts["val"]:
        return train_split, Split.empty(data.image_size)
    val_split = load("val", order)
    check_leak(train_split, val_split)
    return train_split, val_split


def _describe_environment(run: RunContext, test: Split | None) -> Environment:
    data, splits = run.data, {"train": run.train, "val": run.val, "test": test}
    conversion = load_conversion(data.folder)
    trained_on = TrainedOn(
        folder=str(data.folder.resolve()),
        origin=data.origin,
        photos=conversion and conversion.source,
        resize=conversion and conversion.resize,
        image_size=data.image_size,
        counts=dict(data.counts),
        class_names=tuple(data.class_names),
        class_counts={
            name: tuple(np.bincount(splits[name].labels, minlength=data.num_classes).tolist())
            for name in ("train", "val")
        },
        images={name: describe_split(split) for name, split in splits.items() if split is not None},
        relabelled=dict(data.relabelled),
        ids={name: tuple(sorted(of)) for name, of in data.ids.items()},
    )
    device = {each.name: getattr(run.accelerator, each.name) for each in fields(Device)}
    return Environment(Device(**device), trained_on, run.schedule and str(run.schedule))


# A phase --------------------------------------------------------------------------------------------


def _build_large(run: RunContext) -> None:
    """The classifier for images of the size that it will have; its weights are loaded later."""
    run.clock.resize(1 / run.smaller_pixels)
    run.build()
    run.steps.clear()


def _begin_network(
    run: RunContext, phase: Phase, step: TrainStep, stop: own.StopFlag
) -> Phase | None:
    """The phase of the network with all that is measured before it; None where it has no time."""
    if run.history.best:  # of the phase before, not its last
        run.classifier.load_weights(_find_best(run))
    phase = fit_network(run, step, phase)
    run.save_plan(phase)
    if phase is None:
        stop.reason = "the time leaves none for the network"
    return phase


def _resume_phase(
    run: RunContext, phase: Phase, step: TrainStep, stop: own.StopFlag
) -> Phase | None:
    """The phase as it was left; `stop` has a reason where nothing of it is left to do."""
    last = run.history.last
    load_state(step.model, run.folder.find_epoch("last", last["epoch"]))
    _log.info(f"resuming after epoch {last['epoch']}")
    phase = run.fitted.restore(phase, len(run.history))
    if is_stopping_due(run.history, phase, run.plan.patience):
        stop.reason = "it had stopped early before"
    elif len(run.history) >= phase.first_epoch + phase.epochs:
        stop.reason = "the plan's epochs were done before (--epochs N trains longer)"
    elif run.clock.is_limited and not phase.is_frozen:
        field = "small_epochs" if phase.is_small else "epochs"
        if field in run.fitted.reasons:  # the run may choose them
            phase = replace(phase, most_epochs=max(phase.end, MOST_IN_TIME * EPOCHS))
        phase = phase.refitted(
            run.clock.left(),
            run.history,
            step_seconds=last["seconds"] / last["steps"],  # with its share of validation
            epoch_seconds=0,
            steps_an_epoch=run.num_steps,
        )
        if phase is None:
            stop.reason = "another epoch would not have fitted into the time"
    return phase


def fit(run: RunContext, phase: Phase, step: TrainStep, stop: own.StopFlag) -> Phase | None:
    """Train a phase to its end, until `stop` is set, or until the time asks for another length.

    What is left of the phase, fitted to the time, is returned; None: it is done.
    """
    first_epoch, last_epoch = len(run.history), phase.first_epoch + phase.epochs
    step.hooks.is_constant = isinstance(phase.schedule, Constant)
    try:
        with stop.on_interrupt():
            step.train(
                _find_rate(run, phase),
                build_callbacks(run, phase, step, stop),
                steps=phase.steps,
                first_step=_count_steps(run, phase),
                first_epoch=first_epoch,
                last_epoch=last_epoch,
            )
    except Exception:  # of a callback of yours, most often
        if not first_epoch and len(run.history) <= 1:
            run.folder.history_file.unlink(missing_ok=True)  # so the same call starts anew
        raise
    if stop.reason is None and stop.rest:
        rest, stop.rest = stop.rest, None
        _log.info(
            f"fitted anew, what is left: {format_epochs(rest.epochs)} of {pluralize(rest.steps, 'step')}"
        )
        run.save_plan(rest)
        return rest
    if stop.reason is None and len(run.history) < last_epoch:
        stop.reason = "one of your callbacks stopped it"
    if (phase.is_frozen or phase.is_small) and stop.reason is not None and not stop.ends_run:
        _log.info(f"phase {phase.number} ended: {stop.reason}")
    return None


def build_callbacks(
    run: RunContext, phase: Phase, step: TrainStep, stop: own.StopFlag
) -> list[keras.callbacks.Callback]:
    """All callbacks for a phase, in the one order in which they are right.

    At an epoch's end the weights are scored, then the epoch is recorded, then weights are kept; only
    then may anything decide to stop. Yours come after the run's own; what any has stopped is not fitted
    to the time anew.
    """

    def find_ids(done: int) -> list[str]:
        return run.train.ids[step.find_rows(_count_steps(run, phase) + done)].tolist()

    validation = Validation(run, step, stop)
    callbacks = [
        stop,
        own.ReseedDropout(run.plan.seed),
        own.TerminateOnNaN(stop, step.hooks, find_ids),
        validation,
        own.HistoryWriter(run, phase, stop, step.hooks),
        ModelCheckpoint(run, validation),
        own.EpochLogger(run),
        EarlyStopping(run.history, phase, run.plan.patience, stop),
    ]
    if not run.clock.is_limited and not phase.is_frozen:
        callbacks.append(own.TimeEstimate(phase))
    if run.plan.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(str(run.folder.path / "tensorboard")))
    if run.progress:
        callbacks.append(own.StepProgress(run.progress))
    callbacks += run.callbacks
    if run.callbacks and hosts.count() > 1:
        callbacks.append(own.FollowFirstHost())
    if run.clock.is_limited:
        callbacks.append(own.TimeLimit(run, phase, validation, stop))
    return callbacks


def _count_steps(run: RunContext, phase: Phase) -> int:
    """The number of the next batch: those of the phases before it count as whole epochs."""
    epochs = run.history.of_phase(phase.number)
    earlier = len(run.history) - len(epochs)
    return earlier * run.num_steps + sum(int(row["steps"]) for row in epochs)


def _find_rate(run: RunContext, phase: Phase) -> Callable[[int, int], float]:
    """(epoch, steps done in it) -> the rate of the next step."""
    if phase.schedule is not None:
        return phase.rate
    patience = run.plan.plateau_patience

    def halve(epoch: int, done: int) -> float:
        # Read off the history: a resumed run waits for as long as the whole one would have.
        epochs = run.history.of_phase(phase.number)
        before = History(epochs.monitor, [row for row in epochs if row["epoch"] <= epoch])
        return phase.first_lr * 0.5 ** before.count_plateaus(patience)

    return halve


# After the last step --------------------------------------------------------------------------------


def _describe_end(run: RunContext) -> str:
    rows = run.history
    done = sum(row["steps"] for row in rows.of_phase(rows.last["phase"]))
    shortened = done < int(run.plan.network_epochs * run.num_steps) - len(rows)
    if run.plan.epochs and run.clock.is_limited and ("epochs" in run.fitted.reasons or shortened):
        return TIME_USED
    return "the plan's epochs were done"


def _find_best(run: RunContext) -> Path:
    """The best weights. Raises RuntimeError where they are no longer what was written."""
    epoch = run.history.best["epoch"]
    if file := run.folder.find_epoch("best", epoch):
        return file
    raise RuntimeError(
        f"the best weights of {run.folder}, of epoch {epoch}, are damaged or gone. The same command "
        f"with --resume goes on with the best that is left."
    )


def _explain_nothing(stop: own.StopFlag, reason: str) -> RuntimeError:
    remedy = "more time"
    if stop.failed:
        remedy = "a lower learning rate (max_lr, --max-lr), or leave these images out"
    return RuntimeError(
        f"training ended before its first epoch was complete, because {reason}: there are no "
        f"weights to keep. Give it {remedy}."
    )
