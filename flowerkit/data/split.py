"""Shards to images: checked before anything is decoded, decoded once, kept where there is room.

A first pass over the shards reads every record without decoding it: ids, labels, fingerprints, the
JPEG's size and its end. What can be known early is so an error before training. The images follow
while they are already in use, see `decoded_images`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from flowerkit.accelerator import free_memory_bytes
from flowerkit.data import cache as decode_cache
from flowerkit.data.duplicates import match_values
from flowerkit.data.images import (
    DecodedImages,
    ImagesInFile,
    ImagesOnDemand,
    StreamedImages,
    allocate,
    reserved_bytes,
)
from flowerkit.data.reader import ShardReader, trace_as_it_stands
from flowerkit.data.records import check_payload, read_frames
from flowerkit.data.tfrecords import (
    FlowerData,
    check_counts,
    check_shard,
    count_in_name,
    parse_example,
)
from flowerkit.text import format_bytes

KEEP = ("auto", "ram", "disk", "none")
# Of the memory that is free: the rest is for the model, its gradients and the batches in flight.
RAM_FRACTION = 0.6

_SCAN_BATCH = 64
# Enough for the tables and a colour profile that stand before the size.
_HEAD_BYTES = 4096
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"

_log = logging.getLogger("flowerkit")


@dataclass(frozen=True, eq=False)
class Split:
    """One split; row i of every array is the same image.

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

    `keep` says where decoded images stay: "ram"; "disk", a file that the next run finds again; or
    "none", decoded each time they are asked for. "auto" is the first of them that has room, and a
    level that fails gives way to the next, with a line in the log. `order` answers the number of
    images with the rows in the order in which they will be wanted first, as `epoch_permutation` does.

    With on_corrupt="skip" every image is decoded here, and bad records are left out, and logged.

    Raises ValueError for an empty split, a count that differs from the file's name, and the first
    bad record (file and number). Damage inside a JPEG that only decoding shows raises it when the
    images are asked for.
    """
    keep = cache
    if keep not in KEEP:
        raise ValueError(f"keep={keep!r} is unknown. Pass one of {', '.join(KEEP)}.")
    files = data.files[name]
    if not files or not data.counts[name]:
        raise ValueError(f"the {name} split of {data.folder} is empty. Attach or draw its shards.")
    start = time.perf_counter()
    try:
        if check_counts(files):
            raise ValueError("a file is cut off, or its name promises another number of records")
        scan = _scan(data, name)
    except (tf.errors.OpError, ValueError) as error:
        scan = _scan_around_faults(data, name, on_corrupt, error)
    images = _keep_images(scan, data, name, keep, order)
    if on_corrupt == "skip":
        try:
            images.finish()
        except ValueError as error:
            scan = _scan_around_faults(data, name, on_corrupt, error)
            images = _keep_images(scan, data, name, keep, order)
    _log.info(f"{name}: {len(images):,} images checked in {time.perf_counter() - start:.1f} s")
    return Split(images, scan.labels if name != "test" else None, scan.ids, scan.digests)


# The first pass -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scan:
    reader: ShardReader
    ids: np.ndarray
    labels: np.ndarray
    digests: np.ndarray


def _scan(data: FlowerData, name: str) -> _Scan:
    """What can be known without decoding. Anything amiss raises; which record, `check_shard` says."""
    files, labelled = data.files[name], name != "test"

    @trace_as_it_stands
    def look(serialized):
        jpegs, ids, labels = parse_example(serialized, labelled=labelled)
        # substr refuses what is shorter than 2 bytes; such a record is named by check_shard.
        ends = tf.strings.substr(jpegs, -2, 2)
        heads = tf.strings.substr(jpegs, 0, _HEAD_BYTES)
        return ids, labels, tf.fingerprint(jpegs), tf.strings.length(serialized), heads, ends

    shards = tf.data.TFRecordDataset([str(file) for file in files]).batch(_SCAN_BATCH)
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = shards.map(look, num_parallel_calls=2, deterministic=True).prefetch(2)
    ids, labels, prints, lengths, doubtful = [], [], [], [], []
    for batch in batches.with_options(options).as_numpy_iterator():
        looks = zip(batch[4].tolist(), batch[5].tolist(), strict=True)
        doubtful += [
            len(ids) + k
            for k, (head, end) in enumerate(looks)
            if end != _JPEG_END or read_jpeg_size(head) != (data.image_size, data.image_size)
        ]
        ids += [image_id.decode() for image_id in batch[0].tolist()]
        for found, part in zip((labels, prints, lengths), batch[1:4], strict=True):
            found.append(part)
    labels = np.concatenate(labels)
    if labelled and not (labels.min() >= 0 and labels.max() < data.num_classes):
        raise ValueError("a label is out of range")
    reader = _locate(data, name, np.concatenate(lengths).astype("int64"))
    _check_doubtful(reader, doubtful)
    digests = np.ascontiguousarray(np.concatenate(prints)).view("<i8")[:, 0]
    return _Scan(reader, np.array(ids), labels, digests)


def _locate(data: FlowerData, name: str, lengths: np.ndarray) -> ShardReader:
    """Where each record is, from the lengths of all of them, one file after the other."""
    counts = [count_in_name(file) for file in data.files[name]]
    file_of = np.repeat(np.arange(len(counts)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    ends = np.cumsum(lengths + 16)  # 12 bytes before each payload, 4 after it
    starts = ends - lengths - 16
    return ShardReader(
        files=data.files[name],
        file_of=file_of,
        numbers=np.arange(len(lengths)) - first,
        offsets=starts - starts[first] + 12,
        lengths=lengths,
        image_size=data.image_size,
        num_classes=data.num_classes,
        labelled=name != "test",
    )


def _check_doubtful(reader: ShardReader, rows: list[int]) -> None:
    """Decode the few whose size or end was not found: padding and long headers are no damage."""
    for row in rows:
        (payload,) = reader.read(np.array([row]))
        reasons = check_payload(
            payload,
            image_size=reader.image_size,
            num_classes=reader.num_classes,
            labelled=reader.labelled,
        )
        if reasons:
            raise ValueError(reasons[0])


def read_jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Height and width in px from the first bytes of a JPEG; None if they do not tell.

    See ITU-T T.81, B.1 and B.2.2: markers with lengths, up to the start of the frame.

    >>> read_jpeg_size(bytes.fromhex("ffd8ffe000040000ffc0001108002000300301"))
    (32, 48)
    """
    if not head.startswith(_JPEG_START):
        return None
    position = 2
    while position + 9 <= len(head) and head[position] == 0xFF:
        marker = head[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = head[position + 5 : position + 7], head[position + 7 : position + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        position += 2 + int.from_bytes(head[position + 2 : position + 4], "big")
    return None


# Around damage ------------------------------------------------------------------------------------


def _scan_around_faults(data: FlowerData, name: str, on_corrupt: str, error: Exception) -> _Scan:
    """Say which record stopped the first pass, or go over all others the careful way."""
    files = data.files[name]
    wanted = {"image_size": data.image_size, "num_classes": data.num_classes}
    faults = {file: check_shard(file, labelled=name != "test", **wanted) for file in files}
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
    scan = _scan_sound_records(data, name, faults)
    num_all = sum(map(count_in_name, files))
    _log.warning(f"faults skipped: {len(found)}; images left: {len(scan.ids):,} of {num_all:,}")
    return scan


def _scan_sound_records(data: FlowerData, name: str, faults: dict) -> _Scan:
    rows, parsed = [], []
    for number_of_file, (file, of_file) in enumerate(faults.items()):
        bad, offset = {fault.record for fault in of_file}, 12
        for number, payload, _ in read_frames(file):
            if number not in bad:
                rows.append((number_of_file, number, offset, len(payload)))
                jpeg, image_id, label = parse_example(payload, labelled=name != "test")
                digest = tf.fingerprint([jpeg]).numpy().view("<i8")[0, 0]
                parsed.append((image_id.numpy().decode(), label.numpy(), digest))
            offset += len(payload or b"") + 16
    if not rows:
        raise ValueError(
            f"every record of {data.files[name][0].parent} is bad. Re-download the files."
        )
    file_of, numbers, offsets, lengths = np.array(rows, "int64").T
    reader = ShardReader(
        data.files[name],
        file_of,
        numbers,
        offsets,
        lengths,
        data.image_size,
        data.num_classes,
        name != "test",
    )
    ids, labels, digests = zip(*parsed, strict=True)
    return _Scan(reader, np.array(ids), np.array(labels, "int32"), np.array(digests, "int64"))


# Where decoded images stay ------------------------------------------------------------------------


def _keep_images(scan: _Scan, data: FlowerData, name: str, keep: str, order) -> DecodedImages:
    """The first of RAM, file and nothing that has room, from `keep` on; said in one line."""
    reader = scan.reader
    num_bytes = int(np.prod(reader.shape, dtype="int64"))
    rows = _check_order(np.arange(len(reader)) if order is None else order(len(reader)), reader)
    free = max(0, free_memory_bytes() - reserved_bytes())
    size = f"{name}: {format_bytes(num_bytes)} of decoded images"
    room = f"{format_bytes(free)} of memory free"
    if keep == "ram" or (keep == "auto" and num_bytes <= RAM_FRACTION * free):
        try:
            images = StreamedImages(reader, allocate(reader.shape), rows)
            _log.info(f"{size} stay in RAM ({room})")
            return images
        except MemoryError:
            room = f"memory was refused ({room})"
    if keep != "none":
        try:
            return _keep_in_file(scan, f"{name} of {data.folder}", rows, f"{size} ({room})")
        except OSError as error:
            room += f"; no file of them: {error}"
    if keep == "none":
        _log.info(f"{name}: {len(rows):,} images, decoded as they are needed")
    else:
        _log.warning(f"{size} are decoded again each time they are asked for ({room})")
    return ImagesOnDemand(reader)


def _keep_in_file(scan: _Scan, what: str, order: np.ndarray, said: str) -> DecodedImages:
    reader = scan.reader
    key = decode_cache.make_key(reader.image_size, scan.digests)
    cached = decode_cache.open_cached(key, reader.shape)
    if cached is not None:
        _log.info(f"{said} are there from an earlier run: {cached.path}")
        return ImagesInFile(reader, cached)
    growing = decode_cache.grow_file(key, reader.shape, f"{what}, {reader.image_size} px")
    _log.info(f"{said} go into {growing.path}")
    return StreamedImages(reader, growing.images, order, growing)


def _check_order(order: np.ndarray, reader: ShardReader) -> np.ndarray:
    order = np.asarray(order, "int64")
    if not np.array_equal(np.sort(order), np.arange(len(reader))):
        raise ValueError(f"order must hold each of the {len(reader):,} rows once.")
    return order


# Leaks --------------------------------------------------------------------------------------------


def check_leak(train: Split, val: Split) -> None:
    """Refuse validation data that training has seen: the same id or the same JPEG bytes.

    Raises ValueError with counts and examples.
    """
    shared_ids = np.unique(train.ids[match_values(train.ids, val.ids)[:, 0]])
    if len(shared_ids):
        raise ValueError(
            f"train and val share {len(shared_ids)} ids ({', '.join(shared_ids[:3])}): validation "
            f"would measure memory, not learning. Split the data again."
        )
    shared = match_values(train.digests, val.digests)[:, 1]
    if len(shared):
        raise ValueError(
            f"{len(shared)} val images have the same bytes as train images (val ids "
            f"{', '.join(val.ids[shared][:3])}): validation would measure memory, not learning. "
            f"Remove them from one side."
        )
