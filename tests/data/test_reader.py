"""shard_reader: any rows in any order, as the careful reader and TensorFlow have them."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from flowerkit.data.split import load_split
from flowerkit.data.tfrecords import find_shards, read_records, write_shards


@pytest.fixture
def records(drawn):
    return [record for file in drawn.files["val"] for _, record in read_records(file)]


@pytest.fixture
def sharded(tmp_path, drawn, records):
    """The drawn val split in three shards."""
    write_shards(tmp_path, "val", records, image_size=32, shard_size=7)
    return find_shards(tmp_path, class_names=drawn.class_names, origin="folder")


@pytest.fixture
def reader(sharded):
    return load_split(sharded, "val", keep="none").images._reader


@pytest.fixture
def pixels(records):
    return np.stack([tf.io.decode_jpeg(record.image, channels=3) for record in records])


def test_rows_are_found_in_their_files(reader):
    assert reader.shape == (18, 32, 32, 3)
    assert reader.file_of.tolist() == [0] * 7 + [1] * 7 + [2] * 4
    assert reader.numbers.tolist() == [*range(7), *range(7), *range(4)]


def test_records_are_read_byte_by_byte(reader, records):
    payloads = reader.read(np.array([17, 0, 7]))
    parsed = [tf.train.Example.FromString(payload).features.feature for payload in payloads]
    ids = [features["id"].bytes_list.value[0].decode() for features in parsed]
    assert ids == [records[row].id for row in (17, 0, 7)]


def test_images_are_streamed_in_the_order_asked_for(reader, pixels):
    order = np.random.default_rng(0).permutation(18)
    streamed = np.concatenate(list(reader.stream(order)))
    np.testing.assert_array_equal(streamed, pixels[order])


def test_rows_are_decoded_on_demand(reader, pixels):
    rows = np.array([3, 3, 17])
    np.testing.assert_array_equal(reader.decode(rows), pixels[rows])
    assert reader.decode(np.array([], "int64")).shape == (0, 32, 32, 3)


def test_threads_share_a_reader(reader, pixels):
    wrong = []

    def decode(seed):
        for rows in np.random.default_rng(seed).integers(0, 18, (10, 5)):
            if not np.array_equal(reader.decode(rows), pixels[rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=decode, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_pipelines_that_wait_leave_the_decoding_its_threads(reader, pixels):
    """More calls in flight than TensorFlow has threads to share."""

    def decode(row):
        return reader.decode(np.array([row]))[0]

    rows = tf.data.Dataset.range(18).map(
        lambda row: tf.numpy_function(decode, [row], tf.uint8), num_parallel_calls=16
    )
    np.testing.assert_array_equal(np.stack(list(rows.as_numpy_iterator())), pixels)


def test_a_file_that_is_replaced_meanwhile_stays_what_it_was(reader, sharded, pixels):
    reader.decode(np.arange(18))
    for file in sharded.files["val"]:
        file.unlink()
        file.write_bytes(b"other")
    np.testing.assert_array_equal(reader.decode(np.arange(18)), pixels)


def test_a_file_that_is_cut_off_meanwhile_is_named(reader, sharded):
    reader.decode(np.arange(18))
    file = sharded.files["val"][1]
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 30)
    reason = r"record 6: cannot be read \(26 bytes fewer than when it was checked\)"
    with pytest.raises(ValueError, match=rf"val/01-32x32-7.tfrec, {reason}"):
        reader.decode(np.arange(18))
