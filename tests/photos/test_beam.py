"""On Beam's local runner, drawn photos become the very files that one machine makes of them."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from flowerkit.photos.beam import convert_with_beam
from flowerkit.photos.conversion import convert_photos
from flowerkit.sources.synthetic import draw_flower

beam = pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")

WISH = {"image_size": 32, "val_fraction": 0.2, "test_fraction": 0.2, "seed": 3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """3 classes of 10 photos, 40 x 32 px; a copy, a near duplicate, one in two classes, one cut off."""
    folder = tmp_path_factory.mktemp("photos") / "garden"
    for k, name in enumerate(("daisy", "장미", "tulip")):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            pixels = draw_flower(4 * k, size=40, seed=i)[4:36]
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    shutil.copy(folder / "daisy/0.png", folder / "daisy/copy.png")
    Image.open(folder / "daisy/1.png").save(folder / "daisy/near.jpg", quality=70)
    shutil.copy(folder / "daisy/2.png", folder / "tulip/stray.png")
    (folder / "tulip/cut.png").write_bytes((folder / "tulip/4.png").read_bytes()[:500])
    return folder


@pytest.fixture(scope="module")
def both(photos, tmp_path_factory):
    """The folders that the plain conversion and the pipeline made, with what they answered."""
    out = tmp_path_factory.mktemp("out")
    plain = convert_photos(photos, out / "plain", **WISH, workers=1)
    return plain, convert_with_beam(photos, out / "beam", **WISH)


def list_files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_file_is_that_of_the_plain_conversion_byte_for_byte(both):
    (plain, _), (piped, _) = both
    one, other = list_files(plain.folder), list_files(piped.folder)
    assert list(one) == list(other)
    assert len([name for name in one if name.endswith(".tfrec")]) == 3
    told = {"conversion.json", "conversion.md"}  # with their seconds
    assert {name for name in one if one[name] != other[name]} <= told


def test_the_reports_differ_in_their_seconds_alone(both):
    (plain, _), (piped, _) = both
    reports = [
        json.loads((d.folder / "conversion.json").read_text("utf-8")) for d in (plain, piped)
    ]
    for report in reports:
        assert report.pop("seconds") > 0
        assert report.pop("photos_per_second") > 0
    plain_source, piped_source = (report.pop("source") for report in reports)
    assert plain_source == piped_source
    assert reports[0] == reports[1]


def test_copies_stay_on_one_side_and_what_is_wrong_is_told(both):
    _, (piped, conversion) = both
    with open(piped.folder / "photos.csv", encoding="utf-8") as file:
        split_of = {row["path"]: row["split"] for row in csv.DictReader(file)}
    assert split_of["daisy/0.png"] == split_of["daisy/copy.png"]
    assert split_of["daisy/1.png"] == split_of["daisy/near.jpg"]
    assert set(conversion.left_out) == {"daisy/2.png", "tulip/stray.png"}
    assert conversion.unreadable == {"tulip/cut.png": "cut off (500 bytes are there)"}
    assert piped.class_names == ("daisy", "tulip", "장미")
    assert sum(piped.counts.values()) == 31
    assert not (piped.folder / ".converting").exists()


def test_options_of_beam_are_passed_on(photos, tmp_path):
    with pytest.raises(ValueError, match="NoSuchRunner"):
        convert_with_beam(photos, tmp_path / "out", **WISH, beam_options=["--runner=NoSuchRunner"])


def test_what_failed_starts_anew_in_the_same_folder(photos, both, tmp_path):
    with pytest.raises(ValueError, match="NoSuchRunner"):
        convert_with_beam(photos, tmp_path / "out", **WISH, beam_options=["--runner=NoSuchRunner"])
    data, _ = convert_with_beam(photos, tmp_path / "out", **WISH)
    assert data.counts == both[0][0].counts


def test_without_beam_the_extra_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(RuntimeError, match=r'pip install -e "\.\[beam\]", or convert on one'):
        convert_with_beam(photos, tmp_path / "out", **WISH)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_and_one_class_are_refused_as_by_the_plain_conversion(
    photos, both, tmp_path
):
    with pytest.raises(FileExistsError, match="already holds"):
        convert_with_beam(photos, both[0][0].folder, **WISH)
    (tmp_path / "one/daisy").mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40, 3), "uint8")).save(tmp_path / "one/daisy/a.png")
    with pytest.raises(ValueError, match="of one class, 'daisy'"):
        convert_with_beam(tmp_path / "one", tmp_path / "out", **WISH)
