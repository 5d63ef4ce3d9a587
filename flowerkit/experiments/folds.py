"""k folds of train and val together: alike in classes, pictures that look the same in one of them."""

import json
import warnings
from dataclasses import dataclass
from hashlib import sha256
from numbers import Integral

import numpy as np

from flowerkit.console import Progress
from flowerkit.data import (
    FlowerData,
    find_near_pairs,
    group_rows,
    load_split,
    picture_hash,
    thumbnail,
)
from flowerkit.text import join_some

_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Folds:
    """The fold of each labelled image of `data`; row i of every array is the same image.

    `ids` (n,) str; `labels` (n,) int32; `fold_of` (n,) int64, from 0. `key` is the same for the same
    images, labels and folds, and no others.
    """

    data: FlowerData
    ids: np.ndarray
    labels: np.ndarray
    fold_of: np.ndarray
    key: str

    @property
    def count(self) -> int:
        """How many folds there are."""
        return int(self.fold_of.max()) + 1

    def without(self, fold: int) -> FlowerData:
        """The data with `fold` as val and all others as train."""
        return self._divide(self.fold_of == fold)

    def together(self) -> FlowerData:
        """The data with all labelled images in train and none in val."""
        return self._divide(np.zeros(len(self.ids), bool))

    def _divide(self, is_val: np.ndarray) -> FlowerData:
        rows = {"train": ~is_val, "val": is_val}
        return self.data.divided(
            {name: self.ids[of].tolist() for name, of in rows.items()},
            {name: int(of.sum()) for name, of in rows.items()},
        )


def make_folds(
    data: FlowerData,
    count: int,
    *,
    seed: int = 0,
    on_corrupt: str = "raise",
    rare: bool = False,
    progress: Progress | None = None,
) -> Folds:
    """Divide the images of train and val into `count` folds, of each class as equally as can be.

    Images with the same id or bytes, and near duplicates (`data.find_near_pairs`), are in one fold, so
    no model is scored on a picture that it has learned. The folds depend on the images, their labels and
    the seed. `progress("pictures", done, total)` is called after each block.

    Raises ValueError for fewer than two folds, for a class with fewer pictures than folds unless it may
    be `rare` (then there are no more folds than the largest class has), and what `load_split` raises.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if not isinstance(count, Integral) or count < 2:
        raise ValueError(
            f"folds are a whole number from 2. Received: folds={count!r} (--folds {count})"
        )
    names = ["train", *["val"] * bool(data.counts["val"])]
    splits = [load_split(data, name, on_corrupt=on_corrupt, cache="none") for name in names]
    ids, labels, digests = (
        np.concatenate([getattr(split, name) for split in splits])
        for name in ("ids", "labels", "digests")
    )
    groups = _group(ids, digests, *_look_at(splits, len(ids), progress))
    nums = {label: len(np.unique(groups[labels == label])) for label in np.unique(labels).tolist()}
    if rare:
        count = min(count, max(nums.values()))
        if count < 2:
            raise ValueError(
                f"no class of {data.folder} has two different pictures. Add some to compare with."
            )
    else:
        _check_classes(nums, count, data.class_names)
    fold_of = np.empty(len(labels), "int64")
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rare classes are known
        for fold, (_, rows) in enumerate(folds.split(labels, labels, groups)):
            fold_of[rows] = fold
    facts = [ids.tolist(), labels.tolist(), digests.tolist(), fold_of.tolist()]
    key = sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return Folds(data, ids, labels, fold_of, key)


def _look_at(splits, total: int, progress) -> tuple[np.ndarray, np.ndarray]:
    """(hash, thumbnail) of every image."""
    hashes, thumbnails = [], []
    for split in splits:
        for start in range(0, len(split), _BLOCK):
            images = split.images[start : start + _BLOCK]
            hashes += map(picture_hash, images)
            thumbnails += map(thumbnail, images)
            if progress:
                progress("pictures", len(hashes), total)
    return np.array(hashes, "uint64"), np.stack(thumbnails)


def _group(ids, digests, hashes, thumbnails) -> np.ndarray:
    """A number for each row, (n,) int64: the first row that shows the same picture."""
    pairs = [find_near_pairs(hashes, thumbnails).rows]
    for values in (ids, digests):
        _, firsts, places = np.unique(values, return_index=True, return_inverse=True)
        pairs.append(np.stack([firsts[places], np.arange(len(values))], axis=1))
    groups = np.arange(len(ids))
    for rows in group_rows(np.concatenate(pairs)):
        groups[rows] = rows[0]
    return groups


def _check_classes(nums: dict[int, int], count: int, class_names) -> None:
    if few := [f"{class_names[label]!r} has {num}" for label, num in nums.items() if num < count]:
        least = min(nums.values())
        fewer = f"Pass folds={least} (--folds {least}), or add" if least > 1 else "Add"
        raise ValueError(
            f"{count} folds need {count} different pictures of each class, and {join_some(few)}. "
            f"{fewer} pictures of the class, or leave it out."
        )
