"""outputs: batch after batch, on JAX by programs that models of one kind share; the check of a copy."""

import warnings

import keras
import numpy as np
import pytest

from flowerkit import models
from flowerkit.accelerator import programs, wait_for_programs

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="what JAX compiles")


@pytest.fixture
def classifier(accelerator):
    """4 classes, 32 px, a tiny backbone, of another size than those of other tests."""
    with accelerator.scope():
        return models.build_classifier(
            4, image_size=32, input_size=20, backbone="tiny", weights=None, head="pooled"
        )


@pytest.fixture
def pixels():
    """(3 batches, 16 images, 32, 32, 3)"""
    return np.random.default_rng(0).integers(0, 256, (3, 16, 32, 32, 3), "uint8")


@pytest.mark.backends
@pytest.mark.replicas
def test_every_batch_gives_what_the_classifier_gives_for_it_in_order(classifier, pixels):
    models.prepare_outputs(models.find_chain(classifier), global_batch=16)
    found = list(models.stream_outputs(models.find_chain(classifier), pixels))
    for batch, rows in zip(pixels, found, strict=True):
        expected = keras.ops.convert_to_numpy(classifier(batch, training=False))
        np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.backends
def test_weights_that_change_are_seen_by_what_was_compiled(classifier, pixels):
    (before,) = models.stream_outputs(models.find_chain(classifier), pixels[:1])
    kernel, bias = classifier.get_layer("probabilities").get_weights()
    classifier.get_layer("probabilities").set_weights([kernel, bias + np.float32([9, 0, 0, 0])])
    (after,) = models.stream_outputs(models.find_chain(classifier), pixels[:1])
    assert before[:, 0].max() < 0.9 < after[:, 0].min()


@pytest.mark.backends
@on_jax
def test_a_saved_copy_and_other_layers_that_learn_compile_nothing_more(
    classifier, tmp_path, caplog, monkeypatch
):
    # Another test's model may have programs that are the same.
    monkeypatch.setattr(programs, "_compiler", programs._Compiler())
    caplog.set_level("INFO", logger="flowerkit")
    models.prepare_outputs(models.find_chain(classifier), global_batch=16)
    wait_for_programs()
    assert " body " in caplog.text
    assert " head " in caplog.text
    caplog.clear()
    models.save_classifier(classifier, tmp_path / "copy.keras")
    models.freeze_backbone(classifier)
    assert models.check_reload(classifier, tmp_path / "copy.keras", batch=16) == 0
    wait_for_programs()
    assert not [line for line in caplog.messages if line.startswith("compiled")]


@pytest.mark.backends
@on_jax
def test_what_a_model_is_compiled_to_does_not_keep_it(accelerator, pixels):
    import gc
    import weakref

    with accelerator.scope():
        model = models.build_classifier(
            4, image_size=32, input_size=20, backbone="tiny", weights=None, head="plain"
        )
    list(models.stream_outputs(models.find_chain(model), pixels))
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


@pytest.mark.backends
def test_a_saved_classifier_predicts_the_same(tmp_path):
    model = models.build_classifier(5, image_size=32, backbone="VGG16", weights=None)
    models.save_classifier(model, tmp_path / "model.keras")
    with warnings.catch_warnings(action="error", category=UserWarning):
        assert models.check_reload(model, tmp_path) < 1e-6


def test_a_saved_copy_with_other_probabilities_is_reported(classifier, tmp_path):
    models.save_classifier(classifier, tmp_path / "model.keras")
    classifier.layers[-1].bias.assign([9, 0, 0, 0])
    with pytest.raises(RuntimeError, match="different probabilities, by up to"):
        models.check_reload(classifier, tmp_path)
