"""Shards to a split: ids, labels and digests checked before anything is decoded, images while in use."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flowerkit.accelerator import free_memory_bytes
from flowerkit.data.images import DecodedImages, ShardReader, map_ahead, reserved_bytes
from flowerkit.data.records import CorruptRecord
from flowerkit.data.tfrecords import SPLITS, FlowerData, check_is_data, find_gaps, scan_shard
from flowerkit.synonyms import find_name
from flowerkit.text import did_you_mean, format_bytes

CACHES = ("auto", "ram", "none")
# Of the memory that is free: the rest is for the model, its gradients and the batches in flight.
RAM_FRACTION = 0.6

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

    @classmethod
    def empty(cls, image_size: int) -> "Split":
        """A labelled split without images."""
        images = np.empty((0, image_size, image_size, 3), "uint8")
        return cls(images, np.empty(0, "int32"), np.empty(0, "str"), np.empty(0, "int64"))


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
    check_is_data(data)
    if name not in SPLITS:
        found = find_name(str(name), SPLITS) or name
        raise ValueError(
            f"name must be one of {', '.join(SPLITS)}. Received: {name!r}.{did_you_mean(found, SPLITS)}"
        )
    files = data.files[name]
    if not files or not data.counts[name]:
        raise ValueError(f"the {name} split of {data.folder} is empty. Attach or draw its shards.")
    for gap in find_gaps(files):
        _log.warning(gap)
    scan = _scan(data, name, on_corrupt)
    images = _open_images(scan.reader, name, cache, order)
    if on_corrupt == "skip":
        try:
            images.finish()
        except ValueError:
            scan = _scan(data, name, on_corrupt, decode=True)
            images = _open_images(scan.reader, name, cache, order)
    return Split(images, scan.labels, scan.ids, scan.digests)


def _open_images(reader: ShardReader, name: str, cache: str, order) -> DecodedImages:
    rows = np.arange(len(reader)) if order is None else np.asarray(order(len(reader)), "int64")
    if not np.array_equal(np.sort(rows), np.arange(len(reader))):
        raise ValueError(f"order must hold each of the {len(reader):,} rows once.")
    num_bytes = 3 * reader.image_size**2 * len(reader)
    free = max(0, free_memory_bytes() - reserved_bytes())
    if cache == "ram" or (cache == "auto" and num_bytes <= RAM_FRACTION * free):
        try:
            return DecodedImages(reader, rows)
        except MemoryError:
            free = 0
    if cache != "none":
        _log.warning(
            f"{name}: {format_bytes(num_bytes)} of decoded images do not fit in RAM "
            f"({format_bytes(free)} free): they are decoded again each epoch"
        )
    return DecodedImages(reader)


# The first pass -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scan:
    reader: ShardReader
    ids: np.ndarray
    labels: np.ndarray | None
    digests: np.ndarray


def _scan(data: FlowerData, name: str, on_corrupt: str, *, decode: bool = False) -> _Scan:
    """The split's valid records, see `scan_shard`; a bad one raises unless it is to be skipped."""
    files, labelled, wanted = data.files[name], name != "test", data.ids.get(name)

    def scan(file):
        return scan_shard(file, data.image_size, data.num_classes, labelled, decode=decode)

    rows, faults, ids = [], [], set()
    for number_of_file, (found, of_file) in enumerate(map_ahead(scan, files)):
        faults += of_file
        for record in found:
            if wanted is not None and record.id not in wanted:
                continue
            if record.id in ids and not labelled:  # a csv has one row for each
                reason = f"id {record.id!r} appears twice"
                faults.append(CorruptRecord(files[number_of_file], record.number, reason))
            else:
                ids.add(record.id)
                label = data.relabelled.get(record.id, record.label) if labelled else None
                if label is not None or not labelled:
                    rows.append((number_of_file, *record._replace(label=label)))
    if faults and on_corrupt != "skip":
        raise ValueError(faults[0].explain(num_more=len(faults) - 1))
    if not rows:
        bad = f"every record of {files[0].parent} is bad. Re-download the files."
        left_out = f"every image of {name} is left out by decisions. Keep some (--labels)."
        raise ValueError(left_out if ids else bad)
    for fault in faults:
        _log.warning(f"left out: {fault}")
    if faults:
        _log.warning(f"faults skipped: {len(faults)}; images left: {len(rows):,}")
    file_of, numbers, offsets, lengths, ids, labels, digests = zip(*rows, strict=True)
    places = (np.array(column, "int64") for column in (file_of, numbers, offsets, lengths))
    return _Scan(
        ShardReader(files, *places, data.image_size),
        np.array(ids),
        np.array(labels, "int32") if labelled else None,
        np.array(digests, "int64"),
    )


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
