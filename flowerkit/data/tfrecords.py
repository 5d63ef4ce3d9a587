"""The competition's format: records parsed and written, shards in folders found and checked.

A data folder holds `tfrecords-jpeg-SxS/{train,val,test}/NN-SxS-COUNT.tfrec`, all images S x S px. A
record is a `tf.train.Example` with `image` (JPEG bytes), `id` (bytes) and, if labelled, `class` (int64).
"""

import itertools
import os
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from flowerkit.data.class_names import find_csv_labels
from flowerkit.data.example import Example
from flowerkit.data.records import CorruptRecord, find_frames, frame, read_frames
from flowerkit.files import explain_unpacking, make_folder, near_path, writing_to
from flowerkit.submission import find_id_fault
from flowerkit.text import join_some, pluralize

SPLITS = ("train", "val", "test")

_FOLDER_NAME = re.compile(r"tfrecords-jpeg-(\d+)x\1")
_SHARD_NAME = re.compile(r"(?i)(?P<number>\d{2,})-(?P<size>\d+)x(?P=size)-(?P<count>\d+)\.tfrec")
# What a browser or gzip calls a shard.
_UNFINISHED = re.compile(r"(.+\.tfrec\w*)\W.*", re.IGNORECASE)
_UNPACK = {".gz": "gzip -d", ".zip": "unzip", ".zst": "zstd -d", ".bz2": "bzip2 -d", ".xz": "xz -d"}
_USUAL_SIZE_PX = 224
_FEATURES = {"image": "bytes_list", "id": "bytes_list", "class": "int64_list"}


@dataclass(frozen=True)
class FlowerData:
    """Where the shards of an image size (in px) are, and what they hold.

    `folder` holds `tfrecords-jpeg-SxS/`; `files` lists each split's shards in order, `counts` its
    records by the file names, without those left out (an absent split has () and 0); `origin` is
    "competition", "drawn" or "folder". `relabelled` has the class id that replaces the one in the
    shards by the image's id, None where it is left out. Where `ids` names a split, it has only the
    records of these ids (a fold).
    """

    folder: Path
    files: Mapping[str, tuple[Path, ...]]
    counts: Mapping[str, int]
    class_names: tuple[str, ...]
    image_size: int
    origin: str
    relabelled: Mapping[str, int | None] = field(default_factory=dict)
    ids: Mapping[str, Set[str]] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """How many classes there are, and so how wide a model's head is."""
        return len(self.class_names)

    @property
    def csv_labels(self) -> tuple[str, ...] | None:
        """What a csv holds for each class where it is not the class id, see `find_csv_labels`."""
        return find_csv_labels(self.class_names)

    def divided(
        self, ids: Mapping[str, Collection[str]], counts: Mapping[str, int]
    ) -> "FlowerData":
        """Its train and val anew: of the images of both those with these `ids`, so many."""
        files = tuple(dict.fromkeys((*self.files["train"], *self.files["val"])))
        return replace(
            self,
            files={**self.files, **dict.fromkeys(ids, files)},
            counts={**self.counts, **{name: counts[name] for name in ids}},
            ids={**self.ids, **{name: frozenset(of) for name, of in ids.items()}},
        )

    def __str__(self) -> str:
        counts = ", ".join(f"{split} {self.counts[split]:,}" for split in SPLITS)
        origin = "flowers of a folder" if self.origin == "folder" else f"{self.origin} flowers"
        return (
            f"{origin}: {self.num_classes} classes, {self.image_size} px, {counts} ({self.folder})"
        )


@dataclass(frozen=True)
class Record:
    """An image: its JPEG bytes, its id, and its class id (None in an unlabelled split)."""

    image: bytes
    id: str
    label: int | None


def check_is_data(data) -> None:
    """Raise ValueError for what is no `FlowerData`, such as the path of a folder."""
    if not isinstance(data, FlowerData):
        folder = repr(str(data)) if isinstance(data, str | os.PathLike) else "FOLDER"
        raise ValueError(f"data must be what find_data({folder}) returns. Received: data={data!r}")


# Parsing ------------------------------------------------------------------------------------------


def parse_example(payload: bytes, *, labelled: bool | None = None) -> Record:
    """The record in a serialized `tf.train.Example`; None: labelled if it has a class.

    Raises ValueError for a feature that is missing or damaged; the JPEG is not looked at.
    """
    try:
        features = Example.FromString(payload).features.feature
    except DecodeError:
        raise ValueError(f"not a tf.train.Example ({len(payload)} bytes)") from None
    labelled = "class" in features if labelled is None else labelled
    wanted, values = list(_FEATURES) if labelled else ["image", "id"], {}
    if missing := [name for name in wanted if name not in features]:
        found = join_some(sorted(features), 8) or "none"
        raise ValueError(
            f"missing feature {' and '.join(map(repr, missing))} (found: {found}; "
            f"wanted: {', '.join(wanted)})"
        )
    for name in wanted:
        held = getattr(features[name], _FEATURES[name]).value
        if len(held) != 1:
            kind = _FEATURES[name].removesuffix("_list")
            raise ValueError(f"feature '{name}' holds {len(held)} {kind} values, not 1")
        values[name] = held[0]
    try:
        return Record(values["image"], values["id"].decode(), values.get("class"))
    except UnicodeDecodeError:
        raise ValueError(f"the id {values['id']!r} is not UTF-8") from None


def read_records(path: str | os.PathLike) -> Iterator[tuple[int, Record]]:
    """A shard's records, each with its number in the file, counted from 0.

    Raises ValueError for the first bad record.
    """
    for number, record in _parse_all(Path(path)):
        if isinstance(record, CorruptRecord):
            raise ValueError(record.explain())
        yield number, record


def find_ids(path: Path) -> list[str]:
    """The id of every record of a shard; of one that cannot be read, its file, number and fault."""
    records = (record for _, record in _parse_all(path))
    return [each.id if isinstance(each, Record) else str(each) for each in records]


def _parse_all(path: Path) -> Iterator[tuple[int, Record | CorruptRecord]]:
    for number, payload, reason in read_frames(path):
        try:
            record = CorruptRecord(path, number, reason) if reason else parse_example(payload)
        except ValueError as error:
            record = CorruptRecord(path, number, str(error))
        yield number, record


def read_record(path: Path, number: int) -> Record:
    """A single record of a shard, by its number from 0; its checksum is not computed."""
    offset, length = find_frames(path)[0][number]
    with path.open("rb") as file:
        file.seek(offset)
        return parse_example(file.read(length))


# Writing ------------------------------------------------------------------------------------------


def serialize(record: Record) -> bytes:
    """The record as the competition's shards hold it, without framing. Same record, same bytes."""
    example = Example()
    features = example.features.feature
    features["image"].bytes_list.value.append(record.image)
    features["id"].bytes_list.value.append(record.id.encode())
    if record.label is not None:
        features["class"].int64_list.value.append(record.label)
    # A protobuf map has no order of its own; without this the same record may give other bytes.
    return example.SerializeToString(deterministic=True)


def write_shards(
    folder: str | os.PathLike,
    split: str,
    records: Iterable[Record],
    *,
    image_size: int,
    shard_size: int,
) -> tuple[Path, ...]:
    """Write a split as shards of `shard_size` records, a record in memory at a time.

    The split appears whole or not at all: it grows in a hidden folder that takes its place at the
    end. Same records, same bytes. No records give no files, (). The images are written as they are.
    Raises ValueError for an unknown split, FileExistsError if the split is there.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}. Pass one of {', '.join(SPLITS)}.")
    split_folder = Path(folder) / _folder_name(image_size) / split
    if split_folder.exists() and any(split_folder.iterdir()):
        raise FileExistsError(f"{split_folder} is not empty. Remove it, or write elsewhere.")
    make_folder(split_folder.parent)
    with (
        writing_to(split_folder.parent),
        tempfile.TemporaryDirectory(dir=split_folder.parent, prefix=f".{split}-") as hidden,
    ):
        growing = Path(hidden) / split
        growing.mkdir()
        names = [shard.name for shard in _write_all(growing, records, image_size, shard_size)]
        if names:
            growing.replace(split_folder)
    return tuple(split_folder / name for name in names)


def choose_shard_size(num_records: int) -> int:
    """Records a shard: about 16 shards a split, as the competition; none tiny, none slow to copy.

    >>> [choose_shard_size(num) for num in (0, 100, 12_753, 1_000_000)]
    [64, 64, 798, 4096]
    """
    return min(max(-(-num_records // 16), 64), 4096)


def _write_all(
    folder: Path, records: Iterable[Record], image_size: int, shard_size: int
) -> Iterator[Path]:
    remaining = iter(records)
    for number in itertools.count():
        first = next(remaining, None)
        if first is None:
            return
        unfinished, count = folder / "unfinished", 0
        with unfinished.open("wb") as file:
            for record in itertools.chain([first], itertools.islice(remaining, shard_size - 1)):
                file.write(frame(serialize(record)))
                count += 1
        # The count is part of the name and known only now.
        yield unfinished.rename(folder / f"{number:02d}-{image_size}x{image_size}-{count}.tfrec")


# Finding ------------------------------------------------------------------------------------------


def find_shards(
    folder: str | os.PathLike,
    *,
    image_size: int | None = None,
    class_names: Iterable[str],
    origin: str,
) -> FlowerData:
    """The shards of an image size under `folder`, by their names alone.

    Without `image_size` it is 224 if that is there, else the only size there is. Raises
    FileNotFoundError if there are no shards, or none of that size; ValueError if the size must be
    chosen, if a file is not named NN-SxS-COUNT.tfrec, or if a split seems to have another name.
    """
    folder = Path(folder)
    size = _choose_size(folder, image_size)
    files = {split: _list_shards(folder / _folder_name(size) / split, size) for split in SPLITS}
    _check_folders(folder / _folder_name(size), [split for split in SPLITS if not files[split]])
    counts = {split: sum(map(count_in_name, files[split])) for split in SPLITS}
    return FlowerData(folder, files, counts, tuple(class_names), size, origin)


def find_sizes(folder: str | os.PathLike) -> list[int]:
    """The image sizes, in px and ascending, that `folder` holds as tfrecords-jpeg-SxS/; or []."""
    # `glob` finds nothing in a folder that may not be read, where `iterdir` fails.
    names = [entry.name for entry in Path(folder).glob("tfrecords-jpeg-*x*") if entry.is_dir()]
    return sorted(int(match[1]) for match in map(_FOLDER_NAME.fullmatch, names) if match)


def _choose_size(folder: Path, image_size: int | None) -> int:
    sizes = find_sizes(folder)
    if not sizes:
        raise FileNotFoundError(_describe_absence(folder))
    found = ", ".join(map(str, sizes))
    if image_size is None:
        if _USUAL_SIZE_PX not in sizes and len(sizes) > 1:
            raise ValueError(f"{folder} holds several image sizes ({found}). Pass image_size=.")
        return _USUAL_SIZE_PX if _USUAL_SIZE_PX in sizes else sizes[0]
    if image_size not in sizes:
        nearest = min(sizes, key=lambda size: abs(size - image_size))
        raise FileNotFoundError(
            f"no {_folder_name(image_size)}/ under {folder} (found: {found}). "
            f"Pass image_size={nearest} (--image-size {nearest}), or attach the data."
        )
    return image_size


def _describe_absence(folder: Path) -> str:
    held = sorted(folder.iterdir()) if folder.is_dir() else []
    shown = join_some([path.name for path in held]) or "nothing"
    found = f"no tfrecords-jpeg-SxS/ under {folder} (it holds {shown})"
    if not folder.is_dir():
        found = f"{folder} is a file" if folder.exists() else f"no folder {folder}"
        if remedy := explain_unpacking(folder):
            return f"{found}. {remedy}"
    if near := near_path(folder):
        return f"{found}.{near}"
    if near := next(filter(find_sizes, (*folder.parents, *held)), None):
        return f"{found}. Did you mean {near}?"
    return (
        f"{found}. Pass the folder that holds tfrecords-jpeg-SxS/, or a folder of photos with a sub "
        f"folder for each class. `flowerkit draw FOLDER` draws flowers, `kaggle competitions download "
        f"tpu-getting-started` fetches the competition's."
    )


def _list_shards(split_folder: Path, image_size: int) -> tuple[Path, ...]:
    if not split_folder.is_dir():
        return ()
    # Hidden files are what a copy from a Mac or an unfinished write leaves behind.
    names = {path.name for path in split_folder.iterdir() if not path.name.startswith(".")}
    shards = {}
    for name in names:
        path = split_folder / name
        if path.suffix.lower().startswith(".tfrec"):
            match = _match_name(path)
            if int(match["size"]) != image_size:
                raise ValueError(
                    f"{path} says {match['size']} px in the folder of {image_size} px. Move it."
                )
            shards[path] = int(match["number"]), name
        elif (found := _UNFINISHED.match(name)) and found[1] not in names:
            # In its place: without it the split would be smaller, and nothing would say so.
            remedy = "Finish the download, or rename or remove the file."
            if command := _UNPACK.get(path.suffix.lower()):
                remedy = f"Unpack it: {command} {shlex.quote(str(path))}"
            raise ValueError(f"{path} stands where {found[1]} should be. {remedy}")
    return tuple(sorted(shards, key=shards.__getitem__))


def _check_folders(size_folder: Path, missing: list[str]) -> None:
    """Refuse valid/ or Train/ beside splits that are not there: they would be empty, silently."""
    for entry in sorted(size_folder.iterdir()) if missing else ():
        if entry.name[0] == "." or entry.name in SPLITS or not entry.is_dir():
            continue
        if any(path.suffix.lower().startswith(".tfrec") for path in entry.iterdir()):
            raise ValueError(
                f"{entry} holds shards, but is none of {', '.join(SPLITS)}, of which there is "
                f"no {' and no '.join(missing)}. Rename it, or move it away."
            )


def find_gaps(files: Sequence[Path]) -> list[str]:
    """What the numbers of a folder's shards leave out or have twice, a sentence a folder.

    >>> find_gaps([Path(f"val/{name}-8x8-5.tfrec") for name in ("00", "03", "03", "04")])
    ['val: no shard has the number 01, 02; two have 03. Download the shards again.']
    """
    gaps = []
    for folder, paths in itertools.groupby(files, lambda path: path.parent):
        numbers = Counter(int(_match_name(path)["number"]) for path in paths)
        first = 1 if min(numbers) == 1 else 0
        missing = [n for n in range(first, max(numbers)) if n not in numbers]
        twice = [n for n, count in sorted(numbers.items()) if count > 1]
        facts = ("no shard has the number", missing), ("two have", twice)
        texts = [f"{text} {join_some([f'{n:02d}' for n in each])}" for text, each in facts if each]
        if texts:
            gaps.append(f"{folder.name}: {'; '.join(texts)}. Download the shards again.")
    return gaps


def _folder_name(image_size: int) -> str:
    return f"tfrecords-jpeg-{image_size}x{image_size}"


def _match_name(path: Path) -> re.Match[str]:
    match = _SHARD_NAME.fullmatch(path.name)
    if not match:
        raise ValueError(
            f"{path} is not named NN-SxS-COUNT.tfrec, as 03-224x224-462.tfrec is. "
            "Rename it, or move it out of the folder."
        )
    return match


def count_in_name(path: str | os.PathLike) -> int:
    """The number of records by the name of a shard.

    >>> count_in_name("train/03-224x224-462.tfrec")
    462
    """
    return int(_match_name(Path(path))["count"])


# Checking -----------------------------------------------------------------------------------------


def check_counts(files: Iterable[Path]) -> list[CorruptRecord]:
    """Which shards are cut off or hold another number of records than their names say; instant."""
    faults = []
    for path in files:
        frames, fault = find_frames(path)
        faults += [fault] if fault else []
        faults += _compare_counts(path, len(frames))
    return faults


class FoundRecord(NamedTuple):
    """A valid record of a shard, its number from 0 and where its payload is, in bytes.

    `digest` is a fingerprint of the JPEG's bytes, an int64.
    """

    number: int
    offset: int
    length: int
    id: str
    label: int | None
    digest: int


def scan_shard(
    path: Path, image_size: int, num_classes: int, labelled: bool, *, decode: bool
) -> tuple[list[FoundRecord], list[CorruptRecord]]:
    """The valid records of a shard, and everything wrong with the others and with their number.

    All checksums are computed; without `decode` damage inside a JPEG is not found, see `check_jpeg`.
    """
    found, faults, num_whole, offset = [], [], 0, 12
    for number, payload, fault in read_frames(path):
        num_whole += payload is not None
        record, reasons = None, [fault]
        if fault is None:
            record, reasons = check_example(
                payload, image_size, num_classes, labelled, decode=decode
            )
        faults += [CorruptRecord(path, number, reason) for reason in reasons]
        if record:
            digest = blake2b(record.image, digest_size=8).digest()
            digest = int.from_bytes(digest, "little", signed=True)
            found.append(FoundRecord(number, offset, len(payload), record.id, record.label, digest))
        offset += len(payload or b"") + 16
    return found, faults + _compare_counts(path, num_whole)


def check_example(
    payload: bytes, image_size: int, num_classes: int, labelled: bool, *, decode: bool
) -> tuple[Record | None, list[str]]:
    """The record in a serialized Example, if it is valid, and everything wrong with it."""
    from flowerkit.data.jpeg import check_jpeg  # which loads NumPy

    try:
        record = parse_example(payload, labelled=labelled)
    except ValueError as error:
        return None, [str(error)]
    reasons = []
    try:
        check_jpeg(record.image, image_size, decode=decode)
    except ValueError as error:
        reasons.append(str(error))
    if labelled and not 0 <= record.label < num_classes:
        reasons.append(f"label {record.label} is outside 0..{num_classes - 1}")
    if not labelled and (fault := find_id_fault(record.id)):
        reasons.append(fault)
    return None if reasons else record, reasons


def _compare_counts(path: Path, num_found: int) -> list[CorruptRecord]:
    num_named = count_in_name(path)
    reason = f"{pluralize(num_named, 'record')} by its name, {num_found} in the file"
    return [] if num_named == num_found else [CorruptRecord(path, None, reason)]
