"""The conversion of a folder of photos as an Apache Beam pipeline, for folders that outgrow a machine.

Workers read the photos and write the shards; one worker assigns all photos to splits, by the same code
as on one machine, so that the shards are the same, byte for byte. Driver and workers must see both
folders by the same path (a shared disk or a mounted bucket).
"""

import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from flowerkit.data import SPLITS, FlowerData, Record, choose_shard_size, write_shards
from flowerkit.files import replacing
from flowerkit.photos.assignment import assign_photos
from flowerkit.photos.cache import read_or_explain
from flowerkit.photos.conversion import Request, claim_folder, show_folder, write_beside
from flowerkit.photos.listing import Listing, Photo, list_photos, normalize_name
from flowerkit.photos.reader import ReadPhoto
from flowerkit.photos.report import Conversion

# Beam's own choice may fetch another runner from the network; this one is in the package.
_LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"

_ASSIGNED = "assigned.pickle"


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
    """Convert the folder `photos` into shards in the new folder `out`, as `convert_photos` does.

    `beam_options` are Beam's, such as ["--runner=FlinkRunner", "--flink_master=HOST:8081"]; without
    a runner this process does all in memory, which is for trying out. The same call gives the same files
    on every runner and on one machine; only the seconds in the report differ. A pipeline that failed
    starts anew. One process holds two kilobytes a photo: a million photos are two gigabytes.

    Raises what `convert_photos` raises; RuntimeError without Apache Beam, or if the pipeline fails.
    """
    source, out = Path(photos).expanduser().resolve(), Path(out).expanduser().resolve()
    request = Request(source, out, image_size, resize, val_fraction, test_fraction, seed)
    try:
        import apache_beam as beam
    except ImportError as error:
        raise RuntimeError(
            f'this needs Apache Beam ({error}). Install the extra, pip install -e ".[beam]", or convert '
            "on one machine with `flowerkit convert`."
        ) from error
    listing = list_photos(source, labels_csv)
    claim_folder(request)
    # What a failed pipeline wrote was assigned by the photos of that time.
    shutil.rmtree(request.unfinished)
    request.unfinished.mkdir()
    options = list(beam_options)
    if not any(option.split("=")[0] == "--runner" for option in options):
        options.append(f"--runner={_LOCAL_RUNNER}")
    start = time.monotonic()
    pipeline = beam.Pipeline(options=beam.options.pipeline_options.PipelineOptions(options))
    _build(beam, pipeline, request, listing)
    state = pipeline.run().wait_until_finish()
    assigned = request.unfinished / _ASSIGNED
    if state != "DONE" or not assigned.is_file():
        raise RuntimeError(
            f"the pipeline ended ({state}) without {assigned}. See the runner's log; do its workers "
            "see this folder by the same path?"
        )
    known, unreadable, assignment = pickle.loads(assigned.read_bytes())
    seconds = time.monotonic() - start
    conversion = write_beside(request, listing, known, unreadable, assignment, seconds)
    return show_folder(request, assignment.class_names), conversion


def _build(beam, pipeline, request: Request, listing: Listing) -> None:
    """Read; assign in one place; bring the pictures of each shard together; write."""
    read = (
        pipeline
        | "list" >> beam.Create(list(listing.photos))
        | "distribute" >> beam.Reshuffle()
        | "read" >> beam.Map(_read, request)
    )
    places = (
        read
        | "drop the pictures" >> beam.MapTuple(_drop_jpeg)
        | "gather" >> beam.combiners.ToList()
        | "assign" >> beam.FlatMap(_assign, request, listing)
    )
    (
        {"read": read, "place": places}
        | "join" >> beam.CoGroupByKey()
        | "records" >> beam.FlatMapTuple(_make_record)
        | "shards" >> beam.GroupByKey()
        | "write" >> beam.Map(_write_shard, request)
    )


def _read(photo: Photo, request: Request) -> tuple[str, ReadPhoto | str]:
    path = request.source / photo.path
    return photo.id, read_or_explain(path, request.image_size, request.resize)


def _drop_jpeg(id: str, read: ReadPhoto | str) -> tuple[str, ReadPhoto | str]:
    return id, read if isinstance(read, str) else replace(read, jpeg=b"")


def _assign(
    read: list[tuple[str, ReadPhoto | str]], request: Request, listing: Listing
) -> Iterator[tuple[str, tuple]]:
    """For each photo by its id: split, shard, rank in the shard and label."""
    read_by_id, known, unreadable = dict(read), {}, {}
    for photo in listing.photos:
        if isinstance(result := read_by_id[photo.id], str):
            unreadable[normalize_name(photo.path)] = result
        else:
            known[photo.path] = result
    assignment = assign_photos(listing, known, unreadable, *request.fractions, request.seed)
    with replacing(request.unfinished / _ASSIGNED) as temporary:
        temporary.write_bytes(pickle.dumps((known, unreadable, assignment)))
    for split in SPLITS:
        photos = assignment.shuffled(split)
        shard_size = choose_shard_size(len(photos))
        for rank, (photo, label) in enumerate(photos):
            yield photo.id, (split, *divmod(rank, shard_size), label)


def _make_record(id: str, joined: dict) -> Iterator[tuple[tuple[str, int], tuple[int, Record]]]:
    """A picture with its place, unless it has none."""
    for split, shard, rank, label in joined["place"]:
        (read,) = joined["read"]
        yield (split, shard), (rank, Record(image=read.jpeg, id=id, label=label))


def _write_shard(element: tuple[tuple[str, int], Iterable], request: Request) -> None:
    """Write a shard under its final name; a worker that does it again changes nothing."""
    (split, number), ranked = element
    records = [record for _, record in sorted(ranked, key=lambda element: element[0])]
    with tempfile.TemporaryDirectory() as local:
        (shard,) = write_shards(
            local, split, records, image_size=request.image_size, shard_size=len(records)
        )
        name = f"{number:02d}-{shard.name.split('-', 1)[1]}"
        with replacing(request.unfinished / request.shards / split / name) as temporary:
            shutil.copyfile(shard, temporary)
