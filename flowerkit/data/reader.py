"""Any rows of a split, read and decoded straight from its shards, in any order.

Decoding is TensorFlow's, in C++ on all cores, in threads of its own: pipelines that wait for it
block those that they share.
"""

import functools
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from flowerkit.accelerator import num_cores
from flowerkit.data.records import check_payload
from flowerkit.data.tfrecords import CorruptRecord, parse_example

# Images between two contacts with Python, where a thread may have to wait for the GIL.
BATCH = 64

# AutoGraph rewrites `if` and `for` over tensors, of which the maps here have none, and takes a third
# of a second to find that out.
trace_as_it_stands = tf.autograph.experimental.do_not_convert


@dataclass(frozen=True, eq=False)
class ShardReader:
    """Where the records of a split are, and their images.

    Row i is record `numbers[i]` of `files[file_of[i]]`: `lengths[i]` bytes from `offsets[i]`. All four
    are (n,) int64. Errors name file and record, as `check_shard` would.
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
    def shape(self) -> tuple[int, int, int, int]:
        """(n, size, size, 3), of all images decoded."""
        return len(self), self.image_size, self.image_size, 3

    @functools.cached_property
    def _handles(self) -> list[int]:
        # Open for as long as the reader lives: a file that is replaced meanwhile stays what it was.
        handles = [os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0)) for file in self.files]
        # Not at the end of the process, when threads may still read through them.
        weakref.finalize(self, lambda: [os.close(handle) for handle in handles]).atexit = False
        return handles

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The serialized records of `rows`, an object array of bytes."""
        wanted = (self.file_of[rows], self.lengths[rows], self.offsets[rows])
        payloads = np.empty(len(rows), object)
        for k, (file, length, offset) in enumerate(
            zip(*map(np.ndarray.tolist, wanted), strict=True)
        ):
            payloads[k] = _read_at(self._handles[file], length, offset)
        return payloads

    def stream(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """All images of `order`, some dozens at a time: (up to 64, size, size, 3) uint8."""

        def read(number):
            return self.read(order[number * BATCH : (number + 1) * BATCH])

        @trace_as_it_stands
        def parse(number):
            payloads = tf.ensure_shape(tf.numpy_function(read, [number], tf.string), (None,))
            return parse_example(payloads, labelled=False)[0]

        jpegs = tf.data.Dataset.range(-(-len(order) // BATCH)).map(parse).unbatch()
        return _decode_all(jpegs, self.image_size).batch(BATCH).prefetch(2).as_numpy_iterator()

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """The images of `rows`, (len(rows), size, size, 3) uint8, decoded now. Threads may share it."""
        if not len(rows):
            return np.empty((0, *self.shape[1:]), "uint8")
        try:
            return self._decode(tf.constant(self.read(rows))).numpy()
        except (tf.errors.OpError, OSError) as error:
            raise self.explain(rows, error) from error

    @functools.cached_property
    def _decode(self):
        image_size = self.image_size  # not self: the function would hold what holds it

        @trace_as_it_stands
        def decode(payloads):
            jpegs = tf.data.Dataset.from_tensor_slices(parse_example(payloads, labelled=False)[0])
            batch = _decode_all(jpegs, image_size).batch(tf.size(payloads, out_type=tf.int64))
            return batch.get_single_element()

        return tf.function(decode, input_signature=[tf.TensorSpec((None,), tf.string)])

    def explain(self, rows: np.ndarray, error: Exception) -> ValueError:
        """Which record of `rows` cannot be decoded, in words; `error` itself if all of them can."""
        wanted = {"image_size": self.image_size, "num_classes": self.num_classes}
        for row in rows:
            file = self.files[self.file_of[row]]
            try:
                (payload,) = self.read([row])
                reasons = check_payload(payload, labelled=self.labelled, **wanted)
            except OSError as problem:
                reasons = [f"cannot be read ({problem})"]
            if reasons:
                fault = CorruptRecord(file, int(self.numbers[row]), reasons[0])
                return ValueError(
                    f"{file.parent.name}/{fault}. Re-download the file, or pass "
                    f'on_corrupt="skip" (--on-corrupt skip).'
                )
        return ValueError(f"decoding the images of {self.files[0].parent} failed: {error}")


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


def _decode_all(jpegs: tf.data.Dataset, image_size: int) -> tf.data.Dataset:
    @trace_as_it_stands
    def decode(jpeg):
        return tf.ensure_shape(tf.io.decode_jpeg(jpeg, channels=3), (image_size, image_size, 3))

    options = tf.data.Options()
    options.autotune.enabled = False  # its end can block for seconds
    options.threading.private_threadpool_size = num_cores()
    decoded = jpegs.map(decode, num_parallel_calls=num_cores(), deterministic=True)
    return decoded.with_options(options)
