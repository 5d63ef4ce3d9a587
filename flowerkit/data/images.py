"""The images of a split: where their records are, their pixels, and where decoded pixels stay.

A pool of threads decodes, each image straight into the place where it stays.
"""

import collections
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowerkit.accelerator import num_cores
from flowerkit.data.jpeg import decode_jpeg
from flowerkit.data.records import CorruptRecord
from flowerkit.data.tfrecords import parse_example

BLOCK = 16  # images that a thread decodes at a time

_THREAD = "flowerkit-decode"


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

    def __len__(self) -> int:
        return len(self.offsets)

    @functools.cached_property
    def _handles(self) -> list[int]:
        # Open for as long as the reader lives: a file that is replaced meanwhile stays what it was.
        handles = [os.open(file, os.O_RDONLY) for file in self.files]
        # Not at the end of the process, when threads may still read through them.
        weakref.finalize(self, lambda: [os.close(handle) for handle in handles]).atexit = False
        return handles

    def decode(self, row: int, out: np.ndarray) -> None:
        """Decode the image of `row` into `out`, (size, size, 3) uint8."""
        number_of_file, offset = int(self.file_of[row]), int(self.offsets[row])
        try:
            payload = os.pread(self._handles[number_of_file], int(self.lengths[row]), offset)
            if missing := int(self.lengths[row]) - len(payload):
                raise OSError(f"{missing} bytes fewer than when it was checked")
            decode_jpeg(parse_example(payload, labelled=False).image, out)
        except (OSError, ValueError) as error:
            reason = f"cannot be read ({error})" if isinstance(error, OSError) else str(error)
            fault = CorruptRecord(self.files[number_of_file], int(self.numbers[row]), reason)
            raise ValueError(fault.explain()) from error


# An array of images -------------------------------------------------------------------------------


class DecodedImages:
    """Images (n, size, size, 3) uint8 with the face of a NumPy array: shape, dtype, len, and rows by
    int, slice or int array. Threads may share it. Raises ValueError for an image that is damaged.

    With `order` (n,) they are decoded into memory in this order, in the background, and rows are waited
    for. Without, they are decoded each time they are asked for. Raises MemoryError without room.
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
            arguments = weakref.ref(self), order
            threading.Thread(target=_fill, args=arguments, name=_THREAD, daemon=True).start()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        numbers = np.arange(len(self))[rows]  # IndexError for rows outside, as NumPy has it
        if self._array is not None:
            self._wait_for(np.atleast_1d(numbers))
            return self._array[rows]
        wanted = np.atleast_1d(numbers)
        images = self._decode_into(wanted, np.empty((len(wanted), *self.shape[1:]), "uint8"))
        return images if numbers.ndim else images[0]

    def take(self, rows: np.ndarray, axis: int, out: np.ndarray, mode: str) -> np.ndarray:
        """NumPy's `take` along axis 0: the images of `rows`, in `out`."""
        if self._array is None:
            return self._decode_into(rows, out)
        self._wait_for(rows)
        return self._array.take(rows, axis, out, mode)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def records(self) -> list[tuple[Path, int]]:
        """The file of each row's record, and its number there."""
        files, numbers = self._reader.file_of.tolist(), self._reader.numbers.tolist()
        return [(self._reader.files[k], number) for k, number in zip(files, numbers, strict=True)]

    def finish(self) -> None:
        """Decode every image that is not decoded yet. Raises ValueError for one that cannot be."""
        if self._array is not None:
            return self._wait_for(np.arange(len(self)))
        for start in range(0, len(self), 64 * BLOCK):
            self[start : start + 64 * BLOCK]

    def _decode_into(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        pairs = list(zip(rows.tolist(), out, strict=True))
        blocks = [pairs[start : start + BLOCK] for start in range(0, len(pairs), BLOCK)]
        for _ in map_ahead(self._decode, blocks):
            pass
        return out

    def _decode(self, pairs: Iterable[tuple[int, np.ndarray]]) -> None:
        for row, out in pairs:
            self._reader.decode(row, out)

    def _wait_for(self, rows: np.ndarray) -> None:
        if self._num_filled == len(self) or not len(rows):
            return
        needed = self._position_of[rows].max() + 1
        with self._changed:
            self._changed.wait_for(lambda: self._num_filled >= needed or self._error)
            if self._num_filled < needed:
                raise ValueError(str(self._error)) from self._error

    def _report(self, num_more: int, error: Exception | None = None) -> None:
        """Images that follow those decoded are there, or this is what ended the decoding."""
        with self._changed:
            self._num_filled += num_more
            self._error = error
            self._changed.notify_all()


# Splits are decoded one after the other, in the order of loading: the training images are wanted first.
_turn = threading.Lock()
_filling: weakref.WeakSet[DecodedImages] = weakref.WeakSet()


class _Dropped(Exception):
    """The program needs these images no more."""


def _fill(images_of: weakref.ref, order: np.ndarray) -> None:
    def get() -> DecodedImages:
        if (images := images_of()) is None:
            raise _Dropped
        return images

    def decode(rows: np.ndarray) -> int:
        images = get()
        images._decode((row, images._array[row]) for row in rows.tolist())
        return len(rows)

    blocks = (order[start : start + BLOCK] for start in range(0, len(order), BLOCK))
    with _turn:
        try:
            for num_decoded in map_ahead(decode, blocks):
                get()._report(num_decoded)
        except _Dropped:
            pass
        except Exception as error:
            if images := images_of():
                images._report(0, error)


def reserved_bytes() -> int:
    """Memory that images still being decoded will take, and that the system counts as free today."""
    return sum(
        images.nbytes * (len(images) - images._num_filled) // len(images)
        for images in list(_filling)
        if not images._error
    )


def map_ahead(function: Callable, items: Iterable) -> Iterator[Any]:
    """`map` by the threads that decode; only a little ahead, so that all who call it get their share."""
    pool, num_threads = _start_pool()
    pending = collections.deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > 2 * num_threads:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@functools.cache
def _start_pool() -> tuple[ThreadPoolExecutor, int]:
    num_threads = num_cores()
    return ThreadPoolExecutor(num_threads, _THREAD), num_threads
