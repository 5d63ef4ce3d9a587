"""step: what a batch is, a head on features as on images, how often anything compiles."""

import dataclasses
import logging

import keras
import numpy as np
import pytest

from flowerkit.data import load_split
from flowerkit.prediction.predictions import predict
from flowerkit.training.phases import plan_phases
from flowerkit.training.run_folder import RunFolder
from flowerkit.training.step import RunContext, TrainStep, build_model
from flowerkit.training.trainer import train

pytestmark = pytest.mark.backends

HEAD = {"epochs": 0, "freeze_epochs": 3, "freeze_lr": 1e-2, "schedule": "constant", "flip": False}


@pytest.fixture
def run(quick_plan, drawn, accelerator, tmp_path):
    """Train the head alone with changes of the plan: run(name, **changes)."""

    def train_plan(name="run", **changes):
        plan = dataclasses.replace(quick_plan, **(HEAD | changes))
        return train(plan, drawn, out=tmp_path / name, accelerator=accelerator)

    return train_plan


@pytest.mark.parametrize("head", [pytest.param("notebook", marks=pytest.mark.replicas), "pooled"])
def test_a_head_learns_on_features_what_it_learns_on_images(run, drawn, head):
    on_images, on_features = (
        run(str(views), feature_views=views, head=head, dropout=0.3) for views in (0, 1)
    )
    for row, other in zip(on_images.history, on_features.history, strict=True):
        for name in ("loss", "val_loss", "val_f1", "learning_rate", "planned_lr"):
            assert row[name] == pytest.approx(other[name], rel=1e-4), name
    # The file predicts what was recorded from features.
    model, val = RunFolder(on_features.folder).model(), load_split(drawn, "val")
    whole = keras.ops.convert_to_numpy(model(val.images, training=False))
    np.testing.assert_allclose(on_features.predictions.probabilities, whole, atol=1e-5)


def test_the_network_continues_where_the_head_has_ended(run):
    on_images, on_features = (
        run(str(views), feature_views=views, epochs=2, freeze_epochs=2) for views in (0, 1)
    )
    assert [row["phase"] for row in on_features.history] == [1, 1, 2, 2]
    for row, other in zip(on_images.history, on_features.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_epochs_take_the_views_in_turn_in_the_order_of_the_images(quick_plan, drawn, accelerator):
    plan = dataclasses.replace(
        quick_plan, **HEAD | {"flip": True, "head": "plain", "min_crop_area": 0.5}
    )
    classifier, split = build_model(plan, drawn, accelerator), load_split(drawn, "train")
    run = RunContext(plan, accelerator, classifier, split, None, global_batch=16, num_steps=3)
    batches = []
    for views in (0, 2):
        (phase,) = plan_phases(
            dataclasses.replace(plan, feature_views=views), global_batch=run.global_batch
        )
        with accelerator.scope():
            step = TrainStep.for_phase(run, phase)
        batches.append(step.batches(first_epoch=0).take(9).as_numpy_iterator())
    views = run.compute_features(split, views=2, name="train").arrays
    for number, (on_images, on_features) in enumerate(zip(*batches, strict=True)):
        (_, labels), (features, same_labels) = on_images, on_features
        np.testing.assert_array_equal(labels, same_labels)
        view = views[(number // 3) % 2]
        assert all((view == row).all(axis=1).any() for row in features)


def test_every_choice_works_on_features(run):
    """Averaged weights, smoothing, weights for classes, a cycle per step, decay, views."""
    result = run(
        ema=0.9,
        label_smoothing=0.1,
        class_weights="balanced",
        schedule="one-cycle",
        optimizer="adamw",
        weight_decay=0.01,
        flip=True,
        mixup=0.2,
        feature_views=2,
        head="concat",
        backbone_lr_factor=0.1,
    )
    for row in result.history:
        assert np.isfinite(row["val_loss"])
        assert row["learning_rate"] == pytest.approx(row["planned_lr"], rel=1e-5)


@pytest.fixture
def compilations(monkeypatch, accelerator, caplog):
    """Call it for how often each phase has been compiled: {"train": n, "predict": n}."""
    if accelerator.backend == "jax":
        import jax

        caplog.set_level(logging.DEBUG, logger="jax")
        jax.config.update("jax_log_compiles", True)

        def count_compiled():
            finished = [text for text in caplog.messages if "Finished XLA compilation" in text]
            return {
                phase: sum(f"{phase}_step" in text for text in finished)
                for phase in ("train", "predict")
            }

        yield count_compiled
        jax.config.update("jax_log_compiles", False)
        return
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

    yield count_traced


@pytest.mark.replicas
def test_training_and_predicting_compile_once_each(
    quick_plan, drawn, accelerator, tmp_path, compilations
):
    result = train(quick_plan, drawn, out=tmp_path / "run", accelerator=accelerator)
    predict(result.model, load_split(drawn, "test"), global_batch=result.global_batch)
    assert compilations() == {"train": 1, "predict": 1}
    assert np.isfinite(result.summary.first_step_seconds)
