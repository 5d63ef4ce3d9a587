"""Splits to batches of NumPy arrays: every order drawn from (seed, epoch), evaluation batches padded.

Where several hosts train together, each makes its own rows of every batch (`accelerator.hosts`), and
shapes have its rows; together they are the batches of one host.
"""

import functools
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from flowerkit.accelerator import hosts, num_cores
from flowerkit.data import Split
from flowerkit.pipeline.augment_params import (
    PARAMS,
    check_pairs,
    mix_labels,
    random_stream,
    sample_params,
)
from flowerkit.pipeline.augmentation import Augmentation

_ORDER = 0  # the stream of random numbers that the order comes from
_FLIP = Augmentation()
_ALIGNMENT = 64  # what JAX and TensorFlow ask of an array that they take without a copy


@dataclass(frozen=True)
class ArraySpec:
    """What is known of an array before it is made."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches `first`, `first + 1`, ... up to `stop` (None: endless), each a function of its number.

    `make(number)` gives one, in any thread: nested tuples of NumPy arrays; `spec` are the same tuples
    of `ArraySpec`. An iterator makes the next few in `max_threads` threads, which end when it is
    dropped, and raises what `make` raised.
    """

    make: Callable[[int], tuple]
    spec: tuple
    first: int = 0
    stop: int | None = None
    max_threads: int = 4  # copying is bound by the memory, and decoding has threads of its own

    @property
    def num_threads(self) -> int:
        """At most one for each core."""
        return min(num_cores(), self.max_threads)

    def __iter__(self) -> Iterator[tuple]:
        numbers = itertools.count(self.first) if self.stop is None else range(self.first, self.stop)
        return _make_ahead(self.make, iter(numbers), self.num_threads)

    def for_keras(self) -> Iterable:
        """What `fit` and `predict` of the present backend take: on JAX a generator, else tf.data."""
        import keras

        if keras.backend.backend() != "tensorflow":
            return iter(self)
        from flowerkit.pipeline.tensorflow import to_dataset

        return to_dataset(self)


def _make_ahead(make: Callable, numbers: Iterator[int], num_threads: int) -> Iterator[tuple]:
    threads = ThreadPoolExecutor(num_threads, thread_name_prefix="flowerkit-batches")
    waiting = deque()
    try:
        for number in itertools.islice(numbers, num_threads + 1):
            waiting.append(threads.submit(make, number))
        while waiting:
            # Not held here while the next is made: its memory may be needed.
            yield waiting.popleft().result()
            for number in itertools.islice(numbers, 1):
                waiting.append(threads.submit(make, number))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


class Memory:
    """Memory for arrays that is used again as soon as nothing refers to an array in it any more.

    A backend refers to an array for as long as it needs it. Threads may share a memory.
    """

    def __init__(self):
        self._free: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """An array of this shape with any values; all arrays of one memory take as many bytes."""
        try:
            block = self._free.pop()
        except IndexError:
            num_bytes = int(np.prod(shape, dtype="int64")) * np.dtype(dtype).itemsize
            block = np.empty(num_bytes + _ALIGNMENT, "uint8")
            start = -block.ctypes.data % _ALIGNMENT
            block = block[start : start + num_bytes]
        # Every view of this array refers to it, not to what it was made from: that is no array.
        array = np.frombuffer(memoryview(block), dtype)
        weakref.finalize(array, self._free.append, block).atexit = False
        return array.reshape(shape)


def steps_per_epoch(num_images: int, global_batch: int) -> int:
    """Training steps in an epoch; the incomplete last batch is dropped, other images each epoch."""
    if global_batch > num_images:
        raise ValueError(
            f"the global batch ({global_batch}) is larger than the train split ({num_images} "
            f"images). Pass a smaller per_replica_batch (--per-replica-batch)."
        )
    return num_images // global_batch


def epoch_permutation(num_images: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of the images in `epoch`, counted from 0: a permutation (num_images,) int64."""
    return random_stream(seed, epoch, _ORDER).permutation(num_images)


def own_first(order: np.ndarray, *, global_batch: int) -> np.ndarray:
    """`order` (n,), with what this host takes of its batches before the rest."""
    own = hosts.own_rows(global_batch)
    place = np.arange(len(order)) % global_batch
    is_own = (place >= own.start) & (place < own.stop)
    return np.concatenate([order[is_own], order[~is_own]])


def train_batches(
    split: Split,
    *,
    global_batch: int,
    seed: int,
    num_classes: int,
    augmentation: Augmentation = _FLIP,
    size: int | None = None,
    first_step: int = 0,
) -> Batches:
    """Endless batches ((images, params), labels) of `split`; `steps_per_epoch` of them are an epoch.

    images (global_batch, size, size, 3) uint8 as stored; params (global_batch, len(PARAMS)) float32,
    with which `Augment` changes them inside the step; labels (global_batch, num_classes) float32 are
    shares, rows sum to 1: of mixed images they are those of both, counted in the pixels of the images
    of `size` px that `Augment` gives (None: the stored size).

    Batch k depends on the seed and k alone, not on the device, the number of replicas, or where a
    run was resumed (`first_step`, from 0). Raises ValueError if a batch does not fit the split, or
    the pairs of mixup.
    """
    steps = steps_per_epoch(len(split), global_batch)
    stored_px = split.images.shape[1]
    size = size or stored_px
    if augmentation.mixes:
        check_pairs(global_batch)
    own = hosts.own_rows(global_batch)
    num_own = own.stop - own.start
    images = ArraySpec((num_own, stored_px, stored_px, 3), "uint8")
    params_spec = ArraySpec((num_own, len(PARAMS)), "float32")
    spec = (images, params_spec), ArraySpec((num_own, num_classes), "float32")
    memory = Memory()

    @functools.lru_cache(maxsize=2)
    def sample_epoch(epoch):
        order = epoch_permutation(len(split), seed=seed, epoch=epoch)
        return order, sample_params(augmentation, len(split), seed=seed, epoch=epoch)

    def make_batch(number):
        epoch, step = divmod(number, steps)
        order, params = sample_epoch(epoch)
        rows = order[step * global_batch : (step + 1) * global_batch]
        labels = mix_labels(
            split.labels[rows], params[rows], augmentation, num_classes=num_classes, image_size=size
        )
        rows = rows[own]
        return (_gather(split.images, rows, memory), params[rows]), labels[own]

    return Batches(make_batch, spec, first=first_step)


def feature_batches(
    views: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    global_batch: int,
    seed: int,
    num_classes: int,
    first_step: int = 0,
) -> Batches:
    """Endless batches (features (global_batch, ...), labels (global_batch, num_classes)), float32.

    `views`: one array (n, ...) float32 or more of the features of n images, as they are, mirrored ...;
    an image shows the next of them in each epoch. The images come in the order in which `train_batches`
    gives them with this seed and batch. Raises ValueError if a batch does not fit.
    """
    steps = steps_per_epoch(len(labels), global_batch)
    own = hosts.own_rows(global_batch)
    memory = Memory()

    def one_hot(labels):  # of a batch: of all images it may not fit
        return np.equal.outer(labels, np.arange(num_classes)).astype("float32")

    @functools.lru_cache(maxsize=2)
    def order_of(epoch):
        return epoch_permutation(len(labels), seed=seed, epoch=epoch)

    def make_batch(number):
        epoch, step = divmod(number, steps)
        rows = order_of(epoch)[step * global_batch : (step + 1) * global_batch][own]
        features = _gather(views[0], rows, memory)
        for place, view in enumerate(views[1:], start=1):
            shown = (rows + epoch) % len(views) == place
            features[shown] = view[rows[shown]]
        return features, one_hot(labels[rows])

    spec = (
        ArraySpec((own.stop - own.start, *views[0].shape[1:]), "float32"),
        ArraySpec((own.stop - own.start, num_classes), "float32"),
    )
    return Batches(make_batch, spec, first=first_step)


def eval_batches(split: Split, *, global_batch: int) -> Batches:
    """Every image once, in order: (images, labels, weights), full batches only.

    The last batch is filled up with black images of weight 0, so that shapes never change and no
    replica is left without images; trim what you compute to `len(split)` rows. Labels are 0 where
    there are none. Shapes (global_batch, size, size, 3) uint8, (global_batch,) int32 and float32.
    """
    labels = np.zeros(len(split), "int32") if split.labels is None else split.labels
    weights = np.ones(len(split), "float32")
    own = hosts.own_rows(global_batch)
    num_own = own.stop - own.start
    spec = (
        ArraySpec((num_own, *split.images.shape[1:]), "uint8"),
        ArraySpec((num_own,), "int32"),
        ArraySpec((num_own,), "float32"),
    )
    memory = Memory()

    def make_batch(number):
        start = number * global_batch
        rows = slice(start + own.start, start + own.stop)
        num_images = len(weights[rows])
        images = memory.empty(spec[0].shape, "uint8")
        images[:num_images] = split.images[rows]
        images[num_images:] = 0
        padding = (0, num_own - num_images)
        return images, np.pad(labels[rows], padding), np.pad(weights[rows], padding)

    return Batches(make_batch, spec, stop=-(-len(split) // global_batch), max_threads=1)


def _gather(array, rows: np.ndarray, memory: Memory) -> np.ndarray:
    """The rows of an array, or of `DecodedImages`."""
    out = memory.empty((len(rows), *array.shape[1:]), str(array.dtype))
    return array.take(rows, axis=0, out=out, mode="clip")  # another mode gathers into a copy first
