"""The images of a split: where their records are, their pixels, and where decoded pixels stay.

Decoding is TensorFlow's, in C++ on all cores, in threads of its own: pipelines that wait for it block
those that they share.
"""

import atexit
import functools
import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from flowerkit.accelerator import num_cores
from flowerkit.data.records import CorruptRecord, check_payload
from flowerkit.data.tfrecords import parse_example

BATCH = 64  # images that are decoded at a time

_THREAD = "flowerkit-decode"
_MAX_EXIT_SECONDS = 5.0

# AutoGraph would look for `if` and `for` over tensors, which takes a third of a second and finds none.
_traced_as_is = tf.autograph.experimental.do_not_convert


@dataclass(frozen=True, eq=False)
class ShardReader:
    """Where the records of a split are, and what their images must be.

    Row i is record `numbers[i]` of `files[file_of[i]]`: `lengths[i]` bytes from `offsets[i]`. All four
    are (n,) int64. Threads may share a reader. Errors name file and record.
    """

    files: tuple[Path, ...]
    file_of: np.ndarray
    numbers: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    image_size: int
    num_classes: int
    labelled: bool

    def __len__(self) -> int:
        return len(self.offsets)

    @functools.cached_property
    def _handles(self) -> list[int]:
        # Open for as long as the reader lives: a file that is replaced meanwhile stays what it was.
        handles = [os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0)) for file in self.files]
        # Not at the end of the process, when threads may still read through them.
        weakref.finalize(self, lambda: [os.close(handle) for handle in handles]).atexit = False
        return handles

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The serialized records of `rows`, an object array of bytes."""
        payloads = np.empty(len(rows), object)
        for k, row in enumerate(np.asarray(rows).tolist()):
            handle = self._handles[self.file_of[row]]
            payloads[k] = _read_at(handle, int(self.lengths[row]), int(self.offsets[row]))
        return payloads

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """The images of `rows`, (len(rows), size, size, 3) uint8, decoded now."""
        if not len(rows):
            return np.empty((0, self.image_size, self.image_size, 3), "uint8")
        try:
            return self._decode_payloads(tf.constant(self.read(rows))).numpy()
        except (tf.errors.OpError, OSError) as error:
            raise ValueError(self._explain(rows, error)) from error

    @functools.cached_property
    def _decode_payloads(self):
        shape = self.image_size, self.image_size, 3  # not self: the function would hold its holder

        @_traced_as_is
        def decode_one(jpeg):
            return tf.ensure_shape(tf.io.decode_jpeg(jpeg, channels=3), shape)

        @_traced_as_is
        def decode(payloads):
            jpegs = tf.data.Dataset.from_tensor_slices(parse_example(payloads, labelled=False)[0])
            options = tf.data.Options()
            options.autotune.enabled = False  # its end can block for seconds
            options.threading.private_threadpool_size = num_cores()
            images = jpegs.map(decode_one, num_parallel_calls=num_cores(), deterministic=True)
            batch = images.batch(tf.size(payloads, out_type=tf.int64)).with_options(options)
            return batch.get_single_element()

        return tf.function(decode, input_signature=[tf.TensorSpec((None,), tf.string)])

    def check(self, row: int) -> list[str]:
        """Everything wrong with the record of a row, [] if it is valid."""
        try:
            (payload,) = self.read([row])
        except OSError as problem:
            return [f"cannot be read ({problem})"]
        return check_payload(payload, self.image_size, self.num_classes, self.labelled)

    def _explain(self, rows: np.ndarray, error: Exception) -> str:
        """The sentence that names the record of `rows` which cannot be decoded; else `error`."""
        for row in rows:
            if reasons := self.check(row):
                file, number = self.files[self.file_of[row]], int(self.numbers[row])
                return CorruptRecord(file, number, reasons[0]).explain()
        return f"decoding the images of {self.files[0].parent} failed: {error}"


def _read_at(handle: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        payload = os.pread(handle, length, offset)
    else:  # Windows, which has one position a handle, for all threads
        with _seeking:
            os.lseek(handle, offset, os.SEEK_SET)
            payload = os.read(handle, length)
    if len(payload) < length:
        raise OSError(f"{length - len(payload)} bytes fewer than when it was checked")
    return payload


_seeking = threading.Lock()


# An array of images -------------------------------------------------------------------------------


class DecodedImages:
    """Images (n, size, size, 3) uint8 with the face of a NumPy array: shape, dtype, len, and rows by
    int, slice or int array. Threads may share it. Raises ValueError for an image that is damaged.

    With `order` (n,) a thread decodes them into memory in this order, and rows are waited for. Without,
    they are decoded each time they are asked for. Raises MemoryError without room.
    """

    dtype = np.dtype("uint8")
    ndim = 4

    def __init__(self, reader: ShardReader, order: np.ndarray | None = None):
        self._reader = reader
        self.shape = (len(reader), reader.image_size, reader.image_size, 3)
        self.nbytes = int(np.prod(self.shape, dtype="int64"))
        self._array = None
        if order is not None:
            self._array = np.empty(self.shape, "uint8")
            self._position_of = np.argsort(order)
            self._num_filled, self._error = 0, None
            self._changed = threading.Condition()
            _filling.add(self)
            # The thread holds these images weakly: when the program drops them, it ends.
            arguments = weakref.ref(self), reader, order
            threading.Thread(target=_fill, args=arguments, name=_THREAD, daemon=True).start()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        numbers = np.arange(len(self))[rows]  # IndexError for rows outside, as NumPy has it
        if self._array is not None:
            self._wait_for(np.atleast_1d(numbers))
            return self._array[rows]
        images = self._reader.decode(np.atleast_1d(numbers))
        return images if numbers.ndim else images[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def finish(self) -> None:
        """Decode every image that is not decoded yet. Raises ValueError for one that cannot be."""
        if self._array is not None:
            return self._wait_for(np.arange(len(self)))
        for start in range(0, len(self), 8 * BATCH):
            self[start : start + 8 * BATCH]

    def _wait_for(self, rows: np.ndarray) -> None:
        if self._num_filled == len(self) or not len(rows):
            return
        needed = self._position_of[rows].max() + 1
        with self._changed:
            self._changed.wait_for(lambda: self._num_filled >= needed or self._error)
            if self._num_filled < needed:
                raise ValueError(str(self._error)) from self._error

    def _put(self, rows: np.ndarray, decoded: np.ndarray | None, error: Exception | None) -> bool:
        """Take decoded images, or what ends the decoding; whether it goes on."""
        if error is None:
            self._array[rows] = decoded
        with self._changed:
            self._num_filled += 0 if error else len(rows)
            self._error = error
            self._changed.notify_all()
        return error is None


# Splits are decoded one after the other, in the order of loading: the training images are wanted first.
_turn = threading.Lock()
_filling: weakref.WeakSet[DecodedImages] = weakref.WeakSet()
_stopping = threading.Event()


def _fill(images_of: weakref.ref, reader: ShardReader, order: np.ndarray) -> None:
    with _turn:
        for start in range(0, len(order), BATCH):
            rows, decoded, error = order[start : start + BATCH], None, None
            try:
                if _stopping.is_set():
                    raise RuntimeError("the decoding of these images was stopped")
                decoded = reader.decode(rows)
            except Exception as problem:
                error = problem
            images = images_of()
            if images is None or not images._put(rows, decoded, error):
                return
            del images


def reserved_bytes() -> int:
    """Memory that images still being decoded will take, and that the system counts as free today."""
    return sum(
        images.nbytes * (len(images) - images._num_filled) // len(images)
        for images in list(_filling)
        if not images._error
    )


@atexit.register
def _stop_all() -> None:
    # A thread inside TensorFlow while the interpreter goes away can crash the process.
    _stopping.set()
    for thread in threading.enumerate():
        if thread.name == _THREAD:
            thread.join(_MAX_EXIT_SECONDS)
