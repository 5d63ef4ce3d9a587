"""TrainingPlan + FlowerData -> TrainingResult: a trained model, and a folder that says all about it."""

import functools
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from flowerkit.accelerator import Accelerator, connect
from flowerkit.data.split import Split, check_leak, load_split
from flowerkit.data.tfrecords import FlowerData
from flowerkit.files import write_json
from flowerkit.metrics import count_classes
from flowerkit.models.classifier import check_reload, save_classifier
from flowerkit.pipeline.batches import epoch_permutation, steps_per_epoch
from flowerkit.prediction.predictions import Predictions
from flowerkit.schedules import Schedule
from flowerkit.training.async_steps import ShowSteps
from flowerkit.training.features import Features, describe_data
from flowerkit.training.history import best_row
from flowerkit.training.loop import Run, Watchers, check_execution, fit, open_feed
from flowerkit.training.phases import Phase, explain_rates, find_phases
from flowerkit.training.plan import COMPETITION, TrainingPlan
from flowerkit.training.run_folder import check_folder, check_images, read_whole_epochs, write_start
from flowerkit.training.step import build_planned, compile_for_training

_log = logging.getLogger("flowerkit")

FEW_STEPS = 20


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a training run came to; the same stands in its folder.

    `model` holds the best weights. `history` has a row (dict) an epoch, see `history.COLUMNS`;
    `best` is the row of the best epoch. `predictions` are those of val at the best epoch,
    `val_images` (n, size, size, 3) uint8 the images they are about, row by row.
    """

    folder: Path
    plan: TrainingPlan
    model: keras.Model
    history: list[dict[str, float]]
    best: dict[str, float]
    stop_reason: str
    predictions: Predictions
    val_images: np.ndarray
    accelerator: Accelerator
    interrupted: bool
    first_step_seconds: float | None = None

    @property
    def global_batch(self) -> int:
        """Images per step, over all replicas."""
        return self.plan.per_replica_batch * self.accelerator.replicas

    def to_dict(self) -> dict:
        """The headline figures, as in result.json."""
        # The first epoch traces and compiles; the others say how fast the machine is.
        steady = self.history[1:] or self.history
        return {
            "stopped_at_epoch": self.history[-1]["epoch"],
            "stop_reason": self.stop_reason,
            "best_epoch": self.best["epoch"],
            "val_f1": self.best["val_f1"],
            "val_accuracy": self.best["val_accuracy"],
            "val_loss": self.best["val_loss"],
            "seconds_per_epoch": sum(row["seconds"] for row in steady) / len(steady),
            "images_per_second": sum(row["images_per_second"] for row in steady) / len(steady),
            "first_step_seconds": self.first_step_seconds,
        }

    def __str__(self) -> str:
        figures = self.to_dict()
        return (
            f"stopped at epoch {figures['stopped_at_epoch']} because {self.stop_reason}; "
            f"best epoch {figures['best_epoch']}: macro F1 {figures['val_f1']:.4f} on val, "
            f"accuracy {figures['val_accuracy']:.4f}; {figures['seconds_per_epoch']:.1f} s an epoch, "
            f"{figures['images_per_second']:,.0f} images/s"
        )


def train(
    plan: TrainingPlan,
    data: FlowerData,
    *,
    out: str | os.PathLike,
    accelerator: Accelerator | None = None,
    schedule: Schedule | None = None,
    features: tuple[Features, Features] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    resume: bool = False,
    started: float | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> TrainingResult:
    """Train `plan` on `data` and leave a run folder at `out`.

    The folder holds plan.json, environment.json, history.csv, result.json, model.keras (the best
    weights), val_predictions.npz and checkpoints/. With `resume` an interrupted run in `out` goes
    on exactly where its last whole epoch ended. `schedule`: your own for the last phase, such as
    `schedules.OfEpochAndRate(f, start_lr)`, used as it stands; a plan is data and holds no function, so
    a resumed run is given it again. `features`: those of train and val, where you have computed them
    (else a phase that learns from features computes or finds them). `callbacks` are yours, called
    after the run's own; their `self.model` trains the classifier, which is its layer
    "flower_classifier", or on features its layer "head". `started` (`time.monotonic()`) is when the
    clock of `max_minutes` began. `progress(what, done, total)` is called after every step.

    Raises ValueError for data that cannot be trained on (an empty split, one class, a batch larger
    than the split, validation that shares images with training), features of another model or of
    other data, two controllers of the learning rate; FileExistsError when `out` holds a run;
    RuntimeError when training ended before there was a model to keep.
    """
    started = time.monotonic() if started is None else started
    out = Path(out)
    check_folder(out, resume, schedule)
    _check_callbacks(plan, callbacks)
    _check_tensorboard(plan)
    accelerator = accelerator or connect()
    global_batch = plan.per_replica_batch * accelerator.replicas
    phases = find_phases(plan, global_batch=global_batch, schedule=schedule)
    _check_wanted(features, phases)
    run = _prepare(plan, data, accelerator, phases, out, started, resume)
    counts = {
        name: count_classes(split.labels, data.num_classes).tolist()
        for name, split in (("train", run.train), ("val", run.val))
    }
    images = {"train": describe_data(run.train), "val": describe_data(run.val)}
    if resume:
        check_images(out, images)
    write_start(out, plan, data, accelerator, schedule, class_counts=counts, images=images)
    watchers, first_step_seconds = _train_phases(run, phases, features, callbacks, progress)
    best, reason = _keep_best(run, watchers)
    trained = TrainingResult(
        out,
        plan,
        run.classifier,
        run.rows,
        best,
        reason,
        Predictions.load(out / "val_predictions.npz"),
        run.val.images,
        accelerator,
        interrupted=watchers.interrupt.caught,
        first_step_seconds=first_step_seconds,
    )
    write_json(out / "result.json", trained.to_dict())
    return trained


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
    to `backbone_lr_factor` of the head's; fastai's is a hundredth. The rates are used as they stand. What
    else there is comes from `plan`; `options` are those of `train`, and so is what is raised.
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

    The rate is used as it stands. What else there is comes from `plan`; `options` are those of
    `train`, and so is what is raised.
    """
    plan = replace(
        plan, schedule="one-cycle", epochs=epochs, max_lr=max_lr, lr_reference_batch=None
    )
    return train(plan, data, out=out, **options)


def _prepare(
    plan, data: FlowerData, accelerator: Accelerator, phases, out: Path, started, resume: bool
) -> Run:
    """All that can be refused is refused here, and the splits are loaded."""
    # Before the data: a backbone or weights that are not there are said at once.
    classifier = build_planned(plan, data, accelerator)
    _check_choices(classifier, plan, accelerator, phases)
    global_batch = plan.per_replica_batch * accelerator.replicas
    splits = _load_splits(data, plan, phases, out, global_batch)
    num_steps = steps_per_epoch(len(splits[0]), global_batch)
    check_execution(plan, accelerator, num_steps)
    _tell_steps(num_steps, global_batch)
    for line in explain_rates(plan, phases[-1], global_batch=global_batch):
        _log.info(line)
    rows = read_whole_epochs(out, num_steps) if resume else []
    until = _find_deadline(plan, data, started, global_batch)
    return Run(plan, accelerator, classifier, *splits, out, rows, until)


def _train_phases(run: Run, phases, features, callbacks, progress) -> tuple[Watchers, float | None]:
    """Train one phase after the other; the watchers of the last, and the seconds of the first step."""
    first_steps = []
    for phase in phases:
        if run.rows and phase.number < run.rows[-1]["phase"]:
            continue  # done before the run was resumed
        if len(phases) > 1 or phase.views:
            _log.info(f"{phase}")
        watchers = _train_phase(run, phase, features, callbacks, progress)
        first_steps.append(watchers.hooks.first_step_seconds)
        if watchers.ended_run():
            break
    return watchers, next((seconds for seconds in first_steps if seconds is not None), None)


def _train_phase(run: Run, phase: Phase, features, callbacks, progress) -> Watchers:
    with run.accelerator.scope():
        feed = open_feed(run, phase, features, progress)
        model = compile_for_training(
            run.classifier,
            run.plan,
            run.accelerator,
            phase,
            num_steps=run.num_steps,
            labels=run.train.labels,
        )
    watchers = Watchers(run, phase, feed)
    if run.rows and phase.number == run.rows[-1]["phase"]:
        model.load_weights(watchers.checkpoint.last)
        _log.info(f"resuming after epoch {run.rows[-1]['epoch']}")
    if not watchers.finished_before():
        shown = [ShowSteps(progress, watchers.num_epochs, run.num_steps)] if progress else []
        fit(model, run, feed, watchers, [*callbacks, *shown])
    watchers.checkpoint.complete()
    return watchers


def _check_wanted(features, phases) -> None:
    if features is not None and not any(phase.views for phase in phases):
        raise ValueError(
            "features were given, but no phase of this plan learns from any: it needs freeze_epochs, "
            "and feature_views=1 or more (or no augmentation)."
        )


def _check_choices(classifier, plan: TrainingPlan, accelerator: Accelerator, phases) -> None:
    """Refuse layers, rates and losses that cannot be, before data is decoded or a phase is trained."""
    with accelerator.scope():
        compile_for_training(classifier, plan, accelerator)
    if phases[0].is_frozen and not classifier.get_layer("backbone").weights:
        raise ValueError(
            f"freeze_epochs={plan.freeze_epochs}, but {plan.backbone} has no weights to freeze."
        )


def _find_deadline(plan, data, started: float, global_batch: int):
    if plan.max_minutes is None:
        return None
    num_val, num_test = (-(-data.counts[name] // global_batch) for name in ("val", "test"))
    return started + 60 * plan.max_minutes, num_val, num_test


def _tell_steps(steps: int, global_batch: int) -> None:
    _log.info(f"{steps:,} steps an epoch, {global_batch:,} images each")
    if steps < FEW_STEPS:
        _log.warning(
            f"so few steps an epoch (under {FEW_STEPS}) learn slowly: a smaller per_replica_batch "
            f"(--per-replica-batch), or more epochs"
        )


def _check_callbacks(plan: TrainingPlan, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    kinds = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)
    for callback in callbacks:
        if isinstance(callback, kinds):
            raise ValueError(
                f"two controllers of the learning rate: the plan's schedule={plan.schedule!r} and "
                f"your {type(callback).__name__}. Leave it out, and put the rate into the plan."
            )


def _check_tensorboard(plan: TrainingPlan) -> None:
    if plan.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ModuleNotFoundError(
            "tensorboard=True needs a package that is not here: pip install tensorboard, or leave it out"
        )


def _load_splits(
    data: FlowerData, plan: TrainingPlan, phases, out: Path, global_batch: int
) -> tuple[Split, Split]:
    # The order of the epoch that comes first, so that it can begin before all is decoded. Features
    # are computed row by row, and what is asked for once need not be kept.
    first_epoch = len(read_whole_epochs(out, data.counts["train"] // global_batch))
    order = functools.partial(epoch_permutation, seed=plan.seed, epoch=first_epoch)
    if phases[0].views and first_epoch < phases[0].epochs:
        order = None
    how = {
        "on_corrupt": plan.on_corrupt,
        "keep": "none" if all(phase.views for phase in phases) else plan.keep,
    }
    train_split = load_split(data, "train", order=order, **how)
    if len(set(train_split.labels.tolist())) < 2:
        raise ValueError(
            f"the train split of {data.folder} holds one class only "
            f"({data.class_names[train_split.labels[0]]!r}); there is nothing to tell apart."
        )
    val_split = load_split(data, "val", **how)
    check_leak(train_split, val_split)
    return train_split, val_split


def _keep_best(run: Run, watchers: Watchers) -> tuple[dict, str]:
    """Put the best weights back, save them as model.keras, and see that the file predicts the same."""
    plan, model = run.plan, run.classifier
    best = best_row(run.rows, plan.monitor)
    reason = watchers.stopper.reason or _explain_end(run.rows, watchers.num_epochs)
    if watchers.interrupt.caught and best is None:
        raise RuntimeError(
            "interrupted before the first epoch was whole: there is nothing to keep."
        )
    if best is None or not watchers.checkpoint.best.is_file():
        raise RuntimeError(
            f"training ended before its first epoch was whole, because {reason}: there are no "
            f"weights to keep. Give it more time, or after a loss that is no number a lower rate "
            f"(max_lr={plan.max_lr:g})."
        )
    model.load_weights(watchers.checkpoint.best)
    save_classifier(model, run.out / "model.keras")
    check_reload(model, run.out / "model.keras")
    return best, reason


def _explain_end(rows, num_epochs: int) -> str:
    if rows and rows[-1]["epoch"] >= num_epochs:
        return "the plan's epochs were done"
    return "one of your callbacks stopped it"
