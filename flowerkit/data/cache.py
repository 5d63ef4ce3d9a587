"""Arrays in files that the next run finds again: grown, checked, counted, removed.

`KEY.uint8` holds the pixels of decoded images, row after row, and `KEY.json` beside it what they
are, with a CRC-32 for every image. The key is a hash over the JPEG bytes of the whole split, so
shards that change never meet their old images. `KEY.float32` holds `features` in the same way. A
file grows under a hidden name and is renamed when it is whole. Who reads or grows one holds a lock
on it, which ends with the process, so that a run never loses its file to another that makes room.
"""

import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import numpy as np

from flowerkit.accelerator import cache_folder
from flowerkit.files import write_json
from flowerkit.text import format_bytes

try:
    import fcntl
except ImportError:  # Windows, which does not let go of a file that is mapped anyway
    fcntl = None

GIB = 2**30
DEFAULT_LIMIT_GIB = 20.0
LIMIT_VARIABLE = "FLOWERKIT_CACHE_GIB"

# Part of every key: another layout or another decoder never meets the files of this one.
_FORMAT = 1
_DTYPES = ("uint8", "float32")  # each the suffix of its files
_GROWING = ".part"
# Room that is left on the disk for what else the run writes: its checkpoints, above all.
_SPARE_BYTES = GIB

_log = logging.getLogger("flowerkit")


@dataclass(frozen=True)
class Entry:
    """One cached split: its file and size, when it was last used (Unix time), and what it holds."""

    path: Path
    num_bytes: int
    used_at: float
    what: str


@dataclass(frozen=True, eq=False)
class CachedFile:
    """A whole file, open for reading: `images` (n, ...) of its dtype, `checksums` (n,) uint32."""

    path: Path
    images: np.ndarray
    checksums: np.ndarray

    def discard(self) -> None:
        """Forget the file, so that the next run makes it anew; what is mapped stays readable."""
        _remove(self.path)


@dataclass(frozen=True, eq=False)
class GrowingFile:
    """A file of its full size, still hidden: fill `images` and `checksums`, then `keep` or `drop` it."""

    path: Path
    hidden: Path
    what: str
    images: np.ndarray
    checksums: np.ndarray
    file: BinaryIO = field(repr=False)

    def keep(self) -> None:
        """Show the file to later runs. Raises OSError where the folder does not let it."""
        described = {
            "format": _FORMAT,
            "what": self.what,
            "shape": list(self.images.shape),
            "crc32": self.checksums.tolist(),
        }
        # The pixels last: once they have their name, they have their description too.
        write_json(self.path.with_suffix(".json"), described)
        os.replace(self.hidden, self.path)
        _lock(self.file, shared=True)

    def drop(self) -> None:
        """Remove what has grown so far."""
        self.file.close()
        self.hidden.unlink(missing_ok=True)


def decoded_folder() -> Path:
    """Where the files are; it need not exist."""
    return cache_folder() / "decoded"


def limit_bytes() -> int:
    """The most that all files together may take: FLOWERKIT_CACHE_GIB, or 20 GiB; 0 keeps none.

    Raises ValueError if the variable is not a number from 0.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        limit = float(text) if text else DEFAULT_LIMIT_GIB
    except ValueError:
        limit = -1.0
    if not 0 <= limit < 2**30:
        raise ValueError(f"{LIMIT_VARIABLE} must be a number of GiB from 0, got {text!r}.")
    return int(limit * GIB)


def make_key(image_size: int, digests: np.ndarray) -> str:
    """The name of a split's file, from the fingerprints (n,) of its JPEGs in their order.

    >>> make_key(224, np.arange(3))
    '205912c0bc5e99b0'
    """
    head = f"{_FORMAT} {image_size} {len(digests)} ".encode()
    return sha256(head + np.asarray(digests, "<i8").tobytes()).hexdigest()[:16]


# Opening and making -------------------------------------------------------------------------------


def open_cached(key: str, shape: tuple[int, ...], dtype: str = "uint8") -> CachedFile | None:
    """The whole file of `key`, or None if there is none, or none that is sound.

    A file that is short, of another shape or without a readable sidecar is logged and removed. The
    pixels are not read here: whoever uses an image compares its checksum.
    """
    path = decoded_folder() / f"{key}.{dtype}"
    try:
        with path.open("rb") as file:
            _lock(file, shared=True)
            checksums = _check_file(path, os.fstat(file.fileno()).st_size, shape, dtype)
            images = np.memmap(file, dtype, "r", shape=shape)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        _log.warning(f"what is in {path} is made anew: {error}")
        _remove(path)
        return None
    try:
        os.utime(path)  # when it was used, for `make_room`
    except OSError:
        _log.debug(f"{path} is read-only")
    # A plain array, because a slice of a memmap is a memmap, and slower to make.
    return CachedFile(path, np.asarray(images), checksums)


def _count_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype="int64")) * np.dtype(dtype).itemsize


def _check_file(path: Path, num_bytes: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    try:
        described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError("the description beside them is missing") from None
    except ValueError:
        raise ValueError("the description beside them is not JSON") from None
    if described["format"] != _FORMAT or tuple(described["shape"]) != shape:
        raise ValueError(f"they are described as {described['shape']}, wanted {list(shape)}")
    checksums = np.array(described["crc32"], "uint32")
    if num_bytes != _count_bytes(shape, dtype) or len(checksums) != shape[0]:
        raise ValueError(f"{num_bytes:,} bytes, wanted {_count_bytes(shape, dtype):,}")
    return checksums


def grow_file(key: str, shape: tuple[int, ...], what: str, dtype: str = "uint8") -> GrowingFile:
    """A new file for `key`, with its room on the disk already taken; older files may make place.

    Raises OSError if the folder cannot be written, or the limit or the disk has too little room.
    """
    folder, num_bytes = decoded_folder(), _count_bytes(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    make_room(num_bytes)
    # Its own name in each process, so that two runs at once do not write into one another's.
    descriptor, name = tempfile.mkstemp(prefix=f".{key}-", suffix=_GROWING, dir=folder)
    file, hidden = os.fdopen(descriptor, "r+b"), Path(name)
    try:
        _lock(file, shared=False)
        _take_room(descriptor, num_bytes)
        images = np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except BaseException:
        file.close()
        hidden.unlink(missing_ok=True)
        raise
    checksums = np.zeros(shape[0], "uint32")
    return GrowingFile(folder / f"{key}.{dtype}", hidden, what, images, checksums, file)


def _take_room(descriptor: int, num_bytes: int) -> None:
    # A mapped file that meets a full disk kills the process with SIGBUS, so its blocks come first.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:
        os.ftruncate(descriptor, num_bytes)


# Counting and removing ----------------------------------------------------------------------------


def list_cached() -> list[Entry]:
    """Every whole file, the one used longest ago first; [] where there is no folder."""
    return sorted(_find_entries(), key=lambda entry: (entry.used_at, entry.path))


def _find_entries() -> Iterator[Entry]:
    for path in (path for dtype in _DTYPES for path in decoded_folder().glob(f"*.{dtype}")):
        try:
            status = path.stat()
        except OSError:  # another process removed it
            continue
        try:
            what = str(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["what"])
        except (OSError, ValueError, KeyError, TypeError):
            what = "not described"
        yield Entry(path, status.st_size, status.st_mtime, what)


def make_room(num_bytes: int) -> None:
    """Remove the files used longest ago until `num_bytes` more fit under the limit and on the disk.

    Files that any run has open stay. Raises OSError if the room cannot be made.
    """
    _remove_leftovers()
    limit, folder = limit_bytes(), decoded_folder()
    if num_bytes > limit:
        raise OSError(
            errno.ENOSPC,
            f"{format_bytes(num_bytes)} are more than {LIMIT_VARIABLE} allows ({limit / GIB:g} GiB)",
        )
    entries = list_cached()
    while not _has_room(num_bytes, limit, folder):
        removable = (entry for entry in entries if _remove_unused(entry.path))
        if (removed := next(removable, None)) is None:
            raise OSError(
                errno.ENOSPC,
                f"{format_bytes(num_bytes)} more fit neither under {LIMIT_VARIABLE} "
                f"({limit / GIB:g} GiB) nor beside what is in {folder} "
                f"({format_bytes(shutil.disk_usage(folder).free)} free)",
            )
        _log.info(f"made room in {folder}: {removed.what} ({format_bytes(removed.num_bytes)})")
        entries.remove(removed)


def _has_room(num_bytes: int, limit: int, folder: Path) -> bool:
    taken = sum(entry.num_bytes for entry in _find_entries())
    spare = min(_SPARE_BYTES, num_bytes)
    return taken + num_bytes <= limit and num_bytes + spare <= shutil.disk_usage(folder).free


def clear_cache() -> int:
    """Remove every file that no run has open; the answer is how many bytes that freed."""
    _remove_leftovers()
    return sum(entry.num_bytes for entry in list_cached() if _remove_unused(entry.path))


def _remove_leftovers() -> None:
    """What runs that were killed left half-grown: nobody holds its lock."""
    for path in decoded_folder().glob(f".*{_GROWING}"):
        _remove_unused(path)


def _remove_unused(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _lock(file, shared=False) and _remove(path)
    except OSError:  # another process removed it, or it is not ours
        return False


def _remove(path: Path) -> bool:
    try:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning(f"{path} cannot be removed: {error}")
        return False
    return True


def _lock(file: BinaryIO, *, shared: bool) -> bool:
    """Lock an open file without waiting, for as long as it is mapped; whether that worked."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        # Some network disks know no locks: files are then removed under their readers, who keep
        # what they have mapped.
        return error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
    return True
