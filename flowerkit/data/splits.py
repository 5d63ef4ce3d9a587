"""Shards to a split: ids, labels and digests checked before anything is decoded, images while in use.

A first pass over the shards reads every record without decoding it: its id, label and digest, the
JPEG's size and its end. What can be known early is so an error before training.
"""

import io
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from flowerkit.accelerator import free_memory_bytes
from flowerkit.data.images import DecodedImages, ShardReader, reserved_bytes
from flowerkit.data.records import find_frames
from flowerkit.data.tfrecords import FlowerData, check_shard, count_in_name, parse_example
from flowerkit.text import format_bytes

CACHES = ("auto", "ram", "none")
# Of the memory that is free: the rest is for the model, its gradients and the batches in flight.
RAM_FRACTION = 0.6

_SCAN_BATCH = 64
# Enough for the tables and a colour profile in front of the size.
_HEAD_BYTES = 4096
_JPEG_END = b"\xff\xd9"

_log = logging.getLogger("flowerkit")


@dataclass(frozen=True, eq=False)
class Split:
    """A split of a data set; row i of every array is the same image.

    `images` (n, size, size, 3) uint8, asked for by int, slice or int array, decoded by then;
    `labels` (n,) int32, or None for an unlabelled split; `ids` (n,) str; `digests` (n,) int64, a
    fingerprint of each image's JPEG bytes.
    """

    images: np.ndarray | DecodedImages
    labels: np.ndarray | None
    ids: np.ndarray
    digests: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def load_split(
    data: FlowerData,
    name: str,
    *,
    on_corrupt: str = "raise",
    cache: str = "auto",
    order: Callable[[int], np.ndarray] | None = None,
) -> Split:
    """Split `name` of `data`, checked at once and decoded in the background, rows as in the shards.

    `cache`: "ram" keeps the decoded images in memory, "none" decodes them each time they are asked
    for, "auto" is "ram" where they fit. `order` returns, for a number of images, the rows in the order
    in which they will be needed first. With on_corrupt="skip" every image is decoded here, and bad
    records are left out, and logged.

    Raises ValueError for an empty split, a count that differs from the file's name, and the first
    bad record (file and number). Damage inside a JPEG that only decoding shows raises it when the
    images are asked for.
    """
    if cache not in CACHES:
        raise ValueError(f"cache={cache!r} is unknown. Pass {', '.join(CACHES)} (--cache).")
    files = data.files[name]
    if not files or not data.counts[name]:
        raise ValueError(f"the {name} split of {data.folder} is empty. Attach or draw its shards.")
    start = time.perf_counter()
    try:
        scan = _scan(data, name)
    except (tf.errors.OpError, ValueError) as error:
        scan = _scan_around_faults(data, name, on_corrupt, error)
    images = _open_images(scan.reader, name, cache, order)
    if on_corrupt == "skip":
        try:
            images.finish()
        except ValueError as error:
            scan = _scan_around_faults(data, name, on_corrupt, error)
            images = _open_images(scan.reader, name, cache, order)
    _log.info(f"{name}: {len(images):,} images checked in {time.perf_counter() - start:.1f} s")
    return Split(images, scan.labels, scan.ids, scan.digests)


def _open_images(reader: ShardReader, name: str, cache: str, order) -> DecodedImages:
    rows = np.arange(len(reader)) if order is None else np.asarray(order(len(reader)), "int64")
    if not np.array_equal(np.sort(rows), np.arange(len(reader))):
        raise ValueError(f"order must hold each of the {len(reader):,} rows once.")
    num_bytes = 3 * reader.image_size**2 * len(reader)
    free = max(0, free_memory_bytes() - reserved_bytes())
    size = f"{name}: {format_bytes(num_bytes)} of decoded images"
    if cache == "ram" or (cache == "auto" and num_bytes <= RAM_FRACTION * free):
        try:
            images = DecodedImages(reader, rows)
            _log.info(f"{size} stay in RAM ({format_bytes(free)} free)")
            return images
        except MemoryError:
            free = 0
    if cache == "none":
        _log.info(f"{name}: {len(reader):,} images, decoded each time they are needed")
    else:
        _log.warning(
            f"{size} do not fit in RAM ({format_bytes(free)} free): they are decoded again each epoch"
        )
    return DecodedImages(reader)


# The first pass -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scan:
    reader: ShardReader
    ids: np.ndarray
    labels: np.ndarray | None
    digests: np.ndarray


def _scan(data: FlowerData, name: str, bad: Mapping[Path, set[int | None]] | None = None) -> _Scan:
    """What can be known without decoding; anything amiss raises, `check_shard` says in which record.

    `bad` are the records of each file to leave out; None: there are none.
    """
    reader = _locate(data, name, bad)
    if bad is None:  # with all checksums, which TensorFlow computes on the way
        payloads = tf.data.TFRecordDataset([str(file) for file in reader.files])
    else:
        payloads = tf.data.Dataset.from_tensor_slices(reader.read(np.arange(len(reader))))

    @tf.autograph.experimental.do_not_convert
    def parse(serialized):
        jpegs, ids, labels = parse_example(serialized, labelled=reader.labelled)
        # substr refuses what is shorter than 2 bytes; such a record is named by check_shard.
        ends = tf.strings.substr(jpegs, -2, 2)
        heads = tf.strings.substr(jpegs, 0, _HEAD_BYTES)
        return ids, labels, tf.fingerprint(jpegs), heads, ends

    options = tf.data.Options()
    options.autotune.enabled = False
    batches = payloads.batch(_SCAN_BATCH).map(parse, num_parallel_calls=2).prefetch(2)
    columns = []
    for *found, heads, ends in batches.with_options(options).as_numpy_iterator():
        pairs = zip(heads.tolist(), ends.tolist(), strict=True)
        is_clear = [
            end == _JPEG_END and _starts_a_jpeg(head, data.image_size) for head, end in pairs
        ]
        columns.append((*found, is_clear))
    ids, labels, digests, is_clear = map(np.concatenate, zip(*columns, strict=True))
    if not reader.labelled:
        labels = None
    elif labels.min() < 0 or labels.max() >= data.num_classes:
        raise ValueError("a label is out of range")
    # The few whose size or end is not found are decoded: padding and long headers are no damage.
    for row in np.flatnonzero(~is_clear):
        if reasons := reader.check(row):
            raise ValueError(reasons[0])
    digests = np.ascontiguousarray(digests).view("<i8")[:, 0]
    return _Scan(reader, np.array([image_id.decode() for image_id in ids]), labels, digests)


def _locate(data: FlowerData, name: str, bad: Mapping[Path, set[int | None]] | None) -> ShardReader:
    rows = []
    for number_of_file, file in enumerate(data.files[name]):
        frames, fault = find_frames(file)
        if bad is None and (fault or len(frames) != count_in_name(file)):
            raise ValueError("a file is cut off, or its name says another number of records")
        rows += [
            (number_of_file, number, *frame)
            for number, frame in enumerate(frames)
            if bad is None or number not in bad[file]
        ]
    if not rows:
        raise ValueError(
            f"every record of {data.files[name][0].parent} is bad. Re-download the files."
        )
    columns = np.array(rows, "int64").T
    labelled = name != "test"
    return ShardReader(data.files[name], *columns, data.image_size, data.num_classes, labelled)


def _starts_a_jpeg(head: bytes, image_size: int) -> bool:
    """Whether these first bytes are of a JPEG of that size; False where they end before the size."""
    try:
        return Image.open(io.BytesIO(head), formats=["JPEG"]).size == (image_size, image_size)
    except OSError:
        return False


def _scan_around_faults(data: FlowerData, name: str, on_corrupt: str, error: Exception) -> _Scan:
    """Raise the error that names the first bad record, or go over all others the careful way."""
    faults = {
        file: check_shard(
            file, image_size=data.image_size, num_classes=data.num_classes, labelled=name != "test"
        )
        for file in data.files[name]
    }
    found = [fault for of_file in faults.values() for fault in of_file]
    if not found:
        raise error
    if on_corrupt != "skip":
        raise ValueError(found[0].explain(num_more=len(found) - 1)) from error
    for fault in found:
        _log.warning(f"left out: {fault}")
    bad = {file: {fault.record for fault in of_file} for file, of_file in faults.items()}
    scan = _scan(data, name, bad)
    _log.warning(f"faults skipped: {len(found)}; images left: {len(scan.ids):,}")
    return scan


# Leaks --------------------------------------------------------------------------------------------


def check_leak(train: Split, val: Split) -> None:
    """Refuse validation data that training has seen: the same id or the same JPEG bytes.

    Raises ValueError with counts and examples.
    """
    for name, noun in (("ids", "id"), ("digests", "JPEG bytes")):
        shared = np.isin(getattr(val, name), getattr(train, name))
        if shared.any():
            raise ValueError(
                f"{shared.sum():,} val images have the same {noun} as a train image (val ids "
                f"{', '.join(val.ids[shared][:3])}): validation would measure memory, not learning. "
                f"Remove them from one of the two splits."
            )
