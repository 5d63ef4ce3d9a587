"""TrainingPlan + FlowerData -> TrainingRun: a trained model, and a folder that says all about it."""

import importlib.util
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from flowerkit import callbacks as own
from flowerkit.accelerator import Accelerator, connect
from flowerkit.files import write_json
from flowerkit.history import best_row
from flowerkit.models import build_classifier, check_reload, save_classifier
from flowerkit.pipeline import (
    Split,
    check_leak,
    count_steps,
    load_split,
    training_batches,
)
from flowerkit.plan import MONITORS, TrainingPlan
from flowerkit.prediction import Predictions, predict
from flowerkit.run_folder import check_folder, read_whole_epochs, write_start
from flowerkit.tfrecords import FlowerData

_log = logging.getLogger("flowerkit")

FEW_STEPS = 20


@dataclass(frozen=True, eq=False)
class TrainingRun:
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
    callbacks: Sequence[keras.callbacks.Callback] = (),
    resume: bool = False,
    started: float | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> TrainingRun:
    """Train `plan` on `data` and leave a run folder at `out`.

    The folder holds plan.json, environment.json, history.csv, result.json, model.keras (the best
    weights), val_predictions.npz and checkpoints/. With `resume` an interrupted run in `out` goes
    on exactly where its last whole epoch ended. `callbacks` are yours, called after the run's own.
    `started` (`time.monotonic()`) is when the clock of `max_minutes` began.
    `progress(what, done, total)` is called after every step.

    Raises ValueError for data that cannot be trained on (an empty split, one class, a batch larger
    than the split, validation that shares images with training) or callbacks that would change the
    learning rate besides the plan; FileExistsError when `out` holds a run; RuntimeError when
    training ended before there was a model to keep.
    """
    started = time.monotonic() if started is None else started
    out = Path(out)
    check_folder(out, resume)
    _check_callbacks(plan, callbacks)
    _check_tensorboard(plan)
    accelerator = accelerator or connect()
    global_batch = plan.per_replica_batch * accelerator.replicas
    # Before the data: a backbone or weights that are not there are said at once.
    model = _build_model(plan, data, accelerator, global_batch)
    train_split, val_split = _load_splits(data, plan)
    steps = count_steps(len(train_split), global_batch)
    _tell_steps(steps, global_batch)
    rows = read_whole_epochs(out, steps) if resume else []
    write_start(out, plan, data, accelerator)
    watchers = _Watchers(plan, data, val_split, out, rows, global_batch, steps, started)
    if rows:
        model.load_weights(watchers.checkpoint.last)
        _log.info(f"resuming after epoch {rows[-1]['epoch']}")
    if progress:
        callbacks = [*callbacks, own.ShowSteps(progress, plan.epochs, steps)]
    if not watchers.finished_before(plan):
        batches = training_batches(
            train_split, global_batch=global_batch, seed=plan.seed, flip=plan.flip,
            first_epoch=len(rows),
        )  # fmt: skip
        _fit(model, batches, plan, steps, watchers, callbacks)
    best, reason = _keep_best(model, plan, out, rows, watchers)
    run = TrainingRun(
        out, plan, model, rows, best, reason, Predictions.load(out / "val_predictions.npz"),
        val_split.images, accelerator, interrupted=watchers.interrupt.caught,
    )  # fmt: skip
    write_json(out / "result.json", run.to_dict())
    return run


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


def _load_splits(data: FlowerData, plan: TrainingPlan) -> tuple[Split, Split]:
    train_split = load_split(data, "train", on_corrupt=plan.on_corrupt)
    if len(set(train_split.labels.tolist())) < 2:
        raise ValueError(
            f"the train split of {data.folder} holds one class only "
            f"({data.class_names[train_split.labels[0]]!r}); there is nothing to tell apart."
        )
    val_split = load_split(data, "val", on_corrupt=plan.on_corrupt)
    check_leak(train_split, val_split)
    return train_split, val_split


def _build_model(plan, data, accelerator: Accelerator, global_batch: int) -> keras.Model:
    keras.utils.set_random_seed(plan.seed)
    with accelerator.scope():
        model = build_classifier(
            data.num_classes, image_size=data.image_size, input_size=plan.input_size,
            backbone=plan.backbone, weights=plan.weights, head=plan.head, dropout=plan.dropout,
        )  # fmt: skip
        optimizer = keras.optimizers.Adam(plan.schedule_for(global_batch=global_batch)(0))
        # Made before `fit`, slots and metrics do not cost a second trace of the training step.
        optimizer.build(model.trainable_variables)
        # XLA takes minutes to compile a convolution net for a CPU under TensorFlow, and crashes there
        # under MirroredStrategy; JAX has no other way.
        on_cpu = accelerator.kind == "cpu" and accelerator.backend == "tensorflow"
        model.compile(
            optimizer=optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            jit_compile=False if on_cpu else "auto",
        )
    return model


class _Watchers:
    """The run's own callbacks, in the one order in which they are right."""

    def __init__(self, plan, data, val_split, out, rows, global_batch, steps, started):
        def predict_val(model):
            return predict(model, val_split, global_batch=global_batch)

        schedule = None
        if plan.plateau_patience is None:
            schedule = plan.schedule_for(global_batch=global_batch)
        self.stopper = own.Stopper(steps)
        self.validate = own.Validate(predict_val, self.stopper)
        self.checkpoint = own.Checkpoint(
            out / "checkpoints", rows, plan.monitor, self.validate, steps
        )
        self.interrupt = own.CatchInterrupt(self.stopper)
        self.early_stop = own.EarlyStop(
            rows, plan.monitor, plan.patience, plan.first_patient_epoch, self.stopper
        )
        self.callbacks = [
            self.stopper,
            self.interrupt,
            own.SeedLayers(plan.seed),
            own.WatchLoss(self.stopper),
            own.JoinReplicas(),
            self.validate,
            own.Record(out / "history.csv", rows, schedule, global_batch, self.stopper),
            self.checkpoint,
            own.Tell(rows, plan.epochs, plan.monitor, steps),
            self.early_stop,
            # Last: what the plateau changes is the next epoch's rate, not the one just recorded.
            own.FixRate(schedule) if schedule else _plateau(plan),
        ]
        if plan.max_minutes is not None:
            num_val, num_test = (-(-data.counts[name] // global_batch) for name in ("val", "test"))
            deadline = started + 60 * plan.max_minutes
            self.callbacks.append(
                own.WatchClock(deadline, num_val, num_test, self.validate, self.stopper)
            )
        if plan.tensorboard:
            self.callbacks.append(keras.callbacks.TensorBoard(str(out / "tensorboard")))

    def finished_before(self, plan: TrainingPlan) -> bool:
        """Whether the run that is resumed had already come to its end."""
        rows = self.checkpoint.rows
        if rows and self.early_stop.is_due():
            self.stopper.reason = "it had stopped early before"
        elif rows and rows[-1]["epoch"] >= plan.epochs:
            self.stopper.reason = "the plan's epochs were done before (--epochs N goes further)"
        return self.stopper.reason is not None


def _plateau(plan: TrainingPlan) -> keras.callbacks.Callback:
    return keras.callbacks.ReduceLROnPlateau(
        plan.monitor,
        mode=MONITORS[plan.monitor],
        factor=plan.plateau_factor,
        patience=plan.plateau_patience,
    )


def _fit(model, batches, plan, steps, watchers, callbacks) -> None:
    try:
        model.fit(
            batches, epochs=plan.epochs, initial_epoch=len(watchers.checkpoint.rows),
            steps_per_epoch=steps, callbacks=[*watchers.callbacks, *callbacks], verbose=0,
            shuffle=False,
        )  # fmt: skip
    finally:
        watchers.interrupt.release()


def _keep_best(model, plan: TrainingPlan, out: Path, rows, watchers) -> tuple[dict, str]:
    """Put the best weights back, save them as model.keras, and see that the file predicts the same."""
    best = best_row(rows, plan.monitor)
    reason = watchers.stopper.reason or _explain_end(rows, plan)
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
    # The same layers without the optimizer, whose state would triple the file.
    save_classifier(keras.Model(model.input, model.output, name=model.name), out / "model.keras")
    check_reload(model, out / "model.keras")
    return best, reason


def _explain_end(rows, plan: TrainingPlan) -> str:
    if rows and rows[-1]["epoch"] >= plan.epochs:
        return "the plan's epochs were done"
    return "one of your callbacks stopped it"
