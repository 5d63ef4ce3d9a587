"""What happens during an epoch and at its end: log and stop. Backend-neutral callbacks.

Keras hands the logs of each step to `on_train_batch_end` as Python numbers; a number must be fetched,
and while the host waits for it the accelerator has nothing to do. `StepHooks` therefore calls
`on_step(done, logs)` of those callbacks that have one: `done` steps of the epoch have been started,
and `logs` holds the running means as arrays that may still be being computed.
"""

import gc
import logging
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np

from flowerkit.schedules import Schedule

_log = logging.getLogger("flowerkit")

# How far the host may run ahead of the device: enough to hide its own work, and few enough that the
# batches waiting there need little memory.
STEPS_AHEAD = 16


class StepHooks(keras.callbacks.Callback):
    """Call `on_step` of every listener after each compiled step.

    `done` counts the epoch's steps, `trained_at` is when the last of them was finished
    (`time.perf_counter()`), and `first_step_seconds` how long the very first took: nearly all of that
    is tracing and compiling.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.listeners: list = []
        self.execute: Callable | None = None  # Keras's own step, while it is wrapped
        self.done = 0
        self.trained_at: float | None = None
        self.first_step_seconds: float | None = None

    def listen(self, callbacks: Sequence) -> None:
        """Call the `on_step` of those that have one, in their order."""
        self.listeners = [callback for callback in callbacks if hasattr(callback, "on_step")]

    def on_train_begin(self, logs=None):
        # Keras has made the compiled step by now, and looks it up on the model before each call.
        self.execute = self.model.train_function
        self.model.train_function = self._step

    def _step(self, *state):
        timed = self.first_step_seconds is not None
        outputs = self.execute(*state) if timed else self._time_first(*state)
        self.done += 1
        for listener in self.listeners:
            listener.on_step(self.done, _logs_of(outputs))
        return outputs

    def on_epoch_begin(self, epoch, logs=None):
        self.done = 0

    def on_epoch_end(self, epoch, logs=None):
        self.trained_at = time.perf_counter()  # Keras has fetched the metrics: all is computed

    def on_train_end(self, logs=None):
        self.release()

    def release(self) -> None:
        """Give the model Keras's own step back."""
        if self.execute is not None:
            self.model.train_function, self.execute = self.execute, None

    def _time_first(self, *state):
        start = time.perf_counter()
        with _without_garbage_collection():
            outputs = self.execute(*state)
        float(_logs_of(outputs)["loss"])  # waits, this once
        self.first_step_seconds = time.perf_counter() - start
        _log.info(f"first step {self.first_step_seconds:.1f} s, tracing and compiling; not again")
        return outputs


def _logs_of(outputs) -> dict:
    """JAX's step returns (logs, state), TensorFlow's the logs."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


@contextmanager
def _without_garbage_collection():
    """Tracing makes millions of objects that all stay alive; scanning them takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class StopFlag(keras.callbacks.Callback):
    """Ends training, and keeps the first reason that was given.

    An epoch that was left before its last of `steps` steps is dropped, whatever stopped it: the best
    weights must belong to a row that a resumed run keeps. Only the first is kept, being all there is.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps, self.done = steps, 0
        self.reason: str | None = None
        self.cut_short = False  # inside an epoch
        self.ends_run = False  # not only the phase
        self.interrupted = False

    def set_model(self, model):
        super().set_model(model)
        # On JAX `self.model`, asked for inside a step, puts weights back that the step has used up.
        self.trained = model

    def on_step(self, done, logs):
        self.done = done

    def on_epoch_end(self, epoch, logs=None):
        if epoch > 0 and self.done < self.steps:
            self.request("one of your callbacks stopped it inside an epoch")
            self.cut_short = True

    def request(self, reason: str, *, cut_short: bool = False, ends_run: bool = True) -> None:
        """Stop after this step; `cut_short` drops the epoch, and only `ends_run` ends all phases."""
        if self.reason is None:
            self.reason, self.cut_short, self.ends_run = reason, cut_short, ends_run
        self.trained.stop_training = True

    @contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Let Ctrl-C end training after the current step; a second Ctrl-C ends the program.

        An exception in the middle of a step would leave JAX without the weights it was given.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(signum, frame):
            _log.warning("interrupted: ending after this step (once more to end at once)")
            signal.signal(signal.SIGINT, previous)
            self.interrupted = True
            self.request("it was interrupted (Ctrl-C)", cut_short=True)

        previous = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


class ReseedDropout(keras.callbacks.Callback):
    """Start each epoch's dropout from (seed, epoch), so that a resumed run draws what a whole one does.

    Keras's weights files leave the states of seed generators out.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        states = [
            variable for variable in self.model.variables if "seed_generator" in variable.path
        ]
        for number, state in enumerate(states):
            state.assign(np.random.SeedSequence((self.seed, epoch, number)).generate_state(2))


class LearningRateSetter(keras.callbacks.Callback):
    """Set the optimizer's learning rate by the schedule at the start of each epoch.

    The schedule's epoch 0 is `start`. (Keras's LearningRateScheduler would pass a second argument.)
    """

    def __init__(self, schedule: Schedule, start: int):
        super().__init__()
        self.schedule, self.start = schedule, start

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = self.schedule(epoch - self.start)


class ReduceLROnPlateau(keras.callbacks.Callback):
    """Halve a constant rate after each `plateau_patience` epochs without improvement.

    How often is read off the history, as in `EarlyStopping`, so that a resumed run waits for as long
    as the whole one would have.
    """

    def __init__(self, run, phase):
        super().__init__()
        self.run, self.phase = run, phase

    def on_epoch_begin(self, epoch, logs=None):
        history = self.run.history.of_phase(self.phase.number)
        plateaus = history.count_plateaus(self.run.plan.plateau_patience)
        self.model.optimizer.learning_rate = self.phase.first_lr * 0.5**plateaus


class TerminateOnNaN(keras.callbacks.Callback):
    """Stop soon after a loss that is not a number, before anything of its epoch is kept.

    It reads the loss of `STEPS_AHEAD` steps ago, which is computed by now. (Keras's would fetch each
    step's.) A running mean that was not a number once stays so: the epoch's end sees all.
    """

    def __init__(self, stop: StopFlag):
        super().__init__()
        self.stop = stop
        self.losses = deque()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.losses.clear()

    def on_step(self, done, logs):
        self.losses.append((done, logs["loss"]))
        if len(self.losses) > STEPS_AHEAD:
            self._check(*self.losses.popleft())

    def on_epoch_end(self, epoch, logs=None):
        while self.losses and not self.stop.cut_short:
            self._check(*self.losses.popleft())

    def _check(self, step: int, loss) -> None:
        loss = float(loss)
        if not math.isfinite(loss):
            self.stop.request(
                f"the loss became {loss} in epoch {self.epoch + 1}, step {step}", cut_short=True
            )


class HistoryWriter(keras.callbacks.Callback):
    """Append the epoch to the run's history: the logs, the planned rate and the rate that was used.

    `planned(epoch, done)` is the rate that the schedule has after `done` steps of the epoch; None: no
    schedule.
    """

    def __init__(self, run, phase, planned: Callable | None, stop: StopFlag, hooks: StepHooks):
        super().__init__()
        self.run, self.phase, self.planned = run, phase.number, planned
        self.stop, self.hooks = stop, hooks

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if self.stop.cut_short:
            return
        # Not float(variable): it raises under a tf.distribute strategy.
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["learning_rate"] = rate
        logs["planned_lr"] = self.planned(epoch, self.hooks.done) if self.planned else rate
        logs["seconds"] = time.perf_counter() - self.start
        num_images = self.hooks.done * self.run.global_batch
        logs["images_per_second"] = num_images / (self.hooks.trained_at - self.start)
        logs["steps"] = self.hooks.done
        logs["phase"] = self.phase
        row = {name: float(value) for name, value in logs.items()}
        self.run.history.append({"epoch": epoch + 1} | row)


class EpochLogger(keras.callbacks.Callback):
    """Log one line an epoch."""

    def __init__(self, run):
        super().__init__()
        self.run, self.steps = run, run.num_steps
        self.epochs = run.plan.freeze_epochs + run.plan.epochs

    def on_epoch_end(self, epoch, logs=None):
        row = self.run.history.last
        if row is None or row["epoch"] != epoch + 1:
            return
        part = f" ({row['steps']:.0f} of {self.steps} steps)" if row["steps"] < self.steps else ""
        best = "  best so far" if self.run.history.last_is_best else ""
        best += " (averaged weights)" if best and row.get("averaged") else ""
        _log.info(
            f"epoch {epoch + 1}/{self.epochs}{part}  loss {row['loss']:.3f}  "
            f"val_loss {row.get('val_loss', math.nan):.3f}  val_f1 {row.get('val_f1', math.nan):.3f}  "
            f"rate {row['learning_rate']:.2g}  {row['seconds']:.0f} s  "
            f"{row['images_per_second']:,.0f} images/s{best}"
        )


class TimeLimit(keras.callbacks.Callback):
    """Stop while there is time left to validate, to predict the test split and to write.

    The batches of the run's `Deadline` are as long as training batches. `step` is the phase's
    `TrainStep`: it knows what an image costs where validation, on features, does not.
    """

    def __init__(self, run, step, validation, stop: StopFlag):
        super().__init__()
        self.deadline, self.global_batch = run.deadline, run.global_batch
        self.step, self.validation, self.stop = step, validation, stop

    def on_epoch_begin(self, epoch, logs=None):
        self.start, self.first = time.monotonic(), None

    def on_step(self, done, logs):
        # Later epochs are only begun if they fit. Inside the first, a model half an epoch old is
        # better than none: it is validated and kept.
        now, val_seconds = time.monotonic(), self.validation.seconds
        if self.first is None:
            self.first = done, now  # it traces and compiles, and says nothing of the others
        step_seconds = (now - self.first[1]) / max(1, done - self.first[0])
        needed = self._finish_seconds(step_seconds)
        needed += val_seconds or step_seconds * self.deadline.num_val_batches
        if now + needed > self.deadline.at:
            self.stop.request("the time was up", cut_short=val_seconds > 0)

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        if now + (now - self.start) + self._finish_seconds(0.0) > self.deadline.at:
            self.stop.request("another epoch would not have fitted into the time")

    def _finish_seconds(self, step_seconds: float) -> float:
        """Saving, reloading, the test split: with a margin, because a late csv is worth nothing."""
        if self.validation.predict_seconds:
            step_seconds = self.validation.predict_seconds / self.deadline.num_val_batches
        batch_seconds = max(step_seconds, self.step.seconds_per_image * self.global_batch)
        return 15 + 1.3 * batch_seconds * self.deadline.num_test_batches


class StepProgress(keras.callbacks.Callback):
    """Call `progress(description, done, total)` after each step of the epoch."""

    def __init__(self, progress: Callable[[str, int, int], None], epochs: int, steps: int):
        super().__init__()
        self.progress, self.epochs, self.steps = progress, epochs, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.description = f"epoch {epoch + 1}/{self.epochs}"

    def on_step(self, done, logs):
        self.progress(self.description, done, self.steps)
