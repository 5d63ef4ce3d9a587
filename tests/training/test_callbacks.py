"""callbacks: what is seen after every step without waiting for it, and what ends training in time."""

import gc
import math
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from flowerkit.accelerator import hosts
from flowerkit.text import format_seconds
from flowerkit.training import callbacks
from flowerkit.training.callbacks import (
    StepHooks,
    StepListener,
    StopFlag,
    TerminateOnNaN,
    TimeEstimate,
    TimeLimit,
)
from flowerkit.training.history import History
from flowerkit.training.optimizers import build_optimizer
from flowerkit.training.phases import Clock, Phase


def hold(epoch, done):
    return 0.01


def fit_small(hooks, *others, num_epochs=2, num_steps=3):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    xs = np.ones((2 * num_steps, 4), "float32")
    with hooks.around(hold, others):
        model.fit(
            xs, xs[:, :1], batch_size=2, epochs=num_epochs, verbose=0, callbacks=[hooks, *others]
        )
    return model


class Listener(StepListener):
    def __init__(self):
        super().__init__()
        self.seen, self.collects = [], []

    def on_step(self, done, logs):
        self.seen.append((done, type(logs["loss"])))
        self.collects.append(gc.isenabled())


@pytest.mark.backends
def test_listeners_are_called_after_every_step_and_get_no_python_numbers():
    hooks, listener = StepHooks(), Listener()
    fit_small(hooks, listener)
    assert [done for done, _ in listener.seen] == [1, 2, 3, 1, 2, 3]
    assert float not in {kind for _, kind in listener.seen}
    assert hooks.done == 3


def test_the_first_step_is_timed_once_and_logged(caplog):
    hooks = StepHooks()
    with caplog.at_level("INFO", logger="flowerkit"):
        fit_small(hooks)
    assert 0 < hooks.first_step_seconds < 60
    (line,) = [line for line in caplog.messages if "first step" in line]
    assert f"first step {format_seconds(hooks.first_step_seconds)}, " in line


def test_garbage_is_collected_again_after_the_first_step_even_if_it_failed():
    listener = Listener()
    fit_small(StepHooks(), listener)
    assert all(listener.collects)
    hooks = StepHooks()
    hooks.execute, hooks._with_rate = lambda *state: 1 / 0, lambda state: state
    with pytest.raises(ZeroDivisionError):
        hooks._step()
    assert gc.isenabled()


@pytest.mark.backends
@pytest.mark.replicas
def test_every_step_is_taken_at_its_own_rate(accelerator):
    """The gradient is 1 and the weight begins at 1, so that it is 1 less the rates so far."""
    with accelerator.scope():
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((1,)), dense])
        optimizer = build_optimizer("sgd", model)
        optimizer.momentum = 0.0
        model.compile(optimizer, loss=lambda truth, given: given[:, 0], jit_compile=False)
    rates, seen = {0: [0.1, 0.2], 1: [0.4, 0.4], 2: [0.0, 0.05]}, []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            values = (self.model.optimizer.learning_rate, dense.kernel)
            seen.append([float(np.ravel(keras.ops.convert_to_numpy(value))[0]) for value in values])

    hooks, ones = StepHooks(), np.ones((32, 1), "float32")
    for num_epochs in (2, 3):  # in two calls of `fit`, as where the time is divided anew
        with hooks.around(lambda epoch, done: rates[epoch][done], [], len(seen)):
            model.fit(
                ones,
                ones[:, 0],
                batch_size=16,
                initial_epoch=len(seen),
                epochs=num_epochs,
                verbose=0,
                callbacks=[hooks, Watch()],
            )
    assert np.array(seen) == pytest.approx(np.array([[0.2, 0.7], [0.4, -0.1], [0.05, -0.15]]))


@pytest.mark.backends
def test_the_model_gets_the_step_of_keras_back():
    hooks = StepHooks()
    model = fit_small(hooks)
    assert model.train_function != hooks._step
    assert hooks.execute is None


def watch_losses(losses):
    """The reason that TerminateOnNaN gives after these running means, and after how many steps."""
    stop, hooks = StopFlag(), StepHooks()
    hooks.rate = lambda epoch, done: 0.01 * epoch + 0.001 * done
    watch = TerminateOnNaN(stop, hooks, lambda done: [f"image{done}", "rose"])
    stop.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    watch.on_epoch_begin(1)
    for done, loss in enumerate(losses, start=1):
        watch.on_step(done, {"loss": loss})
        if stop.reason:
            return stop, done
    watch.on_epoch_end(1)
    return stop, len(losses)


@pytest.mark.backends
def test_a_loss_that_is_not_a_number_stops_within_the_steps_ahead_and_names_its_own():
    stop, done = watch_losses([1.0] * 4 + [math.nan] * 40)
    assert stop.reason == (
        "the loss became nan in epoch 2, step 5, at a learning rate of 0.014, on the images image4, rose"
    )
    assert stop.cut_short
    assert stop.failed
    assert done == 5 + callbacks.STEPS_AHEAD


def test_a_loss_that_is_not_a_number_at_the_end_of_an_epoch_is_seen_too():
    stop, _ = watch_losses([1.0, 1.0, math.inf])
    assert stop.reason.startswith("the loss became inf in epoch 2, step 3, ")
    assert watch_losses([1.0] * 40)[0].reason is None


# The time -------------------------------------------------------------------------------------------


class Machine:
    """A phase of 4 epochs of 10 steps, timed by a clock of its own; nothing is computed.

    60 s are left for it. The plan's: a step takes 1 s and a validation 5 s, so that it fits.
    """

    def __init__(self, *, left=60.0, most_epochs=12, is_frozen=False, first_epoch=0, num_test=0):
        self.now = 0.0
        clock = Clock(num_val=5, num_test=num_test)
        clock.at = left + clock.finish_seconds
        before = [{"epoch": k + 1, "steps": 10.0, "phase": 0.0} for k in range(first_epoch)]
        self.run = SimpleNamespace(
            clock=clock,
            val=range(5),
            global_batch=16,
            num_steps=10,
            history=History("val_f1", before),
        )
        self.phase = Phase(
            1,
            is_frozen,
            epochs=4,
            steps=10,
            first_lr=0.1,
            schedule=None,
            end=4,
            most_epochs=most_epochs,
            first_epoch=first_epoch,
        )
        self.epoch = first_epoch
        self.stop, self.validation = StopFlag(), SimpleNamespace(seconds=0.0, predict_seconds=0.0)
        self.limit = TimeLimit(self.run, self.phase, self.validation, self.stop)
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        self.model.stop_training = False
        for callback in (self.stop, self.limit):
            callback.set_model(self.model)

    def monotonic(self):
        return self.now

    perf_counter = monotonic

    def take_steps(self, num_steps, seconds):
        self.limit.on_epoch_begin(self.epoch)
        for done in range(1, num_steps + 1):
            self.now += seconds
            self.limit.on_step(done, {})

    def take_epoch(self, step_seconds=1.0, validation_seconds=5.0):
        """What is left of the phase, where it was fitted anew."""
        self.take_steps(10, step_seconds)
        self.now += validation_seconds
        self.validation.seconds = self.validation.predict_seconds = validation_seconds
        self.run.history.append({"epoch": self.epoch + 1, "steps": 10.0, "phase": 1.0})
        self.limit.on_epoch_end(self.epoch)
        self.epoch += 1
        return self.stop.rest


@pytest.fixture
def machine(monkeypatch):
    """Makes a `Machine`, whose clock is then that of the callbacks."""

    def make(**options):
        made = Machine(**options)
        for module in (callbacks, hosts):
            monkeypatch.setattr(module, "time", made)
        return made

    return make


def test_a_machine_as_fast_as_planned_trains_the_plan(machine):
    machine = machine()
    assert [machine.take_epoch() for _ in range(4)] == [None] * 4
    assert machine.stop.reason is None
    assert not machine.model.stop_training


@pytest.mark.parametrize(
    ("num_steps", "seconds", "expected"),
    [
        (10, 3.0, "30 steps more take about 1 min 30 s, "),
        (4, 30.0, "4 steps more take about 2 min 0 s, "),
        (4, 3.0, ""),  # 12 s are not worth a line
    ],
)
def test_without_a_limit_a_long_time_is_estimated_once_from_the_first_steps(
    machine, caplog, num_steps, seconds, expected
):
    machine = machine()
    machine.phase = replace(machine.phase, steps=num_steps)
    estimate = TimeEstimate(machine.phase)
    with caplog.at_level("INFO", logger="flowerkit"):
        for epoch in range(4):
            estimate.on_epoch_begin(epoch)
            for done in range(1, num_steps + 1):
                machine.now += 60.0 if done == 1 else seconds  # the first compiles, or waits
                estimate.on_step(done, {"loss": 1.0})
    assert len(caplog.messages) == bool(expected)
    assert all(line.startswith(expected) and "--max-minutes" in line for line in caplog.messages)


def test_a_slower_machine_gets_fewer_steps_with_the_whole_rest_of_the_schedule(machine):
    machine = machine()
    rest = machine.take_epoch(step_seconds=2.0)
    # 35 s are left: 5 s of validation, and 15 steps.
    assert (rest.first_epoch, rest.epochs, rest.steps) == (1, 1, 15)
    assert (rest.start, rest.end) == (1, 4)
    assert machine.model.stop_training
    assert machine.stop.reason is None  # the caller goes on with the rest


def test_a_faster_machine_gets_more_epochs(machine):
    machine = machine()
    rest = machine.take_epoch(step_seconds=0.5)
    # 50 s are left: five epochs of 5 s and as much validation.
    assert (rest.first_epoch, rest.epochs, rest.steps) == (1, 5, 10)
    assert (rest.start, rest.end) == (1, 4)


def test_it_is_never_more_than_the_most_epochs(machine):
    assert machine(most_epochs=4).take_epoch(step_seconds=0.1) is None
    rest = machine(most_epochs=4.5).take_epoch(step_seconds=0.1)
    assert (rest.epochs, rest.steps) == (4, 8)  # 35 steps


def test_a_phase_that_follows_another_is_fitted_from_its_own_first_epoch(machine):
    machine = machine(first_epoch=20)
    assert machine.take_epoch() is None
    rest = machine.take_epoch(step_seconds=2.0)
    # 20 s are left.
    assert (rest.first_epoch, rest.epochs, rest.steps) == (22, 1, 7)
    assert (rest.start, rest.end) == (2, 4)


def test_heads_on_features_are_not_fitted_and_say_nothing_of_how_long_an_image_takes(machine):
    machine = machine(is_frozen=True, num_test=10)
    machine.run.clock.image_seconds = 0.5
    assert machine.take_epoch(step_seconds=0.01, validation_seconds=0.01) is None
    assert machine.run.clock.image_seconds == 0.5


def test_what_an_image_takes_in_validation_it_takes_in_the_test_split(machine):
    machine = machine(num_test=10, left=100)
    machine.take_epoch()  # 5 images in 5 s
    assert machine.run.clock.image_seconds == 1.0
    assert machine.run.clock.left() == 100 - 15 - 13


def test_another_epoch_is_only_begun_if_it_fits(machine):
    machine = machine(left=19)
    assert machine.take_epoch() is None
    assert machine.stop.reason == "another epoch would not have fitted into the time"
    assert not machine.stop.cut_short


def test_a_clock_that_jumps_an_hour_ahead_between_epochs_ends_the_run(machine):
    machine = machine()
    assert machine.take_epoch(validation_seconds=3600.0) is None
    assert machine.stop.reason == "another epoch would not have fitted into the time"


def test_a_first_epoch_that_is_too_long_is_cut_and_still_validated(machine):
    machine = machine()
    machine.take_steps(3, 1.0)
    assert machine.stop.reason is None
    machine.now += 3600
    machine.limit.on_step(4, {})
    assert machine.stop.reason == "the time was up"
    assert not machine.stop.cut_short
    assert machine.model.stop_training


def test_a_later_epoch_that_is_too_long_is_cut_and_scored(machine):
    machine = machine()
    machine.take_epoch()
    machine.take_steps(3, 1.0)
    assert machine.stop.reason is None
    machine.now += 35  # 42 s were left, and validation takes 5
    machine.limit.on_step(4, {})
    assert machine.stop.reason is None
    machine.now += 4
    machine.limit.on_step(5, {})
    assert machine.stop.reason == "the time was up"
    assert not machine.stop.cut_short
