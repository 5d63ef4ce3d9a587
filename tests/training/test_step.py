"""step: what a batch is, a head on features as on images, how often anything compiles."""

import dataclasses
import logging
import re

import keras
import numpy as np
import pytest

from flowerkit.accelerator import programs
from flowerkit.data import load_split
from flowerkit.models import freeze_backbone
from flowerkit.pipeline import epoch_permutation
from flowerkit.prediction.predictions import predict
from flowerkit.training.run_folder import RunFolder
from flowerkit.training.step import build_model
from flowerkit.training.trainer import train

HEAD = {"epochs": 0, "freeze_epochs": 3, "freeze_lr": 1e-2, "schedule": "constant"}


@pytest.fixture
def run(quick_plan, drawn, accelerator, tmp_path):
    """Train the head alone with changes of the plan: run(name, **changes)."""

    def train_plan(name="run", callbacks=(), **changes):
        plan = dataclasses.replace(quick_plan, **(HEAD | changes))
        out = tmp_path / name
        return train(drawn, plan, out=out, accelerator=accelerator, callbacks=callbacks)

    return train_plan


@pytest.mark.backends
@pytest.mark.parametrize(
    ("head", "flips"),
    [pytest.param("notebook", True, marks=pytest.mark.replicas), ("pooled", False)],
)
def test_a_head_learns_on_features_what_it_learns_on_images(
    run, quick_plan, drawn, accelerator, head, flips
):
    """The reference: Keras's own fit of the whole classifier, its backbone frozen, on the images; with
    `freeze_flip` each is mirrored in every other epoch."""
    plan = {"head": head, "dropout": 0.0, "freeze_epochs": 3, "freeze_flip": flips}
    on_features = run(**plan)
    classifier = build_model(dataclasses.replace(quick_plan, **plan), drawn, accelerator)
    train_split, val = load_split(drawn, "train"), load_split(drawn, "val")
    with accelerator.scope():
        freeze_backbone(classifier)
        classifier.compile(
            keras.optimizers.Adam(1e-2), "categorical_crossentropy", jit_compile=False
        )
    reference = []
    for epoch in range(3):
        rows = epoch_permutation(len(train_split), seed=0, epoch=epoch)[:48]
        pixels, labels = train_split.images[:][rows], np.eye(4)[train_split.labels[rows]]
        mirrored = ((rows + epoch) % 2 == 1) & flips
        pixels[mirrored] = pixels[mirrored][:, :, ::-1]
        fitted = classifier.fit(pixels, labels, batch_size=16, verbose=0, shuffle=False)
        reference += fitted.history["loss"]
    losses = [row["loss"] for row in on_features.history]
    assert losses == pytest.approx(reference, rel=1e-4)
    # The file predicts what was recorded from features.
    whole = RunFolder(on_features.folder).model()(val.images, training=False)
    recorded = on_features.predictions.probabilities
    np.testing.assert_allclose(recorded, keras.ops.convert_to_numpy(whole), atol=1e-5)


@pytest.mark.backends
def test_the_network_starts_from_the_best_head_not_from_the_last(run):
    class SpoilTheLast(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:  # of the head
                probabilities = self.model.get_layer("head").get_layer("probabilities")
                kernel, bias = probabilities.get_weights()
                probabilities.set_weights([-10 * kernel, bias])

    result = run(
        epochs=1,
        freeze_epochs=4,
        max_lr=1e-9,
        freeze_norms=True,
        monitor="val_loss",
        callbacks=[SpoilTheLast()],
    )
    assert [row["phase"] for row in result.history] == [1, 1, 1, 1, 2]
    head = result.history.of_phase(1)
    assert head.best["epoch"] < 4
    assert head.last["val_loss"] > 2 * head.best["val_loss"]
    assert result.history[4]["val_loss"] == pytest.approx(head.best["val_loss"], rel=0.05)


@pytest.mark.parametrize("input_size", [24, 48])
def test_images_are_augmented_straight_to_the_size_that_the_backbone_sees(run, input_size):
    result = run(epochs=1, freeze_epochs=0, input_size=input_size, min_crop_area=0.5, mixup=0.2)
    assert result.model.input_shape[1] == 32  # the kept model resizes by itself
    assert result.model.get_layer("backbone").input_shape[1] == input_size
    assert np.isfinite(result.history[0]["loss"])


def test_every_choice_works_on_features(run):
    """Averaged weights, smoothing, weights for classes, a cycle per step, decay."""
    result = run(
        ema=0.9,
        label_smoothing=0.1,
        class_weights="balanced",
        schedule="one-cycle",
        optimizer="adamw",
        weight_decay=0.01,
        mixup=0.2,
        head="concat",
        backbone_lr_factor=0.1,
    )
    for row in result.history:
        assert np.isfinite(row["val_loss"])
        assert row["learning_rate"] == pytest.approx(row["planned_lr"], rel=1e-5)


@pytest.fixture
def compiled(caplog, monkeypatch):
    """Call it for what JAX has compiled of models since then, by the names of the programs."""
    import jax

    # Another test's model may have programs that are the same.
    monkeypatch.setattr(programs, "_compiler", programs._Compiler())
    caplog.set_level(logging.DEBUG, logger="jax")
    jax.config.update("jax_log_compiles", True)

    def list_compiled():
        found = re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
        return sorted(name for name in found if name in ("body", "head", "train_step"))

    yield list_compiled
    jax.config.update("jax_log_compiles", False)


on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="what JAX compiles")
PROGRAMS = ["body", "head", "train_step", "train_step"]


@pytest.mark.backends
@pytest.mark.replicas
@on_jax
def test_two_phases_predictions_and_the_check_of_the_file_compile_four_programs(
    quick_plan, drawn, accelerator, tmp_path, compiled, caplog
):
    """The body serves the features and the predictions, the head those of both phases."""
    caplog.set_level(logging.INFO, logger="flowerkit")
    plan = {"freeze_epochs": 1, "freeze_norms": True, "head": "plain", "input_size": 24}
    plan = dataclasses.replace(quick_plan, **plan)
    result = train(drawn, plan, out=tmp_path / "run", accelerator=accelerator)
    predict(result.model, load_split(drawn, "test"), global_batch=result.global_batch)
    assert [row["phase"] for row in result.history] == [1, 2, 2]
    assert compiled() == PROGRAMS
    lines = [line for line in caplog.messages if line.startswith("compiled: ")]
    for part in ("body", "head", "the head's step", "the network's step"):
        assert sum(f" {part} " in line for line in lines) == 1
    assert result.summary.first_step_seconds > 0


@pytest.mark.backends
@on_jax
@pytest.mark.parametrize(
    ("more", "others"),
    [
        # What recomputes the statistics of learning norms.
        ({"head": "pooled"}, ["body", "head"]),
        # Class weights are constants of the steps, and need the labels.
        ({"head": "plain", "freeze_norms": True, "class_weights": "balanced"}, []),
    ],
)
def test_all_is_begun_before_training_but_what_needs_the_labels(
    run, compiled, monkeypatch, more, others
):
    begun, begin = [], programs._compiler.begin
    monkeypatch.setattr(
        programs._compiler, "begin", lambda *args: begun.append(begin(*args)) or begun[-1]
    )

    class Count(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.at_first = getattr(self, "at_first", len(set(begun)))

    count = Count()
    run(epochs=1, max_lr=1e-3, freeze_epochs=1, input_size=20, callbacks=[count], **more)
    assert compiled() == sorted(PROGRAMS + others)
    assert count.at_first == len(set(begun)) - ("class_weights" in more)  # the network's step


@pytest.fixture
def compilations(monkeypatch):
    """Call it for how often TensorFlow has traced each phase: {"train": n, "predict": n}."""
    import tensorflow as tf

    make, made = tf.function, []

    def remember(function=None, **options):
        made.append((function, make(function, **options)))
        return made[-1][1]

    monkeypatch.setattr(tf, "function", remember)

    def count_traced():
        counts = {"train": 0, "predict": 0}
        for function, traced in made:
            if getattr(function, "__name__", "").startswith("one_step_on_data"):
                is_train = "_make_function" in function.__qualname__
                counts["train" if is_train else "predict"] += (
                    traced.experimental_get_tracing_count()
                )
        return counts

    return count_traced


@pytest.mark.replicas
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="what TensorFlow traces")
def test_training_predicting_and_statistics_compile_once_each(
    quick_plan, drawn, accelerator, tmp_path, compilations
):
    result = train(drawn, quick_plan, out=tmp_path / "run", accelerator=accelerator)
    predict(result.model, load_split(drawn, "test"), global_batch=result.global_batch)
    assert compilations() == {"train": 1, "predict": 2}  # and the statistics
    assert np.isfinite(result.summary.first_step_seconds)
