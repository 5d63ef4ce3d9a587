"""A folder of photos becomes shards: whole, reported, gone on with, and found again."""

import csv
import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from flowerkit.data.tfrecords import check_shard, read_records
from flowerkit.photos.cache import PhotoCache
from flowerkit.photos.conversion import clear_converted, convert_photos, find_converted, load_photos
from flowerkit.photos.folder import UNFINISHED
from flowerkit.sources.synthetic import draw_flower
from flowerkit.submission import check_submission, read_ids

SPECIES = {"데이지": 0, "lily": 8, "rosé": 24}
PER_CLASS = 20


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """Three classes of 20 drawn photos; in one, a copy, a near-copy, and files that are no photos."""
    folder = tmp_path_factory.mktemp("own") / "flowers"
    for name, kind in SPECIES.items():
        for number in range(PER_CLASS):
            save(draw_flower(kind, size=48, seed=number), folder / name / f"{number:02d}.png")
    lilies = folder / "lily"
    shutil.copy(lilies / "03.png", lilies / "copy of 03.png")
    Image.open(lilies / "04.png").resize((90, 90)).save(lilies / "04 larger.jpg", quality=80)
    (lilies / "empty.jpg").touch()
    (lilies / "notes.txt").write_text("nice")
    shutil.copy(folder / "데이지" / "05.png", folder / "rosé" / "rose or daisy.png")
    return folder


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def converted(flowers, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "out"
    return convert_photos(flowers, out, image_size=32, workers=1)


def read_split(data, split):
    return [record for file in data.files[split] for _, record in read_records(file)]


def read_rows(data):
    with (data.folder / "photos.csv").open(encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


# What is made -------------------------------------------------------------------------------------


def test_the_shards_are_sound_and_hold_every_photo_once(converted):
    data, conversion = converted
    assert data.class_names == ("lily", "rosé", "데이지")
    assert (data.image_size, data.origin) == (32, "folder")
    assert sum(data.counts.values()) == conversion.num_photos == 3 * PER_CLASS + 2 - 1
    ids = []
    for split, files in data.files.items():
        for file in files:
            labelled = split != "test"
            assert check_shard(file, image_size=32, num_classes=3, labelled=labelled) == []
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


def test_copies_and_near_copies_are_on_one_side(converted):
    data, conversion = converted
    rows = read_rows(data)
    for one, other in (
        ("lily/03.png", "lily/copy of 03.png"),
        ("lily/04.png", "lily/04 larger.jpg"),
    ):
        assert rows[one]["split"] == rows[other]["split"]
    assert ["lily/03.png", "lily/copy of 03.png"] in conversion.copies
    assert sorted(map(sorted, conversion.near_copies)) == [
        ["lily/03.png", "lily/copy of 03.png"],
        ["lily/04 larger.jpg", "lily/04.png"],
    ]


def test_a_photo_in_two_classes_is_left_out_of_both(converted):
    data, conversion = converted
    reason = "the same picture stands in 'rosé' and '데이지'; keep it in one"
    assert conversion.left_out == {"rosé/rose or daisy.png": reason, "데이지/05.png": reason}
    assert not set(conversion.left_out) & set(read_rows(data))


def test_the_report_is_there_to_read_and_to_compute_with(converted):
    data, conversion = converted
    text = (data.folder / "conversion.md").read_text(encoding="utf-8")
    assert "| 데이지 | 13 | 4 | 2 |" in text
    assert "- lily/empty.jpg: 0 bytes" in text
    assert "- lily/03.png, lily/copy of 03.png" in text
    assert "files that are no photos, passed over: 1 .txt" in text
    found = json.loads((data.folder / "conversion.json").read_text(encoding="utf-8"))
    assert found["unreadable"] == conversion.unreadable == {"lily/empty.jpg": "0 bytes"}
    assert found["jpeg_quality"] == 92
    row = read_rows(data)["lily/04 larger.jpg"]
    assert (row["class"], row["width"], row["height"]) == ("lily", "90", "90")
    assert not (data.folder / ".converting").exists()


def test_processes_and_another_folder_make_the_same_shards(converted, flowers, tmp_path):
    again, _ = convert_photos(flowers, tmp_path / "again", image_size=32, workers=2)
    for split, files in converted[0].files.items():
        assert [file.read_bytes() for file in files] == [
            file.read_bytes() for file in again.files[split]
        ]
    other, _ = convert_photos(flowers, tmp_path / "other", image_size=32, seed=1, workers=1)
    rows, others = read_rows(again), read_rows(other)
    assert any(rows[id]["split"] != others[id]["split"] for id in rows)


def test_given_folders_are_the_splits_and_a_copy_in_two_is_left_out(tmp_path):
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        for name, kind in (("a", 0), ("b", 20)):
            for number in range(count):
                seed = 100 * count + number
                save(
                    draw_flower(kind, size=32, seed=seed),
                    tmp_path / f"own/{split}/{name}/{number}.png",
                )
    shutil.copy(tmp_path / "own/val/a/0.png", tmp_path / "own/train/a/val0.png")
    data, conversion = convert_photos(tmp_path / "own", tmp_path / "out", image_size=32, workers=1)
    assert data.counts == {"train": 12, "val": 6, "test": 4}
    assert {record.id.split("/")[0] for record in read_split(data, "val")} == {"val"}
    assert conversion.left_out == {"train/a/val0.png": "the same picture is given to val"}


def test_unlabelled_test_photos_get_ids_and_no_labels(tmp_path):
    for number in range(4):
        for name, kind in (("a", 0), ("b", 20)):
            save(
                draw_flower(kind, size=32, seed=number), tmp_path / f"own/train/{name}/{number}.png"
            )
    save(draw_flower(3, size=32, seed=50), tmp_path / "own/test/x.png")
    data, conversion = convert_photos(tmp_path / "own", tmp_path / "out", image_size=32, workers=1)
    assert data.counts == {"train": 6, "val": 2, "test": 1}
    assert read_ids(tmp_path / "out/sample_submission.csv") == ["test/x.png"]
    assert not (tmp_path / "out/test_labels.csv").exists()
    assert conversion.num_unlabelled == 1


def test_a_csv_divides_and_labels(tmp_path):
    lines = ["file,label,split"]
    for number in range(8):
        save(draw_flower(20 * (number % 2), size=32, seed=number), tmp_path / f"own/{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]},{'train' if number < 6 else 'val'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    data, _ = convert_photos(
        tmp_path / "own",
        tmp_path / "out",
        image_size=32,
        workers=1,
        labels_csv=tmp_path / "labels.csv",
    )
    assert data.counts == {"train": 6, "val": 2, "test": 0}


def test_a_class_of_one_photo_goes_to_train_and_it_is_said(tmp_path):
    save(draw_flower(3, size=32, seed=9), tmp_path / "own/alone/1.png")
    for number in range(9):
        for name, kind in (("a", 0), ("b", 20)):
            save(draw_flower(kind, size=32, seed=number), tmp_path / f"own/{name}/{number}.png")
    _, conversion = convert_photos(tmp_path / "own", tmp_path / "out", image_size=32, workers=1)
    assert conversion.counts["alone"] == {"train": 1}
    assert "classes with one photo, which can only train: alone" in conversion.notes
    assert "no photo in val of alone" in conversion.notes


# Going on -----------------------------------------------------------------------------------------


def test_an_interrupted_conversion_goes_on_to_the_same_end(converted, flowers, tmp_path):
    def stop(what, done, total):
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_photos(flowers, tmp_path, image_size=32, workers=1, progress=stop)
    assert [entry.name for entry in tmp_path.iterdir()] == [".converting"]
    calls = []
    data, _ = convert_photos(
        flowers, tmp_path, image_size=32, workers=1, progress=lambda *call: calls.append(call)
    )
    assert calls[0] == ("photos", 29, 64)  # the empty file of the 30 is looked at again
    for split, files in converted[0].files.items():
        assert [file.read_bytes() for file in files] == [
            file.read_bytes() for file in data.files[split]
        ]


def test_one_that_was_interrupted_while_shards_were_written_goes_on_too(flowers, tmp_path):
    def stop(what, done, total):
        if what == "val shards":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_photos(flowers, tmp_path, image_size=32, workers=1, progress=stop)
    assert not list(tmp_path.glob("tfrecords*"))  # half a data set is never seen
    data, conversion = convert_photos(flowers, tmp_path, image_size=32, workers=1)
    assert sum(data.counts.values()) == conversion.num_photos


def test_an_out_that_is_in_use_is_refused(converted, flowers, tmp_path):
    with pytest.raises(FileExistsError, match="already holds a conversion of .*, whole: train"):
        convert_photos(flowers, converted[0].folder, image_size=32)
    (tmp_path / "half" / ".converting").mkdir(parents=True)
    (tmp_path / "half" / ".converting" / "options.json").write_text('{"image_size": 64}')
    with pytest.raises(
        FileExistsError, match="holds an unfinished conversion with .*image_size=64"
    ):
        convert_photos(flowers, tmp_path / "half", image_size=32)


# Bad input ----------------------------------------------------------------------------------------


def test_photos_that_leave_one_class_are_refused_with_the_first_reason(tmp_path):
    for number in range(3):
        save(draw_flower(0, size=32, seed=number), tmp_path / f"own/a/{number}.png")
    (tmp_path / "own/b").mkdir()
    (tmp_path / "own/b/1.jpg").write_bytes(b"")
    reason = r"photos of 1 class are left, .* two\. 1 were unreadable, .*: b/1\.jpg: 0 bytes"
    with pytest.raises(ValueError, match=reason):
        convert_photos(tmp_path / "own", tmp_path / "out", image_size=32, workers=1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"resize": "zoom"}, "resize='zoom' is unknown"),
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


def test_loading_converts_once_and_again_when_a_photo_or_an_option_changed(cache, tmp_path, caplog):
    caplog.set_level("INFO", "flowerkit")
    own = tmp_path / "own"
    for number in range(6):
        for name, kind in (("a", 0), ("b", 20)):
            save(draw_flower(kind, size=32, seed=number), own / name / f"{number}.png")
    first = load_photos(own, image_size=32, workers=1)
    assert first.folder.parent == cache
    assert first.counts == {"train": 8, "val": 2, "test": 2}
    times = [file.stat().st_mtime_ns for file in first.files["train"]]
    assert load_photos(own, image_size=32, workers=1) == first
    assert [file.stat().st_mtime_ns for file in first.files["train"]] == times
    assert "were converted before, into" in caplog.text
    assert load_photos(own, image_size=32, seed=1, workers=1).folder != first.folder
    save(draw_flower(0, size=32, seed=77), own / "a" / "new.png")
    changed = load_photos(own, image_size=32, workers=1)
    assert changed.folder != first.folder
    assert sum(changed.counts.values()) == 13


def test_what_is_unreadable_is_logged(cache, flowers, caplog):
    caplog.set_level("INFO", "flowerkit")
    data = load_photos(flowers, image_size=32, workers=1)
    assert Counter(data.counts) == Counter(train=43, val=12, test=6)
    assert "unreadable, 1 photo: lily/empty.jpg: 0 bytes" in caplog.text
    assert UNFINISHED not in {entry.name for entry in data.folder.iterdir()}


def test_what_is_in_the_cache_is_found_and_cleared_unless_it_is_being_made(cache, flowers):
    assert find_converted() == {}
    data = load_photos(flowers, image_size=32, workers=1)
    growing = cache / "photos-growing"
    with PhotoCache(growing / UNFINISHED, {}):
        assert list(find_converted()) == [data.folder, growing]
        assert clear_converted() > 10_000
        assert list(find_converted()) == [growing]
    assert clear_converted() > 0  # of a process that is gone
    assert find_converted() == {}
