"""Which labels are probably wrong, by confident learning; pure, NumPy alone.

The method is that of C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty in
Dataset Labels", JAIR 70 (2021), arXiv 1911.00068, section 3: a class is likely where its probability
reaches the mean that photos of this label get, so that a class that the model is never sure of is not
always wrong, and one that it prefers is not always right.

The order is that of the label's own probability ("self-confidence"), which found more of the labels that
were flipped on purpose than margins or the issues first did (benchmarks/label_issues.py).
"""

from dataclasses import dataclass

import numpy as np

from flowerkit import metrics


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """How doubtful each label is; row i of `given`, `suggested` and `is_issue` is the same photo.

    `order` (n,) int64: the rows, the most doubtful label first, by `given`. `given` (n,) float64: the
    probability of the label. `suggested` (n,) int64: the likeliest other class. `is_issue` (n,) bool:
    another class is likely and the label is not; their number estimates how many labels are wrong.
    """

    order: np.ndarray
    given: np.ndarray
    suggested: np.ndarray
    is_issue: np.ndarray


def find_label_issues(labels: np.ndarray, probabilities: np.ndarray) -> LabelIssues:
    """Which of the `labels` (n,) int are doubtful, by `probabilities` (n, num_classes).

    These must come from a model that did not see the photos: of val, or out of fold.

    Raises ValueError for arrays that do not fit each other, are empty, or hold NaN or labels outside the
    classes.

    >>> sure = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]])
    >>> issues = find_label_issues(np.array([0, 0, 1, 0]), sure)
    >>> issues.order.tolist(), issues.is_issue.tolist(), int(issues.suggested[3])
    ([3, 1, 2, 0], [False, False, False, True], 1)
    """
    metrics.log_loss(labels, probabilities)  # refuses what does not fit
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, "float64")
    rows = np.arange(len(labels))
    given = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, given, minlength=probabilities.shape[1])
    # No photo has the label: nothing is known of how sure the model is of it.
    thresholds = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    likely = np.where(probabilities >= thresholds, probabilities, -1)
    best = likely.argmax(axis=1)
    is_issue = (likely[rows, best] >= 0) & (best != labels)
    others = probabilities.copy()
    others[rows, labels] = -1
    suggested = others.argmax(axis=1)
    return LabelIssues(np.argsort(given, kind="stable"), given, suggested, is_issue)


# Out of fold --------------------------------------------------------------------------------------

# Chosen on petals5 with 5 % of the labels flipped: of 12 kernels and strengths the best, by 2 points of
# those found over a linear one; logistic regression took 30 times as long and found fewer.
_GAMMA = 1.0
_RIDGE = 0.3
_MOST_LANDMARKS = 3000


def predict_out_of_fold(
    features: np.ndarray, labels: np.ndarray, fold_of: np.ndarray, num_classes: int
) -> np.ndarray:
    """Probabilities (n, num_classes) float32 of each photo, by a model that did not see its fold.

    `features` (n, width) float, of a network that has not seen the labels; `labels` and `fold_of` (n,)
    int. The model is kernel ridge regression on all classes at once (RBF kernel; with more photos than
    3,000 on as many landmarks, as A. Rudi, R. Camoriano, L. Rosasco, "Less is More: Nystrom
    Computational Regularization", NeurIPS 2015); a temperature, fitted to the labels, makes
    probabilities of its outputs. A class that the other folds lack gets 0 in a fold.

    Raises ValueError for arrays that differ in length, or fewer than two folds.
    """
    if not len(features) == len(labels) == len(fold_of) or len(np.unique(fold_of)) < 2:
        raise ValueError(
            f"features, labels and fold_of are of the same photos, in two or more folds. Received: "
            f"{len(features)}, {len(labels)} and {len(fold_of)} in {len(np.unique(fold_of))} folds"
        )
    rows, inputs = np.arange(len(labels)), _scale(features)
    targets = np.eye(num_classes)[labels]
    seen = np.zeros((len(labels), num_classes), bool)
    outputs = np.zeros((len(labels), num_classes))
    for fold in np.unique(fold_of):
        inside, others = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        landmarks = others
        if len(others) > _MOST_LANDMARKS:
            landmarks = np.random.default_rng(0).choice(others, _MOST_LANDMARKS, replace=False)
        kernel = _find_kernel(inputs[others], inputs[landmarks])
        left = kernel.T @ kernel + _RIDGE * _find_kernel(inputs[landmarks], inputs[landmarks])
        left[np.diag_indices(len(left))] += 1e-6 * np.trace(left) / len(left)
        weights = np.linalg.solve(left, kernel.T @ targets[others])
        outputs[inside] = _find_kernel(inputs[inside], inputs[landmarks]) @ weights
        seen[inside] = np.isin(np.arange(num_classes), labels[others])
    known = seen[rows, labels]

    def find_probabilities(log_scale: float) -> np.ndarray:
        return softmax(np.where(seen, outputs * np.exp(log_scale), -np.inf), axis=1)

    def loss(log_scale: float) -> float:
        found = find_probabilities(log_scale)[rows, labels][known]
        return -np.log(np.maximum(found, metrics.SMALLEST_PROBABILITY)).mean()

    from scipy.optimize import minimize_scalar
    from scipy.special import softmax

    log_scale = minimize_scalar(loss, bounds=(0, 5), method="bounded").x if known.any() else 0.0
    return find_probabilities(log_scale).astype("float32")


def _scale(features: np.ndarray) -> np.ndarray:
    """Roots of the features, centred, of length 1."""
    features = np.asarray(features, "float64")
    features = np.sign(features) * np.sqrt(np.abs(features))
    features -= features.mean(axis=0)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _find_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.exp(2 * _GAMMA * (first @ second.T - 1))
