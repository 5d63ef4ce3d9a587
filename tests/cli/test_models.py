"""cli.models: export, classify and serve, as a user types them."""

import argparse
import csv

import pytest
from exported_run import CLASSES, draw_photo, train_on_photos

from flowerkit.cli import models


def run(command, *arguments):
    """(status, lines) of a command."""
    parser = argparse.ArgumentParser()
    getattr(models, f"add_{command}_options")(parser)
    lines = []
    args = parser.parse_args(list(map(str, arguments)))
    return getattr(models, f"run_{command}")(args, lines.append, None), lines


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("iris", "rose"):
        draw_photo(name).save(folder / f"{name}.png")
    return folder


def test_a_run_is_exported(tmp_path):
    out = tmp_path / "m.keras"
    status, lines = run("export", train_on_photos("pad"), "--format", "keras", "--out", out)
    assert status == 0
    assert lines[0].startswith(f"wrote {out}: keras, ")


def test_photos_are_classified_a_line_each_and_as_a_table(photos, tmp_path):
    table = tmp_path / "predictions.csv"
    status, lines = run("classify", train_on_photos("pad"), photos, "--top", 2, "--csv", table)
    assert status == 0
    assert "4 classes, 32 px, resize 'pad'" in lines[0]
    assert lines[1].startswith(f"{photos / 'iris.png'}: iris ")
    assert lines[1].count("%") == 2
    assert lines[3:] == ["2 photos: iris 1, rose 1", f"wrote {table}"]
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    ranked = ["class_1", "probability_1", "class_2", "probability_2"]
    assert list(rows[0]) == ["photo", *ranked, "problem"]
    assert [row["class_1"] for row in rows] == ["iris", "rose"]
    assert float(rows[0]["probability_1"]) >= float(rows[0]["probability_2"])


def test_an_unreadable_photo_gets_a_line_and_status_1(photos, tmp_path):
    (photos / "jasmine.jpg").touch()
    table = tmp_path / "predictions.csv"
    status, lines = run("classify", train_on_photos("pad"), photos, "--top", 9, "--csv", table)
    assert status == 1
    assert lines[2] == f"{photos / 'jasmine.jpg'}: 0 bytes"
    assert lines[1].count("%") == len(CLASSES)
    assert lines[-1].startswith("1 of 3 files")
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert (rows[1]["class_1"], rows[1]["problem"]) == ("", "0 bytes")


@pytest.mark.parametrize("command", ["serve", "export", "classify"])
def test_a_missing_model_is_an_error_before_libraries_are_imported(command, monkeypatch, tmp_path):
    monkeypatch.delattr(models, "quiet_frameworks")
    photos = ["photo.jpg"] if command == "classify" else []
    with pytest.raises(FileNotFoundError, match="no model .*none"):
        run(command, tmp_path / "none", *photos)


@pytest.mark.parametrize("arguments", [("m", "p", "--top", "0"), ("m",)])
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        run("classify", *arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "--top" in error or "PHOTO" in error
