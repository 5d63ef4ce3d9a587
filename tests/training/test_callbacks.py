"""callbacks: when patience ends. No training here."""

import keras
import pytest
from flowerkit.training.async_steps import Stopper

from flowerkit.training import callbacks


def rows_of(monitor, values):
    return [
        {"epoch": epoch, "phase": 1, monitor: value} for epoch, value in enumerate(values, start=1)
    ]


def stopping_epoch(values, *, patience, ramp, monitor="val_f1"):
    """The epoch after which EarlyStop ends a run that logs `values`, or None."""
    rows = []
    stopper = Stopper()
    stop = callbacks.EarlyStop(rows, 1, monitor, patience, ramp, stopper)
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


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="oneDNN is TensorFlow's alone")
def test_bfloat16_is_on_inside_an_epoch_and_off_outside_even_after_an_error(monkeypatch):
    import tensorflow as tf

    def is_on():
        options = tf.config.optimizer.get_experimental_options()
        return options.get("auto_mixed_precision_onednn_bfloat16", False)

    monkeypatch.setattr(callbacks, "has_bfloat16", lambda: True)
    fast = callbacks.FastMath(wanted=True)
    fast.on_epoch_begin(0)
    assert is_on()
    fast.on_epoch_end(0)  # before anything is predicted
    assert not is_on()
    fast.on_epoch_begin(1)
    fast.release()
    assert not is_on()
    callbacks.FastMath(wanted=False).on_epoch_begin(0)
    assert not is_on()
