"""model_commands: export and classify as a person types them."""

import argparse
import csv
import re

import numpy as np
import pytest
from exported_run import make_run
from PIL import Image

from flowerkit.cli import models as model_commands
from flowerkit.deploy import serving


def run(name, *words):
    """(status, the lines that were told) of a command."""
    parser = argparse.ArgumentParser()
    getattr(model_commands, f"add_{name}_options")(parser)
    lines = []
    args = parser.parse_args([str(word) for word in words])
    return getattr(model_commands, f"run_{name}")(args, lines.append, None), lines


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), "uint8")
    for number, photo in enumerate(pixels):
        Image.fromarray(photo).save(folder / f"{number}.png")
    return folder


def test_a_run_is_exported_and_told(tmp_path):
    status, lines = run("export", make_run(), "--format", "keras", "--out", tmp_path / "m.keras")
    assert status == 0
    assert lines[0].startswith(f"wrote {tmp_path / 'm.keras'}: keras, ")
    assert lines[0].endswith("4 classes, 32 px, probabilities within 0 of the run's")


def test_photos_are_classified_a_line_each_and_as_a_table(photos, tmp_path):
    table = tmp_path / "answers.csv"
    status, lines = run("classify", make_run(), photos, "--top", 2, "--csv", table)
    assert status == 0
    assert "4 classes, 32 px" in lines[0]
    assert lines[1].startswith(f"{photos / '0.png'}: ")
    assert lines[1].count("%") == 2
    assert lines[3].startswith("2 photos: ")
    assert lines[-1] == f"wrote {table}"
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert list(rows[0]) == [
        "photo",
        "class_1",
        "probability_1",
        "class_2",
        "probability_2",
        "problem",
    ]
    assert [row["photo"] for row in rows] == [str(photos / f"{n}.png") for n in (0, 1)]
    assert float(rows[0]["probability_1"]) >= float(rows[0]["probability_2"])


def test_a_bad_photo_is_told_the_rest_is_answered_and_the_status_is_1(photos, tmp_path):
    (photos / "0b.jpg").touch()
    status, lines = run("classify", make_run(), photos, "--top", 9, "--csv", tmp_path / "a.csv")
    assert status == 1
    assert lines[2] == f"{photos / '0b.jpg'}: 0 bytes"
    assert lines[1].count("%") == lines[3].count("%") == 4  # all there are
    assert re.fullmatch(r"2 photos: \w+ [12](, \w+ 1)?", lines[4])
    assert lines[-1] == "1 of 3 files could not be read"
    rows = list(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8")))
    assert (rows[1]["class_1"], rows[1]["problem"]) == ("", "0 bytes")


def test_a_taken_port_is_told_before_the_model_is_opened(monkeypatch):
    def taken(port):
        raise OSError(f"port {port} of 127.0.0.1 is taken")

    monkeypatch.setattr(serving, "check_port", taken)
    with pytest.raises(OSError, match="port 7999 of"):
        run("serve", "no-such-model", "--port", 7999)


@pytest.mark.parametrize("command", ["serve", "export"])
def test_a_missing_model_is_told_before_libraries_are_imported(command, monkeypatch, tmp_path):
    def imported(*args):
        raise AssertionError("too early")

    monkeypatch.setattr(serving, "import_gradio", imported)
    monkeypatch.setattr(model_commands, "quiet_frameworks", imported)
    with pytest.raises(FileNotFoundError, match="no model .*none. Pass a run folder"):
        run(command, tmp_path / "none")


@pytest.mark.parametrize("words", [("m", "p", "--top", "0"), ("m", "p", "--batch", "x"), ("m",)])
def test_wrong_usage_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        run("classify", *words)
    assert ended.value.code == 2
    assert "must be a whole number from 1" in (text := capsys.readouterr().err) or "PHOTO" in text
