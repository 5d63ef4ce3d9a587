"""models: scaling, heads, weights, saving."""

import warnings

import keras
import numpy as np
import pytest

from flowerkit import models

PIXELS = np.random.default_rng(7).integers(0, 256, (2, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("family", models.FAMILIES)
def test_scaling_inside_equals_the_familys_preprocess_input(family):
    preprocess = getattr(keras.applications, family).preprocess_input
    inputs = keras.Input((8, 8, 3))
    scaled = keras.Model(inputs, keras.layers.Identity()(models._scale_pixels(inputs, preprocess)))
    np.testing.assert_allclose(
        np.asarray(scaled(PIXELS)), preprocess(PIXELS.copy()), rtol=1e-5, atol=1e-4
    )


def test_every_applications_backbone_is_listed():
    backbones = models.list_backbones()
    builders = {
        name
        for name in dir(keras.applications)
        if name[0].isupper() and callable(getattr(keras.applications, name))
    }
    assert set(backbones) == builders
    assert backbones["DenseNet121"] == "densenet"
    assert backbones["ResNet50V2"] == "resnet_v2"
    assert backbones["MobileNetV3Small"] == "mobilenet_v3"


def test_the_default_is_the_notebooks_densenet_with_its_head():
    model = models.build_classifier(104, image_size=64, weights=None)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == [
        "InputLayer", "Rescaling", "Functional", "BatchNormalization", "Dropout",
        "GlobalAveragePooling2D", "Dense",
    ]  # fmt: skip
    assert model.get_layer("backbone").trainable
    assert model.get_layer("head_dropout").rate == 0.2
    assert model.output_shape == (None, 104)
    assert model.get_layer("backbone").count_params() == 7_037_504


def test_the_pooled_head_pools_first():
    model = models.build_classifier(5, image_size=32, backbone="tiny", weights=None, head="pooled")
    assert [type(layer).__name__ for layer in model.layers[-4:]] == [
        "GlobalAveragePooling2D", "BatchNormalization", "Dropout", "Dense",
    ]  # fmt: skip


def test_input_size_resizes_inside_the_model():
    model = models.build_classifier(5, image_size=32, input_size=48, backbone="tiny", weights=None)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.get_layer("backbone").input_shape == (None, 48, 48, 3)


def test_uint8_and_float_pixels_give_the_same_probabilities():
    model = models.build_classifier(5, image_size=8 * 4, backbone="tiny", weights=None)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")
    ours = np.asarray(model(pixels))
    np.testing.assert_array_equal(ours, np.asarray(model(pixels.astype("float32"))))
    np.testing.assert_allclose(ours.sum(axis=1), 1, rtol=1e-5)


def test_a_keras_file_serves_as_backbone_with_its_weights_or_fresh_ones(tmp_path):
    body = models._build_tiny((32, 32, 3))
    body.save(tmp_path / "body.keras")
    options = {"image_size": 32, "backbone": str(tmp_path / "body.keras")}
    kept = models.build_classifier(5, **options).get_layer("backbone")
    fresh = models.build_classifier(5, weights=None, **options).get_layer("backbone")
    np.testing.assert_array_equal(kept.get_weights()[0], body.get_weights()[0])
    assert not np.array_equal(fresh.get_weights()[0], body.get_weights()[0])


def test_a_keras_file_follows_the_present_precision_and_the_softmax_stays_float32(tmp_path):
    models._build_tiny((32, 32, 3)).save(tmp_path / "body.keras")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.build_classifier(5, image_size=32, backbone=str(tmp_path / "body.keras"))
    finally:
        keras.config.set_dtype_policy(before)
    body = model.get_layer("backbone")
    assert body.layers[1].compute_dtype == "bfloat16"
    assert model.layers[-1].compute_dtype == "float32"


def test_weights_come_from_a_file(tmp_path):
    body = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    body.save_weights(tmp_path / "body.weights.h5")
    model = models.build_classifier(
        5, image_size=32, backbone="mobilenetv3small", weights=tmp_path / "body.weights.h5"
    )
    loaded = model.get_layer("backbone").get_weights()
    np.testing.assert_array_equal(loaded[0], body.get_weights()[0])


def test_an_unknown_backbone_names_the_nearest():
    with pytest.raises(ValueError, match=r"'DenseNet12' is neither .* Did you mean 'DenseNet121'"):
        models.build_classifier(5, image_size=32, backbone="DenseNet12", weights=None)


def test_an_unknown_head_lists_the_heads():
    with pytest.raises(ValueError, match="head must be one of notebook, pooled.*head='flat'"):
        models.build_classifier(5, image_size=32, backbone="tiny", weights=None, head="flat")


def test_tiny_has_no_imagenet_weights():
    with pytest.raises(ValueError, match="tiny backbone has no pretrained weights"):
        models.build_classifier(5, image_size=32, backbone="tiny")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no backbone file .*none.keras"):
        models.build_classifier(5, image_size=32, backbone=str(tmp_path / "none.keras"))
    with pytest.raises(FileNotFoundError, match="no weights file .*none.h5"):
        models.build_classifier(5, image_size=32, weights=tmp_path / "none.h5")
    with pytest.raises(FileNotFoundError, match="no model .*model.keras"):
        models.load_classifier(tmp_path)


def test_a_backbone_file_that_ends_in_a_vector_is_refused(tmp_path):
    model = models.build_classifier(5, image_size=32, backbone="tiny", weights=None)
    model.save(tmp_path / "whole.keras")
    with pytest.raises(
        ValueError, match=r"ends in shape \(None, 5\); a backbone ends in a feature"
    ):
        models.build_classifier(5, image_size=32, backbone=str(tmp_path / "whole.keras"))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network for Keras's own download, and an empty cache of its own."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    # A proxy nobody listens at: Keras's own download fails for real, and no packet leaves.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


def test_imagenet_weights_offline_name_the_cache_the_file_and_two_remedies(tmp_path, offline):
    name = "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with pytest.raises(RuntimeError, match=rf"{tmp_path}/models/{name} is missing.*put that file"):
        models.build_classifier(5, image_size=64)


def test_imagenet_weights_offline_come_from_what_is_attached(tmp_path, offline, monkeypatch):
    body = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    attached = tmp_path / "input" / "my-weights"
    attached.mkdir(parents=True)
    body.save(attached / "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5")
    monkeypatch.setattr(models, "KAGGLE", tmp_path)
    model = models.build_classifier(5, image_size=32, backbone="MobileNetV3Small")
    for loaded, saved in zip(
        model.get_layer("backbone").get_weights(), body.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(loaded, saved)


def test_a_saved_classifier_predicts_the_same(tmp_path):
    model = models.build_classifier(5, image_size=32, backbone="VGG16", weights=None)
    models.save_classifier(model, tmp_path / "model.keras")
    with warnings.catch_warnings(action="error", category=UserWarning):
        assert models.check_reload(model, tmp_path) < 1e-6


def test_a_copy_that_predicts_otherwise_is_reported(tmp_path):
    one, other = (
        models.build_classifier(5, image_size=32, backbone="tiny", weights=None) for _ in range(2)
    )
    other.layers[-1].set_weights([3 * w + 1 for w in reversed_weights(other.layers[-1])])
    models.save_classifier(other, tmp_path / "model.keras")
    with pytest.raises(RuntimeError, match="probabilities differ by"):
        models.check_reload(one, tmp_path)


def reversed_weights(layer):
    return [weight[..., ::-1] for weight in layer.get_weights()]


def test_a_damaged_model_file_says_so(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match="does not load with Keras .* damaged, or a newer Keras"):
        models.load_classifier(tmp_path)
