import re

import numpy as np
import pytest
from sklearn.metrics import f1_score

from flowerkit import metrics
from flowerkit.metrics import (
    accuracy,
    bootstrap_difference,
    bootstrap_score,
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
PREDICTED = np.array([0, 0, 1, 1, 1, 2, 3, 0])
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
    # class 0: 2*2/(3+3), class 1: 2*2/(2+3), class 3: 2*1/(3+1); class 2 was only predicted.
    assert macro_f1(LABELS, PREDICTED) == pytest.approx((2 / 3 + 0.8 + 0.5) / 3)


def test_macro_f1_is_one_when_all_is_right_and_zero_when_nothing_is():
    assert macro_f1(np.array([2, 5]), np.array([2, 5])) == 1.0
    assert macro_f1(np.array([2, 5]), np.array([5, 2])) == 0.0


def test_macro_f1_does_not_depend_on_the_width_of_the_head():
    # Five true classes under a head of 104: half of the predictions are scattered over absent classes.
    labels = np.repeat(np.arange(5), 20)
    predicted = np.where(np.arange(100) % 2 == 0, labels, 5 + np.arange(100) % 99)
    assert macro_f1(labels, predicted) == pytest.approx(2 / 3)
    assert f1_score(labels, predicted, average="macro") < 0.1


def test_macro_f1_agrees_with_scikit_learn_over_the_labels_that_occur():
    random = np.random.default_rng(3)
    labels, predicted = random.integers(0, 30, 500), random.integers(0, 40, 500)
    expected = f1_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert macro_f1(labels, predicted) == pytest.approx(expected, abs=1e-12)


def test_accuracy_counts_the_right_predictions():
    assert accuracy(LABELS, PREDICTED) == 0.625


def test_log_loss_is_the_mean_surprise_and_certain_mistakes_stay_finite():
    assert log_loss(np.array([0, 2]), PROBABILITIES[:2]) == pytest.approx(0.43375029)
    assert log_loss(np.array([0]), PROBABILITIES[2:3]) == pytest.approx(16.11809565)


def test_the_report_has_a_row_for_each_class_that_occurs_and_averages_to_macro_f1():
    rows = class_report(LABELS, PREDICTED, NAMES)
    assert rows[0] == {
        "name": "pink primrose",
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "support": 3,
    }
    assert [row["name"] for row in rows] == [NAMES[0], NAMES[1], NAMES[3]]
    assert [row["support"] for row in rows] == [3, 2, 3]
    assert np.mean([row["f1"] for row in rows]) == pytest.approx(macro_f1(LABELS, PREDICTED))


def test_a_class_that_is_never_predicted_has_precision_zero_and_no_warning(recwarn):
    rows = class_report(np.array([0, 1]), np.array([0, 0]), NAMES)
    assert rows[1]["precision"] == rows[1]["recall"] == rows[1]["f1"] == 0.0
    assert len(recwarn) == 0


def test_rows_of_the_confusion_counts_are_the_truth():
    counts = confusion_matrix(LABELS, PREDICTED, 4)
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
    assert top_losses(labels, PROBABILITIES).tolist() == [2, 3, 1, 0]


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
        ([], [], "labels must be one or more integer class ids"),
        ([0, 1], [0], "2 labels but 1 predictions"),
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
    with pytest.raises(ValueError, match=re.escape("predicted[1] is 4, outside 0..3.")):
        confusion_matrix(np.array([0, 1]), np.array([0, 4]), 4)
    with pytest.raises(ValueError, match=re.escape("labels[0] is 9, outside 0..3.")):
        class_report(np.array([9, 1]), np.array([0, 1]), NAMES)


def test_probabilities_and_labels_must_fit():
    with pytest.raises(ValueError, match="3 labels but 4 rows of probabilities"):
        log_loss(np.array([0, 1, 2]), PROBABILITIES)
    with pytest.raises(ValueError, match=re.escape("got (3,)")):
        predicted_labels(np.array([0.1, 0.2, 0.7]))


# The paired bootstrap --------------------------------------------------------------------------

TWO = np.repeat([0, 1], 50)


def flip(labels, *places):
    """The labels, predicted wrong at some places."""
    predicted = labels.copy()
    predicted[list(places)] = 1 - predicted[list(places)]
    return predicted


def predict_at_random(rng, labels, accuracy, num_classes):
    right = rng.random(len(labels)) < accuracy
    return np.where(right, labels, rng.integers(0, num_classes, len(labels)))


def test_a_difference_that_every_image_shows_is_no_noise():
    found = bootstrap_difference(TWO, [TWO], [np.zeros(100, int)])
    assert found.difference == pytest.approx(2 / 3)  # 1 against the mean of 2/3 and 0
    assert (found.low, found.high) == pytest.approx((0.62, 0.71), abs=0.02)
    assert not found.is_noise
    assert (found.num_images, found.num_seeds) == (100, (1, 1))


def test_one_mistake_against_another_is_noise():
    found = bootstrap_difference(TWO, [flip(TWO, 0)], [flip(TWO, 99)])
    assert found.difference == pytest.approx(0, abs=1e-6)
    # Each is drawn about 1 +- 1 times of 100: two or three images more or less.
    assert (found.low, found.high) == pytest.approx((-0.03, 0.03), abs=0.011)
    assert found.is_noise


def test_the_same_predictions_differ_by_nothing():
    found = bootstrap_difference(TWO, [flip(TWO, 3, 70)], [flip(TWO, 3, 70)])
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert found.is_noise


def test_the_interval_is_the_same_every_time():
    sides = [flip(TWO, 0)], [flip(TWO, 5, 99)]
    assert bootstrap_difference(TWO, *sides) == bootstrap_difference(TWO, *sides)


def test_drawing_cells_is_drawing_images_one_by_one():
    """Also where a class is missing in a draw, and predictions name classes that no label has."""
    rng = np.random.default_rng(0)
    labels = rng.choice(5, 120, p=[0.5, 0.3, 0.1, 0.08, 0.02])
    a, b = predict_at_random(rng, labels, 0.8, 7), predict_at_random(rng, labels, 0.6, 7)
    rows = rng.integers(0, 120, (3000, 120))
    plain = [macro_f1(labels[k], a[k]) - macro_f1(labels[k], b[k]) for k in rows]
    found = bootstrap_difference(labels, [a], [b])
    assert found.difference == pytest.approx(macro_f1(labels, a) - macro_f1(labels, b))
    mirrored = 2 * found.difference - np.percentile(plain, [97.5, 2.5])
    assert (found.low, found.high) == pytest.approx(mirrored, abs=0.015)


def test_pairing_makes_the_interval_narrow():
    """Both fail on the same hard images: that does not blur what is between them."""
    easy = np.tile([True] * 6 + [False] * 4, 40)
    labels = np.tile([0, 1], 200)
    a = np.where(easy, labels, 1 - labels)
    b = flip(a, 0, 12, 30, 41, 62, 83)
    paired = bootstrap_difference(labels, [a], [b])
    unpaired = bootstrap_difference(labels, [a], [np.roll(b, 4)])
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)
    assert not paired.is_noise


def test_the_spread_of_the_seeds_counts():
    """The runs of one experiment are 0.96, 0.80 and 0.64: their mean says little about the next."""
    steady = [flip(TWO, *range(10)), flip(TWO, *range(10, 20)), flip(TWO, *range(20, 30))]
    lucky = [flip(TWO, *range(n, n + n)) for n in (4, 20, 36)]
    found = bootstrap_difference(TWO, steady, lucky)
    alone = bootstrap_difference(TWO, steady[:1], lucky[2:])
    assert not alone.is_noise
    assert found.is_noise
    assert found.high - found.low > 2 * (alone.high - alone.low)
    assert found.num_seeds == (3, 3)
    assert found.difference == pytest.approx(
        np.mean([macro_f1(TWO, run) for run in steady])
        - np.mean([macro_f1(TWO, run) for run in lucky])
    )


def test_seeds_that_agree_add_nothing():
    run, other = flip(TWO, *range(10)), flip(TWO, *range(14))
    once = bootstrap_difference(TWO, [run], [other])
    thrice = bootstrap_difference(TWO, [run] * 3, [other] * 3)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-9)


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(metrics, "NUM_RESAMPLES", 300)


def count_covered(num_seeds=1, seed_spread=0.0, levels=(0.8, 0.75), size=(300, 4), repeats=120):
    """How often the interval holds the true difference of two classifiers that are right so often.

    `size` are images and classes. Some images are hard for both, and mistakes are spread evenly,
    so that macro F1 is the share of right predictions.
    """
    rng = np.random.default_rng(7)
    num_images, num_classes = size
    covered = 0
    for _ in range(repeats):
        labels, hardness = rng.integers(0, num_classes, num_images), rng.random(num_images)

        def predict(accuracy, labels=labels, hardness=hardness):
            accuracy += seed_spread * rng.standard_normal()
            # Half of the chance is the image's, half the run's.
            own = np.where(rng.random(num_images) < 0.5, hardness, rng.random(num_images))
            other = (labels + rng.integers(1, num_classes, num_images)) % num_classes
            return np.where(own < accuracy, labels, other)

        runs = [[predict(level) for _ in range(num_seeds)] for level in levels]
        found = bootstrap_difference(labels, *runs)
        covered += found.low <= levels[0] - levels[1] <= found.high
    return covered / repeats


@pytest.mark.usefixtures("few_resamples")
def test_95_of_100_intervals_hold_the_truth():
    assert 0.9 <= count_covered() <= 0.99


@pytest.mark.usefixtures("few_resamples")
def test_they_do_where_classes_have_few_images():
    """A percentile interval holds it in 87 of 100 cases."""
    assert count_covered(levels=(0.9, 0.7), size=(360, 30), repeats=60) >= 0.9


@pytest.mark.usefixtures("few_resamples")
def test_they_do_with_seeds_that_scatter_too():
    assert count_covered(num_seeds=3, seed_spread=0.03) >= 0.92
    # Which is what one seed each cannot know, and the notes of a comparison say so.
    assert count_covered(num_seeds=1, seed_spread=0.03) < 0.9


def test_the_interval_of_one_score_is_about_two_standard_errors():
    """Of 100 predictions with 20 mistakes, spread evenly: sqrt(0.8 * 0.2 / 100) = 0.04."""
    low, high = bootstrap_score(TWO, flip(TWO, *range(0, 100, 5)))
    assert (low, high) == pytest.approx((0.72, 0.88), abs=0.02)
    low, high = bootstrap_score(np.tile(TWO, 4), np.tile(flip(TWO, *range(0, 100, 5)), 4))
    assert (low, high) == pytest.approx((0.76, 0.84), abs=0.01)


def test_a_score_without_mistakes_is_not_certain():
    assert bootstrap_score(TWO, TWO) == (0.97, 1.0)
    assert bootstrap_score(TWO[:2], TWO[:2]) == (0.0, 1.0)


def test_runs_of_other_images_are_refused():
    with pytest.raises(ValueError, match="100 labels but 99 predictions"):
        bootstrap_difference(TWO, [TWO], [TWO[:-1]])
