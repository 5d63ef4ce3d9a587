"""foreign: networks that users bring, of every kind that Keras makes, and those that are refused."""

import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops

from flowerkit.models import check_network, check_reload, fixed_input_size, foreign, walk_layers
from flowerkit.models import classifier as models
from flowerkit.training import TrainingPlan, settle

PIXELS = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3)).astype("uint8")


@keras.saving.register_keras_serializable("test_foreign")
class Block(layers.Layer):
    """A layer of a user's, with layers inside."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        self.conv = layers.Conv2D(width, 3, padding="same", name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, inputs, training=None):
        return ops.relu(self.norm(self.conv(inputs), training=training))

    def get_config(self):
        return super().get_config() | {"width": self.width}


@keras.saving.register_keras_serializable("test_foreign")
class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.block = Block(4)

    def call(self, inputs, training=None):
        return self.block(inputs / 255.0, training=training)

    def get_config(self):
        return {"name": self.name}


class Unregistered(Block):
    pass


@keras.saving.register_keras_serializable("test_foreign")
class WithoutConfig(layers.Layer):
    def __init__(self, settings):
        super().__init__()
        self.conv = layers.Conv2D(settings.width, 1)

    def call(self, inputs):
        return self.conv(inputs)


def images(*shape, **options):
    return keras.Input(shape or (None, None, 3), **options)


def convolve(inputs, **options):
    return layers.Conv2D(4, 3, padding="same", **options)(inputs)


def graph(change, *shape):
    inputs = images(*shape)
    return keras.Model(inputs, change(inputs))


def adapted():
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(0).uniform(100, 200, (8, 4, 4, 3)))
    return graph(lambda x: convolve(norm(x)))


def application():
    inner = keras.applications.MobileNet(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.25
    )
    return graph(lambda x: inner(layers.Rescaling(1 / 127.5, -1)(x), training=False), 32, 32, 3)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 32, 32, 3), "float32"))
    return model


def attention(x):
    x = layers.Reshape((64, 4))(convolve(x / 255.0, strides=4))
    return layers.Reshape((8, 8, 4))(layers.MultiHeadAttention(2, 2)(x, x))


def stages():
    parts = [
        keras.Sequential([layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization()], name=name)
        for name in "ab"
    ]
    return keras.Sequential([images(), layers.Rescaling(1 / 255.0), *parts])


def gated(x):
    x = convolve(x / 255.0)
    gate = ops.sigmoid(ops.mean(x, axis=(1, 2), keepdims=True))
    return x * gate + ops.zeros_like(x)


def twice(x):
    conv = layers.Conv2D(3, 3, padding="same")
    return conv(conv(x / 255.0))


def with_structure(wrap):
    inputs = images(name="pixels")
    return keras.Model(wrap("pixels", inputs), wrap("map", convolve(inputs)))


TAKEN = {
    "arithmetic": lambda: graph(lambda x: convolve(x / 127.5 - 1)),
    "slicing": lambda: graph(lambda x: convolve(x[..., ::-1])),
    "operations": lambda: graph(gated),
    "preprocess_input": lambda: graph(
        lambda x: convolve(keras.applications.resnet.preprocess_input(x))
    ),
    "preprocess_input by mean and deviation": lambda: graph(
        lambda x: convolve(keras.applications.densenet.preprocess_input(x))
    ),
    "an application in it": application,
    "an adapted normalization": adapted,
    "a list": lambda: with_structure(lambda name, tensor: [tensor]),
    "a dict": lambda: with_structure(lambda name, tensor: {name: tensor}),
    "a layer of its own": lambda: graph(lambda x: Block(4)(x)),
    "a subclassed model": subclassed,
    "stages with equal names": stages,
    "a layer used twice": lambda: graph(twice),
    "uint8 pixels": lambda: keras.Model(
        pixels := images(dtype="uint8"), convolve(layers.Rescaling(1 / 255.0)(pixels))
    ),
    "attention": lambda: graph(attention, 32, 32, 3),
    "a wrapper": lambda: graph(lambda x: layers.TimeDistributed(layers.Dense(4))(x), 32, 32, 3),
    "double precision": lambda: graph(lambda x: convolve(x, dtype="float64")),
    "augmentation and resizing": lambda: graph(
        lambda x: layers.BatchNormalization()(
            convolve(layers.Resizing(16, 16)(layers.RandomFlip()(x)))
        )
    ),
}


@pytest.fixture
def in_bfloat16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def build(network, weights="imagenet", **options):
    return models.build_classifier(3, image_size=32, backbone=network, weights=weights, **options)


def values(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor), "float32")


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """(the network, its file, its feature map of PIXELS) of each kind, made once, in float32."""
    made, folder = {}, tmp_path_factory.mktemp("networks")

    def bring(kind):
        if kind not in made:
            network = TAKEN[kind]()
            network.save(folder / f"{len(made)}.keras")
            expected = keras.tree.flatten(network(PIXELS.astype("float32"), training=False))[0]
            made[kind] = network, folder / f"{len(made)}.keras", values(expected)
        return made[kind]

    return bring


@pytest.mark.backends
@pytest.mark.parametrize("kind", TAKEN)
def test_a_file_serves_in_another_precision_saved_and_called_as_it_is(
    kind, brought, in_bfloat16, tmp_path
):
    keras.config.set_dtype_policy("float32")
    _, file, expected = brought(kind)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build(file)
    body = model.get_layer("backbone")
    assert {layer.compute_dtype for _, layer in walk_layers(body)} == {"bfloat16"}
    found = values(body(PIXELS.astype("float32"), training=False))
    np.testing.assert_allclose(found, expected, atol=0.15 * np.abs(expected).max())
    models.save_classifier(model, tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")  # as in the process that uses it
    assert check_reload(model, tmp_path) < 1e-6
    # What the saved model gives does not depend on how it is called, and calling trains nothing.
    loaded = models.load_model(tmp_path)
    before = [values(one) for one in loaded.non_trainable_weights]
    np.testing.assert_array_equal(values(loaded(PIXELS)), values(loaded(PIXELS, training=False)))
    for old, new in zip(before, loaded.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, values(new))


@pytest.mark.backends
@pytest.mark.parametrize("kind", TAKEN)
def test_a_model_is_copied_or_its_weights_are_fresh_but_for_what_was_adapted(kind, brought):
    network, _, expected = brought(kind)
    name, before = network.name, {id(one) for one in network.variables}
    body = build(network).get_layer("backbone")
    np.testing.assert_allclose(
        values(body(PIXELS.astype("float32"), training=False)), expected, atol=1e-3, rtol=1e-4
    )
    assert network.name == name
    assert not before & {id(one) for one in body.variables}
    fresh = build(network, None).get_layer("backbone")
    kernels = [
        [values(one) for one in each.trainable_weights if one.name == "kernel"]
        for each in (network, fresh)
    ]
    assert len(kernels[0]) == len(kernels[1]) > 0
    assert not any(np.array_equal(*pair) for pair in zip(*kernels, strict=True))
    if kind == "an adapted normalization":
        np.testing.assert_array_equal(values(fresh.layers[1].mean), values(network.layers[1].mean))
        assert abs(values(fresh.layers[1].mean) - 150).max() < 20


REFUSED = {
    "two outputs": (
        lambda: graph(lambda x: [convolve(x), convolve(x)]),
        "has 2 outputs, .* one feature map. Choose one: keras.Model",
    ),
    "two inputs": (
        lambda: keras.Model(both := [images(), images()], convolve(both[0] + both[1])),
        r"takes \(None, None, None, 3\) and .*; a backbone takes RGB images",
    ),
    "another size": (
        lambda: graph(convolve, 48, 48, 3),
        r"takes images of 48 x 48 px only, and would get 32 x 32. .*--input-size 48\)",
    ),
    "no square": (
        lambda: graph(convolve, 48, 32, 3),
        r"48 x 32 px only.* squares here: build it on keras.Input\(\(None, None, 3\)\)",
    ),
    "grey images": (
        lambda: graph(convolve, 32, 32, 1),
        r"takes \(None, 32, 32, 1\); a backbone takes RGB images .* keras.Model\(images, network",
    ),
    "channels first": (lambda: graph(lambda x: x, 3, 32, 32), r"takes \(None, 3, 32, 32\)"),
    "vectors as input": (
        lambda: graph(lambda x: layers.Reshape((1, 1, 7))(x), 7),
        r"takes \(None, 7\)",
    ),
    "a vector": (
        lambda: graph(lambda x: layers.GlobalAveragePooling2D()(x)),
        r"ends in shape \(None, 3\); .* without its pooling and classifier",
    ),
    "a row of tokens": (
        lambda: graph(lambda x: layers.Reshape((-1, 4))(convolve(x)), 32, 32, 3),
        r"ends in shape \(None, 1024, 4\)",
    ),
    "too small images": (
        lambda: graph(lambda x: layers.Conv2D(4, 7, strides=8)(layers.Conv2D(4, 7, strides=8)(x))),
        r"does not take images of 32 x 32 px: .* larger input_size \(--input-size\)",
    ),
    "a layer that is not registered": (
        lambda: graph(lambda x: Unregistered(4)(x)),
        "needs your class Unregistered, .*register_keras_serializable",
    ),
    "a Lambda": (
        lambda: graph(lambda x: convolve(layers.Lambda(lambda y: y / 255)(x))),
        "holds a Lambda layer.* keras.ops, or as a registered layer",
    ),
    "no weights yet": (
        lambda: keras.Sequential([layers.Conv2D(4, 3)]),
        r"has no weights yet, .* keras.Input\(\(None, None, 3\)\), or .*--weights none",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_backbone_is_refused_in_words_file_or_model(kind, tmp_path):
    network, message = REFUSED[kind][0](), REFUSED[kind][1]
    network.save(tmp_path / "network.keras")
    for brought in (tmp_path / "network.keras", network):
        with pytest.raises(ValueError, match=message):
            build(brought)


@pytest.mark.parametrize(
    "kind", ["two inputs", "another size", "no square", "grey images", "vectors as input"]
)
def test_the_input_of_a_file_is_looked_at_without_keras(kind, tmp_path, monkeypatch):
    file = tmp_path / "network.keras"
    REFUSED[kind][0]().save(file)
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ValueError, match=REFUSED[kind][1]):
        check_network(str(file), "imagenet", 32)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: keras.Sequential([images(48, 48, 3), x])])
def test_the_size_of_a_file_or_a_model_is_the_one_that_auto_takes(wrap, tmp_path):
    network = wrap(graph(convolve, 48, 48, 3))
    network.save(tmp_path / "network.keras")
    for brought in (str(tmp_path / "network.keras"), network):
        asked = TrainingPlan(backbone=brought, weights=None)
        plan, reasons = settle(asked, num_train=99, stored_px=32, kind="cpu", replicas=1)
        assert plan.input_size == 48
        assert "takes no other" in reasons["input_size"]
    assert fixed_input_size(graph(convolve)) is None


def test_a_network_that_is_not_built_begins_with_fresh_weights():
    network = keras.Sequential([layers.Rescaling(1 / 255), layers.Conv2D(4, 3)])
    assert len(build(network, None).get_layer("backbone").weights) == 2


def test_a_model_whose_layer_has_no_configuration_is_refused():
    network = graph(lambda x: WithoutConfig(SimpleNamespace(width=4))(x))
    with pytest.raises(ValueError, match=r"cannot be built again .* needs a get_config\(\)"):
        build(network)


def test_a_file_that_is_no_zip_and_one_without_its_code_say_so(tmp_path):
    (tmp_path / "a.keras").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="a.keras is no .keras file: it is no zip file."):
        build(tmp_path / "a.keras")


def test_a_name_of_keras_takes_no_smaller_images_than_it_can():
    with pytest.raises(
        ValueError, match=r"InceptionV3 does not take images of 32 x 32 px.*--input-size 75"
    ):
        build("InceptionV3", None)


# Weights of an earlier run --------------------------------------------------------------------------


@pytest.mark.backends
def test_weights_come_from_a_run_an_export_or_a_bare_network(tmp_path):
    first = build("tiny", None)
    models.save_classifier(first, tmp_path / "run" / "model.keras")
    first.get_layer("backbone").save(tmp_path / "body.keras")
    for place in ("run", "run/model.keras", "body.keras"):
        again = build("tiny", tmp_path / place, head="plain")
        for ours, theirs in zip(
            again.get_layer("backbone").weights, first.get_layer("backbone").weights, strict=True
        ):
            np.testing.assert_array_equal(values(ours), values(theirs))


def test_weights_of_another_network_and_of_none_are_refused(tmp_path):
    models.save_classifier(build("tiny", None), tmp_path / "run" / "model.keras")
    with pytest.raises(
        ValueError,
        match=r"run does not hold weights of this network: it has 19 layers, .* of 17. .*--backbone",
    ):
        build("VGG16", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no finished run .*empty"):
        build("tiny", tmp_path / "empty")


def test_state_is_copied_between_like_networks_only():
    with pytest.raises(ValueError, match="it has 3 layers, and they are of 2"):
        foreign.copy_state(graph(convolve), graph(lambda x: convolve(convolve(x))))
