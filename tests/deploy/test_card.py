"""card: written into exports and read back, and made from a run through every writer before it."""

from dataclasses import replace

import numpy as np
import pytest
from exported_run import CLASSES, draw_photo, train_on_photos

from flowerkit.deploy import export_model, load_classifier
from flowerkit.deploy.card import ModelCard, find_run_card, rank_certainty

CARD = ModelCard(("rose", "수국"), 224, "pad", 0.91, "tiny", "drawn", 0.7, np.linspace(-5, 0, 101))


@pytest.mark.parametrize("resize", ["pad", "squish"])
def test_photos_are_resized_for_the_classifier_as_for_training(resize, tmp_path):
    run = train_on_photos(resize)
    exported = export_model(run, tmp_path / "m.keras", "keras")
    assert find_run_card(run).resize == exported.card.resize == resize
    for path in (run, exported.path):
        classifier = load_classifier(path)
        square = classifier.prepare(draw_photo("rose"))
        assert square[16, 1].argmax() == 1  # the green border, which a crop would lose
        assert (square[2] < 30).all() == (resize == "pad")  # black bars above and below
        predicted = classifier.predict([draw_photo(name, 100) for name in CLASSES])
        assert [prediction.name for prediction in predicted] == list(CLASSES)
    cropping = replace(classifier, card=replace(classifier.card, resize="crop"))
    probabilities = [p.probabilities for p in cropping.predict(list(map(draw_photo, CLASSES)))]
    assert np.ptp(probabilities, axis=0).max() < 0.05  # it sees the same grey in all photos


def test_the_card_of_a_run_is_what_the_run_recorded(tmp_path):
    card = find_run_card(train_on_photos("pad"))
    assert card.class_names == CLASSES
    assert (card.image_size, card.backbone, card.trained_on) == (32, "tiny", "folder")
    assert card.val_f1 > 0.9
    assert 0.5 <= card.temperature < 1  # label smoothing: it is more often right than it says
    assert len(card.val_certainty) == 101
    assert find_run_card(tmp_path) is None


def test_a_run_on_square_images_crops(finished_run, tmp_path):
    exported = export_model(finished_run, tmp_path / "m.keras", "keras")
    assert exported.card == find_run_card(finished_run.folder)
    assert exported.card.resize == "crop"


def test_a_card_is_read_as_it_was_written():
    text = CARD.to_json()
    assert ModelCard.from_json(text, source="m.onnx") == CARD
    assert '"input": "RGB pixels 0..255, float32 (n, image_size, image_size, 3)"' in text
    assert "수국" in text


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('"resize"', '"fit"', "no 'resize'"),
        ('"pad"', '"letterbox"', "resize='letterbox'"),
        ("224", "-1", "image_size=-1"),
        ('"수국"', '"rose"', r"Received: \('rose', 'rose'\)"),
        ("{", "[", "Expecting"),
        ('"temperature": 0.7', '"temperature": 0', "above 0.*and 0"),
        ("-5.0, ", "", "101 values.*100"),
    ],
)
def test_a_damaged_card_is_refused_with_its_file_and_the_reason(before, after, reason):
    text = CARD.to_json().replace(before, after)
    with pytest.raises(ValueError, match=rf"m\.onnx .*{reason}.* Export the model again"):
        ModelCard.from_json(text, source="m.onnx")


@pytest.mark.parametrize(
    ("names", "reason"), [([1, 2], r"\(1, 2\)"), (["a"], r"\('a',\)"), (["a", ""], r"\('a', ''\)")]
)
def test_class_names_are_two_or_more(names, reason):
    with pytest.raises(ValueError, match=reason):
        ModelCard(names, 32, "crop")


def test_a_threshold_accepts_at_least_the_fraction_of_val_that_was_asked_for():
    card = replace(CARD, val_certainty=rank_certainty(range(-200, 0)))
    for accept, accepted in ((0.95, 191), (0.9, 181), (0.5, 101), (0.01, 3)):
        assert sum(value >= card.threshold(accept) for value in range(-200, 0)) == accepted
    assert card.threshold() == card.threshold(0.95)
    assert card.threshold(1) == -100.0
    assert ModelCard(("a", "b"), 32, "crop").threshold(0.5) == -100.0  # val was not measured


@pytest.mark.parametrize(("num", "accepts_all"), [(18, True), (19, False)])
def test_of_few_images_of_val_no_threshold_is_known_and_everything_is_accepted(num, accepts_all):
    card = replace(CARD, val_certainty=rank_certainty([-1.0] * num))
    assert (card.threshold(0.95) == -100.0) == accepts_all


@pytest.mark.parametrize("accept", [0, -0.1, 1.01, float("nan"), "0.9", None])
def test_a_fraction_out_of_range_is_refused(accept):
    with pytest.raises(ValueError, match=rf"accept={accept!r}.*--accept.*above 0 and at most 1"):
        CARD.threshold(accept)
