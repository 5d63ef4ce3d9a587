"""validation: statistics that belong to the weights, and the better of raw and averaged weights."""

import dataclasses

import keras
import numpy as np
import pytest

from flowerkit.data import load_split
from flowerkit.training.callbacks import StopFlag
from flowerkit.training.run_folder import RunFolder
from flowerkit.training.step import RunContext, TrainStep
from flowerkit.training.trainer import train
from flowerkit.training.validation import NormStatistics, Validation

pytestmark = pytest.mark.backends


def build(accelerator):
    """An inner model with a norm that is frozen, and after it a norm that learns behind dropout."""
    with accelerator.scope():
        inner = keras.Input((4,))
        frozen = keras.layers.BatchNormalization(name="frozen", trainable=False)
        body = keras.Model(inner, frozen(keras.layers.Dense(3, name="body")(inner)), name="inner")
        inputs = keras.Input((4,))
        x = keras.layers.Dropout(0.5)(body(inputs))
        x = keras.layers.BatchNormalization(name="norm")(x)
        return keras.Model(inputs, keras.layers.Dense(2)(x))


@pytest.mark.replicas
def test_statistics_are_those_of_the_present_weights_with_dropout_off(accelerator):
    model = build(accelerator)
    batches = np.random.default_rng(0).normal(1, 2, (4, 16, 4)).astype("float32")
    norm, body = model.get_layer("norm"), model.get_layer("inner").get_layer("body")
    statistics = NormStatistics(model, lambda: iter(batches))
    frozen = model.get_layer("inner").get_layer("frozen")
    assert statistics.norms == [norm]
    for factor in (1.0, 50.0):  # the network's weights jump
        body.kernel.assign(factor * keras.ops.convert_to_numpy(body.kernel))
        statistics.recompute()
        seen = batches.reshape(-1, 4) @ keras.ops.convert_to_numpy(body.kernel) / (1 + 1e-3) ** 0.5
        mean, variance = (
            keras.ops.convert_to_numpy(v) for v in (norm.moving_mean, norm.moving_variance)
        )
        np.testing.assert_allclose(mean, seen.mean(axis=0), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(variance, seen.var(axis=0), rtol=1e-3)
    assert norm.momentum == 0.99
    assert not keras.ops.convert_to_numpy(frozen.moving_mean).any()


def test_statistics_that_were_taken_are_put_back(accelerator):
    model = build(accelerator)
    statistics = NormStatistics(model, lambda: iter(np.ones((1, 16, 4), "float32")))
    before = statistics.get()
    statistics.recompute()
    assert any(
        (ours != theirs).any() for ours, theirs in zip(before, statistics.get(), strict=True)
    )
    statistics.set(before)
    for ours, theirs in zip(before, statistics.get(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.replicas
@pytest.mark.parametrize("frozen", [True, False])
def test_raw_and_averaged_weights_score_what_they_score_with_true_statistics(
    quick_plan, drawn, accelerator, frozen
):
    """The averages are what the network began with; the raw weights are ruined."""
    plan = dataclasses.replace(
        quick_plan, ema=0.9, freeze_epochs=int(frozen), epochs=int(not frozen), monitor="val_loss"
    )
    run = RunContext(drawn, plan, accelerator)
    run.build()
    run.train, run.val = (load_split(drawn, name) for name in ("train", "val"))
    with accelerator.scope():
        step = TrainStep.for_phase(run, frozen)
    optimizer = step.model.optimizer
    averages = optimizer._model_variables_moving_average
    for raw, average in zip(optimizer._trainable_variables, averages, strict=True):
        average.assign(keras.ops.convert_to_numpy(raw))
    validation = Validation(run, step, StopFlag())
    validation.set_model(step.model)
    logs = {}
    validation.on_epoch_end(0, logs)
    good = logs["val_loss"]
    kernels = [v for v in optimizer._trainable_variables if len(v.shape) > 1]
    for kernel in kernels:
        kernel.assign(100.0 * keras.ops.convert_to_numpy(kernel))
    optimizer.iterations.assign(19)  # too few to average over
    validation.on_epoch_end(1, logs)
    assert logs["averaged"] == 0.0
    assert not logs["val_loss"] < 2 * good
    optimizer.iterations.assign(20)
    validation.on_epoch_end(2, logs)
    assert logs["averaged"] == 1.0
    assert logs["val_loss"] == pytest.approx(good, rel=0.02)
    with validation.holding_better():
        again = step.predict_val().score()["val_loss"]
    assert again == pytest.approx(logs["val_loss"], rel=1e-5)


def test_the_kept_model_predicts_what_was_scored_whichever_weights_were_better(
    quick_plan, drawn, accelerator, tmp_path
):
    plan = dataclasses.replace(quick_plan, ema=0.8, epochs=3, max_lr=0.3, start_lr=0.1)
    result = train(drawn, plan, out=tmp_path / "run", accelerator=accelerator)
    best = result.history.best
    kind = "averaged" if best["averaged"] else "raw"
    assert RunFolder(result.folder).result().best_weights == kind
    val = load_split(drawn, "val")
    whole = keras.ops.convert_to_numpy(result.model(val.images, training=False))
    np.testing.assert_allclose(result.predictions.probabilities, whole, atol=1e-5)
    assert result.predictions.score()["val_f1"] == pytest.approx(best["val_f1"])


@keras.saving.register_keras_serializable("test_validation")
class Block(keras.layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.drop = keras.layers.Dropout(0.5)
        self.norm = keras.layers.BatchNormalization(name="norm")

    def call(self, inputs, training=None):
        return self.norm(self.drop(inputs, training=training), training=training)


@pytest.mark.replicas
def test_the_statistics_of_a_norm_inside_a_users_layer_are_computed_anew_too(accelerator):
    batches = np.random.default_rng(0).normal(5, 2, (3, 16, 4)).astype("float32")
    with accelerator.scope():
        block, inputs = Block(), keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(2)(keras.Sequential([block])(inputs)))
    before = np.asarray(model.predict_on_batch(batches[0]))
    statistics = NormStatistics(model, lambda: iter(batches))
    assert statistics.norms == [block.norm]
    statistics.recompute()
    found = keras.ops.convert_to_numpy(block.norm.moving_mean)
    np.testing.assert_allclose(found, batches.mean(axis=(0, 1)), rtol=1e-4)
    assert not np.allclose(before, np.asarray(model.predict_on_batch(batches[0])))
    assert "call" not in vars(block.norm)  # and it is called as before
    model(batches[0], training=False)
    np.testing.assert_array_equal(found, keras.ops.convert_to_numpy(block.norm.moving_mean))
