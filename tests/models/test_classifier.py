"""models: scaling, the parts put together, cutting, freezing, saving."""

import warnings

import keras
import numpy as np
import pytest

from flowerkit.models import classifier as models
from flowerkit.models.backbones import FAMILIES

pytestmark = pytest.mark.backends

PIXELS = np.random.default_rng(7).integers(0, 256, (2, 8, 8, 3)).astype("float32")


def build(*, num_classes=5, image_size=32, backbone="tiny", **options):
    return models.build_classifier(
        num_classes, image_size=image_size, backbone=backbone, weights=None, **options
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_scaling_inside_equals_the_familys_preprocess_input(family):
    preprocess = getattr(keras.applications, family).preprocess_input
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


def test_a_classifier_that_resizes_predicts_unless_told_to_train():
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


def test_dropout_is_what_is_usual_for_the_head_unless_said():
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
    assert models.check_reload(model, tmp_path) < 1e-6


def test_a_model_without_a_backbone_is_not_cut():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="dense")(inputs), name="other")
    with pytest.raises(ValueError, match="'other' has no layer 'backbone' .*build_classifier"):
        models.split_classifier(model)


def learning(model):
    """The names of the layers that have trainable variables."""
    return list(dict.fromkeys(one.path.split("/")[-2] for one in model.trainable_variables))


HEAD = ["head_norm", "probabilities"]
TINY = [f"block{n}_{kind}" for n in (1, 2, 3, 4) for kind in ("conv", "norm")]


def test_a_frozen_backbone_leaves_the_head_to_learn():
    model = build()
    models.freeze_backbone(model)
    assert learning(model) == HEAD
    assert models.choose_trainable(model) == TINY  # and comes back
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
    models.freeze_backbone(model)
    chosen = TINY[TINY.index(first) :]
    assert models.choose_trainable(model, unfreeze_from) == chosen
    assert learning(model) == chosen + HEAD


def test_norms_may_stay_frozen():
    model = build()
    chosen = ["block3_conv", "block4_conv"]
    assert models.choose_trainable(model, "block3", freeze_norms=True) == chosen
    assert learning(model) == chosen + HEAD


def test_stages_of_keras_applications_are_found_and_numbers_count_whole():
    names = ["conv1_conv", "block_10_expand", "block_1_expand", "conv5_block1_1_conv", "block6a_bn"]
    places = {
        name: models._find_named(names, name)
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
    assert models._find_named(["stem/conv", "stage_1/down/conv"], "stage_1") == 1
    with pytest.raises(ValueError, match="no such layer"):
        models._find_named(names, "b")


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
    model = models.build_classifier(3, image_size=8, backbone=tmp_path / "nested.keras")
    assert models.choose_trainable(model, "stage2") == ["stage2/conv", "stage2/norm"]
    assert len(model.trainable_variables) == 4 + 4
    assert models.choose_trainable(model, "stage1/norm", freeze_norms=True) == ["stage2/conv"]
    assert len(model.trainable_variables) == 2 + 4


def test_an_unknown_layer_names_the_nearest_and_changes_nothing():
    model = build()
    with pytest.raises(
        ValueError,
        match="'blok4_conv': the backbone has no such .*'block1_conv' to 'block4_pool'; nearest: block4",
    ):
        models.choose_trainable(model, "blok4_conv")
    assert learning(model) == TINY + HEAD


@pytest.mark.parametrize("unfreeze_from", [0, -0.5, 1.5, float("nan")])
def test_a_fraction_that_is_none_is_refused(unfreeze_from):
    with pytest.raises(ValueError, match="is not a fraction above 0, to 1"):
        models.choose_trainable(build(), unfreeze_from)


def test_unfreezing_nothing_is_refused():
    with pytest.raises(ValueError, match="'block4_pool' would unfreeze nothing: no layer .* learn"):
        models.choose_trainable(build(), "block4_pool")
    with pytest.raises(ValueError, match="nothing: no layer .* weights to learn besides norms"):
        models.choose_trainable(build(), 0.1, freeze_norms=True)


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


def test_what_is_frozen_stays_bit_for_bit_in_training():
    model = build(head="plain", dropout=0.0)
    models.choose_trainable(model, "block4")
    norm = {f"block4_norm/{name}" for name in ("beta", "gamma", "moving_mean", "moving_variance")}
    head = {"probabilities/kernel", "probabilities/bias"}
    assert changed_by_a_step(model) == {"block4_conv/kernel", *norm, *head}
    models.choose_trainable(model, "block4", freeze_norms=True)
    assert changed_by_a_step(model) == {"block4_conv/kernel", *head}
    models.freeze_backbone(model)
    assert changed_by_a_step(model) == head


def test_depth_grows_from_the_first_layer_to_the_head():
    model = build(head="plain")
    depths = models.depth_of(model)
    assert depths["block1_conv/kernel"] == 0
    assert depths["block3_norm/gamma"] == depths["block3_norm/beta"] == 5 / 8
    assert depths["probabilities/kernel"] == 1
    assert len(depths) == len(model.trainable_variables)


def test_depth_is_that_in_the_whole_backbone_and_only_of_what_learns():
    model = build(head="plain")
    models.choose_trainable(model, "block4", freeze_norms=True)
    assert models.depth_of(model) == {
        "block4_conv/kernel": 6 / 8,
        "probabilities/kernel": 1.0,
        "probabilities/bias": 1.0,
    }


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
        models.load_model(tmp_path)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model .*model.keras"):
        models.load_model(tmp_path)


def test_a_model_saved_frozen_learns_again(tmp_path):
    model = build()
    models.freeze_backbone(model)
    models.save_classifier(model, tmp_path / "model.keras")
    assert learning(models.load_model(tmp_path)) == TINY + HEAD
