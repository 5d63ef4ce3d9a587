"""images: the face of an array, rows that are waited for, and what happens when they never come."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flowerkit.accelerator import num_cores
from flowerkit.data import images as module
from flowerkit.data.images import BLOCK, DecodedImages, reserved_bytes
from flowerkit.data.jpeg import decode_jpeg
from flowerkit.data.splits import load_split
from flowerkit.data.tfrecords import find_shards, read_records, write_shards


class Reader:
    """200 images of 2 px; image i is filled with i. One is decoded for each `release` of `gate`."""

    image_size = 2

    def __init__(self, num_images=0):
        self.gate = threading.Semaphore(num_images)
        self.decoded = []
        self.bad = None

    def __len__(self):
        return 200

    def decode(self, row, out):
        self.gate.acquire()
        if row == self.bad:
            raise ValueError(f"broken: {row}")
        self.decoded.append(row)
        out[...] = row


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    with ThreadPoolExecutor(2) as threads:
        monkeypatch.setattr(module, "_start_pool", lambda: (threads, 2))
        yield


def in_ram(reader, order=None):
    return DecodedImages(reader, np.arange(200) if order is None else order)


@pytest.mark.parametrize("images", [in_ram(Reader(200)), DecodedImages(Reader(9999))])
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
    reader, order = Reader(), np.arange(200)[::-1]
    images = in_ram(reader, order)
    reader.gate.release(4 * BLOCK)  # which several threads take
    late = []
    waiting = threading.Thread(target=lambda: late.append(images[0]))
    waiting.start()
    reader.gate.release(BLOCK)
    waiting.join(0.1)
    assert waiting.is_alive()
    reader.gate.release(200)
    assert images[[199, 136]][:, 0, 0, 0].tolist() == [199, 136]
    waiting.join(5)
    assert late[0][0, 0, 0] == 0
    assert sorted(reader.decoded) == list(range(200))


def test_images_are_decoded_in_the_order_in_which_they_are_needed():
    reader, order = Reader(), np.random.default_rng(0).permutation(200)
    images = in_ram(reader, order)
    reader.gate.release(200)
    images.finish()
    places = np.argsort(order)[reader.decoded]  # each thread is within its block
    assert np.abs(places - np.arange(200)).max() < 8 * BLOCK


def test_an_error_in_the_thread_comes_up_where_its_images_are_asked_for():
    reader = Reader(200)
    reader.bad = 5 * BLOCK + 3
    images = in_ram(reader)
    assert images[5 * BLOCK - 1][0, 0, 0] == 5 * BLOCK - 1
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"broken: {reader.bad}"):
            images[5 * BLOCK]
    assert images[0][0, 0, 0] == 0
    with pytest.raises(ValueError, match="broken"):
        images.finish()


def test_an_error_comes_up_where_images_are_decoded_each_time():
    reader = Reader(9999)
    reader.bad = 70
    images = DecodedImages(reader)
    assert images[:70].shape == (70, 2, 2, 3)
    with pytest.raises(ValueError, match="broken: 70"):
        images[60:90]


def test_a_split_is_decoded_at_a_time_in_the_order_of_loading():
    readers = [Reader(), Reader(200)]
    splits = [in_ram(reader) for reader in readers]
    assert readers[1].decoded == []
    readers[0].gate.release(200)
    splits[1].finish()
    assert len(readers[0].decoded) == 200


def test_reserved_memory_is_what_is_not_yet_filled():
    before, reader = reserved_bytes(), Reader()
    images = in_ram(reader)
    assert reserved_bytes() - before == 2400
    reader.gate.release(200)
    images.finish()
    assert reserved_bytes() == before


def test_images_that_the_program_drops_end_their_thread_and_free_their_memory():
    reader = Reader()
    images = in_ram(reader)
    array = weakref.ref(images._array)
    del images
    reader.gate.release(200)  # for the blocks that threads are in
    wait_until(lambda: "flowerkit-decode" not in {thread.name for thread in threading.enumerate()})
    gc.collect()
    wait_until(lambda: array() is None)
    assert len(reader.decoded) < 200


def wait_until(is_true):
    deadline = time.monotonic() + 5
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_decoding_never_keeps_a_process_alive(drawn):
    code = """
import sys, threading, time
from flowerkit.data import images
from flowerkit.data.splits import load_split
from flowerkit.sources import find_data
images.BLOCK = 1
decode = images.ShardReader.decode
def decode_slowly(reader, row, out):
    time.sleep(1)
    decode(reader, row, out)
images.ShardReader.decode = decode_slowly
train = load_split(find_data(sys.argv[1]), "train", cache="ram").images  # 50 images
train[0]
threading.Thread(target=train.finish, daemon=True).start()
print(time.monotonic())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, drawn.folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - float(done.stdout) < 3 + 6 / num_cores()
    assert "Fatal" not in done.stderr


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
    return np.stack([decode_jpeg(record.image) for record in records])


def test_rows_are_found_in_their_files_and_decoded_into_their_places(reader, pixels):
    assert reader.file_of.tolist() == [0] * 7 + [1] * 7 + [2] * 4
    assert reader.numbers.tolist() == [*range(7), *range(7), *range(4)]
    out = np.zeros((3, 32, 32, 3), "uint8")
    for place, row in enumerate((17, 0, 7)):
        reader.decode(row, out[place])
    np.testing.assert_array_equal(out, pixels[[17, 0, 7]])


@pytest.mark.parametrize("order", [None, np.arange(18)[::-1]])
def test_many_threads_get_their_images_at_the_same_time(reader, pixels, order):
    images = DecodedImages(reader, order)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(images.__getitem__, [[row, 3, 3] for row in range(18)]))
    np.testing.assert_array_equal(found, pixels[[[row, 3, 3] for row in range(18)]])


def test_a_file_that_is_replaced_meanwhile_stays_what_it_was(reader, sharded, pixels):
    images = DecodedImages(reader)
    images[0]
    for file in sharded.files["val"]:
        file.unlink()
        file.write_bytes(b"other")
    np.testing.assert_array_equal(images[:], pixels)


def test_a_file_that_is_cut_off_meanwhile_is_named(reader, sharded):
    images = DecodedImages(reader)
    images[0]
    file = sharded.files["val"][1]
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 30)
    reason = r"record 6: cannot be read \(26 bytes fewer than when it was checked\)"
    with pytest.raises(ValueError, match=rf"val/01-32x32-7.tfrec, {reason}"):
        images[:]
