"""On Beam's local runner, drawn photos become the very files that one machine makes of them."""

import shutil
import sys
from dataclasses import replace

import pytest
from PIL import Image

from flowerkit.photos import convert_photos

beam = pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")

OPTIONS = {"image_size": 32, "val_fraction": 0.2, "test_fraction": 0.2, "seed": 3}


@pytest.fixture(scope="module")
def photos(draw, tmp_path_factory):
    """3 classes of 10 photos; a duplicate, a near duplicate, one in two classes, one cut off."""
    folder = draw(
        tmp_path_factory.mktemp("photos") / "garden", ["daisy", "장미", "tulip"], 10, size=40
    )
    shutil.copy(folder / "daisy/00.png", folder / "daisy/copy.png")
    Image.open(folder / "daisy/01.png").save(folder / "daisy/near.jpg", quality=70)
    shutil.copy(folder / "daisy/02.png", folder / "tulip/stray.png")
    (folder / "tulip/cut.png").write_bytes((folder / "tulip/04.png").read_bytes()[:500])
    return folder


@pytest.fixture(scope="module")
def both(photos, tmp_path_factory):
    """The folders that the plain conversion and the pipeline made, with their reports."""
    out = tmp_path_factory.mktemp("out")
    plain = convert_photos(photos, out / "plain", **OPTIONS, workers=1)
    return plain, convert_photos(photos, out / "beam", **OPTIONS, beam_options=[])


def list_files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_file_is_that_of_one_machine_byte_for_byte(both):
    (plain, _), (piped, _) = both
    first, second = list_files(plain.folder), list_files(piped.folder)
    assert list(first) == list(second)
    assert len([name for name in first if name.endswith(".tfrec")]) == 3
    timed = {"conversion.json"}
    assert {name for name in first if first[name] != second[name]} <= timed


def test_the_reports_differ_in_their_seconds_alone(both):
    (_, plain), (_, piped) = both
    assert replace(piped, seconds=plain.seconds) == plain
    assert set(piped.left_out) == {"daisy/02.png", "tulip/stray.png"}
    assert piped.unreadable == {"tulip/cut.png": "cut off (500 bytes are there)"}


def test_a_pipeline_that_failed_starts_anew_in_the_same_folder(photos, both, tmp_path):
    with pytest.raises(ValueError, match="NoSuchRunner"):
        convert_photos(photos, tmp_path / "out", **OPTIONS, beam_options=["--runner=NoSuchRunner"])
    data, _ = convert_photos(photos, tmp_path / "out", **OPTIONS, beam_options=[])
    assert data.counts == both[0][0].counts


def test_without_beam_the_extra_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(
        RuntimeError, match=r'pip install -e "\.\[beam\]", or convert without --beam'
    ):
        convert_photos(photos, tmp_path / "out", **OPTIONS, beam_options=[])
