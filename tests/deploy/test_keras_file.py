"""keras_file: cards inside `.keras` files, and files that older versions of Keras load.

Measured on 2026-11-22 with files of Keras 3.15.1 (TensorFlow): DenseNet121, EfficientNetV2B0,
MobileNetV3Small, ConvNeXtTiny, VGG16, EfficientNet-Lite0, `tiny` with a resize and a sigmoid, and a
dense network. As Keras wrote them, none loaded in 3.10.0 or 3.13.2. Rewritten, all loaded in 3.10.0
(TensorFlow 2.18) with the same predictions. In 3.13.2 (JAX 0.7.2) ConvNeXtTiny, VGG16, `tiny` and the
dense network were tried: within 1e-6.
"""

import json
import zipfile

import keras
import numpy as np
import pytest

from flowerkit.deploy.card import ModelCard
from flowerkit.deploy.keras_file import read_keras_card, rewrite_keras
from flowerkit.models import build_classifier, load_model, save_classifier

CARD = ModelCard(("iris", "수국"), 32, "crop")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")


def custom_loss(true, predicted):
    return keras.ops.mean(predicted)


def build(**options):
    return build_classifier(2, image_size=32, backbone="tiny", weights=None, **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with operations (a resize, a pad), compiled with a custom loss."""
    model = build(binary=True, input_size=48)
    model.compile("adam", custom_loss)
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    save_classifier(model, path)
    return path


def read_config(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


def test_keras_loads_a_file_with_a_card_inside(saved, tmp_path):
    assert read_keras_card(saved) is None
    rewrite_keras(saved, tmp_path / "out.keras", card=CARD)
    assert read_keras_card(tmp_path / "out.keras") == CARD
    model = keras.saving.load_model(tmp_path / "out.keras")  # as a program without flowerkit does
    assert not model.compiled
    ours, theirs = (np.asarray(loaded(PIXELS)) for loaded in (load_model(saved), model))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_arguments_without_effect_that_an_older_keras_refuses_are_left_out(saved, tmp_path):
    rewrite_keras(saved, tmp_path / "out.keras", card=CARD)
    text = read_config(tmp_path / "out.keras")
    for name in ("renorm", "input_axes", "quantization_config", "compile_config"):
        assert f'"{name}' not in text
    assert '"momentum": 0.9' in text

    def check(config):
        if str(config.get("module")).startswith("keras.src.ops"):
            assert "name" not in config["config"]
            operations.append(config["class_name"])
        return config

    operations = []
    json.loads(text, object_hook=check)
    assert operations == ["Resize", "Pad"]


def test_an_argument_with_an_effect_stays(saved, tmp_path):
    """The file then does not load in an older Keras, where it would predict something else."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(tmp_path / "m.keras", "w") as new:
        for member in old.namelist():
            data = old.read(member)
            if member == "config.json":
                data = data.replace(b'"center": true', b'"center": true, "renorm_momentum": 0.5')
                data = data.replace(b'"renorm_momentum": 0.99', b'"renorm_momentum": 0.5')
            new.writestr(member, data)
    rewrite_keras(tmp_path / "m.keras", tmp_path / "out.keras", card=CARD)
    assert '"renorm_momentum": 0.5' in read_config(tmp_path / "out.keras")


def test_mixed_precision_is_found_and_undone(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        save_classifier(build(), tmp_path / "mixed.keras")
    finally:
        keras.config.set_dtype_policy(before)
    mixed, plain = tmp_path / "mixed.keras", tmp_path / "plain.keras"
    assert rewrite_keras(mixed, plain, card=CARD, float32=True)
    assert not rewrite_keras(plain, tmp_path / "again.keras", card=CARD, float32=True)
    assert "mixed_bfloat16" not in read_config(plain)
    assert load_model(plain).get_layer("backbone").layers[1].compute_dtype == "float32"


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "m.keras").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.keras is not a whole \.keras file .*copy it again"):
        rewrite_keras(tmp_path / "m.keras", tmp_path / "out.keras", card=CARD)
    assert not (tmp_path / "out.keras").exists()


@pytest.mark.parametrize("text", ["", "null", "[]", '{"a": ', "[" * 100_000])
def test_a_file_whose_json_is_damaged_is_named(saved, tmp_path, text):
    damaged = tmp_path / "damaged.keras"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(damaged, "w") as new:
        for name in old.namelist():
            new.writestr(name, text if name == "metadata.json" else old.read(name))
    for read in (
        read_keras_card,
        lambda path: rewrite_keras(path, tmp_path / "b.keras", card=CARD),
    ):
        with pytest.raises(
            ValueError, match=r"damaged.keras is not a whole .*metadata.json.*copy it"
        ):
            read(damaged)


def test_a_zip_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("readme.txt", "no model")
    with pytest.raises(ValueError, match="There is no item named 'metadata.json'"):
        read_keras_card(tmp_path / "m.keras")


def test_an_argument_of_a_users_layer_stays_whatever_keras_calls_so(tmp_path):
    @keras.saving.register_keras_serializable("test_keras_file")
    class Gate(keras.layers.Layer):
        def __init__(self, use_gate=True, **options):
            super().__init__(**options)
            self.use_gate = use_gate

        def call(self, inputs):
            return inputs * (0.0 if self.use_gate else 1.0)

        def get_config(self):
            return super().get_config() | {"use_gate": self.use_gate}

    inputs = keras.Input((2,))
    keras.Model(inputs, Gate(use_gate=False)(inputs)).save(tmp_path / "a.keras")
    rewrite_keras(tmp_path / "a.keras", tmp_path / "b.keras", card=ModelCard(("a", "b"), 2, "crop"))
    assert keras.saving.load_model(tmp_path / "b.keras").layers[1].use_gate is False
