"""Photos read once, by several processes, and kept on the disk until their shards are written.

Which split a photo belongs to is known when all have been read, so what was made of each waits in
`spool`: JPEG after JPEG, each with its thumbnail. `journal.jsonl` says, a line a photo, where it is.
A conversion that was interrupted goes on from there; in memory are some hundred bytes a photo.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from flowerkit.data.duplicates import THUMBNAIL_PX, byte_digest
from flowerkit.photos.listing import Photo
from flowerkit.photos.reader import JPEG_QUALITY, ReadPhoto, read_photo

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

THUMBNAIL_BYTES = THUMBNAIL_PX * THUMBNAIL_PX * 3

# Another reader makes other pictures: it never goes on with the spool of this one.
_FORMAT = 2
_CHUNK = 8  # photos handed to a process at once
_CHUNKS_AHEAD = 3  # for each process, so that none waits and little waits in memory
_FEW = 64  # for fewer it does not pay to start processes

_log = logging.getLogger("flowerkit")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What a photo became, as the journal keeps it; `offset` and `length` are those of its JPEG."""

    path: str
    num_bytes: int
    changed_ns: int
    offset: int
    length: int
    digest: str
    picture_hash: int
    width: int
    height: int
    format: str
    notes: tuple[str, ...]


# Reading ------------------------------------------------------------------------------------------


def read_photos(
    folder: Path, photos: Sequence[Photo], image_size: int, resize: str, workers: int
) -> Iterator[tuple[Photo, ReadPhoto | str]]:
    """Each photo with what was read, or with the reason why it could not be; in their order.

    At most 24 photos a process are under way. With one worker, or for a few photos, no process is
    started; where none can be (a script without `if __name__ == "__main__":`), that is logged.

    Raises RuntimeError if a process dies, naming the photos that it may have died of.
    """
    paths = [str(folder / photo.path) for photo in photos]
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    if workers == 1 or len(photos) < _FEW:
        results = (_read_chunk(chunk, image_size, resize) for chunk in chunks)
    else:
        results = _read_in_processes(chunks, image_size, resize, min(workers, len(chunks)))
    yield from zip(photos, itertools.chain.from_iterable(results), strict=True)


def _read_chunk(paths: list[str], image_size: int, resize: str) -> list[ReadPhoto | str]:
    return [_read_one(path, image_size, resize) for path in paths]


def _read_one(path: str, image_size: int, resize: str) -> ReadPhoto | str:
    try:
        return read_photo(path, image_size, resize)
    except OSError as error:
        return f"cannot be opened ({error.strerror or error})"
    except ValueError as error:
        return str(error)


def _read_in_processes(chunks: list, image_size: int, resize: str, workers: int) -> Iterator[list]:
    # Fork would copy the threads' locks of a TensorFlow that is already loaded, and hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupts)
    waiting, done = deque(), 0
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_read_chunk, chunk, image_size, resize)))
            if len(waiting) > workers * _CHUNKS_AHEAD:
                yield waiting.popleft()[1].result()
                done += 1
        while waiting:
            yield waiting[0][1].result()
            waiting.popleft()
            done += 1
    except BrokenProcessPool:
        if done:
            raise RuntimeError(_describe_death(chunks[done : done + workers + 1])) from None
        _log.warning(
            "no helper process could be started, so one process reads all photos. In a script, put "
            'the call under `if __name__ == "__main__":`.'
        )
        for chunk in chunks:
            yield _read_chunk(chunk, image_size, resize)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches all processes; the first one alone speaks and ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _describe_death(chunks: list[list[str]]) -> str:
    paths = [path for chunk in chunks for path in chunk]
    return (
        f"a process that reads photos died (out of memory, or of a broken photo). It was reading one "
        f"of {len(paths)} photos, {paths[0]} to {paths[-1]}. The same command goes on from here; "
        "workers=1 (--workers 1) needs the least memory."
    )


def is_helper_starting() -> bool:
    """Whether this is a helper process that is only being started, and runs the script once more."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


# Keeping ------------------------------------------------------------------------------------------


def is_in_use(folder: Path) -> bool:
    """Whether a process has the spool in `folder` open now."""
    try:
        with (folder / "lock").open() as file:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or the disk knows no locks
        return False
    return False


class PhotoCache:
    """The read photos of one conversion in `folder`, of this process alone while it is open.

    `entries` holds what is known by path. Raises FileExistsError if `folder` holds those of another
    conversion (other `options`) or is in use by another process.
    """

    def __init__(self, folder: Path, options: dict):
        self.folder, self.entries = folder, {}
        self._lock = None
        options = options | {"format": _FORMAT, "quality": JPEG_QUALITY}
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._take_lock()
            self._refuse_other(options)
            self._journal = (folder / "journal.jsonl").open("a+", encoding="utf-8")
            self._spool = (folder / "spool").open("a+b")
            self._go_on()
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        self._lock = (self.folder / "lock").open("w")
        if fcntl:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FileExistsError(
                    f"another process is converting into {self.folder.parent}. Wait for it, or "
                    "convert into another folder."
                ) from None
            except OSError:
                _log.debug(f"no locks in {self.folder}")  # some network disks know none

    def _refuse_other(self, options: dict) -> None:
        place = self.folder / "options.json"
        try:
            found = json.loads(place.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            place.write_text(json.dumps(options), encoding="utf-8")
            return
        if found != options:
            names = sorted(key for key in options | found if options.get(key) != found.get(key))
            was = ", ".join(f"{name}={found.get(name)!r}" for name in names)
            raise FileExistsError(
                f"{self.folder.parent} holds an unfinished conversion with {was}. Go on with the same "
                f"options, convert into another folder, or remove {self.folder}."
            )

    def _go_on(self) -> None:
        """Take over what is whole; an interrupted write may have cut off the end of both files."""
        self._journal.seek(0)
        size = self._spool.seek(0, os.SEEK_END)
        whole = end = 0
        for line in iter(self._journal.readline, ""):
            entry = _parse_entry(line)
            if entry is None or entry.offset != end:
                break
            if entry.offset + entry.length + THUMBNAIL_BYTES > size:
                break
            self.entries[entry.path] = entry
            end = entry.offset + entry.length + THUMBNAIL_BYTES
            whole += len(line.encode())
        self._journal.truncate(whole)
        self._spool.truncate(end)
        self._end = end

    def knows(self, photo: Photo) -> bool:
        """Whether the photo was read before and has not changed since."""
        entry = self.entries.get(photo.path)
        return entry is not None and (entry.num_bytes, entry.changed_ns) == (
            photo.num_bytes,
            photo.changed_ns,
        )

    def add(self, photo: Photo, read: ReadPhoto) -> None:
        """Keep what was read of a photo; on the disk when this returns."""
        entry = Entry(
            photo.path,
            photo.num_bytes,
            photo.changed_ns,
            self._end,
            len(read.jpeg),
            read.digest,
            read.picture_hash,
            read.width,
            read.height,
            read.format,
            read.notes,
        )
        self._spool.write(read.jpeg + read.thumbnail.tobytes())
        self._spool.flush()
        self._journal.write(json.dumps([getattr(entry, name) for name in _FIELDS]) + "\n")
        self._journal.flush()
        self._end += len(read.jpeg) + THUMBNAIL_BYTES
        self.entries[photo.path] = entry

    def read_jpeg(self, path: str) -> bytes:
        """The JPEG of a photo that was added. Raises RuntimeError if the disk gives other bytes."""
        entry = self.entries[path]
        self._spool.seek(entry.offset)
        jpeg = self._spool.read(entry.length)
        if byte_digest(jpeg) != entry.digest:
            raise RuntimeError(
                f"what was made of {path} is damaged on the disk. Remove {self.folder}, and convert "
                "again."
            )
        return jpeg

    def read_thumbnails(self, paths: Sequence[str]) -> np.ndarray:
        """Their thumbnails: (n, 16, 16, 3) uint8."""
        found = np.empty((len(paths), THUMBNAIL_BYTES), "uint8")
        for row, path in enumerate(paths):
            entry = self.entries[path]
            self._spool.seek(entry.offset + entry.length)
            found[row] = np.frombuffer(self._spool.read(THUMBNAIL_BYTES), "uint8")
        return found.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX, 3)

    def close(self) -> None:
        """Let another process have the folder."""
        for file in ("_journal", "_spool", "_lock"):
            if opened := getattr(self, file, None):
                opened.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


_FIELDS = tuple(field.name for field in dataclasses.fields(Entry))


def _parse_entry(line: str) -> Entry | None:
    if not line.endswith("\n"):
        return None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        fields = dict(zip(_FIELDS, json.loads(line), strict=True))
        return Entry(**fields | {"notes": tuple(fields["notes"])})
    return None


def fill(
    spool: PhotoCache,
    folder: Path,
    photos: Sequence[Photo],
    *,
    image_size: int,
    resize: str,
    workers: int,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, str]:
    """Read what the spool does not know yet; the answer is the reason of each that is unreadable."""
    new = [photo for photo in photos if not spool.knows(photo)]
    known, unreadable = len(photos) - len(new), {}
    if known and new:
        _log.info(f"{known:,} of {len(photos):,} photos were read before")
    for done, (photo, read) in enumerate(read_photos(folder, new, image_size, resize, workers)):
        progress("photos", known + done, len(photos))
        if isinstance(read, str):
            unreadable[photo.path] = read
        else:
            spool.add(photo, read)
    progress("photos", len(photos), len(photos))
    return unreadable
