"""The folder that a conversion makes: claimed before anything is read."""

import os
from dataclasses import replace

import pytest
from PIL import Image

from flowerkit.photos import convert_photos
from flowerkit.photos.folder import Request, claim_folder


@pytest.fixture
def request_of(tmp_path):
    """A request with the photos in own/ and an `out` to choose."""
    (tmp_path / "own").mkdir()
    asked = Request(tmp_path / "own", tmp_path / "out", 32, "crop", 0.2, 0.1, 0)
    return lambda out: replace(asked, out=out)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_size": 4}, "image_size=4 px is too small"),
        ({"resize": "zoom"}, "resize='zoom' is unknown"),
        ({"test_fraction": 0.8}, "leave nothing to train on"),
    ],
)
def test_a_request_that_makes_no_sense_cannot_be_made(request_of, tmp_path, change, reason):
    asked = request_of(tmp_path / "out")
    with pytest.raises(ValueError, match=reason):
        replace(asked, **change)


def test_a_new_an_empty_and_an_unfinished_folder_are_claimed(request_of, tmp_path):
    for _ in range(2):
        claim_folder(request_of(tmp_path / "deep" / "out"))
        assert [entry.name for entry in (tmp_path / "deep/out").iterdir()] == [".converting"]
    (tmp_path / "empty").mkdir()
    claim_folder(request_of(tmp_path / "empty"))


def test_a_folder_in_use_and_a_file_are_refused(request_of, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "classes.json").touch()
    with pytest.raises(FileExistsError, match=r"already holds classes\.json\. Convert into a new"):
        claim_folder(request_of(tmp_path / "used"))
    with pytest.raises(FileExistsError, match="classes.json is a file. Pass a folder that is new"):
        claim_folder(request_of(tmp_path / "used" / "classes.json"))


def test_a_whole_conversion_says_how_to_train_on_it(request_of, tmp_path):
    for number in range(4):
        for name in "ab":
            save_noise(tmp_path / "own" / name / f"{number}.png")
    data, _ = convert_photos(tmp_path / "own", tmp_path / "used", image_size=32, workers=1)
    with pytest.raises(FileExistsError, match="conversion of .*own, whole: .* --data .*used"):
        claim_folder(request_of(data.folder))


def save_noise(path):
    path.parent.mkdir(exist_ok=True)
    Image.frombytes("RGB", (32, 32), os.urandom(3 * 32 * 32)).save(path)


def test_an_out_inside_the_photos_is_refused(request_of, tmp_path):
    with pytest.raises(
        ValueError, match="lies inside the photos .* and would be taken for a class"
    ):
        claim_folder(request_of(tmp_path / "own" / "shards"))
    assert not (tmp_path / "own" / "shards").exists()


def test_an_out_that_cannot_be_written_is_refused(request_of, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        NotADirectoryError, match=r"file/out cannot be made or written \(Not a directory\)"
    ):
        claim_folder(request_of(tmp_path / "file" / "out"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_refused(request_of, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r"cannot be made or written \(Permission denied\)"):
        claim_folder(request_of(tmp_path / "locked" / "out"))
