"""Photos that were read, kept on the disk until their shards are written.

Only when all photos have been read is it known which split each belongs to. Until then a file holds
each, so that memory holds about a kilobyte a photo, and an interrupted conversion reads none twice.
"""

import functools
import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import joblib
from joblib.externals.loky import get_reusable_executor

from flowerkit.console import Progress
from flowerkit.files import find_marked, replacing
from flowerkit.photos.reader import JPEG_QUALITY, ReadPhoto, read_photo
from flowerkit.photos.walk import Photo

_FORMAT = 4  # of the files; counted up when `read_photo` makes other pictures
_FEW = 64  # for fewer photos starting processes takes longer than reading


@dataclass(frozen=True)
class PhotoCache:
    """The photos of the folder `source`, read as `image_size` and `resize` say, in files of `folder`.

    The name of a file depends on the photo's path, size and time of change and on how it was read: a
    photo that changed, and one that is read in another way, is read anew.
    """

    folder: Path
    source: Path
    image_size: int
    resize: str

    def read(
        self, photos: Sequence[Photo], workers: int, progress: Progress
    ) -> dict[str, ReadPhoto | str]:
        """By path what is known of each photo, or why it is unreadable; read by `workers` processes.

        The JPEGs stay on the disk, and `jpeg` is empty in what is returned. Raises RuntimeError if a
        process dies, OSError if the disk is full.
        """
        results = {}
        workers = workers if len(photos) >= _FEW else 1
        jobs = (joblib.delayed(_read_into)(self, photo, os.getpid()) for photo in photos)
        reading = joblib.Parallel(n_jobs=workers, return_as="generator")(jobs)
        try:
            for photo, result in zip(photos, reading, strict=True):
                progress("photos", len(results), len(photos))
                results[photo.path] = result
        except BrokenProcessPool:
            last = next(reversed(results), photos[0].path)
            raise RuntimeError(
                f"a process that reads photos died (out of memory, or of a damaged photo), after "
                f"{last}. The same command continues here; --workers 1 (workers=1) needs least memory."
            ) from None
        finally:
            if workers > 1:  # idle processes would hold their memory while a model is trained
                get_reusable_executor().shutdown(kill_workers=True)
        progress("photos", len(photos), len(photos))
        return results

    def read_jpeg(self, photo: Photo) -> bytes:
        """The JPEG of a photo that was read."""
        file = find_marked(self.find_file(photo))
        if file is None:
            raise RuntimeError(
                f"what was read of {photo.path} is gone from {self.folder}. Convert again."
            )
        return pickle.loads(file.read_bytes()).jpeg

    def find_file(self, photo: Photo) -> Path:
        """Where what is read of a photo is kept."""
        parts = [str(self.source.resolve()), photo.path, photo.num_bytes, photo.changed_ns]
        parts += [self.image_size, self.resize, JPEG_QUALITY, _FORMAT]
        return self.folder / sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read_into(cache: PhotoCache, photo: Photo, parent: int) -> ReadPhoto | str:
    """Read a photo into its file, unless it is there; without its JPEG, or why it is unreadable."""
    _end_with(parent)
    file = cache.find_file(photo)
    if whole := find_marked(file):
        return replace(pickle.loads(whole.read_bytes()), jpeg=b"")
    read = read_or_explain(cache.source / photo.path, cache.image_size, cache.resize)
    if isinstance(read, str):
        return read
    with replacing(file, marked=True, flush=False) as temporary:  # the checksum shows what was lost
        temporary.write_bytes(pickle.dumps(read))
    return replace(read, jpeg=b"")


@functools.cache
def _end_with(parent: int) -> None:
    """End this process when `parent` has, however it ended: a daemon thread watches."""
    if os.getpid() == parent:
        return

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def read_or_explain(path: Path, image_size: int, resize: str) -> ReadPhoto | str:
    """What `read_photo` makes of a file, or the reason why it makes nothing."""
    try:
        return read_photo(path, image_size, resize)
    except OSError as error:
        return f"cannot be opened ({error.strerror or error})"
    except ValueError as error:
        return str(error)
