"""classifier: scaling, the parts put together, cutting, saving."""

import sys

import keras
import numpy as np
import pytest

from flowerkit.models import check_reload
from flowerkit.models import classifier as models

PIXELS = np.random.default_rng(7).integers(0, 256, (2, 8, 8, 3)).astype("float32")


def build(*, num_classes=5, image_size=32, backbone="tiny", **options):
    return models.build_classifier(
        num_classes, image_size=image_size, backbone=backbone, weights=None, **options
    )


# Every family: its preprocess_input is either nothing, an affine map, or one after a flip to BGR.
@pytest.mark.parametrize(
    "name", ["EfficientNetB0", "DenseNet121", "ResNet50", "ResNet50V2", "VGG16"]
)
def test_scaling_inside_equals_the_familys_preprocess_input(name):
    preprocess = sys.modules[getattr(keras.applications, name).__module__].preprocess_input
    inputs = keras.Input((8, 8, 3))
    scaled = keras.Model(inputs, keras.layers.Identity()(models._scale_pixels(inputs, preprocess)))
    np.testing.assert_allclose(
        np.asarray(scaled(PIXELS)), preprocess(PIXELS.copy()), rtol=1e-5, atol=1e-4
    )


def test_the_default_is_the_notebooks_densenet_with_its_head():
    model = models.build_classifier(104, image_size=64, weights=None)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == [
        "InputLayer",
        "Rescaling",
        "Functional",
        "BatchNormalization",
        "Dropout",
        "GlobalAveragePooling2D",
        "Dense",
    ]
    assert model.get_layer("backbone").trainable
    assert model.get_layer("head_dropout").rate == 0.2
    assert model.output_shape == (None, 104)
    assert model.get_layer("backbone").count_params() == 7_037_504


def test_input_size_resizes_inside_the_model():
    model = models.build_classifier(5, image_size=32, input_size=48, backbone="tiny", weights=None)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.get_layer("backbone").input_shape == (None, 48, 48, 3)


def test_a_classifier_that_resizes_predicts_unless_training():
    model = build(input_size=48)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")
    plain, predicted = np.asarray(model(pixels)), np.asarray(model(pixels, training=False))
    np.testing.assert_array_equal(plain, predicted)
    np.testing.assert_array_equal(plain, np.asarray(model(pixels.astype("float32"))))
    assert not np.array_equal(plain, np.asarray(model(pixels, training=True)))


def test_uint8_and_float_pixels_give_the_same_probabilities():
    model = models.build_classifier(5, image_size=8 * 4, backbone="tiny", weights=None)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")
    ours = np.asarray(model(pixels))
    np.testing.assert_array_equal(ours, np.asarray(model(pixels.astype("float32"))))
    np.testing.assert_allclose(ours.sum(axis=1), 1, rtol=1e-5)


def test_the_softmax_stays_float32_in_mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        plain, binary = (
            build(head="pooled", num_classes=2, input_size=48, binary=binary)
            for binary in (False, True)
        )
    finally:
        keras.config.set_dtype_policy(before)
    assert plain.get_layer("backbone").layers[1].compute_dtype == "bfloat16"
    assert plain.get_layer("scale_pixels").input.dtype == "float32"  # the resized pixels
    assert plain.outputs[0].dtype == binary.outputs[0].dtype == "float32"
    assert binary.get_layer("logit").compute_dtype == "float32"


def test_a_keras_file_serves_as_backbone(tmp_path):
    body = build().get_layer("backbone")
    body.save(tmp_path / "body.keras")
    model = models.build_classifier(5, image_size=32, backbone=tmp_path / "body.keras")
    np.testing.assert_array_equal(model.get_weights()[0], body.get_weights()[0])


def test_a_dense_network_sees_smaller_images_and_takes_the_plain_head_alone():
    model = build(image_size=96, backbone="dense-small", head="plain", dropout=0.4)
    assert model.input_shape == (None, 96, 96, 3)
    assert model.get_layer("backbone").input_shape == (None, 64, 64, 3)
    assert model.get_layer("backbone").get_layer("dropout1").rate == 0.4
    assert model.get_layer("head_dropout").rate == 0.4
    with pytest.raises(ValueError, match="head='notebook' takes a feature map .* head='plain'"):
        build(backbone="dense-small")


def test_dropout_has_a_default_for_each_head():
    assert build(head="concat").get_layer("head_dropout2").rate == 0.5
    assert build(head="concat", dropout=0.1).get_layer("head_dropout2").rate == 0.1
    assert build(head="pooled").get_layer("head_dropout").rate == 0.2


def test_an_unknown_head_is_refused_before_a_backbone_is_looked_for():
    with pytest.raises(ValueError, match="head must be one of notebook, pooled.*head='flat'"):
        build(backbone="nowhere.keras", head="flat")


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ("notebook", (2, 2, 256)),
        ("pooled", (256,)),
        ("plain", (256,)),
        ("concat", (512,)),
        ("flatten", (2, 2, 256)),
    ],
)
def test_body_and_head_predict_what_the_classifier_predicts(head, shape):
    model = build(head=head, input_size=32, image_size=24)
    body, top = models.split_classifier(model)
    assert body.output_shape == (None, *shape)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), "uint8")
    np.testing.assert_array_equal(np.asarray(top(body(pixels))), np.asarray(model(pixels)))


@pytest.mark.backends
def test_the_halves_share_the_classifiers_weights_saved_or_not(tmp_path):
    models.save_classifier(build(backbone="VGG16", head="concat"), tmp_path / "model.keras")
    model = models.load_model(tmp_path)
    body, top = models.split_classifier(model)
    shared = {id(one) for one in model.variables}
    assert {id(one) for one in (*body.variables, *top.variables)} == shared
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), "uint8")
    before = np.asarray(model(pixels))
    top.get_layer("probabilities").bias.assign([9, 0, 0, 0, 0])
    assert np.all(np.asarray(model(pixels))[:, 0] > before[:, 0])
    np.testing.assert_array_equal(np.asarray(top(body(pixels))), np.asarray(model(pixels)))


def test_a_binary_classifier_and_a_dense_one_are_cut_too(tmp_path):
    model = build(
        num_classes=2, image_size=80, backbone="dense-small-bn", head="plain", binary=True
    )
    body, top = models.split_classifier(model)
    assert (body.output_shape, top.output_shape) == ((None, 64), (None, 2))
    models.save_classifier(model, tmp_path / "model.keras")
    assert check_reload(model, tmp_path) < 1e-6


def test_a_model_without_a_backbone_is_not_cut():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="dense")(inputs), name="other")
    with pytest.raises(ValueError, match="'other' has no layer 'backbone' .*build_classifier"):
        models.split_classifier(model)


def test_a_damaged_model_file_says_so(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match="does not load with Keras .* damaged, or a newer Keras"):
        models.load_model(tmp_path)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model .*model.keras"):
        models.load_model(tmp_path)


def test_a_model_saved_frozen_learns_again(tmp_path):
    model = build()
    num = len(model.trainable_variables)
    model.get_layer("backbone").trainable = False
    models.save_classifier(model, tmp_path / "model.keras")
    assert len(models.load_model(tmp_path).trainable_variables) == num
