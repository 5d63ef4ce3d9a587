"""What happens after every training step, without waiting for it. Backend-neutral.

Keras hands the logs of each step to `on_train_batch_end` as Python numbers; a number must be fetched,
and while the host waits for it the accelerator has nothing to do. The callbacks here have an
`on_step(done, logs)` instead: `done` steps of the epoch are under way, and `logs` holds the running
means as arrays that may still be being computed.
"""

import gc
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import keras

_log = logging.getLogger("flowerkit")

# How far the host may run ahead of the device: enough to hide its own work, and few enough that the
# batches waiting there are no burden.
STEPS_AHEAD = 16


class StepHooks(keras.callbacks.Callback):
    """Call `on_step` of every listener after each execution of the compiled step.

    It stands first among the callbacks. `done` counts the epoch's steps, `trained` is when the last
    of them was finished (`time.perf_counter()`), and `first_step_seconds` how long the run's very
    first took: nearly all of that is tracing and compiling.
    """

    def __init__(self, steps: int, *, steps_per_execution: int = 1):
        super().__init__()
        self.steps, self.steps_per_execution = steps, steps_per_execution
        self.listeners: list = []
        self.execute: Callable | None = None  # Keras's own, while it is wrapped
        self.done = 0
        self.trained: float | None = None
        self.first_step_seconds: float | None = None

    def listen(self, callbacks: Sequence) -> None:
        """Call the `on_step` of those that have one, in their order."""
        self.listeners = [one for one in callbacks if hasattr(one, "on_step")]

    def on_train_begin(self, logs=None):
        # Keras has made the compiled step by now, and looks it up on the model before each call.
        self.execute = self.model.train_function
        self.model.train_function = self._step

    def _step(self, *state):
        timed = self.first_step_seconds is not None
        outputs = self.execute(*state) if timed else self._time_first(*state)
        self.done = min(self.done + self.steps_per_execution, self.steps)
        for listener in self.listeners:
            listener.on_step(self.done, _logs_of(outputs))
        return outputs

    def on_epoch_begin(self, epoch, logs=None):
        self.done = 0

    def on_epoch_end(self, epoch, logs=None):
        self.trained = time.perf_counter()  # Keras has fetched the epoch's metrics: all is computed

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
    """Tracing makes millions of objects, all alive; looking through them takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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
        self.ends_run = False  # not only the phase

    def set_model(self, model):
        super().set_model(model)
        # On JAX `self.model`, asked for inside a step, puts weights back that the step has used up.
        self.trained = model

    def on_step(self, done, logs):
        self.done = done

    def on_epoch_end(self, epoch, logs=None):
        if epoch > 0 and self.done < self.steps:
            self.stop("one of your callbacks stopped it inside an epoch")
            self.cut_short = True

    def stop(self, reason: str, *, cut_short: bool = False, ends_run: bool = True) -> None:
        if self.reason is None:
            self.reason, self.cut_short, self.ends_run = reason, cut_short, ends_run
        self.trained.stop_training = True


class WatchLoss(keras.callbacks.Callback):
    """Stop soon after a loss that is not a number, before anything of its epoch is kept.

    It looks at the loss of `STEPS_AHEAD` steps ago, which is computed by now. What it is given is a
    running mean, and a mean that was once no number stays so: the epoch's end sees all.
    """

    def __init__(self, stopper: Stopper):
        super().__init__()
        self.stopper = stopper
        self.losses = deque()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.losses.clear()

    def on_step(self, done, logs):
        self.losses.append((done, logs["loss"]))
        if len(self.losses) > STEPS_AHEAD:
            self._check(*self.losses.popleft())

    def on_epoch_end(self, epoch, logs=None):
        while self.losses and not self.stopper.cut_short:
            self._check(*self.losses.popleft())

    def _check(self, step: int, loss) -> None:
        loss = float(loss)
        if not math.isfinite(loss):
            self.stopper.stop(
                f"the loss became {loss} in epoch {self.epoch + 1}, step {step}", cut_short=True
            )


class WatchClock(keras.callbacks.Callback):
    """Stop while there is time left to validate, predict the test split and write.

    `deadline` is on `time.monotonic()`'s clock. `num_val_steps` and `num_test_steps` are batches as
    long as a training batch; `validate.seconds` is how long the last validation took, 0 before it.
    `batch_seconds`: the least that a test batch takes, where validating says nothing of it because it
    is done on features.
    """

    def __init__(
        self,
        deadline: float,
        num_val_steps: int,
        num_test_steps: int,
        validate,
        stopper: Stopper,
        batch_seconds: float = 0.0,
    ):
        super().__init__()
        self.batch_seconds = batch_seconds
        self.deadline, self.validate, self.stopper = deadline, validate, stopper
        self.num_val_steps, self.num_test_steps = num_val_steps, num_test_steps

    def on_epoch_begin(self, epoch, logs=None):
        self.start, self.first = time.monotonic(), None

    def on_step(self, done, logs):
        # Later epochs are only begun if they fit. Inside the first, a model half an epoch old is
        # better than none: it is validated and kept.
        now, val_seconds = time.monotonic(), self.validate.seconds
        if self.first is None:
            self.first = done, now  # it traces and compiles, and says nothing of the others
        step_seconds = (now - self.first[1]) / max(1, done - self.first[0])
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
        return 15 + 1.3 * max(step_seconds, self.batch_seconds) * self.num_test_steps


class ShowSteps(keras.callbacks.Callback):
    """Tell `progress` (what, done, total) how far the epoch is."""

    def __init__(self, progress: Callable[[str, int, int], None], epochs: int, steps: int):
        super().__init__()
        self.progress, self.epochs, self.steps = progress, epochs, steps

    def on_epoch_begin(self, epoch, logs=None):
        self.what = f"epoch {epoch + 1}/{self.epochs}"

    def on_step(self, done, logs):
        self.progress(self.what, done, self.steps)
