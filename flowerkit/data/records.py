"""The file format of a shard, byte by byte: records written, located and read, whatever is in them.

A record is framed: length (8 bytes), its checksum (4), payload, its checksum (4), see
https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from flowerkit.text import format_bytes

# No picture is larger; a length may be anything, and its checksum right.
MOST_BYTES = 2**28


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


def frame(payload: bytes) -> bytes:
    """The record that holds `payload`, as it stands in a shard."""
    length = len(payload).to_bytes(8, "little")
    return b"".join((length, _checksum(length), payload, _checksum(payload)))


def find_frames(path: Path) -> tuple[list[tuple[int, int]], CorruptRecord | None]:
    """The (offset, length) in bytes of every payload that is whole, and what ends the file early.

    Hops from length to length and reads no payload. Raises ValueError for a file compressed by gzip.
    """
    _refuse_gzip(path)
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


def read_frames(path: Path) -> Iterator[tuple[int, bytes | None, str | None]]:
    """Each record as (number, payload, its fault or None), its checksums computed.

    Where a length is broken or the file ends too early, the payload is None and the frame is the last:
    the rest of the file is lost. Raises ValueError for a file compressed by gzip.
    """
    _refuse_gzip(path)
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        for number in itertools.count():
            head = file.read(12)
            if not head:
                return
            try:
                length = _read_length(head)
                missing = file.tell() + length + 4 - size_bytes
                if missing > 0:  # found before memory for the payload is asked for
                    raise ValueError(f"truncated ({missing} bytes are missing)")
            except ValueError as error:
                yield number, None, f"{error}; no record from here on can be read"
                return
            payload = file.read(length)
            is_right = _checksum(payload) == file.read(4)
            yield number, payload, None if is_right else "bad checksum"


def _read_length(head: bytes) -> int:
    if len(head) < 12:
        raise ValueError(f"truncated ({12 - len(head)} bytes of its head are missing)")
    if _checksum(head[:8]) != head[8:]:
        raise ValueError("broken length (bad checksum)")
    length = int.from_bytes(head[:8], "little")
    if length > MOST_BYTES:
        most = format_bytes(MOST_BYTES)
        raise ValueError(f"a record of {format_bytes(length)}, and none has over {most}")
    return length


def _refuse_gzip(path: Path) -> None:
    """Raise for a file that was compressed: to skip it as damaged would lose all of it."""
    with path.open("rb") as file:
        head = file.read(12)
    # The length of an intact first record may begin with these bytes, too.
    if head.startswith(b"\x1f\x8b") and _checksum(head[:8]) != head[8:]:
        raise ValueError(
            f"{path.parent.name}/{path.name} is compressed by gzip; flowerkit reads plain shards. "
            f"Decompress it: gzip -dc < {path.name} > plain/{path.name}"
        )


def _checksum(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted as the format has it."""
    crc = google_crc32c.value(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")
