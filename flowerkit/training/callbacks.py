"""What happens between epochs: validate, record, keep the best, stop. Backend-neutral Keras callbacks.

Their order matters and is set in one place, `training`: weights are made one, then scored, then
recorded, then kept; only then may anyone decide to stop.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np

from flowerkit.accelerator.machine import has_bfloat16
from flowerkit.files import replacing
from flowerkit.prediction.predictions import Predictions
from flowerkit.schedules import Schedule
from flowerkit.training.async_steps import StepHooks, Stopper
from flowerkit.training.history import (
    best_row,
    count_epochs_without_better,
    count_plateaus,
    write_history,
)

_log = logging.getLogger("flowerkit")


class JoinReplicas(keras.callbacks.Callback):
    """Give every TensorFlow replica the mean of all replicas' BatchNormalization statistics.

    Each replica gathers its own, and saving keeps the first's alone; without this, the model that is
    validated is not the model that is saved. Elsewhere there is only one copy and nothing to do.
    """

    def on_epoch_end(self, epoch, logs=None):
        for variable in self.model.non_trainable_variables:
            copies = getattr(variable.value, "values", ())
            if len(copies) > 1 and "float" in str(variable.dtype):
                # In float64, so that copies that are equal stay what they are.
                mean = np.mean([copy.numpy() for copy in copies], axis=0, dtype="float64")
                variable.assign(mean.astype("float32"))


class FixRate(keras.callbacks.Callback):
    """Set the optimizer's learning rate by the schedule, once an epoch; its epoch 0 is `start`."""

    def __init__(self, schedule: Schedule, start: int = 0):
        super().__init__()
        self.schedule, self.start = schedule, start

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = self.schedule(epoch - self.start)


class Plateau(keras.callbacks.Callback):
    """Multiply a constant rate by `factor` after each `patience` epochs without a better one.

    Keras's ReduceLROnPlateau with its smallest change at 0. How often is read off the history, as
    `EarlyStop` does, so that a resumed run waits for as long as the whole one would have.
    """

    def __init__(
        self,
        rows: list[dict],
        phase: int,
        first_lr: float,
        monitor: str,
        *,
        factor: float,
        patience: int,
        cooldown: int = 0,
    ):
        super().__init__()
        self.rows, self.phase, self.first_lr, self.monitor = rows, phase, first_lr, monitor
        self.factor, self.patience, self.cooldown = factor, patience, cooldown

    def on_epoch_begin(self, epoch, logs=None):
        rows = [row for row in self.rows if row["phase"] == self.phase]
        falls = count_plateaus(rows, self.monitor, self.patience, self.cooldown)
        self.model.optimizer.learning_rate = self.first_lr * self.factor**falls


class FastMath(keras.callbacks.Callback):
    """Let oneDNN compute training steps in bfloat16 where TensorFlow's device is a CPU that has it.

    Weights and sums stay float32. Not while predicting: what is validated is then what any machine
    that loads the model computes.
    """

    def __init__(self, wanted: bool):
        super().__init__()
        self.wanted = wanted and keras.backend.backend() == "tensorflow" and has_bfloat16()

    def on_epoch_begin(self, epoch, logs=None):
        self._switch(True)

    def on_epoch_end(self, epoch, logs=None):
        self._switch(False)

    def release(self) -> None:
        """Switch it off, for an error in an epoch would leave it on for the whole process."""
        self._switch(False)

    def _switch(self, on: bool) -> None:
        if self.wanted:
            import tensorflow as tf

            tf.config.optimizer.set_experimental_options(
                {"auto_mixed_precision_onednn_bfloat16": on}
            )


class SeedLayers(keras.callbacks.Callback):
    """Start each epoch's dropout from (seed, epoch), so that a resumed run draws what a whole one does.

    Keras's weights files leave the seed generators' states out.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        states = [one for one in self.model.variables if "seed_generator" in one.path]
        for number, state in enumerate(states):
            state.assign(np.random.SeedSequence((self.seed, epoch, number)).generate_state(2))


class Validate(keras.callbacks.Callback):
    """Score the full validation predictions on the host and add val_* to the epoch's logs.

    `averaged(model)` is a context in which the model holds the weights that count; None: its own.
    """

    def __init__(self, predict: Callable[[], Predictions], stopper: Stopper, averaged=None):
        super().__init__()
        self.predict, self.stopper = predict, stopper
        self.averaged = averaged
        self.predictions: Predictions | None = None
        self.seconds = 0.0

    def on_epoch_end(self, epoch, logs=None):
        self.predictions = None
        if self.stopper.cut_short:
            return
        start = time.perf_counter()
        with self.averaged(self.model) if self.averaged else nullcontext():
            predictions = self.predict()
        self.seconds = time.perf_counter() - start
        if not np.isfinite(predictions.probabilities).all():
            self.stopper.stop(f"the validation predictions of epoch {epoch + 1} are not numbers")
            return
        self.predictions = predictions
        logs |= predictions.score()


class Record(keras.callbacks.Callback):
    """Append a row to history.csv: the logs, the planned rate and the one that was really used."""

    def __init__(
        self,
        path: Path,
        rows: list[dict],
        phase: int,
        planned: Callable[[int, int], float] | None,
        global_batch: int,
        stopper: Stopper,
        hooks: StepHooks,
    ):
        super().__init__()
        self.path, self.rows, self.phase, self.planned = path, rows, phase, planned
        self.global_batch, self.stopper, self.hooks = global_batch, stopper, hooks

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if self.stopper.cut_short:
            return
        # Not float(variable): it raises under a tf.distribute strategy.
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["learning_rate"] = rate
        logs["planned_lr"] = self.planned(epoch, self.hooks.done) if self.planned else rate
        logs["seconds"] = time.perf_counter() - self.start
        num_images = self.hooks.done * self.global_batch
        logs["images_per_second"] = num_images / (self.hooks.trained - self.start)
        logs["steps"] = self.hooks.done
        logs["phase"] = self.phase
        self.rows.append(
            {"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()}
        )
        write_history(self.path, self.rows)


class Checkpoint(keras.callbacks.Callback):
    """Keep the best weights, with their validation predictions, the last, to resume from, and others.

    The best are the classifier's, of whichever phase; with averaged weights the raw ones stand beside
    them. While the head learns alone on features (`kept` is that head, else the classifier) the best
    of it stand in files of their own, because writing the whole network would take longer than the
    epoch, until `complete`. The last hold the optimizer's state too, so that a resumed run goes on
    exactly. `every`: keep the classifier's weights of every so many epochs. Each is written under a
    temporary name; a full disk costs no older file.
    """

    def __init__(
        self,
        folder: Path,
        classifier: keras.Model,
        kept: keras.Model,
        rows: list[dict],
        monitor: str,
        validate: Validate,
        steps: int,
        every: int | None = None,
    ):
        super().__init__()
        self.folder, self.classifier, self.kept, self.rows = folder, classifier, kept, rows
        self.monitor, self.validate, self.every = monitor, validate, every
        self.steps = steps  # of a whole epoch

    @property
    def best(self) -> Path:
        return self.folder / "best.weights.h5"

    @property
    def last(self) -> Path:
        return self.folder / "last.weights.h5"

    def on_epoch_end(self, epoch, logs=None):
        if not self.rows or self.rows[-1]["epoch"] != epoch + 1:
            return  # an epoch that was cut short
        if (
            self.validate.predictions is not None
            and best_row(self.rows, self.monitor) is self.rows[-1]
        ):
            self._save_best()
            self.validate.predictions.save(self.folder.parent / "val_predictions.npz")
        if self.every and (epoch + 1) % self.every == 0:
            self._save_averaged(self.classifier, self.folder / f"epoch-{epoch + 1:02d}.weights.h5")
        if self.rows[-1]["steps"] == self.steps:  # a resumed run starts where an epoch ended
            save_weights(self.model, self.last)

    def complete(self) -> None:
        """After a phase of the head alone: its best, in files of the whole classifier."""
        if self.kept is self.classifier:
            return
        now = self.kept.get_weights()
        for whole, part in zip(_list_best(self.folder), self._own_best(), strict=True):
            if part.is_file():
                self.kept.load_weights(part)
                save_weights(self.classifier, whole)
                part.unlink()
        self.kept.set_weights(now)

    def _own_best(self) -> list[Path]:
        """The files for the best of what is kept, and its raw weights."""
        return _list_best(self.folder, "" if self.kept is self.classifier else "head_")

    def _save_best(self) -> None:
        best, raw = self._own_best()
        self._save_averaged(self.kept, best)
        if self.validate.averaged:
            save_weights(self.kept, raw)

    def _save_averaged(self, model: keras.Model, path: Path) -> None:
        averaged = self.validate.averaged
        with averaged(self.model) if averaged else nullcontext():
            save_weights(model, path)


def _list_best(folder: Path, of: str = "") -> list[Path]:
    return [folder / f"{of}{name}.weights.h5" for name in ("best", "best_raw")]


def save_weights(model: keras.Model, path: Path) -> None:
    """Write a weights file in one piece; an older one survives a full disk."""
    with replacing(path) as temporary:
        model.save_weights(temporary)


class EarlyStop(keras.callbacks.Callback):
    """Stop after `patience` epochs without a better one; `Checkpoint` keeps the best weights.

    Not Keras's: what counts is read off the history each time, so nothing goes stale between fits,
    and a resumed run stops where the whole one would have.
    """

    def __init__(
        self,
        rows: list[dict],
        phase: int,
        monitor: str,
        patience: int | None,
        first_epoch: int,
        stopper: Stopper,
    ):
        super().__init__()
        self.rows, self.phase, self.monitor, self.stopper = rows, phase, monitor, stopper
        self.patience, self.first_epoch = patience, first_epoch

    def on_epoch_end(self, epoch, logs=None):
        if self.is_due():
            self.stopper.stop(
                f"{self.monitor} had not improved for {self.patience} epochs (early stopping)",
                ends_run=False,
            )

    def rows_of_phase(self) -> list[dict]:
        """The history of this phase alone: what another phase reached is no measure of patience."""
        return [row for row in self.rows if row["phase"] == self.phase]

    def is_due(self) -> bool:
        """Whether the phase is long enough without a better epoch; never without patience."""
        if self.patience is None:
            return False
        rows = self.rows_of_phase()
        return count_epochs_without_better(rows, self.monitor, self.first_epoch) >= self.patience


class CatchInterrupt(keras.callbacks.Callback):
    """Let Ctrl-C end training after the step in hand; a second Ctrl-C ends the program.

    An exception in the middle of a step would leave JAX without the weights it was given.
    """

    def __init__(self, stopper: Stopper):
        super().__init__()
        self.stopper = stopper
        self.previous = None
        self.caught = False

    def on_train_begin(self, logs=None):
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._interrupt)

    def on_train_end(self, logs=None):
        self.release()

    def release(self) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)
            self.previous = None

    def _interrupt(self, signum, frame):
        _log.warning("interrupted: ending after this step (once more to end at once)")
        self.release()
        self.caught = True
        self.stopper.stop("it was interrupted (Ctrl-C)", cut_short=True)


class Tell(keras.callbacks.Callback):
    """One log line an epoch."""

    def __init__(self, rows: list[dict], epochs: int, monitor: str, steps: int):
        super().__init__()
        self.rows, self.epochs, self.monitor, self.steps = rows, epochs, monitor, steps

    def on_epoch_end(self, epoch, logs=None):
        if not self.rows or self.rows[-1]["epoch"] != epoch + 1:
            return
        row = self.rows[-1]
        part = f" ({row['steps']:.0f} of {self.steps} steps)" if row["steps"] < self.steps else ""
        best = "  best so far" if best_row(self.rows, self.monitor) is row else ""
        _log.info(
            f"epoch {epoch + 1}/{self.epochs}{part}  loss {row['loss']:.3f}  "
            f"val_loss {row.get('val_loss', math.nan):.3f}  val_f1 {row.get('val_f1', math.nan):.3f}  "
            f"rate {row['learning_rate']:.2g}  {row['seconds']:.0f} s  "
            f"{row['images_per_second']:,.0f} images/s{best}"
        )
