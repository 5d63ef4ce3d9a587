"""Decoded images that can be asked for before all are decoded, or that never all are.

Each kind has the face of a NumPy array (n, size, size, 3) uint8: shape, dtype, nbytes, len, and rows
by int, slice or int array. Threads may share it.
"""

import abc
import atexit
import logging
import mmap
import threading
import weakref
import zlib

import numpy as np

from flowerkit.data.cache import CachedFile, GrowingFile
from flowerkit.data.reader import BATCH, ShardReader

_log = logging.getLogger("flowerkit")

_MAX_EXIT_SECONDS = 5.0


def allocate(shape: tuple[int, ...]) -> np.ndarray:
    """Memory for uint8 images, touched by nobody yet. Raises MemoryError where it is refused.

    Not np.empty: that asks Linux for huge pages, and where memory is in pieces, as in small virtual
    machines, the system then joins and clears 2 MiB at a time in the middle of the decoding.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.empty(shape, "uint8")
    num_bytes = int(np.prod(shape, dtype="int64"))
    try:
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"{num_bytes:,} bytes: {error}") from None
    return np.frombuffer(memory, "uint8").reshape(shape)


class DecodedImages(abc.ABC):
    """The face of an array (n, size, size, 3) uint8, whose rows come from `_take`."""

    dtype = np.dtype("uint8")
    ndim = 4

    def __init__(self, reader: ShardReader):
        self._reader = reader
        self.shape = reader.shape
        self.nbytes = int(np.prod(reader.shape, dtype="int64"))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            return self._take(np.arange(*rows.indices(len(self))), None)
        rows = np.asarray(rows)
        return self.take(rows) if rows.ndim else self.take(rows[None])[0]

    def take(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The images of `rows` (k,) int, written into `out` (k, size, size, 3) if it is given."""
        if rows.size and rows.dtype.kind not in "iu":
            raise IndexError(f"rows are chosen by int, slice or int array, got {rows.dtype}")
        outside = rows[(rows < -len(self)) | (rows >= len(self))]
        if outside.size:
            raise IndexError(f"row {outside.flat[0]} is outside the {len(self)} images")
        return self._take(rows.astype("int64") % max(1, len(self)), out)

    def look(self, rows: np.ndarray) -> list[np.ndarray]:
        """The images of `rows` (k,) int one by one, to be read only, and at once."""
        return list(self.take(rows))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    @abc.abstractmethod
    def _take(self, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """What `take` answers, of rows that were checked."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Come back when every image has been decoded once. Raises ValueError for one that cannot be."""


class ImagesOnDemand(DecodedImages):
    """Images that are decoded each time they are asked for, and kept nowhere."""

    def _take(self, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        images = self._reader.decode(rows)
        if out is None:
            return images
        out[:] = images
        return out

    def finish(self) -> None:
        """Decode every image once, for what is wrong with them."""
        for start in range(0, len(self), 8 * BATCH):
            self[start : start + 8 * BATCH]


class ImagesInFile(DecodedImages):
    """The images of a cached file, each compared with its checksum when it is first asked for."""

    def __init__(self, reader: ShardReader, cached: CachedFile):
        super().__init__(reader)
        self._cached = cached
        self._sound = np.zeros(len(self), bool)
        self._warned = False

    def _take(self, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        images = np.take(self._cached.images, rows, axis=0, out=out, mode="clip")
        checksums = self._cached.checksums
        new = np.flatnonzero(~self._sound[rows])
        bad = [k for k in new.tolist() if zlib.crc32(images[k]) != checksums[rows[k]]]
        self._sound[np.delete(rows[new], np.searchsorted(new, bad))] = True
        if bad:
            self._tell()
            images[bad] = self._reader.decode(rows[bad])
        return images

    def _tell(self) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                f"{self._cached.path} is damaged: its bad images are decoded from the shards, and "
                f"the next run makes it anew"
            )
            self._cached.discard()

    def finish(self) -> None:
        """Nothing: what is in the file was decoded before."""


class StreamedImages(DecodedImages):
    """Images that a thread decodes into `array`, while those that are there are handed out.

    `order` (n,) is the order in which they will be wanted first. With `growing`, `array` is that
    file's, and becomes a cached file when it is whole.
    """

    def __init__(
        self,
        reader: ShardReader,
        array: np.ndarray,
        order: np.ndarray,
        growing: GrowingFile | None = None,
    ):
        super().__init__(reader)
        self._array = array
        self._filler = _Filler(reader, array, order, growing)
        # The thread knows the filler only, so that images nobody needs any more stop it.
        weakref.finalize(self, self._filler.stop)
        self._filler.start()

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            self._filler.wait_for(np.arange(*rows.indices(len(self))))
            if self._filler.is_whole:
                return self._array[rows]  # a view, as NumPy has it
        return super().__getitem__(rows)

    def _take(self, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        self._filler.wait_for(rows)
        return np.take(self._array, rows, axis=0, out=out, mode="clip")

    def look(self, rows: np.ndarray) -> list[np.ndarray]:
        """The images of `rows`, where they stand."""
        self._filler.wait_for(rows)
        return [self._array[row] for row in rows.tolist()]

    def finish(self) -> None:
        """Wait for the thread. Raises ValueError for an image that cannot be decoded."""
        self._filler.wait_for(np.arange(len(self)))


class _Filler:
    """The thread behind StreamedImages, and how far it is."""

    def __init__(self, reader, array, order, growing):
        self._reader, self._array, self._order, self._growing = reader, array, order, growing
        self._position_of = np.empty(len(order), "int64")
        self._position_of[order] = np.arange(len(order))
        self._num_filled = 0
        self._error: Exception | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._turn = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flowerkit-decode", daemon=True)

    @property
    def is_whole(self) -> bool:
        return self._num_filled == len(self._order)

    @property
    def reserved_bytes(self) -> int:
        """Memory that the array has been given and has not touched yet."""
        left = len(self._order) - self._num_filled
        in_ram = self._growing is None and not self._stopped
        return left * self._array[0].nbytes if in_ram and left else 0

    def start(self) -> None:
        with _queue_lock:
            _queue.append(self)
            _queue[0].begin()
        self._thread.start()

    def begin(self) -> None:
        """Stop waiting for the splits that were loaded before."""
        self._turn.set()

    def stop(self) -> None:
        """End the thread at its next batch."""
        self._stopped = True
        self.begin()

    def join(self) -> None:
        self._thread.join(_MAX_EXIT_SECONDS)

    def wait_for(self, rows: np.ndarray) -> None:
        """Come back when `rows` are filled; if they never will be, raise what stopped the thread."""
        if self.is_whole or not len(rows):
            return
        needed = self._position_of[rows].max() + 1
        if self._num_filled < needed:
            self.begin()  # somebody waits
            with self._changed:
                self._changed.wait_for(lambda: self._num_filled >= needed or self._error)
        if self._num_filled < needed:
            raise ValueError(str(self._error)) from self._error

    def _run(self) -> None:
        self._turn.wait()
        try:
            self._fill()
        except Exception as error:
            rows = self._order[self._num_filled :][:BATCH]
            self._fail(self._reader.explain(rows, error))
        finally:
            self._close()
            with _queue_lock:
                _queue.remove(self)
                for filler in _queue[:1]:
                    filler.begin()

    def _fill(self) -> None:
        for images in self._reader.stream(self._order):
            if self._stopped:
                return self._fail(RuntimeError("the decoding of these images was stopped"))
            end = self._num_filled + len(images)
            rows = self._order[self._num_filled : end]
            self._array[rows] = images
            if self._growing:
                self._growing.checksums[rows] = [zlib.crc32(image) for image in images]
            with self._changed:
                self._num_filled = end
                self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _close(self) -> None:
        if self._growing and self.is_whole:
            try:
                return self._growing.keep()
            except OSError as error:
                _log.warning(f"the decoded images are not kept for the next run: {error}")
        if self._growing:
            self._growing.drop()


# One split is decoded at a time, in the order in which they were loaded: the training images are
# wanted first. A split that is asked for goes ahead at once.
_queue: list[_Filler] = []
_queue_lock = threading.Lock()


def reserved_bytes() -> int:
    """Memory that images still being decoded will take, and that the system counts as free today."""
    with _queue_lock:
        return sum(filler.reserved_bytes for filler in _queue)


@atexit.register
def _stop_all() -> None:
    # A thread inside TensorFlow while the interpreter goes away can crash the process.
    with _queue_lock:
        fillers = list(_queue)
    for filler in fillers:
        filler.stop()
    for filler in fillers:
        filler.join()
