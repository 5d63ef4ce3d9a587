import dataclasses
import io
import re

import keras
import numpy as np
import pytest
from PIL import Image

from flowerkit.data import load_split, read_records
from flowerkit.pipeline import Augmentation, augment_images, sample_params
from flowerkit.prediction.predictions import Predictions, predict

GLOBAL_BATCH = 16  # 22 test images: a full batch, and 6 images with 10 of padding


@pytest.fixture(scope="module")
def mean_colour(accelerator):
    """A model whose output is the softmax of the mean colour / 20: known without it."""
    with accelerator.scope():
        pixels = keras.Input((32, 32, 3))
        mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 20)(pixels))
        return keras.Model(pixels, keras.layers.Softmax(dtype="float32")(mean))


@pytest.fixture(scope="module")
def predictions(drawn, mean_colour):
    return predict(mean_colour, load_split(drawn, "test"), global_batch=GLOBAL_BATCH)


@pytest.fixture
def scored():
    """Three images, two classes; the second image is mistaken."""
    return Predictions(
        ids=np.array(["a", "b", "c"]),
        probabilities=np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]], "float32"),
        labels=np.array([0, 1, 1], "int32"),
    )


@pytest.mark.backends
def test_the_padding_of_the_last_batch_is_trimmed(predictions):
    assert len(predictions) == 22
    assert predictions.probabilities.shape == (22, 3)
    assert predictions.probabilities.dtype == np.float32
    assert len(set(predictions.ids.tolist())) == 22


@pytest.mark.backends
def test_ids_stay_in_step_with_images(drawn, predictions):
    """Every JPEG decoded again by Pillow, its output computed by hand and looked up by its id."""
    found = dict(zip(predictions.ids.tolist(), predictions.probabilities, strict=True))
    records = [record for file in drawn.files["test"] for _, record in read_records(file)]
    assert len(records) == 22
    for record in records:
        mean = np.asarray(Image.open(io.BytesIO(record.image)), "float64").mean((0, 1)) / 20
        by_hand = np.exp(mean) / np.exp(mean).sum()
        np.testing.assert_allclose(found[record.id], by_hand, atol=0.02)
    # They differ by far more than two JPEG decoders do, or any order would pass.
    assert np.ptp(predictions.probabilities, axis=0).min() > 0.2


def test_an_unlabelled_split_has_no_labels_and_no_score(predictions):
    assert predictions.labels is None
    with pytest.raises(ValueError, match="no labels to score against"):
        predictions.score()


def test_a_labelled_split_keeps_its_labels_and_order(drawn, mean_colour):
    val = load_split(drawn, "val")
    found = predict(mean_colour, val, global_batch=GLOBAL_BATCH)
    np.testing.assert_array_equal(found.labels, val.labels)
    np.testing.assert_array_equal(found.ids, val.ids)
    assert len(found) == 18


def test_predicted_labels_and_score_are_those_computed_by_hand(scored):
    assert scored.predicted.tolist() == [0, 0, 1]
    assert scored.score() == pytest.approx(
        {
            "val_loss": -np.log([0.75, 0.5, 0.75]).mean(),
            "val_accuracy": 2 / 3,
            "val_f1": 2 / 3,  # both classes: 2 * 1 / (2 * 1 + 1)
        }
    )


def test_images_of_another_size_are_refused_with_both_sizes(drawn):
    pixels = keras.Input((48, 40, 3))
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))
    message = "the model takes images of 40x48 px, the data holds 32x32 px. Choose"
    with pytest.raises(ValueError, match=re.escape(message)):
        predict(model, load_split(drawn, "test"), global_batch=GLOBAL_BATCH)


# Test-time augmentation ---------------------------------------------------------------------------


class _Counting(keras.layers.Layer):
    """Counts how often it is traced."""

    traces = 0

    def call(self, pixels):
        type(self).traces += 1
        return pixels


@pytest.fixture(scope="module")
def left_colour(accelerator):
    """A model of the left half alone, with other probabilities for a mirrored image."""
    with accelerator.scope():
        pixels = keras.Input((32, 32, 3))
        left = keras.layers.Cropping2D(((0, 0), (0, 16)))(_Counting()(pixels))
        mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 20)(left))
        return keras.Model(pixels, keras.layers.Softmax(dtype="float32")(mean))


@pytest.fixture(scope="module")
def unlabelled(drawn):
    return load_split(drawn, "test", cache="ram")


def output_by_hand(images):
    means = images[:, :, :16].astype("float64").mean((1, 2)) / 20
    return np.exp(means) / np.exp(means).sum(axis=1, keepdims=True)


def views_by_hand(images, *, seed, num_crops, min_crop_area):
    """As it is, mirrored, then crops, those of (seed, view)."""
    crops = Augmentation(flip=True, min_crop_area=min_crop_area)
    yield images
    yield images[:, :, ::-1]
    for view in range(2, 2 + num_crops):
        params = sample_params(crops, len(images), seed=seed, epoch=view)
        yield augment_images(images, params, crops)


@pytest.mark.backends
@pytest.mark.replicas
def test_views_are_averaged_the_image_its_mirror_image_and_crops(left_colour, unlabelled):
    """The same by hand, whatever the backend and the number of replicas; the last batch is padded."""
    images = np.asarray(unlabelled.images[:])
    views = views_by_hand(images, seed=7, num_crops=2, min_crop_area=0.6)
    by_hand = [output_by_hand(view) for view in views]
    for tta in (1, 2, 4):
        found = predict(
            left_colour, unlabelled, global_batch=GLOBAL_BATCH, tta=tta, min_crop_area=0.6, seed=7
        )
        expected = np.mean(by_hand[:tta], axis=0)
        np.testing.assert_allclose(found.probabilities, expected, atol=2e-5)
        assert found.probabilities.dtype == np.float32
        np.testing.assert_array_equal(found.ids, unlabelled.ids)
    # Views differ by far more than that, or any average would pass.
    assert min(np.abs(one - by_hand[0]).max() for one in by_hand[1:]) > 0.02


def test_views_are_the_same_each_time_and_others_for_another_seed(left_colour, unlabelled):
    def run(**options):
        found = predict(left_colour, unlabelled, global_batch=GLOBAL_BATCH, **options)
        return found.probabilities

    np.testing.assert_array_equal(run(tta=3), run(tta=3))
    assert np.abs(run(tta=3) - run(tta=3, seed=1)).max() > 1e-3
    np.testing.assert_array_equal(run(tta=2), run(tta=2, seed=1))  # nothing is drawn for these
    np.testing.assert_array_equal(run(tta=1), run(seed=1))


@pytest.mark.backends
@pytest.mark.replicas
def test_further_views_compile_nothing(left_colour, unlabelled):
    predict(left_colour, unlabelled, global_batch=GLOBAL_BATCH)
    traces = _Counting.traces
    assert traces > 0
    predict(left_colour, unlabelled, global_batch=GLOBAL_BATCH, tta=5)
    assert _Counting.traces == traces


class _Watched:
    """Images that remember how many were asked for at a time."""

    def __init__(self, images):
        self.images, self.shape, self.asked = images, images.shape, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        found = self.images[rows]
        self.asked.append(len(found))
        return found


def test_no_more_than_a_batch_is_in_memory_however_many_views(left_colour, unlabelled):
    watched = _Watched(unlabelled.images)
    split = dataclasses.replace(unlabelled, images=watched)
    predict(left_colour, split, global_batch=GLOBAL_BATCH, tta=4)
    assert watched.asked == [16, 6] * 4
    watched.asked.clear()
    predict(left_colour, split, global_batch=GLOBAL_BATCH)
    assert watched.asked == [16, 6]


def test_progress_counts_the_images_of_all_views(left_colour, unlabelled):
    calls = []
    predict(
        left_colour,
        unlabelled,
        global_batch=GLOBAL_BATCH,
        tta=2,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [("predict", done, 44) for done in (16, 22, 38, 44)]


def test_no_view_at_all_is_refused(left_colour, unlabelled):
    message = "tta counts the views of each image, 1 or more. Received: tta=0"
    with pytest.raises(ValueError, match=re.escape(message)):
        predict(left_colour, unlabelled, global_batch=GLOBAL_BATCH, tta=0)


# Predictions --------------------------------------------------------------------------------------


def test_ids_probabilities_and_labels_that_differ_in_number_are_refused():
    with pytest.raises(ValueError, match=re.escape("labels differ in number: [2, 3]")):
        Predictions(np.array(["a", "b", "c"]), np.ones((3, 2)), np.array([0, 1]))


def test_saved_predictions_come_back(tmp_path, scored, predictions):
    for saved in (scored, predictions):
        saved.save(tmp_path / "p.npz")
        loaded = Predictions.load(tmp_path / "p.npz")
        assert loaded.ids.tolist() == saved.ids.tolist()
        np.testing.assert_array_equal(loaded.probabilities, saved.probabilities)
        assert loaded.probabilities.dtype == np.float32
        assert (loaded.labels is None) == (saved.labels is None)
    assert [file.name for file in tmp_path.iterdir()] == ["p.npz"]


def test_predictions_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no predictions .*p\.npz. Run `flowerkit train`"):
        Predictions.load(tmp_path / "p.npz")


@pytest.mark.parametrize("damage", ["cut off", "inside", "text", "empty", "other npz", "one array"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, scored, damage):
    file = tmp_path / "p.npz"
    scored.save(file)
    whole = file.read_bytes()
    middle = len(whole) // 4
    if damage == "other npz":
        np.savez(file, something=np.arange(3))
    elif damage == "one array":
        with file.open("wb") as stream:
            np.save(stream, np.arange(3))
    else:
        inside = whole[:middle] + b"\0" * 40 + whole[middle + 40 :]
        contents = {"cut off": whole[:-30], "inside": inside, "text": b"id,label\n", "empty": b""}
        file.write_bytes(contents[damage])
    with pytest.raises(ValueError, match=r"p\.npz holds no predictions of flowerkit: "):
        Predictions.load(file)
