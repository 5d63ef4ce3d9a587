"""freezing: what is trainable, and how deep it is."""

import keras
import numpy as np
import pytest

from flowerkit.models import freezing
from flowerkit.models.classifier import build_classifier

HEAD = ["head_norm", "probabilities"]
TINY = [f"block{n}_{kind}" for n in (1, 2, 3, 4) for kind in ("conv", "norm")]


def build(**options):
    return build_classifier(5, image_size=32, backbone="tiny", weights=None, **options)


def learning(model):
    """The names of the layers that have trainable variables."""
    return list(dict.fromkeys(one.path.split("/")[-2] for one in model.trainable_variables))


def test_a_frozen_backbone_leaves_the_head_to_learn():
    model = build()
    freezing.freeze_backbone(model)
    assert learning(model) == HEAD
    assert freezing.choose_trainable(model) == TINY  # and comes back
    assert learning(model) == TINY + HEAD


@pytest.mark.parametrize(
    ("unfreeze_from", "first"),
    [
        (None, "block1_conv"),
        (1.0, "block1_conv"),
        (0.5, "block3_conv"),
        (0.3, "block3_norm"),  # 2.4 of 8 layers, rounded up
        (0.0001, "block4_norm"),
        ("block3_norm", "block3_norm"),
        ("block3_relu", "block4_conv"),
        ("block3", "block3_conv"),
        ("block2_", "block2_conv"),
    ],
)
def test_layers_are_unfrozen_from_a_place_to_the_end(unfreeze_from, first):
    model = build()
    freezing.freeze_backbone(model)
    chosen = TINY[TINY.index(first) :]
    assert freezing.choose_trainable(model, unfreeze_from) == chosen
    assert learning(model) == chosen + HEAD


def test_norms_may_stay_frozen():
    model = build()
    chosen = ["block3_conv", "block4_conv"]
    assert freezing.choose_trainable(model, "block3", freeze_norms=True) == chosen
    assert learning(model) == chosen + HEAD


def test_stages_of_keras_applications_are_found_and_numbers_count_whole():
    names = ["conv1_conv", "block_10_expand", "block_1_expand", "conv5_block1_1_conv", "block6a_bn"]
    places = {
        name: freezing._find_named(names, name)
        for name in ("conv1", "block_1", "conv5_block", "conv5", "block6", "block6a_bn")
    }
    assert places == {
        "conv1": 0,
        "block_1": 2,
        "conv5_block": 3,
        "conv5": 3,
        "block6": 4,
        "block6a_bn": 4,
    }
    assert freezing._find_named(["stem/conv", "stage_1/down/conv"], "stage_1") == 1
    with pytest.raises(ValueError, match="no such layer"):
        freezing._find_named(names, "b")


def test_layers_of_nested_models_are_unfrozen_one_by_one(tmp_path):
    stages = [
        keras.Sequential(
            [keras.layers.Conv2D(2, 1, name="conv"), keras.layers.BatchNormalization(name="norm")],
            name=f"stage{number}",
        )
        for number in (1, 2)
    ]
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, stages[1](stages[0](inputs))).save(tmp_path / "nested.keras")
    model = build_classifier(3, image_size=8, backbone=tmp_path / "nested.keras")
    assert freezing.choose_trainable(model, "stage2") == ["stage2/conv", "stage2/norm"]
    assert len(model.trainable_variables) == 4 + 4
    assert freezing.choose_trainable(model, "stage1/norm", freeze_norms=True) == ["stage2/conv"]
    assert len(model.trainable_variables) == 2 + 4


def test_an_unknown_layer_names_the_nearest_and_changes_nothing():
    model = build()
    with pytest.raises(
        ValueError,
        match="'blok4_conv': .*'block1_conv' to 'block4_pool'. Did you mean 'block4_conv'",
    ):
        freezing.choose_trainable(model, "blok4_conv")
    assert learning(model) == TINY + HEAD


@pytest.mark.parametrize("unfreeze_from", [0, -0.5, 1.5, float("nan")])
def test_a_fraction_that_is_none_is_refused(unfreeze_from):
    with pytest.raises(
        ValueError, match="must be above 0 and at most 1.* Received: unfreeze_from="
    ):
        freezing.choose_trainable(build(), unfreeze_from)


def test_unfreezing_nothing_is_refused():
    with pytest.raises(ValueError, match="'block4_pool' would unfreeze nothing: no layer .* learn"):
        freezing.choose_trainable(build(), "block4_pool")
    with pytest.raises(ValueError, match="nothing: no layer .* weights to learn besides norms"):
        freezing.choose_trainable(build(), 0.1, freeze_norms=True)


def changed_by_a_step(model):
    """The layers of which one training step changes a weight, statistics included."""
    before = [np.array(one) for one in model.variables]
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    model.fit(images, np.arange(4), batch_size=4, verbose=0)
    after = [np.array(one) for one in model.variables]
    pairs = zip(model.variables, before, after, strict=True)
    return {
        "/".join(one.path.split("/")[-2:])
        for one, old, new in pairs
        if "seed" not in one.path and not np.array_equal(old, new)
    }


@pytest.mark.backends
def test_what_is_frozen_stays_bit_for_bit_in_training():
    model = build(head="plain", dropout=0.0)
    freezing.choose_trainable(model, "block4")
    norm = {f"block4_norm/{name}" for name in ("beta", "gamma", "moving_mean", "moving_variance")}
    head = {"probabilities/kernel", "probabilities/bias"}
    assert changed_by_a_step(model) == {"block4_conv/kernel", *norm, *head}
    freezing.choose_trainable(model, "block4", freeze_norms=True)
    assert changed_by_a_step(model) == {"block4_conv/kernel", *head}
    freezing.freeze_backbone(model)
    assert changed_by_a_step(model) == head


def test_depth_grows_from_the_first_layer_to_the_head():
    model = build(head="plain")
    depths = freezing.depth_of(model)
    assert depths["block1_conv/kernel"] == 0
    assert depths["block3_norm/gamma"] == depths["block3_norm/beta"] == 5 / 8
    assert depths["probabilities/kernel"] == 1
    assert len(depths) == len(model.trainable_variables)


def test_depth_is_that_in_the_whole_backbone_and_only_of_what_learns():
    model = build(head="plain")
    freezing.choose_trainable(model, "block4", freeze_norms=True)
    assert freezing.depth_of(model) == {
        "block4_conv/kernel": 6 / 8,
        "probabilities/kernel": 1.0,
        "probabilities/bias": 1.0,
    }
