"""What happens during an epoch and at its end: log and stop. Backend-neutral callbacks.

Keras hands the logs of each step to `on_train_batch_end` as Python numbers; a number must be fetched,
and while the host waits for it the accelerator has nothing to do. `StepHooks` therefore calls
`on_step` of every `StepListener`.
"""

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

from flowerkit.accelerator import hosts, without_garbage_collection
from flowerkit.text import format_seconds, join_some, pluralize

_log = logging.getLogger("flowerkit")

STEPS_AHEAD = 16  # of the host before the device: enough to hide its work, in little memory
ESTIMATED_STEPS = 9
SHORT_SECONDS = 20  # of a rest that nobody would shorten

# What a machine sends before it is taken away counts as Ctrl-C.
_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class StepListener(keras.callbacks.Callback):
    """A callback of the run that is called after each step, which Keras's are not without waiting.

    `trained` is its model: on JAX `model`, asked for inside a step, puts weights back that the step has
    used up.
    """

    def set_model(self, model):
        super().set_model(model)
        self.trained = model

    def on_step(self, done: int, logs: dict) -> None:
        """`done` steps of the epoch have begun; `logs` has running means, perhaps not computed yet."""


class StepHooks(StepListener):
    """Set the learning rate before every step, and call `on_step` of every listener after it.

    `done` counts the epoch's steps, `steps` how many it has; `trained_at` is when the last of them was
    finished (`time.perf_counter()`), and `first_step_seconds` how long the very first took: nearly all
    of that is tracing and compiling, on JAX waiting for what is not compiled yet.
    """

    def __init__(self):
        super().__init__()
        self.listeners: list = []
        self.execute: Callable | None = None  # Keras's own step, while it is wrapped
        self.epoch = self.done = self.steps = 0
        self.rate: Callable[[int, int], float] | None = None
        self.is_constant = False  # the rate, which a callback of yours may set then
        self.planned: float | None = None  # the last rate that was set here
        self.warned = False
        self.trained_at: float | None = None
        self.first_step_seconds: float | None = None

    @contextmanager
    def around(
        self, rate: Callable[[int, int], float], callbacks: Sequence, first_epoch: int = 0
    ) -> Iterator[None]:
        """For one `fit`: rates from `rate(epoch, done)`; `callbacks` that are listeners listen."""
        self.rate, self.epoch = rate, first_epoch
        self.listeners = [each for each in callbacks if isinstance(each, StepListener)]
        try:
            yield
        finally:
            if self.execute is not None:  # the model gets Keras's own step back
                self.trained.train_function, self.execute = self.execute, None

    def on_train_begin(self, logs=None):
        rate = self.rate(self.epoch, 0)
        if rate != self.planned:  # before your callbacks, which may set another
            self.planned = self.model.optimizer.learning_rate = rate
        # Keras has made the compiled step by now, and looks it up on the model before each call.
        self.execute, self.steps = self.model.train_function, self.params["steps"]
        self.model.train_function = self._step

    def _step(self, *state):
        state = self._with_rate(state)
        timed = self.first_step_seconds is not None
        outputs = self.execute(*state) if timed else self._time_first(*state)
        self.done += 1
        for listener in self.listeners:
            listener.on_step(self.done, _logs_of(outputs))
        return outputs

    def _with_rate(self, state: tuple) -> tuple:
        """The arguments of Keras's step, with the rate of this step.

        On JAX the variables' values are an argument of the step, and setting a variable would take all
        of them out of the training loop and back.
        """
        rate = self.rate(self.epoch, self.done)
        is_checked = self.done < 2 and not self.is_constant  # the host may wait then
        if rate == self.planned and not is_checked:
            return state
        optimizer, place = self.trained.optimizer, None
        if keras.backend.backend() == "jax":
            variables = enumerate(optimizer.variables)
            place = next(i for i, v in variables if v is optimizer.learning_rate)
        if is_checked:
            self._check_rate(optimizer.learning_rate if place is None else state[0][2][place], rate)
        self.planned = rate
        if place is None:
            optimizer.learning_rate = rate
            return state
        (trainable, others, slots, *metrics), *rest = state
        slots = list(slots)
        # Made of the value before it, and so where that is: elsewhere, the step would be compiled anew.
        slots[place] = 0.0 * slots[place] + rate
        return (trainable, others, slots, *metrics), *rest

    def _check_rate(self, present, rate: float) -> None:
        """Whether a callback of yours has set the rate, which the schedule's `rate` replaces."""
        present = float(keras.ops.convert_to_numpy(present))
        if math.isclose(present, self.planned, rel_tol=1e-5):
            return
        message = (
            f"two controllers of the learning rate: one of your callbacks has set it to {present:g}, "
            f"the schedule to {rate:g}. Pass schedule='constant' without plateau_patience, or leave "
            f"your callback out"
        )
        if self.epoch == 0:
            raise ValueError(f"{message}.")
        if not self.warned:
            _log.warning(f"{message}: the schedule's rates are used")
        self.warned = True

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.done = epoch, 0

    def on_epoch_end(self, epoch, logs=None):
        self.trained_at = time.perf_counter()  # Keras has fetched the metrics: all is computed

    def _time_first(self, *state):
        _log.info("compiling the training step, which takes from seconds to some minutes")
        start = time.perf_counter()
        with without_garbage_collection():
            outputs = self.execute(*state)
        float(_logs_of(outputs)["loss"])  # waits, this once
        self.first_step_seconds = time.perf_counter() - start
        _log.info(
            f"first step {format_seconds(self.first_step_seconds)}, compiling included; not again"
        )
        return outputs


def _logs_of(outputs) -> dict:
    """JAX's step returns (logs, state), TensorFlow's the logs."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


class StopFlag(StepListener):
    """Ends training, and keeps the first reason that was given.

    An epoch that was left before its last step is dropped, unless it is the first, being all there is,
    or the time has ended it: then its weights are scored and may be the best. A resumed run does it
    again.
    """

    def __init__(self):
        super().__init__()
        self.done = 0
        self.reason: str | None = None
        self.cut_short = False  # inside an epoch
        self.ends_run = False  # not only the phase
        self.failed = False  # a fault, not a limit that was given, ended it
        self.interrupted = False
        self.rest = None  # of the phase, where its time was divided anew

    def on_step(self, done, logs):
        self.done = done
        self._heed_signal()

    def on_train_end(self, logs=None):
        self._heed_signal()

    def _heed_signal(self) -> None:
        if hosts.count() > 1 and (name := hosts.heard_signal()):
            self._interrupt(name)

    def on_epoch_end(self, epoch, logs=None):
        if epoch > 0 and self.done < self.params["steps"] and self.reason is None:
            self.request("one of your callbacks stopped it inside an epoch", ends_run=False)
            self.cut_short = True

    def request(
        self, reason: str, *, cut_short: bool = False, ends_run: bool = True, failed: bool = False
    ) -> None:
        """Stop after this step; `cut_short` drops the epoch, and only `ends_run` ends all phases."""
        if self.reason is None:
            self.reason, self.cut_short, self.ends_run = reason, cut_short, ends_run
            self.failed = failed
        self.trained.stop_training = True

    @contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """Let Ctrl-C or SIGTERM end training after the current step; a second one ends the program.

        An exception in the middle of a step would leave JAX without the weights it was given.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(signum, frame):
            name = _SIGNALS[signum]
            _log.warning(f"{name}: ending after this step (once more to end at once)")
            for number, handler in before.items():
                signal.signal(number, handler)
            if hosts.count() == 1:
                self._interrupt(name)
            else:  # all end after the same step
                hosts.tell_signal(name)

        before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, name: str) -> None:
        self.interrupted = True
        self.request(f"it was interrupted ({name})", cut_short=True)


class FollowFirstHost(StepListener):
    """Stop where host 0 stops: callbacks of yours may decide by a clock, or by what is on disk."""

    def on_train_batch_end(self, batch, logs=None):
        self.trained.stop_training = hosts.broadcast(bool(self.trained.stop_training))

    def on_epoch_end(self, epoch, logs=None):
        self.on_train_batch_end(epoch)


class ReseedDropout(keras.callbacks.Callback):
    """Start each epoch's dropout from (seed, epoch), as a resumed run does: no file holds its state."""

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        # By what they are: a layer may bear any name. What is no weight is the state of a generator.
        weights = {id(weight) for weight in self.model.weights}
        states = [each for each in self.model.variables if id(each) not in weights]
        for number, state in enumerate(states):
            state.assign(np.random.SeedSequence((self.seed, epoch, number)).generate_state(2))


class TerminateOnNaN(StepListener):
    """Stop soon after a loss that is not a number, before anything of its epoch is kept.

    It reads the loss of `STEPS_AHEAD` steps ago, which is computed by now (Keras's would fetch each
    step's), and at an epoch's end all. The reason has the step's learning rate and its images,
    `find_ids(steps before it in the epoch)`.
    """

    def __init__(self, stop: StopFlag, hooks: StepHooks, find_ids: Callable[[int], Sequence[str]]):
        super().__init__()
        self.stop, self.hooks, self.find_ids = stop, hooks, find_ids
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
            rate = self.hooks.rate(self.epoch, step - 1)
            self.stop.request(
                f"the loss became {loss} in epoch {self.epoch + 1}, step {step}, at a learning rate of "
                f"{rate:.3g}, on the images {join_some(self.find_ids(step - 1), 32)}",
                cut_short=True,
                failed=True,
            )


class HistoryWriter(keras.callbacks.Callback):
    """Append the epoch to the run's history: logs, and the planned and used rate of its last step."""

    def __init__(self, run, phase, stop: StopFlag, hooks: StepHooks):
        super().__init__()
        self.run, self.phase, self.stop, self.hooks = run, phase, stop, hooks

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if self.stop.cut_short:
            return
        # Not float(variable): it raises under a tf.distribute strategy.
        logs["learning_rate"] = float(
            keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        )
        logs["planned_lr"] = self.hooks.rate(epoch, self.hooks.done - 1)
        logs["seconds"] = time.perf_counter() - self.start
        num_images = self.hooks.done * self.run.global_batch
        logs["images_per_second"] = num_images / (self.hooks.trained_at - self.start)
        logs["steps"] = self.hooks.done
        logs["phase"] = self.phase.number
        # What is decided by it is decided alike on every host.
        row = hosts.broadcast({name: float(value) for name, value in logs.items()})
        self.run.history.append({"epoch": epoch + 1} | row)


class EpochLogger(keras.callbacks.Callback):
    """Log one line an epoch."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs=None):
        row, steps = self.run.history.last, self.params["steps"]
        if row is None or row["epoch"] != epoch + 1:
            return
        part = f" ({row['steps']:.0f} of {steps} steps)" if row["steps"] < steps else ""
        best = scores = ""
        if len(self.run.val):
            loss, f1 = row.get("val_loss", math.nan), row.get("val_f1", math.nan)
            scores = f"val_loss {loss:.3f}  val_f1 {f1:.3f}  "
            if self.run.history.last_is_best:
                best = "  best so far" + " (averaged weights)" * bool(row.get("averaged"))
        _log.info(
            f"epoch {epoch + 1}/{self.params['epochs']}{part}  loss {row['loss']:.3f}  {scores}"
            f"rate {row['learning_rate']:.2g}  {format_seconds(row['seconds'])}  "
            f"{row['images_per_second']:,.0f} images/s{best}"
        )


class TimeLimit(StepListener):
    """Keep the rest of a phase within the run's `Clock`.

    At an epoch's end the epochs that are left are fitted anew where they have become too many or too
    few, by what a step and a validation took: training stops, for the caller to go on with `stop.rest`.
    It never has more epochs than the plan. Inside an epoch training ends when there is no time left but
    for validation. It comes after all callbacks that may stop training.
    """

    def __init__(self, run, phase, validation, stop: StopFlag):
        super().__init__()
        self.run, self.phase, self.validation, self.stop = run, phase, validation, stop

    def on_epoch_begin(self, epoch, logs=None):
        self.first = None

    def on_step(self, done, logs):
        now, clock = hosts.now(), self.run.clock
        if self.first is None:
            self.first = done, now  # it may compile, and says nothing of the others
        self.step_seconds = (now - self.first[1]) / max(1, done - self.first[0])
        if not clock.image_seconds:  # training takes about three times as long
            clock.image_seconds = self.step_seconds / self.run.global_batch / 3
        if clock.left() < clock.validation_seconds:
            late = clock.left() < 0  # the clock has jumped, or the machine slept
            self.stop.request(
                "the time was up",
                cut_short=late and bool(self.run.history),
                ends_run=not self.run.clock.kept_seconds,
            )

    def on_epoch_end(self, epoch, logs=None):
        if self.stop.reason is not None or self.model.stop_training:
            return
        clock, phase, run = self.run.clock, self.phase, self.run
        num_left = phase.first_epoch + phase.epochs - epoch - 1
        if phase.is_frozen or not num_left:
            return  # the head's epochs take seconds
        clock.val_seconds = self.validation.seconds
        if len(run.val):
            clock.image_seconds = self.validation.predict_seconds / len(run.val)
        rest = phase.refitted(
            clock.left(),
            run.history,
            step_seconds=max(self.step_seconds, 1e-9),
            epoch_seconds=self.validation.seconds,
            steps_an_epoch=run.num_steps,
        )
        if rest is None:
            self.stop.request(
                "another epoch would not have fitted into the time",
                ends_run=not self.run.clock.kept_seconds,
            )
        elif rest is not phase:
            self.stop.rest = rest
            self.model.stop_training = True


class TimeEstimate(StepListener):
    """Say after ten steps, of one epoch or of several, how long the rest of a long phase will take."""

    def __init__(self, phase):
        super().__init__()
        self.phase, self.seconds = phase, []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.before = epoch, None

    def on_step(self, done, logs):
        if len(self.seconds) == ESTIMATED_STEPS:
            return
        float(logs["loss"])  # waits: the device may be behind
        now = time.monotonic()
        if self.before is not None:  # an epoch's first step may compile, or wait for images
            self.seconds.append(now - self.before)
        self.before = now
        if len(self.seconds) == ESTIMATED_STEPS:
            epochs = self.phase.first_epoch + self.phase.epochs - self.epoch
            steps = epochs * self.phase.steps - done
            seconds = steps * sum(self.seconds) / ESTIMATED_STEPS
            if seconds < SHORT_SECONDS:
                return
            _log.info(
                f"{pluralize(steps, 'step')} more take about {format_seconds(seconds)}, besides "
                f"validation; --max-minutes N (max_minutes) fits the schedule into less"
            )


class StepProgress(StepListener):
    """Call `progress(description, done, total)` after each step of the epoch."""

    def __init__(self, progress: Callable[[str, int, int], None]):
        super().__init__()
        self.progress = progress

    def on_epoch_begin(self, epoch, logs=None):
        self.description = f"epoch {epoch + 1}/{self.params['epochs']}"

    def on_step(self, done, logs):
        self.progress(self.description, done, self.params["steps"])
