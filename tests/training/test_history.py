"""history: what counts as best, what survives the file."""

import math
import random

import numpy as np
import pytest

from flowerkit.training import history
from flowerkit.training.history import best_row, count_epochs_without_better, count_plateaus


def rows_of(monitor, values):
    return [{"epoch": epoch, monitor: value} for epoch, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("monitor", "values", "best_epoch"),
    [
        ("val_f1", [0.1, 0.7, 0.5], 2),
        ("val_loss", [0.9, 0.4, 0.6], 2),
        ("val_f1", [0.5, 0.7, 0.7], 2),  # the earliest on a tie
        ("val_f1", [0.2, math.nan, 0.1], 1),
    ],
)
def test_the_best_epoch_follows_the_monitors_direction(monitor, values, best_epoch):
    assert best_row(rows_of(monitor, values), monitor)["epoch"] == best_epoch


def test_without_a_single_value_there_is_no_best():
    assert best_row(rows_of("val_f1", [math.nan, math.nan]), "val_f1") is None
    assert best_row([], "val_f1") is None


def test_a_best_epoch_inside_the_ramp_still_counts_as_the_best():
    rows = rows_of("val_f1", [0.9, 0.4, 0.3, 0.2])
    assert best_row(rows, "val_f1")["epoch"] == 1
    assert count_epochs_without_better(rows, "val_f1", 3) == 1


def test_history_survives_the_file_to_seven_digits(tmp_path):
    row = dict.fromkeys(history.COLUMNS, 0.25) | {"epoch": 1, "val_f1": math.nan}
    row |= {"planned_lr": 4e-4, "learning_rate": float(np.float32(4e-4))}
    history.write_history(tmp_path / "history.csv", [row])
    (back,) = history.read_history(tmp_path / "history.csv")
    assert back["epoch"] == 1
    assert math.isnan(back["val_f1"])
    assert back["planned_lr"] == back["learning_rate"] == 0.0004


def test_a_missing_history_is_empty(tmp_path):
    assert history.read_history(tmp_path / "history.csv") == []


def falls_by_keras(values, patience):
    """How often Keras's own callback lowers the rate, asked epoch by epoch."""
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    plateau = keras.callbacks.ReduceLROnPlateau(
        "val_loss", mode="min", factor=0.5, patience=patience, min_delta=0.0
    )
    plateau.set_model(model)
    plateau.on_train_begin()
    for epoch, value in enumerate(values):
        plateau.on_epoch_end(epoch, {"val_loss": value})
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    return round(-math.log2(rate))


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_plateaus_are_counted_as_keras_lowers_rates(patience):
    for seed in range(3):
        values = random.Random(seed).choices([1.0, 0.9, 0.8, 0.7, 0.6], k=12)
        rows = [{"epoch": k, "val_loss": value} for k, value in enumerate(values, 1)]
        assert count_plateaus(rows, "val_loss", patience) == falls_by_keras(values, patience)


def test_epochs_that_cool_down_and_epochs_without_a_value_are_no_better_ones():
    rows = [{"epoch": k, "val_loss": 1.0} for k in range(1, 8)]
    counts = [count_plateaus(rows[:k], "val_loss", 2, cooldown=2) for k in range(8)]
    assert counts == [0, 0, 0, 1, 1, 1, 1, 2]
    rows[1:3] = [{"epoch": 2}, {"epoch": 3, "val_loss": math.nan}]
    assert count_plateaus(rows[:3], "val_loss", 2) == 1
    assert count_plateaus([], "val_loss", 2) == 0
