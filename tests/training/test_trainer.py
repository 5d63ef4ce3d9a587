"""trainer: real runs of a tiny network, on the backend and devices of the environment."""

import dataclasses
import json
import logging
import re
import signal
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from flowerkit.data import find_shards, load_split, read_records, write_shards
from flowerkit.files import write_sealed
from flowerkit.models import depth_of
from flowerkit.pipeline import epoch_permutation
from flowerkit.prediction.predictions import predict
from flowerkit.schedules import OfEpochAndRate, OneCycle
from flowerkit.sources import draw_competition
from flowerkit.submission import check_submission, write_submission
from flowerkit.training import step, trainer
from flowerkit.training.fitting import OutOfMemory
from flowerkit.training.history import COLUMNS
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.run_folder import RunFolder
from flowerkit.training.step import build_model
from flowerkit.training.trainer import fine_tune, fit_one_cycle, train

EVERYTHING = {
    "min_crop_area": 0.5,
    "max_zoom": 1.2,
    "max_rotation_degrees": 20.0,
    "random_erasing": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}


@pytest.fixture
def run(quick_plan, drawn, accelerator, tmp_path):
    """Train `quick_plan` with changes: run(name, data=, callbacks=, resume=, precision=, **changes)."""

    def train_plan(
        name="run", *, data=drawn, callbacks=(), resume=False, precision="float32", **changes
    ):
        return train(
            data,
            dataclasses.replace(quick_plan, **changes),
            out=tmp_path / name,
            accelerator=dataclasses.replace(accelerator, precision=precision),
            callbacks=callbacks,
            resume=resume,
        )

    return train_plan


class PressCtrlC(keras.callbacks.Callback):
    """Interrupt after so many epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epochs:
            signal.raise_signal(signal.SIGINT)


class StopAfter(keras.callbacks.Callback):
    """A callback of yours that stops after so many epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            self.model.stop_training = True


def find_head(model):
    """The last layer, of a model that trains on images or on features."""
    part = "head" if "head" in [layer.name for layer in model.layers] else "flower_classifier"
    return model.get_layer(part).get_layer("probabilities")


def poison(model):
    head = find_head(model)
    head.set_weights([np.nan * weight for weight in head.get_weights()])


class SpoilAfter(keras.callbacks.Callback):
    """From epoch `first` on, the head is sure of class 0 whatever it sees: worse than any beginning."""

    def __init__(self, first):
        super().__init__()
        self.first, self.best = first, None

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 < self.first:
            self.best = self.model.get_weights()

    def on_epoch_begin(self, epoch, logs=None):
        if epoch + 1 >= self.first:
            head = find_head(self.model)
            kernel, bias = head.get_weights()
            head.set_weights([np.zeros_like(kernel), 100.0 * (np.arange(len(bias)) == 0)])


# What a run comes to ------------------------------------------------------------------------------


@pytest.mark.backends
def test_the_planned_and_the_real_rate_are_both_recorded_and_equal(finished_run):
    rows = RunFolder(finished_run.folder).history()
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["planned_lr"] for row in rows] == [0.001, 0.002]
    assert [row["learning_rate"] for row in rows] == [0.001, 0.002]


def test_the_run_says_how_it_ended(finished_run):
    best = finished_run.history.best
    text = str(finished_run)
    assert "stopped at epoch 2 because the plan's epochs were done" in text
    assert f"best epoch {best['epoch']} (raw weights): macro F1 {best['val_f1']:.4f}" in text


@pytest.mark.backends
@pytest.mark.replicas
def test_the_saved_model_predicts_what_the_run_recorded(finished_run, drawn):
    """Also over several replicas, whose BatchNormalization statistics differ while training."""
    folder = RunFolder(finished_run.folder)
    val = load_split(drawn, "val")
    # Through plain arrays: no replicas, no padding, nothing of the run's own.
    probabilities = keras.ops.convert_to_numpy(folder.model()(val.images, training=False))
    recorded = folder.val_predictions()
    np.testing.assert_allclose(recorded.probabilities, probabilities, atol=1e-5)
    assert recorded.ids.tolist() == val.ids.tolist()
    best = finished_run.history.best
    assert recorded.score()["val_f1"] == pytest.approx(best["val_f1"], rel=1e-6)


@pytest.mark.backends
@pytest.mark.replicas
def test_the_csv_of_a_run_is_valid_with_a_remainder_over_the_replicas(
    finished_run, drawn, tmp_path
):
    test = load_split(drawn, "test")
    predictions = predict(finished_run.model, test, global_batch=finished_run.global_batch)
    write_submission(tmp_path / "submission.csv", predictions.ids, predictions.predicted)
    assert check_submission(tmp_path / "submission.csv", test.ids, 4) == []
    alone = keras.ops.convert_to_numpy(finished_run.model(test.images, training=False))
    np.testing.assert_allclose(predictions.probabilities, alone, atol=1e-5)


@pytest.mark.backends
def test_the_same_seed_gives_the_same_history_twice(finished_run, run):
    again = run()
    timed = ("seconds", "images_per_second")
    for row, same in zip(finished_run.history, again.history, strict=True):
        for name in set(COLUMNS) - set(timed):
            assert row[name] == same[name], name


@pytest.mark.backends
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_run_in_half_precision_is_recorded_and_reloads(run, drawn, precision):
    """On a CPU, but with the dtypes of a TPU or an older GPU: a float32 softmax, float32 weights."""
    result = run(precision=precision, freeze_epochs=1, epochs=1)
    assert [np.isfinite(row["loss"]) for row in result.history] == [True, True]
    assert RunFolder(result.folder).environment().accelerator.precision == precision
    reloaded = RunFolder(result.folder).model()
    layer = reloaded.get_layer("backbone").layers[1]
    assert (layer.compute_dtype, layer.variable_dtype) == (precision, "float32")
    val = load_split(drawn, "val")
    probabilities = keras.ops.convert_to_numpy(reloaded(val.images, training=False))
    recorded = result.predictions.probabilities
    assert recorded.dtype == np.float32
    np.testing.assert_allclose(recorded.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(recorded, probabilities, atol=1e-2)


@pytest.mark.backends
def test_every_augmentation_at_once_trains_and_leaves_nothing_in_the_saved_model(run):
    result = run(**EVERYTHING)
    assert len(result.history) == 2
    saved = RunFolder(result.folder).model()
    assert "Augment" not in {type(layer).__name__ for layer in saved._flatten_layers()}


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "weight_decay": 0.01, "backbone_lr_factor": 0.1},
        {"optimizer": "sgd", "schedule": "cosine", "max_lr": 0.05, "label_smoothing": 0.1},
        {"schedule": "staircase", "sustain_epochs": 1},
        {"class_weights": "balanced", "unfreeze_from": 0.5, "freeze_norms": True, "mixup": 0.2},
        {"head": "concat", "schedule": "one-cycle", "ema": 0.9},
    ],
)
def test_the_choices_of_a_plan_go_together(run, changes):
    result = run(**changes)
    assert len(result.history) == 2
    for row in result.history:
        assert np.isfinite(row["loss"])
        assert row["learning_rate"] == pytest.approx(row["planned_lr"], rel=1e-5)


@pytest.mark.backends
def test_two_classes_are_told_apart_by_one_sigmoid_and_more_are_refused(run, tmp_path):
    pair = draw_competition(
        tmp_path / "pair", num_classes=2, image_size=32, num_train=32, num_val=8, num_test=8
    )
    binary = run(data=pair, binary=True, epochs=1)
    assert binary.model.get_layer("logit").units == 1
    assert binary.predictions.probabilities.shape == (8, 2)
    np.testing.assert_allclose(binary.predictions.probabilities.sum(axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="there are 4"):
        run("four", binary=True)


def test_progress_is_reported_after_every_step(quick_plan, drawn, accelerator, tmp_path):
    steps = []
    train(
        drawn,
        quick_plan,
        out=tmp_path / "run",
        accelerator=accelerator,
        progress=lambda *step: steps.append(step),
    )
    assert steps == [(f"epoch {epoch}/2", step, 3) for epoch in (1, 2) for step in (1, 2, 3)]


def test_tensorboard_logs_are_written_on_request(run):
    assert list((run(epochs=1, tensorboard=True).folder / "tensorboard").rglob("events.out.*"))


# Phases -------------------------------------------------------------------------------------------


def differ(ours, others):
    return any(not np.array_equal(one, other) for one, other in zip(ours, others, strict=True))


@pytest.mark.backends
def test_the_backbone_rests_while_the_head_learns_and_learns_afterwards(
    run, quick_plan, drawn, accelerator
):
    class Snapshot(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            if self.model.layers[-1].name == "flower_classifier":  # the second phase
                self.taken = backbone_of(self.model.layers[-1])

    def backbone_of(model):
        return [np.array(weight) for weight in model.get_layer("backbone").get_weights()]

    fresh = backbone_of(build_model(quick_plan, drawn, accelerator))
    probe = run("probe", freeze_epochs=2, freeze_lr=2e-3, epochs=0)
    assert not differ(fresh, backbone_of(probe.model))
    last = Snapshot()
    result = run(freeze_epochs=2, freeze_lr=2e-3, epochs=1, callbacks=[last])
    speed = result.summary.images_per_second  # of the network, not of the head on features
    assert speed == pytest.approx(result.history.last["images_per_second"])
    assert differ(fresh, last.taken)
    assert [row["phase"] for row in result.history] == [1, 1, 2]
    assert [row["learning_rate"] for row in result.history] == pytest.approx([2e-3, 2e-3, 1e-3])
    assert [row["planned_lr"] for row in result.history] == pytest.approx([2e-3, 2e-3, 1e-3])


def test_fine_tune_and_fit_one_cycle_are_plans_in_one_call(
    quick_plan, drawn, accelerator, tmp_path
):
    tuned = fine_tune(
        drawn,
        2,
        base_lr=4e-3,
        freeze_epochs=1,
        backbone_lr_factor=0.01,
        out=tmp_path / "tuned",
        plan=quick_plan,
        accelerator=accelerator,
    )
    assert [row["phase"] for row in tuned.history] == [1, 2, 2]
    plan = tuned.plan
    assert (plan.freeze_lr, plan.max_lr, plan.backbone_lr_factor) == (4e-3, 2e-3, 0.01)
    assert (plan.schedule, plan.lr_reference_batch) == ("one-cycle", None)
    cycle = fit_one_cycle(
        drawn, 2, 3e-3, out=tmp_path / "cycle", plan=quick_plan, accelerator=accelerator
    )
    assert [row["phase"] for row in cycle.history] == [1, 1]
    assert (cycle.plan.max_lr, cycle.plan.lr_reference_batch) == (3e-3, None)
    assert cycle.history[-1]["learning_rate"] < 3e-3 / 5  # six steps: the last is not quite the end


@keras.saving.register_keras_serializable("test_trainer")
class Block(keras.layers.Layer):
    """A layer of a user's, whose layers have the same names as those of all others."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv = keras.layers.Conv2D(8, 3, padding="same", name="conv")
        self.norm = keras.layers.BatchNormalization(name="norm")

    def call(self, inputs, training=None):
        return keras.ops.relu(self.norm(self.conv(inputs), training=training))


def bring_network():
    pixels = keras.Input((None, None, 3))
    x = keras.layers.RandomFlip("horizontal", name="flip")(pixels / 127.5 - 1)
    for name in ("head_norm", "probabilities"):
        x = keras.layers.MaxPooling2D()(Block(name=name)(x))
    return keras.Model(pixels, x)


@pytest.mark.backends
@pytest.mark.replicas
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_of_your_own_learns_at_its_rates_and_a_run_goes_on(
    quick_plan, drawn, accelerator, tmp_path, caplog, precision
):
    network, device = bring_network(), replace(accelerator, precision=precision)
    before = [np.array(keras.ops.convert_to_numpy(each)) for each in network.weights]
    plan = replace(
        quick_plan,
        backbone=network,
        weights="imagenet",
        freeze_epochs=1,
        epochs=1,
        freeze_norms=False,
        backbone_lr_factor=0.25,
    )
    with caplog.at_level(logging.INFO, "flowerkit"):
        first = train(drawn, plan, out=tmp_path / "first", accelerator=device)
    assert "inside the backbone (backbone/flip) act only when the network learns" in caplog.text
    for ours, theirs in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(ours, keras.ops.convert_to_numpy(theirs))
    # The file in the run is the network, and the run's plan is data.
    assert first.plan == RunFolder(first.folder).plan()
    assert Path(first.plan.backbone) == (tmp_path / "first" / "backbone.keras").resolve()
    # 4 layers of the backbone, and of the head a norm and the softmax: two variables each.
    model = build_model(replace(first.plan, freeze_epochs=0), drawn, device)
    depth = depth_of(model)
    rates = [0.25 ** (1 - depth(variable)) for variable in model.trainable_variables]
    assert rates == pytest.approx(
        [each for k in range(4) for each in [0.25 ** (1 - k / 4)] * 2] + [1.0] * 4
    )
    at_rest = {"schedule": "constant", "max_lr": 1e-12, "freeze_epochs": "auto"}
    again = replace(first.plan, weights=first.folder, **at_rest)
    with caplog.at_level(logging.INFO, "flowerkit"):
        second = train(drawn, again, out=tmp_path / "second", accelerator=device)
    assert "freeze_epochs=0: the head has learned in" in caplog.text
    for ours, theirs in zip(
        first.model.trainable_variables, second.model.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs), atol=1e-6
        )
    with caplog.at_level(logging.INFO, "flowerkit"):
        other = replace(again, head="plain", freeze_epochs=1, epochs=0)
        train(drawn, other, out=tmp_path / "third", accelerator=device)
    assert caplog.text.count("backbone and head go on from") == 1


def test_what_fine_tune_is_not_told_is_the_plans_own(quick_plan, drawn, accelerator, tmp_path):
    """Without weights all learns from the start, at one rate."""
    plan = dataclasses.replace(quick_plan, lr_reference_batch=32)
    result = fine_tune(drawn, 1, out=tmp_path / "run", plan=plan, accelerator=accelerator)
    plan = result.plan
    assert (plan.freeze_epochs, plan.backbone_lr_factor) == (0, None)
    assert (plan.max_lr, plan.lr_reference_batch) == (2e-3, 32)


def test_of_head_and_network_the_better_is_kept(run):
    result = run(
        freeze_epochs=3,
        freeze_lr=1e-2,
        epochs=2,
        schedule="constant",
        max_lr=30.0,  # which ruins the network
        patience=None,
        monitor="val_loss",
    )
    best = result.history.best
    assert [row["phase"] for row in result.history] == [1, 1, 1, 2, 2]
    assert best["phase"] == 1
    assert result.history.last["val_loss"] > 2 * best["val_loss"]
    assert result.summary.best_epoch == best["epoch"]
    assert result.predictions.score()["val_loss"] == pytest.approx(best["val_loss"], rel=1e-5)
    whole = keras.ops.convert_to_numpy(result.model(result.val_images, training=False))
    np.testing.assert_allclose(result.predictions.probabilities, whole, atol=1e-5)


@pytest.mark.backends
def test_a_callback_of_yours_that_stops_the_head_gives_way_to_the_network(run):
    result = run(freeze_epochs=3, callbacks=StopAfter(2))
    assert [row["phase"] for row in result.history] == [1, 1, 2, 2]
    assert result.summary.stop_reason == "the plan's epochs were done"


def test_a_frozen_phase_that_stops_early_gives_way_to_the_next(run):
    result = run(freeze_epochs=9, freeze_lr=1e-9, patience=1, monitor="val_accuracy", epochs=1)
    phases = [row["phase"] for row in result.history]
    assert phases[-1] == 2
    assert 2 <= phases.count(1) < 9


def test_a_schedule_of_your_own_is_followed_recorded_and_needed_again(
    quick_plan, drawn, accelerator, tmp_path
):
    def halve(epoch, lr):
        return lr if epoch == 0 else lr / 2

    own = OfEpochAndRate(halve, 4e-3)
    plan = dataclasses.replace(quick_plan, schedule="constant", epochs=3)

    def train_by(schedule, **options):
        return train(
            drawn, plan, out=tmp_path / "run", accelerator=accelerator, schedule=schedule, **options
        )

    followed = train_by(own)
    rates = [4e-3, 2e-3, 1e-3]
    assert [row["planned_lr"] for row in followed.history] == pytest.approx(rates)
    assert [row["learning_rate"] for row in followed.history] == pytest.approx(rates)
    with pytest.raises(ValueError, match=r"halve every epoch, and would now follow its plan"):
        train_by(None, resume=True)
    assert len(train_by(own, resume=True).history) == 3


# Parts of epochs ------------------------------------------------------------------------------------

# 50 images: 6 steps of 8 show them once, and three epochs of 5 steps two and a half times.
PARTS = {"schedule": "one-cycle", "max_lr": 0.02, "start_lr": 1e-3, "epochs": 2.5}


@pytest.fixture
def parts(accelerator):
    return PARTS | {"per_replica_batch": 8 // accelerator.replicas}


@pytest.mark.backends
def test_a_part_of_an_epoch_is_trained_with_the_whole_schedule_and_resumed_exactly(run, parts):
    whole = run("whole", **parts)
    cycle = OneCycle(0.02, 2.5)
    ends = [cycle(2.5 / 3 * (epoch + 4 / 5)) for epoch in range(3)]  # before the last of 5 steps
    assert [row["steps"] for row in whole.history] == [5, 5, 5]
    assert [row["planned_lr"] for row in whole.history] == pytest.approx(ends)
    assert [row["learning_rate"] for row in whole.history] == pytest.approx(ends)
    run("parts", **parts, callbacks=[StopAfter(2)])
    resumed = run("parts", **parts, resume=True)
    assert_same(resumed.history, whole.history)


# Smaller images first --------------------------------------------------------------------------------

SMALL = {
    "freeze_epochs": 1,
    "small_epochs": 2,
    "epochs": 1,
    "schedule": "one-cycle",
    "input_size": 64,
}


def seen_by(model):
    """The size in px of what its backbone sees."""
    return model.get_layer("backbone").input_shape[1]


class Sizes(keras.callbacks.Callback):
    """The sizes of the images on which the network learns, by epoch."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_epoch_begin(self, epoch, logs=None):
        if len(self.model.inputs) == 2:  # pixels and parameters
            self.seen[epoch + 1] = seen_by(self.model.get_layer("flower_classifier"))


@pytest.mark.backends
@pytest.mark.replicas
def test_the_network_learns_from_small_images_first_and_then_from_large_ones(run, drawn):
    sizes = Sizes()
    result = run(**SMALL, callbacks=[sizes])
    assert sizes.seen == {2: 32, 3: 32, 4: 64}
    assert [row["phase"] for row in result.history] == [1, 2, 2, 3]
    small, large = OneCycle(2e-3, 2, 0.3, 5.0), OneCycle(0.3 * 2e-3, 1, 0.3, 5.0)
    planned = [small(2 / 3), small(5 / 3), large(2 / 3)]  # before the last of 3 steps
    assert [row["planned_lr"] for row in result.history[1:]] == pytest.approx(planned)
    best = result.history.best
    assert seen_by(result.model) == sizes.seen.get(best["epoch"], 32)
    val = load_split(drawn, "val")
    again = predict(RunFolder(result.folder).model(), val, global_batch=16)
    assert again.score()["val_loss"] == pytest.approx(best["val_loss"], rel=1e-4)


@pytest.mark.backends
def test_where_large_images_are_of_no_use_the_model_is_the_one_of_small_images(run, drawn):
    result = run(**SMALL | {"epochs": 2}, callbacks=[SpoilAfter(4)], monitor="val_loss")
    assert result.history.best["phase"] < 3
    assert seen_by(result.model) == 32
    again = predict(result.model, load_split(drawn, "val"), global_batch=16)
    assert again.score()["val_loss"] == pytest.approx(result.history.best["val_loss"], rel=1e-4)


def test_records_that_are_left_out_are_left_out_of_every_phase(run, drawn, monkeypatch):
    """Of 50 images 40 are whole: two steps of 16, not three."""

    def load_whole(data, name, **options):
        split = load_split(data, name, **options)
        if name != "train":
            return split
        names = ("images", "labels", "ids", "digests")
        return replace(split, **{name: getattr(split, name)[:40] for name in names})

    monkeypatch.setattr(trainer, "load_split", load_whole)
    result = run(**SMALL)
    assert [(row["phase"], row["steps"]) for row in result.history] == [
        (1, 2),
        (2, 2),
        (2, 2),
        (3, 2),
    ]


@pytest.mark.parametrize(
    ("before", "stop_after", "after"),
    [
        (SMALL, 3, {"small_epochs": 0}),  # where large images would go on as small ones, or none
        (SMALL, 2, {"small_epochs": 0}),
        (SMALL, 1, {"small_epochs": 0}),  # the head has learned from small ones
        (SMALL | {"small_epochs": 0, "epochs": 3}, 2, {"small_epochs": 2}),
        ({"freeze_epochs": 1, "freeze_lr": 1e-3}, 2, {"epochs": 0}),
    ],
)
def test_a_resumed_run_keeps_the_phases_that_it_has_begun(run, before, stop_after, after):
    run(**before, callbacks=[PressCtrlC(stop_after)])
    with pytest.raises(
        ValueError, match=r"is in its phase \d, of freeze_epochs=1, small_epochs=\d"
    ):
        run(**before | after, resume=True)


def test_the_head_that_learned_alone_may_be_followed_by_a_network(run):
    run(freeze_epochs=1, epochs=0, freeze_lr=1e-3)
    resumed = run(freeze_epochs=1, epochs=1, freeze_lr=1e-3, resume=True)
    assert [row["phase"] for row in resumed.history] == [1, 2]


def test_a_run_from_before_there_were_small_images_goes_on_without(run, tmp_path):
    run(freeze_epochs=2, epochs="auto", schedule="one-cycle", callbacks=[PressCtrlC(1)])
    folder = RunFolder(tmp_path / "run")
    older = json.loads(folder.plan_file.read_text())
    del older["small_epochs"], older["checksum"]
    write_sealed(folder.plan_file, older)
    plan = folder.complete(dataclasses.replace(folder.plan(), max_minutes=1.0))
    assert (plan.small_epochs, plan.epochs) == (0, "auto")


# Resuming ------------------------------------------------------------------------------------------


def assert_same(history, whole):
    """Two histories that differ in their times alone, with the planned rates."""
    assert len(history) == len(whole)
    for row, other in zip(history, whole, strict=True):
        for name in ("phase", "steps", "loss", "val_loss", "averaged", "learning_rate"):
            assert row[name] == pytest.approx(other[name], rel=1e-4), name
        assert row["learning_rate"] == pytest.approx(row["planned_lr"], rel=1e-5)


@pytest.mark.backends
@pytest.mark.parametrize(
    ("changes", "stop_after"),
    [
        ({"epochs": 2}, 1),
        ({"freeze_epochs": 2, "epochs": 3, "schedule": "one-cycle", "ema": 0.7}, 1),
        ({"freeze_epochs": 2, "epochs": 3, "schedule": "one-cycle"}, 3),
        (SMALL, 2),
        (SMALL, 3),
        (SMALL | {"epochs": 2}, 4),
        pytest.param(
            {"freeze_epochs": 4, "epochs": 1, "schedule": "one-cycle"},
            2,
            marks=pytest.mark.replicas,
        ),
    ],
)
def test_a_resumed_run_ends_like_the_whole_one(run, changes, stop_after):
    """In the only phase, in a first on features, in a second, among and after small images."""
    whole = run("whole", **changes)
    run("parts", **changes, callbacks=[PressCtrlC(stop_after)])
    parts = run("parts", **changes, resume=True)
    assert_same(parts.history, whole.history)


class LossScales(keras.callbacks.Callback):
    """The loss scale at the start of each epoch."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(float(keras.ops.convert_to_numpy(self.model.optimizer.dynamic_scale)))


@pytest.mark.backends
def test_a_resumed_run_keeps_its_precision_and_its_loss_scale(run):
    """In float16, whose scale starts at 2 ** 15 and is halved at a step that overflows."""
    changes, scales = {"epochs": 3, "ema": 0.9, "max_lr": 0.1}, LossScales()
    whole = run("whole", precision="float16", **changes, callbacks=[scales])
    expected = scales.seen
    run("parts", precision="float16", **changes, callbacks=[StopAfter(1)])
    parts = run("parts", precision="float16", **changes, resume=True, callbacks=[scales])
    assert parts.accelerator.precision == "float16"
    assert scales.seen == expected[1:]
    for row, other in zip(whole.history, parts.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-2)


@pytest.mark.backends
@pytest.mark.parametrize(("before", "after"), [("float32", "float16"), ("float16", "float32")])
def test_a_run_goes_on_in_another_precision_and_says_so(run, before, after, caplog):
    """With and without the loss scale of float16, which is the optimizer's wrapper."""
    caplog.set_level("INFO", "flowerkit")
    run("parts", precision=before, epochs=2, ema=0.9, callbacks=[StopAfter(1)])
    parts = run("parts", precision=after, epochs=2, ema=0.9, resume=True)
    assert f"precision {before} -> {after}; a batch stays 16 images" in caplog.text
    assert RunFolder(parts.folder).environment().accelerator.precision == after
    first, second = parts.history  # float16 drops steps while its scale is too large
    assert second["loss"] < first["loss"]


def test_a_finished_run_that_is_resumed_trains_no_more(run, caplog):
    first = run(freeze_epochs=1, epochs=1)
    weights = first.model.get_weights()
    # Three steps an epoch: it is said once that one epoch is short.
    assert "epochs=84 (--epochs 84) would be 250 steps" in caplog.text
    caplog.clear()
    again = run(freeze_epochs=1, epochs=1, resume=True)
    assert "--epochs N" in again.summary.stop_reason
    assert len(again.history) == 2
    assert not differ(weights, again.model.get_weights())
    assert "250 steps" not in caplog.text


@pytest.mark.parametrize("changes", [{}, {"epochs": 0, "freeze_epochs": 2, "freeze_lr": 2e-3}])
@pytest.mark.parametrize(("left_in", "rows_left"), [(1, [2]), (2, [3])])
def test_an_epoch_that_was_left_is_done_again(run, left_in, rows_left, changes):
    class Leave(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch + 1

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (left_in, 1):
                self.model.stop_training = True

    left = run(callbacks=[Leave()], **changes)
    # Only a first epoch is kept in part: later ones leave the best weights to whole epochs.
    assert [row["steps"] for row in left.history] == rows_left
    resumed = run(resume=True, **changes)
    assert [(row["epoch"], row["steps"]) for row in resumed.history] == [(1, 3), (2, 3)]
    assert resumed.predictions.score()["val_f1"] == pytest.approx(
        resumed.history.best["val_f1"], rel=1e-6
    )


def test_a_plateau_halves_a_constant_rate_and_waits_through_a_resume(run):
    changes = {
        "epochs": 0,
        "freeze_epochs": 6,
        "freeze_lr": 8e-3,
        "schedule": "constant",
        "plateau_patience": 2,
        "patience": None,
        "monitor": "val_loss",
    }
    run(**changes, callbacks=[SpoilAfter(first=2), StopAfter(2)])
    resumed = run(**changes, callbacks=[SpoilAfter(first=2)], resume=True)
    assert [row["learning_rate"] for row in resumed.history] == pytest.approx(
        [8e-3, 8e-3, 8e-3, 4e-3, 4e-3, 2e-3]
    )


# Stopping ------------------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_early_stopping_stops_and_the_best_weights_come_back(run, precision):
    spoil = SpoilAfter(first=3)
    result = run(epochs=30, patience=2, monitor="val_loss", callbacks=[spoil], precision=precision)
    assert result.summary.stop_reason == "val_loss had not improved for 2 epochs (early stopping)"
    best_epoch = result.history.best["epoch"]
    assert best_epoch in (1, 2)
    assert result.history[-1]["epoch"] == best_epoch + 2
    if best_epoch == 2:
        assert not differ(result.model.get_weights(), spoil.best)


def test_early_stopping_on_features_keeps_the_best_head(run):
    result = run(
        epochs=0,
        freeze_epochs=30,
        freeze_lr=3.0,
        schedule="constant",
        patience=2,
        monitor="val_loss",
    )
    assert result.summary.stop_reason == "val_loss had not improved for 2 epochs (early stopping)"
    best = result.history.best
    assert result.predictions.score()["val_loss"] == pytest.approx(best["val_loss"], rel=1e-5)
    assert best["epoch"] == result.history[-1]["epoch"] - 2


@pytest.mark.parametrize("lost_in", [3, 22])
def test_a_loss_that_is_not_a_number_ends_the_run_and_names_its_step_rate_and_images(
    run, drawn, lost_in
):
    """25 steps an epoch: more than the host runs ahead, so that the stop comes inside one."""

    class Poison(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch + 1 == lost_in and self.model.optimizer.iterations > 25:
                poison(self.model)

    result = run(per_replica_batch=2, epochs=3, freeze_norms=True, callbacks=[Poison()])
    reason, images = result.summary.stop_reason.split(", on the images ")
    assert reason == f"the loss became nan in epoch 2, step {lost_in}, at a learning rate of 0.002"
    order = epoch_permutation(50, seed=result.plan.seed, epoch=1)
    size = result.global_batch
    shown = load_split(drawn, "train").ids[order[(lost_in - 1) * size : lost_in * size]]
    assert images.split(" and ")[0].split(", ") == shown[:32].tolist()
    assert result.summary.failed
    assert not result.summary.interrupted
    assert len(result.history) == 1
    assert all(np.isfinite(weight).all() for weight in result.model.get_weights())


def test_a_loss_that_is_never_a_number_leaves_nothing_to_keep(run):
    class Poison(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            poison(self.model)

    with pytest.raises(RuntimeError, match=r"nan in epoch 1, step 1, .*: there are no .*--max-lr"):
        run(callbacks=[Poison()])


@pytest.mark.backends
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step_and_it_can_be_resumed(run, number):
    before = signal.getsignal(number)

    class PressCtrlC(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 5:  # inside epoch 2
                signal.raise_signal(number)

    result = run(callbacks=[PressCtrlC()])
    assert result.summary.interrupted
    assert [row["epoch"] for row in result.history] == [1]
    assert signal.getsignal(number) is before
    assert [row["epoch"] for row in run(resume=True).history] == [1, 2]


# Refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "error"),
    [("DenseNet12", ValueError), ("gone/DenseNet12.keras", FileNotFoundError)],
)
def test_a_missing_backbone_is_reported_before_the_data_is_read(drawn, tmp_path, backbone, error):
    data = dataclasses.replace(drawn, files={**drawn.files, "train": ()})
    with pytest.raises(error, match=backbone):
        train(data, TrainingPlan(backbone=backbone), out=tmp_path / "run")


def test_a_layer_that_is_not_there_is_refused_before_anything_is_trained(run):
    with pytest.raises(ValueError, match="block9"):
        run(freeze_epochs=5, unfreeze_from="block9")


def test_the_layer_that_a_name_was_found_to_mean_is_said(quick_plan, drawn, accelerator, caplog):
    plan = replace(quick_plan, unfreeze_from="block3", freeze_norms=False)
    with caplog.at_level(logging.INFO, "flowerkit"):
        run = step.RunContext(drawn, plan, accelerator)
        run.build()
        trainer._check_layers(run)
    assert "the backbone learns from 'block3_conv' on: 4 layers" in caplog.text


def test_a_missing_tensorboard_is_reported_before_training(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("flowerkit.training.trainer.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        train(drawn, TrainingPlan(tensorboard=True), out=tmp_path / "run")


# What a Keras user passes ---------------------------------------------------------------------------


class SetRate(keras.callbacks.Callback):
    """A callback of yours that sets the learning rate in one of Keras's methods."""

    def __init__(self, rate, method="on_epoch_begin", first_epoch=0):
        super().__init__()
        self.rate, self.first_epoch = rate, first_epoch
        setattr(self, method, self.set)

    def set(self, number=None, logs=None):
        if self.first_epoch <= 0:
            self.model.optimizer.learning_rate = self.rate
        self.first_epoch -= 1


@pytest.mark.backends
@pytest.mark.replicas
@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (lambda epoch: [4e-3, 1e-3][epoch], [4e-3, 1e-3]),
        (lambda epoch, rate: rate / 2, [1e-3, 5e-4]),
        (keras.optimizers.schedules.ExponentialDecay(4e-3, 1, 0.5), [1e-3, 1.25e-4]),  # 3 steps
    ],
)
def test_a_function_or_a_schedule_of_keras_sets_the_rate(
    quick_plan, drawn, accelerator, tmp_path, schedule, rates
):
    plan = dataclasses.replace(quick_plan, schedule="constant")
    out = tmp_path / "run"
    result = train(drawn, plan, schedule=schedule, out=out, accelerator=accelerator)
    assert [row["planned_lr"] for row in result.history] == pytest.approx(rates)
    assert [row["learning_rate"] for row in result.history] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"find_data\('photos'\) returns. Received: data='photos'"),
        ({"plan": "smoke"}, r"load_plan.* Received: plan='smoke'"),
        ({"schedule": lambda epoch: {0: 0.1}[epoch]}, "failed for epoch 1: KeyError"),
        ({"schedule": lambda epoch: None}, "returned None for epoch 0"),
        ({"schedule": [0.1, 0.2]}, r"schedule is \[0.1, 0.2\]"),
        ({"callbacks": keras.callbacks.EarlyStopping}, r"such as EarlyStopping\(\)"),
        ({"callbacks": [print]}, "LambdaCallback"),
        ({"callbacks": "checkpoint"}, "Received: 'checkpoint'"),
        (
            {"callbacks": keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3)},
            r"two controllers .*LearningRateScheduler.*schedule=f",
        ),
        ({"callbacks": keras.callbacks.ReduceLROnPlateau()}, "two controllers"),
        (
            {"callbacks": keras.callbacks.EarlyStopping("val_acc")},
            r"EarlyStopping monitors 'val_acc'.* Did you mean 'val_accuracy'",
        ),
        ({"callbacks": keras.callbacks.BackupAndRestore("x")}, "resume=True"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_the_data(quick_plan, tmp_path, options, message):
    plan = dataclasses.replace(quick_plan, schedule="constant")
    with pytest.raises(ValueError, match=message):
        train("photos", **{"plan": plan, "out": tmp_path / "run"} | options)
    assert not (tmp_path / "run").exists()


def test_early_stopping_of_keras_learns_that_a_higher_f1_is_better(run):
    stopping = keras.callbacks.EarlyStopping("val_f1", patience=5)
    assert len(run(callbacks=stopping).history) == 2
    assert stopping.mode == "max"


def test_a_callback_of_yours_may_have_names_that_ours_have(run):
    class Mine(keras.callbacks.Callback):
        on_step = "every step"
        stop = run = phase = hooks = history = cut_short = None

    assert len(run(callbacks=(Mine() for _ in range(2)), epochs=1).history) == 1


@pytest.mark.backends
@pytest.mark.parametrize("method", ["on_epoch_begin", "on_train_batch_begin"])
def test_a_callback_of_yours_sets_a_rate_that_is_constant(run, method):
    result = run(schedule="constant", callbacks=SetRate(5e-4, method))
    assert [row["learning_rate"] for row in result.history] == pytest.approx([5e-4, 5e-4])
    assert [row["planned_lr"] for row in result.history] == pytest.approx([2e-3, 2e-3])


@pytest.mark.backends
@pytest.mark.parametrize(
    ("method", "schedule"),
    [
        ("on_train_begin", "ramp"),
        ("on_epoch_begin", "one-cycle"),
        ("on_train_batch_begin", "ramp"),
        ("on_train_batch_end", "one-cycle"),
    ],
)
def test_a_callback_of_yours_that_sets_another_rate_than_the_schedule_is_refused(
    run, tmp_path, method, schedule
):
    with pytest.raises(ValueError, match=r"two controllers .* set it to 0.0005.*'constant'"):
        run(schedule=schedule, callbacks=SetRate(5e-4, method))
    assert not (tmp_path / "run" / "history.csv").exists()


@pytest.mark.backends
def test_a_callback_that_sets_the_rate_after_the_first_epoch_is_overruled_and_named(run, caplog):
    with caplog.at_level("WARNING", "flowerkit"):
        result = run(callbacks=SetRate(5e-4, first_epoch=1), epochs=3)
    assert [row["learning_rate"] for row in result.history] == pytest.approx(
        [row["planned_lr"] for row in result.history]
    )
    assert caplog.text.count("two controllers") == 1


class Fail(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            raise KeyError("val_acc")


def test_an_error_in_the_first_epoch_leaves_the_folder_free_and_a_later_one_leaves_a_run(run):
    with pytest.raises(KeyError):
        run(callbacks=[Fail(1)])
    with pytest.raises(KeyError):
        run(callbacks=[Fail(2)])
    with pytest.raises(FileExistsError, match=r"resume=True"):
        run()
    assert len(run(resume=True, epochs=3).history) == 3


def test_one_class_only_is_refused(run, drawn, tmp_path):
    records = [record for file in drawn.files["train"] for _, record in read_records(file)]
    kept = [record for record in records if record.label == 2]
    write_shards(tmp_path, "train", kept, image_size=32, shard_size=64)
    data = find_shards(tmp_path, class_names=drawn.class_names, origin="folder")
    with pytest.raises(ValueError, match=rf"one class only \('{drawn.class_names[2]}'\)"):
        run(data=data, per_replica_batch=1)


def test_a_batch_larger_than_the_split_is_refused(run):
    with pytest.raises(ValueError, match=r"and there are 50 to train on.*--per-replica-batch \d"):
        run(per_replica_batch=64)


def test_an_empty_val_split_is_refused(run, drawn):
    with pytest.raises(ValueError, match="the val split of .* is empty"):
        run(data=dataclasses.replace(drawn, files={**drawn.files, "val": ()}))


@pytest.mark.backends
def test_without_a_val_split_the_last_epoch_is_kept_with_averaged_weights(run, drawn, caplog):
    """By the monitor "epoch"; the ema of 0.5 has forgotten the first weights after two steps."""
    alone = replace(drawn, counts={**drawn.counts, "val": 0}, files={**drawn.files, "val": ()})
    changes = {"monitor": "epoch", "ema": 0.5, "patience": 1}
    with caplog.at_level(logging.INFO, "flowerkit"):
        whole = run("whole", data=alone, **changes)
    summary = whole.summary
    assert (summary.best_epoch, summary.best_weights, summary.val_f1) == (2, "averaged", None)
    assert len(whole.predictions) == len(whole.val_images) == 0
    assert "nan" not in caplog.text
    run("parts", data=alone, callbacks=[PressCtrlC(1)], **changes)
    parts = run("parts", data=alone, resume=True, **changes)
    for ours, theirs in zip(whole.model.get_weights(), parts.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert "without validation" in str(parts)


def test_validation_out_of_the_training_split_is_refused(run, drawn):
    files = {**drawn.files, "val": drawn.files["train"]}
    data = dataclasses.replace(drawn, files=files, counts={**drawn.counts, "val": 50})
    with pytest.raises(ValueError, match="50 val images have the same id "):
        run(data=data)


# A device with too little memory ------------------------------------------------------------------


def rows_of(result, *names):
    return [[row[name] for name in names] for row in result.history]


@pytest.mark.backends
@pytest.mark.replicas
@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "freeze_epochs": 1}])
def test_a_step_in_parts_is_the_step_of_all_its_images(run, changes):
    """Rates, order, mixing and averaged weights too; a network without norms and dropout shows it."""
    common = {"backbone": "dense-small", "head": "plain", "dropout": 0.0, "ema": 0.5, "mixup": 0.4}
    common |= {"per_replica_batch": 4} | changes
    whole, parts = run("whole", **common), run("parts", **common, accumulate=2)
    assert parts.global_batch == whole.global_batch
    names = ("loss", "accuracy", "val_loss", "learning_rate", "steps", "averaged")
    np.testing.assert_allclose(rows_of(parts, *names), rows_of(whole, *names), rtol=1e-4)
    for weights in zip(parts.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(*weights, atol=1e-5)


class Exhausted(keras.callbacks.Callback):
    """The device's memory is full in every step that gets more than so many images at a time."""

    def __init__(self, most, epoch=0):
        super().__init__()
        self.most, self.from_epoch = most, epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        size = 16 // getattr(self.model, "parts", 1)
        if size > self.most and self.epoch >= self.from_epoch:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes")


OutOfMemoryOfTensorFlow = type("ResourceExhaustedError", (Exception,), {})


def test_on_several_hosts_it_is_said_that_nothing_halves_a_step(quick_plan, monkeypatch, caplog):
    monkeypatch.setattr(trainer.hosts, "count", lambda: 2)
    monkeypatch.setattr(trainer.hosts, "check_same", lambda value, what: None)
    trainer._check_hosts(replace(quick_plan, halve_on_oom=True), {})
    assert "halve_on_oom (--halve-on-oom) has no effect on several hosts" in caplog.text


@pytest.mark.backends
@pytest.mark.replicas
def test_a_device_with_too_little_memory_gets_the_same_steps_in_parts_and_keeps_them(run, caplog):
    """From the third epoch on: two are kept, and a resume goes on in the parts."""
    caplog.set_level("INFO", "flowerkit")
    result = run(callbacks=[Exhausted(8, epoch=2)], halve_on_oom=True, epochs=3)
    assert (result.global_batch, result.plan.accumulate) == (16, 2)
    assert rows_of(result, "epoch", "steps") == [[1, 3], [2, 3], [3, 3]]
    assert "going on in 2 parts a step" in caplog.text
    assert "resuming after epoch 2" in caplog.text
    assert RunFolder(result.folder).plan().accumulate == 2
    longer = run(callbacks=[Exhausted(8)], resume=True, epochs=4)
    assert (len(longer.history), longer.plan.accumulate) == (4, 2)


@pytest.mark.backends
def test_memory_that_is_too_little_in_validation_is_met_by_parts_too(run, monkeypatch):
    predict, sizes = step.predict, []

    def predict_few(*arguments, global_batch, **options):
        sizes.append(global_batch)
        if global_batch > 8:
            raise OutOfMemoryOfTensorFlow("OOM when allocating tensor")
        return predict(*arguments, global_batch=global_batch, **options)

    monkeypatch.setattr(step, "predict", predict_few)
    result = run("run", halve_on_oom=True, epochs=1)
    assert (sizes, result.plan.accumulate) == ([16, 8], 2)


@pytest.mark.backends
def test_the_parts_that_fit_are_named_and_the_folder_stays_free(run, quick_plan):
    size = quick_plan.per_replica_batch
    message = rf"for {size} images? at a time .* accumulate=2 \(--accumulate 2\), .*--halve-on-oom"
    with pytest.raises(OutOfMemory, match=rf"{message}.*--per-replica-batch {size // 2}\)"):
        run(callbacks=[Exhausted(8)])
    assert run("run", accumulate=2, epochs=1).plan.accumulate == 2


def test_where_no_part_is_left_a_smaller_input_is_the_remedy(run, quick_plan):
    with pytest.raises(OutOfMemory, match=r"for 1 image at a time .* \(--input-size\)\.$"):
        run(callbacks=[Exhausted(0)], halve_on_oom=True, accumulate=quick_plan.per_replica_batch)


@pytest.mark.parametrize(
    ("function", "values", "hint"),
    [
        (
            train,
            {"lr": 1e-3},
            "It is a field of the plan: train(data, load_plan('fine-tune', max_lr=...))",
        ),
        (train, {"epochs": 3}, "load_plan('fine-tune', epochs=...)"),
        (train, {"output_dir": "x"}, "Did you mean 'out'?"),
        (train, {"device": "gpu"}, "The device is found by itself"),
        (fine_tune, {"lr": 1e-3}, "Did you mean 'base_lr'?"),
        (fit_one_cycle, {"epochs": 1, "lr_max": 1e-3}, "Did you mean 'max_lr'?"),
    ],
)
def test_an_argument_by_the_name_of_another_tool_leads_to_the_right_one(function, values, hint):
    with pytest.raises(TypeError, match=re.escape(hint)):
        function(None, **values)
