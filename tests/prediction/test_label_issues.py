import numpy as np
import pytest

from flowerkit.prediction.label_issues import find_label_issues, predict_out_of_fold


def test_a_label_that_the_model_denies_comes_first():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9], [0.0, 0.1, 0.9]])
    issues = find_label_issues(np.array([0, 1, 2, 0]), probabilities)
    assert issues.order.tolist() == [3, 0, 1, 2]
    assert issues.given == pytest.approx([0.7, 0.8, 0.9, 0.0])
    assert issues.is_issue.tolist() == [False, False, False, True]
    assert issues.suggested.tolist() == [1, 0, 0, 2]


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


def test_a_photo_is_predicted_by_what_its_fold_does_not_know():
    rng = np.random.default_rng(0)
    truth = np.arange(300) % 3
    features = rng.normal(size=(300, 8)) + 6 * np.eye(8)[truth]
    labels = truth.copy()
    labels[:9] = (truth[:9] + 1) % 3  # wrong
    probabilities = predict_out_of_fold(features, labels, np.arange(300) // 30 % 5, 3)
    assert probabilities.dtype == np.float32
    assert probabilities.sum(axis=1) == pytest.approx(1)
    issues = find_label_issues(labels, probabilities)
    assert sorted(issues.order[:9].tolist()) == list(range(9))
    assert issues.suggested[:9].tolist() == truth[:9].tolist()


def test_a_class_that_is_in_one_fold_alone_is_not_predicted_there():
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 20 + [2, 2])
    features = rng.normal(size=(42, 4)) + 5 * np.eye(4)[labels]
    fold_of = np.append(np.arange(40) // 20, [0, 0])
    probabilities = predict_out_of_fold(features, labels, fold_of, 4)
    assert probabilities[fold_of == 0, 2].max() == 0
    assert probabilities[:, 3].max() == 0
    assert probabilities[fold_of == 1, 2].max() > 0
    with pytest.raises(ValueError, match="two or more folds"):
        predict_out_of_fold(features, labels, np.zeros(42, int), 4)
