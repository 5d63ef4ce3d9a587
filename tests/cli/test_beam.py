"""`flowerkit convert-beam`, as it is called."""

import argparse

import pytest
from PIL import Image

from flowerkit.cli.beam import add_convert_beam_options, run_convert_beam
from flowerkit.sources import draw_flower


def parse(*words):
    parser = argparse.ArgumentParser()
    add_convert_beam_options(parser)
    return parser.parse_args(list(map(str, words)))


def test_options_of_beam_are_collected():
    args = parse(
        "photos",
        "out",
        "--seed",
        3,
        "--beam-option=--runner=FlinkRunner",
        "--beam-option=--parallelism=4",
        "--resize",
        "pad",
    )
    assert (args.seed, args.resize) == (3, "pad")
    assert args.beam_option == ["--runner=FlinkRunner", "--parallelism=4"]
    assert parse("photos", "out").beam_option == []


def test_it_converts_and_says_what_to_do_next(tmp_path):
    pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")
    for k, name in enumerate(("daisy", "rose")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            image = Image.fromarray(draw_flower(4 * k, size=40, seed=i))
            image.save(tmp_path / "photos" / name / f"{i}.png")
    lines = []
    args = parse(tmp_path / "photos", tmp_path / "out", "--image-size", 32)
    assert run_convert_beam(args, lines.append, lambda *_: None) == 0
    assert lines[0].startswith("10 photos of 2 classes: train 6, val 2, test 2 (")
    assert lines[-1].endswith(f"next: flowerkit train --data {tmp_path / 'out'}")
    assert len(list((tmp_path / "out/tfrecords-jpeg-32x32/train").glob("*.tfrec"))) == 1
