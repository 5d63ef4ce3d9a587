"""model_card: what is written inside an export, read back, and made from a run."""

import pytest

from flowerkit.deploy.card import ModelCard, check_names, read_run_card
from flowerkit.files import write_json

CARD = ModelCard(("rose", "수국"), 224, "pad", 0.91, "tiny", "drawn")


def write_run(folder, **data):
    known = {"class_names": ["iris", "rose"], "image_size": 64, "origin": "folder"}
    write_json(folder / "environment.json", {"data": known | {"folder": str(folder)} | data})
    return folder


def test_a_card_comes_back_as_it_was_written():
    assert ModelCard.from_json(CARD.to_json(), where="x") == CARD


def test_a_card_says_the_contract_in_words():
    assert '"input": "RGB pixels 0..255, float32 (n, image_size, image_size, 3)"' in CARD.to_json()
    assert "수국" in CARD.to_json()


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"class_names": ["a", "b"]}'])
def test_what_is_no_card_is_refused_with_its_place(text):
    with pytest.raises(ValueError, match=r"model in m\.onnx cannot be read .*Export it again"):
        ModelCard.from_json(text, where="m.onnx")


def test_a_way_to_fit_that_is_not_known_is_refused():
    text = CARD.to_json().replace('"pad"', '"letterbox"')
    with pytest.raises(ValueError, match="fitted by 'letterbox' to 224 px.*Install flowerkit 0"):
        ModelCard.from_json(text, where="m.onnx")


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ("ab", "must be a list of names"),
        ([1, 2], "must be a list"),
        (["a"], "each once: there are 1"),
        (["a", "b", "a"], "each once: 'a' stands twice"),
    ],
)
def test_names_are_two_or_more_each_once(names, fault):
    with pytest.raises(ValueError, match=fault):
        check_names(names, where="x")


def test_a_runs_card_is_what_the_run_wrote_down(tmp_path):
    run = write_run(tmp_path)
    assert read_run_card(run) == ModelCard(("iris", "rose"), 64, trained_on="folder")
    write_json(run / "result.json", {"val_f1": 0.5})
    write_json(run / "plan.json", {"backbone": "weights/lite0.keras"})
    assert read_run_card(run) == ModelCard(("iris", "rose"), 64, "crop", 0.5, "lite0", "folder")
    assert read_run_card(tmp_path / "none") is None


def test_photos_are_resized_as_the_run_says(tmp_path):
    assert read_run_card(write_run(tmp_path, resize="pad")).fit == "pad"
