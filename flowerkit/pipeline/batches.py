"""Splits to batches: every order drawn from (seed, epoch), evaluation batches padded and weighted."""

import functools

import numpy as np
import tensorflow as tf

from flowerkit.accelerator.machine import num_cores
from flowerkit.data.reader import trace_as_it_stands
from flowerkit.data.split import Split
from flowerkit.pipeline.augment_host import augment_images
from flowerkit.pipeline.augmentation import Augmentation
from flowerkit.pipeline.buffers import BatchMemory, look_at_rows, take_rows
from flowerkit.pipeline.draws import COLUMNS, check_pairs, mix_labels, random_stream, sample_params
from flowerkit.pipeline.numpy_calls import call_numpy

_ORDER = 0  # the stream of random numbers that the order draws from
_FLIP = Augmentation()
_MAX_THREADS = 16


def steps_per_epoch(num_images: int, global_batch: int) -> int:
    """Training steps in an epoch; the incomplete last batch is dropped, other images each epoch.

    Raises ValueError if not even one batch fits.
    """
    if global_batch > num_images:
        raise ValueError(
            f"the global batch ({global_batch}) is larger than the train split ({num_images} "
            f"images). Pass a smaller per_replica_batch."
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
    augmentation: Augmentation = _FLIP,
    on_host: bool = True,
    rows_only: bool = False,
    one_hot: int | None = None,
    first_epoch: int = 0,
    process: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Endless batches of `split`; `steps_per_epoch` of them are an epoch.

    With `on_host` they are (images, labels), changed by `augmentation` already; else ((images,
    draws), labels), untouched, with what `augment.augment` needs to change them inside the step.
    With `rows_only` there is (rows (global_batch,) int32, draws) in its place, for
    `device_images.TakeImages`.
    images (global_batch, size, size, 3) uint8; draws (global_batch, len(COLUMNS)) float32; labels
    (global_batch,) int32, or with `one_hot` classes (global_batch, one_hot) float32, rows sum to 1.

    Batch k depends on the seed and k alone, not on the device, the number of replicas, or where a
    run was resumed (`first_epoch`, from 0). `process` (index, count) takes one host's equal part of
    every batch, where several hosts train together.

    Raises ValueError if a batch does not fit the split, the pairs of mixup, or the processes.
    """
    steps = steps_per_epoch(len(split), global_batch)
    part = _part_of_batch(global_batch, process, pairs=augmentation.mixes)
    shape = (part.stop - part.start, *split.images.shape[1:])
    memory = BatchMemory(shape)
    plan_epoch = functools.lru_cache(maxsize=2)(
        functools.partial(_plan_epoch, len(split), seed, augmentation)
    )

    def take_batch(number):
        epoch, step = divmod(int(number), steps)
        order, params = plan_epoch(epoch)
        rows = order[step * global_batch : (step + 1) * global_batch][part]
        labels, params = split.labels[rows], params[rows]
        if rows_only:
            images = rows.astype("int32")
        elif on_host and not augmentation.is_off:
            images = augment_images(
                look_at_rows(split.images, rows), params, augmentation, memory.get()
            )
        else:
            images = take_rows(split.images, rows, memory.get())
        if one_hot:
            labels = mix_labels(
                labels, params, augmentation, num_classes=one_hot, image_size=shape[1]
            )
        return images, params, labels

    labels = (tf.float32, (shape[0], one_hot)) if one_hot else (tf.int32, shape[:1])
    images = (tf.int32, shape[:1]) if rows_only else (tf.uint8, shape)
    kinds = images, (tf.float32, (shape[0], len(COLUMNS))), labels
    arrange = _on_host if on_host and not rows_only else _on_device
    return _endless(take_batch, kinds, first_epoch * steps, arrange)


def feature_batches(
    arrays: np.ndarray, labels: np.ndarray, *, global_batch: int, seed: int, first_epoch: int = 0
) -> tf.data.Dataset:
    """Endless batches (features (global_batch, ...) float32, labels (global_batch,) int32).

    `arrays` (views, n, ...) float32 are the features of n images. Epoch e has view e % views, and the
    order is that of `train_batches` of these images with this seed and batch.

    Raises ValueError if a batch does not fit.
    """
    steps = steps_per_epoch(len(labels), global_batch)
    memory = BatchMemory((global_batch, *arrays.shape[2:]), arrays.dtype)
    order_of = functools.lru_cache(maxsize=2)(
        lambda epoch: epoch_permutation(len(labels), seed=seed, epoch=epoch)
    )

    def take_batch(number):
        epoch, step = divmod(int(number), steps)
        rows = order_of(epoch)[step * global_batch : (step + 1) * global_batch]
        return take_rows(arrays[epoch % len(arrays)], rows, memory.get()), labels[rows]

    kinds = (tf.float32, memory.shape), (tf.int32, (global_batch,))
    return _endless(take_batch, kinds, first_epoch * steps, lambda *batch: batch)


def _on_host(images, params, labels):
    return images, labels


def _on_device(images, params, labels):
    return (images, params), labels


def _endless(take_batch, kinds, first: int, arrange) -> tf.data.Dataset:
    """`arrange(*take_batch(number))` for every number from `first` on; `kinds`: dtypes with shapes."""

    @trace_as_it_stands
    def batch(number):
        tensors = call_numpy(take_batch, [number], [dtype for dtype, _ in kinds])
        for tensor, (_, shape) in zip(tensors, kinds, strict=True):
            tensor.set_shape(shape)
        return arrange(*tensors)

    numbers = tf.data.Dataset.range(first, np.iinfo("int64").max)
    threads = min(num_cores(), _MAX_THREADS)
    return _steady(numbers.map(batch, num_parallel_calls=threads, deterministic=True).prefetch(2))


def _part_of_batch(global_batch: int, process: tuple[int, int], *, pairs: bool) -> slice:
    index, count = process
    if global_batch % count:
        raise ValueError(
            f"the global batch ({global_batch}) must be divisible by the processes ({count})."
        )
    num_rows = global_batch // count
    if pairs:
        check_pairs(num_rows)
    return slice(index * num_rows, (index + 1) * num_rows)


def _plan_epoch(
    num_images: int, seed: int, augmentation: Augmentation, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    order = epoch_permutation(num_images, seed=seed, epoch=epoch)
    return order, sample_params(augmentation, num_images, seed=seed, epoch=epoch)


def eval_batches(split: Split, *, global_batch: int) -> tf.data.Dataset:
    """Every image once, in order: (images, labels, weights), full batches only.

    The last batch is filled up with black images of weight 0, so that shapes never change and no
    replica is left without images; trim what you compute to `len(split)` rows. Labels are 0 where
    there are none. Shapes (global_batch, size, size, 3) uint8, (global_batch,) int32 and float32.
    """
    num_batches = -(-len(split) // global_batch)
    labels = np.zeros(len(split), "int32") if split.labels is None else split.labels

    def take_batch(number):
        rows = slice(number * global_batch, (number + 1) * global_batch)
        missing = global_batch - len(labels[rows])
        images = np.asarray(split.images[rows])
        weights = np.ones(len(images), "float32")
        return tuple(_pad(array, missing) for array in (images, labels[rows], weights))

    @trace_as_it_stands
    def batch(number):
        tensors = call_numpy(take_batch, [number], (tf.uint8, tf.int32, tf.float32))
        tensors[0].set_shape((global_batch, *split.images.shape[1:]))
        for tensor in tensors[1:]:
            tensor.set_shape((global_batch,))
        return tuple(tensors)

    numbers = tf.data.Dataset.range(num_batches)
    return _steady(numbers.map(batch, num_parallel_calls=1).prefetch(2))


def _pad(array: np.ndarray, missing: int) -> np.ndarray:
    return np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array


def _steady(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Without autotuning, whose end can block for seconds, and without sharding by file."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
