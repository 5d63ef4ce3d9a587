"""freezing: what is trainable, and how deep it is."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    with pytest.raises(
        ValueError, match="'conv' stands in 2 parts of the backbone: stage1/conv, stage2/conv. Pass"
    ):
        freezing.choose_trainable(model, "conv")


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


def depths_by_path(model):
    depth = freezing.depth_of(model)
    return {variable.path: depth(variable) for variable in model.trainable_variables}


def test_depth_grows_from_the_first_layer_to_the_head():
    model = build(head="plain")
    depths = depths_by_path(model)
    assert depths["block1_conv/kernel"] == 0
    assert depths["block3_norm/gamma"] == depths["block3_norm/beta"] == 5 / 8
    assert depths["probabilities/kernel"] == 1


def test_depth_is_that_in_the_whole_backbone_and_only_of_what_learns():
    model = build(head="plain")
    freezing.choose_trainable(model, "block4", freeze_norms=True)
    assert depths_by_path(model) == {
        "block4_conv/kernel": 6 / 8,
        "probabilities/kernel": 1.0,
        "probabilities/bias": 1.0,
    }


# Networks that users bring: nested parts and layers of layers, whose names repeat -------------------

NAMES = ["conv", "norm", "head_norm", "probabilities", "backbone", "seed_generator"]


@keras.saving.register_keras_serializable("test_freezing")
class Block(keras.layers.Layer):
    """A layer that holds layers."""

    def __init__(self, parts, **options):
        super().__init__(**options)
        self.parts = parts

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs

    def get_config(self):
        parts = [keras.saving.serialize_keras_object(part) for part in self.parts]
        return super().get_config() | {"parts": parts}

    @classmethod
    def from_config(cls, config):
        parts = [keras.saving.deserialize_keras_object(part) for part in config.pop("parts")]
        return cls(parts, **config)


leaves = st.tuples(st.sampled_from(NAMES), st.sampled_from(["dense", "batch", "layer", "drop"]))
trees = st.recursive(
    st.lists(leaves, min_size=1, max_size=3),
    lambda inside: st.lists(
        leaves | st.tuples(st.sampled_from(NAMES), st.sampled_from(["model", "block"]), inside),
        min_size=1,
        max_size=3,
    ),
    max_leaves=6,
)
LEAVES = {
    "dense": lambda name: keras.layers.Dense(2, name=name),
    "batch": lambda name: keras.layers.BatchNormalization(name=name),
    "layer": lambda name: keras.layers.LayerNormalization(name=name),
    "drop": lambda name: keras.layers.Dropout(0.5, name=name),
}


def grow(tree):
    """(the layers of a tree, those that can learn), both in order."""
    layers, learners = [], []
    for number, (name, kind, *inside) in enumerate(tree):
        if not inside:
            layers.append(LEAVES[kind](name))
            learners += [layers[-1]] * (kind != "drop")
            continue
        parts, below = grow(inside[0])
        learners += below
        layers.append(Block(parts, name=name) if kind == "block" else chain(parts, name, number))
    return layers, learners


def chain(layers, name, number=0):
    inputs = x = keras.Input((4, 4, 2))
    for place, layer in enumerate(layers):
        # A model refuses two layers of a name; a model of each has the same names inside.
        x = (
            keras.Sequential([layer], name=f"part{place}")(x)
            if [one.name for one in layers].count(layer.name) > 1
            else layer(x)
        )
    return keras.Model(inputs, x, name=name)


def brought(tree):
    """A classifier around the network of a tree, with the layers that can learn, in order."""
    layers, learners = grow(tree)
    body = chain(layers, "backbone")
    pixels = keras.Input((4, 4, 2))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(body(pixels))
    x = keras.layers.BatchNormalization(name="head_norm")(x)
    x = keras.layers.Dense(3, activation="softmax", name="probabilities")(x)
    return keras.Model(pixels, x), learners


def own(layers):
    return [variable for layer in layers for variable in layer.trainable_variables]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(tree=trees)
def test_depth_is_the_variables_place_whatever_its_name(tree):
    model, learners = brought(tree)
    depth = freezing.depth_of(model)
    for place, layer in enumerate(learners):
        assert {depth(variable) for variable in layer.trainable_variables} == {
            place / len(learners)
        }
    inside = {id(variable) for variable in own(learners)}
    head = [one for one in model.trainable_variables if id(one) not in inside]
    assert [depth(variable) for variable in head] == [1.0] * 4


@settings(max_examples=25, deadline=None, derandomize=True)
@given(tree=trees, part=st.floats(0.01, 1), freeze_norms=st.booleans())
def test_what_learns_is_the_end_of_the_network_whatever_its_names(tree, part, freeze_norms):
    model, learners = brought(tree)
    expected = learners[-max(1, math.ceil(round(part * len(learners), 6))) :]
    if freeze_norms:
        expected = [one for one in expected if isinstance(one, keras.layers.Dense)]
    if not expected:
        with pytest.raises(ValueError, match="would unfreeze nothing"):
            freezing.choose_trainable(model, part, freeze_norms=freeze_norms)
        return
    wanted = own(expected)
    names = freezing.choose_trainable(model, part, freeze_norms=freeze_norms)
    assert [name.split("/")[-1].rstrip("_0123456789") for name in names] == [
        one.name.rstrip("_0123456789") for one in expected
    ]
    assert len(set(names)) == len(names)
    learning = {id(one) for one in model.trainable_variables}
    assert learning == {id(one) for one in (*wanted, *model.trainable_variables[-4:])}
    # Each of these names says one place.
    freezing.choose_trainable(model, names[-1], freeze_norms=freeze_norms)
    assert {id(one) for one in own([expected[-1]])} <= {
        id(one) for one in model.trainable_variables
    }
    assert len(model.trainable_variables) == len(own([expected[-1]])) + 4


def test_a_name_that_several_parts_share_is_refused_with_their_paths():
    paths = ["stem", "a/conv", "a/norm", "b/conv", "b/inner/conv"]
    with pytest.raises(
        ValueError, match="'conv' stands in 3 parts .*: a/conv, b/conv, b/inner/conv"
    ):
        freezing._find_named(paths, "conv")
    assert freezing._find_named(paths, "b/conv") == 3
    assert freezing._find_named(paths, "inner/conv") == 4
    assert freezing._find_named([*paths, "conv"], "conv") == 5  # the path itself


def norm_of_its_own(name):
    class InstanceNorm(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, inputs):
            return inputs * self.scale

    return InstanceNorm(name=name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.LayerNormalization(name="n"),
        lambda: keras.layers.GroupNormalization(1, name="n"),
        lambda: keras.layers.BatchNormalization(center=False, scale=False, name="n"),
        lambda: Block([keras.layers.BatchNormalization(name="n")]),
        lambda: Block([Block([keras.layers.LayerNormalization(name="n")])]),
        lambda: keras.layers.TimeDistributed(keras.layers.BatchNormalization(name="n")),
        lambda: chain([keras.layers.BatchNormalization(name="n")], "inner"),
        lambda: norm_of_its_own("n"),
    ],
)
def test_freeze_norms_finds_norms_of_all_kinds_wherever_they_are(make):
    norm = make()
    pixels = keras.Input((4, 4, 3))
    body = keras.Model(pixels, norm(keras.layers.Conv2D(2, 1, name="c")(pixels)), name="backbone")
    model = keras.Model(pixels, keras.layers.Dense(2)(body(pixels)))
    assert freezing.choose_trainable(model, freeze_norms=True) == ["c"]
    assert [one.path.split("/")[-2] for one in body.trainable_variables] == ["c", "c"]
    assert not [
        layer for _, layer in freezing.walk_layers(body) if layer.name == "n" and layer.trainable
    ]
