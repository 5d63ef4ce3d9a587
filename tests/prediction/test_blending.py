import numpy as np
import pytest

from flowerkit.prediction.blending import BlendWeights, align, blend, find_weights
from flowerkit.prediction.predictions import Predictions


def member(rows, *, ids=None, labels=None):
    probabilities = np.array(rows, "float32")
    names = [f"id{row}" for row in range(len(rows))] if ids is None else ids
    labels = None if labels is None else np.array(labels, "int32")
    return Predictions(np.array(names), probabilities, labels)


@pytest.fixture
def sure():
    return member([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], ids=["a", "b"], labels=[0, 1])


@pytest.fixture
def unsure():
    """The same images the other way round, and without labels."""
    return member([[0.5, 0.0, 0.5], [0.25, 0.5, 0.25]], ids=["b", "a"])


def two_experts(num_images, *, share_of_first):
    """Two classes; one expert gives the truth 0.8 on the first images and 0.2 on the rest, the other
    the reverse."""
    labels = np.arange(num_images) % 2
    knows = np.arange(num_images) < share_of_first * num_images
    truth = np.where(knows, 0.8, 0.2)
    tables = []
    for of_truth in (truth, 1 - truth):
        table = np.empty((num_images, 2))
        table[np.arange(num_images), labels] = of_truth
        table[np.arange(num_images), 1 - labels] = 1 - of_truth
        tables.append(member(table, labels=labels))
    return tables


# blend --------------------------------------------------------------------------------------------


def test_a_blend_is_the_mean_of_what_belongs_to_the_same_id(sure, unsure):
    blended = blend([sure, unsure])
    assert blended.ids.tolist() == ["a", "b"]
    assert blended.probabilities.tolist() == [[0.375, 0.375, 0.25], [0.25, 0.5, 0.25]]
    assert blended.probabilities.dtype == np.float32
    assert blended.predicted.tolist() == [0, 1]


def test_the_first_member_gives_the_order_and_a_labelled_member_the_labels(sure, unsure):
    blended = blend([unsure, sure])
    assert blended.ids.tolist() == ["b", "a"]
    assert blended.labels.tolist() == [1, 0]
    assert blended.probabilities.tolist() == [[0.25, 0.5, 0.25], [0.375, 0.375, 0.25]]
    assert blend([unsure, unsure]).labels is None


def test_weights_are_scaled_to_sum_to_1(sure, unsure):
    expected = [[0.4375, 0.3125, 0.25], [0.125, 0.75, 0.125]]
    assert blend([sure, unsure], [3, 1]).probabilities.tolist() == expected
    assert blend([sure, unsure], [0.75, 0.25]).probabilities.tolist() == expected
    assert blend([sure, unsure], [1, 0]).probabilities.tolist() == sure.probabilities.tolist()


def test_one_member_blends_to_itself(sure):
    assert blend([sure]).probabilities.tolist() == sure.probabilities.tolist()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2, 3], r"2 members need 2 weights\. Received: \[1, 2, 3\]"),
        ([0, 0], r"weights must be from 0 and not all 0\. Received: \[0, 0\]"),
        ([2, -1], r"weights must be from 0 and not all 0\. Received: \[2, -1\]"),
        ([1, float("nan")], r"weights must be from 0 and not all 0\. Received: \[1, nan\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(sure, unsure, weights, message):
    with pytest.raises(ValueError, match=message):
        blend([sure, unsure], weights)


def test_nothing_cannot_be_blended():
    with pytest.raises(ValueError, match="nothing to blend. Pass the predictions"):
        blend([])


# align --------------------------------------------------------------------------------------------


def test_aligned_members_have_the_same_ids_and_labels_row_by_row(sure, unsure):
    first, second = align([sure, unsure])
    assert first.ids.tolist() == second.ids.tolist() == ["a", "b"]
    assert first.labels.tolist() == second.labels.tolist() == [0, 1]
    assert second.probabilities.tolist() == [[0.25, 0.5, 0.25], [0.5, 0.0, 0.5]]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            member([[0.5, 0.5], [0.5, 0.5]], ids=["a", "b"]),
            r"^run2 and run1 have 2 and 3 classes\. Blend models of the same classes\.$",
        ),
        (
            member([[1, 0, 0]] * 5, ids=["b", "c", "d", "e", "f"]),
            r"^run2 and run1 hold different images: only the first has 4 \('c', 'd', 'e', \.\.\.\), "
            r"only the second 1 \('a'\)\. Blend predictions of the same split\.$",
        ),
        (member([[1, 0, 0]], ids=["b"]), r"only the first has none, only the second 1 \('a'\)"),
        (
            member([[1, 0, 0]] * 2, ids=["b", "a"], labels=[1, 2]),
            r"^run2 and run1 disagree on the labels of 1 image: 'a' is of class 2 and 0\. Blend",
        ),
        (
            member([[1, 0, 0], [np.nan, 0, 0]], ids=["a", "b"]),
            r"^run2 holds probabilities that are not finite for 1 of 2 images \(the first is 'b'\)\. "
            r"Did its training diverge\? Leave it out\.$",
        ),
    ],
)
def test_members_that_do_not_fit_one_another_are_refused(sure, second, message):
    for combine in (blend, find_weights, align):
        with pytest.raises(ValueError, match=message):
            combine([sure, second], names=["run1", "run2"])


def test_members_without_names_are_numbered(sure):
    with pytest.raises(ValueError, match="^member 2 and member 1 have 1 and 3 classes"):
        blend([sure, member([[1.0], [1.0]], ids=["a", "b"])])


# find_weights -------------------------------------------------------------------------------------


def test_weights_are_how_often_a_member_improved_the_macro_f1():
    """By hand: the first knows class 0 and is sure, the second knows class 1 and is less so. Alone
    they are equal in macro F1 (1/3), and the second has the lesser log loss; then the first is
    added, and from there on both classes are right while its share stays between 3/7 and 4/7."""
    labels = [0, 1] * 10
    first = member([[0.9, 0.1], [0.7, 0.3]] * 10, labels=labels)
    second = member([[0.3, 0.7], [0.2, 0.8]] * 10, labels=labels)
    found = find_weights([first, second])
    assert (found.num_searched, found.num_scored) == (10, 10)
    assert found.found[0] == pytest.approx(0.5, abs=1 / 14)
    assert sum(found.found) == pytest.approx(1)
    assert found.member_f1 == pytest.approx((1 / 3, 1 / 3))
    assert found.found_f1 == 1.0


def test_a_member_that_is_too_sure_of_itself_does_not_take_all():
    """The first is right on 3 of 4 images by far, the second on the other quarter by farther."""
    knows = np.arange(80) % 4 < 3
    labels = np.arange(80) // 4 % 2
    truth = np.eye(2)[labels]

    def table(of_truth):
        return member(
            truth * of_truth[:, None] + (1 - truth) * (1 - of_truth)[:, None], labels=labels
        )

    found = find_weights([table(np.where(knows, 0.7, 0.4)), table(np.where(knows, 0.45, 0.9))])
    assert found.member_f1[0] == pytest.approx(0.75, abs=0.1)
    assert found.found_f1 == 1.0
    assert found.found[1] > 0.2


def test_weights_are_scored_on_other_images_than_they_were_found_on():
    """A member that is right on the half that is searched and wrong on the other gets all the weight
    where it is found, and loses it where it is scored."""
    labels = np.arange(40) % 2
    truth = np.eye(2)[labels]
    honest = member(0.9 * truth + 0.1 * truth[:, ::-1], labels=labels)
    searched = _find_searched(honest)
    assert searched.sum() == 20
    lucky = np.where(searched[:, None], truth, 0.25 * truth + 0.75 * truth[:, ::-1])
    found = find_weights([honest, member(lucky, labels=labels)], seed=0)
    assert found.found == (0.0, 1.0)
    assert found.member_f1 == (1.0, 0.0)
    assert found.found_f1 == 0.0
    assert found.equal_f1 == 1.0  # 0.575 for the truth
    assert not found.uses_found
    assert found.weights == (0.5, 0.5)


def _find_searched(like):
    """Which images the weights are found on: those whose prediction changes the weights."""
    searched = np.zeros(len(like), bool)
    plain = member(np.full_like(like.probabilities, 0.5), ids=like.ids, labels=like.labels)
    for row in range(len(like)):
        table = plain.probabilities.copy()
        table[row, like.labels[row]] = 1
        changed = member(table, ids=like.ids, labels=like.labels)
        searched[row] = find_weights([plain, changed], seed=0).found[1] > 0
    return searched


def test_the_halves_are_stratified_and_a_class_of_one_image_or_none_is_no_error():
    """6 images of class 0, 2 of class 1, 1 of class 2, none of class 3: in halves 3 + 1 + (0 or 1)."""
    labels = [0, 0, 0, 0, 0, 0, 1, 1, 2]
    right = member(np.eye(4)[labels] * 0.7 + 0.075, labels=labels)
    searched = _find_searched(right)
    assert np.bincount(np.array(labels)[searched], minlength=3).tolist() in ([3, 1, 1], [3, 1, 0])
    found = find_weights([right, right])
    assert (found.num_searched, found.num_scored) == (5, 4)
    assert found.member_f1 == (1.0, 1.0)


def test_a_model_given_twice_changes_nothing_but_whose_weight_it_is():
    one, other = two_experts(80, share_of_first=0.6)
    without, with_twin = find_weights([one, other]), find_weights([one, other, one])
    assert with_twin.found == (*without.found, 0.0)
    assert with_twin.found_f1 == without.found_f1


def test_found_weights_that_are_no_better_give_way_to_equal_ones():
    found = find_weights([two_experts(80, share_of_first=0.5)[0]] * 2)
    assert found.found_f1 == found.equal_f1
    assert not found.uses_found
    assert found.weights == (0.5, 0.5)


def test_weights_depend_on_the_seed_and_not_on_the_order_of_the_images():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    truth = np.eye(3)[labels]
    tables = [0.6 * generator.dirichlet(np.ones(3), 60) + 0.4 * truth for _ in range(3)]
    members = [member(table, labels=labels) for table in tables]
    found = find_weights(members, seed=1)
    rows = generator.permutation(60)
    shuffled = [
        member(one.probabilities[rows], ids=one.ids[rows], labels=one.labels[rows])
        for one in members
    ]
    assert find_weights(shuffled, seed=1) == found
    assert find_weights(members, seed=1) == found
    assert len({find_weights(members, seed=seed).found for seed in range(5)}) > 1


def test_a_member_that_is_certain_and_wrong_gets_no_weight():
    right, wrong = [[0.9, 0.1]] * 4, [[0.0, 1.0]] * 4
    labels = [0, 0, 0, 0]
    found = find_weights([member(right, labels=labels), member(wrong, labels=labels)])
    assert found.found == (1.0, 0.0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member([[1, 0]], labels=[0])], r"weights need 2 or more members\. Received: 1"),
        ([member([[1, 0]] * 2)] * 2, r"weights need labelled predictions, such as those"),
        ([member([[1, 0]], labels=[0])] * 2, r"weights need 2 or more images: half to find them"),
    ],
)
def test_weights_cannot_be_found_on_too_little(members, message):
    with pytest.raises(ValueError, match=message):
        find_weights(members)


def test_on_many_images_chance_is_not_mentioned():
    found = find_weights(two_experts(400, share_of_first=0.75), seed=5)
    assert found.describe(["a", "b"])[0].endswith("macro F1 on the other 200:")


def test_the_weights_are_described_member_by_member():
    found = find_weights(two_experts(40, share_of_first=0.75), seed=5)
    lines = found.describe(["runs/a", "runs/long name"])
    scores = "macro F1 on the other 20 (so few that chance decides much):"
    assert lines[0] == f"weights found on 20 val images; {scores}"
    assert lines[1] == f"  runs/a          {found.member_f1[0]:.4f}  weight {found.found[0]:.3f}"
    assert lines[2].startswith("  runs/long name  0.")
    assert lines[3] == f"  equal weights   {found.equal_f1:.4f}"
    assert lines[4] == f"  found weights   {found.found_f1:.4f}  (used)"
    equal = find_weights([two_experts(40, share_of_first=0.75)[0]] * 2).describe(["a", "b"])
    assert equal[-2].endswith("(no better, so equal weights are used)")


@pytest.mark.parametrize(
    ("member_f1", "blend_f1", "name"),
    [
        ((0.8, 0.9), (0.85, 0.9), "b"),
        ((0.9, 0.8), (0.85, 0.84), "a"),
        ((0.8, 0.9), (0.91, 0.9), None),
        ((0.8, 0.9), (0.85, 0.91), None),
    ],
)
def test_a_member_that_alone_is_as_good_as_the_blend_is_named(member_f1, blend_f1, name):
    weights = BlendWeights((0.5, 0.5), (0.4, 0.6), member_f1, *blend_f1, 300, 300)
    lines = weights.describe(["a", "b"])
    said = f"on these images {name} alone is as good as the blend"
    assert lines[5:] == ([said] if name else [])
