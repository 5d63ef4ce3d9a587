"""One call for every kind of data; the drawn one is made small here."""

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace

import kagglehub
import pytest
from PIL import Image

from flowerkit.data import read_records, write_shards
from flowerkit.sources import competition, finder
from flowerkit.sources.competition import CLASS_NAMES
from flowerkit.sources.finder import find_data
from flowerkit.sources.synthetic import draw_photos


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without mounts or a token, with a cache of its own, drawing little."""
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "no-kaggle"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FLOWERKIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(competition, "MOUNTS", (tmp_path / "mount",))
    monkeypatch.setattr(finder, "DRAWN_CLASSES", 3)
    monkeypatch.setattr(finder, "DRAWN_SIZE_PX", 16)
    monkeypatch.setattr(finder, "DRAWN_COUNTS", {"num_train": 6, "num_val": 3, "num_test": 3})
    return tmp_path


def write_folder(folder, image_size=32):
    name = f"00-{image_size}x{image_size}-5.tfrec"
    shard = folder / f"tfrecords-jpeg-{image_size}x{image_size}" / "train" / name
    shard.parent.mkdir(parents=True)
    shard.touch()
    return folder


def test_auto_takes_the_mounted_competition(machine):
    write_folder(machine / "mount", image_size=224)
    data = find_data()
    assert (data.origin, data.folder, data.image_size) == ("competition", machine / "mount", 224)


def test_on_kaggle_nothing_replaces_the_competition(machine, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    with pytest.raises(FileNotFoundError, match=r"looked in .*mount\). On Kaggle: Add Input"):
        find_data()
    assert not (machine / "cache").exists()


def test_a_mounted_competition_without_the_size_is_an_error_off_kaggle_too(machine):
    write_folder(machine / "mount", image_size=224)
    with pytest.raises(FileNotFoundError, match="no tfrecords-jpeg-512x512/"):
        find_data(image_size=512)


def test_auto_draws_where_there_is_nothing_else_and_says_so(machine, caplog):
    with caplog.at_level(logging.WARNING, "flowerkit"):
        data = find_data()
    assert (data.origin, data.num_classes, data.image_size) == ("drawn", 3, 16)
    assert data.counts == {"train": 6, "val": 3, "test": 3}
    assert data.folder.parent == machine / "cache" / "flowerkit"
    (message,) = caplog.messages
    assert "(--data)" in message
    assert "this is about drawn flowers: 3 classes" in message


def test_drawn_flowers_are_drawn_once(machine, caplog):
    shard = find_data("drawn").files["train"][0]
    written = shard.stat().st_mtime_ns
    assert find_data("drawn").files["train"][0] == shard
    assert shard.stat().st_mtime_ns == written
    assert [entry.name[:6] for entry in (machine / "cache" / "flowerkit").iterdir()] == ["drawn-"]
    assert caplog.messages == []


def test_drawn_flowers_come_in_the_size_asked_for():
    assert find_data("drawn", image_size=24).image_size == 24
    assert find_data("drawn").image_size == 16


def test_drawing_that_fails_leaves_no_half_cache(machine, monkeypatch):
    monkeypatch.setattr(finder, "DRAWN_COUNTS", {"num_train": 6, "num_val": 3, "num_test": 1})
    with pytest.raises(ValueError, match="num_test=1"):
        find_data("drawn")
    assert list((machine / "cache" / "flowerkit").iterdir()) == []


def test_auto_downloads_with_kagglehub_and_a_token(machine, monkeypatch):
    write_folder(machine / "hub", image_size=224)
    monkeypatch.setattr(kagglehub, "competition_download", lambda slug: str(machine / "hub"))
    assert find_data().origin == "drawn"
    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    assert find_data().folder == machine / "hub"


def test_a_failed_download_is_not_replaced_by_drawn_flowers(machine, monkeypatch):
    def fail(slug):
        raise OSError("no internet")

    monkeypatch.setattr(kagglehub, "competition_download", fail)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "token")
    with pytest.raises(RuntimeError, match=r"\(OSError: no internet\)"):
        find_data()


def test_a_folder_has_the_competitions_names_without_its_own(tmp_path):
    data = find_data(write_folder(tmp_path / "data"))
    assert (data.origin, data.class_names, data.image_size) == ("folder", CLASS_NAMES, 32)
    assert find_data(str(tmp_path / "data")).folder == tmp_path / "data"


def test_a_folder_has_the_names_of_its_classes_json(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "classes.json").write_text('["daisy", "Gänseblümchen"]', encoding="utf-8")
    assert find_data(tmp_path).class_names == ("daisy", "Gänseblümchen")


@pytest.mark.parametrize(
    "names",
    [{"daisy": 0}, None, [], ["daisy", 7], ["daisy", ""], [["daisy"]], ["daisy", "rose", "daisy"]],
)
def test_class_names_that_are_no_list_of_names_are_refused(tmp_path, names):
    write_folder(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps(names))
    with pytest.raises(ValueError, match="classes.json must hold a list of class names.* Write"):
        find_data(tmp_path)


@pytest.mark.parametrize("text", ["", '["daisy"', "[" * 100_000], ids=["empty", "cut", "deep"])
def test_a_broken_classes_json_is_named(tmp_path, text):
    write_folder(tmp_path)
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(ValueError, match=r"classes.json is not JSON: .*Write the names"):
        find_data(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*elsewhere"):
        find_data(tmp_path / "elsewhere")


@pytest.fixture
def photos(tmp_path):
    """Two classes of 10 drawn photos of 40 px."""
    return draw_photos(tmp_path / "own", num_classes=2, photos_per_class=10, image_size=40)


def test_a_folder_of_photos_is_converted_once_and_the_log_says_where(machine, photos, caplog):
    caplog.set_level(logging.INFO, "flowerkit")
    calls = []
    data = find_data(photos, image_size=32, progress=lambda *call: calls.append(call))
    assert (data.origin, data.num_classes, data.image_size) == ("folder", 2, 32)
    assert data.counts == {"train": 14, "val": 4, "test": 2}
    assert data.folder.parent == machine / "cache" / "flowerkit"
    assert caplog.messages[0] == f"converting 20 photos of {photos} into {data.folder}"
    assert calls[-1] == ("test shards", 2, 2)
    assert find_data(str(photos), image_size=32) == data
    assert (
        caplog.messages[-1] == f"the photos of {photos} were converted before, into {data.folder}"
    )
    # What a run writes into its environment.json leads back to the same images.
    assert find_data(data.folder, image_size=32) == data


def test_folders_that_are_splits_are_for_photos_alone(machine, photos, tmp_path):
    test = tmp_path / "test"
    draw_photos(test, num_classes=2, photos_per_class=3, image_size=40, seed=9)
    data = find_data(photos, image_size=32, test=test)
    assert data.counts == {"train": 16, "val": 4, "test": 6}
    for source in ("auto", "drawn"):
        with pytest.raises(ValueError, match=rf"are for a folder of photos\. Received: '{source}'"):
            find_data(source, test=test)


def test_photos_become_224_px_and_smaller_ones_are_enlarged_with_a_note(photos, caplog):
    caplog.set_level(logging.INFO, "flowerkit")
    assert find_data(photos).image_size == 224
    assert "20 photos enlarged" in caplog.text


def test_converted_photos_that_were_cleared_are_named_as_such(photos):
    folder = find_data(photos, image_size=32).folder
    shutil.rmtree(folder)
    with pytest.raises(
        FileNotFoundError, match=r"were cleared from the cache\. Pass the folder of"
    ):
        find_data(folder, image_size=32)
    assert find_data(photos, image_size=32).folder == folder


def test_pictures_of_runs_beside_the_data_are_no_photos_to_learn_from(tmp_path):
    write_folder(tmp_path / "demo" / "data")
    for run in ("one", "two"):
        (tmp_path / "demo" / run).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / "demo" / run / "history.png")
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*data\?"):
        find_data(tmp_path / "demo")


def test_finding_a_folder_loads_no_framework(tmp_path):
    write_folder(tmp_path)
    code = (
        "import sys; from flowerkit.sources.finder import find_data; find_data(sys.argv[1]);"
        "print({'tensorflow', 'keras', 'numpy', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


@pytest.fixture
def competition_with(drawn, tmp_path):
    """A copy of the drawn competition with other test records: competition_with(change, sample=True)."""

    def make(change, sample=True):
        folder = shutil.copytree(drawn.folder, tmp_path / "flowers")
        records = [record for file in drawn.files["test"] for _, record in read_records(file)]
        shutil.rmtree(folder / "tfrecords-jpeg-32x32" / "test")
        write_shards(folder, "test", change(records), image_size=32, shard_size=64)
        if not sample:
            (folder / "sample_submission.csv").unlink()
        return finder.find_data(folder)

    return make


def with_record_3(**values):
    return lambda records: [
        replace(record, **values) if n == 3 else record for n, record in enumerate(records)
    ]


BAD_TESTS = {
    "not a JPEG": (with_record_3(image=b"no"), r"record 3: not a JPEG \(2 bytes\)"),
    "comma": (with_record_3(id="a,b"), "record 3: id 'a,b' does not fit into a csv"),
    "line end": (with_record_3(id="a\nb"), r"record 3: id 'a\\nb' does not fit into a csv"),
    "separator": (with_record_3(id="a\u2028b"), r"record 3: id 'a\\u2028b' does not fit"),
    "no id": (with_record_3(id=""), "record 3: id '' does not fit into a csv"),
    "twice": (
        lambda records: [*records[:9], replace(records[9], id=records[2].id), *records[10:]],
        r"record 9: id '\w{9}' appears twice",
    ),
}


@pytest.mark.parametrize("sample", [True, False], ids=["with a sample", "without one"])
@pytest.mark.parametrize(("change", "reason"), BAD_TESTS.values(), ids=BAD_TESTS)
def test_what_is_wrong_with_a_test_record_is_said_before_training(
    competition_with, caplog, change, reason, sample
):
    data = competition_with(change, sample)
    with pytest.raises(ValueError, match=rf"test/00-32x32-22.tfrec, {reason}.*--on-corrupt skip"):
        finder.check_test_split(data)
    finder.check_test_split(data, on_corrupt="skip")
    assert "faults skipped: 1; images left: 21" in caplog.text
    # Without a sample the id that appears twice is one, and its row is there.
    assert ("the csv will lack 1 row" in caplog.text) == (sample or "twice" not in reason)


def test_a_test_shard_that_is_cut_off_is_said_before_training(competition_with, caplog):
    data = competition_with(lambda records: records, sample=False)
    finder.check_test_split(data)
    shard = data.files["test"][0]
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match=r"test/00-32x32-22.tfrec, record 21: truncated .*--on-corrupt"
    ):
        finder.check_test_split(data)
    finder.check_test_split(data, on_corrupt="skip")
    assert finder.find_test_ids(data)[21].startswith("00-32x32-22.tfrec, record 21: truncated")
    assert "no readable test image for '00-32x32-22.tfrec, record 21: " in caplog.text


def test_test_images_with_other_ids_than_the_sample_are_said_before_training(competition_with):
    data = competition_with(with_record_3(id="stranger"))
    for on_corrupt in ("raise", "skip"):
        with pytest.raises(
            ValueError,
            match=r"1 image with another id \('stranger'\), 1 id without an image \('\w{9}'\)",
        ):
            finder.check_test_split(data, on_corrupt=on_corrupt)


def test_damaged_test_labels_are_said_before_training(competition_with):
    data = competition_with(lambda records: records)
    (data.folder / "test_labels.csv").write_text("id,label\nab,rose\n")
    with pytest.raises(ValueError, match=r"test_labels.csv: 'ab,rose' is not an id and its label"):
        finder.check_test_split(data)


def test_a_folder_one_or_two_levels_off_is_pointed_at(drawn):
    for wrong in (drawn.folder.parent, drawn.folder / "tfrecords-jpeg-32x32" / "train"):
        with pytest.raises(FileNotFoundError, match=rf"Did you mean {drawn.folder}\?"):
            finder.find_data(wrong)


def test_what_flowerkit_writes_is_not_taken_for_photos(tmp_path):
    for file in ("runs/a/plan.json", "runs/a/curves.png", "runs/b/compare.html", "runs/b/c.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert [finder.is_of_photos(tmp_path / name) for name in ("runs", "runs/a", "runs/b")] == [
        False
    ] * 3
    (tmp_path / "runs" / "rose").mkdir()
    (tmp_path / "runs" / "rose" / "1.jpg").touch()
    assert finder.is_of_photos(tmp_path / "runs")
