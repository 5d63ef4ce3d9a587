"""A folder of photos becomes shards: listed, read, assigned to splits, written, reported.

OUT shows the shards when all is done; until then OUT/.converting holds what was read, and the same call
continues there.
"""

import contextlib
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from flowerkit.accelerator import num_cores
from flowerkit.console import Progress, shows_progress
from flowerkit.data import (
    SPLITS,
    FlowerData,
    Record,
    choose_shard_size,
    find_csv_labels,
    find_shards,
    write_shards,
)
from flowerkit.files import cache_folder, locked, make_folder, write_json, write_text
from flowerkit.photos.assignment import SplitAssignment, assign_photos, check_fractions
from flowerkit.photos.cache import PhotoCache
from flowerkit.photos.conversion_file import Conversion, load_conversion
from flowerkit.photos.labels import LabelsCsv
from flowerkit.photos.listing import Folders, Listing, list_photos
from flowerkit.photos.reader import JPEG_QUALITY, can_read_heic, check_size
from flowerkit.photos.walk import name_paths, normalize_name
from flowerkit.submission import write_submission
from flowerkit.synonyms import explain_arguments
from flowerkit.text import format_csv, pluralize

UNFINISHED = ".converting"
TEST_LABELS = "test_labels.csv"

_PREFIX, _KEY_LENGTH = "photos-", 16  # of the folders in the cache
_FORMAT = 2  # of what is in them; counted up when the same photos make other files

_log = logging.getLogger("flowerkit")


@dataclass(frozen=True)
class Request:
    """What a conversion shall do; ValueError for a size, a resize method or fractions without sense."""

    source: Path
    out: Path
    image_size: int
    resize: str
    val_fraction: float
    test_fraction: float
    seed: int

    def __post_init__(self) -> None:
        check_size(self.image_size, self.resize)
        check_fractions(self.val_fraction, self.test_fraction)

    @property
    def unfinished(self) -> Path:
        """Where all is until the folder is complete."""
        return self.out / UNFINISHED

    @property
    def shards(self) -> Path:
        """The folder of the shards until then."""
        return self.unfinished / f"tfrecords-jpeg-{self.image_size}x{self.image_size}"

    @property
    def fractions(self) -> tuple[float, float]:
        """Of val and test."""
        return self.val_fraction, self.test_fraction


@explain_arguments()
@shows_progress
def convert_photos(
    photos: str | os.PathLike,
    out: str | os.PathLike,
    *,
    image_size: int = 224,
    resize: str = "crop",
    val_fraction: float = 0.2,
    test_fraction: float = 0.1,
    seed: int = 0,
    labels_csv: str | os.PathLike | LabelsCsv | None = None,
    label_pattern: str | None = None,
    decisions: str | os.PathLike | None = None,
    train: Folders = None,
    val: Folders = None,
    test: Folders = None,
    workers: int | None = None,
    progress: Progress | None = None,
    beam_options: Sequence[str] | None = None,
) -> tuple[FlowerData, Conversion]:
    """Convert the folder `photos` into shards in the new folder `out`.

    `image_size` in px and `resize` are those of `read_photo`. Val and test get their fraction of each
    class, drawn by `seed`, unless folders or a csv say the splits. `labels_csv` or `label_pattern` names
    the classes, `decisions` changes some, and `train`, `val` and `test` are the folders that are splits,
    see `list_photos`; `workers` are processes, by default one a core; `beam_options`: see `photos.beam`.
    `progress(title, done, total)` is called for each photo. `out` gets the shards, classes.json,
    sample_submission.csv, test_labels.csv (the test shards hold no labels, as in the competition), and
    the report as conversion.json (see `Conversion`) and photos.csv.

    Raises what `list_photos` raises; FileExistsError if `out` is in use, unless an interrupted
    conversion left it: then it continues; ValueError for arguments that make no sense, or if fewer than
    two classes are left; OSError if `out` cannot be written; RuntimeError if a process or Beam fails.
    """
    source, out = Path(photos).expanduser(), Path(out).expanduser()
    request = Request(source, out, image_size, resize, val_fraction, test_fraction, seed)
    listing = list_photos(
        photos, labels_csv, label_pattern, decisions, train=train, val=val, test=test
    )
    request = replace(request, source=listing.folder)
    return _convert(request, listing, workers, progress, beam_options)


def _convert(
    request: Request,
    listing: Listing,
    workers: int | None,
    progress: Progress | None,
    beam_options: Sequence[str] | None = None,
) -> tuple[FlowerData, Conversion]:
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers} must be 1 or more, or None for one a core.")
    _claim_folder(request, listing.roots)
    with locked(request.unfinished / "lock", f"converting into {request.out}"):
        start = time.monotonic()
        # What an interrupted run wrote was assigned by the photos of that time.
        shutil.rmtree(request.shards, ignore_errors=True)
        if beam_options is None:
            assignment = _write_shards(request, listing, workers or num_cores(), progress)
        else:
            from flowerkit.photos.beam import write_by_beam

            assignment = write_by_beam(request, listing, beam_options)
        conversion = _write_beside(request, listing, assignment, time.monotonic() - start)
    shown = request.out / request.shards.name
    # It is there where an earlier call was killed between the next two lines.
    shutil.rmtree(shown, ignore_errors=True)
    request.shards.replace(shown)
    shutil.rmtree(request.unfinished)
    return _open_data(request.out, conversion), conversion


def _write_shards(
    request: Request, listing: Listing, workers: int, progress: Progress | None
) -> SplitAssignment:
    cache = PhotoCache(request.unfinished, request.source, request.image_size, request.resize)
    read = cache.read(listing.photos, workers, progress)
    assignment = assign_photos(listing, read, *request.fractions, request.seed)

    def read_records(split: str, photos: list) -> Iterator[Record]:
        for done, (photo, label) in enumerate(photos, start=1):
            yield Record(image=cache.read_jpeg(photo), id=photo.id, label=label)
            progress(f"{split} shards", done, len(photos))

    for split in SPLITS:
        photos = assignment.shuffled(split)
        records, size = read_records(split, photos), choose_shard_size(len(photos))
        write_shards(
            request.unfinished, split, records, image_size=request.image_size, shard_size=size
        )
    return assignment


def _open_data(folder: Path, made: Conversion) -> FlowerData:
    return find_shards(
        folder, image_size=made.image_size, class_names=made.class_names, origin="folder"
    )


# The folder ---------------------------------------------------------------------------------------


def _claim_folder(request: Request, roots: Sequence[Path]) -> None:
    """Make `request.out`; refuse a folder in use, and one that the next conversion would read."""
    out = request.out
    inside = {out.resolve(), *out.resolve().parents}
    if source := next((root for root in roots if root.resolve() in inside), None):
        raise ValueError(
            f"{out} is inside the photos ({source}), and the next conversion would take it for a class. "
            "Convert into a folder beside them."
        )
    make_folder(out)
    held = sorted(entry.name for entry in out.iterdir() if entry.name[0] != ".")
    if not held or request.unfinished.is_dir():
        make_folder(request.unfinished)
    elif conversion := load_conversion(out):
        raise FileExistsError(
            f"{out} already holds a conversion of {conversion.source}. Train on it with --data {out}, "
            "or convert into a new folder."
        )
    else:
        raise FileExistsError(
            f"{out} already holds {held[0]}. Convert into a new folder, or remove that one."
        )


def _write_beside(
    request: Request, listing: Listing, assignment: SplitAssignment, seconds: float
) -> Conversion:
    out, names = request.out, assignment.class_names
    photos, splits = assignment.photos, assignment.splits
    tests = [photo for photo, _ in assignment.shuffled("test")]
    labelled = [photo for photo in tests if photo.class_name is not None]
    write_json(out / "classes.json", list(names))
    written = find_csv_labels(names)
    if tests:
        ids = [photo.id for photo in tests]
        write_submission(out / "sample_submission.csv", ids, [0] * len(ids), written)
    if labelled:
        labels = [names.index(photo.class_name) for photo in labelled]
        write_submission(out / TEST_LABELS, [photo.id for photo in labelled], labels, written)
    text = name_paths(photo.path for photo in listing.photos)
    rows = [["id", "path", "class", "split", "width", "height", "notes"]]
    for photo, split, read in zip(photos, splits, assignment.read, strict=True):
        row = [photo.id, text[photo.path], photo.class_name, split]
        rows.append([*row, read.width, read.height, "; ".join(read.notes)])
    write_text(out / "photos.csv", format_csv(rows))
    notes = [*listing.notes, *assignment.notes]
    # A photo that is padded is as large as its longer side, another as its shorter.
    measure = max if request.resize == "pad" else min
    if num := sum(measure(x.width, x.height) < request.image_size for x in assignment.read):
        enlarged = f"{pluralize(num, 'photo')} enlarged"
        notes.append(f"{enlarged}; a smaller --image-size (image_size=) avoids that")
    if written:
        notes.append(
            f"the numbers that name classes are not their class ids ({names[0]!r} has the id 0): a "
            "csv of predictions holds the names"
        )
    counts = Counter(zip((photo.class_name for photo in photos), splits, strict=True))
    conversion = Conversion(
        source=normalize_name(str(request.source.resolve())),
        image_size=request.image_size,
        resize=request.resize,
        val_fraction=request.val_fraction,
        test_fraction=request.test_fraction,
        seed=request.seed,
        jpeg_quality=JPEG_QUALITY,
        class_names=names,
        counts={name: {split: counts[name, split] for split in SPLITS} for name in names},
        num_unlabelled=counts[None, "test"],
        unreadable=assignment.unreadable,
        left_out=listing.left_out | assignment.left_out,
        near_duplicates=assignment.near_duplicates,
        notes=notes,
        seconds=round(seconds, 3),
    )
    conversion.save(out)
    return conversion


# The cache ----------------------------------------------------------------------------------------


@explain_arguments()
@shows_progress
def load_photos(
    folder: str | os.PathLike,
    *,
    image_size: int = 224,
    resize: str = "crop",
    val_fraction: float = 0.2,
    test_fraction: float = 0.1,
    seed: int = 0,
    labels_csv: str | os.PathLike | LabelsCsv | None = None,
    label_pattern: str | None = None,
    decisions: str | os.PathLike | None = None,
    train: Folders = None,
    val: Folders = None,
    test: Folders = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> FlowerData:
    """A folder of photos as data to train on; converted into the cache once, see `convert_photos`.

    The cache is used as long as the photos' paths, sizes and times of change, their labels and the
    arguments are the same. What is unreadable or left out is logged. Raises as `convert_photos`.
    """
    options = image_size, resize, val_fraction, test_fraction, seed
    listing = list_photos(
        folder, labels_csv, label_pattern, decisions, train=train, val=val, test=test
    )
    parts = [_FORMAT, str(listing.folder.resolve()), listing.class_names, options, JPEG_QUALITY]
    parts += [can_read_heic(), [list(vars(photo).values()) for photo in listing.photos]]
    key = sha256(json.dumps(parts).encode()).hexdigest()[:_KEY_LENGTH]
    out = cache_folder() / f"{_PREFIX}{key}"
    request = Request(listing.folder, out, *options)
    if not request.unfinished.exists() and (conversion := load_conversion(out)):
        _log.info(f"the photos of {folder} were converted before, into {out}")
        for note in [note for note in listing.notes if note not in conversion.notes]:
            _log.info(note)  # new since, such as a folder without a photo
        return _open_data(out, conversion)
    _log.info(f"converting {pluralize(len(listing.photos), 'photo')} of {folder} into {out}")
    data, conversion = _convert(request, listing, workers, progress)
    for line in [*conversion.summary(), f"details are in {out / 'conversion.json'}"]:
        _log.info(line)
    return data


def find_converted() -> list[Path]:
    """The folders of converted photos in the cache, but those being converted."""
    found = []
    # In full: where the cache is a folder of the user's, their own photos-2024/ is no part of it.
    for folder in sorted(cache_folder().glob(f"{_PREFIX}{'[0-9a-f]' * _KEY_LENGTH}/")):
        with contextlib.suppress(FileExistsError):
            if (folder / UNFINISHED).is_dir():
                with locked(folder / UNFINISHED / "lock", "converting"):
                    pass
            found.append(folder)
    return found
