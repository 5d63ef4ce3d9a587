"""What a person decided on labels that looked wrong: the csv that `flowerkit clean` writes.

A row is a photo: its id, its file under the folder of photos (empty where the data are shards), the
label that it was given, the new one, and when that was decided. The new label is a class, the given one
for a photo that keeps it, or "leave out". Labels are changed where they are read: no photo and no shard
is moved, written or deleted.
"""

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from flowerkit.data import FlowerData, read_records
from flowerkit.files import write_text
from flowerkit.photos.conversion_file import load_conversion
from flowerkit.photos.labels import read_table
from flowerkit.text import did_you_mean, format_csv, from_cell, join_some, pluralize

COLUMNS = ("id", "file", "given", "new", "decided")
LEAVE_OUT = "leave out"
LABELLED = ("train", "val")

_log = logging.getLogger("flowerkit")


@dataclass(frozen=True)
class Decision:
    """A row of the csv; `file` is "" for an image of shards, `decided` a date and time in UTC."""

    id: str
    file: str
    given: str
    new: str
    decided: str


def is_decisions(file: str | os.PathLike) -> bool:
    """Whether a csv has the columns of decisions; what is no csv has not.

    Raises FileNotFoundError.
    """
    try:
        columns = read_table(Path(file).expanduser(), []).columns
    except (PermissionError, ValueError):
        return False
    return {"id", "given", "new"} <= {column.casefold() for column in columns}


def read_decisions(file: str | os.PathLike) -> dict[str, Decision]:
    """The decisions in a csv, by id; a row without a new label is none.

    Raises FileNotFoundError without the file; ValueError for text of an unknown encoding, for columns or
    values that are missing, and for two different decisions on an id.
    """
    file = Path(file).expanduser()
    table = read_table(file, [])
    names = [column.casefold() for column in table.columns]
    if missing := [name for name in COLUMNS[:4] if name not in names]:
        raise ValueError(
            f"{file} has no column {' and '.join(map(repr, missing))}. The decisions that `flowerkit "
            f"clean` writes have {', '.join(COLUMNS)}. Pass such a csv."
        )
    decisions, lines = {}, {}
    for line, values in table.rows:
        cells = {name: from_cell(value) for name, value in zip(names, values, strict=True)}
        if not cells["new"]:
            continue  # not decided
        if cells["new"].casefold() == LEAVE_OUT:  # a spreadsheet writes the first letter large
            cells["new"] = LEAVE_OUT
        decision = Decision(*(cells.get(name, "") for name in COLUMNS))
        if empty := [name for name in ("id", "given") if not cells[name]]:
            raise ValueError(f"{file}, line {line}: no {empty[0]}. Fill it in, or remove the row.")
        before = decisions.setdefault(decision.id, decision)
        if before.new != decision.new:
            raise ValueError(
                f"{file}: two decisions for the id {decision.id!r}, {before.new!r} (line "
                f"{lines[decision.id]}) and {decision.new!r} (line {line}). Keep one."
            )
        lines.setdefault(decision.id, line)
    return decisions


def write_decisions(file: str | os.PathLike, decisions: Iterable[Decision]) -> None:
    """Write the csv in one piece."""
    write_text(file, format_csv([COLUMNS, *map(astuple, decisions)]))


# Applying them ------------------------------------------------------------------------------------


def decide(
    file: str | os.PathLike,
    labels: Mapping[str, str],
    class_names: Iterable[str],
    *,
    where: str,
    by_file: bool = False,
    left_out: Collection[str] = (),
) -> dict[str, str | None]:
    """The labels that the decisions in `file` change, None for those left out.

    `labels` are those of the data before, by id, or with `by_file` by the photo's path; `where` names
    the data, `left_out` the files that were left out of them. Raises what `read_decisions` raises;
    ValueError for decisions on other data (an id or file that is not there, or has a third label), and
    for a class that is not there. An id that is not there is no fault where it is to be left out, unless
    all are and none was.
    """
    decisions = list(read_decisions(file).values())
    if by_file and (without := [each.id for each in decisions if not each.file]):
        raise ValueError(
            f"{file} has no file for the id {join_some(without, 3)}: its decisions are on shards. Pass "
            "them with those shards (--data SHARDS --labels CSV)."
        )
    keyed = {}
    for each in decisions:
        key = each.file if by_file else each.id
        if keyed.setdefault(key, each).new != each.new:
            raise ValueError(
                f"{file}: two decisions for {key}, {keyed[key].new!r} (id {keyed[key].id}) and "
                f"{each.new!r} (id {each.id}). Keep one."
            )
    names = {name.strip(): name for name in class_names}
    unknown = [key for key in keyed if key not in labels]
    is_needed = any(keyed[key].new != LEAVE_OUT for key in unknown)
    is_known = len(unknown) < len(keyed) or any(keyed[key].file in left_out for key in unknown)
    if unknown and (is_needed or not is_known):
        noun = "file" if by_file else "id"
        raise ValueError(
            f"{file} is of other data: {pluralize(len(unknown), noun)} of its {len(keyed):,} "
            f"{'are' if len(unknown) > 1 else 'is'} not in {where}, such as {unknown[0]!r}. Pass the "
            "data that the decisions were made on, or remove these rows."
        )
    changes = {}
    for key, decision in keyed.items():
        if key not in labels:
            continue
        if decision.new != LEAVE_OUT and decision.new not in names:
            raise ValueError(
                f"{file}: {key!r} is to be {decision.new!r}, which is no class of {where}."
                f"{did_you_mean(decision.new, [*names, LEAVE_OUT])} Write a class, or {LEAVE_OUT!r}."
            )
        if labels[key].strip() not in (decision.given, decision.new):
            raise ValueError(
                f"{file} is of other data: {key!r} was {decision.given!r} when it was decided, and is "
                f"{labels[key]!r} in {where}. Pass the data that the decisions were made on."
            )
        new = names.get(decision.new)
        if new != labels[key]:
            changes[key] = new
    num_out = sum(new is None for new in changes.values())
    _log.info(
        f"{Path(file).name}: {pluralize(len(changes) - num_out, 'label')} changed, "
        f"{pluralize(num_out, 'photo')} left out"
    )
    return changes


def apply_decisions(data: FlowerData, file: str | os.PathLike) -> FlowerData:
    """`data` with the labels that the decisions in `file` give, see `decide`.

    The ids are looked up in the train and val shards, all of which are read.
    """
    labels, names = _read_labels(data), data.class_names
    found = {id: names[label] for split in labels.values() for id, label in split.items()}
    left_out = find_left_out(data.folder)
    changes = decide(file, found, names, where=str(data.folder), left_out=left_out)
    number = {name: label for label, name in enumerate(names)} | {None: None}
    return _relabel(data, {id: number[new] for id, new in changes.items()}, labels)


def find_left_out(folder: Path) -> dict[str, str]:
    """The files that the conversion into `folder` left out, and why; {} where the data are no photos."""
    conversion = load_conversion(folder)
    return conversion.left_out if conversion else {}


def relabel(data: FlowerData, changes: Mapping[str, int | None]) -> FlowerData:
    """`data` with other class ids for some image ids; None leaves the image out.

    Raises ValueError for image ids that are not in train or val.
    """
    return _relabel(data, changes, _read_labels(data)) if changes else data


def _relabel(data: FlowerData, changes: Mapping[str, int | None], labels: Mapping) -> FlowerData:
    if unknown := [id for id in changes if not any(id in of_split for of_split in labels.values())]:
        raise ValueError(
            f"the ids of changed labels are not in {data.folder}: {join_some(unknown, 3)}. Pass the "
            "data that they are of (--data)."
        )
    counts = dict(data.counts)
    for split, of_split in labels.items():
        counts[split] += sum(id in of_split for id, new in data.relabelled.items() if new is None)
        counts[split] -= sum(id in of_split for id, new in changes.items() if new is None)
    return replace(data, relabelled=dict(changes), counts=counts)


def _read_labels(data: FlowerData) -> dict[str, dict[str, int]]:
    """The class id of each image id, by split. Raises ValueError for a bad record."""
    labels = {split: {} for split in LABELLED}
    for split in LABELLED:
        for file in data.files[split]:
            labels[split].update((record.id, record.label) for _, record in read_records(file))
    return labels
