"""export, classify and serve as they are typed."""

import csv
import os

import pytest
from exported_run import CLASSES, draw_photo, train_on_photos

from flowerkit.cli import use


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("iris", "rose"):
        draw_photo(name).save(folder / f"{name}.png")
    return folder


def test_a_run_is_exported(flowerkit, tmp_path):
    out = tmp_path / "m.keras"
    words = ("export", train_on_photos("pad"), "--format", "keras", "--out", out)
    status, lines, _ = flowerkit(*words)
    assert status == 0
    assert lines[0].startswith(f"wrote {out}: keras, ")


def test_photos_are_classified_a_line_each_and_as_a_table(flowerkit, photos, tmp_path):
    table = tmp_path / "predictions.csv"
    words = ("classify", train_on_photos("pad"), photos, "--top", 2, "--csv", table)
    status, lines, _ = flowerkit(*words)
    assert status == 0
    assert "4 classes, 32 px, resize 'pad'" in lines[0]
    assert lines[1].startswith(f"{photos / 'iris.png'}: iris ")
    assert lines[1].count("%") == 2
    assert lines[3:] == ["2 photos: iris 1, rose 1", f"wrote {table}"]
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    ranked = ["class_1", "probability_1", "class_2", "probability_2"]
    assert list(rows[0]) == ["photo", "answer", *ranked, "problem"]
    assert [row["answer"] for row in rows] == [row["class_1"] for row in rows] == ["iris", "rose"]
    assert float(rows[0]["probability_1"]) >= float(rows[0]["probability_2"])


def test_the_nearest_training_photos_stand_below_a_photo_and_in_the_table(
    flowerkit, photos, tmp_path
):
    table = tmp_path / "predictions.csv"
    words = ("classify", train_on_photos("pad"), photos, "--similar", 2, "--csv", table)
    status, lines, _ = flowerkit(*words)
    assert status == 0
    nearest = [line for line in lines if line.startswith("  like ")]
    assert [line.split("/")[0] for line in nearest] == ["  like iris"] * 2 + ["  like rose"] * 2
    row = next(csv.DictReader(table.open(encoding="utf-8")))
    assert nearest[1] == f"  like {row['similar_2']} (iris, {float(row['similarity_2']):.2f})"
    assert row["similar_class_2"] == "iris"


@pytest.mark.parametrize(
    ("option", "value", "range"),
    [("--accept", each, "a number above 0 and at most 1") for each in ("0", "1.5", "95 %", "nan")]
    + [("--similar", each, "a whole number from 0") for each in ("-1", "2.5", "many")],
)
def test_an_option_out_of_range_is_wrong_usage_and_gets_its_range(
    flowerkit, option, value, range, photos
):
    status, _, err = flowerkit("classify", train_on_photos("pad"), photos, option, value)
    assert status == 2
    assert f"({option} {value}" in err
    assert range in err
    assert ".." not in err


def test_photos_with_names_that_are_not_utf8_are_classified_and_named(flowerkit, photos, tmp_path):
    try:
        os.rename(photos / "iris.png", os.fsencode(photos) + b"/" + "붓꽃.png".encode("cp949"))
        os.rename(photos / "rose.png", os.fsencode(photos) + b"/ros\xe9.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    table = tmp_path / "predictions.csv"
    words = ("classify", train_on_photos("pad"), photos, "--csv", table)
    status, lines, _ = flowerkit(*words)
    assert status == 0
    assert lines[1].startswith(rf"{photos}/ros\xe9.png: rose ")
    assert lines[2].startswith(f"{photos}/붓꽃.png: iris ")
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [row["photo"] for row in rows] == [rf"{photos}/ros\xe9.png", f"{photos}/붓꽃.png"]


def test_an_unreadable_photo_gets_a_line_and_status_1(flowerkit, photos, tmp_path):
    (photos / "jasmine.jpg").touch()
    table = tmp_path / "predictions.csv"
    table.write_text("photo,answer,an older one\n")
    words = ("classify", train_on_photos("pad"), photos, "--top", 9, "--csv", table)
    status, lines, _ = flowerkit(*words)
    assert status == 1
    assert lines[2] == f"{photos / 'jasmine.jpg'}: 0 bytes"
    assert lines[1].count("%") == len(CLASSES)
    assert lines[-1].startswith("1 of 3 files")
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert (rows[1]["class_1"], rows[1]["problem"]) == ("", "0 bytes")


def test_a_csv_that_is_no_table_of_classify_is_not_replaced(flowerkit, photos, tmp_path):
    (tmp_path / "labels.csv").write_text("photo,label\na.jpg,rose\n")
    for file in (tmp_path / "labels.csv", photos):
        status, _, err = flowerkit("classify", train_on_photos("pad"), photos, "--csv", file)
        assert status == 1
        assert f"{file} exists and is no table of `flowerkit classify`. Name another csv" in err
    assert (tmp_path / "labels.csv").read_text() == "photo,label\na.jpg,rose\n"


@pytest.mark.parametrize("command", ["serve", "export", "classify"])
def test_a_missing_model_is_an_error_before_libraries_are_imported(
    flowerkit, command, monkeypatch, tmp_path
):
    monkeypatch.delattr(use, "quiet_frameworks")
    photos = ["photo.jpg"] if command == "classify" else []
    status, _, err = flowerkit(command, tmp_path / "none", *photos)
    assert status == 1
    assert "no model " in err
