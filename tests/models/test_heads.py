"""heads: which layers each has, what it refuses, and that two columns may hang on one sigmoid."""

import keras
import numpy as np
import pytest

from flowerkit.models import heads
from flowerkit.training import plan

DROPOUT = 0.4


def build_head(head, shape=(2, 2, 6), num_classes=3, **options):
    features = keras.Input(shape)
    probabilities = heads.add_head(features, num_classes, head, dropout=DROPOUT, **options)
    return keras.Model(features, probabilities)


def kinds(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


def test_the_plan_knows_these_heads():
    assert plan.HEADS == tuple(heads.DROPOUT) == tuple(heads._HEADS)


def test_the_notebooks_head_pools_last():
    assert kinds(build_head("notebook")) == [
        "BatchNormalization",
        "Dropout",
        "GlobalAveragePooling2D",
        "Dense",
    ]


def test_the_pooled_head_pools_first():
    assert kinds(build_head("pooled")) == [
        "GlobalAveragePooling2D",
        "BatchNormalization",
        "Dropout",
        "Dense",
    ]


@pytest.mark.parametrize("head", ["notebook", "pooled", "concat"])
def test_its_norms_know_the_features_of_the_last_steps(head):
    model = build_head(head)
    rng = np.random.default_rng(0)
    norm = model.get_layer("head_norm")
    width = norm.moving_mean.shape[0]
    norm.moving_mean.assign(np.full(width, 50.0))  # as an earlier network's features were
    for _ in range(40):
        model(rng.random((16, 2, 2, 6), "float32"), training=True)
    assert np.abs(keras.ops.convert_to_numpy(norm.moving_mean)).max() < 2


def test_the_plain_head_is_pooling_and_softmax_and_takes_vectors_too():
    assert kinds(build_head("plain")) == ["GlobalAveragePooling2D", "Dropout", "Dense"]
    assert kinds(build_head("plain", shape=(6,))) == ["Dropout", "Dense"]


def test_the_concat_head_is_fastais():
    model = build_head("concat")
    assert sorted(kinds(model)[:2]) == ["GlobalAveragePooling2D", "GlobalMaxPooling2D"]
    assert kinds(model)[2:] == [
        "Concatenate",
        "BatchNormalization",
        "Dropout",
        "Dense",
        "ReLU",
        "BatchNormalization",
        "Dropout",
        "Dense",
    ]
    assert model.get_layer("head_dropout").rate == DROPOUT / 2
    assert model.get_layer("head_dropout2").rate == DROPOUT
    assert model.get_layer("head_dense").units == 512
    pooled = keras.Model(model.inputs[0], model.get_layer("pool").output)
    features = np.arange(24, dtype="float32").reshape(1, 2, 2, 6)
    np.testing.assert_array_equal(
        np.asarray(pooled(features)), [[18, 19, 20, 21, 22, 23, 9, 10, 11, 12, 13, 14]]
    )


def test_the_flatten_head_keeps_every_place_of_the_map():
    model = build_head("flatten")
    assert kinds(model) == ["Flatten", "Dense", "Dropout", "Dense"]
    assert model.get_layer("head_dense").kernel.shape == (24, 256)


def test_a_flatten_head_of_too_many_weights_is_refused_before_it_is_made():
    with pytest.raises(
        ValueError, match=r"map of 28 x 28 x 512 would have 102,760,448 weights .*--input-size"
    ):
        build_head("flatten", shape=(28, 28, 512))


def test_a_head_that_pools_does_not_fit_vectors():
    with pytest.raises(
        ValueError, match="'concat' takes a feature map .* a vector of 64. Pass head='plain'"
    ):
        build_head("concat", shape=(64,))


def test_a_binary_head_has_one_logit_and_the_two_columns_of_its_sigmoid():
    model = build_head("plain", shape=(1,), num_classes=2, binary=True)
    assert model.output_shape == (None, 2)
    assert model.count_params() == 2
    model.get_layer("logit").set_weights([np.ones((1, 1)), np.zeros(1)])
    probabilities = np.asarray(model(np.array([[0.0], [2.0], [-30.0]], "float32")))
    np.testing.assert_allclose(
        probabilities, [[0.5, 0.5], [0.11920292, 0.880797], [1.0, 9.3576e-14]], rtol=1e-4
    )


def test_binary_needs_two_classes():
    with pytest.raises(ValueError, match="binary needs 2 classes; there are 3.*--no-binary"):
        build_head("plain", binary=True)
