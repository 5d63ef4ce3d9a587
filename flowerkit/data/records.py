"""A record and the shard file around it, byte by byte: encoded, located, read and checked.

A record is a `tf.train.Example` with `image` (JPEG bytes), `id` (bytes) and, if labelled, `class`
(int64). A shard frames it: length (8 bytes), its checksum (4), payload, its checksum (4), see
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details. TensorFlow is
imported where a record is opened, so that locating is instant.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KINDS = {"image": "bytes_list", "id": "bytes_list", "class": "int64_list"}


@dataclass(frozen=True)
class Record:
    """An image: its JPEG bytes, its id, and its class id (None in an unlabelled split)."""

    image: bytes
    id: str
    label: int | None


@dataclass(frozen=True)
class CorruptRecord:
    """A fault of a shard; `record` counts from 0 and is None for the file as a whole.

    >>> print(CorruptRecord(Path("data/03-224x224-462.tfrec"), 118, "not a JPEG (12 bytes)"))
    03-224x224-462.tfrec, record 118: not a JPEG (12 bytes)
    """

    file: Path
    record: int | None
    reason: str

    def __str__(self) -> str:
        place = "" if self.record is None else f", record {self.record}"
        return f"{self.file.name}{place}: {self.reason}"

    def explain(self, num_more: int = 0) -> str:
        """The sentence of an error: split, file, record, reason and remedy."""
        more = f" (the first of {num_more + 1} faults)" if num_more else ""
        return (
            f"{self.file.parent.name}/{self}{more}. Re-download the file, or pass "
            f'on_corrupt="skip" (--on-corrupt skip).'
        )


def serialize(record: Record) -> bytes:
    """The record as the competition's shards hold it, without framing. Same record, same bytes."""
    import tensorflow as tf

    feature = tf.train.Feature
    features = {
        "image": feature(bytes_list=tf.train.BytesList(value=[record.image])),
        "id": feature(bytes_list=tf.train.BytesList(value=[record.id.encode()])),
    }
    if record.label is not None:
        features["class"] = feature(int64_list=tf.train.Int64List(value=[record.label]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    # A protobuf map has no order of its own; without this the same record may give other bytes.
    return example.SerializeToString(deterministic=True)


# Reading ------------------------------------------------------------------------------------------


def find_frames(path: Path) -> tuple[list[tuple[int, int]], CorruptRecord | None]:
    """The (offset, length) in bytes of every payload that is whole, and what ends the file early.

    Hops from length to length and reads no payload.
    """
    frames, position, size_bytes = [], 0, path.stat().st_size
    with path.open("rb", buffering=0) as file:
        while position < size_bytes:
            file.seek(position)
            try:
                length = _read_length(file.read(12))
                position += 12 + length + 4
                if position > size_bytes:
                    raise ValueError(f"truncated ({position - size_bytes} bytes are missing)")
            except ValueError as error:
                return frames, CorruptRecord(path, len(frames), str(error))
            frames.append((position - 4 - length, length))
    return frames, None


def read_record(path: Path, number: int) -> Record:
    """A single record of a shard, by its number from 0; its checksum is not computed."""
    offset, length = find_frames(path)[0][number]
    with path.open("rb") as file:
        file.seek(offset)
        return _parse_record(file.read(length))


def read_records(path: str | os.PathLike) -> Iterator[tuple[int, Record]]:
    """A shard's records, each with its number in the file, counted from 0.

    Every checksum is computed in Python: slow (about 10 MB/s), for a close look. Raises ValueError for
    the first bad record.
    """
    path = Path(path)
    for number, payload, reason in read_frames(path):
        try:
            if reason:
                raise ValueError(reason)
            yield number, _parse_record(payload)
        except ValueError as error:
            raise ValueError(CorruptRecord(path, number, str(error)).explain()) from None


def _parse_record(payload: bytes) -> Record:
    features = _parse_features(payload)
    label = _read_feature(features, "class") if "class" in features else None
    image, raw_id = (_read_feature(features, name) for name in ("image", "id"))
    return Record(image, _decode_id(raw_id), label)


def read_frames(path: Path) -> Iterator[tuple[int, bytes | None, str | None]]:
    """Each record as (number, payload, its fault or None).

    Where a length is broken or the file ends too early, the payload is None and the frame is the last:
    the rest of the file is lost.
    """
    with path.open("rb") as file:
        for number in itertools.count():
            head = file.read(12)
            if not head:
                return
            try:
                payload = file.read(length := _read_length(head))
                checksum = file.read(4)
                if len(checksum) < 4:
                    missing = length + 4 - len(payload) - len(checksum)
                    raise ValueError(f"truncated ({missing} bytes are missing)")
            except ValueError as error:
                yield number, None, f"{error}; no record from here on can be read"
                return
            is_valid = _masked_crc32c(payload) == int.from_bytes(checksum, "little")
            yield number, payload, None if is_valid else "bad checksum"


def _read_length(head: bytes) -> int:
    if len(head) < 12:
        raise ValueError(f"truncated ({12 - len(head)} bytes of its head are missing)")
    if _masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little"):
        raise ValueError("broken length (bad checksum)")
    return int.from_bytes(head[:8], "little")


def _crc32c_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ 0x82F63B78 * (byte & 1)
    return byte


_CRC32C = tuple(map(_crc32c_entry, range(256)))


def _masked_crc32c(data: bytes) -> int:
    table, crc = _CRC32C, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# Checking -----------------------------------------------------------------------------------------


def check_payload(payload: bytes, image_size: int, num_classes: int, labelled: bool) -> list[str]:
    """Everything wrong inside a record: its features, its JPEG and size in px, its label."""
    try:
        features = _parse_features(payload)
    except ValueError as error:
        return [str(error)]
    checks = {"image": lambda image: _check_jpeg(image, image_size), "id": _decode_id}
    if labelled:
        checks["class"] = lambda label: _check_label(label, num_classes)
    reasons = []
    for name, check in checks.items():
        try:
            check(_read_feature(features, name))
        except ValueError as error:
            reasons.append(str(error))
    return reasons


def _parse_features(payload: bytes) -> Mapping[str, Any]:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        return tf.train.Example.FromString(payload).features.feature
    except DecodeError:
        raise ValueError(f"not a tf.train.Example ({len(payload)} bytes)") from None


def _read_feature(features: Mapping[str, Any], name: str) -> Any:
    if name not in features:
        raise ValueError(f"missing feature '{name}'")
    values = getattr(features[name], _KINDS[name]).value
    if len(values) != 1:
        raise ValueError(f"feature '{name}' holds {len(values)} {_KINDS[name][:5]} values, not 1")
    return values[0]


def _decode_id(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the id {raw!r} is not UTF-8") from None


def _check_jpeg(image: bytes, image_size: int) -> None:
    import tensorflow as tf

    if not image.startswith(b"\xff\xd8\xff"):
        raise ValueError(f"not a JPEG ({len(image)} bytes)")
    try:
        # TensorFlow's decoder, because it is the one that training meets.
        height, width, _ = tf.io.decode_jpeg(image, channels=3).shape
    except tf.errors.InvalidArgumentError:
        raise ValueError(f"undecodable JPEG ({len(image)} bytes)") from None
    if (height, width) != (image_size, image_size):
        raise ValueError(f"wrong size (got {height}x{width}, expected {image_size}x{image_size})")


def _check_label(label: int, num_classes: int) -> None:
    if not 0 <= label < num_classes:
        raise ValueError(f"label {label} is outside 0..{num_classes - 1}")
