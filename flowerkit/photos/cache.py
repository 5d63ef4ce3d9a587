"""Photos that were read, kept on the disk until their shards are written.

Only when all photos have been read is it known which split each belongs to. Until then a file holds
each, so that memory holds about a kilobyte a photo, and an interrupted conversion reads none twice.
"""

import contextlib
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import joblib
from joblib.externals.loky import get_reusable_executor

from flowerkit.files import replacing
from flowerkit.photos.reader import JPEG_QUALITY, ReadPhoto, read_photo
from flowerkit.photos.walk import Photo

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Progress = Callable[[str, int, int], None]

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
        reading = joblib.Parallel(n_jobs=workers, return_as="generator")(
            joblib.delayed(_read_into)(
                self._find_file(photo), self.source / photo.path, self.image_size, self.resize
            )
            for photo in photos
        )
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
        return pickle.loads(self._find_file(photo).read_bytes()).jpeg

    def _find_file(self, photo: Photo) -> Path:
        parts = [str(self.source.resolve()), photo.path, photo.num_bytes, photo.changed_ns]
        parts += [self.image_size, self.resize, JPEG_QUALITY, _FORMAT]
        return self.folder / sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read_into(file: Path, path: Path, image_size: int, resize: str) -> ReadPhoto | str:
    """Read a photo into a file, unless it is there; without its JPEG, or why it is unreadable."""
    # Errors: it was never written, or cut off when the machine lost power.
    with contextlib.suppress(FileNotFoundError, EOFError, pickle.UnpicklingError):
        return replace(pickle.loads(file.read_bytes()), jpeg=b"")
    read = read_or_explain(path, image_size, resize)
    if isinstance(read, str):
        return read
    with replacing(file) as temporary:
        temporary.write_bytes(pickle.dumps(read))
    return replace(read, jpeg=b"")


def read_or_explain(path: Path, image_size: int, resize: str) -> ReadPhoto | str:
    """What `read_photo` makes of a file, or the reason why it makes nothing."""
    try:
        return read_photo(path, image_size, resize)
    except OSError as error:
        return f"cannot be opened ({error.strerror or error})"
    except ValueError as error:
        return str(error)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes out of an unfinished conversion; FileExistsError if one is in it."""
    with (folder / "lock").open("w") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"another process is converting into {folder.parent}. Wait for it, or convert into "
                "another folder."
            ) from None
        except OSError:
            pass  # some network disks know no locks
        yield
