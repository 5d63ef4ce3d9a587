"""images: the face of an array, rows that are waited for, and what happens when they never come."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf

from flowerkit.data.images import DecodedImages, reserved_bytes
from flowerkit.data.records import read_records
from flowerkit.data.splits import load_split
from flowerkit.data.tfrecords import find_shards, write_shards


class Reader:
    """200 images of 2 px; image i is filled with i. A batch is decoded for each `release` of `gate`."""

    image_size = 2

    def __init__(self, batches=0):
        self.gate = threading.Semaphore(batches)
        self.decoded = []
        self.bad = None

    def __len__(self):
        return 200

    def decode(self, rows):
        self.gate.acquire()
        if self.bad in rows.tolist():
            raise ValueError(f"broken: one of {rows.tolist()[:2]}")
        self.decoded += rows.tolist()
        return np.repeat(np.asarray(rows, "uint8"), 12).reshape(-1, 2, 2, 3)


def in_ram(reader, order=None):
    return DecodedImages(reader, np.arange(200) if order is None else order)


@pytest.mark.parametrize("images", [in_ram(Reader(4)), DecodedImages(Reader(999))])
def test_images_have_the_face_of_an_array(images):
    assert (images.shape, images.dtype, images.ndim) == ((200, 2, 2, 3), np.uint8, 4)
    assert images.nbytes == 2400
    assert len(images) == 200
    assert images[7].shape == (2, 2, 3)
    assert images[7][0, 0, 0] == 7
    assert images[-1][0, 0, 0] == 199
    assert images[np.int64(3)][0, 0, 0] == 3
    assert images[190:300].shape == (10, 2, 2, 3)
    assert images[[5, -200, 5]][:, 0, 0, 0].tolist() == [5, 0, 5]
    assert images[np.array([], int)].shape == (0, 2, 2, 3)
    assert [image[0, 0, 0] for image in images] == list(range(200))
    assert np.asarray(images).sum() == sum(range(200)) * 12
    images.finish()
    for outside in (200, [0, -201], [0.5]):
        with pytest.raises(IndexError):
            images[outside]


def test_rows_are_given_out_as_soon_as_they_are_there():
    reader, order = Reader(1), np.arange(200)[::-1]
    images = in_ram(reader, order)
    assert images[[199, 136]][:, 0, 0, 0].tolist() == [199, 136]
    assert reader.decoded == order[:64].tolist()
    late = []
    waiting = threading.Thread(target=lambda: late.append(images[0]))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    reader.gate.release(3)
    waiting.join(5)
    assert late[0][0, 0, 0] == 0


def test_an_error_in_the_thread_comes_up_where_its_images_are_asked_for():
    reader = Reader(4)
    reader.bad = 70
    images = in_ram(reader)
    assert images[63][0, 0, 0] == 63
    for _ in range(2):
        with pytest.raises(ValueError, match=r"broken: one of \[64, 65\]"):
            images[64]
    assert images[0][0, 0, 0] == 0
    with pytest.raises(ValueError, match="broken"):
        images.finish()


def test_a_split_is_decoded_at_a_time_in_the_order_of_loading():
    readers = [Reader(), Reader()]
    splits = [in_ram(reader) for reader in readers]
    readers[1].gate.release(4)
    assert readers[1].decoded == []
    readers[0].gate.release(4)
    splits[1].finish()
    assert len(readers[0].decoded) == 200


def test_reserved_memory_is_what_is_not_yet_filled():
    before, reader = reserved_bytes(), Reader(1)
    images = in_ram(reader)
    images[63]
    assert reserved_bytes() - before == 2400 - 64 * 12
    reader.gate.release(3)
    images.finish()
    assert reserved_bytes() == before


def test_images_that_the_program_drops_stop_their_thread_and_free_their_memory():
    reader = Reader(1)
    images = in_ram(reader)
    images[0]
    array = weakref.ref(images._array)
    del images
    gc.collect()
    assert array() is None
    reader.gate.release(1)
    deadline = time.monotonic() + 5
    while "flowerkit-decode" in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(reader.decoded) == 128


def test_decoding_never_keeps_a_process_alive(drawn):
    code = """
import atexit, sys, time
from flowerkit.data import images
from flowerkit.data.splits import load_split
from flowerkit.sources import find_data
images.BATCH = 1
read = images.ShardReader.read
def read_slowly(reader, rows):
    time.sleep(0.2)
    return read(reader, rows)
images.ShardReader.read = read_slowly
train = load_split(find_data(sys.argv[1]), "train", cache="ram").images
train[0]
start = time.monotonic()
atexit._run_exitfuncs()
print(time.monotonic() - start < 4)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, drawn.folder], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert "Error" not in done.stderr


# The records of a split ---------------------------------------------------------------------------


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
    return load_split(sharded, "val", cache="none").images._reader


@pytest.fixture
def pixels(records):
    return np.stack([tf.io.decode_jpeg(record.image, channels=3) for record in records])


def test_rows_are_found_in_their_files_byte_by_byte(reader, records):
    assert reader.file_of.tolist() == [0] * 7 + [1] * 7 + [2] * 4
    assert reader.numbers.tolist() == [*range(7), *range(7), *range(4)]
    payloads = reader.read(np.array([17, 0, 7]))
    parsed = [tf.train.Example.FromString(payload).features.feature for payload in payloads]
    ids = [features["id"].bytes_list.value[0].decode() for features in parsed]
    assert ids == [records[row].id for row in (17, 0, 7)]


def test_images_are_decoded_in_any_order(reader, pixels):
    rows = np.array([3, 3, 17])
    np.testing.assert_array_equal(reader.decode(rows), pixels[rows])
    assert reader.decode(np.array([], "int64")).shape == (0, 32, 32, 3)


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
