"""features: computed once, kept, found again, refused where they are another's."""

import dataclasses
import logging

import keras
import numpy as np
import pytest

from flowerkit.data import load_split
from flowerkit.models import classifier as models
from flowerkit.models import freeze_backbone
from flowerkit.prediction import features
from flowerkit.prediction.features import (
    compute_features,
    describe_data,
    fingerprint,
    predict_features,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture(scope="module")
def split(drawn):
    return load_split(drawn, "test")  # 22 images: 6 over a batch of 16


@pytest.fixture(scope="module")
def val(drawn):
    return load_split(drawn, "val")


def build(accelerator, head="plain", seed=3, **options):
    keras.utils.set_random_seed(seed)
    with accelerator.scope():
        model = models.build_classifier(
            4, image_size=32, backbone="tiny", weights=None, head=head, **options
        )
        return model, *models.split_classifier(model)


@pytest.fixture(scope="module")
def built(accelerator):
    return build(accelerator)


@pytest.mark.backends
@pytest.mark.replicas
@pytest.mark.parametrize("head", ["notebook", "pooled", "concat"])
def test_predictions_from_features_are_those_of_the_whole_model(accelerator, split, head):
    model, body, top = build(accelerator, head)
    found = compute_features(body, split, global_batch=16)
    assert found.array.shape == (22, *body.output_shape[1:])
    assert found.array.dtype == np.float32
    predictions = predict_features(top, found, global_batch=16)
    whole = keras.ops.convert_to_numpy(model(split.images, training=False))
    np.testing.assert_allclose(predictions.probabilities, whole, atol=1e-5)
    assert predictions.ids.tolist() == split.ids.tolist()
    assert predictions.labels is None


@pytest.mark.backends
def test_mirrored_features_are_those_of_mirrored_images_and_kept_apart(accelerator, split):
    _, body, _ = build(accelerator, seed=5)
    plain = compute_features(body, split, global_batch=16).array.copy()
    mirrored = compute_features(body, split, global_batch=16, mirrored=True)
    flipped = keras.ops.convert_to_numpy(body(split.images[:][:, :, ::-1], training=False))
    np.testing.assert_allclose(mirrored.array, flipped, atol=1e-5)
    assert np.abs(mirrored.array - plain).max() > 1e-3
    np.testing.assert_array_equal(compute_features(body, split, global_batch=16).array, plain)


def test_images_are_read_batch_by_batch(built, split):
    class Recorder:
        def __init__(self, images):
            self.images, self.shape, self.most = images, images.shape, 0

        def __len__(self):
            return len(self.images)

        def __getitem__(self, rows):
            found = self.images[rows]
            self.most = max(self.most, len(found))
            return found

    recorder, steps = Recorder(split.images), []
    compute_features(
        built[1],
        dataclasses.replace(split, images=recorder),
        global_batch=8,
        name="val",
        progress=lambda *step: steps.append(step),
    )
    assert recorder.most == 8
    assert steps == [("features of val", done, 22) for done in (8, 16, 22)]


@pytest.mark.backends
def test_what_compiling_takes_is_logged_once_for_train_and_val(accelerator, split, val, caplog):
    _, body, _ = build(accelerator, seed=4)
    with caplog.at_level("INFO", logger="flowerkit"):
        for images in (split, val):
            compute_features(body, images, global_batch=8)
    compiling, first = [line for line in caplog.messages if "compiling" in line]
    assert compiling == "compiling the backbone, which takes from seconds to some minutes"
    assert first.startswith("first batch ")


def test_the_next_run_finds_them(built, split, cache, caplog):
    caplog.set_level(logging.INFO, logger="flowerkit")
    first = compute_features(built[1], split, global_batch=8, name="val")
    (file,) = cache.iterdir()
    assert np.load(file).shape == (22, 256)
    again = compute_features(built[1], split, global_batch=16, name="val")
    np.testing.assert_array_equal(again.array, first.array)
    assert first.seconds > again.seconds == 0
    assert f"features of val are there from an earlier run: {file}" in caplog.messages


@pytest.mark.parametrize("spoil", ["flip", "cut", "empty"])
def test_a_damaged_file_is_named_and_computed_anew(built, split, cache, caplog, spoil):
    kept = compute_features(built[1], split, global_batch=8).array.copy()
    (file,) = cache.iterdir()
    data = bytearray(file.read_bytes())
    data[700] ^= 1
    file.write_bytes({"flip": data, "cut": data[:-900], "empty": b""}[spoil])
    again = compute_features(built[1], split, global_batch=8)
    np.testing.assert_array_equal(again.array, kept)
    assert f"{file} is damaged: its bytes are not those that were written" in caplog.messages


def test_what_fails_half_way_leaves_no_file(built, split, cache):
    def fail(description, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_features(built[1], split, global_batch=8, progress=fail)
    assert list(cache.iterdir()) == []


def test_without_a_file_they_stay_in_memory_and_without_room_there_is_an_error(
    built, split, cache, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, logger="flowerkit")
    cache.parent.mkdir(parents=True)
    cache.write_text("not a folder")
    found = compute_features(built[1], split, global_batch=8, name="val")
    assert len(found) == 22
    assert "0.0 MiB of features of val stay in RAM" in caplog.text
    monkeypatch.setattr(features, "free_memory_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match=r"do not fit into 0\.0 MiB .*--freeze-epochs 0"):
        compute_features(built[1], split, global_batch=8)


@pytest.mark.backends
def test_a_head_of_your_own_is_trained_on_them_and_called_on_the_body(accelerator, built, val):
    body = built[1]
    found = compute_features(body, val, global_batch=16)
    with accelerator.scope():
        inputs = keras.Input(body.output_shape[1:])
        head = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(inputs))
        head.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    head.fit(found.array[:16], found.labels[:16], batch_size=16, epochs=2, verbose=0)
    predicted = predict_features(head, found, global_batch=16).probabilities
    whole = keras.ops.convert_to_numpy(head(body(val.images)))
    np.testing.assert_allclose(whole, predicted, atol=1e-5)


# Refusals -----------------------------------------------------------------------------------------


def test_features_of_another_model_or_other_data_are_never_found(accelerator, built, split, val):
    first = compute_features(built[1], split, global_batch=8)
    same_body = build(accelerator, "pooled")[1]  # under another head
    assert compute_features(same_body, split, global_batch=8).seconds == 0
    other = compute_features(build(accelerator, seed=4)[1], split, global_batch=8)
    assert other.seconds > 0
    assert not np.allclose(other.array, first.array, atol=1e-3)
    assert compute_features(built[1], val, global_batch=8).seconds > 0
    reversed_data = dataclasses.replace(split, digests=split.digests[::-1])
    assert describe_data(reversed_data) != describe_data(split)


def test_images_of_another_size_are_refused(built, split):
    larger = dataclasses.replace(split, images=np.zeros((22, 48, 48, 3), "uint8"))
    with pytest.raises(ValueError, match="takes images of 32 x 32 x 3, the data holds 48 x 48 x 3"):
        compute_features(built[1], larger, global_batch=8)


# Fingerprints -------------------------------------------------------------------------------------


def test_a_body_is_known_by_structure_and_weights_not_by_names_that_keras_counts(
    accelerator, built, tmp_path
):
    model, body, _ = built
    twin = build(accelerator, dropout=0.5)[1]
    assert fingerprint(twin) == fingerprint(body)
    models.save_classifier(model, tmp_path / "model.keras")
    loaded = models.split_classifier(models.load_model(tmp_path / "model.keras"))[0]
    assert fingerprint(loaded) == fingerprint(body)
    freeze_backbone(model)
    assert fingerprint(body) == fingerprint(twin)
    changed = build(accelerator)[1]
    changed.get_layer("backbone").get_layer("block1_norm").moving_mean.assign(np.ones(32))
    assert fingerprint(changed) != fingerprint(body)
    inputs = keras.Input((32, 32, 3))
    ends = [layer(built[1](inputs)) for layer in (keras.layers.ReLU(), keras.layers.Softmax())]
    assert len({fingerprint(keras.Model(inputs, end)) for end in ends}) == 2


def test_a_resizing_that_keras_counts_up_does_not_matter_either(accelerator):
    bodies = [build(accelerator, input_size=size)[1] for size in (48, 48, 40)]
    assert fingerprint(bodies[0]) == fingerprint(bodies[1]) != fingerprint(bodies[2])


def layer_of_a_user(change, rate=1.0):
    class Layer(keras.layers.Layer):
        def __init__(self, rate, **options):
            super().__init__(**options)
            self.rate = rate

        def call(self, inputs):
            return change(self, inputs)

        def get_config(self):
            return super().get_config() | {"rate": self.rate}

    Layer.call = change
    return Layer(rate, name="mine")


@pytest.mark.parametrize(
    "layers",
    [
        # Names that are values elsewhere in the configuration.
        [keras.layers.Activation(kind, name=kind) for kind in ("relu", "tanh")],
        [keras.layers.Rescaling(scale, name="scale") for scale in (1.0, 2.0)],
        # Two classes of one name, with other code; one class with another setting.
        [layer_of_a_user(lambda self, x: x * 2), layer_of_a_user(lambda self, x: x * 3)],
        [layer_of_a_user(lambda self, x: x * self.rate, rate) for rate in (1.0, 2.0)],
    ],
)
def test_layers_that_compute_something_else_are_known_apart(layers):
    keys = []
    for layer in layers:
        inputs = keras.Input((4, 4, 3))
        keys.append(fingerprint(keras.Model(inputs, layer(inputs))))
    assert keys[0] != keys[1]
