"""classifier: photos of every kind in, names and probabilities out; problems of unreadable files."""

import os
from dataclasses import replace

import numpy as np
import pytest
from exported_run import CLASSES, draw_photo, train_on_photos
from PIL import Image

from flowerkit.deploy import load_classifier
from flowerkit.deploy.card import ModelCard
from flowerkit.deploy.classifier import NONE_OF_THESE, Prediction, _flatten
from flowerkit.deploy.keras_file import rewrite_keras
from flowerkit.models import load_model
from flowerkit.photos.listing import list_photos

GREY = np.full((20, 30), 128, "uint8")


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(train_on_photos("pad"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four photos, an empty file, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(CLASSES):
        draw_photo(name).save(folder / f"{number}.png")
    (folder / "1b.jpg").touch()
    (folder / "2b.jpg").write_text("not a photo")
    return folder


def test_classes_are_sorted_and_ties_keep_the_order_of_the_class_names():
    prediction = Prediction("a.jpg", CLASSES, np.array([0.2, 0.3, 0.2, 0.3]))
    assert prediction.classes == [("rose", 0.3), ("수국", 0.3), ("iris", 0.2), ("tulip", 0.2)]
    assert prediction.name == "rose"
    assert str(prediction) == "a.jpg: rose 30.0 %, 수국 30.0 %, iris 20.0 %"


def test_a_prediction_without_a_photo_has_a_problem():
    prediction = Prediction("a.jpg", CLASSES, None, "0 bytes")
    assert prediction.describe() == "a.jpg: 0 bytes"
    with pytest.raises(ValueError, match=r"a\.jpg: 0 bytes"):
        _ = prediction.name


def test_a_run_is_opened_with_its_names_and_its_model(classifier):
    assert classifier.class_names == CLASSES
    assert "(keras): 4 classes, 32 px, resize 'pad', macro F1 " in str(classifier)
    assert classifier.model.count_params() == load_model(train_on_photos("pad")).count_params()


def test_a_folder_is_predicted_in_order_and_unreadable_files_get_their_problem(classifier, photos):
    steps = []
    predictions = classifier.predict(
        photos, batch_size=2, progress=lambda *step: steps.append(step)
    )
    names = ["0.png", "1.png", "1b.jpg", "2.png", "2b.jpg", "3.png"]
    assert [prediction.source for prediction in predictions] == [str(photos / n) for n in names]
    problems = [prediction.problem for prediction in predictions]
    assert problems[2] == "0 bytes"
    assert problems[4].startswith("no picture")
    readable = [prediction for prediction in predictions if prediction.problem is None]
    assert [prediction.name for prediction in readable] == list(CLASSES)
    for prediction in readable:
        assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert steps[-1] == ("classifying", 6, 6)
    alone = classifier.predict(photos / "3.png")[0]
    np.testing.assert_allclose(alone.probabilities, predictions[-1].probabilities, atol=1e-5)


def test_a_photo_that_is_less_certain_than_val_is_none_of_the_classes(classifier, photos):
    strict = replace(
        classifier, card=replace(classifier.card, val_certainty=[-100.0] + [1.0] * 100)
    )
    prediction = strict.predict(photos / "0.png")[0]
    assert (prediction.name, prediction.is_known) == (NONE_OF_THESE, False)
    assert prediction.classes[0][0] == CLASSES[0]
    assert ": none of these classes (most like iris " in str(prediction)
    assert strict.predict(photos / "0.png", accept=1)[0].name == CLASSES[0]
    with pytest.raises(ValueError, match=r"accept=1\.5.*--accept"):
        strict.predict(photos / "0.png", accept=1.5)


@pytest.mark.replicas
def test_predictions_are_the_models_own_over_any_number_of_devices(classifier, photos, accelerator):
    names = ["0.png", "1.png", "2.png"]
    predictions = classifier.predict([photos / name for name in names])
    squares = np.stack([classifier.prepare(photos / name) for name in names]).astype("float32")
    expected = np.asarray(classifier.model(squares, training=False))
    np.testing.assert_allclose(classifier.probabilities(squares), expected, atol=1e-5)
    expected = expected ** (1 / classifier.card.temperature)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose([p.probabilities for p in predictions], expected, atol=1e-4)


def test_images_and_arrays_are_predicted_as_files_are(classifier, photos):
    with Image.open(photos / "0.png") as image:
        image.load()
    pixels = np.asarray(image)
    predictions = classifier.predict([photos / "0.png", image, pixels, pixels * 0.999])
    for prediction in predictions[1:]:
        np.testing.assert_array_equal(prediction.probabilities, predictions[0].probabilities)
    assert [p.source for p in predictions[1:]] == ["photo 2", "photo 3", "photo 4"]
    assert classifier.predict([]) == []


def test_a_square_of_the_models_size_stays_as_it_is(classifier):
    square = np.random.default_rng(0).integers(0, 256, (32, 32, 3), "uint8")
    np.testing.assert_array_equal(classifier.prepare(square), square)
    np.testing.assert_array_equal(classifier.prepare(Image.fromarray(square)), square)


def test_a_photo_is_turned_as_its_exif_says(classifier, tmp_path):
    pixels = np.zeros((64, 32, 3), "uint8")
    pixels[:32] = 255  # white above, black below
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "a.png", exif=exif)
    for photo in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        square = classifier.prepare(photo)
        assert square[2, 16].mean() > 200 > 50 > square[29, 16].mean()


def test_a_model_without_a_card_is_refused(tmp_path):
    load_model(train_on_photos("pad")).save(tmp_path / "bare.keras")
    with pytest.raises(ValueError, match=r"bare\.keras has no model card.* run folder"):
        load_classifier(tmp_path / "bare.keras")


def test_a_card_of_another_model_is_refused(tmp_path):
    card = ModelCard(("a", "b"), 64, "crop")
    rewrite_keras(train_on_photos("pad") / "model.keras", tmp_path / "m.keras", card=card)
    with pytest.raises(ValueError, match=r"\(32, 32, 3\) and has 4 outputs.* 64 px and 2 classes"):
        load_classifier(tmp_path / "m.keras")


# Photos -------------------------------------------------------------------------------------------


def test_a_folder_is_its_photos_in_order_without_hidden_and_other_files(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.webp", ".hidden.jpg", ".cache/d.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    a, b, c = (tmp_path / name for name in ("a.png", "b.JPG", "sub/c.webp"))
    assert _flatten(tmp_path) == [a, b, c]
    assert _flatten([b, str(tmp_path)]) == [b, a, b, c]


def test_a_folder_is_the_photos_that_a_conversion_of_it_sees(tmp_path, caplog):
    names = ("a/1.jpg", "b/1.jpg", "b/2.jpg", "$RECYCLE.BIN/3.jpg", "b/film.mp4", "thumbs/4.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "b/more").symlink_to(tmp_path / "a")
    listing = list_photos(tmp_path)
    seen = {*(photo.path for photo in listing.photos), *listing.left_out}
    assert {path.relative_to(tmp_path).as_posix() for path in _flatten(tmp_path)} == seen
    assert {"a/gone.jpg", "b/more/gone.jpg"} <= seen
    assert set(listing.notes) - set(caplog.messages) == {"photos in b/more/ count as b"} | {
        note for note in listing.notes if note.startswith("classes with one photo")
    }


def test_a_link_to_nothing_and_a_pipe_get_their_problem(classifier, tmp_path):
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    gone, pipe = classifier.predict(tmp_path)
    assert gone.problem == "does not open (No such file or directory)"
    assert pipe.problem == "it is no file of bytes"


def test_an_empty_folder_a_missing_path_and_other_things_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no photos in .*\.jpg"):
        _flatten(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no photo .*none\.jpg"):
        _flatten(str(tmp_path / "none.jpg"))
    with pytest.raises(ValueError, match="Received: int"):
        _flatten(7)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 2, 5)), r"shape \(2, 2, 5\) is not an image"),
        (np.zeros(7), "is not an image"),
        (np.zeros((0, 4, 3)), "is not an image"),
        (np.full((4, 4), np.nan), "from nan to nan"),
        (np.zeros((4, 4), complex), "pixels are complex128"),
        (np.full((4, 4), 0.5), r"up to 0\.5 only; pass 0\.\.255"),
        (np.full((4, 4), 300), "from 300 to 300"),
        (np.full((4, 4), -1.0), r"from -1\.0 to -1\.0"),
    ],
)
def test_an_array_that_is_not_an_image_is_refused(array, reason):
    with pytest.raises(ValueError, match=reason):
        _flatten(array)


def test_arrays_become_images():
    assert [image.mode for image in _flatten([GREY, GREY[..., None]])] == ["L", "L"]
    assert len(_flatten(np.zeros((3, 8, 8, 3)))) == 3
    (image,) = _flatten(np.full((4, 4, 4), 254.6))
    assert image.mode == "RGBA"
    assert np.asarray(image)[0, 0].tolist() == [255] * 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "F", "HSV"])
def test_an_image_of_any_mode_is_read(classifier, mode):
    assert classifier.prepare(Image.new(mode, (9, 5))).shape == (32, 32, 3)
