"""Macro F1, confusion, per-class report, calibration and the paired bootstrap, from full predictions.

`labels` and `predicted` are (n,) integer class ids, `probabilities` (n, num_classes) floats whose
rows sum to 1. Everything here raises ValueError for arrays that do not fit each other, are empty,
or hold NaN or ids outside the classes: a score of such arrays would look like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SMALLEST_PROBABILITY = 1e-7  # Keras' epsilon: a certain and wrong prediction loses 16.1, not inf
TEMPERATURES = (0.5, 4.0)  # runs of flowerkit have 0.6 to 0.9; a val that is all right would have 0
NUM_RESAMPLES = 2000
_LEAST = 1e-30
_POWER, _MOST_PROBABLE = 0.5, 30
_BLOCK = 250  # resamples at a time: with 50,000 images their weights take 100 MB


def predicted_labels(probabilities: np.ndarray) -> np.ndarray:
    """The most probable class of each row, (n,) int64; the lower id on a tie.

    >>> predicted_labels(np.array([[0.1, 0.9], [0.8, 0.2]]))
    array([1, 0])
    """
    return _checked_probabilities(probabilities).argmax(axis=1).astype(np.int64)


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """The mean F1 over the classes that occur in `labels`, 0..1.

    The competition's metric, where all 104 occur. A class that is predicted but does not occur adds no
    F1 of its own, as in `f1_score(labels, predicted, labels=np.unique(labels), average="macro")` of
    scikit-learn: a 5-class set scores the same under a head of 5 or of 104.

    >>> round(macro_f1(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 7])), 4)
    0.8333
    """
    labels, predicted = _checked_pair(labels, predicted)
    width = max(labels.max(), predicted.max()) + 1
    right, support, given = (
        np.bincount(ids, minlength=width)
        for ids in (labels[labels == predicted], labels, predicted)
    )
    return float(np.mean(2 * right[support > 0] / (support + given)[support > 0]))


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """The fraction of predictions that are right, 0..1.

    >>> accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0]))
    0.75
    """
    labels, predicted = _checked_pair(labels, predicted)
    return float(np.mean(labels == predicted))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean of -log(probability of the true class), in nats, clipped at 1e-7 as Keras does."""
    true_probabilities = _true_probabilities(labels, probabilities)
    return float(-np.log(np.clip(true_probabilities, SMALLEST_PROBABILITY, 1.0)).mean())


def class_report(
    labels: np.ndarray, predicted: np.ndarray, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each class that occurs in `labels`: name, precision, recall, f1, support.

    In the order of the class ids. The mean of the column `f1` is `macro_f1`; a class that is never
    predicted has precision 0.

    >>> rows = class_report(np.array([0, 1, 1]), np.array([0, 1, 0]), ["rose", "iris", "lotus"])
    >>> [(row["name"], row["precision"], row["recall"], row["support"]) for row in rows]
    [('rose', 0.5, 1.0, 1), ('iris', 1.0, 0.5, 2)]
    """
    counts = confusion_matrix(labels, predicted, len(class_names))
    right, given, support = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    parts = ((right, given), (right, support), (2 * right, given + support))
    scores = [(above / np.maximum(below, 1)).tolist() for above, below in parts]
    rows = zip(class_names, *scores, support.tolist(), strict=True)
    names = ("name", "precision", "recall", "f1", "support")
    return [dict(zip(names, row, strict=True)) for row in rows if row[-1]]


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How often class i (the row) was predicted as class j: (num_classes, num_classes) int64.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
    array([[1, 0],
           [1, 1]])
    """
    labels, predicted = _checked_pair(labels, predicted, num_classes=num_classes)
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def most_confused(
    counts: np.ndarray, class_names: Sequence[str], k: int
) -> list[tuple[str, str, int]]:
    """The k most frequent mistakes as (true name, predicted name, count), most frequent first.

    `counts` comes from `confusion_matrix`. Pairs that never happened are left out, so the list may
    be shorter than k; equal counts come in the order of the class ids.

    >>> most_confused(np.array([[5, 2, 0], [0, 6, 0], [1, 3, 4]]), ["rose", "iris", "lotus"], 2)
    [('lotus', 'iris', 3), ('rose', 'iris', 2)]
    """
    counts, num = np.asarray(counts), len(class_names)
    if counts.shape != (num, num):
        raise ValueError(f"counts have shape {counts.shape} but there are {num} class names.")
    mistakes = np.where(np.eye(num, dtype=bool), 0, counts)
    worst = [divmod(place, num) for place in np.argsort(-mistakes, None, "stable")[:k]]
    return [
        (class_names[i], class_names[j], int(mistakes[i, j])) for i, j in worst if mistakes[i, j]
    ]


def top_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The indices of the images, least probability of the true class first: (n,) int64.

    >>> top_losses(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]))
    array([1, 2, 0])
    """
    return np.argsort(_true_probabilities(labels, probabilities), kind="stable")


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often a model is right, by how sure it is; bin i holds (edges[i], edges[i + 1]].

    `edges` (bins + 1,) float64, 0..1; `counts` (bins,) int64: the images in each bin; `confidence`
    and `accuracy` (bins,) float64: their mean, NaN in an empty bin. `error` is the expected
    calibration error, 0..1: the mean of |accuracy - confidence| over the images' bins.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float

    @property
    def overconfidence(self) -> float:
        """The mean confidence less the accuracy, -1..1; above 0 the model is too sure."""
        gaps = np.nan_to_num(self.confidence - self.accuracy)
        return float(np.average(gaps, weights=self.counts))

    @property
    def tendency(self) -> str:
        """The overconfidence in words, such as "too sure by 0.020"."""
        side = "too sure" if self.overconfidence > 0 else "too modest"
        return f"{side} by {abs(self.overconfidence):.3f}"


def calibration(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> Calibration:
    """Whether predictions with 80 % probability are right in 80 % of cases.

    Bins of equal width over the highest probability, as in Guo et al. 2017, arXiv:1706.04599 (their
    figures use 15). With few images a bin the error is too large by chance: a calibrated model of
    500 images shows about 0.03.

    >>> found = calibration(np.array([0, 0]), np.array([[0.9, 0.1], [0.3, 0.7]]), bins=2)
    >>> found.counts, round(found.error, 3), round(found.overconfidence, 3)
    (array([0, 2]), 0.3, 0.3)
    """
    _true_probabilities(labels, probabilities)  # refuses what does not fit
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = predicted_labels(probabilities) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0: an empty bin
        means = [np.bincount(places, values, bins) / counts for values in (confidence, right)]
    error = np.average(np.nan_to_num(np.abs(means[1] - means[0])), weights=counts)
    return Calibration(np.linspace(0, 1, bins + 1), counts, *means, float(error))


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature in 0.5..4 at which the probabilities have the least log loss.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599). A model that was trained with label
    smoothing is less sure than it is right, and has one below 1.

    >>> labels = np.repeat([0, 1], [9, 1])  # right in 9 of 10 cases, sure of 0.6
    >>> round(fit_temperature(labels, np.tile([0.6, 0.4], (10, 1))), 2)
    0.5
    """
    from scipy.optimize import minimize_scalar

    _true_probabilities(labels, probabilities)  # refuses what does not fit
    found = minimize_scalar(
        lambda log: log_loss(labels, apply_temperature(probabilities, np.exp(log))),
        bounds=np.log(TEMPERATURES),
        method="bounded",
    )
    return float(np.exp(found.x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The softmax of the logits divided by `temperature`: (n, num_classes) float64, rows sum to 1.

    Logits less a number that a row shares are the logarithms of the probabilities.

    >>> apply_temperature(np.array([[0.8, 0.2]]), 0.5).round(3)
    array([[0.941, 0.059]])
    """
    logits = np.log(np.maximum(np.asarray(probabilities, "float64"), _LEAST)) / temperature
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def certainty(probabilities: np.ndarray) -> np.ndarray:
    """How sure a classifier is that an image is of its classes: (n,) float64, at most 0, for certain 0.

    The negative generalized entropy of the most probable classes: GEN (Liu, Lochman and Zach 2023,
    "GEN: Pushing the limits of softmax-based out-of-distribution detection", CVPR). It needs nothing
    but the probabilities, which every export gives. benchmarks/none_of_these.py compares it with others.

    >>> certainty(np.array([[1.0, 0.0], [0.8, 0.2], [0.5, 0.5]])).round(2)
    array([-0. , -0.8, -1. ])
    """
    rows = np.asarray(probabilities, "float64")
    most = min(_MOST_PROBABLE, rows.shape[-1])
    top = np.clip(np.partition(rows, -most, axis=-1)[..., -most:], 0, 1)
    return -((top * (1 - top)) ** _POWER).sum(axis=-1)


def count_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How many labels each class has: (num_classes,) int64."""
    return np.bincount(_checked_ids("labels", labels, num_classes), minlength=num_classes)


@dataclass(frozen=True)
class Interval:
    """A difference in macro F1 (a - b, -1..1) with its 95 % interval.

    `num_images`: how many were resampled; `num_seeds`: the runs of a and of b.
    """

    difference: float
    low: float
    high: float
    num_images: int
    num_seeds: tuple[int, int]

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0: chance alone could have made the difference."""
        return self.low <= 0 <= self.high


def bootstrap_difference(
    labels: np.ndarray, predicted_a: Sequence[np.ndarray], predicted_b: Sequence[np.ndarray]
) -> Interval:
    """The difference between the mean macro F1 of a's runs and that of b's, with its 95 % interval.

    `labels` (n,) are true class ids; each array of `predicted_a` and `predicted_b` (n,) holds the
    predicted ids of one run (a seed), row by row for the same images. The paired bootstrap (Efron and
    Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 8) with the basic interval (Davison
    and Hinkley, "Bootstrap Methods and their Application", 1997, section 5.2): where classes have few
    images a resample exaggerates differences, and the percentile interval doubles that (100 classes of
    12 images: it held a true difference of 0.2 in 87 of 100 cases, the basic one in 95). With several
    runs a side the variance of seeds is added, by Student's t with num_a + num_b - 2 degrees of freedom.

    >>> labels = np.repeat([0, 1], 50)
    >>> interval = bootstrap_difference(labels, [labels], [np.zeros(100, int)])
    >>> round(interval.difference, 3), interval.is_noise
    (0.667, False)
    """
    num_a, num_b = len(predicted_a), len(predicted_b)
    sides = np.repeat([1 / num_a, -1 / num_b], [num_a, num_b])
    rng = np.random.default_rng(0)
    scores, resampled = _resample(rng, labels, (*predicted_a, *predicted_b))
    found, differences = float(sides @ scores), sides @ resampled
    if freedom := num_a + num_b - 2:
        a, b = scores[:num_a], scores[num_a:]
        pooled = np.sqrt((num_a * a.var() + num_b * b.var()) / freedom * (1 / num_a + 1 / num_b))
        differences = differences + pooled * rng.standard_t(freedom, NUM_RESAMPLES)
    return Interval(found, *_basic_interval(found, differences), len(labels), (num_a, num_b))


def bootstrap_score(labels: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """The 95 % interval (low, high), 0..1, of the macro F1 of one run: what other images would give.

    `labels` and `predicted` are (n,) class ids. The basic bootstrap, as in `bootstrap_difference`. Where
    all are right a resample has nothing to vary: the rule of three (Hanley and Lippman-Hand, "If
    nothing goes wrong, is everything all right?", JAMA 1983) gives 1 - 3/n.

    >>> bootstrap_score(np.array([0, 1] * 15), np.array([0, 1] * 15))
    (0.9, 1.0)
    """
    (found,), (resampled,) = _resample(np.random.default_rng(0), labels, [predicted])
    if found == 1:
        return max(0.0, 1 - 3 / len(labels)), 1.0
    low, high = _basic_interval(found, resampled)
    return max(0.0, low), min(1.0, high)


def _resample(
    rng: np.random.Generator, labels: np.ndarray, runs: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The macro F1 of each run, (runs,), and in each resample of the images, (runs, NUM_RESAMPLES)."""
    runs = [_checked_pair(labels, run)[1] for run in runs]
    # Images of one class that every run predicts alike are one cell.
    cells, counts = np.unique(np.stack([labels, *runs]), axis=1, return_counts=True)
    scores = _score_cells(cells, counts[None].astype(np.float64))[:, 0]
    shares = counts / len(labels)
    resampled = []
    for done in range(0, NUM_RESAMPLES, _BLOCK):
        weights = rng.multinomial(len(labels), shares, size=min(_BLOCK, NUM_RESAMPLES - done))
        resampled.append(_score_cells(cells, weights.astype(np.float32)))
    return scores, np.concatenate(resampled, axis=1)


def _basic_interval(found: float, resampled: np.ndarray) -> list[float]:
    return (2 * found - np.percentile(resampled, [97.5, 2.5])).tolist()


def _true_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    probabilities = _checked_probabilities(probabilities)
    num_images, num_classes = probabilities.shape
    labels = _checked_ids("labels", labels, num_classes)
    if len(labels) != num_images:
        raise ValueError(f"{len(labels)} labels but {num_images} rows of probabilities.")
    return probabilities[np.arange(num_images), labels].astype(np.float64)


def _checked_pair(
    labels: np.ndarray, predicted: np.ndarray, num_classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    labels = _checked_ids("labels", labels, num_classes)
    predicted = _checked_ids("predicted", predicted, num_classes)
    if len(labels) != len(predicted):
        raise ValueError(
            f"{len(labels)} labels but {len(predicted)} predictions. Score equal numbers."
        )
    return labels, predicted


def _checked_ids(name: str, ids: np.ndarray, num_classes: int | None) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.ndim != 1 or len(ids) == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            f"{name} must be one or more integer class ids, (n,); got shape {ids.shape}, {ids.dtype}."
        )
    bad = ids < 0 if num_classes is None else (ids < 0) | (ids >= num_classes)
    if bad.any():
        where = int(bad.argmax())
        allowed = "0 and up" if num_classes is None else f"0..{num_classes - 1}"
        hint = " Records of the test split have no label (-1)." if ids[where] == -1 else ""
        raise ValueError(f"{name}[{where}] is {ids[where]}, outside {allowed}.{hint}")
    return ids.astype(np.int64)


def _checked_probabilities(probabilities: np.ndarray) -> np.ndarray:
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise ValueError(f"probabilities must have shape (n, classes); got {probabilities.shape}.")
    # argmax would return the place of the NaN.
    broken = np.isnan(probabilities).any(axis=1)
    if broken.any():
        raise ValueError(
            f"{int(broken.sum())} of {len(broken)} rows of probabilities hold NaN (the first is "
            f"row {int(broken.argmax())}). Did training diverge? Take the best checkpoint."
        )
    return probabilities


def _score_cells(cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The macro F1 of each run in each resample, (runs, resamples); `cells` are (1 + runs, n)."""
    labels, *runs = cells
    classes = np.unique(labels)
    true = labels[:, None] == classes
    # Counts below 2**24 are exact in float32, and their products twice as fast.
    support = weights @ true.astype(np.float32)
    occurs = support > 0
    scores = []
    for predicted in runs:
        predicted = predicted[:, None] == classes
        right = weights @ (true & predicted).astype(np.float32)
        total = support + weights @ predicted.astype(np.float32)
        f1 = 2 * right / np.where(occurs, total, 1)
        scores.append(np.sum(f1 * occurs, axis=1, dtype=np.float64) / occurs.sum(axis=1))
    return np.stack(scores)
