"""callbacks: what is seen after every step without waiting for it, and what ends training in time."""

import gc
import math
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from flowerkit.training import callbacks
from flowerkit.training.callbacks import StepHooks, StopFlag, TerminateOnNaN, TimeLimit
from flowerkit.training.step import Deadline


def fit_small(hooks, *others, num_epochs=2, num_steps=3):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    hooks.listen(others)
    xs = np.ones((2 * num_steps, 4), "float32")
    model.fit(xs, xs[:, :1], batch_size=2, epochs=num_epochs, verbose=0, callbacks=[hooks, *others])
    return model


class Listener(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen, self.collects = [], []

    def on_step(self, done, logs):
        self.seen.append((done, type(logs["loss"])))
        self.collects.append(gc.isenabled())


@pytest.mark.backends
def test_listeners_are_called_after_every_step_and_get_no_python_numbers():
    hooks, listener = StepHooks(3), Listener()
    fit_small(hooks, listener)
    assert [done for done, _ in listener.seen] == [1, 2, 3, 1, 2, 3]
    assert float not in {kind for _, kind in listener.seen}
    assert hooks.done == 3


def test_the_first_step_is_timed_once_and_logged(caplog):
    hooks = StepHooks(3)
    with caplog.at_level("INFO", logger="flowerkit"):
        fit_small(hooks)
    assert 0 < hooks.first_step_seconds < 60
    (line,) = [line for line in caplog.messages if "first step" in line]
    assert f"{hooks.first_step_seconds:.1f} s" in line


def test_garbage_is_collected_again_after_the_first_step_even_if_it_failed():
    listener = Listener()
    fit_small(StepHooks(3), listener)
    assert all(listener.collects)
    hooks = StepHooks(3)
    hooks.execute = lambda *state: 1 / 0
    with pytest.raises(ZeroDivisionError):
        hooks._step()
    assert gc.isenabled()


@pytest.mark.backends
def test_the_model_gets_the_step_of_keras_back():
    hooks = StepHooks(3)
    model = fit_small(hooks)
    assert model.train_function != hooks._step
    assert hooks.execute is None


def watch_losses(losses):
    """The reason that TerminateOnNaN gives after these running means, and after how many steps."""
    stop, watch = StopFlag(len(losses)), TerminateOnNaN(None)
    watch.stop = stop
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
    assert stop.reason == "the loss became nan in epoch 2, step 5"
    assert stop.cut_short
    assert done == 5 + callbacks.STEPS_AHEAD


def test_a_loss_that_is_not_a_number_at_the_end_of_an_epoch_is_seen_too():
    stop, _ = watch_losses([1.0, 1.0, math.inf])
    assert stop.reason == "the loss became inf in epoch 2, step 3"
    assert watch_losses([1.0] * 40)[0].reason is None


class Validated:
    seconds = 0.0

    @property
    def predict_seconds(self):
        return self.seconds


class Step:
    def __init__(self, seconds_per_image):
        self.seconds_per_image = seconds_per_image


def make_clock(deadline_seconds, *, num_test_batches=20, batch_seconds=0.0):
    stop, validation = StopFlag(10), Validated()
    deadline = Deadline(time.monotonic() + deadline_seconds, 10, num_test_batches)
    run = SimpleNamespace(deadline=deadline, global_batch=16)
    clock = TimeLimit(run, Step(batch_seconds / 16), validation, stop)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    for callback in (stop, clock):
        callback.set_model(model)
    clock.on_epoch_begin(0)
    return clock, stop, validation


def test_another_epoch_is_only_begun_if_it_fits_with_what_comes_after():
    clock, stop, validation = make_clock(1000)
    validation.seconds = 10.0
    clock.start = time.monotonic() - 300
    clock.on_epoch_end(0)
    assert stop.reason is None
    clock.start = time.monotonic() - 960
    clock.on_epoch_end(0)
    assert stop.reason == "another epoch would not have fitted into the time"


def test_validating_on_features_says_nothing_of_how_long_the_test_split_takes():
    clock, stop, validation = make_clock(100, batch_seconds=4.0)
    validation.seconds = 0.1  # but 20 test batches of images cost 80 s
    clock.on_epoch_end(0)
    assert stop.reason == "another epoch would not have fitted into the time"


def test_a_first_epoch_that_is_too_long_is_cut_and_still_validated():
    clock, stop, _ = make_clock(100)
    clock.on_step(1, {})
    assert stop.reason is None
    clock.first = 1, time.monotonic() - 30  # ten steps took 30 s: 10 + 20 more would take 108
    clock.on_step(11, {})
    assert stop.reason == "the time was up"
    assert not stop.cut_short


def test_a_later_epoch_that_is_too_long_is_cut_and_dropped():
    clock, stop, validation = make_clock(100)
    validation.seconds = 5.0
    clock.on_step(1, {})
    clock.deadline = Deadline(time.monotonic() + 20, 10, 20)
    clock.on_step(6, {})
    assert stop.cut_short
