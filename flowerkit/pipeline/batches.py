"""Splits to batches of tf.data: every order drawn from (seed, epoch), evaluation batches padded."""

import atexit
import functools
import threading
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from flowerkit.accelerator import num_cores
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
_MAX_THREADS = 16
_MAX_EXIT_SECONDS = 5.0


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


def train_batches(
    split: Split,
    *,
    global_batch: int,
    seed: int,
    num_classes: int,
    augmentation: Augmentation = _FLIP,
    size: int | None = None,
    first_step: int = 0,
) -> tf.data.Dataset:
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

    @functools.lru_cache(maxsize=2)
    def sample_epoch(epoch):
        order = epoch_permutation(len(split), seed=seed, epoch=epoch)
        return order, sample_params(augmentation, len(split), seed=seed, epoch=epoch)

    def make_batch(number):
        epoch, step = divmod(number, steps)
        order, params = sample_epoch(epoch)
        rows = order[step * global_batch : (step + 1) * global_batch]
        labels = split.labels[rows]
        shares = mix_labels(
            labels, params[rows], augmentation, num_classes=num_classes, image_size=size
        )
        return (split.images[rows], params[rows]), shares

    images = tf.TensorSpec((global_batch, stored_px, stored_px, 3), tf.uint8)
    params = tf.TensorSpec((global_batch, len(PARAMS)), tf.float32)
    labels = tf.TensorSpec((global_batch, num_classes), tf.float32)
    return _dataset(make_batch, ((images, params), labels), first=first_step)


def feature_batches(
    array: np.ndarray,
    labels: np.ndarray,
    *,
    global_batch: int,
    seed: int,
    num_classes: int,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Endless batches (features (global_batch, ...), labels (global_batch, num_classes)), float32.

    `array` (n, ...) float32 are the features of n images, in the order that `train_batches` gives them
    with this seed and batch. Raises ValueError if a batch does not fit.
    """
    steps = steps_per_epoch(len(labels), global_batch)
    shares = np.eye(num_classes, dtype="float32")[labels]

    @functools.lru_cache(maxsize=2)
    def order_of(epoch):
        return epoch_permutation(len(labels), seed=seed, epoch=epoch)

    def make_batch(number):
        epoch, step = divmod(number, steps)
        rows = order_of(epoch)[step * global_batch : (step + 1) * global_batch]
        return array[rows], shares[rows]

    features = tf.TensorSpec((global_batch, *array.shape[1:]), tf.float32)
    spec = features, tf.TensorSpec((global_batch, num_classes), tf.float32)
    return _dataset(make_batch, spec, first=first_step)


def eval_batches(split: Split, *, global_batch: int) -> tf.data.Dataset:
    """Every image once, in order: (images, labels, weights), full batches only.

    The last batch is filled up with black images of weight 0, so that shapes never change and no
    replica is left without images; trim what you compute to `len(split)` rows. Labels are 0 where
    there are none. Shapes (global_batch, size, size, 3) uint8, (global_batch,) int32 and float32.
    """
    labels = np.zeros(len(split), "int32") if split.labels is None else split.labels
    weights = np.ones(len(split), "float32")

    def make_batch(number):
        rows = slice(number * global_batch, (number + 1) * global_batch)
        missing = global_batch - len(weights[rows])
        pieces = (array[rows] for array in (split.images, labels, weights))
        return [np.pad(piece, [(0, missing)] + [(0, 0)] * (piece.ndim - 1)) for piece in pieces]

    spec = (
        tf.TensorSpec((global_batch, *split.images.shape[1:]), tf.uint8),
        tf.TensorSpec((global_batch,), tf.int32),
        tf.TensorSpec((global_batch,), tf.float32),
    )
    return _dataset(make_batch, spec, stop=-(-len(split) // global_batch), threads=1)


# The adapter to tf.data ---------------------------------------------------------------------------


def _dataset(
    make_batch: Callable,
    spec,
    *,
    first: int = 0,
    stop: int = np.iinfo("int64").max,
    threads: int | None = None,
) -> tf.data.Dataset:
    """`make_batch(number)` for each number from `first`, in order: NumPy arrays shaped as `spec`."""
    specs = tf.nest.flatten(spec)

    def make(number):
        me = threading.get_ident()
        _threads_in_python.add(me)
        try:
            return tf.nest.flatten(make_batch(int(number)))
        finally:
            _threads_in_python.discard(me)

    @tf.autograph.experimental.do_not_convert
    def batch(number):
        tensors = tf.numpy_function(make, [number], [each.dtype for each in specs])
        for tensor, each in zip(tensors, specs, strict=True):
            tensor.set_shape(each.shape)
        return tf.nest.pack_sequence_as(spec, tensors)

    _wait_at_exit()
    threads = threads or min(num_cores(), _MAX_THREADS)
    numbers = tf.data.Dataset.range(first, stop)
    dataset = numbers.map(batch, num_parallel_calls=threads, deterministic=True).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False  # its end can block for seconds
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


# An iterator that is still alive when Python ends waits for its threads, and these for Python's lock,
# which is no longer given: the program hangs or is aborted. A variable of a script is enough, or the
# traceback of an interrupted training. So the exit waits until no thread is in Python: by then no
# batches are taken, and the prefetch buffers are soon full.
_threads_in_python: set[int] = set()


@functools.cache
def _wait_at_exit() -> None:
    atexit.register(_wait_until_quiet)


def _wait_until_quiet() -> None:
    quiet, end = 0, time.monotonic() + _MAX_EXIT_SECONDS
    while quiet < 5 and time.monotonic() < end:  # a thread that waits for the lock shows late
        time.sleep(0.01)
        quiet = 0 if _threads_in_python else quiet + 1
