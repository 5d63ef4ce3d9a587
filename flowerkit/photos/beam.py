"""A folder of photos becomes shards on a cluster: the conversion of `photos` as an Apache Beam pipeline.

Workers read the photos and write the shards; where a photo goes is decided in one place, from a
kilobyte a photo, by the same code as on one machine. So the shards are the same, byte for byte.
Driver and workers must see both folders by the same path (a shared disk or a mounted bucket).
"""

import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flowerkit.data.tfrecords import SPLITS, FlowerData, Record, choose_shard_size, write_shards
from flowerkit.files import replacing
from flowerkit.photos.cache import Entry, read_photos
from flowerkit.photos.division import divide_photos, place_rows
from flowerkit.photos.folder import (
    Request,
    claim_folder,
    describe_conversion,
    show_folder,
    write_beside,
)
from flowerkit.photos.listing import Listing, Photo, list_photos
from flowerkit.photos.reader import ReadPhoto
from flowerkit.photos.report import Conversion

# Beam's own choice may fetch another runner from the network; this one is in the package.
LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"

_DIVIDED = "divided.pickle"


def convert_with_beam(
    photos: str | os.PathLike,
    out: str | os.PathLike,
    *,
    image_size: int = 224,
    resize: str = "crop",
    val_fraction: float = 0.2,
    test_fraction: float = 0.1,
    seed: int = 0,
    labels_csv: str | os.PathLike | None = None,
    beam_options: Sequence[str] = (),
) -> tuple[FlowerData, Conversion]:
    """Convert the folder `photos` into shards in the new folder `out`, as `photos.convert_photos` does.

    `beam_options` are Beam's, such as ["--runner=FlinkRunner", "--flink_master=HOST:8081"]; without
    a runner all is done here, in memory, which is for trying out. The same call gives the same files
    on every runner and on one machine; only the seconds in the report differ. A pipeline that failed
    starts anew. One process holds a kilobyte a photo: a million photos are a gigabyte.

    Raises what `convert_photos` raises; ImportError without Apache Beam, RuntimeError if the
    pipeline fails.
    """
    request = Request(
        Path(photos).expanduser().resolve(),
        Path(out).expanduser().resolve(),
        image_size,
        resize,
        val_fraction,
        test_fraction,
        seed,
    )
    _import_beam()
    listing = list_photos(request.source, labels_csv)
    claim_folder(request)
    start = time.monotonic()
    _run(request, listing, beam_options)
    division, facts = pickle.loads((request.unfinished / _DIVIDED).read_bytes())
    conversion = describe_conversion(
        request,
        listing,
        division,
        facts,
        facts.unreadable,
        seconds=time.monotonic() - start,
        num_read=len(listing.photos),
    )
    write_beside(request, facts, division, conversion)
    return show_folder(request, division.class_names), conversion


def _import_beam():
    try:
        import apache_beam
    except ImportError as error:
        raise RuntimeError(
            f'this needs Apache Beam ({error}). Install the extra, pip install -e ".[beam]", or convert '
            "on one machine with `flowerkit convert`."
        ) from error
    return apache_beam


# The pipeline -------------------------------------------------------------------------------------


def _run(request: Request, listing: Listing, beam_options: Sequence[str]) -> None:
    beam = _import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    options = list(beam_options)
    if not any(option.split("=")[0] == "--runner" for option in options):
        options.append(f"--runner={LOCAL_RUNNER}")
    # What a failed pipeline wrote was divided by what was there then.
    shutil.rmtree(request.unfinished)
    (request.unfinished / "shards").mkdir(parents=True)
    pipeline = beam.Pipeline(options=PipelineOptions(options))
    _build(pipeline, request, listing)
    state = pipeline.run().wait_until_finish()
    if not (request.unfinished / _DIVIDED).is_file():
        raise RuntimeError(
            f"the pipeline ended ({state}) without {request.unfinished / _DIVIDED}. See the runner's "
            "log; do its workers see this folder by the same path?"
        )
    _gather_shards(request)


def _build(pipeline, request: Request, listing: Listing) -> None:
    """Read; decide in one place who goes where; bring each shard's pictures together; write."""
    beam = _import_beam()
    read = (
        pipeline
        | "list" >> beam.Create(list(enumerate(listing.photos)))
        | "share out" >> beam.Reshuffle()
        | "read" >> beam.Map(_read, request)
    )
    divided = (
        read
        | "leave the pictures" >> beam.MapTuple(_leave_picture)
        | "gather" >> beam.combiners.ToList()
        | "divide" >> beam.Map(_divide, request, listing)
    )
    places = divided | "places" >> beam.FlatMap(_list_places, request)
    written = (
        {"picture": read | "pictures" >> beam.FlatMap(_take_picture), "place": places}
        | "bring together" >> beam.CoGroupByKey()
        | "records" >> beam.FlatMapTuple(_make_record)
        | "shards" >> beam.GroupByKey()
        | "write" >> beam.Map(_write_shard, request)
    )
    # The side input makes it the last step: what it writes says that all shards are there.
    divided | "finish" >> beam.Map(_finish, request, beam.pvalue.AsList(written))


def _read(element: tuple[int, Photo], request: Request) -> tuple[int, ReadPhoto | str]:
    number, photo = element
    ((_, read),) = read_photos(
        request.source, [photo], request.image_size, request.resize, workers=1
    )
    return number, read


def _leave_picture(number: int, read: ReadPhoto | str) -> tuple[int, ReadPhoto | str]:
    return number, read if isinstance(read, str) else replace(read, jpeg=b"")


def _take_picture(element: tuple[int, ReadPhoto | str]) -> Iterator[tuple[int, bytes]]:
    number, read = element
    if not isinstance(read, str):
        yield number, read.jpeg


# Dividing -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Facts:
    """What is known of all photos, asked for as `photo_cache.PhotoCache` is."""

    entries: dict[str, Entry]
    thumbnails: dict[str, np.ndarray]
    unreadable: dict[str, str]

    def read_thumbnails(self, paths: Sequence[str]) -> np.ndarray:
        return np.stack([self.thumbnails[path] for path in paths])


def _divide(read: list[tuple[int, ReadPhoto | str]], request: Request, listing: Listing):
    """The division of all photos, and the facts without the thumbnails: pickled, they travel on."""
    facts = _Facts({}, {}, {})
    for number, one in sorted(read, key=lambda element: element[0]):
        photo = listing.photos[number]
        if isinstance(one, str):
            facts.unreadable[photo.path] = one
            continue
        facts.thumbnails[photo.path] = one.thumbnail
        facts.entries[photo.path] = Entry(
            path=photo.path,
            num_bytes=photo.num_bytes,
            changed_ns=photo.changed_ns,
            offset=0,
            length=0,
            digest=one.digest,
            picture_hash=one.picture_hash,
            width=one.width,
            height=one.height,
            format=one.format,
            notes=one.notes,
        )
    division = divide_photos(facts, listing, facts.unreadable, **request.dividing)
    facts.thumbnails.clear()
    number_of = {photo.path: number for number, photo in enumerate(listing.photos)}
    return division, facts, [number_of[photo.path] for photo in division.photos]


def _list_places(element, request: Request) -> Iterator[tuple[int, tuple]]:
    """For each photo by its number: split, shard, place in the shard, id and label."""
    division, _, numbers = element
    for split in SPLITS:
        placed = place_rows(division, split, request.seed)
        shard_size = choose_shard_size(len(placed))
        for rank, (row, label) in enumerate(placed):
            id = division.photos[row].id
            yield numbers[row], (split, *divmod(rank, shard_size), id, label)


# Writing ------------------------------------------------------------------------------------------


def _make_record(number: int, joined: dict) -> Iterator[tuple[tuple[str, int], tuple[int, Record]]]:
    """A picture with its place; one that was left out has none."""
    for split, shard, rank, id, label in joined["place"]:
        (jpeg,) = joined["picture"]
        yield (split, shard), (rank, Record(image=jpeg, id=id, label=label))


def _write_shard(element: tuple[tuple[str, int], Iterable], request: Request) -> str:
    """Write a shard whole, under its final name; a worker that does it again changes nothing."""
    (split, number), ranked = element
    records = [record for _, record in sorted(ranked, key=lambda element: element[0])]
    with tempfile.TemporaryDirectory() as local:
        (shard,) = write_shards(
            local, split, records, image_size=request.image_size, shard_size=len(records)
        )
        name = f"{number:02d}-{shard.name.split('-', 1)[1]}"
        with replacing(request.unfinished / "shards" / split / name) as temporary:
            shutil.copyfile(shard, temporary)
    return name


def _finish(element, request: Request, written: list[str]) -> None:
    division, facts, _ = element
    with replacing(request.unfinished / _DIVIDED) as temporary:
        temporary.write_bytes(pickle.dumps((division, facts)))


def _gather_shards(request: Request) -> None:
    (request.unfinished / "shards").replace(request.unfinished / request.shards)
