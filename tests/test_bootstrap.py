import numpy as np
import pytest

from flowerkit.bootstrap import bootstrap_difference
from flowerkit.metrics import macro_f1

TWO = np.repeat([0, 1], 50)


def flip(labels, *places):
    """The labels, guessed wrong at some places."""
    predicted = labels.copy()
    predicted[list(places)] = 1 - predicted[list(places)]
    return predicted


def guess_at_random(rng, labels, accuracy, num_classes):
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


def test_the_same_answers_differ_by_nothing():
    found = bootstrap_difference(TWO, [flip(TWO, 3, 70)], [flip(TWO, 3, 70)])
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert found.is_noise


def test_the_answer_is_the_same_every_time():
    sides = [flip(TWO, 0)], [flip(TWO, 5, 99)]
    assert bootstrap_difference(TWO, *sides) == bootstrap_difference(TWO, *sides)
    other = bootstrap_difference(TWO, *sides, seed=1)
    assert other.difference == bootstrap_difference(TWO, *sides).difference


def test_drawing_cells_is_drawing_images_one_by_one():
    """Also where a class is missing in a draw, and guesses name classes that no label has."""
    rng = np.random.default_rng(0)
    labels = rng.choice(5, 120, p=[0.5, 0.3, 0.1, 0.08, 0.02])
    a, b = guess_at_random(rng, labels, 0.8, 7), guess_at_random(rng, labels, 0.6, 7)
    rows = rng.integers(0, 120, (3000, 120))
    plain = [macro_f1(labels[k], a[k]) - macro_f1(labels[k], b[k]) for k in rows]
    found = bootstrap_difference(labels, [a], [b], draws=3000)
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


def count_covered(num_seeds=1, seed_spread=0.0, levels=(0.8, 0.75), size=(300, 4), repeats=120):
    """How often the interval holds the true difference of two classifiers that are right so often.

    `size` are images and classes. Some images are hard for both, and a wrong guess is spread evenly,
    so that macro F1 is the share of right guesses.
    """
    rng = np.random.default_rng(7)
    num_images, num_classes = size
    covered = 0
    for _ in range(repeats):
        labels, hardness = rng.integers(0, num_classes, num_images), rng.random(num_images)

        def guess(accuracy, labels=labels, hardness=hardness):
            accuracy += seed_spread * rng.standard_normal()
            # Half of the chance is the image's, half the run's.
            own = np.where(rng.random(num_images) < 0.5, hardness, rng.random(num_images))
            other = (labels + rng.integers(1, num_classes, num_images)) % num_classes
            return np.where(own < accuracy, labels, other)

        runs = [[guess(level) for _ in range(num_seeds)] for level in levels]
        found = bootstrap_difference(labels, *runs, draws=300)
        covered += found.low <= levels[0] - levels[1] <= found.high
    return covered / repeats


def test_95_of_100_intervals_hold_the_truth():
    assert 0.9 <= count_covered() <= 0.99


def test_they_do_where_classes_have_few_images():
    """A percentile interval holds it in 87 of 100 cases."""
    assert count_covered(levels=(0.9, 0.7), size=(360, 30), repeats=60) >= 0.9


def test_they_do_with_seeds_that_scatter_too():
    assert count_covered(num_seeds=3, seed_spread=0.03) >= 0.92
    # Which is what one seed each cannot know, and the notes of a comparison say so.
    assert count_covered(num_seeds=1, seed_spread=0.03) < 0.9


@pytest.mark.parametrize(
    ("sides", "options", "said"),
    [
        (([TWO], [TWO[:-1]]), {}, r"differ in number: \[99, 100\]"),
        (([TWO], []), {}, "needs at least one run"),
        (([TWO], [TWO]), {"draws": 20}, "100 draws or more. Received: draws=20"),
    ],
)
def test_what_does_not_fit_is_refused(sides, options, said):
    with pytest.raises(ValueError, match=said):
        bootstrap_difference(TWO, *sides, **options)
