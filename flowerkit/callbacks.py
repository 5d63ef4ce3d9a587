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
from pathlib import Path

import keras
import numpy as np

from flowerkit.files import replacing
from flowerkit.history import best_row, count_epochs_without_better, write_history
from flowerkit.prediction import Predictions
from flowerkit.schedules import Schedule

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
                variable.assign(np.mean([copy.numpy() for copy in copies], axis=0))


class Stopper(keras.callbacks.Callback):
    """Ends training, and remembers the first reason that anyone gave.

    An epoch that was left before its last of `steps` steps is dropped, whoever left it: the best
    weights must belong to a row that a resumed run keeps. Only the first is kept, being all there is.
    """

    def __init__(self, steps: int = 0):
        super().__init__()
        self.steps = steps
        self.reason: str | None = None
        self.cut_short = False  # inside an epoch

    def on_train_batch_end(self, batch, logs=None):
        self.done = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if epoch > 0 and self.done < self.steps:
            self.stop("one of your callbacks stopped it inside an epoch")
            self.cut_short = True

    def stop(self, reason: str, *, cut_short: bool = False) -> None:
        if self.reason is None:
            self.reason, self.cut_short = reason, cut_short
        self.model.stop_training = True


class FixRate(keras.callbacks.Callback):
    """Set the optimizer's learning rate by the schedule, once an epoch."""

    def __init__(self, schedule: Schedule):
        super().__init__()
        self.schedule = schedule

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = self.schedule(epoch)


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
    """Score the full validation predictions on the host and add val_* to the epoch's logs."""

    def __init__(self, predict: Callable[[keras.Model], Predictions], stopper: Stopper):
        super().__init__()
        self.predict, self.stopper = predict, stopper
        self.predictions: Predictions | None = None
        self.seconds = 0.0

    def on_epoch_end(self, epoch, logs=None):
        self.predictions = None
        if self.stopper.cut_short:
            return
        start = time.perf_counter()
        predictions = self.predict(self.model)
        self.seconds = time.perf_counter() - start
        if not np.isfinite(predictions.probabilities).all():
            self.stopper.stop(f"the validation predictions of epoch {epoch + 1} are not numbers")
            return
        self.predictions = predictions
        logs |= predictions.score()


class Record(keras.callbacks.Callback):
    """Append a row to history.csv: the logs, the planned rate and the one that was really used."""

    def __init__(self, path: Path, rows: list[dict], schedule: Schedule | None,
                 global_batch: int, stopper: Stopper):  # fmt: skip
        super().__init__()
        self.path, self.rows, self.schedule = path, rows, schedule
        self.global_batch, self.stopper = global_batch, stopper

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.trained, self.steps = time.perf_counter(), batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if self.stopper.cut_short:
            return
        # Not float(variable): it raises under a tf.distribute strategy.
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["learning_rate"] = rate
        logs["planned_lr"] = self.schedule(epoch) if self.schedule else rate
        logs["seconds"] = time.perf_counter() - self.start
        num_images = self.steps * self.global_batch
        logs["images_per_second"] = num_images / (self.trained - self.start)
        logs["steps"] = self.steps
        self.rows.append(
            {"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()}
        )
        write_history(self.path, self.rows)


class Checkpoint(keras.callbacks.Callback):
    """Keep the best weights, with their validation predictions, and the last, to resume from.

    Weights files hold the optimizer's state too, so that a resumed run goes on exactly. Each is
    written under a temporary name; a full disk costs no older file.
    """

    def __init__(
        self, folder: Path, rows: list[dict], monitor: str, validate: Validate, steps: int
    ):
        super().__init__()
        self.folder, self.rows, self.monitor, self.validate = folder, rows, monitor, validate
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
            self._save(self.best)
            self.validate.predictions.save(self.folder.parent / "val_predictions.npz")
        if self.rows[-1]["steps"] == self.steps:  # a resumed run starts where an epoch ended
            self._save(self.last)

    def _save(self, path: Path) -> None:
        with replacing(path) as temporary:
            self.model.save_weights(temporary)


class EarlyStop(keras.callbacks.Callback):
    """Stop after `patience` epochs without a better one; `Checkpoint` keeps the best weights.

    Not Keras's: what counts is read off the history each time, so nothing goes stale between fits,
    and a resumed run stops where the whole one would have.
    """

    def __init__(
        self,
        rows: list[dict],
        monitor: str,
        patience: int | None,
        first_epoch: int,
        stopper: Stopper,
    ):
        super().__init__()
        self.rows, self.monitor, self.stopper = rows, monitor, stopper
        self.patience, self.first_epoch = patience, first_epoch

    def on_epoch_end(self, epoch, logs=None):
        if self.is_due():
            self.stopper.stop(
                f"{self.monitor} had not improved for {self.patience} epochs (early stopping)"
            )

    def is_due(self) -> bool:
        """Whether the history is long enough without a better epoch; never without patience."""
        if self.patience is None:
            return False
        return (
            count_epochs_without_better(self.rows, self.monitor, self.first_epoch) >= self.patience
        )


class WatchLoss(keras.callbacks.Callback):
    """Stop at the step whose loss is not a number, before anything of it is kept."""

    def __init__(self, stopper: Stopper):
        super().__init__()
        self.stopper = stopper

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(float(logs["loss"])):
            self.stopper.stop(
                f"the loss became {float(logs['loss'])} in epoch {self.epoch + 1}, step {batch + 1}",
                cut_short=True,
            )


class WatchClock(keras.callbacks.Callback):
    """Stop while there is time left to validate, predict the test split and write.

    `deadline` is on `time.monotonic()`'s clock. `num_val_steps` and `num_test_steps` are batches as
    long as a training batch.
    """

    def __init__(self, deadline: float, num_val_steps: int, num_test_steps: int, validate: Validate,
                 stopper: Stopper):  # fmt: skip
        super().__init__()
        self.deadline, self.validate, self.stopper = deadline, validate, stopper
        self.num_val_steps, self.num_test_steps = num_val_steps, num_test_steps

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        # Later epochs are only begun if they fit. Inside the first, a model half an epoch old is
        # better than none: it is validated and kept.
        now, val_seconds = time.monotonic(), self.validate.seconds
        if batch == 0:
            self.traced = now  # the first step traces and compiles, and says nothing of the others
        step_seconds = (now - self.traced) / max(1, batch)
        rest = self._finish_seconds(step_seconds) + (
            val_seconds or step_seconds * self.num_val_steps
        )
        if now + rest > self.deadline:
            self.stopper.stop("the time was up", cut_short=val_seconds > 0)

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        if now + (now - self.start) + self._finish_seconds(0.0) > self.deadline:
            self.stopper.stop("another epoch would not have fitted into the time")

    def _finish_seconds(self, step_seconds: float) -> float:
        """Saving, reloading, the test split: with a margin, for a late csv is worth nothing."""
        if self.validate.seconds:
            step_seconds = self.validate.seconds / self.num_val_steps
        return 15 + 1.3 * step_seconds * self.num_test_steps


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


class ShowSteps(keras.callbacks.Callback):
    """Tell `progress` (what, done, total) how far the epoch is."""

    def __init__(self, progress: Callable[[str, int, int], None], epochs: int, steps: int):
        super().__init__()
        self.progress, self.epochs, self.steps = progress, epochs, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.what = f"epoch {epoch + 1}/{self.epochs}"

    def on_train_batch_end(self, batch, logs=None):
        self.progress(self.what, batch + 1, self.steps)


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
