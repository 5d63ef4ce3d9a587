"""Which photo goes to which split: stratified by class, by a seed, copies on one side. Pure.

A photo's place depends on the seed and its id alone as long as the counts of its class stay, so a
photo that is added moves few others.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from hashlib import sha256

# A copy in two given splits stays in the later one: what is measured on must be seen by no training.
_ORDER = ("train", "val", "test")


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Refuse fractions that leave nothing to train on, with ValueError."""
    for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} must be from 0 to below 1, such as 0.2.")
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction={val_fraction} and test_fraction={test_fraction} leave nothing to train "
            "on. Their sum must be below 1."
        )


def shuffle_key(seed: int, id: str) -> bytes:
    """What to sort by for an order that looks random and is the same everywhere.

    >>> sorted(["a", "b", "c", "d"], key=lambda id: shuffle_key(0, id))
    ['d', 'a', 'c', 'b']
    """
    return sha256(f"{seed}:{id}".encode()).digest()


def resolve_duplicates(
    digests: Sequence[Hashable], labels: Sequence[Hashable | None], splits: Sequence[str | None]
) -> tuple[list[list[int]], dict[int, str]]:
    """Groups of rows that are the same picture, and the rows to leave out with the reason.

    Of a picture in two classes nobody can know which is right, and any choice would teach or measure
    a wrong answer: all its copies are left out. Of one that somebody gave to a split, only the copies
    there stay (of two splits, those in the later one). A label None agrees with all.

    >>> resolve_duplicates("aab", ["daisy", "rose", "rose"], [None] * 3)
    ([[0, 1]], {0: "the same picture stands in 'daisy' and 'rose'; keep it in one",
                1: "the same picture stands in 'daisy' and 'rose'; keep it in one"})
    """
    rows_of = defaultdict(list)
    for row, digest in enumerate(digests):
        rows_of[digest].append(row)
    groups = [rows for rows in rows_of.values() if len(rows) > 1]
    left_out = {}
    for rows in groups:
        classes = sorted({str(labels[row]) for row in rows if labels[row] is not None})
        last = max((splits[row] for row in rows if splits[row]), key=_ORDER.index, default=None)
        for row in rows:
            if len(classes) > 1:
                names = " and ".join(map(repr, classes))
                left_out[row] = f"the same picture stands in {names}; keep it in one"
            elif last and splits[row] != last:
                left_out[row] = f"the same picture is given to {last}"
    return groups, left_out


def assign_splits(
    ids: Sequence[str],
    labels: Sequence[Hashable | None],
    given: Sequence[str | None],
    groups: Sequence[Sequence[int]],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> list[str]:
    """The split of each row: "train", "val" or "test".

    `given` is the split that somebody chose, and stays; where val is given none is drawn, and where
    any is given no test is. The rows of a group (copies) go to one split, that of a given one among
    them; a group too large for what val or test still lack goes to train. Of each class val and test
    get their rounded share, at least one photo of two (val) or three (test); train keeps one.
    """
    wanted = {"val": val_fraction, "test": test_fraction}
    for split in set(filter(None, given)):
        wanted[split] = 0
        wanted["test"] = 0  # who divided a set has said what the test is, or that there is none
    units = _build_units(len(ids), groups, given)
    splits = list(given)
    for rows in units:
        if chosen := next((given[row] for row in rows if given[row]), None):
            for row in rows:
                splits[row] = splits[row] or chosen
    free = [rows for rows in units if any(splits[row] is None for row in rows)]
    counts = Counter(labels[row] for rows in free for row in rows)
    rooms = _count_rooms(counts, wanted)
    free.sort(key=lambda rows: shuffle_key(seed, min(ids[row] for row in rows)))
    for rows in free:
        split = _choose(Counter(labels[row] for row in rows), rooms)
        for row in rows:
            splits[row] = split
    return splits


def _build_units(num_rows: int, groups, given) -> list[list[int]]:
    grouped = {row for rows in groups for row in rows}
    units = [list(rows) for rows in groups]
    return units + [[row] for row in range(num_rows) if row not in grouped]


def _count_rooms(counts: Mapping, wanted: Mapping[str, float]) -> dict[str, dict]:
    """How many photos of each class val and test still take."""
    rooms = {"test": {}, "val": {}}
    for label, count in counts.items():
        least = {"val": count >= 2, "test": count >= (3 if wanted["val"] else 2)}
        for split, fraction in wanted.items():
            room = max(round(count * fraction), int(least[split])) if fraction else 0
            rooms[split][label] = min(room, count - 1)
        over = rooms["val"][label] + rooms["test"][label] - (count - 1)
        rooms["test"][label] -= max(0, over)
    return rooms


def _choose(needed: Counter, rooms: dict[str, dict]) -> str:
    for split, room in rooms.items():
        if all(room[label] >= count for label, count in needed.items()):
            for label, count in needed.items():
                room[label] -= count
            return split
    return "train"
