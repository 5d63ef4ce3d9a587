"""classifier: photos of every kind in, names and probabilities out; bad files answered with a line."""

import numpy as np
import pytest
from exported_run import CLASSES, export, make_run, needed
from PIL import Image

from flowerkit.deploy.classifier import Classifier, Prediction
from flowerkit.models.classifier import load_model


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(make_run())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five photos of other shapes than the model's, a 0-byte file, and one that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (6, 8, 3), "uint8")
        Image.fromarray(pixels).resize((80, 60)).save(folder / f"{number}.png")
    (folder / "1b.jpg").touch()
    (folder / "3b.jpg").write_text("not a photo")
    return folder


def test_answers_are_sorted_and_equals_keep_the_order_of_the_classes():
    answer = Prediction("a.jpg", CLASSES, np.array([0.2, 0.3, 0.3, 0.2]))
    assert answer.classes == [("rose", 0.3), ("수국", 0.3), ("iris", 0.2), ("tulip", 0.2)]
    assert answer.name == "rose"
    assert str(answer) == "a.jpg: rose 30.0 %, 수국 30.0 %, iris 20.0 %"


def test_an_answer_without_a_photo_says_why():
    answer = Prediction("a.jpg", CLASSES, None, "0 bytes")
    assert answer.describe() == "a.jpg: 0 bytes"
    with pytest.raises(ValueError, match=r"a\.jpg: 0 bytes"):
        _ = answer.name


def test_a_run_is_opened_with_its_names_and_its_model(classifier):
    assert classifier.class_names == CLASSES
    assert str(classifier).endswith("(keras): 4 classes, 32 px, fit 'crop', macro F1 0.7500 on val")
    assert classifier.model.count_params() == load_model(make_run()).count_params()


def test_a_folder_is_answered_in_order_and_bad_files_with_a_line(classifier, photos):
    told = []
    predictions = classifier.predict(photos, batch_size=2, progress=lambda *step: told.append(step))
    assert [answer.source for answer in predictions] == [
        str(photos / name)
        for name in ("0.png", "1.png", "1b.jpg", "2.png", "3.png", "3b.jpg", "4.png")
    ]
    assert [answer.problem for answer in predictions if answer.problem] == [
        "0 bytes",
        "no picture (begins with b'not a photo', 11 bytes)",
    ]
    for answer in predictions:
        if answer.problem is None:
            assert answer.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert told[-1] == ("classifying", 7, 7)
    alone = classifier.predict(photos / "4.png")[0]
    np.testing.assert_allclose(alone.probabilities, predictions[-1].probabilities, atol=1e-5)


@pytest.mark.replicas
def test_answers_are_the_models_own_over_any_number_of_devices(classifier, photos, accelerator):
    names = ["0.png", "1.png", "2.png"]
    predictions = classifier.predict([photos / name for name in names])
    squares = np.stack([classifier.prepare(photos / name) for name in names]).astype("float32")
    expected = np.asarray(classifier.model(squares, training=False))
    np.testing.assert_allclose([one.probabilities for one in predictions], expected, atol=1e-5)
    np.testing.assert_allclose(classifier.predict_pixels(squares), expected, atol=1e-5)


def test_pictures_and_arrays_are_answered_as_files_are(classifier, photos):
    with Image.open(photos / "0.png") as image:
        image.load()
    several = classifier.predict(
        [photos / "0.png", image, np.asarray(image), np.asarray(image) * 0.999]
    )
    for answer in several[1:]:
        np.testing.assert_array_equal(answer.probabilities, several[0].probabilities)
    assert [answer.source for answer in several[1:]] == ["photo 2", "photo 3", "photo 4"]


def test_a_square_of_the_models_size_is_taken_as_it_is(classifier):
    square = np.random.default_rng(0).integers(0, 256, (32, 32, 3), "uint8")
    np.testing.assert_array_equal(classifier.prepare(square), square)
    np.testing.assert_array_equal(classifier.prepare(Image.fromarray(square)), square)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_photos_of_every_mode_are_answered(classifier, tmp_path, mode):
    name = "a.tif" if mode == "CMYK" else "a.png"
    Image.new(mode, (50, 40)).save(tmp_path / name)
    assert classifier.predict(tmp_path / name)[0].problem is None


def test_a_turned_photo_is_turned_back_and_the_fit_is_the_cards(tmp_path):
    pixels = np.zeros((64, 32, 3), "uint8")
    pixels[:32] = 255  # white above, black below
    turned = Image.fromarray(np.rot90(pixels))  # as a camera held sideways keeps it
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.png", exif=exif)
    crop, pad = (Classifier.load(make_run(), fit=fit) for fit in ("crop", "pad"))
    for photo in (tmp_path / "a.png", Image.open(tmp_path / "a.png")):
        square = crop.prepare(photo)
        assert square[2, 16].mean() > 200 > 50 > square[29, 16].mean()
        assert pad.prepare(photo)[:, :6].mean() < 20  # the black bars at the sides


def test_nothing_to_classify_is_no_answer(classifier):
    assert classifier.predict([]) == []
    assert classifier.predict_pixels(np.zeros((0, 32, 32, 3))).shape == (0, 4)
    with pytest.raises(ValueError, match=r"must be \(n, 32, 32, 3\), not \(1, 16, 16, 3\)"):
        classifier.predict_pixels(np.zeros((1, 16, 16, 3)))


def test_attention_is_there_for_keras_models(classifier, photos):
    attention = classifier.find_attention(photos / "0.png", "rose")
    assert attention.shape == (32, 32)
    assert 0 <= attention.min() <= attention.max() <= 1
    with pytest.raises(ValueError, match="'dandelion' is none of the 4 classes"):
        classifier.find_attention(photos / "0.png", "dandelion")


def test_attention_of_another_format_is_refused(photos):
    for module in needed("onnx"):
        pytest.importorskip(module)
    other = Classifier.load(export("onnx").path)
    assert other.model is None
    with pytest.raises(ValueError, match="is onnx, which gives no gradients"):
        other.find_attention(photos / "0.png")


def test_a_model_without_names_needs_them(tmp_path):
    load_model(make_run()).save(tmp_path / "bare.keras")
    with pytest.raises(ValueError, match=r"bare\.keras does not say what its 4 classes are called"):
        Classifier.load(tmp_path / "bare.keras")
    assert Classifier.load(tmp_path / "bare.keras", class_names=list("abcd")).class_names[0] == "a"
    with pytest.raises(ValueError, match="has 4 outputs and 2 class names"):
        Classifier.load(tmp_path / "bare.keras", class_names=["a", "b"])


def test_a_model_of_something_else_is_refused(tmp_path):
    import keras

    keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)]).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"takes input of shape \(7,\), not squares"):
        Classifier.load(tmp_path / "m.keras", class_names=["a", "b"])
