"""callbacks: when patience ends and when the time is up. No training here."""

import time

import keras

from flowerkit import callbacks


def rows_of(monitor, values):
    return [{"epoch": epoch, monitor: value} for epoch, value in enumerate(values, start=1)]


def stopping_epoch(values, *, patience, ramp, monitor="val_f1"):
    """The epoch after which EarlyStop ends a run that logs `values`, or None."""
    rows = []
    stopper = callbacks.Stopper()
    stop = callbacks.EarlyStop(rows, monitor, patience, ramp, stopper)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.stop_training = False
    for one in (stopper, stop):
        one.set_model(model)
    for row in rows_of(monitor, values):
        rows.append(row)
        stop.on_epoch_end(row["epoch"] - 1)
        if model.stop_training:
            return row["epoch"]
    return None


def test_early_stopping_stops_after_patience_epochs_without_a_better_one():
    values = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9]
    assert stopping_epoch(values, patience=3, ramp=0) == 5
    assert stopping_epoch(values, patience=4, ramp=0) is None
    assert stopping_epoch(values, patience=None, ramp=0) is None


def test_a_falling_loss_is_progress():
    assert stopping_epoch([3.0, 2.0, 1.0, 0.5, 0.4], patience=1, ramp=0, monitor="val_loss") is None


def test_patience_starts_after_the_ramp():
    values = [0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1]
    assert stopping_epoch(values, patience=2, ramp=0) == 3
    assert stopping_epoch(values, patience=2, ramp=4) == 6


class Validation:
    seconds = 0.0


def make_clock(deadline_seconds, *, num_val_steps=10, num_test_steps=20):
    stopper, validate = callbacks.Stopper(), Validation()
    clock = callbacks.WatchClock(
        time.monotonic() + deadline_seconds, num_val_steps, num_test_steps, validate, stopper
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    for one in (stopper, clock):
        one.set_model(model)
    clock.on_epoch_begin(0)
    return clock, stopper, validate


def test_another_epoch_is_only_begun_if_it_fits_with_what_comes_after():
    clock, stopper, validate = make_clock(1000)
    validate.seconds = 10.0  # so 20 test batches cost 20 s
    clock.start = time.monotonic() - 900
    clock.on_epoch_end(0)
    assert stopper.reason is None or "would not have fitted" in stopper.reason
    clock, stopper, validate = make_clock(1000)
    validate.seconds = 10.0
    clock.start = time.monotonic() - 300
    clock.on_epoch_end(0)
    assert stopper.reason is None
    clock.start = time.monotonic() - 960
    clock.on_epoch_end(0)
    assert stopper.reason == "another epoch would not have fitted into the time"


def test_a_first_epoch_that_is_too_long_is_cut_and_still_validated():
    clock, stopper, _ = make_clock(100)
    clock.on_train_batch_end(0)
    assert stopper.reason is None
    clock.traced = time.monotonic() - 30  # ten steps took 30 s: 10 + 20 more would take 108
    clock.on_train_batch_end(10)
    assert stopper.reason == "the time was up"
    assert not stopper.cut_short


def test_a_later_epoch_that_is_too_long_is_cut_and_dropped():
    clock, stopper, validate = make_clock(100)
    validate.seconds = 5.0
    clock.on_train_batch_end(0)
    clock.deadline = time.monotonic() + 20
    clock.on_train_batch_end(5)
    assert stopper.cut_short
