"""`flowerkit convert` as it is typed: what it says, and how it is interrupted."""

import argparse

import pytest

from flowerkit.cli.photos import add_convert_options, run_convert
from flowerkit.sources import draw_photos


@pytest.fixture
def convert():
    parser = argparse.ArgumentParser()
    add_convert_options(parser)

    def convert(*words, progress=lambda what, done, total: None):
        told = []
        try:
            status = run_convert(parser.parse_args(list(map(str, words))), told.append, progress)
        except KeyboardInterrupt:
            status = "interrupted"
        return status, told

    return convert


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed") / "own"
    return draw_photos(folder, num_classes=2, photos_per_class=8, image_size=48)


def test_it_says_what_became_of_the_photos_and_what_comes_next(convert, own, tmp_path):
    status, told = convert(
        own,
        tmp_path / "out",
        "--image-size",
        32,
        "--val-fraction",
        0.25,
        "--test-fraction",
        0,
        "--resize",
        "pad",
        "--workers",
        1,
    )
    assert status == 0
    assert told[0].startswith("16 photos of 2 classes: train 12, val 4, test 0 (")
    assert told[1] == "no photo in test of any class"
    assert told[-1].endswith(f"next: flowerkit train --data {tmp_path / 'out'}")


def test_the_usual_options_are_those_of_the_function(own, tmp_path):
    parser = argparse.ArgumentParser()
    add_convert_options(parser)
    args = vars(parser.parse_args([str(own), str(tmp_path)]))
    assert (args["image_size"], args["resize"], args["seed"]) == (224, "crop", 0)
    assert (args["val_fraction"], args["test_fraction"], args["workers"]) == (0.2, 0.1, None)


def test_an_interrupted_one_says_how_to_go_on(convert, own, tmp_path):
    def stop(what, done, total):
        if done == 5:
            raise KeyboardInterrupt

    words = (own, tmp_path / "out", "--image-size", 32, "--workers", 1)
    status, told = convert(*words, progress=stop)
    assert status == "interrupted"
    assert told == [
        f"what was read is kept in {tmp_path / 'out'}; the same command goes on from there"
    ]
    assert convert(*words)[0] == 0
