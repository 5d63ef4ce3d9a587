"""decoding: faults named before anything is decoded, every image decoded once, leaks."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from flowerkit.data import split as decoding
from flowerkit.data.cache import list_cached
from flowerkit.data.records import Record
from flowerkit.data.tfrecords import find_shards, read_records, write_shards


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test."""
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def load_reference(data, name):
    """Ids, labels and JPEGs by the slow, careful reader."""
    return [record for file in data.files[name] for _, record in read_records(file)]


def test_images_labels_and_ids_stay_together_in_the_order_of_the_shards(drawn):
    split = decoding.load_split(drawn, "train")
    records = load_reference(drawn, "train")
    assert split.ids.tolist() == [record.id for record in records]
    assert split.labels.tolist() == [record.label for record in records]
    assert split.images.shape == (50, 32, 32, 3)
    assert split.images.dtype == np.uint8
    last = tf.io.decode_jpeg(records[-1].image, channels=3)
    np.testing.assert_array_equal(split.images[-1], last)


def test_the_test_split_has_no_labels(drawn):
    split = decoding.load_split(drawn, "test")
    assert split.labels is None
    assert len(split) == 22


def test_rows_arrive_in_any_order_before_all_are_decoded(drawn):
    wanted = decoding.load_split(drawn, "train").images[:]
    order = np.random.default_rng(0).permutation(50)
    split = decoding.load_split(drawn, "train", order=lambda num_images: order[:num_images])
    np.testing.assert_array_equal(split.images[order[:7]], wanted[order[:7]])
    np.testing.assert_array_equal(split.images[49], wanted[49])
    np.testing.assert_array_equal(np.asarray(split.images), wanted)


def test_an_order_that_leaves_rows_out_and_an_unknown_level_are_refused(drawn):
    with pytest.raises(ValueError, match="order must hold each of the 18 rows once"):
        decoding.load_split(drawn, "val", order=lambda num_images: np.zeros(num_images))
    with pytest.raises(ValueError, match="keep='tape' is unknown. Pass one of auto, ram, disk"):
        decoding.load_split(drawn, "val", keep="tape")


def test_an_empty_split_is_refused(drawn):
    without = dataclasses.replace(drawn, files={**drawn.files, "val": ()})
    with pytest.raises(ValueError, match=r"the val split of .* is empty. Attach or draw"):
        decoding.load_split(without, "val")


# Bad records --------------------------------------------------------------------------------------


def write_val(folder, drawn, change):
    """The drawn val split with one record changed, as a data set of its own."""
    records = load_reference(drawn, "val")
    records[3] = change(records[3])
    write_shards(folder, "val", records, image_size=32, shard_size=10)
    return find_shards(folder, class_names=drawn.class_names, origin="folder")


BAD_RECORDS = [
    (lambda r: dataclasses.replace(r, image=b"not a jpeg.."), r"not a JPEG \(12 bytes\)"),
    (lambda r: dataclasses.replace(r, image=r.image[:40]), r"undecodable JPEG \(40 bytes\)"),
    (
        lambda r: dataclasses.replace(r, image=draw_jpeg(48)),
        r"wrong size \(got 48x48, wanted 32x32",
    ),
    (lambda r: dataclasses.replace(r, label=4), r"label 4 is outside 0..3"),
    (lambda r: dataclasses.replace(r, label=None), r"missing feature 'class'"),
]


def draw_jpeg(size):
    return tf.io.encode_jpeg(np.zeros((size, size, 3), "uint8")).numpy()


@pytest.mark.parametrize(("change", "reason"), BAD_RECORDS)
def test_a_bad_record_is_named_with_file_number_and_remedy(tmp_path, drawn, change, reason):
    data = write_val(tmp_path, drawn, change)
    with pytest.raises(ValueError, match=rf"00-32x32-10.tfrec, record 3: {reason}.*Re-download"):
        decoding.load_split(data, "val")


@pytest.mark.parametrize(("change", "reason"), BAD_RECORDS)
def test_bad_records_can_be_skipped_and_are_counted(tmp_path, drawn, caplog, change, reason):
    data = write_val(tmp_path, drawn, change)
    split = decoding.load_split(data, "val", on_corrupt="skip")
    kept = [record.id for n, record in enumerate(load_reference(drawn, "val")) if n != 3]
    assert split.ids.tolist() == kept
    assert "faults skipped: 1; images left: 17" in caplog.text


def test_a_truncated_file_is_named_and_the_records_before_the_cut_can_be_kept(tmp_path, drawn):
    data = write_val(tmp_path, drawn, lambda record: record)
    file = data.files["val"][1]
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"01-32x32-8.tfrec, record 7: truncated \(30 bytes"):
        decoding.load_split(data, "val")
    assert len(decoding.load_split(data, "val", on_corrupt="skip")) == 17


def test_a_flipped_bit_is_found_by_its_checksum(tmp_path, drawn):
    data = write_val(tmp_path, drawn, lambda record: record)
    file = data.files["val"][0]
    content = bytearray(file.read_bytes())
    content[600] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"00-32x32-10.tfrec, record \d: bad checksum"):
        decoding.load_split(data, "val")
    assert len(decoding.load_split(data, "val", on_corrupt="skip")) == 17


def test_a_name_that_promises_another_count_is_refused(tmp_path, drawn):
    write_val(tmp_path, drawn, lambda record: record)
    folder = tmp_path / "tfrecords-jpeg-32x32" / "val"
    (folder / "01-32x32-8.tfrec").rename(folder / "01-32x32-9.tfrec")
    data = find_shards(tmp_path, class_names=drawn.class_names, origin="folder")
    with pytest.raises(ValueError, match=r"01-32x32-9.tfrec: 9 records by its name, 8 in the file"):
        decoding.load_split(data, "val")


def test_a_split_of_bad_records_only_is_refused_even_when_skipping(tmp_path):
    records = [Record(b"no", f"{n:09x}", 0) for n in range(2)]
    write_shards(tmp_path, "val", records, image_size=32, shard_size=10)
    data = find_shards(tmp_path, class_names=("a", "b"), origin="folder")
    with pytest.raises(ValueError, match="every record of .* is bad"):
        decoding.load_split(data, "val", on_corrupt="skip")


def test_damage_that_only_decoding_shows_comes_up_where_the_image_is_asked_for(tmp_path, drawn):
    data = write_val(tmp_path, drawn, damage_inside)
    reason = "val/00-32x32-10.tfrec, record 3: undecodable JPEG .*Re-download the file, or pass"
    for keep in ("ram", "disk", "none"):
        split = decoding.load_split(data, "val", keep=keep)
        with pytest.raises(ValueError, match=reason):
            split.images[3]
        assert len(decoding.load_split(data, "val", on_corrupt="skip", keep=keep)) == 17


def damage_inside(record):
    """Size and end stay; the scan says that it has 9 colour components."""
    start = record.image.index(b"\xff\xda") + 4
    image = record.image[:start] + b"\x09" + record.image[start + 1 :]
    return dataclasses.replace(record, image=image)


def test_a_jpeg_with_something_behind_its_end_is_sound(tmp_path, drawn):
    padded = write_val(
        tmp_path, drawn, lambda record: dataclasses.replace(record, image=record.image + bytes(9))
    )
    split = decoding.load_split(padded, "val")
    np.testing.assert_array_equal(split.images[:], decoding.load_split(drawn, "val").images[:])


def test_the_size_is_found_behind_long_headers_or_not_at_all(drawn):
    jpeg = load_reference(drawn, "val")[0].image
    comment = b"\xff\xfe" + (3000).to_bytes(2, "big") + bytes(2998)
    assert decoding.read_jpeg_size(jpeg) == (32, 32)
    assert decoding.read_jpeg_size(jpeg[:2] + comment + jpeg[2:]) == (32, 32)
    assert decoding.read_jpeg_size((jpeg[:2] + comment + jpeg[2:])[:3000]) is None
    assert decoding.read_jpeg_size(b"\x89PNG") is decoding.read_jpeg_size(b"\xff\xd8\xff\xe0")


# Where decoded images stay ------------------------------------------------------------------------


def load_with_memory(monkeypatch, data, free, **how):
    monkeypatch.setattr(decoding, "free_memory_bytes", lambda: free)
    split = decoding.load_split(data, "val", **how)
    split.images.finish()
    if filler := getattr(split.images, "_filler", None):
        filler.join()
    return split


NUM_BYTES = 18 * 32 * 32 * 3


@pytest.mark.parametrize(
    ("free", "kind"), [(NUM_BYTES / 0.6 + 1, "in RAM"), (NUM_BYTES / 0.6 - 1, "go into ")]
)
def test_images_stay_in_ram_up_to_60_percent_of_what_is_free(
    drawn, monkeypatch, caplog, free, kind
):
    caplog.set_level("INFO", "flowerkit")
    load_with_memory(monkeypatch, drawn, free)
    (line,) = [line for line in caplog.messages if "of decoded images" in line]
    assert line.startswith("val: 0.1 MiB of decoded images")
    assert kind in line
    assert "0.1 MiB of memory free" in line


def test_memory_that_earlier_splits_were_promised_counts(drawn, monkeypatch, caplog):
    caplog.set_level("INFO", "flowerkit")
    monkeypatch.setattr(decoding, "reserved_bytes", lambda: NUM_BYTES)
    load_with_memory(monkeypatch, drawn, NUM_BYTES * 2.6)
    assert "go into " in caplog.text


def test_a_split_larger_than_memory_is_found_decoded_by_the_next_run(
    drawn, monkeypatch, caplog, cache
):
    caplog.set_level("INFO", "flowerkit")
    wanted = decoding.load_split(drawn, "val").images[:]
    first = load_with_memory(monkeypatch, drawn, 1000)
    np.testing.assert_array_equal(first.images[:], wanted)
    assert list_cached()[0].what == f"val of {drawn.folder}, 32 px"
    second = load_with_memory(monkeypatch, drawn, 1000)
    assert isinstance(second.images, decoding.ImagesInFile)
    assert "are there from an earlier run" in caplog.text
    np.testing.assert_array_equal(second.images[:], wanted)


def test_shards_that_change_meet_no_old_images(tmp_path, drawn, monkeypatch):
    load_with_memory(monkeypatch, drawn, 1000)
    other = load_reference(drawn, "train")[0].image
    data = write_val(tmp_path, drawn, lambda record: dataclasses.replace(record, image=other))
    split = load_with_memory(monkeypatch, data, 1000)
    assert isinstance(split.images, decoding.StreamedImages)
    np.testing.assert_array_equal(split.images[3], decoding.load_split(drawn, "train").images[0])
    assert len(list_cached()) == 2


def test_a_damaged_cache_is_said_and_made_anew(drawn, monkeypatch, caplog):
    wanted = load_with_memory(monkeypatch, drawn, 1000).images[:].copy()
    path = list_cached()[0].path
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    np.testing.assert_array_equal(load_with_memory(monkeypatch, drawn, 1000).images[:], wanted)
    assert f"{path} is damaged" in caplog.text
    assert isinstance(load_with_memory(monkeypatch, drawn, 1000).images, decoding.StreamedImages)
    assert path.read_bytes() == wanted.tobytes()


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


SPOILED = {
    "no folder": lambda patch, cache: cache.parent.write_text("a file where the folder should be"),
    "full": lambda patch, cache: patch.setattr("os.posix_fallocate", failing(OSError(28, "full"))),
    "limit": lambda patch, cache: patch.setenv("FLOWERKIT_CACHE_GIB", "0"),
    "read-only": lambda patch, cache: patch.setattr(
        "tempfile.mkstemp", failing(PermissionError(13, "Permission denied"))
    ),
}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("no folder", "Not a directory|File exists"),
        ("full", r"\[Errno 28\] full"),
        ("limit", r"more than FLOWERKIT_CACHE_GIB allows \(0 GiB\)"),
        ("read-only", "Permission denied"),
    ],
)
def test_without_memory_and_disk_images_are_decoded_each_time_and_it_is_said(
    drawn, monkeypatch, caplog, cache, how, reason
):
    wanted = decoding.load_split(drawn, "val").images[:]
    SPOILED[how](monkeypatch, cache)
    split = load_with_memory(monkeypatch, drawn, 1000)
    assert isinstance(split.images, decoding.ImagesOnDemand)
    np.testing.assert_array_equal(split.images[:], wanted)
    (line,) = [line for line in caplog.messages if "decoded again each time" in line]
    assert re.search(rf"0.0 MiB of memory free; no file of them: .*({reason})", line)


def test_memory_that_is_refused_gives_way_to_the_disk(drawn, monkeypatch, caplog):
    caplog.set_level("INFO", "flowerkit")
    monkeypatch.setattr(decoding, "allocate", failing(MemoryError()))
    split = load_with_memory(monkeypatch, drawn, 10**9, keep="ram")
    assert "memory was refused" in caplog.text
    assert len(list_cached()) == 1
    assert split.images[3].shape == (32, 32, 3)


def test_a_level_can_be_forced(drawn, monkeypatch, caplog):
    caplog.set_level("INFO", "flowerkit")
    load_with_memory(monkeypatch, drawn, 1000, keep="ram")
    assert list_cached() == []
    load_with_memory(monkeypatch, drawn, 10**12, keep="none")
    assert "images, decoded as they are needed" in caplog.text
    load_with_memory(monkeypatch, drawn, 10**12, keep="disk")
    assert len(list_cached()) == 1


def test_two_runs_at_once_do_not_disturb_one_another(drawn, monkeypatch, cache):
    code = (
        "import sys; from flowerkit import decoding, sources\n"
        "data = sources.find_data(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "print(decoding.load_split(data, 'val', keep='disk').images[:].sum())"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, drawn.folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "ready\n"
    other.stdin.write("\n")
    other.stdin.flush()
    mine = load_with_memory(monkeypatch, drawn, 1000)
    assert other.communicate()[0] == f"{mine.images[:].sum()}\n"
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".uint8"]
    again = load_with_memory(monkeypatch, drawn, 1000)
    assert isinstance(again.images, decoding.ImagesInFile)
    np.testing.assert_array_equal(again.images[:], mine.images[:])


# Leaks --------------------------------------------------------------------------------------------


def test_validation_that_shares_ids_with_training_is_refused(drawn):
    train, val = (decoding.load_split(drawn, name) for name in ("train", "val"))
    val.ids[:2] = train.ids[:2]
    with pytest.raises(ValueError, match="train and val share 2 ids"):
        decoding.check_leak(train, val)


def test_validation_that_shares_bytes_with_training_is_refused(tmp_path, drawn):
    seen = load_reference(drawn, "train")[7].image
    data = write_val(tmp_path, drawn, lambda record: dataclasses.replace(record, image=seen))
    train, val = decoding.load_split(drawn, "train"), decoding.load_split(data, "val")
    with pytest.raises(ValueError, match=rf"1 val images have the same bytes .*{val.ids[3]}"):
        decoding.check_leak(train, val)
