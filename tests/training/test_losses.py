"""losses: literal values of the crossentropy, and the gradient that a step follows."""

import re

import keras
import numpy as np
import pytest

from flowerkit.training.losses import WeightedCrossentropy, build_loss, class_weights_for

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25]], "float32")
CLASSES = np.array([0, 1, 1])
LABELS = np.eye(3, dtype="float32")[CLASSES]
MIXED = np.array([[0.6, 0.4, 0], [0, 1, 0], [0, 0.25, 0.75]], "float32")
WEIGHTS = (0.5, 2.0, 3.0)
SURPRISE = -np.log(PROBABILITIES)


def value(loss, labels=LABELS, probabilities=PROBABILITIES):
    return float(keras.ops.convert_to_numpy(loss(labels, probabilities)))


def test_the_plain_loss_is_the_crossentropy():
    assert value(build_loss()) == pytest.approx(-np.log([0.7, 0.3, 0.5]).mean(), rel=1e-5)


def test_smoothing_spreads_its_part_of_a_label_evenly():
    expected = (0.7 * SURPRISE[[0, 1, 2], CLASSES] + 0.1 * SURPRISE.sum(axis=1)).mean()
    assert value(build_loss(label_smoothing=0.3)) == pytest.approx(expected, rel=1e-5)


def test_an_image_counts_by_the_weight_of_its_class_and_a_mixed_one_by_those_of_its_parts():
    loss = build_loss(class_weights=WEIGHTS)
    expected = -(0.5 * np.log(0.7) + 2 * np.log(0.3) + 2 * np.log(0.5)) / 3
    assert value(loss) == pytest.approx(expected, rel=1e-5)
    assert value(loss, MIXED) == pytest.approx((MIXED * WEIGHTS * SURPRISE).sum() / 3, rel=1e-5)


def test_a_weight_counts_the_whole_of_a_smoothed_image_as_a_sample_weight_does():
    weighted = value(build_loss(class_weights=WEIGHTS, label_smoothing=0.3))
    smoothed = keras.losses.CategoricalCrossentropy(label_smoothing=0.3)
    sample_weight = np.take(WEIGHTS, CLASSES).astype("float32")
    by_keras = smoothed(LABELS, PROBABILITIES, sample_weight=sample_weight)
    assert weighted == pytest.approx(float(keras.ops.convert_to_numpy(by_keras)), rel=1e-5)


def test_the_two_columns_of_a_binary_head_have_the_binary_crossentropy():
    classes, yes = np.array([1, 0, 1]), np.array([[0.8], [0.4], [0.5]], "float32")
    columns, labels = np.hstack([1 - yes, yes]), np.eye(2, dtype="float32")[classes]
    by_keras = keras.losses.BinaryCrossentropy()(classes[:, None], yes)
    assert value(build_loss(), labels, columns) == pytest.approx(
        float(keras.ops.convert_to_numpy(by_keras)), rel=1e-5
    )


@pytest.mark.backends
@pytest.mark.parametrize("smoothing", [0.0, pytest.param(0.3, marks=pytest.mark.replicas)])
def test_a_training_step_follows_the_gradient_of_the_weighted_loss(accelerator, smoothing):
    """TensorFlow's gradient of the crossentropy is wrong for labels that do not sum to 1."""
    with accelerator.scope():
        inputs = keras.Input((1,))
        head = keras.layers.Dense(3, activation="softmax", kernel_initializer="zeros")
        model = keras.Model(inputs, head(inputs))
        loss = build_loss(class_weights=WEIGHTS, label_smoothing=smoothing)
        model.compile(keras.optimizers.SGD(0.1), loss=loss, jit_compile=False)
    classes = np.arange(16) % 3
    targets = np.eye(3)[classes] * (1 - smoothing) + smoothing / 3
    labels = np.eye(3, dtype="float32")[classes]
    model.fit(np.zeros((16, 1), "float32"), labels, batch_size=16, verbose=0)
    gradient = (np.take(WEIGHTS, classes)[:, None] * (1 / 3 - targets)).mean(axis=0)
    found = keras.ops.convert_to_numpy(model.trainable_variables[1])
    np.testing.assert_allclose(found, -0.1 * gradient, atol=1e-6)


def test_a_loss_survives_a_file():
    loss = build_loss(class_weights=WEIGHTS, label_smoothing=0.1)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is WeightedCrossentropy
    assert value(again) == value(loss)


def test_balanced_weights_make_every_class_weigh_the_same():
    classes = [0] * 6 + [1] * 3 + [2]
    weights = class_weights_for(classes, 3)
    assert weights == pytest.approx((10 / 18, 10 / 9, 10 / 3))
    assert np.take(weights, classes).mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "num_classes", "named"),
    [
        ([0, 2, 2], 4, "2 of 4 classes have no training image (class 1, 3)"),
        ([0], 104, "103 of 104 classes have no training image (class 1, 2, 3, 4, 5, ...)"),
    ],
)
def test_classes_that_cannot_be_weighed_are_named(labels, num_classes, named):
    with pytest.raises(ValueError, match=re.escape(named) + ".*--class-weights none"):
        class_weights_for(labels, num_classes)
