"""cam: networks made by hand, whose output depends on a square at a known place."""

import keras
import numpy as np
import pytest
from PIL import Image

from flowerkit.models.cam import compute_cam, split_at_map
from flowerkit.models.classifier import build_classifier
from flowerkit.models.heads import add_head

RED, BLUE = np.s_[4:12, 20:28], np.s_[20:28, 4:12]  # (rows, columns) of a square of its colour
HEADS = ["notebook", "pooled", "plain", "concat", "flatten"]


def build_backbone(side=4):
    """How red and how blue each square of 4 px is: (8, 8, 2) for 32 px."""
    pixels = keras.Input((32, 32, 3))
    layer = keras.layers.Conv2D(2, side, strides=side, use_bias=False)
    model = keras.Model(pixels, layer(pixels), name="backbone")
    kernel = np.zeros((side, side, 3, 2), "float32")
    kernel[..., 0, 0] = kernel[..., 2, 1] = 1 / (255 * side**2)
    layer.set_weights([kernel])
    return model


def build(head, *, binary=False, backbone=None):
    """Class 0 is red and class 1 is blue; of three, the third is neither."""
    pixels = keras.Input((32, 32, 3), name="pixels")
    num_classes = 2 if binary else 3
    features = (backbone or build_backbone())(pixels)
    probabilities = add_head(features, num_classes, head, dropout=0.2, binary=binary)
    model = keras.Model(pixels, probabilities, name="by_hand")
    weights = {layer.name: layer for layer in model.layers if layer.weights}
    if "head_dense" in weights:
        dense = weights["head_dense"]
        kernel = np.zeros(dense.kernel.shape, "float32")
        kernel[0::2, 0] = kernel[1::2, 1] = 1
        dense.set_weights([kernel, *dense.get_weights()[1:]])
    last = weights["logit" if binary else "probabilities"]
    kernel = np.zeros(last.kernel.shape, "float32")
    kernel[:2] = [[-10], [10]] if binary else [[10, 0, 0], [0, 10, 0]]
    last.set_weights([kernel, last.bias])
    return model


@pytest.fixture(scope="module")
def images():
    """The first is redder, the second bluer; both have both squares."""
    both = np.full((2, 32, 32, 3), 10, "uint8")
    for image, red, blue in zip(both, (250, 200), (200, 250), strict=True):
        image[RED], image[BLUE] = (red, 0, 0), (0, 0, blue)
    return both


def peak_is_inside(found, square):
    row, col = np.unravel_index(found.argmax(), found.shape)
    return row in range(32)[square[0]] and col in range(32)[square[1]]


@pytest.mark.backends
@pytest.mark.parametrize("head", HEADS)
def test_the_map_of_a_class_is_highest_where_the_class_is(head, images):
    model = build(head)
    assert model.predict(images, verbose=0).argmax(axis=1).tolist() == [0, 1]
    predicted = compute_cam(model, images)
    assert (predicted.shape, predicted.dtype) == ((2, 32, 32), np.float32)
    assert predicted.min() >= 0
    np.testing.assert_allclose(predicted.max(axis=(1, 2)), 1)
    assert [peak_is_inside(*one) for one in zip(predicted, (RED, BLUE), strict=True)] == [True] * 2
    for found, there, elsewhere in zip(predicted, (RED, BLUE), (BLUE, RED), strict=True):
        assert found[there].mean() > 0.6
        assert found[elsewhere].max() < 0.1
    asked = compute_cam(model, images, np.array([1, 0]))
    assert [peak_is_inside(*one) for one in zip(asked, (BLUE, RED), strict=True)] == [True] * 2


@pytest.mark.backends
@pytest.mark.replicas
def test_a_model_that_trains_on_several_devices_has_its_maps_too(accelerator, images):
    with accelerator.scope():
        model = build("pooled")
    found = compute_cam(model, images)  # fewer images than devices
    assert [peak_is_inside(*one) for one in zip(found, (RED, BLUE), strict=True)] == [True] * 2


def test_two_classes_with_one_logit_have_a_map_each(images):
    model = build("plain", binary=True)
    found = compute_cam(model, images[:1].repeat(2, axis=0), np.array([0, 1]))
    assert [peak_is_inside(*one) for one in zip(found, (RED, BLUE), strict=True)] == [True] * 2


@pytest.mark.backends
def test_before_average_pooling_it_is_the_class_activation_map(images):
    """Zhou et al. 2016: the features of a place times the weights of the class."""
    model = build("plain")
    model.layers[-1].set_weights([np.array([[3.0, 1, -1], [-1, 2, 1]]), np.array([5.0, -2, 0])])
    features = np.asarray(keras.ops.convert_to_numpy(build_backbone()(images)))
    coarse = np.maximum(features @ np.array([2.0, -5 / 3], "float32"), 0)  # less the mean weight
    expected = [Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC) for one in coarse]
    expected = np.maximum(np.stack([np.asarray(one) for one in expected]), 0)
    expected /= expected.max(axis=(1, 2), keepdims=True)
    found = compute_cam(model, images, np.array([0, 0]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_class_that_nothing_speaks_for_has_an_empty_map(images):
    model = build("plain")
    model.layers[-1].set_weights([np.array([[9.0, 9, -9], [9, 9, -9]]), np.zeros(3)])
    assert compute_cam(model, images[:1], np.array([2])).max() == 0


def test_a_certain_prediction_has_a_map(images):
    """Its probability is 1 in float32, but those of the others still differ."""
    model = build("plain")
    model.layers[-1].set_weights([np.array([[4e3, 0, 2e3], [0, 4e3, 2e3]]), np.zeros(3)])
    assert model.predict(images, verbose=0)[0, 0] == 1
    found = compute_cam(model, images[:1])[0]
    assert found.max() == 1
    assert peak_is_inside(found, RED)


def test_batches_change_nothing(images):
    model = build("plain")
    many = np.concatenate([images, images, images[:1]])
    found = compute_cam(model, many, batch_size=2)
    np.testing.assert_allclose(found, compute_cam(model, many), atol=1e-6)


@pytest.mark.backends
def test_the_parts_together_are_the_classifier(images):
    model = build_classifier(
        4, image_size=32, backbone="tiny", weights=None, head="notebook", input_size=64
    )
    body, head = split_at_map(model)
    assert len(body.output_shape) == 4
    whole, parts = model(images), head(body(images))
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (whole, parts)), atol=1e-6)
    assert compute_cam(model, images).shape == (2, 32, 32)


def test_a_network_without_places_is_refused():
    dense = build_classifier(3, image_size=32, backbone="dense-small", weights=None, head="plain")
    with pytest.raises(ValueError, match="has no feature map: .* Choose a convolutional backbone"):
        split_at_map(dense)
    single = build("plain", backbone=build_backbone(side=32))
    with pytest.raises(ValueError, match="'by_hand' is 1 x 1.*--input-size"):
        split_at_map(single)


@pytest.mark.parametrize(
    ("num_images", "classes", "message"),
    [
        (0, None, r"takes images \(n, 32, 32, 3\), n at least 1. Received: shape \(0, 32, 32, 3\)"),
        (2, [0], r"classes must be 2 integers in 0..2. Received: \[0\]"),
        (2, [0, 3], r"integers in 0..2. Received: \[0, 3\]"),
        (2, [-1, 2], r"integers in 0..2. Received: \[-1, 2\]"),
    ],
)
def test_images_and_classes_that_do_not_fit_are_refused(images, num_images, classes, message):
    with pytest.raises(ValueError, match=message):
        compute_cam(build("plain"), images[:num_images], classes)
