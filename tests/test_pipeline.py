"""pipeline: decode once, faults named, order by (seed, epoch), padding, leaks."""

import dataclasses

import numpy as np
import pytest

from flowerkit import pipeline
from flowerkit.records import Record
from flowerkit.tfrecords import find_shards, read_records, write_shards


def load_reference(data, name):
    """Ids, labels and JPEGs by the slow, careful reader."""
    return [record for file in data.files[name] for _, record in read_records(file)]


def test_images_labels_and_ids_stay_together_in_the_order_of_the_shards(drawn):
    split = pipeline.load_split(drawn, "train")
    records = load_reference(drawn, "train")
    assert split.ids.tolist() == [record.id for record in records]
    assert split.labels.tolist() == [record.label for record in records]
    assert split.images.shape == (50, 32, 32, 3)
    assert split.images.dtype == np.uint8
    import tensorflow as tf

    last = tf.io.decode_jpeg(records[-1].image, channels=3)
    np.testing.assert_array_equal(split.images[-1], last)


def test_the_test_split_has_no_labels(drawn):
    split = pipeline.load_split(drawn, "test")
    assert split.labels is None
    assert len(split) == 22


def test_a_split_larger_than_memory_is_memory_mapped_and_equal(drawn, monkeypatch):
    in_ram = pipeline.load_split(drawn, "val")
    monkeypatch.setattr(pipeline, "free_memory_bytes", lambda: 1000)
    mapped = pipeline.load_split(drawn, "val")
    assert isinstance(mapped.images, np.memmap)
    np.testing.assert_array_equal(mapped.images, in_ram.images)


def test_images_that_fit_nowhere_are_refused_with_the_figures(drawn, monkeypatch):
    monkeypatch.setattr(pipeline, "free_memory_bytes", lambda: 1000)
    full = pipeline.shutil.disk_usage("/")._replace(free=5000)
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda folder: full)
    with pytest.raises(OSError, match=r"GiB of decoded images fit neither into memory .* nor into"):
        pipeline.load_split(drawn, "val")


def test_an_empty_split_is_refused(drawn):
    without = dataclasses.replace(drawn, files={**drawn.files, "val": ()})
    with pytest.raises(ValueError, match=r"the val split of .* is empty. Attach or draw"):
        pipeline.load_split(without, "val")


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
    import tensorflow as tf

    return tf.io.encode_jpeg(np.zeros((size, size, 3), "uint8")).numpy()


@pytest.mark.parametrize(("change", "reason"), BAD_RECORDS)
def test_a_bad_record_is_named_with_file_number_and_remedy(tmp_path, drawn, change, reason):
    data = write_val(tmp_path, drawn, change)
    with pytest.raises(ValueError, match=rf"00-32x32-10.tfrec, record 3: {reason}.*Re-download"):
        pipeline.load_split(data, "val")


@pytest.mark.parametrize(("change", "reason"), BAD_RECORDS)
def test_bad_records_can_be_skipped_and_are_counted(tmp_path, drawn, caplog, change, reason):
    data = write_val(tmp_path, drawn, change)
    split = pipeline.load_split(data, "val", on_corrupt="skip")
    kept = [record.id for n, record in enumerate(load_reference(drawn, "val")) if n != 3]
    assert split.ids.tolist() == kept
    assert "faults skipped: 1; images left: 17" in caplog.text


def test_a_truncated_file_is_named_and_the_records_before_the_cut_can_be_kept(tmp_path, drawn):
    data = write_val(tmp_path, drawn, lambda record: record)
    file = data.files["val"][1]
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"01-32x32-8.tfrec, record 7: truncated \(30 bytes"):
        pipeline.load_split(data, "val")
    assert len(pipeline.load_split(data, "val", on_corrupt="skip")) == 17


def test_a_flipped_bit_is_found_by_its_checksum(tmp_path, drawn):
    data = write_val(tmp_path, drawn, lambda record: record)
    file = data.files["val"][0]
    content = bytearray(file.read_bytes())
    content[600] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"00-32x32-10.tfrec, record \d: bad checksum"):
        pipeline.load_split(data, "val")
    assert len(pipeline.load_split(data, "val", on_corrupt="skip")) == 17


def test_a_name_that_promises_another_count_is_refused(tmp_path, drawn):
    write_val(tmp_path, drawn, lambda record: record)
    folder = tmp_path / "tfrecords-jpeg-32x32" / "val"
    (folder / "01-32x32-8.tfrec").rename(folder / "01-32x32-9.tfrec")
    data = find_shards(tmp_path, class_names=drawn.class_names, origin="folder")
    with pytest.raises(ValueError, match=r"01-32x32-9.tfrec: 9 records by its name, 8 in the file"):
        pipeline.load_split(data, "val")


def test_a_split_of_bad_records_only_is_refused_even_when_skipping(tmp_path):
    records = [Record(b"no", f"{n:09x}", 0) for n in range(2)]
    write_shards(tmp_path, "val", records, image_size=32, shard_size=10)
    data = find_shards(tmp_path, class_names=("a", "b"), origin="folder")
    with pytest.raises(ValueError, match="every record of .* is bad"):
        pipeline.load_split(data, "val", on_corrupt="skip")


# Leaks --------------------------------------------------------------------------------------------


def test_validation_that_shares_ids_with_training_is_refused(drawn):
    train, val = (pipeline.load_split(drawn, name) for name in ("train", "val"))
    val.ids[:2] = train.ids[:2]
    with pytest.raises(ValueError, match="train and val share 2 ids"):
        pipeline.check_leak(train, val)


def test_validation_that_shares_bytes_with_training_is_refused(tmp_path, drawn):
    seen = load_reference(drawn, "train")[7].image
    data = write_val(tmp_path, drawn, lambda record: dataclasses.replace(record, image=seen))
    train, val = pipeline.load_split(drawn, "train"), pipeline.load_split(data, "val")
    with pytest.raises(ValueError, match=rf"1 val images have the same bytes .*{val.ids[3]}"):
        pipeline.check_leak(train, val)


# Batches ------------------------------------------------------------------------------------------


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def test_every_image_comes_once_an_epoch_and_each_epoch_in_another_order(drawn):
    split = pipeline.load_split(drawn, "train")
    first, second = (
        np.concatenate(
            [
                images.reshape(len(images), -1)
                for images, _ in take(
                    pipeline.training_batches(
                        split, global_batch=10, seed=3, flip=False, first_epoch=epoch
                    ),
                    5,
                )
            ]
        )
        for epoch in (0, 1)
    )
    everything = np.unique(split.images.reshape(50, -1), axis=0)
    np.testing.assert_array_equal(np.unique(first, axis=0), everything)
    np.testing.assert_array_equal(np.unique(second, axis=0), everything)
    assert not np.array_equal(first, second)


def test_labels_stay_with_their_images(drawn):
    split = pipeline.load_split(drawn, "train")
    label_of = {
        image.tobytes(): label for image, label in zip(split.images, split.labels, strict=True)
    }
    batches = pipeline.training_batches(split, global_batch=16, seed=3, flip=False)
    for images, labels in take(batches, 6):
        assert [label_of[image.tobytes()] for image in images] == labels.tolist()


def test_a_batch_depends_on_seed_and_number_alone(drawn):
    split = pipeline.load_split(drawn, "train")
    whole = take(pipeline.training_batches(split, global_batch=16, seed=3), 6)
    resumed = take(pipeline.training_batches(split, global_batch=16, seed=3, first_epoch=1), 3)
    other = take(pipeline.training_batches(split, global_batch=16, seed=4), 1)
    for (images, labels), (again, labels_again) in zip(whole[3:], resumed, strict=True):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, labels_again)
    assert not np.array_equal(whole[0][0], other[0][0])


def test_about_half_of_the_images_are_flipped_and_others_each_epoch(drawn):
    split = pipeline.load_split(drawn, "train")
    flipped = []
    for epoch in (0, 1):
        order = pipeline.epoch_order(50, seed=5, epoch=epoch)
        batches = pipeline.training_batches(split, global_batch=50, seed=5, first_epoch=epoch)
        images = take(batches, 1)[0][0]
        mirrored = split.images[order][:, :, ::-1]
        changed = [bool((a == b).all()) for a, b in zip(images, mirrored, strict=True)]
        assert 15 <= sum(changed) <= 35
        flipped.append(set(order[changed]))
    assert flipped[0] != flipped[1]


def test_evaluation_batches_are_full_and_padding_weighs_nothing(drawn):
    split = pipeline.load_split(drawn, "test")
    batches = take(pipeline.evaluation_batches(split, global_batch=8), 9)
    assert [images.shape for images, _, _ in batches] == [(8, 32, 32, 3)] * 3
    assert batches[-1][2].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    images = np.concatenate([images for images, _, _ in batches])
    np.testing.assert_array_equal(images[:22], split.images)
    assert not images[22:].any()


def test_a_batch_larger_than_the_split_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"global batch \(128\) is larger .* \(50 images\)"):
        pipeline.count_steps(50, 128)
    assert pipeline.count_steps(50, 16) == 3
