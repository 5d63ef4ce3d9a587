import re

import keras
import numpy as np
import pytest

from flowerkit.training.losses import (
    WeightedCrossentropy,
    build_loss,
    build_metrics,
    class_weights_for,
)

pytestmark = pytest.mark.backends

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25]], "float32")
LABELS = np.array([0, 1, 1])
ONE_HOT = np.eye(3, dtype="float32")[LABELS]
MIXED = np.array([[0.6, 0.4, 0], [0, 1, 0], [0, 0.25, 0.75]], "float32")
WEIGHTS = (0.5, 2.0, 3.0)
SURPRISE = -np.log(PROBABILITIES)


def value(loss, labels, probabilities=PROBABILITIES):
    return float(keras.ops.convert_to_numpy(loss(labels, probabilities)))


def both_kinds(**options):
    """The loss of the same labels as integers, as a column of them, and one-hot."""
    sparse, one_hot = (build_loss(3, one_hot=kind, **options) for kind in (False, True))
    return [value(sparse, LABELS), value(sparse, LABELS[:, None]), value(one_hot, ONE_HOT)]


def test_the_plain_loss_is_kerass_own_from_either_kind_of_label():
    assert both_kinds() == pytest.approx([-np.log([0.7, 0.3, 0.5]).mean()] * 3, rel=1e-5)
    assert type(build_loss(3)) is keras.losses.SparseCategoricalCrossentropy
    assert type(build_loss(3, one_hot=True)) is keras.losses.CategoricalCrossentropy


def test_smoothing_spreads_its_part_of_a_label_evenly():
    expected = (0.7 * SURPRISE[[0, 1, 2], LABELS] + 0.1 * SURPRISE.sum(axis=1)).mean()
    assert both_kinds(label_smoothing=0.3) == pytest.approx([expected] * 3, rel=1e-5)


def test_an_image_counts_by_the_weight_of_its_class():
    expected = -(0.5 * np.log(0.7) + 2 * np.log(0.3) + 2 * np.log(0.5)) / 3
    assert both_kinds(class_weights=WEIGHTS) == pytest.approx([expected] * 3, rel=1e-5)


def test_each_part_of_a_mixed_image_counts_by_the_weight_of_its_own_class():
    loss = build_loss(3, class_weights=WEIGHTS, one_hot=True)
    assert value(loss, MIXED) == pytest.approx((MIXED * WEIGHTS * SURPRISE).sum() / 3, rel=1e-5)


def test_a_weight_counts_the_whole_of_a_smoothed_image_as_a_sample_weight_does():
    weighted = both_kinds(class_weights=WEIGHTS, label_smoothing=0.3)
    smoothed = keras.losses.CategoricalCrossentropy(label_smoothing=0.3)
    sample_weight = np.take(WEIGHTS, LABELS).astype("float32")
    by_keras = smoothed(ONE_HOT, PROBABILITIES, sample_weight=sample_weight)
    assert weighted == pytest.approx([float(keras.ops.convert_to_numpy(by_keras))] * 3, rel=1e-5)


def test_the_focal_loss_takes_from_what_is_known_and_has_no_hidden_quarter():
    surprise = -np.log([0.7, 0.3, 0.5])
    expected = (np.array([0.3, 0.7, 0.5]) ** 2 * surprise).mean()
    assert both_kinds(focal_gamma=2) == pytest.approx([expected] * 3, rel=1e-5)
    assert both_kinds(focal_gamma=0) == pytest.approx([surprise.mean()] * 3, rel=1e-5)


def test_focal_weights_and_smoothing_go_together():
    labels = 0.7 * ONE_HOT + 0.1
    terms = (labels * (1 - PROBABILITIES) ** 2 * SURPRISE).sum(axis=1)
    expected = (terms * np.take(WEIGHTS, LABELS)).mean()
    found = both_kinds(focal_gamma=2, class_weights=WEIGHTS, label_smoothing=0.3)
    assert found == pytest.approx([expected] * 3, rel=1e-5)


def test_the_two_columns_of_a_binary_head_have_the_binary_crossentropy():
    labels, yes = np.array([1, 0, 1]), np.array([[0.8], [0.4], [0.5]], "float32")
    columns, right = np.hstack([1 - yes, yes]), np.array([0.8, 0.6, 0.5])
    by_keras = keras.losses.BinaryCrossentropy()(labels[:, None], yes)
    assert value(build_loss(2), labels, columns) == pytest.approx(
        float(keras.ops.convert_to_numpy(by_keras)), rel=1e-5
    )
    weighted = value(build_loss(2, class_weights=(3, 0.5)), labels, columns)
    assert weighted == pytest.approx(-(np.log(right) * [0.5, 3, 0.5]).mean(), rel=1e-5)
    smooth = value(build_loss(2, label_smoothing=0.2), labels, columns)
    expected = -(0.9 * np.log(right) + 0.1 * np.log(1 - right)).mean()
    assert smooth == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("one_hot", "smoothing"),
    [(False, 0.0), pytest.param(False, 0.3, marks=pytest.mark.replicas), (True, 0.0), (True, 0.3)],
)
def test_a_training_step_follows_the_gradient_of_the_weighted_loss(accelerator, one_hot, smoothing):
    """TensorFlow's gradient of the crossentropy is wrong for labels that do not sum to 1."""
    with accelerator.scope():
        inputs = keras.Input((1,))
        head = keras.layers.Dense(3, activation="softmax", kernel_initializer="zeros")
        model = keras.Model(inputs, head(inputs))
        loss = build_loss(3, class_weights=WEIGHTS, label_smoothing=smoothing, one_hot=one_hot)
        metrics = build_metrics(one_hot=one_hot)
        model.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=metrics, jit_compile=False)
    labels = np.arange(16) % 3
    targets = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    given = np.eye(3, dtype="float32")[labels] if one_hot else labels
    model.fit(np.zeros((16, 1), "float32"), given, batch_size=16, verbose=0)
    gradient = (np.take(WEIGHTS, labels)[:, None] * (1 / 3 - targets)).mean(axis=0)
    found = keras.ops.convert_to_numpy(model.trainable_variables[1])
    np.testing.assert_allclose(found, -0.1 * gradient, atol=1e-6)


def test_a_loss_goes_into_a_file_and_comes_back():
    loss = build_loss(3, class_weights=WEIGHTS, focal_gamma=1.5, label_smoothing=0.1)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is WeightedCrossentropy
    assert value(again, LABELS) == value(loss, LABELS)


@pytest.mark.parametrize(
    ("num_classes", "options", "message"),
    [
        (1, {}, "num_classes is 1; there must be 2 to tell apart."),
        (3, {"label_smoothing": 1.0}, "label_smoothing is 1; it must be 0 or more, below 1."),
        (3, {"focal_gamma": -1}, "focal_gamma is -1; it must be 0 or more. None: off."),
        (3, {"class_weights": (1, 2)}, "2 class weights for 3 classes."),
        (3, {"class_weights": (1, 0, 2)}, "the weight of class 1 is 0; it must be above 0."),
    ],
)
def test_what_makes_no_loss_is_refused(num_classes, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_loss(num_classes, **options)


@pytest.mark.parametrize(
    ("options", "labels", "predicted"),
    [
        ({}, LABELS, PROBABILITIES),
        ({"one_hot": True}, ONE_HOT, PROBABILITIES),
        ({"one_hot": True}, np.array([[0.6, 0.4, 0], [0, 1, 0], [0.2, 0.8, 0]]), PROBABILITIES),
    ],
)
def test_accuracy_is_named_so_and_counted_for_each_kind_of_label(options, labels, predicted):
    [metric] = build_metrics(**options)
    metric.update_state(labels, predicted)
    assert metric.name == "accuracy"
    assert float(keras.ops.convert_to_numpy(metric.result())) == pytest.approx(2 / 3)


def test_balanced_weights_make_every_class_weigh_the_same():
    labels = [0] * 6 + [1] * 3 + [2]
    weights = class_weights_for(labels, 3)
    assert weights == pytest.approx((10 / 18, 10 / 9, 10 / 3))
    assert np.take(weights, labels).mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        ([0, 2, 2], 4, "2 of 4 classes have no image to weigh (class 1, 3). Balanced class"),
        ([0], 104, "103 of 104 classes have no image to weigh (class 1, 2, 3, 4, 5, ...)."),
        ([], 2, "2 of 2 classes have no image to weigh (class 0, 1)."),
        ([0, 4, 1], 4, "label 4 is outside 0..3."),
        ([0, -1], 2, "label -1 is outside 0..1."),
    ],
)
def test_classes_that_cannot_be_weighed_are_named(labels, num_classes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        class_weights_for(labels, num_classes)
