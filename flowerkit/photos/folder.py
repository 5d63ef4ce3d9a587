"""The folder that a conversion makes: asked for, claimed, described beside the shards, shown when whole.

Until all is done its shards lie in OUT/.converting, so that half a data set is never seen.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from flowerkit.data.tfrecords import FlowerData, find_shards
from flowerkit.files import write_json
from flowerkit.photos.cache import PhotoCache
from flowerkit.photos.division import SplitAssignment, place_rows
from flowerkit.photos.listing import Listing, spell
from flowerkit.photos.reader import JPEG_QUALITY, check_request
from flowerkit.photos.report import Conversion, load_conversion, write_conversion
from flowerkit.photos.splits import check_fractions
from flowerkit.submission import write_submission
from flowerkit.text import pluralize

UNFINISHED = ".converting"
TEST_LABELS = "test_labels.csv"


@dataclass(frozen=True)
class Request:
    """What a conversion is asked for: the folders, the size and shape of the pictures, and the division.

    Raises ValueError for a size, a resize or fractions that make no sense.
    """

    source: Path
    out: Path
    image_size: int
    resize: str
    val_fraction: float
    test_fraction: float
    seed: int

    def __post_init__(self) -> None:
        check_request(self.image_size, self.resize)
        check_fractions(self.val_fraction, self.test_fraction)

    @property
    def reading(self) -> dict:
        """What the pictures depend on."""
        return {"image_size": self.image_size, "resize": self.resize}

    @property
    def dividing(self) -> dict:
        """What the splits depend on."""
        return {
            "val_fraction": self.val_fraction,
            "test_fraction": self.test_fraction,
            "seed": self.seed,
        }

    @property
    def unfinished(self) -> Path:
        """Where everything lies until the folder is whole."""
        return self.out / UNFINISHED

    @property
    def shards(self) -> str:
        """The name of the folder of the shards."""
        return f"tfrecords-jpeg-{self.image_size}x{self.image_size}"


def claim_folder(request: Request) -> None:
    """Make `request.out`; refuse one that holds something else, or that the next conversion would read.

    Raises ValueError for one inside the photos, FileExistsError for one in use, OSError if it cannot
    be written.
    """
    source, out = request.source, request.out
    inside, outside = out.resolve(), source.resolve()
    if inside == outside or outside in inside.parents:
        raise ValueError(
            f"{out} lies inside the photos ({source}), and would be taken for a class next time. "
            "Convert into a folder beside them."
        )
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file. Pass a folder that is new or empty.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        held = sorted(entry.name for entry in out.iterdir() if entry.name[0] != ".")
        if held and not request.unfinished.is_dir():
            raise FileExistsError(
                f"{out} already holds {_name_content(out, held)}. Convert into a new folder, or "
                f"remove that one."
            )
        request.unfinished.mkdir(exist_ok=True)
    except FileExistsError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(
            f"{out} cannot be made or written ({reason}). Pass another folder."
        ) from None


def _name_content(out: Path, held: list[str]) -> str:
    if conversion := load_conversion(out):
        return f"a conversion of {conversion.source}, whole: train on it with --data {out}"
    return held[0]


def describe_conversion(
    request: Request,
    listing: Listing,
    division: SplitAssignment,
    spool: PhotoCache,
    unreadable: dict[str, str],
    *,
    seconds: float,
    num_read: int,
) -> Conversion:
    """What became of the photos; `num_read` of them were read in `seconds`."""
    counts = {name: {} for name in division.class_names}
    unlabelled = 0
    for photo, split in zip(division.photos, division.splits, strict=True):
        if photo.class_name is None:
            unlabelled += 1
        else:
            counts[photo.class_name][split] = counts[photo.class_name].get(split, 0) + 1
    return Conversion(
        source=str(request.source.resolve()),
        **request.reading,
        **request.dividing,
        jpeg_quality=JPEG_QUALITY,
        class_names=division.class_names,
        counts=counts,
        num_unlabelled=unlabelled,
        unreadable=unreadable,
        left_out=listing.left_out | division.left_out,
        copies=division.copies,
        near_copies=division.near_copies,
        notes=[*listing.notes, *division.notes, *_note_enlarged(request, division, spool)],
        seconds=round(seconds, 3),
        photos_per_second=round(num_read / max(seconds, 1e-9), 1),
    )


def _note_enlarged(request: Request, division: SplitAssignment, spool: PhotoCache) -> list[str]:
    entries = [spool.entries[photo.path] for photo in division.photos]
    # A photo that is padded is as large as its longer side, another as its shorter.
    measure = max if request.resize == "pad" else min
    num = sum(measure(entry.width, entry.height) < request.image_size for entry in entries)
    if not num:
        return []
    return [
        f"{pluralize(num, 'photo')} smaller than {request.image_size} px, and so enlarged; "
        f"--image-size (image_size) takes less"
    ]


def write_beside(
    request: Request, spool: PhotoCache, division: SplitAssignment, conversion: Conversion
) -> None:
    """Write what stands beside the shards: class names, csv files of the test split, the report."""
    write_json(request.out / "classes.json", list(division.class_names))
    _write_test_csvs(request.out, division, request.seed)
    rows = []
    for photo, split in zip(division.photos, division.splits, strict=True):
        entry = spool.entries[photo.path]
        rows.append(
            [
                photo.id,
                spell(photo.path),
                photo.class_name or "",
                split,
                entry.width,
                entry.height,
                "; ".join(entry.notes),
            ]
        )
    write_conversion(request.out, conversion, rows)


def _write_test_csvs(out: Path, division: SplitAssignment, seed: int) -> None:
    tests = [division.photos[row] for row, _ in place_rows(division, "test", seed)]
    if tests:
        write_submission(out / "sample_submission.csv", [p.id for p in tests], [0] * len(tests))
    if labelled := [photo for photo in tests if photo.class_name is not None]:
        labels = [division.class_names.index(photo.class_name) for photo in labelled]
        write_submission(out / TEST_LABELS, [photo.id for photo in labelled], labels)


def show_folder(request: Request, class_names: tuple[str, ...]) -> FlowerData:
    """The last step: what lay in the hidden folder gets its place, and the hidden folder goes away."""
    shown = request.out / request.shards
    if shown.exists():  # stopped between this line and the last but two
        shutil.rmtree(shown)
    (request.unfinished / request.shards).replace(shown)
    shutil.rmtree(request.unfinished)
    return find_shards(
        request.out, image_size=request.image_size, class_names=class_names, origin="folder"
    )
