"""The story of a run: a plan and data in, a trained classifier and a run folder out."""

import functools
import gc
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from flowerkit.accelerator import Accelerator, connect, hosts, is_out_of_memory
from flowerkit.console import Progress, showing
from flowerkit.data import FlowerData, Split, check_is_data, check_leak, load_split
from flowerkit.files import check_room, find_free_folder
from flowerkit.models import check_reload, choose_trainable, fixed_input_size, save_classifier
from flowerkit.pipeline import epoch_permutation, own_first, steps_per_epoch
from flowerkit.prediction import Predictions, describe_data
from flowerkit.schedules import Constant, Schedule, as_schedule
from flowerkit.sources import check_test_split
from flowerkit.synonyms import explain_arguments
from flowerkit.text import did_you_mean, format_epochs, pluralize
from flowerkit.training import callbacks as own
from flowerkit.training.early_stopping import EarlyStopping, is_stopping_due
from flowerkit.training.fitting import (
    MOST_IN_TIME,
    OutOfMemory,
    build_in_time,
    check_memory,
    fit_network,
    has_time_for_batch,
    report_choices,
    shrink_batch,
)
from flowerkit.training.history import History
from flowerkit.training.phases import Clock, Phase, plan_phases, warn_about_schedule
from flowerkit.training.plan import EPOCHS, FINE_TUNE, MONITORS, TrainingPlan, name_plan, settle
from flowerkit.training.run_folder import (
    TIME_USED,
    Environment,
    Fitted,
    RunFolder,
    RunResult,
    find_goes_on,
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

FEW_STEPS = 20
_LOWER_RATE = "a lower learning rate (max_lr, --max-lr), or leave these images out"
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
    if not isinstance(plan, TrainingPlan):
        raise ValueError(
            f"plan must be a TrainingPlan, such as load_plan('fine-tune') or TrainingPlan(epochs=5). "
            f"Received: plan={plan!r}"
        )
    callbacks = _read_callbacks(plan, callbacks)
    if schedule is not None:
        schedule = as_schedule(schedule, start_lr=plan.highest_lr)
        plan_phases(plan, global_batch=1, schedule=schedule)  # refuses two controllers of the rate
    check_is_data(data)
    given, accelerator = accelerator, accelerator or connect()
    if hosts.count() > 1 and plan.has_own_backbone:
        raise ValueError(
            "several hosts need the backbone as a file that each of them has: save the model, and pass "
            "backbone='FILE.keras' (--backbone FILE.keras)."
        )
    with showing(progress, speaks=hosts.is_first()) as progress, hosts.listening():
        names = [type(each).__name__ for each in callbacks]
        options = {"schedule": str(schedule), "callbacks": names, "resume": resume}
        hosts.check_same(plan.to_dict() | options, "arguments")
        if given is None:
            _log.info(f"{accelerator}")
        if hosts.count() > 1 and plan.halve_on_oom:
            _log.warning(
                "halve_on_oom (--halve-on-oom) has no effect on several hosts, which end together where "
                "a step does not fit: pass accumulate=2 (--accumulate 2) or more"
            )
        folder = _open_folder(out, plan, schedule, resume)
        precision = accelerator.precision
        if resume and given is None:
            precision = folder.environment().accelerator.precision
        accelerator = replace(accelerator, precision=hosts.broadcast(precision))
        options = accelerator, folder, schedule, callbacks, started, progress
        with folder.locked():
            while True:
                try:
                    return _train(data, plan, *options, resume=resume)
                except OutOfMemory as error:
                    if not (plan.halve_on_oom and error.parts) or hosts.count() > 1:
                        raise
                    _log.warning(f"{error.fault}: going on in {error.parts} parts a step")
                    plan = replace(plan, accumulate=error.parts)
                resume = resume or folder.history_file.is_file()
                gc.collect()  # what has failed leaves its memory


def _train(
    data, plan, accelerator, folder, schedule, callbacks, started, progress, *, resume
) -> TrainingResult:
    """A run from its first step, or where it was left, to its end."""
    if resume:
        plan = folder.continue_with(folder.complete(plan), accelerator)
    plan, reasons = settle(
        plan,
        num_train=data.counts["train"],
        stored_px=data.image_size,
        kind=accelerator.kind,
        replicas=accelerator.replicas,
        is_timed=plan.max_minutes is not None,
        before=find_goes_on(plan, data.class_names),
    )
    run = None
    try:
        with hosts.together():
            start = hosts.broadcast(started)
            run = _prepare(data, plan, reasons, accelerator, folder, schedule, start, resume)
            run, *end = _fit_phases(run, schedule, callbacks, progress)
        return _finish(run, *end, time.monotonic() - started)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # A step of the network may have got other images than were planned.
        raise OutOfMemory(folder.plan() if run else plan, accelerator) from error


def _fit_phases(
    run, schedule, callbacks, progress
) -> tuple[RunContext, own.StopFlag, float | None]:
    """Train all phases: with what comes before them, the part that several hosts do together."""
    first_step_seconds = None
    for phase in _plan_phases(run, schedule):
        if run.history and phase.number < run.history.last["phase"]:
            continue  # it was finished before the run was resumed
        phase = replace(phase, first_epoch=_start_of(run.history, phase))
        run = _choose_batch(run, phase)
        with run.accelerator.scope():
            step = TrainStep.for_phase(run, phase.is_frozen, progress=progress)
        stop = own.StopFlag()
        run, phase = _begin(run, phase, step, stop, schedule, progress)
        if phase and stop.reason is None and (phase.number > 1 or phase.is_frozen):
            _log.info(f"{phase}")
        while phase and stop.reason is None:
            phase = fit(run, phase, step, stop, callbacks, progress)
        first_step_seconds = first_step_seconds or step.hooks.first_step_seconds
        if stop.ends_run:
            break
    return run, stop, first_step_seconds


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


def _prepare(
    data: FlowerData,
    plan: TrainingPlan,
    reasons: dict[str, str],
    accelerator: Accelerator,
    folder: RunFolder,
    schedule: Schedule | None,
    started: float,
    resume: bool,
) -> RunContext:
    """The classifier and the splits; everything that can be refused is refused here."""
    check_room(folder.path)
    test = check_test_split(data, on_corrupt=plan.on_corrupt)
    hosts.check_same([dict(data.counts), data.image_size, list(data.class_names)], "data")
    num_scored = data.counts["val"] + min(STATISTICS_IMAGES, data.counts["train"])
    history = folder.take_up() if resume else History(plan.monitor, path=folder.history_file)
    clock = Clock(
        num_val=num_scored,
        num_test=data.counts["test"],
        earlier_seconds=sum(row["seconds"] for row in history),
    )
    if plan.max_minutes is not None:
        clock.at = started + 60 * plan.max_minutes
    fitted = folder.fitted() if resume else Fitted()
    is_frozen = plan.freeze_epochs > len(history) and (not history or history.last["phase"] == 1)
    open_fields = set(reasons) - {"input_size"} if fixed_input_size(plan.backbone) else reasons
    # Before the data: a missing backbone or missing weights are reported at once.
    plan, classifier, parts, smaller = build_in_time(
        plan, data, accelerator, clock, open_fields=open_fields, needs_features=is_frozen
    )
    reasons |= smaller
    global_batch = plan.per_replica_batch * accelerator.replicas
    _check_layers(classifier, plan)
    plan = folder.with_its_backbone(plan)
    report_choices(reasons)
    check_memory(plan, classifier, data, accelerator, folder.path)
    run = RunContext(
        plan,
        accelerator,
        classifier,
        None,
        None,
        global_batch,
        steps_per_epoch(data.counts["train"], global_batch),
        folder,
        history,
        clock,
        parts,
        parts[1].get_weights(),
    )
    sure = [True] * is_frozen
    if plan.epochs and ("per_replica_batch" not in reasons or has_time_for_batch(run, data)):
        sure.append(False)
    with ThreadPoolExecutor(1) as reader:  # beside tracing, and then compiling
        splits = reader.submit(
            _load_splits,
            data,
            plan,
            global_batch=global_batch,
            first_epoch=len(history),
            is_frozen=is_frozen,
        )
        with accelerator.scope():
            compile_ahead(run, phases=sure)
            for step in run.steps.values():
                statistics_of(step).prepare(run.part_batch, step.model.inputs[0].dtype)
        train_split, val_split = splits.result()
    run = replace(
        run,
        train=train_split,
        val=val_split,
        num_steps=steps_per_epoch(len(train_split), global_batch),
    )
    _log.info(
        f"{pluralize(run.num_steps, 'step')} an epoch, {pluralize(run.global_batch, 'image')} each"
    )
    if run.num_steps < FEW_STEPS:
        _log.warning(
            f"so few steps an epoch (under {FEW_STEPS}) learn slowly: pass a smaller per_replica_batch "
            f"(--per-replica-batch), or more epochs"
        )
    last_phase = _plan_phases(run, schedule)[-1]
    for line in warn_about_schedule(plan, last_phase, global_batch=run.global_batch):
        _log.info(line)
    environment = _describe_environment(run, data, schedule, test)
    hosts.check_same(environment.data.images, "images")
    fitted = replace(fitted, reasons=fitted.reasons | reasons, replicas=accelerator.replicas)
    folder.write_start(plan, fitted, environment)
    if history:
        history.save()  # without the epochs that are done again
    folder.prune(len(history))
    return run


def _plan_phases(run: RunContext, schedule: Schedule | None) -> list[Phase]:
    return plan_phases(
        run.plan, global_batch=run.global_batch, steps_an_epoch=run.num_steps, schedule=schedule
    )


def _read_callbacks(plan: TrainingPlan, callbacks) -> list[keras.callbacks.Callback]:
    """Yours as a list. Refuses what Keras would not call, and what the run does itself."""
    if callbacks is None:
        callbacks = ()
    is_list = isinstance(callbacks, Iterable) and not isinstance(callbacks, str)
    callbacks = list(callbacks) if is_list else [callbacks]
    for callback in callbacks:
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
    packages = ("tensorboard", "tensorflow") if plan.tensorboard else ()  # Keras writes with both
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"tensorboard=True needs a missing package: pip install {package}, or leave it out"
            )
    return callbacks


def _check_layers(classifier: keras.Model, plan: TrainingPlan) -> None:
    """Refuse layers to freeze and to unfreeze that are not there."""
    if plan.freeze_epochs and not classifier.get_layer("backbone").weights:
        raise ValueError(
            f"freeze_epochs={plan.freeze_epochs}, but {plan.backbone} has no weights to freeze."
        )
    if plan.epochs:
        chosen = choose_trainable(classifier, plan.unfreeze_from, freeze_norms=plan.freeze_norms)
        if plan.unfreeze_from is not None:  # several layers may be meant
            _log.info(
                f"the backbone learns from {chosen[0]!r} on: {pluralize(len(chosen), 'layer')}"
            )


def _load_splits(
    data: FlowerData, plan: TrainingPlan, *, global_batch: int, first_epoch: int, is_frozen: bool
) -> tuple[Split, Split]:
    # In the order of the first epoch, so that it can begin before all is decoded, and what other hosts
    # take at last. Features are
    # computed row by row, and images that are needed once need not be kept.
    def order(num_images: int, epoch: int | None = None) -> np.ndarray:
        rows = np.arange(num_images)
        if epoch is not None:
            rows = epoch_permutation(num_images, seed=plan.seed, epoch=epoch)
        return own_first(rows, global_batch=global_batch)

    cache = plan.cache if plan.epochs else "none"
    train_order = order if is_frozen else functools.partial(order, epoch=first_epoch)
    train_split = load_split(
        data, "train", on_corrupt=plan.on_corrupt, cache=cache, order=train_order
    )
    if len(set(train_split.labels.tolist())) < 2:
        raise ValueError(
            f"the train split of {data.folder} holds one class only "
            f"({data.class_names[train_split.labels[0]]!r}); there is nothing to distinguish."
        )
    if plan.monitor == "epoch" and not data.counts["val"]:
        return train_split, Split.empty(data.image_size)
    val_split = load_split(data, "val", on_corrupt=plan.on_corrupt, cache=cache, order=order)
    check_leak(train_split, val_split)
    return train_split, val_split


def _describe_environment(
    run: RunContext, data: FlowerData, schedule: Schedule | None, test: Split | None
) -> Environment:
    splits = {"train": run.train, "val": run.val}
    counted = {
        name: np.bincount(split.labels, minlength=data.num_classes).tolist()
        for name, split in splits.items()
    }
    if test is not None:
        splits["test"] = test
    return Environment.of(
        data,
        run.accelerator,
        schedule,
        class_counts=counted,
        images={name: _describe_split(split) for name, split in splits.items()},
    )


def _describe_split(split: Split) -> str:
    labels = [] if split.labels is None else split.labels.tolist()
    key = sha256(json.dumps([labels, split.ids.tolist()]).encode()).hexdigest()[:16]
    return f"{describe_data(split)}, labels and ids (key {key})"


# A phase --------------------------------------------------------------------------------------------


def _choose_batch(run: RunContext, phase: Phase) -> RunContext:
    """`run` with the network's batch, which need not be the head's, where the run may choose it."""
    fitted = run.folder.fitted()
    if phase.is_frozen or run.history.of_phase(phase.number):
        return run
    if "per_replica_batch" in fitted.reasons:
        run, reasons = shrink_batch(run)
        report_choices(reasons)
        run.folder.write_plan(run.plan, replace(fitted, reasons=fitted.reasons | reasons))
    return run


def _begin(
    run: RunContext,
    phase: Phase,
    step: TrainStep,
    stop: own.StopFlag,
    schedule: Schedule | None,
    progress: Progress | None,
) -> tuple[RunContext, Phase | None]:
    """(run, phase) with all that is measured before the phase; or as it was left, where it is resumed.

    `stop` holds a reason where nothing of the phase is left to do.
    """
    fitted = run.folder.fitted()
    num_done = len(run.history.of_phase(phase.number))
    if not num_done and not phase.is_frozen:
        if run.history.best:  # the head's best, not its last
            run.classifier.load_weights(_find_best(run))
        run, phase, reasons = fit_network(run, step, phase, schedule=schedule, progress=progress)
        report_choices(reasons)
        run.folder.write_plan(run.plan, fitted.with_rest(phase, reasons))
        if phase is None:
            stop.reason = "the time leaves none for the network"
        return run, phase
    if not num_done:
        run.folder.write_plan(run.plan, fitted.with_rest(phase, {}))
        return run, phase
    load_state(step.model, run.folder.find_epoch("last", run.history.last["epoch"]))
    _log.info(f"resuming after epoch {run.history.last['epoch']}")
    phase = fitted.restore(phase, len(run.history))
    if is_stopping_due(run.history, phase, run.plan.patience):
        stop.reason = "it had stopped early before"
    elif len(run.history) >= phase.first_epoch + phase.epochs:
        stop.reason = "the plan's epochs were done before (--epochs N trains longer)"
    elif run.clock.is_limited and not phase.is_frozen:
        row = run.history.last
        if "epochs" in fitted.reasons:  # the run may choose them
            phase = replace(phase, most_epochs=max(phase.end, MOST_IN_TIME * EPOCHS))
        phase = phase.refitted(
            run.clock.left(),
            rows=run.history.of_phase(phase.number),
            from_epoch=len(run.history),
            step_seconds=row["seconds"] / row["steps"],  # with its share of validation
            epoch_seconds=0,
            steps_an_epoch=run.num_steps,
        )
        if phase is None:
            stop.reason = "another epoch would not have fitted into the time"
    return run, phase


def fit(
    run: RunContext,
    phase: Phase,
    step: TrainStep,
    stop: own.StopFlag,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: Progress | None = None,
) -> Phase | None:
    """Train a phase to its end, until `stop` is set, or until the time asks for another length.

    `callbacks` come after the run's own. What is left of the phase, fitted to the time, is returned;
    None: it is done.
    """
    first_epoch = len(run.history)
    watching = [*build_callbacks(run, phase, step, stop, progress), *callbacks]
    if callbacks and hosts.count() > 1:
        watching.append(own.FollowFirstHost())
    limit = None
    if run.clock.is_limited:  # last: what any other has stopped is not fitted anew
        validation = next(each for each in watching if isinstance(each, Validation))
        limit = own.TimeLimit(run, phase, validation, stop)
        watching.append(limit)
    step.hooks.is_constant = isinstance(phase.schedule, Constant)
    try:
        with stop.on_interrupt():
            step.train(
                _find_rate(run, phase),
                watching,
                steps=phase.steps,
                first_step=_count_steps(run, phase),
                first_epoch=first_epoch,
                last_epoch=phase.first_epoch + phase.epochs,
            )
    except Exception:  # of a callback of yours, most often
        if not first_epoch and len(run.history) <= 1:
            run.folder.history_file.unlink(missing_ok=True)  # so the same call starts anew
        raise
    if stop.reason is None and limit and limit.refitted:
        rest = limit.refitted
        _log.info(
            f"fitted anew, what is left: {format_epochs(rest.epochs)} of {pluralize(rest.steps, 'step')}"
        )
        run.folder.write_plan(run.plan, run.folder.fitted().with_rest(rest, {}))
        return limit.refitted
    if stop.reason is None and len(run.history) < phase.first_epoch + phase.epochs:
        stop.reason = "one of your callbacks stopped it"
    if phase.is_frozen and stop.reason is not None and not stop.ends_run:
        _log.info(f"the head's epochs ended: {stop.reason}")
    return None


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
    if progress:
        callbacks.append(own.StepProgress(progress))
    return callbacks


def _start_of(history: History, phase: Phase) -> int:
    """How many epochs came before the phase."""
    return sum(row["phase"] < phase.number for row in history)


def _count_steps(run: RunContext, phase: Phase) -> int:
    """The number of the next batch: those of the phases before it count as whole epochs."""
    done = sum(int(row["steps"]) for row in run.history.of_phase(phase.number))
    return _start_of(run.history, phase) * run.num_steps + done


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
    reasons, rows = run.folder.fitted().reasons, run.history
    done = sum(row["steps"] for row in rows if row["phase"] == rows.last["phase"])
    shortened = done < int(run.plan.network_epochs * run.num_steps) - len(rows)
    if run.plan.epochs and run.clock.is_limited and ("epochs" in reasons or shortened):
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


def _finish(
    run: RunContext, stop: own.StopFlag, first_step_seconds: float | None, seconds: float
) -> TrainingResult:
    """Put the best weights back, save them as model.keras, and check that the file predicts the same.

    `seconds` have passed since the run was started, or resumed.
    """
    folder, best = run.folder, run.history.best
    reason = stop.reason or _describe_end(run)
    if best is None:
        if stop.interrupted:
            raise RuntimeError(
                "interrupted before the first epoch was complete: there is nothing to keep."
            )
        raise RuntimeError(
            f"training ended before its first epoch was complete, because {reason}: there are no "
            f"weights to keep. Give it {_LOWER_RATE if stop.failed else 'more time'}."
        )
    if hosts.count() > 1:  # the classifier's variables lie on the devices of all
        run = replace(run, classifier=keras.models.clone_model(run.classifier))
    run.classifier.load_weights(_find_best(run))
    folder.reopen()
    save_classifier(run.classifier, folder.model_file)
    check_reload(run.classifier, folder.model_file, batch=run.part_batch)
    predictions = Predictions.load(folder.find_epoch("predictions", best["epoch"]))
    predictions.save(folder.val_predictions_file)
    # The first epoch traces and compiles; the others say how fast the machine is.
    steady = run.history[1:] or run.history[:]
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
        first_step_seconds=first_step_seconds,
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
