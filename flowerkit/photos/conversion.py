"""A folder of photos, one sub folder a class, becomes shards: read, divided, written, reported.

The photos are listed (`photo_listing`), each is read once by one of several processes into a file on
the disk (`photo_reader`, `photo_cache`), copies are found and everyone gets a split
(`photo_division`), and the shards are written from that file. OUT shows them when all is done
(`photo_folder`); until then OUT/.converting holds what was read, and the same call goes on there.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from flowerkit.accelerator.machine import cache_folder, num_cores
from flowerkit.data.tfrecords import (
    SPLITS,
    FlowerData,
    Record,
    choose_shard_size,
    find_shards,
    write_shards,
)
from flowerkit.photos.cache import PhotoCache, fill, is_helper_starting, is_in_use
from flowerkit.photos.division import SplitAssignment, divide_photos, place_rows
from flowerkit.photos.folder import (
    UNFINISHED,
    Request,
    claim_folder,
    describe_conversion,
    show_folder,
    write_beside,
)
from flowerkit.photos.listing import HEIC_SUFFIXES, Listing, list_photos
from flowerkit.photos.reader import JPEG_QUALITY, can_read_heic, check_request
from flowerkit.photos.report import Conversion, load_conversion

__all__ = [
    "Conversion",
    "clear_converted",
    "convert_photos",
    "find_converted",
    "is_cleared",
    "load_photos",
]

_PREFIX = "photos-"  # of the folders in the cache

Progress = Callable[[str, int, int], None]

_log = logging.getLogger("flowerkit")


def convert_photos(
    photos: str | os.PathLike,
    out: str | os.PathLike,
    *,
    image_size: int = 224,
    resize: str = "crop",
    val_fraction: float = 0.2,
    test_fraction: float = 0.1,
    seed: int = 0,
    labels_csv: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[FlowerData, Conversion]:
    """Convert the folder `photos` into shards in the new folder `out`.

    `image_size` in px and `resize` are `read_photo`'s. Val and test get their fraction of each class,
    drawn by `seed`; folders train/, val/ and test/ or a csv's column `split` go over that. `workers`
    are processes, by default one a core. `out` gets the shards, classes.json, sample_submission.csv,
    test_labels.csv (the test shards carry no class, as in the competition), and the report as
    conversion.md, conversion.json and photos.csv.

    Raises what `list_photos` raises; FileExistsError if `out` is in use, unless by this conversion,
    interrupted: then it goes on; ValueError for fractions, a resize or a size that make no sense, or if
    fewer than two classes are left; OSError if `out` cannot be written.
    """
    if is_helper_starting():
        raise RuntimeError('put this call under `if __name__ == "__main__":`')
    request = Request(
        Path(photos).expanduser(),
        Path(out).expanduser(),
        image_size,
        resize,
        val_fraction,
        test_fraction,
        seed,
    )
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be 1 or more, or None for one a core.")
    listing = list_photos(request.source, labels_csv)
    claim_folder(request)
    conversion = _convert(request, listing, workers or num_cores(), progress or _tell_nobody)
    return show_folder(request, conversion.class_names), conversion


def _tell_nobody(what: str, done: int, total: int) -> None:
    pass


def _convert(request: Request, listing: Listing, workers: int, progress: Progress) -> Conversion:
    options = {"photos": str(request.source.resolve())} | request.reading
    with PhotoCache(request.unfinished, options) as spool:
        start, num_known = time.monotonic(), len(spool.entries)
        unreadable = fill(
            spool,
            request.source,
            listing.photos,
            **request.reading,
            workers=workers,
            progress=progress,
        )
        seconds = time.monotonic() - start
        division = divide_photos(spool, listing, unreadable, **request.dividing)
        _write_splits(request, spool, division, progress)
        num_read = len(spool.entries) + len(unreadable) - num_known
        conversion = describe_conversion(
            request, listing, division, spool, unreadable, seconds=seconds, num_read=num_read
        )
        write_beside(request, spool, division, conversion)
    return conversion


def _write_splits(
    request: Request, spool: PhotoCache, division: SplitAssignment, progress: Progress
) -> None:
    # What an interrupted run wrote was divided by what was there then.
    shutil.rmtree(request.unfinished / request.shards, ignore_errors=True)
    for split in SPLITS:
        placed = place_rows(division, split, request.seed)
        write_shards(
            request.unfinished,
            split,
            _make_records(spool, division, placed, split, progress),
            image_size=request.image_size,
            shard_size=choose_shard_size(len(placed)),
        )


def _make_records(
    spool: PhotoCache, division: SplitAssignment, placed: list, split: str, progress: Progress
) -> Iterator[Record]:
    for done, (row, label) in enumerate(placed, start=1):
        photo = division.photos[row]
        yield Record(image=spool.read_jpeg(photo.path), id=photo.id, label=label)
        progress(f"{split} shards", done, len(placed))


def load_photos(
    folder: str | os.PathLike,
    *,
    image_size: int = 224,
    resize: str = "crop",
    val_fraction: float = 0.2,
    test_fraction: float = 0.1,
    seed: int = 0,
    labels_csv: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> FlowerData:
    """A folder of photos as data to train on; converted into the cache once, see `convert_photos`.

    What is in the cache is used while the photos' paths, sizes and times of change, their labels and
    the options are the same. What is unreadable or left out is logged. Raises as `convert_photos`.
    """
    options = {
        "image_size": image_size,
        "resize": resize,
        "val_fraction": val_fraction,
        "test_fraction": test_fraction,
        "seed": seed,
    }
    check_request(image_size, resize)
    listing = list_photos(folder, labels_csv)
    out = cache_folder() / f"{_PREFIX}{_make_key(Path(folder), listing, options)}"
    conversion = load_conversion(out)
    if conversion and not (out / UNFINISHED).exists():
        _log.info(f"the photos of {folder} were converted before, into {out}")
        return find_shards(
            out, image_size=image_size, class_names=conversion.class_names, origin="folder"
        )
    _log.info(f"converting {len(listing.photos):,} photos of {folder} into {out}")
    data, conversion = convert_photos(
        folder, out, **options, labels_csv=labels_csv, workers=workers, progress=progress
    )
    for line in [*conversion.summary(), f"more is in {out / 'conversion.md'}"]:
        _log.info(line)
    return data


def _make_key(folder: Path, listing: Listing, options: dict) -> str:
    photos = [
        (photo.path, photo.num_bytes, photo.changed_ns, photo.class_name, photo.split)
        for photo in listing.photos
    ]
    has_heic = any(photo.path.lower().endswith(HEIC_SUFFIXES) for photo in listing.photos)
    heic = has_heic and can_read_heic()
    whole = [str(folder.expanduser().resolve()), options, JPEG_QUALITY, heic, photos]
    return sha256(json.dumps(whole).encode()).hexdigest()[:16]


def find_converted() -> dict[Path, int]:
    """The folders of converted photos in the cache, whole or not, with their bytes."""
    folders = sorted(cache_folder().glob(f"{_PREFIX}*/"))
    return {folder: _count_bytes(folder) for folder in folders}


def clear_converted() -> int:
    """Remove those that no process is converting into; the answer is how many bytes that freed.

    The same call of `load_photos` makes them again.
    """
    freed = 0
    for folder, num_bytes in find_converted().items():
        if not is_in_use(folder / UNFINISHED):
            shutil.rmtree(folder, ignore_errors=True)
            freed += num_bytes - _count_bytes(folder)
    return freed


def _count_bytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())


def is_cleared(folder: Path) -> bool:
    """Whether `folder` is one of the cache that is there no more."""
    inside = folder.parent.resolve() == cache_folder().resolve()
    return inside and folder.name.startswith(_PREFIX) and not folder.exists()
