import re

import numpy as np
import pytest
from sklearn.metrics import f1_score

from flowerkit.metrics import (
    accuracy,
    calibration,
    class_report,
    confusion_matrix,
    count_classes,
    log_loss,
    macro_f1,
    most_confused,
    predicted_labels,
    top_losses,
)

NAMES = ["pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea"]
LABELS = np.array([0, 0, 0, 1, 1, 3, 3, 3])
GUESSES = np.array([0, 0, 1, 1, 1, 2, 3, 0])
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25]])


def test_the_most_probable_class_is_predicted_and_the_lower_id_on_a_tie():
    ties = np.array([[0.5, 0.5], [0.2, 0.8]], dtype=np.float32)
    assert predicted_labels(ties).tolist() == [0, 1]
    assert predicted_labels(ties).dtype == np.int64


def test_nan_never_becomes_a_prediction():
    probabilities = np.array([[0.5, 0.5], [np.nan, 1.0], [np.nan, np.nan]])
    message = r"2 of 3 rows of probabilities hold NaN \(the first is row 1\)"
    with pytest.raises(ValueError, match=message):
        predicted_labels(probabilities)
    with pytest.raises(ValueError, match=message):
        log_loss(np.array([0, 1, 1]), probabilities)


def test_macro_f1_is_the_mean_over_the_classes_that_occur():
    # class 0: 2*2/(3+3), class 1: 2*2/(2+3), class 3: 2*1/(3+1); class 2 was only guessed.
    assert macro_f1(LABELS, GUESSES) == pytest.approx((2 / 3 + 0.8 + 0.5) / 3)


def test_macro_f1_is_one_when_all_is_right_and_zero_when_nothing_is():
    assert macro_f1(np.array([2, 5]), np.array([2, 5])) == 1.0
    assert macro_f1(np.array([2, 5]), np.array([5, 2])) == 0.0


def test_macro_f1_does_not_depend_on_the_width_of_the_head():
    # Five true classes under a head of 104: half of the guesses are scattered over absent classes.
    labels = np.repeat(np.arange(5), 20)
    predicted = np.where(np.arange(100) % 2 == 0, labels, 5 + np.arange(100) % 99)
    assert macro_f1(labels, predicted) == pytest.approx(2 / 3)
    assert f1_score(labels, predicted, average="macro") < 0.1


def test_macro_f1_agrees_with_scikit_learn_over_the_labels_that_occur():
    random = np.random.default_rng(3)
    labels, predicted = random.integers(0, 30, 500), random.integers(0, 40, 500)
    expected = f1_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert macro_f1(labels, predicted) == pytest.approx(expected, abs=1e-12)


def test_accuracy_counts_the_right_guesses():
    assert accuracy(LABELS, GUESSES) == 0.625


def test_log_loss_is_the_mean_surprise_and_certain_mistakes_stay_finite():
    assert log_loss(np.array([0, 2]), PROBABILITIES[:2]) == pytest.approx(0.43375029)
    assert log_loss(np.array([0]), PROBABILITIES[2:3]) == pytest.approx(16.11809565)


def test_the_report_has_a_row_for_each_class_that_occurs_and_averages_to_macro_f1():
    rows = class_report(LABELS, GUESSES, NAMES)
    assert rows[0] == {
        "name": "pink primrose",
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "support": 3,
    }
    assert [row["name"] for row in rows] == [NAMES[0], NAMES[1], NAMES[3]]
    assert [row["support"] for row in rows] == [3, 2, 3]
    assert np.mean([row["f1"] for row in rows]) == pytest.approx(macro_f1(LABELS, GUESSES))


def test_a_class_that_is_never_guessed_has_precision_zero_and_no_warning(recwarn):
    rows = class_report(np.array([0, 1]), np.array([0, 0]), NAMES)
    assert rows[1]["precision"] == rows[1]["recall"] == rows[1]["f1"] == 0.0
    assert len(recwarn) == 0


def test_rows_of_the_confusion_counts_are_the_truth():
    counts = confusion_matrix(LABELS, GUESSES, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1]]
    assert counts.dtype == np.int64


def test_the_most_confused_pairs_come_first_and_ties_in_the_order_of_the_classes():
    counts = np.array([[9, 0, 1, 0], [4, 9, 0, 0], [0, 0, 9, 0], [1, 0, 0, 9]])
    assert most_confused(counts, NAMES, 2) == [(NAMES[1], NAMES[0], 4), (NAMES[0], NAMES[2], 1)]
    assert len(most_confused(counts, NAMES, 99)) == 3
    assert most_confused(counts, NAMES, 0) == []


def test_most_confused_refuses_names_of_other_data():
    with pytest.raises(ValueError, match=re.escape("shape (3, 3) but there are 4 class names")):
        most_confused(np.eye(3), NAMES, 5)


def test_top_losses_are_the_images_whose_true_class_got_least():
    labels = np.array([0, 2, 0, 1])
    assert top_losses(labels, PROBABILITIES, 3).tolist() == [2, 3, 1]
    assert top_losses(labels, PROBABILITIES, 99).tolist() == [2, 3, 1, 0]


def test_calibration_compares_promise_and_truth_bin_by_bin():
    """(0.4, 0.6]: one of two right; (0.8, 1]: one of two right."""
    probabilities = np.array([[0.6, 0.4], [0.45, 0.55], [0.9, 0.1], [0.0, 1.0]])
    found = calibration(np.array([0, 0, 0, 0]), probabilities, bins=5)
    np.testing.assert_allclose(found.edges, [0, 0.2, 0.4, 0.6, 0.8, 1])
    assert found.counts.tolist() == [0, 0, 2, 0, 2]
    np.testing.assert_allclose(found.confidence[[2, 4]], [0.575, 0.95])
    np.testing.assert_allclose(found.accuracy[[2, 4]], [0.5, 0.5])
    assert np.isnan(found.confidence[[0, 1, 3]]).all()
    assert found.error == pytest.approx((0.075 + 0.45) / 2)
    assert found.overconfidence == pytest.approx(0.7625 - 0.5)


def test_a_model_that_knows_how_sure_it_can_be_has_no_calibration_error(recwarn):
    labels = np.repeat([0, 1], [80, 20])
    found = calibration(labels, np.tile([0.8, 0.2], (100, 1)))
    assert found.error == pytest.approx(0)
    assert len(found.counts) == 15
    modest = calibration(np.zeros(10, int), np.tile([0.6, 0.4], (10, 1)))
    assert modest.error == pytest.approx(0.4)
    assert modest.overconfidence == pytest.approx(-0.4)
    assert len(recwarn) == 0


def test_calibration_refuses_no_bins_and_arrays_that_do_not_fit():
    with pytest.raises(ValueError, match="bins must be at least 1. Received: bins=0"):
        calibration(np.array([0]), np.eye(2)[:1], bins=0)
    with pytest.raises(ValueError, match="2 labels but 1 rows of probabilities"):
        calibration(np.array([0, 1]), np.eye(2)[:1])


def test_classes_are_counted_also_those_without_images():
    assert count_classes(np.array([2, 0, 2], "int32"), 4).tolist() == [1, 0, 2, 0]
    with pytest.raises(
        ValueError, match=re.escape("labels[0] is -1, outside 0..3. Records of the")
    ):
        count_classes(np.array([-1]), 4)


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([], [], "labels must be a one-dimensional array of at least one integer class id"),
        ([0, 1], [0], "2 labels but 1 guesses"),
        ([0.0, 1.0], [0, 1], "got shape (2,), float64"),
        ([[0, 1]], [[0, 1]], "got shape (1, 2), int64"),
        ([0, -1], [0, 1], "labels[1] is -1, outside 0 and up. Records of the test split have no"),
    ],
)
def test_arrays_that_cannot_be_scored_are_refused(labels, predicted, message):
    for score in (macro_f1, accuracy):
        with pytest.raises(ValueError, match=re.escape(message)):
            score(np.array(labels), np.array(predicted))


def test_ids_beyond_the_classes_are_refused_instead_of_dropped():
    with pytest.raises(ValueError, match=re.escape("guesses[1] is 4, outside 0..3.")):
        confusion_matrix(np.array([0, 1]), np.array([0, 4]), 4)
    with pytest.raises(ValueError, match=re.escape("labels[0] is 9, outside 0..3.")):
        class_report(np.array([9, 1]), np.array([0, 1]), NAMES)


def test_probabilities_and_labels_must_fit():
    with pytest.raises(ValueError, match="3 labels but 4 rows of probabilities"):
        log_loss(np.array([0, 1, 2]), PROBABILITIES)
    with pytest.raises(ValueError, match=re.escape("got (3,)")):
        predicted_labels(np.array([0.1, 0.2, 0.7]))
