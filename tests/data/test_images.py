"""decoded_images: an array's face, rows that are waited for, and what happens when they never come."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from flowerkit.data import images as decoded_images
from flowerkit.data.cache import grow_file, list_cached, open_cached
from flowerkit.data.images import ImagesInFile, ImagesOnDemand, StreamedImages, reserved_bytes

SHAPE = (200, 2, 2, 3)


class Reader:
    """200 images of 2 px; image i is filled with i. Streams on when it is told to."""

    def __init__(self, shape=SHAPE):
        self.shape = shape
        self.gate = threading.Semaphore(0)
        self.streamed = []
        self.decoded = []
        self.bad = None

    def make(self, rows):
        return np.repeat(np.asarray(rows, "uint8"), 12).reshape(-1, 2, 2, 3)

    def stream(self, order):
        for start in range(0, len(order), 64):
            self.gate.acquire()
            rows = order[start : start + 64]
            if self.bad in rows.tolist():
                raise OSError("broken")
            self.streamed += rows.tolist()
            yield self.make(rows)

    def decode(self, rows):
        self.decoded += rows.tolist()
        return self.make(rows)

    def explain(self, rows, error):
        return ValueError(f"one of {rows.tolist()[:2]}: {error}")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path))


def stream(reader, order=None, growing=None):
    array = np.zeros(reader.shape, "uint8") if growing is None else growing.images
    order = np.arange(reader.shape[0]) if order is None else order
    return StreamedImages(reader, array, order, growing)


def open_gate(reader, batches=4):
    reader.gate.release(batches)


def make_whole_file():
    growing = grow_file("a", SHAPE, "val")
    reader = Reader()
    open_gate(reader)
    images = stream(reader, growing=growing)
    images.finish()
    images._filler.join()
    return open_cached("a", SHAPE)


def make_streamed():
    reader = Reader()
    open_gate(reader)
    return stream(reader)


KINDS = {
    "streamed": make_streamed,
    "on demand": lambda: ImagesOnDemand(Reader()),
    "in a file": lambda: ImagesInFile(Reader(), make_whole_file()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_have_the_face_of_an_array(kind):
    images = KINDS[kind]()
    assert (images.shape, images.dtype, images.ndim) == (SHAPE, np.uint8, 4)
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


@pytest.mark.parametrize("kind", KINDS)
def test_rows_outside_are_refused(kind):
    images = KINDS[kind]()
    with pytest.raises(IndexError, match="row 200 is outside the 200 images"):
        images[200]
    with pytest.raises(IndexError, match="row -201 is outside the 200 images"):
        images[[0, -201]]
    with pytest.raises(IndexError, match="by int, slice or int array, got float64"):
        images[[0.5]]


# In a file ----------------------------------------------------------------------------------------


def test_a_whole_file_holds_the_images_and_their_checksums():
    cached = make_whole_file()
    np.testing.assert_array_equal(cached.images, Reader().make(np.arange(200)))
    assert len(set(cached.checksums.tolist())) == 200


def test_an_image_that_is_damaged_in_its_file_is_decoded_and_said_once(caplog):
    cached = make_whole_file()
    with cached.path.open("r+b") as file:
        file.seek(12 * 9)
        file.write(b"\xff")
    reader = Reader()
    images = ImagesInFile(reader, cached)
    assert images[8:11][:, 0, 0, 0].tolist() == [8, 9, 10]
    assert images[[9, 3, 9]][:, 0, 0, 0].tolist() == [9, 3, 9]
    assert reader.decoded == [9, 9, 9]
    assert caplog.text.count("is damaged: its bad images are decoded from the shards") == 1
    assert list_cached() == []  # the next run makes it anew


# Streamed -----------------------------------------------------------------------------------------


def test_rows_are_handed_out_as_soon_as_they_are_there():
    reader, order = Reader(), np.arange(200)[::-1]
    images = stream(reader, order)
    open_gate(reader, 1)
    assert images[[199, 136]][:, 0, 0, 0].tolist() == [199, 136]
    assert reader.streamed == order[:64].tolist()
    late = []
    waiting = threading.Thread(target=lambda: late.append(images[0]))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    open_gate(reader, 3)
    waiting.join(5)
    assert late[0][0, 0, 0] == 0


def test_whole_images_are_sliced_without_a_copy():
    images = make_streamed()
    images.finish()
    assert images[3:5].base is not None
    assert images[[3, 5]].base is None


def test_an_error_in_the_thread_comes_up_where_its_images_are_asked_for():
    reader = Reader()
    reader.bad = 70
    images = stream(reader)
    open_gate(reader)
    assert images[63][0, 0, 0] == 63
    for _ in range(2):
        with pytest.raises(ValueError, match=r"one of \[64, 65\]: broken"):
            images[64]
    assert images[0][0, 0, 0] == 0
    with pytest.raises(ValueError, match="broken"):
        images.finish()


def test_one_split_is_decoded_at_a_time_and_one_that_is_asked_for_goes_ahead():
    readers = [Reader() for _ in range(3)]
    splits = [stream(reader) for reader in readers]
    for reader in readers[1:]:
        open_gate(reader)
    splits[2].finish()
    assert readers[1].streamed == readers[0].streamed == []
    open_gate(readers[0])
    splits[0].finish()
    wait_for(lambda: len(readers[1].streamed) == 200)


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_memory_that_is_promised_is_what_is_not_yet_filled():
    wait_for(lambda: reserved_bytes() == 0)
    reader = Reader()
    images = stream(reader)
    assert reserved_bytes() == 2400
    open_gate(reader, 1)
    images[63]
    assert reserved_bytes() == 2400 - 64 * 12
    open_gate(reader, 3)
    images.finish()
    assert reserved_bytes() == 0


def test_images_that_nobody_needs_any_more_stop_their_thread_and_free_their_memory():
    reader = Reader()
    images = stream(reader)
    thread, array = images._filler._thread, weakref.ref(images._array)
    del images
    gc.collect()
    open_gate(reader, 2)
    thread.join(5)
    assert not thread.is_alive()
    assert len(reader.streamed) <= 64
    gc.collect()
    assert array() is None


def test_a_file_that_never_becomes_whole_is_removed(tmp_path):
    reader = Reader()
    images = stream(reader, growing=grow_file("a", SHAPE, "val"))
    open_gate(reader, 1)
    images[0]
    filler = images._filler
    del images
    open_gate(reader, 1)
    filler.join()
    assert list((tmp_path / "decoded").iterdir()) == []


def test_a_folder_that_becomes_read_only_costs_the_file_and_not_the_run(caplog, monkeypatch):
    def fail(*_):
        raise PermissionError(13, "Permission denied")

    reader = Reader()
    images = stream(reader, growing=grow_file("a", SHAPE, "val"))
    monkeypatch.setattr(decoded_images.GrowingFile, "keep", fail)
    open_gate(reader)
    images.finish()
    images._filler.join()
    assert "not kept for the next run: [Errno 13] Permission denied" in caplog.text
    assert images[150][0, 0, 0] == 150


def test_decoding_never_keeps_a_process_alive(drawn, tmp_path):
    code = """
import sys, time
from flowerkit.data import split as decoding
from flowerkit.data import reader as shard_reader
from flowerkit.sources import finder as sources
shard_reader.BATCH = 1
read = shard_reader.ShardReader.read
def read_slowly(reader, rows):
    time.sleep(0.2)
    return read(reader, rows)
shard_reader.ShardReader.read = read_slowly
images = decoding.load_split(sources.find_data(sys.argv[1]), "train", keep="disk").images
images[0]
start = time.monotonic()
import atexit
atexit._run_exitfuncs()
print(time.monotonic() - start < 4)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, drawn.folder], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "True\n")
    assert "Error" not in done.stderr
    assert not list(tmp_path.glob("decoded/*"))
