"""Which labels are probably wrong, by confident learning; pure, NumPy alone.

The method is that of C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty in
Dataset Labels", JAIR 70 (2021), arXiv 1911.00068, section 3: a class is likely where its probability
reaches the mean that photos of this label get, so that a class that the model is never sure of is not
always wrong, and one that it prefers is not always right.
"""

from dataclasses import dataclass

import numpy as np

from flowerkit import metrics


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """How doubtful each label is; row i of `margins`, `suggested` and `is_issue` is the same photo.

    `order` (n,) int64: the rows, the most doubtful label first: those of `is_issue`, then the others,
    each by `margins`. `margins` (n,) float64, -1..1: the label's probability above the best other
    class's. `suggested` (n,) int64: the best other class. `is_issue` (n,) bool: another class is likely
    and the label is not; their number estimates how many labels are wrong.
    """

    order: np.ndarray
    margins: np.ndarray
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
    margins = given - others[rows, suggested]
    order = np.lexsort((margins, ~is_issue))
    return LabelIssues(order, margins, suggested, is_issue)
