"""The story of a run: a plan and data in, a trained classifier and a run folder out."""

import functools
import importlib.util
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from flowerkit.accelerator import Accelerator, connect
from flowerkit.data import FlowerData, Split, check_leak, load_split
from flowerkit.metrics import count_classes
from flowerkit.models import check_reload, choose_trainable, save_classifier
from flowerkit.pipeline import epoch_permutation, steps_per_epoch
from flowerkit.prediction import Predictions
from flowerkit.schedules import Schedule, rates_per_step
from flowerkit.training import callbacks as own
from flowerkit.training.early_stopping import EarlyStopping, is_stopping_due
from flowerkit.training.features import describe_data
from flowerkit.training.history import History
from flowerkit.training.phases import Phase, plan_phases, warn_about_rates
from flowerkit.training.plan import COMPETITION, TrainingPlan
from flowerkit.training.run_folder import Environment, RunFolder, RunResult
from flowerkit.training.step import Deadline, Progress, RunContext, TrainStep, build_model
from flowerkit.training.validation import ModelCheckpoint, Validation

_log = logging.getLogger("flowerkit")

FEW_STEPS = 20


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a training run came to; the same is in its folder.

    `model` holds the best weights. `history` has a row (dict) an epoch, see `history.COLUMNS`.
    `predictions` are those of val at the best epoch, `val_images` (n, size, size, 3) uint8 its images,
    row by row. `summary` is what result.json holds; `global_batch` counts a step's images.
    """

    folder: Path
    plan: TrainingPlan
    model: keras.Model
    history: History
    summary: RunResult
    predictions: Predictions
    val_images: np.ndarray
    accelerator: Accelerator
    global_batch: int

    def __str__(self) -> str:
        return str(self.summary)


def train(
    plan: TrainingPlan,
    data: FlowerData,
    *,
    out: str | os.PathLike,
    accelerator: Accelerator | None = None,
    schedule: Schedule | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    resume: bool = False,
    started: float | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train `plan` on `data` and leave a run folder at `out`, see `RunFolder`.

    With `resume` an interrupted run in `out` continues exactly where its last whole epoch ended, in the
    precision that it began with.
    `schedule`: your own for the last phase, such as `schedules.OfEpochAndRate(f, start_lr)`, used as it
    is; a plan is data and holds no function, so a resumed run needs it again. `callbacks` are yours,
    called after the run's own; their `self.model` trains the classifier, which is its layer
    "flower_classifier", or on features its layer "head". `started` (`time.monotonic()`) is when the
    clock of `max_minutes` began. `progress(description, done, total)` is called after every step.

    Raises ValueError for data that cannot be trained on (an empty split, one class, a batch larger
    than the split, validation that shares images with training) and two controllers of the learning
    rate; FileExistsError when `out` holds a run; RuntimeError when training ended before there was a
    model to keep.
    """
    started = time.monotonic() if started is None else started
    folder = RunFolder.resume(out, schedule) if resume else RunFolder.start(out)
    _check_callbacks(plan, callbacks)
    accelerator = accelerator or connect()
    if resume:
        accelerator = folder.with_its_precision(accelerator)
    global_batch = plan.per_replica_batch * accelerator.replicas
    phases = plan_phases(plan, global_batch=global_batch, schedule=schedule)
    run = _prepare(plan, data, accelerator, phases, folder, global_batch, started, resume)
    folder.write_start(plan, _describe_environment(run, data, schedule))

    first_step_seconds = None
    for phase in phases:
        if run.history and phase.number < run.history.last["phase"]:
            continue  # it was finished before the run was resumed
        if len(phases) > 1 or phase.is_frozen:
            _log.info(f"{phase}")
        with accelerator.scope():
            step = TrainStep.for_phase(run, phase, progress=progress)
        stop = own.StopFlag(run.num_steps)
        watching = build_callbacks(run, phase, step, stop, progress)
        _restore(run, phase, step, stop)
        if stop.reason is None:
            fit(run, phase, step, stop, watching, callbacks)
            first_step_seconds = first_step_seconds or watching[0].first_step_seconds
        if stop.ends_run:
            break
    return _finish(run, stop, first_step_seconds)


def fine_tune(
    data: FlowerData,
    epochs: int,
    *,
    out: str | os.PathLike,
    freeze_epochs: int = 1,
    base_lr: float = 2e-3,
    backbone_lr_factor: float = 0.01,
    plan: TrainingPlan = COMPETITION,
    **options,
) -> TrainingResult:
    """The head for `freeze_epochs`, then the whole network for `epochs`: fastai's `fine_tune`.

    One cycle each, up to `base_lr` and then to half of it, with rates that fall towards the first layer
    to `backbone_lr_factor` of the head's; fastai's is a hundredth. The rates are used as they are. The
    rest comes from `plan`; `options` are those of `train`, and so is what is raised.
    """
    plan = replace(
        plan,
        schedule="one-cycle",
        freeze_epochs=freeze_epochs,
        epochs=epochs,
        freeze_lr=base_lr,
        max_lr=base_lr / 2,
        backbone_lr_factor=backbone_lr_factor,
        lr_reference_batch=None,
    )
    return train(plan, data, out=out, **options)


def fit_one_cycle(
    data: FlowerData,
    epochs: int,
    max_lr: float = 1e-3,
    *,
    out: str | os.PathLike,
    plan: TrainingPlan = COMPETITION,
    **options,
) -> TrainingResult:
    """Train for `epochs` by one cycle up to `max_lr`: fastai's `fit_one_cycle`.

    The rate is used as it is. The rest comes from `plan`; `options` are those of `train`, and so is
    what is raised.
    """
    plan = replace(
        plan, schedule="one-cycle", epochs=epochs, max_lr=max_lr, lr_reference_batch=None
    )
    return train(plan, data, out=out, **options)


# Before the first step ------------------------------------------------------------------------------


def _prepare(
    plan: TrainingPlan,
    data: FlowerData,
    accelerator: Accelerator,
    phases: Sequence[Phase],
    folder: RunFolder,
    global_batch: int,
    started: float,
    resume: bool,
) -> RunContext:
    """The classifier and the splits; everything that can be refused is refused here."""
    # Before the data: a missing backbone or missing weights are reported at once.
    classifier = build_model(plan, data, accelerator)
    _check_layers(classifier, plan)
    before = History.load(folder.history_file, plan.monitor) if resume else []
    train_split, val_split = _load_splits(data, plan, phases, first_epoch=len(before))
    num_steps = steps_per_epoch(len(train_split), global_batch)
    # An epoch that the time cut off is done again.
    whole = [row for row in before if row["steps"] == num_steps]
    run = RunContext(
        plan,
        accelerator,
        classifier,
        train_split,
        val_split,
        global_batch,
        num_steps,
        folder,
        History(plan.monitor, whole, folder.history_file),
        _find_deadline(plan, data, global_batch, started),
    )
    _log.info(f"{run.num_steps:,} steps an epoch, {run.global_batch:,} images each")
    if run.num_steps < FEW_STEPS:
        _log.warning(
            f"so few steps an epoch (under {FEW_STEPS}) learn slowly: pass a smaller per_replica_batch "
            f"(--per-replica-batch), or more epochs"
        )
    for line in warn_about_rates(plan, phases[-1], global_batch=run.global_batch):
        _log.info(line)
    return run


def _find_deadline(
    plan: TrainingPlan, data: FlowerData, global_batch: int, started: float
) -> Deadline | None:
    if plan.max_minutes is None:
        return None
    num_val, num_test = (-(-data.counts[name] // global_batch) for name in ("val", "test"))
    return Deadline(started + 60 * plan.max_minutes, num_val, num_test)


def _check_callbacks(plan: TrainingPlan, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    kinds = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)
    for callback in callbacks:
        if isinstance(callback, kinds):
            raise ValueError(
                f"two controllers of the learning rate: the plan's schedule={plan.schedule!r} and "
                f"your {type(callback).__name__}. Leave it out, and put the rate into the plan."
            )
    for package in (
        ("tensorboard", "tensorflow") if plan.tensorboard else ()
    ):  # Keras writes with it
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"tensorboard=True needs a missing package: pip install {package}, or leave it out"
            )


def _check_layers(classifier: keras.Model, plan: TrainingPlan) -> None:
    """Refuse layers to freeze and to unfreeze that are not there."""
    if plan.freeze_epochs and not classifier.get_layer("backbone").weights:
        raise ValueError(
            f"freeze_epochs={plan.freeze_epochs}, but {plan.backbone} has no weights to freeze."
        )
    if plan.epochs:
        choose_trainable(classifier, plan.unfreeze_from, freeze_norms=plan.freeze_norms)


def _load_splits(
    data: FlowerData, plan: TrainingPlan, phases: Sequence[Phase], *, first_epoch: int
) -> tuple[Split, Split]:
    # In the order of the first epoch, so that it can begin before all is decoded. Features are
    # computed row by row, and images that are needed once need not be kept.
    order = functools.partial(epoch_permutation, seed=plan.seed, epoch=first_epoch)
    if phases[0].is_frozen and first_epoch < phases[0].epochs:
        order = None
    cache = "none" if all(phase.is_frozen for phase in phases) else plan.cache
    train_split = load_split(data, "train", on_corrupt=plan.on_corrupt, cache=cache, order=order)
    if len(set(train_split.labels.tolist())) < 2:
        raise ValueError(
            f"the train split of {data.folder} holds one class only "
            f"({data.class_names[train_split.labels[0]]!r}); there is nothing to distinguish."
        )
    val_split = load_split(data, "val", on_corrupt=plan.on_corrupt, cache=cache)
    check_leak(train_split, val_split)
    return train_split, val_split


def _describe_environment(run: RunContext, data: FlowerData, schedule) -> Environment:
    splits = {"train": run.train, "val": run.val}
    return Environment.of(
        data,
        run.accelerator,
        schedule,
        class_counts={
            name: count_classes(split.labels, data.num_classes).tolist()
            for name, split in splits.items()
        },
        images={name: describe_data(split) for name, split in splits.items()},
    )


# A phase --------------------------------------------------------------------------------------------


def build_callbacks(
    run: RunContext,
    phase: Phase,
    step: TrainStep,
    stop: own.StopFlag,
    progress: Progress | None = None,
) -> list[keras.callbacks.Callback]:
    """The run's own callbacks for a phase, in the one order in which they are right.

    At an epoch's end the weights are scored, then the epoch is recorded, then weights are kept; only
    then may anything decide to stop.
    """
    plan, start = run.plan, _start_of(run.history, phase)
    hooks = own.StepHooks(run.num_steps)
    validation = Validation(run, step, stop)
    callbacks = [
        hooks,  # first: it counts the steps for the others
        stop,
        own.ReseedDropout(plan.seed),
        own.TerminateOnNaN(stop),
        validation,
        own.HistoryWriter(run, phase, _find_planned_rate(run, phase), stop, hooks),
        ModelCheckpoint(run, validation),
        own.EpochLogger(run),
        EarlyStopping(run.history, phase, plan.patience, stop),
    ]
    if phase.schedule is None:
        callbacks.append(own.ReduceLROnPlateau(run, phase))
    elif not phase.schedule.per_step:  # else the optimizer looks it up, step by step
        callbacks.append(own.LearningRateSetter(phase.schedule, start))
    if run.deadline:
        callbacks.append(own.TimeLimit(run, step, validation, stop))
    if plan.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(str(run.folder.path / "tensorboard")))
    if progress:
        callbacks.append(own.StepProgress(progress, start + phase.epochs, run.num_steps))
    return callbacks


def _start_of(history: History, phase: Phase) -> int:
    """How many epochs came before the phase."""
    return sum(row["phase"] < phase.number for row in history)


def _find_planned_rate(run: RunContext, phase: Phase):
    """(epoch, steps done in it) -> the planned rate; None without a schedule."""
    schedule, start = phase.schedule, _start_of(run.history, phase)
    if schedule is None:
        return None
    if not schedule.per_step:
        return lambda epoch, done: schedule(epoch - start)
    rates = rates_per_step(schedule, epochs=phase.epochs, steps_per_epoch=run.num_steps)
    # The optimizer tells the rate of the step that comes next.
    return lambda epoch, done: rates[min((epoch - start) * run.num_steps + done, len(rates) - 1)]


def _restore(run: RunContext, phase: Phase, step: TrainStep, stop: own.StopFlag) -> None:
    """The last weights of a phase that is resumed; `stop` holds a reason if it was finished before."""
    num_done = len(run.history.of_phase(phase.number))
    if not num_done:
        return
    step.model.load_weights(run.folder.last_weights)
    _log.info(f"resuming after epoch {run.history.last['epoch']}")
    if is_stopping_due(run.history, phase, run.plan.patience):
        stop.reason = "it had stopped early before"
    elif num_done >= phase.epochs:
        stop.reason = "the plan's epochs were done before (--epochs N trains longer)"


def fit(
    run: RunContext,
    phase: Phase,
    step: TrainStep,
    stop: own.StopFlag,
    watching: Sequence[keras.callbacks.Callback],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Train a phase to its end or until `stop` is set; `callbacks` come after the run's own."""
    hooks, every = watching[0], [*watching, *callbacks]
    hooks.listen(every)
    last_epoch = _start_of(run.history, phase) + phase.epochs
    try:
        with stop.on_interrupt():
            step.model.fit(
                step.batches(first_epoch=len(run.history)).for_keras(),
                epochs=last_epoch,
                initial_epoch=len(run.history),
                callbacks=every,
                steps_per_epoch=run.num_steps,
                verbose=0,
                shuffle=False,
            )
    finally:
        hooks.release()
    if stop.reason is None and len(run.history) < last_epoch:
        stop.reason, stop.ends_run = "one of your callbacks stopped it", True


# After the last step --------------------------------------------------------------------------------


def _finish(
    run: RunContext, stop: own.StopFlag, first_step_seconds: float | None
) -> TrainingResult:
    """Put the best weights back, save them as model.keras, and check that the file predicts the same."""
    folder, best = run.folder, run.history.best
    reason = stop.reason or "the plan's epochs were done"
    if best is None or not folder.best_weights.is_file():
        if stop.interrupted:
            raise RuntimeError(
                "interrupted before the first epoch was complete: there is nothing to keep."
            )
        raise RuntimeError(
            f"training ended before its first epoch was complete, because {reason}: there are no "
            f"weights to keep. Give it more time, or after a loss that is not a number a lower "
            f"learning rate (max_lr={run.plan.max_lr:g}, --max-lr)."
        )
    run.classifier.load_weights(folder.best_weights)
    save_classifier(run.classifier, folder.model_file)
    check_reload(run.classifier, folder.model_file)
    # The first epoch traces and compiles; the others say how fast the machine is.
    steady = run.history[1:] or run.history[:]
    summary = RunResult(
        stopped_at_epoch=run.history.last["epoch"],
        stop_reason=reason,
        interrupted=stop.interrupted,
        best_epoch=best["epoch"],
        best_weights="averaged" if best["averaged"] == 1 else "raw",
        val_f1=best["val_f1"],
        val_accuracy=best["val_accuracy"],
        val_loss=best["val_loss"],
        seconds_per_epoch=sum(row["seconds"] for row in steady) / len(steady),
        images_per_second=sum(row["images_per_second"] for row in steady) / len(steady),
        first_step_seconds=first_step_seconds,
    )
    folder.write_result(summary)
    return TrainingResult(
        folder=folder.path,
        plan=run.plan,
        model=run.classifier,
        history=run.history,
        summary=summary,
        predictions=folder.val_predictions(),
        val_images=run.val.images,
        accelerator=run.accelerator,
        global_batch=run.global_batch,
    )
