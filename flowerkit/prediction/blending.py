"""Several models' answers to the same images made one: a weighted mean, its weights found honestly."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flowerkit.metrics import log_loss, macro_f1, predicted_labels
from flowerkit.prediction.predictions import Predictions

_NUM_CHOICES = 30
_SHOWN_IDS = 3
_FEW = 200  # an accuracy of 0.9 on so many has a standard error of 0.02


@dataclass(frozen=True)
class BlendWeights:
    """The weights of a blend and what they are worth on images that they were not found on.

    `weights` are those to use: `found` if they beat equal ones there, else equal. Each has a number
    a member, from 0, and sums to 1. `member_f1`, `equal_f1` and `found_f1` are macro F1 on the
    `num_told` images; `found` comes from the other `num_searched`.
    """

    weights: tuple[float, ...]
    found: tuple[float, ...]
    member_f1: tuple[float, ...]
    equal_f1: float
    found_f1: float
    num_searched: int
    num_told: int

    @property
    def uses_found(self) -> bool:
        """Whether the found weights are used."""
        return self.found_f1 > self.equal_f1

    def describe(self, names: Sequence[str]) -> list[str]:
        """A line on where the figures come from, a line a member, and a line each for both blends."""
        width = max(map(len, [*names, "equal weights"]))
        of_members = zip(names, self.member_f1, self.found, strict=True)
        few = " (so few that chance decides much)" if self.num_told < _FEW else ""
        verdict = "used" if self.uses_found else "no better, so equal weights are used"
        return [
            f"weights found on {self.num_searched:,} val images; macro F1 on the other "
            f"{self.num_told:,}{few}:",
            *(f"  {name:{width}}  {f1:.4f}  weight {found:.3f}" for name, f1, found in of_members),
            f"  {'equal weights':{width}}  {self.equal_f1:.4f}",
            f"  {'found weights':{width}}  {self.found_f1:.4f}  ({verdict})",
        ]


def blend(
    predictions: Sequence[Predictions],
    weights: Sequence[float] | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Predictions:
    """The weighted mean of the members' probabilities, (n, num_classes) float32, rows sum to 1.

    Members may hold the images in any order; the answer has the first one's. `weights` are numbers
    from 0, one a member, scaled to sum to 1; None: equal. Labels come from the members that have
    them. `names` stand for the members in errors.

    Raises ValueError, with the difference, for members of other ids, numbers of classes or labels,
    for ids that repeat, probabilities that are no numbers, and weights that do not fit.

    >>> one = Predictions(np.array(["a"]), np.array([[0.75, 0.25]], "float32"), None)
    >>> other = Predictions(np.array(["a"]), np.array([[0.25, 0.75]], "float32"), None)
    >>> blend([one, other], [3, 1]).probabilities
    array([[0.625, 0.375]], dtype=float32)
    """
    members = align(predictions, names=names)
    weights = _scale(weights, len(members))
    return replace(members[0], probabilities=_mean(members, weights))


def find_weights(
    predictions: Sequence[Predictions], *, seed: int = 0, names: Sequence[str] | None = None
) -> BlendWeights:
    """Weights found on one half of labelled predictions, and scored on the other.

    The halves are stratified by class and drawn by (seed, id); a class of one image is in one of
    them. 30 times the member is chosen, again or for the first time, whose addition gives the blend
    the best macro F1 (of equals the least log loss): "Ensemble selection from libraries of models",
    Caruana et al. 2004, ICML. A weight is how often its member was chosen; of a member given twice,
    the first is. Unlike the weights of the least log loss, these do not mind members that are too
    sure of themselves, and so do not leave all to the best one.

    Raises ValueError for fewer than 2 members or images, no labels, and whatever `blend` refuses.
    """
    if len(predictions) < 2:
        raise ValueError(f"weights need 2 or more members. Received: {len(predictions)}")
    members = align(predictions, names=names)
    first = members[0]
    if first.labels is None:
        raise ValueError("weights are found on labelled predictions, such as those of val.")
    if len(first) < 2:
        raise ValueError("weights need 2 or more images: one to find them on and one to tell.")
    searched, told = _halve(first.ids, first.labels, seed)
    found = _select([_rows(member, searched) for member in members])
    members, labels = [_rows(member, told) for member in members], first.labels[told]
    equal = _scale(None, len(members))

    def score(weights):
        return macro_f1(labels, predicted_labels(_mean(members, weights)))

    equal_f1, found_f1 = score(equal), score(found)
    return BlendWeights(
        weights=tuple((found if found_f1 > equal_f1 else equal).tolist()),
        found=tuple(found.tolist()),
        member_f1=tuple(macro_f1(labels, member.predicted) for member in members),
        equal_f1=equal_f1,
        found_f1=found_f1,
        num_searched=len(searched),
        num_told=len(told),
    )


def align(
    predictions: Sequence[Predictions], *, names: Sequence[str] | None = None
) -> list[Predictions]:
    """The members with their rows in the first one's order, and the labels that any of them has.

    Raises ValueError for members that do not answer the same question, see `blend`.
    """
    if not predictions:
        raise ValueError("there is nothing to blend. Pass the predictions of one or more models.")
    names = names or [f"member {number}" for number in range(1, len(predictions) + 1)]
    for member, name in zip(predictions, names, strict=True):
        _check_member(member, name)
    first = predictions[0]
    aligned = [first]
    for member, name in zip(predictions[1:], names[1:], strict=True):
        _check_same(member, first, f"{name} and {names[0]}")
        by_id = np.argsort(member.ids)
        aligned.append(_rows(member, by_id[np.searchsorted(member.ids, first.ids, sorter=by_id)]))
    labels = _join_labels(aligned, names)
    return [replace(member, labels=labels) for member in aligned]


def _check_member(member: Predictions, name: str) -> None:
    ids, counts = np.unique(member.ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} holds the id {str(ids[counts.argmax()])!r} more than once.")
    broken = ~np.isfinite(member.probabilities).all(axis=1)
    if broken.any():
        raise ValueError(
            f"{name} holds probabilities that are no numbers for {broken.sum():,} of "
            f"{len(member):,} images (the first is {str(member.ids[broken.argmax()])!r}). Did its "
            f"training diverge? Leave it out."
        )


def _check_same(member: Predictions, first: Predictions, both: str) -> None:
    widths = [one.probabilities.shape[1] for one in (member, first)]
    if widths[0] != widths[1]:
        raise ValueError(
            f"{both} know other classes: {widths[0]:,} and {widths[1]:,}. Blend models of the same."
        )
    sides = [np.setdiff1d(member.ids, first.ids), np.setdiff1d(first.ids, member.ids)]
    if any(map(len, sides)):
        raise ValueError(
            f"{both} answer for other images: only the one has {_tell_ids(sides[0])}, only the "
            f"other {_tell_ids(sides[1])}. Blend predictions of the same split."
        )


def _tell_ids(ids: np.ndarray) -> str:
    if not len(ids):
        return "none"
    shown = ", ".join(repr(str(one)) for one in ids[:_SHOWN_IDS])
    return f"{len(ids):,} ({shown}{', ...' if len(ids) > _SHOWN_IDS else ''})"


def _join_labels(aligned: list[Predictions], names: Sequence[str]) -> np.ndarray | None:
    labelled = [pair for pair in zip(aligned, names, strict=True) if pair[0].labels is not None]
    if not labelled:
        return None
    first, first_name = labelled[0]
    for member, name in labelled[1:]:
        differ = member.labels != first.labels
        if differ.any():
            row = differ.argmax()
            raise ValueError(
                f"{name} and {first_name} disagree on the labels of {differ.sum():,} images: "
                f"{str(first.ids[row])!r} is of class {member.labels[row]} and {first.labels[row]}. "
                f"Blend predictions of the same data."
            )
    return first.labels


def _rows(member: Predictions, rows: np.ndarray) -> Predictions:
    labels = None if member.labels is None else member.labels[rows]
    return Predictions(member.ids[rows], member.probabilities[rows], labels)


def _scale(weights: Sequence[float] | None, num_members: int) -> np.ndarray:
    """Weights that sum to 1, (num_members,) float64."""
    if weights is None:
        return np.full(num_members, 1 / num_members)
    scaled = np.asarray(weights, "float64")
    if scaled.shape != (num_members,):
        raise ValueError(f"{num_members} members need as many weights. Received: {weights}")
    if not (np.isfinite(scaled).all() and (scaled >= 0).all() and scaled.sum() > 0):
        raise ValueError(f"weights must be from 0 and not all 0. Received: {weights}")
    return scaled / scaled.sum()


def _mean(members: Sequence[Predictions], weights: np.ndarray) -> np.ndarray:
    pairs = zip(members, weights, strict=True)
    total = sum(weight * member.probabilities.astype("float64") for member, weight in pairs)
    return total.astype("float32")


def _halve(ids: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both halves. By turns within each class and on into the next, so that both are equal."""
    by_id = np.argsort(ids)  # the same halves in whatever order the images come
    draws = np.random.default_rng(seed).random(len(ids))
    order = by_id[np.lexsort((draws, labels[by_id]))]
    return np.sort(order[::2]), np.sort(order[1::2])


def _select(members: Sequence[Predictions]) -> np.ndarray:
    """Weights by greedy selection with replacement, see `find_weights`."""
    labels = members[0].labels
    tables = [member.probabilities.astype("float64") for member in members]
    total, counts = np.zeros_like(tables[0]), np.zeros(len(tables))
    for number in range(1, _NUM_CHOICES + 1):
        scores = []
        for table in tables:
            mean = (total + table) / number
            scores.append((macro_f1(labels, predicted_labels(mean)), -log_loss(labels, mean)))
        chosen = scores.index(max(scores))
        total += tables[chosen]
        counts[chosen] += 1
    return counts / _NUM_CHOICES
