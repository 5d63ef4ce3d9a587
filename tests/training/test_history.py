"""history: what counts as best, what the file keeps, and what a damaged file says."""

import math
import random
import re

import numpy as np
import pytest

from flowerkit.training.history import COLUMNS, History


def history_of(monitor, values):
    return History(
        monitor, [{"epoch": epoch, monitor: value} for epoch, value in enumerate(values, start=1)]
    )


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
    assert history_of(monitor, values).best["epoch"] == best_epoch


def test_without_a_single_value_there_is_no_best():
    assert history_of("val_f1", [math.nan, math.nan]).best is None
    assert History("val_f1").best is None
    assert History("val_f1").epochs_since_best() == 0


def test_a_best_epoch_inside_the_ramp_still_counts_as_the_best():
    history = history_of("val_f1", [0.9, 0.4, 0.3, 0.2])
    assert history.best["epoch"] == 1
    assert history.epochs_since_best(first_epoch=3) == 1


def test_history_survives_the_file_to_seven_digits(tmp_path):
    file = tmp_path / "history.csv"
    row = dict.fromkeys(COLUMNS, 0.25) | {"epoch": 1, "val_f1": math.nan}
    row |= {"planned_lr": 4e-4, "learning_rate": float(np.float32(4e-4))}
    history = History("val_loss", path=file)
    history.append(row)
    history.save()
    (back,) = History.load(file, "val_loss")
    assert back["epoch"] == 1
    assert math.isnan(back["val_f1"])
    assert back["planned_lr"] == back["learning_rate"] == 0.0004


def test_a_missing_history_is_empty(tmp_path):
    assert not History.load(tmp_path / "history.csv", "val_f1")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda text: text.replace("val_f1", "val_f2"), "line 1: column 'val_f1' is missing"),
        (lambda text: text.replace("0.25", "a quarter", 1), "line 2: could not convert"),
        (lambda text: text[: len(text) // 2 * 2 - 9], "line 3: "),
    ],
)
def test_a_damaged_history_is_named_with_its_line(tmp_path, spoil, named):
    file = tmp_path / "history.csv"
    history = History("val_f1", path=file)
    for epoch in (1, 2):
        history.append(dict.fromkeys(COLUMNS, 0.25) | {"epoch": epoch})
    history.save()
    file.write_text(spoil(file.read_text()))
    with pytest.raises(ValueError, match=re.escape(f"{file}, {named}")):
        History.load(file, "val_f1")


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
        plateaus = history_of("val_loss", values).count_plateaus(patience)
        assert plateaus == falls_by_keras(values, patience)


def test_an_epoch_without_a_value_is_no_improvement():
    assert history_of("val_loss", [1.0, math.nan, math.nan]).count_plateaus(2) == 1
    assert History("val_loss").count_plateaus(2) == 0


def test_a_tie_with_the_best_is_one_in_the_file_too(tmp_path):
    history = History("val_f1", (), tmp_path / "history.csv")
    row = dict.fromkeys(COLUMNS, 0.0) | {"epoch": 1, "val_f1": 0.3304924242424242}
    history.append(row)
    history.save()
    resumed = History.load(history.path, "val_f1")
    resumed.append(row | {"epoch": 2})
    assert resumed.best["epoch"] == 1
    assert history.best["val_f1"] == resumed.best["val_f1"] == 0.3304924
