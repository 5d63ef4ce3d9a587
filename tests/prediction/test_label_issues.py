import numpy as np
import pytest

from flowerkit.prediction.label_issues import find_label_issues


def test_a_label_that_the_model_denies_comes_first():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9], [0.0, 0.1, 0.9]])
    issues = find_label_issues(np.array([0, 1, 2, 0]), probabilities)
    assert issues.order.tolist() == [3, 0, 1, 2]
    assert issues.is_issue.tolist() == [False, False, False, True]
    assert issues.suggested.tolist() == [1, 0, 0, 2]
    assert issues.margins == pytest.approx([0.5, 0.7, 0.85, -0.9])


def test_a_class_that_the_model_is_never_sure_of_is_not_taken_for_wrong():
    # All of class 1 get 0.4 and 0.6 for class 0; the last one gets 0.05, as those of class 0 do.
    probabilities = np.array(
        [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.95, 0.05]]
    )
    issues = find_label_issues(np.array([0, 0, 1, 1, 1, 1]), probabilities)
    assert issues.is_issue.tolist() == [False, False, False, False, False, True]
    assert issues.order[0] == 5


def test_a_class_without_photos_makes_no_issue():
    probabilities = np.array([[0.6, 0.0, 0.4], [0.0, 0.6, 0.4], [0.1, 0.1, 0.8]])
    issues = find_label_issues(np.array([0, 1, 0]), probabilities)
    assert not issues.is_issue.any()
    assert issues.order[0] == 2


@pytest.mark.parametrize("kind", ["uniform", "one class into another"])
def test_most_of_the_flipped_labels_stand_first(kind):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 1000)
    logits = rng.normal(size=(1000, 5)) + 5 * np.eye(5)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    flipped = np.arange(1000) % 20 == 0
    wrong = (truth + rng.integers(1, 5, 1000)) % 5 if kind == "uniform" else (truth + 1) % 5
    issues = find_label_issues(np.where(flipped, wrong, truth), probabilities)
    assert flipped[issues.order[:50]].sum() >= 40
    assert 40 <= issues.is_issue.sum() <= 80
    assert (issues.suggested[flipped] == truth[flipped]).mean() > 0.9


@pytest.mark.parametrize(("labels", "message"), [([0, 2], "2"), ([0], "1"), ([0, -1], "-1")])
def test_what_does_not_fit_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        find_label_issues(np.array(labels), np.array([[0.5, 0.5], [0.5, 0.5]]))
