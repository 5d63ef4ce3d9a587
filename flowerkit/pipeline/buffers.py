"""Memory for batches that is used again: what fresh memory costs is most of a cached batch's price."""

import sys
import threading

import numpy as np

_ALIGNMENT = 64  # bytes; TensorFlow takes an array that begins so as it is, and copies any other


class BatchMemory:
    """Arrays of one shape and dtype, of which each is handed out again when nobody holds it any more.

    The system gives fresh memory page by page and cleared, every batch anew. Whether somebody (a
    tensor, a prefetched batch) still holds an array, its reference count says.
    """

    def __init__(self, shape: tuple[int, ...], dtype="uint8"):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._arrays: list[np.ndarray] = []
        self._lock = threading.Lock()

    def get(self) -> np.ndarray:
        """An array of `shape` with anything in it."""
        with self._lock:
            for place in range(len(self._arrays)):
                # Held by the list and the argument of getrefcount alone; its views hold its base.
                if (
                    sys.getrefcount(self._arrays[place]) == 2
                    and sys.getrefcount(self._arrays[place].base) == 2
                ):
                    return self._arrays[place]
            self._arrays.append(self._make())
            return self._arrays[-1]

    def _make(self) -> np.ndarray:
        num_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        memory = np.empty(num_bytes + _ALIGNMENT, "uint8")
        start = -memory.ctypes.data % _ALIGNMENT
        return memory[start : start + num_bytes].view(self.dtype).reshape(self.shape)


def take_rows(images, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`images[rows]` written into `out`, which is returned; `images` is an array or decoded images."""
    if isinstance(images, np.ndarray):
        return np.take(images, rows, axis=0, out=out, mode="clip")  # "raise" would copy once more
    return images.take(rows, out)


def look_at_rows(images, rows: np.ndarray) -> list[np.ndarray]:
    """`images[rows]` one by one, to be read only: without a copy where they stand in memory."""
    look = getattr(images, "look", None)
    return look(rows) if look else [images[row] for row in rows]
