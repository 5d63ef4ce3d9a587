"""splits: faults named before anything is decoded, decoded images kept or not, leaks."""

import dataclasses
import gzip
import io

import numpy as np
import pytest
from PIL import Image

from flowerkit.data import splits
from flowerkit.data.jpeg import decode_jpeg
from flowerkit.data.splits import check_leak, load_split
from flowerkit.data.tfrecords import Record, find_shards, read_records, write_shards


def load_reference(data, name):
    """Ids, labels and JPEGs by the slow, careful reader."""
    return [record for file in data.files[name] for _, record in read_records(file)]


def test_images_labels_and_ids_stay_together_in_the_order_of_the_shards(drawn):
    split = load_split(drawn, "train")
    records = load_reference(drawn, "train")
    assert split.ids.tolist() == [record.id for record in records]
    assert split.labels.tolist() == [record.label for record in records]
    assert split.images.shape == (50, 32, 32, 3)
    assert split.images.dtype == np.uint8
    np.testing.assert_array_equal(split.images[-1], decode_jpeg(records[-1].image))


def test_the_test_split_has_no_labels(drawn):
    split = load_split(drawn, "test")
    assert split.labels is None
    assert len(split) == 22


def test_rows_arrive_in_any_order_before_all_are_decoded(drawn):
    expected = load_split(drawn, "train").images[:]
    order = np.random.default_rng(0).permutation(50)
    split = load_split(drawn, "train", order=lambda num_images: order[:num_images])
    np.testing.assert_array_equal(split.images[order[:7]], expected[order[:7]])
    np.testing.assert_array_equal(split.images[49], expected[49])
    np.testing.assert_array_equal(np.asarray(split.images), expected)


def test_an_order_that_leaves_rows_out_and_an_unknown_cache_are_refused(drawn):
    with pytest.raises(ValueError, match="order must hold each of the 18 rows once"):
        load_split(drawn, "val", order=lambda num_images: np.zeros(num_images))
    with pytest.raises(ValueError, match="cache='tape' is unknown. Pass auto, ram, none"):
        load_split(drawn, "val", cache="tape")


def test_an_empty_split_is_refused(drawn):
    without = dataclasses.replace(drawn, files={**drawn.files, "val": ()})
    with pytest.raises(ValueError, match=r"the val split of .* is empty. Attach or draw"):
        load_split(without, "val")


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
        r"wrong size \(got 48x48, expected 32x32",
    ),
    (lambda r: dataclasses.replace(r, label=4), r"label 4 is outside 0..3"),
    (lambda r: dataclasses.replace(r, label=None), r"missing feature 'class'"),
]


def draw_jpeg(size):
    file = io.BytesIO()
    Image.new("RGB", (size, size)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(("change", "reason"), BAD_RECORDS)
def test_a_bad_record_is_named_with_file_number_and_remedy(tmp_path, drawn, change, reason):
    data = write_val(tmp_path, drawn, change)
    with pytest.raises(ValueError, match=rf"00-32x32-10.tfrec, record 3: {reason}.*Re-download"):
        load_split(data, "val")


@pytest.mark.parametrize(("change", "reason"), BAD_RECORDS)
def test_bad_records_can_be_skipped_and_are_counted(tmp_path, drawn, caplog, change, reason):
    data = write_val(tmp_path, drawn, change)
    split = load_split(data, "val", on_corrupt="skip")
    kept = [record.id for n, record in enumerate(load_reference(drawn, "val")) if n != 3]
    assert split.ids.tolist() == kept
    assert "faults skipped: 1; images left: 17" in caplog.text


def test_a_truncated_file_is_named_and_the_records_before_the_cut_can_be_kept(tmp_path, drawn):
    data = write_val(tmp_path, drawn, lambda record: record)
    file = data.files["val"][1]
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"01-32x32-8.tfrec, record 7: truncated \(30 bytes"):
        load_split(data, "val")
    assert len(load_split(data, "val", on_corrupt="skip")) == 17


def test_a_flipped_bit_is_found_by_its_checksum(tmp_path, drawn):
    data = write_val(tmp_path, drawn, lambda record: record)
    file = data.files["val"][0]
    content = bytearray(file.read_bytes())
    content[600] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"00-32x32-10.tfrec, record \d: bad checksum"):
        load_split(data, "val")
    assert len(load_split(data, "val", on_corrupt="skip")) == 17


def test_a_compressed_shard_is_refused_even_when_skipping(tmp_path, drawn):
    data = write_val(tmp_path, drawn, lambda record: record)
    file = data.files["val"][1]
    file.write_bytes(gzip.compress(file.read_bytes()))
    for on_corrupt in ("raise", "skip"):
        with pytest.raises(ValueError, match=r"val/01-32x32-8.tfrec is compressed by gzip"):
            load_split(data, "val", on_corrupt=on_corrupt)


def test_a_name_that_says_another_count_is_refused(tmp_path, drawn):
    write_val(tmp_path, drawn, lambda record: record)
    folder = tmp_path / "tfrecords-jpeg-32x32" / "val"
    (folder / "01-32x32-8.tfrec").rename(folder / "01-32x32-9.tfrec")
    data = find_shards(tmp_path, class_names=drawn.class_names, origin="folder")
    with pytest.raises(ValueError, match=r"01-32x32-9.tfrec: 9 records by its name, 8 in the file"):
        load_split(data, "val")


def test_a_split_of_bad_records_only_is_refused_even_when_skipping(tmp_path):
    records = [Record(b"no", f"{n:09x}", 0) for n in range(2)]
    write_shards(tmp_path, "val", records, image_size=32, shard_size=10)
    data = find_shards(tmp_path, class_names=("a", "b"), origin="folder")
    with pytest.raises(ValueError, match="every record of .* is bad"):
        load_split(data, "val", on_corrupt="skip")


def test_damage_that_only_decoding_shows_comes_up_where_the_image_is_asked_for(tmp_path, drawn):
    data = write_val(tmp_path, drawn, damage_inside)
    reason = "val/00-32x32-10.tfrec, record 3: undecodable JPEG .*Re-download the file, or pass"
    for cache in ("ram", "none"):
        split = load_split(data, "val", cache=cache)
        with pytest.raises(ValueError, match=reason):
            split.images[3]
        assert len(load_split(data, "val", on_corrupt="skip", cache=cache)) == 17


def damage_inside(record):
    """Size and end stay; the scan names tables that do not exist."""
    tables = record.image.index(b"\xff\xda") + 6
    image = record.image[:tables] + b"\x33" + record.image[tables + 1 :]
    return dataclasses.replace(record, image=image)


@pytest.mark.parametrize("num_bytes", [9, 2998, 9000])
def test_a_jpeg_with_long_headers_or_something_behind_its_end_is_valid(tmp_path, drawn, num_bytes):
    comment = b"\xff\xfe" + (num_bytes + 2).to_bytes(2, "big") + bytes(num_bytes)

    def pad(record):
        image = record.image[:2] + comment + record.image[2:] + bytes(num_bytes)
        return dataclasses.replace(record, image=image)

    split = load_split(write_val(tmp_path, drawn, pad), "val")
    np.testing.assert_array_equal(split.images[:], load_split(drawn, "val").images[:])


# Where decoded images stay ------------------------------------------------------------------------

NUM_BYTES = 18 * 32 * 32 * 3


@pytest.mark.parametrize(
    ("free", "reserved", "is_kept"),
    [
        (NUM_BYTES / 0.6 + 1, 0, True),
        (NUM_BYTES / 0.6 - 1, 0, False),
        (NUM_BYTES / 0.6 + 1, 10, False),  # memory that earlier splits will still take
    ],
)
def test_images_stay_in_ram_up_to_60_percent_of_what_is_free(
    drawn, monkeypatch, caplog, free, reserved, is_kept
):
    expected = load_split(drawn, "val").images[:]
    monkeypatch.setattr(splits, "free_memory_bytes", lambda: free)
    monkeypatch.setattr(splits, "reserved_bytes", lambda: reserved)
    caplog.clear()
    split = load_split(drawn, "val")
    np.testing.assert_array_equal(split.images[:], expected)
    assert is_kept == (split.images[:].base is not None)
    assert is_kept != ("val: 0.1 MiB of decoded images do not fit" in caplog.text)


def test_memory_that_is_refused_costs_the_speed_and_not_the_run(drawn, monkeypatch, caplog):
    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr("flowerkit.data.images.np.empty", refuse)
    split = load_split(drawn, "val", cache="ram")
    monkeypatch.undo()
    assert "decoded again each epoch" in caplog.text
    assert split.images[3].shape == (32, 32, 3)


def test_the_cache_can_be_chosen(drawn, monkeypatch, caplog):
    monkeypatch.setattr(splits, "free_memory_bytes", lambda: 1000)
    assert load_split(drawn, "val", cache="ram").images[:].base is not None
    monkeypatch.undo()
    assert load_split(drawn, "val", cache="none").images[:].base is None
    assert not caplog.text


# Leaks --------------------------------------------------------------------------------------------


def test_validation_that_shares_ids_with_training_is_refused(drawn):
    train, val = (load_split(drawn, name) for name in ("train", "val"))
    val.ids[:2] = train.ids[:2]
    with pytest.raises(ValueError, match="2 val images have the same id "):
        check_leak(train, val)


def test_validation_that_shares_bytes_with_training_is_refused(tmp_path, drawn):
    seen = load_reference(drawn, "train")[7].image
    data = write_val(tmp_path, drawn, lambda record: dataclasses.replace(record, image=seen))
    train, val = load_split(drawn, "train"), load_split(data, "val")
    with pytest.raises(ValueError, match=rf"1 val images have the same JPEG bytes .*{val.ids[3]}"):
        check_leak(train, val)


def test_a_path_and_another_name_of_a_split_are_refused_with_what_is_meant(drawn):
    with pytest.raises(ValueError, match=r"what find_data\('photos'\) returns"):
        load_split("photos", "train")
    with pytest.raises(ValueError, match="Received: 'valid'. Did you mean 'val'?"):
        load_split(drawn, "valid")
