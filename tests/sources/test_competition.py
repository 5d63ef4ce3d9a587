"""Where the competition's files are: mounts and kagglehub without its downloads, never the network."""

import hashlib
import sys

import kagglehub
import pytest

from flowerkit.sources import competition
from flowerkit.sources.competition import (
    CLASS_NAMES,
    MOUNTS,
    download_competition,
    find_competition,
    has_kaggle_token,
)


def mount(folder, image_size=224, num_train=12):
    for split, count in (("train", num_train), ("val", 4), ("test", 8)):
        split_folder = folder / f"tfrecords-jpeg-{image_size}x{image_size}" / split
        split_folder.mkdir(parents=True)
        (split_folder / f"00-{image_size}x{image_size}-{count}.tfrec").touch()
    return folder


def test_the_names_are_the_competitions_104():
    assert len(CLASS_NAMES) == 104
    assert (CLASS_NAMES[0], CLASS_NAMES[103]) == ("pink primrose", "wild rose")
    assert (CLASS_NAMES[87], CLASS_NAMES[90]) == ("cyclamen ", "hippeastrum ")
    digest = hashlib.sha256("\n".join(CLASS_NAMES).encode()).hexdigest()
    assert digest == "f52f8c8c1d07ad1ab8f3fa4b3357fab15bd1df07f169ff451c8fbf4d64b9cc51"


def test_the_mounts_are_those_of_2026_before_the_older_ones():
    assert [str(path) for path in MOUNTS] == [
        "/kaggle/input/competitions/tpu-getting-started",
        "/kaggle/input/tpu-getting-started",
        "/kaggle/input/competitions/flower-classification-with-tpus",
        "/kaggle/input/flower-classification-with-tpus",
    ]


def test_the_first_mount_with_shards_is_taken(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    mount(tmp_path / "first", num_train=12)
    mount(tmp_path / "second", num_train=99)
    mounts = [tmp_path / name for name in ("absent", "empty", "first", "second")]
    monkeypatch.setattr(competition, "MOUNTS", mounts)
    data = find_competition()
    assert data.folder == tmp_path / "first"
    assert data.counts == {"train": 12, "val": 4, "test": 8}
    assert (data.class_names, data.image_size, data.origin) == (CLASS_NAMES, 224, "competition")


def test_no_mount_is_an_error_with_the_places_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(competition, "MOUNTS", [tmp_path / "here", tmp_path / "there"])
    with pytest.raises(
        FileNotFoundError, match=r"looked in .*here, .*there\).* Add Input, .*rules"
    ):
        find_competition()


def test_a_mount_under_another_name_is_known_by_its_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(competition, "MOUNTS", [tmp_path / "here"])
    monkeypatch.setattr(competition, "INPUT", tmp_path)
    mount(tmp_path / "datasets" / "someone" / "flowers")
    with pytest.raises(FileNotFoundError, match=r"someone/flowers holds others, .* --data "):
        find_competition()
    monkeypatch.setattr(competition, "COUNTS", {"train": 13, "val": 4, "test": 8})
    petals = mount(tmp_path / "petals-to-the-metal", num_train=13)
    assert find_competition().folder == petals
    assert find_competition().origin == "competition"


def test_a_mount_without_the_size_says_which_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(competition, "MOUNTS", [tmp_path])
    mount(tmp_path, image_size=512)
    with pytest.raises(FileNotFoundError, match=r"no tfrecords-jpeg-224x224/ .*\(found: 512\)"):
        find_competition()
    assert find_competition(image_size=512).image_size == 512


def test_a_download_is_found_where_kagglehub_put_it(tmp_path, monkeypatch):
    mount(tmp_path / "tpu-getting-started")
    monkeypatch.setattr(kagglehub, "competition_download", lambda slug: str(tmp_path / slug))
    data = download_competition()
    assert (data.folder, data.origin) == (tmp_path / "tpu-getting-started", "competition")


def test_a_failed_download_names_the_cause_and_the_remedies(monkeypatch):
    def fail(slug):
        raise PermissionError("403 Client Error")

    monkeypatch.setattr(kagglehub, "competition_download", fail)
    with pytest.raises(RuntimeError) as caught:
        download_competition()
    assert "tpu-getting-started (PermissionError: 403 Client Error)" in str(caught.value)
    for remedy in ("API token", "accept the rules", "pass the folder"):
        assert remedy in str(caught.value)


def test_a_missing_kagglehub_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(RuntimeError, match="pip install kagglehub"):
        download_competition()


def test_a_token_is_seen_where_kagglehub_looks_for_it(tmp_path, monkeypatch):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    assert not has_kaggle_token()
    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    assert not has_kaggle_token()
    monkeypatch.setenv("KAGGLE_KEY", "k")
    assert has_kaggle_token()
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "t")
    assert has_kaggle_token()
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    monkeypatch.setitem(sys.modules, "kagglehub.config", None)
    assert not has_kaggle_token()
