"""A folder of photos becomes shards: complete, reported, continued, and found again."""

import csv
import io
import os
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from flowerkit.data import read_records
from flowerkit.data.tfrecords import scan_shard
from flowerkit.files import locked
from flowerkit.photos import convert_photos, find_converted, load_conversion, load_photos
from flowerkit.photos.conversion import UNFINISHED
from flowerkit.sources import find_data
from flowerkit.submission import check_submission, read_ids

PER_CLASS = 20
ONE_PROCESS = {"image_size": 32, "workers": 1}


@pytest.fixture(scope="module")
def flowers(draw, tmp_path_factory):
    """Three classes of 20 drawn photos with duplicates, near duplicates and files that are no photos."""
    folder = draw(
        tmp_path_factory.mktemp("own") / "flowers", ["데이지", "lily", "rosé"], PER_CLASS, size=48
    )
    lilies = folder / "lily"
    shutil.copy(lilies / "03.png", lilies / "copy of 03.png")
    Image.open(lilies / "04.png").resize((90, 90)).save(lilies / "04 larger.jpg", quality=80)
    (lilies / "empty.jpg").touch()
    (lilies / "notes.txt").write_text("nice")
    shutil.copy(folder / "데이지" / "05.png", folder / "rosé" / "rose or daisy.png")
    return folder


@pytest.fixture(scope="module")
def converted(flowers, tmp_path_factory):
    return convert_photos(flowers, tmp_path_factory.mktemp("converted") / "out", **ONE_PROCESS)


def read_split(data, split):
    return [record for file in data.files[split] for _, record in read_records(file)]


def read_rows(data):
    with (data.folder / "photos.csv").open(encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


# What is made -------------------------------------------------------------------------------------


def test_the_shards_are_valid_and_hold_every_photo_once(converted):
    data, conversion = converted
    assert data.class_names == ("lily", "rosé", "데이지")
    assert (data.image_size, data.origin) == (32, "folder")
    assert sum(data.counts.values()) == conversion.num_photos == 3 * PER_CLASS + 2 - 1
    ids = []
    for split, files in data.files.items():
        for file in files:
            labelled = split != "test"
            assert scan_shard(file, 32, 3, labelled, decode=True)[1] == []
        ids += [record.id for record in read_split(data, split)]
    assert len(set(ids)) == len(ids) == conversion.num_photos
    assert "데이지/07.png" in ids


def test_every_record_is_its_photo_with_its_class(converted, flowers):
    data, _ = converted
    for record in read_split(data, "train") + read_split(data, "val"):
        name = record.id.split("/")[0]
        assert data.class_names[record.label] == name
        pixels = np.asarray(Image.open(io.BytesIO(record.image))).astype(int)
        source = Image.open(flowers / record.id).convert("RGB").resize((32, 32))
        assert np.abs(pixels - np.asarray(source)).mean() < 12


def test_each_class_gives_its_share_and_the_classes_are_mixed(converted):
    data, conversion = converted
    for name, splits in conversion.counts.items():
        assert (splits["val"], splits["test"]) == (4, 2), name
    labels = [record.label for record in read_split(data, "train")]
    assert sorted(labels) != labels
    assert len(set(labels[:20])) == 3


def test_the_test_split_is_a_competitions_and_can_be_scored(converted):
    data, _ = converted
    records = read_split(data, "test")
    assert {record.label for record in records} == {None}
    ids = [record.id for record in records]
    assert read_ids(data.folder / "sample_submission.csv") == ids
    assert check_submission(data.folder / "test_labels.csv", ids, 3) == []
    rows = (data.folder / "test_labels.csv").read_text(encoding="utf-8").splitlines()[1:]
    for row in rows:
        id, label = row.split(",")
        assert data.class_names[int(label)] == id.split("/")[0]


def test_duplicates_and_near_duplicates_are_in_one_split(converted):
    data, conversion = converted
    rows = read_rows(data)
    for first, second in (
        ("lily/03.png", "lily/copy of 03.png"),
        ("lily/04.png", "lily/04 larger.jpg"),
    ):
        assert rows[first]["split"] == rows[second]["split"]
    assert sorted(map(sorted, conversion.near_duplicates)) == [
        ["lily/03.png", "lily/copy of 03.png"],
        ["lily/04 larger.jpg", "lily/04.png"],
    ]


def test_a_photo_in_two_classes_is_left_out_of_both(converted):
    data, conversion = converted
    reason = "the same picture is in 'rosé' and '데이지'; keep it in one"
    assert conversion.left_out == {"rosé/rose or daisy.png": reason, "데이지/05.png": reason}
    assert not set(conversion.left_out) & set(read_rows(data))


def test_the_report_is_there_to_read_and_to_compute_with(converted):
    data, conversion = converted
    assert load_conversion(data.folder) == conversion
    assert conversion.unreadable == {"lily/empty.jpg": "0 bytes"}
    row = read_rows(data)["lily/04 larger.jpg"]
    assert (row["class"], row["width"], row["height"]) == ("lily", "90", "90")
    assert not (data.folder / ".converting").exists()


def read_shards(data):
    return {split: [file.read_bytes() for file in files] for split, files in data.files.items()}


def test_processes_make_the_same_shards_and_the_seed_other_splits(converted, flowers, tmp_path):
    again, _ = convert_photos(flowers, tmp_path / "again", image_size=32, workers=2)
    assert read_shards(again) == read_shards(converted[0])
    seed_1, _ = convert_photos(flowers, tmp_path / "seed 1", **ONE_PROCESS, seed=1)
    rows, others = read_rows(again), read_rows(seed_1)
    assert any(rows[id]["split"] != others[id]["split"] for id in rows)


def test_given_folders_are_the_splits_and_a_duplicate_in_two_is_left_out(draw, tmp_path):
    for split, num in (("train", 6), ("val", 3), ("test", 2)):
        draw(tmp_path / "own" / split, "ab", num, seed=100 * num)
    shutil.copy(tmp_path / "own/val/a/00.png", tmp_path / "own/train/a/val0.png")
    data, conversion = convert_photos(tmp_path / "own", tmp_path / "out", **ONE_PROCESS)
    assert data.counts == {"train": 12, "val": 6, "test": 4}
    assert {record.id.split("/")[0] for record in read_split(data, "val")} == {"val"}
    assert conversion.left_out == {"train/a/val0.png": "the same picture is given to val"}


def test_unlabelled_test_photos_get_ids_and_no_labels(draw, tmp_path):
    draw(tmp_path / "own/train", "ab", 4)
    draw(tmp_path / "own", ["test"], 1, seed=50)
    data, conversion = convert_photos(tmp_path / "own", tmp_path / "out", **ONE_PROCESS)
    assert data.counts == {"train": 6, "val": 2, "test": 1}
    assert read_ids(tmp_path / "out/sample_submission.csv") == ["test/00.png"]
    assert not (tmp_path / "out/test_labels.csv").exists()
    assert conversion.num_unlabelled == 1


def test_folders_in_two_places_are_the_splits_that_they_are_given_to(draw, tmp_path):
    for place in ("A", "disk/B"):
        draw(tmp_path / place, "ab", 3, seed=len(place) * 100)
    folders = {"train": tmp_path / "A", "test": tmp_path / "disk/B"}
    out = tmp_path / "out"
    data, conversion = convert_photos(tmp_path / "A", out, **folders, **ONE_PROCESS)
    assert data.counts == {"train": 4, "val": 2, "test": 6}
    assert conversion.source == str(tmp_path)
    ids = {record.id for record in read_split(data, "test")}
    assert ids == {f"disk/B/{name}/0{k}.png" for name in "ab" for k in range(3)}
    with pytest.raises(ValueError, match=r"shards is inside the photos \(.*disk/B\)"):
        convert_photos(tmp_path / "A", tmp_path / "disk/B/shards", **folders, **ONE_PROCESS)


@pytest.mark.parametrize("width", [1, 3])
def test_classes_that_are_numbers_keep_them_from_the_folders_to_the_csv(draw, tmp_path, width):
    names = [f"{number:0{width}}" for number in range(1, 13)]
    draw(tmp_path / "own", names, 3)
    data, conversion = convert_photos(
        tmp_path / "own", tmp_path / "out", image_size=16, test_fraction=0.34, workers=1
    )
    assert data.class_names == tuple(names)
    for split in ("train", "val"):
        for record in read_split(data, split):
            assert record.id.split("/")[0] == names[record.label]
    lines = (data.folder / "test_labels.csv").read_text().splitlines()[1:]
    assert len(lines) == 12
    assert all(line.split("/")[0] == line.split(",")[1] for line in lines)
    assert sum("numbers that name classes" in note for note in conversion.notes) == 1
    sample = data.folder / "sample_submission.csv"
    assert check_submission(sample, read_ids(sample), 12, data.csv_labels) == []


def test_a_csv_gives_labels_and_splits(draw, tmp_path):
    draw(tmp_path / "own", "ab", 4)
    rows = [f"{name}/0{k},{name},{'val' if k else 'train'}" for name in "ab" for k in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
    data, _ = convert_photos(
        tmp_path / "own", tmp_path / "out", **ONE_PROCESS, labels_csv=tmp_path / "labels.csv"
    )
    assert data.counts == {"train": 2, "val": 6, "test": 0}


def test_a_class_of_one_photo_trains_and_a_note_says_so(draw, tmp_path):
    draw(tmp_path / "own", "ab", 9)
    draw(tmp_path / "own", ["alone"], 1, seed=70)
    _, conversion = convert_photos(tmp_path / "own", tmp_path / "out", **ONE_PROCESS)
    assert conversion.counts["alone"] == {"train": 1, "val": 0, "test": 0}
    assert "classes with one photo, which can only train: alone" in conversion.notes
    assert "no photo in val of alone" in conversion.notes


def test_a_path_that_is_not_utf8_is_converted_and_reported(draw, tmp_path):
    own = draw(tmp_path / "own", "ab", 4)
    try:
        for name, content in ((b"/\xb2.png", (own / "a/00.png").read_bytes()), (b"/\xb3.png", b"")):
            with open(os.fsencode(own / "a") + name, "wb") as file:
                file.write(content)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    _, conversion = convert_photos(own, tmp_path / "out", **ONE_PROCESS)
    assert conversion.near_duplicates == [["a/00.png", "a/\\xb2.png"]]
    assert conversion.unreadable == {"a/\\xb3.png": "0 bytes"}
    assert load_conversion(tmp_path / "out") == conversion


# Interrupted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("title", "at"), [("photos", 30), ("val shards", 1)])
def test_an_interrupted_conversion_continues_to_the_same_end(
    converted, flowers, tmp_path, title, at
):
    def stop(*call):
        if call[:2] == (title, at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_photos(flowers, tmp_path, **ONE_PROCESS, progress=stop)
    assert [entry.name for entry in tmp_path.iterdir()] == [UNFINISHED]  # no half data set
    data, _ = convert_photos(flowers, tmp_path, **ONE_PROCESS)
    assert read_shards(data) == read_shards(converted[0])


# The folder ---------------------------------------------------------------------------------------


def test_an_out_that_is_in_use_is_refused(converted, flowers, tmp_path):
    with pytest.raises(FileExistsError, match=r"already holds a conversion of .*flowers\..*--data"):
        convert_photos(flowers, converted[0].folder)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="already holds file"):
        convert_photos(flowers, tmp_path)
    with pytest.raises(FileExistsError, match="file cannot be written to"):
        convert_photos(flowers, tmp_path / "file")
    with pytest.raises(NotADirectoryError, match=r"file/out cannot be written to \(Not a dir"):
        convert_photos(flowers, tmp_path / "file" / "out")


def test_an_out_inside_the_photos_is_refused(flowers):
    with pytest.raises(ValueError, match="shards is inside the photos"):
        convert_photos(flowers, flowers / "shards")
    assert not (flowers / "shards").exists()


# Bad input ----------------------------------------------------------------------------------------


def test_photos_that_leave_one_class_are_refused_with_the_first_reason(draw, tmp_path):
    draw(tmp_path / "own", "a", 3)
    (tmp_path / "own/b").mkdir()
    (tmp_path / "own/b/1.jpg").write_bytes(b"")
    reason = r"photos of 1 class are left, .* two\. 1 are unreadable, .*: b/1\.jpg: 0 bytes"
    with pytest.raises(ValueError, match=reason):
        convert_photos(tmp_path / "own", tmp_path / "out", **ONE_PROCESS)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"resize": "zoom"}, "resize='zoom' is none of crop"),
        ({"image_size": 4}, "image_size=4 px is too small"),
        ({"val_fraction": 1.0}, "val_fraction=1.0 must be from 0 to below 1"),
        ({"workers": 0}, "workers=0 must be 1 or more, or None"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_made(
    flowers, tmp_path, options, reason
):
    with pytest.raises(ValueError, match=reason):
        convert_photos(flowers, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# load_photos --------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_loading_converts_once_and_again_when_a_photo_or_an_argument_changed(
    cache, draw, tmp_path, caplog
):
    caplog.set_level("INFO", "flowerkit")
    own = draw(tmp_path / "own", "ab", 6)
    first = load_photos(own, **ONE_PROCESS)
    assert first.folder.parent == cache
    assert first.counts == {"train": 8, "val": 2, "test": 2}
    times = [file.stat().st_mtime_ns for file in first.files["train"]]
    assert load_photos(own, **ONE_PROCESS) == first
    assert [file.stat().st_mtime_ns for file in first.files["train"]] == times
    assert "were converted before, into" in caplog.text
    assert "without a photo" not in caplog.text
    (own / "tulip").mkdir()
    assert load_photos(own, **ONE_PROCESS) == first
    assert caplog.messages[-1] == "folders without a photo, passed over: tulip"
    assert load_photos(own, **ONE_PROCESS, seed=1).folder != first.folder
    draw(own, "a", 7)
    changed = load_photos(own, **ONE_PROCESS)
    assert changed.folder != first.folder
    assert sum(changed.counts.values()) == 13


def test_an_argument_without_a_name_gets_the_name_it_may_have():
    for call, first in ((load_photos, "folder"), (find_data, "source")):
        with pytest.raises(
            TypeError, match=f"takes {first} without .* by name: labels_csv='a.csv'"
        ):
            call("photos", "a.csv")
    with pytest.raises(TypeError, match=r"photos, out without a name, all else by name: NAME=64\."):
        convert_photos("photos", "data", 64)


def test_what_is_unreadable_is_logged(cache, flowers, caplog):
    caplog.set_level("INFO", "flowerkit")
    data = load_photos(flowers, **ONE_PROCESS)
    assert Counter(data.counts) == Counter(train=43, val=12, test=6)
    assert "unreadable, 1 photo: lily/empty.jpg: 0 bytes" in caplog.text


def test_converted_photos_in_the_cache_are_found_unless_a_process_is_converting(
    cache, draw, tmp_path
):
    assert find_converted() == []
    (cache / "photos-2024").mkdir(parents=True)  # the user's own
    data = load_photos(draw(tmp_path / "own", "ab", 4), **ONE_PROCESS)
    growing = cache / "photos-ffffffffffffffff"
    (growing / UNFINISHED).mkdir(parents=True)
    with locked(growing / UNFINISHED / "lock", "converting"):
        assert find_converted() == [data.folder]
    assert find_converted() == [data.folder, growing]
