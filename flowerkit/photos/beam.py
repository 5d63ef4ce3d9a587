"""The conversion of a folder of photos as an Apache Beam pipeline, for folders that outgrow a machine.

Workers read the photos and write the shards; one worker assigns all photos to splits, by the same code
as on one machine, so that the shards are the same, byte for byte. Driver and workers must see both
folders by the same path (a shared disk or a mounted bucket). The options are Beam's, such as
["--runner=FlinkRunner", "--flink_master=HOST:8081"]; without a runner this process does all in memory,
which is for trying out. One process holds two kilobytes a photo: a million photos are two gigabytes.
A pipeline that failed starts anew.
"""

import pickle
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from flowerkit.data import SPLITS, Record, choose_shard_size, write_shards
from flowerkit.files import replacing
from flowerkit.photos.assignment import SplitAssignment, assign_photos
from flowerkit.photos.cache import read_or_explain
from flowerkit.photos.conversion import Request
from flowerkit.photos.listing import Listing
from flowerkit.photos.reader import ReadPhoto
from flowerkit.photos.walk import Photo

# Beam's own choice may fetch another runner from the network; this one is in the package.
_LOCAL_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"

_ASSIGNED = "assigned.pickle"  # in the unfinished folder


def write_by_beam(request: Request, listing: Listing, options: Sequence[str]) -> SplitAssignment:
    """Read the photos, assign them to splits and write the shards, by a pipeline with Beam's `options`.

    Raises RuntimeError without Apache Beam, or if the pipeline fails.
    """
    try:
        import apache_beam as beam
    except ImportError as error:
        raise RuntimeError(
            f'this needs Apache Beam ({error}). Install the extra, pip install -e ".[beam]", or convert '
            "without --beam (beam_options=)."
        ) from error
    request = replace(request, source=request.source.resolve(), out=request.out.resolve())
    assigned = request.unfinished / _ASSIGNED
    assigned.unlink(missing_ok=True)
    if not any(option.split("=")[0] == "--runner" for option in options):
        options = [*options, f"--runner={_LOCAL_RUNNER}"]
    pipeline = beam.Pipeline(options=beam.options.pipeline_options.PipelineOptions(list(options)))
    _build(beam, pipeline, request, listing)
    state = pipeline.run().wait_until_finish()
    if state != "DONE" or not assigned.is_file():
        raise RuntimeError(
            f"the pipeline ended ({state}) without {assigned}. See the runner's log; do its workers "
            "see this folder by the same path?"
        )
    return pickle.loads(assigned.read_bytes())


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
    return photo.path, read_or_explain(path, request.image_size, request.resize)


def _drop_jpeg(path: str, read: ReadPhoto | str) -> tuple[str, ReadPhoto | str]:
    return path, read if isinstance(read, str) else replace(read, jpeg=b"")


def _assign(
    read: list[tuple[str, ReadPhoto | str]], request: Request, listing: Listing
) -> Iterator[tuple[str, tuple]]:
    """For each photo by its path: split, shard, rank in the shard and label."""
    found = dict(read)
    results = {photo.path: found[photo.path] for photo in listing.photos}  # in order
    assignment = assign_photos(listing, results, *request.fractions, request.seed)
    with replacing(request.unfinished / _ASSIGNED) as temporary:
        temporary.write_bytes(pickle.dumps(assignment))
    for split in SPLITS:
        photos = assignment.shuffled(split)
        shard_size = choose_shard_size(len(photos))
        for rank, (photo, label) in enumerate(photos):
            yield photo.path, (split, *divmod(rank, shard_size), photo.id, label)


def _make_record(path: str, joined: dict) -> Iterator[tuple[tuple[str, int], tuple[int, Record]]]:
    """A picture with its place, unless it has none."""
    for split, shard, rank, id, label in joined["place"]:
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
        with replacing(request.shards / split / name) as temporary:
            shutil.copyfile(shard, temporary)
