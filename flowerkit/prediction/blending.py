"""Blends: the weighted mean of several models' predictions, and weights found on half of val."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flowerkit.metrics import log_loss, macro_f1, predicted_labels
from flowerkit.prediction.predictions import Predictions
from flowerkit.text import pluralize

_NUM_CHOICES = 30
_SHOWN_IDS = 3
_FEW = 200  # an accuracy of 0.9 on so many has a standard error of 0.02


@dataclass(frozen=True)
class BlendWeights:
    """The weights of a blend, and macro F1 on images that they were not found on.

    `weights`: `found` if they score better than equal ones, else equal; one for each member, from 0,
    sum 1. `found` comes from `num_searched` images; the scores from the other `num_scored`.
    """

    weights: tuple[float, ...]
    found: tuple[float, ...]
    member_f1: tuple[float, ...]
    equal_f1: float
    found_f1: float
    num_searched: int
    num_scored: int

    @property
    def uses_found(self) -> bool:
        """Whether the found weights are used."""
        return self.found_f1 > self.equal_f1

    def describe(self, names: Sequence[str]) -> list[str]:
        """Lines for a person: the images used, each member's score and weight, both blends' scores.

        The last says where a member alone scores as well.
        """
        width = max(map(len, [*names, "equal weights"]))
        members = zip(names, self.member_f1, self.found, strict=True)
        few = " (so few that chance decides much)" if self.num_scored < _FEW else ""
        verdict = "used" if self.uses_found else "no better, so equal weights are used"
        best, name = max(zip(self.member_f1, names, strict=True), key=lambda pair: pair[0])
        is_enough = best >= max(self.equal_f1, self.found_f1)
        return [
            f"weights found on {self.num_searched:,} val images; macro F1 on the other "
            f"{self.num_scored:,}{few}:",
            *(f"  {name:{width}}  {f1:.4f}  weight {found:.3f}" for name, f1, found in members),
            f"  {'equal weights':{width}}  {self.equal_f1:.4f}",
            f"  {'found weights':{width}}  {self.found_f1:.4f}  ({verdict})",
            *[f"on these images {name} alone is as good as the blend"] * is_enough,
        ]


def blend(
    predictions: Sequence[Predictions],
    weights: Sequence[float] | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Predictions:
    """The weighted mean of the members' probabilities, (n, num_classes) float32, rows sum to 1.

    Members may hold the images in any order; the blend has the first member's. `weights`: numbers
    from 0, scaled to sum to 1; None: equal. Labels come from the members that have them. `names`
    stand for the members in errors.

    Raises ValueError, with the difference, for members that differ in ids, number of classes or
    labels, for probabilities that are not finite, and for weights that do not fit.

    >>> first = Predictions(np.array(["a"]), np.array([[0.75, 0.25]], "float32"), None)
    >>> second = Predictions(np.array(["a"]), np.array([[0.25, 0.75]], "float32"), None)
    >>> blend([first, second], [3, 1]).probabilities
    array([[0.625, 0.375]], dtype=float32)
    """
    members = align(predictions, names=names)
    weights = _scale(weights, len(members))
    return replace(members[0], probabilities=_mean(members, weights))


def find_weights(
    predictions: Sequence[Predictions], *, seed: int = 0, names: Sequence[str] | None = None
) -> BlendWeights:
    """Weights found on one half of labelled predictions, and scored on the other.

    The halves are stratified by class and drawn by (seed, id). 30 times the member is chosen, with
    replacement, that gives the blend the best macro F1 (of equals the least log loss): Caruana et al.
    2004, "Ensemble selection from libraries of models", ICML. A weight is the fraction of choices.
    Weights of the least log loss would leave all to the best member where the others are overconfident.

    Raises ValueError for fewer than 2 members or images, no labels, and whatever `blend` refuses.
    """
    if len(predictions) < 2:
        raise ValueError(f"weights need 2 or more members. Received: {len(predictions)}")
    members = align(predictions, names=names)
    first = members[0]
    if first.labels is None:
        raise ValueError("weights need labelled predictions, such as those of val.")
    if len(first) < 2:
        raise ValueError("weights need 2 or more images: half to find them, half to score them.")
    searched, scored = _halve(first.ids, first.labels, seed)
    found = _select([_rows(member, searched) for member in members])
    members, labels = [_rows(member, scored) for member in members], first.labels[scored]
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
        num_scored=len(scored),
    )


def align(
    predictions: Sequence[Predictions], *, names: Sequence[str] | None = None
) -> list[Predictions]:
    """The members with their rows in the first one's order, and the labels that any of them has.

    Raises ValueError for members that do not fit one another, see `blend`.
    """
    if not predictions:
        raise ValueError("nothing to blend. Pass the predictions of one or more models.")
    names = names or [f"member {number}" for number in range(1, len(predictions) + 1)]
    first, aligned = predictions[0], []
    for member, name in zip(predictions, names, strict=True):
        _check_finite(member, name)
        _check_same(member, first, f"{name} and {names[0]}")
        by_id = np.argsort(member.ids)
        aligned.append(_rows(member, by_id[np.searchsorted(member.ids, first.ids, sorter=by_id)]))
    labels = _join_labels(aligned, names)
    return [replace(member, labels=labels) for member in aligned]


def _check_finite(member: Predictions, name: str) -> None:
    broken = ~np.isfinite(member.probabilities).all(axis=1)
    if broken.any():
        raise ValueError(
            f"{name} holds probabilities that are not finite for {broken.sum():,} of "
            f"{len(member):,} images (the first is {str(member.ids[broken.argmax()])!r}). Did its "
            f"training diverge? Leave it out."
        )


def _check_same(member: Predictions, first: Predictions, both: str) -> None:
    widths = member.probabilities.shape[1], first.probabilities.shape[1]
    if widths[0] != widths[1]:
        raise ValueError(
            f"{both} have {widths[0]:,} and {widths[1]:,} classes. Blend models of the same classes."
        )
    only = [np.setdiff1d(member.ids, first.ids), np.setdiff1d(first.ids, member.ids)]
    if any(map(len, only)):
        raise ValueError(
            f"{both} hold different images: only the first has {_format_ids(only[0])}, only the "
            f"second {_format_ids(only[1])}. Blend predictions of the same split."
        )


def _format_ids(ids: np.ndarray) -> str:
    shown = ", ".join(repr(str(image_id)) for image_id in ids[:_SHOWN_IDS])
    more = ", ..." if len(ids) > _SHOWN_IDS else ""
    return f"{len(ids):,} ({shown}{more})" if len(ids) else "none"


def _join_labels(aligned: list[Predictions], names: Sequence[str]) -> np.ndarray | None:
    pairs = zip(aligned, names, strict=True)
    labelled = [(member, name) for member, name in pairs if member.labels is not None]
    if not labelled:
        return None
    first, first_name = labelled[0]
    for member, name in labelled[1:]:
        differ = member.labels != first.labels
        if differ.any():
            row = differ.argmax()
            raise ValueError(
                f"{name} and {first_name} disagree on the labels of "
                f"{pluralize(int(differ.sum()), 'image')}: {str(first.ids[row])!r} is of class "
                f"{member.labels[row]} and {first.labels[row]}. Blend predictions of the same data."
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
        raise ValueError(f"{num_members} members need {num_members} weights. Received: {weights}")
    if not (np.isfinite(scaled).all() and (scaled >= 0).all() and scaled.sum() > 0):
        raise ValueError(f"weights must be from 0 and not all 0. Received: {weights}")
    return scaled / scaled.sum()


def _mean(members: Sequence[Predictions], weights: np.ndarray) -> np.ndarray:
    pairs = zip(members, weights, strict=True)
    total = sum(weight * member.probabilities.astype("float64") for member, weight in pairs)
    return total.astype("float32")


def _halve(ids: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both halves: every second image of the classes in random order, so both are equal."""
    by_id = np.argsort(ids)  # the same halves for any order of the images
    shuffle = np.random.default_rng(seed).random(len(ids))
    order = by_id[np.lexsort((shuffle, labels[by_id]))]
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
