"""Shards to batches: decode once, shuffle by (seed, epoch), pad evaluation batches, ids in step."""

import functools
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from flowerkit.accelerator import free_memory_bytes
from flowerkit.augment import draw_flips, flip_images, random_stream
from flowerkit.records import read_frames
from flowerkit.tfrecords import (
    FlowerData,
    check_counts,
    check_shard,
    count_in_name,
    count_records,
    parse_example,
)

_log = logging.getLogger("flowerkit")

# Of the memory that is free: the rest is for the model, its gradients and the batches in flight.
RAM_FRACTION = 0.6
_ORDER = 0
_DECODE_BATCH = 64


@dataclass(frozen=True, eq=False)
class Split:
    """One decoded split; row i of every array is the same image.

    `images` (n, size, size, 3) uint8, in RAM or memory-mapped; `labels` (n,) int32, or None for an
    unlabelled split; `ids` (n,) str; `digests` (n,) int64, a fingerprint of each image's JPEG bytes.
    """

    images: np.ndarray
    labels: np.ndarray | None
    ids: np.ndarray
    digests: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def load_split(data: FlowerData, name: str, *, on_corrupt: str = "raise") -> Split:
    """Split `name` of `data`, every image decoded once, in the order of the shards.

    The images stay in RAM if they fit into 60 % of what is free, else in a temporary memory-mapped
    file that goes with the process. With on_corrupt="skip" bad records are left out, and logged.

    Raises ValueError for an empty split, a count that differs from the file's name, and the first
    bad record (file and number); OSError when neither memory nor disk can hold the images.
    """
    files = data.files[name]
    if not files or not data.counts[name]:
        raise ValueError(f"the {name} split of {data.folder} is empty. Attach or draw its shards.")
    labelled = name != "test"
    start = time.perf_counter()
    try:
        if check_counts(files):
            raise ValueError("a file is cut off, or its name promises another number of records")
        split = _decode(_parse_files(files, labelled), sum(map(count_records, files)), data)
        _check_labels(split, data, labelled)
    except (tf.errors.OpError, ValueError) as error:
        split = _load_around_faults(data, files, labelled, on_corrupt, error)
    seconds = time.perf_counter() - start
    where = "on disk" if isinstance(split.images, np.memmap) else "in RAM"
    _log.info(
        f"{name}: {len(split):,} images decoded in {seconds:.1f} s, "
        f"kept {where} ({split.images.nbytes / 2**20:,.0f} MiB)"
    )
    return split if labelled else Split(split.images, None, split.ids, split.digests)


def _check_labels(split: Split, data: FlowerData, labelled: bool) -> None:
    if labelled and not (split.labels.min() >= 0 and split.labels.max() < data.num_classes):
        raise ValueError("a label is out of range")


def _load_around_faults(data, files, labelled, on_corrupt, error) -> Split:
    """Say which record stopped the fast road, or decode all others the careful way."""
    faults = {
        file: check_shard(
            file, image_size=data.image_size, num_classes=data.num_classes, labelled=labelled
        )
        for file in files
    }
    found = [fault for of_file in faults.values() for fault in of_file]
    if not found:
        raise error
    if on_corrupt != "skip":
        more = f" (the first of {len(found)} faults)" if len(found) > 1 else ""
        raise ValueError(
            f"{found[0].file.parent.name}/{found[0]}{more}. Re-download the file, or pass "
            f'on_corrupt="skip" (--on-corrupt skip).'
        ) from error
    for fault in found:
        _log.warning(f"left out: {fault}")
    records = _sound_records(faults, labelled)
    num_sound = sum(1 for _ in records())
    if not num_sound:
        raise ValueError(f"every record of {files[0].parent} is bad. Re-download the files.")
    _log.warning(
        f"faults skipped: {len(found)}; images left: {num_sound:,} of {sum(map(count_in_name, files)):,}"
    )
    signature = tuple(tf.TensorSpec((), kind) for kind in (tf.string, tf.string, tf.int32))
    return _decode(
        tf.data.Dataset.from_generator(records, output_signature=signature), num_sound, data
    )


def _sound_records(faults, labelled: bool):
    def read():
        for file, of_file in faults.items():
            bad = {fault.record for fault in of_file}
            for number, payload, _ in read_frames(file):
                if number not in bad:
                    yield tuple(
                        tensor.numpy() for tensor in parse_example(payload, labelled=labelled)
                    )

    return read


def _parse_files(files, labelled: bool) -> tf.data.Dataset:
    serialized = tf.data.TFRecordDataset([str(file) for file in files])
    parse = functools.partial(parse_example, labelled=labelled)
    return serialized.batch(_DECODE_BATCH).map(parse, num_parallel_calls=1).unbatch()


def _decode(parsed: tf.data.Dataset, num_images: int, data: FlowerData) -> Split:
    """Decode (image, id, class) records into one Split; TensorFlow's errors pass through."""
    size = data.image_size
    images = _allocate((num_images, size, size, 3))
    labels = np.empty(num_images, "int32")
    digests = np.empty(num_images, "int64")
    ids = []

    def decode(jpeg, image_id, label):
        # decode_jpeg takes a PNG too, but the layout says JPEG, and so does check_shard.
        tf.debugging.assert_equal(tf.strings.substr(jpeg, 0, 3), b"\xff\xd8\xff")
        image = tf.ensure_shape(tf.io.decode_jpeg(jpeg, channels=3), (size, size, 3))
        digest = tf.strings.to_hash_bucket_strong(jpeg, 2**63 - 1, [1, 2])
        return image, image_id, label, digest

    decoded = parsed.map(decode, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
    for batch in _steady(decoded.batch(_DECODE_BATCH).prefetch(2)).as_numpy_iterator():
        rows = slice(len(ids), len(ids) + len(batch[1]))
        images[rows], labels[rows], digests[rows] = batch[0], batch[2], batch[3]
        ids += [image_id.decode() for image_id in batch[1]]
    return Split(images, labels, np.array(ids), digests)


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    num_bytes, free = int(np.prod(shape)), free_memory_bytes()
    if num_bytes <= RAM_FRACTION * free:
        return np.empty(shape, "uint8")
    folder = Path(tempfile.gettempdir())
    disk = shutil.disk_usage(folder).free
    if num_bytes > 0.9 * disk:
        raise OSError(
            f"{num_bytes / 2**30:.1f} GiB of decoded images fit neither into memory "
            f"({free / 2**30:.1f} GiB free) nor into {folder} ({disk / 2**30:.1f} GiB free). "
            f"Use a smaller image size, or set TMPDIR to a larger disk."
        )
    return np.memmap(tempfile.TemporaryFile(dir=folder), "uint8", "w+", shape=shape)


def check_leak(train: Split, val: Split) -> None:
    """Refuse validation data that training has seen: the same id or the same JPEG bytes.

    Raises ValueError with counts and examples.
    """
    shared_ids = np.intersect1d(train.ids, val.ids)
    if len(shared_ids):
        raise ValueError(
            f"train and val share {len(shared_ids)} ids ({', '.join(shared_ids[:3])}): validation "
            f"would measure memory, not learning. Split the data again."
        )
    shared = np.isin(val.digests, train.digests)
    if shared.any():
        raise ValueError(
            f"{shared.sum()} val images have the same bytes as train images (val ids "
            f"{', '.join(val.ids[shared][:3])}): validation would measure memory, not learning. "
            f"Remove them from one side."
        )


def count_steps(num_images: int, global_batch: int) -> int:
    """Training steps in an epoch; the incomplete last batch is dropped, other images each epoch.

    Raises ValueError if not even one batch fits.
    """
    if global_batch > num_images:
        raise ValueError(
            f"the global batch ({global_batch}) is larger than the train split ({num_images} "
            f"images). Pass a smaller per_replica_batch."
        )
    return num_images // global_batch


def epoch_order(num_images: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of the images in `epoch`, counted from 0: a permutation (num_images,) int64."""
    return random_stream(seed, epoch, _ORDER).permutation(num_images)


def training_batches(
    split: Split, *, global_batch: int, seed: int, flip: bool = True, first_epoch: int = 0
) -> tf.data.Dataset:
    """Endless batches (images, labels): (global_batch, size, size, 3) uint8 and (global_batch,) int32.

    `count_steps` of them are an epoch. Batch k depends on the seed and k alone, not on the device,
    the number of replicas, or where a run was resumed (`first_epoch`, from 0).
    """
    steps = count_steps(len(split), global_batch)
    plan_epoch = functools.lru_cache(maxsize=2)(functools.partial(_plan_epoch, len(split), seed))

    def take_batch(number):
        epoch, step = divmod(int(number), steps)
        order, flips = plan_epoch(epoch)
        rows = order[step * global_batch : (step + 1) * global_batch]
        images = split.images[rows]
        return flip_images(images, flips[rows]) if flip else images, split.labels[rows]

    def batch(number):
        images, labels = tf.numpy_function(take_batch, [number], (tf.uint8, tf.int32))
        images.set_shape((global_batch, *split.images.shape[1:]))
        labels.set_shape((global_batch,))
        return images, labels

    numbers = tf.data.Dataset.range(first_epoch * steps, np.iinfo("int64").max)
    return _steady(numbers.map(batch, num_parallel_calls=2, deterministic=True).prefetch(2))


def _plan_epoch(num_images: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    order = epoch_order(num_images, seed=seed, epoch=epoch)
    return order, draw_flips(num_images, seed=seed, epoch=epoch)


def evaluation_batches(split: Split, *, global_batch: int) -> tf.data.Dataset:
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

    def batch(number):
        tensors = tf.numpy_function(take_batch, [number], (tf.uint8, tf.int32, tf.float32))
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
