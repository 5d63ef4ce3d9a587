"""history: what counts as best, what survives the file."""

import math

import numpy as np
import pytest

from flowerkit import history
from flowerkit.history import best_row, count_epochs_without_better


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
