"""Who goes where: fractions, small classes, given splits, copies."""

from collections import Counter

import pytest

from flowerkit.photos.splits import assign_splits, check_fractions, resolve_duplicates


def divide(labels, *, ids=None, given=None, groups=(), val=0.2, test=0.1, seed=0):
    ids = ids or [f"{label}/{row}" for row, label in enumerate(labels)]
    given = given or [None] * len(labels)
    return assign_splits(
        ids, labels, given, groups, val_fraction=val, test_fraction=test, seed=seed
    )


def count(labels, splits):
    return Counter(zip(labels, splits, strict=True))


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    check_fractions(0.0, 0.0)
    with pytest.raises(ValueError, match="val_fraction=0.6 and test_fraction=0.4 leave nothing"):
        check_fractions(0.6, 0.4)
    with pytest.raises(ValueError, match="val_fraction=1.5 must be from 0 to below 1"):
        check_fractions(1.5, 0.0)
    with pytest.raises(ValueError, match="test_fraction=-0.1 must be from 0 to below 1"):
        check_fractions(0.2, -0.1)


def test_a_picture_in_two_classes_is_left_out_of_both():
    groups, left_out = resolve_duplicates(
        "aabbc", ["daisy", "rose", "lily", "lily", "rose"], [None] * 5
    )
    assert groups == [[0, 1], [2, 3]]
    reason = "the same picture stands in 'daisy' and 'rose'; keep it in one"
    assert left_out == dict.fromkeys((0, 1), reason)


def test_a_picture_given_to_two_splits_stays_in_the_later_one():
    splits = ["train", "test", "val", "train", "val", None, "train"]
    groups, left_out = resolve_duplicates("aaabbbc", ["daisy"] * 7, splits)
    assert groups == [[0, 1, 2], [3, 4, 5]]
    assert left_out == {
        0: "the same picture is given to test",
        2: "the same picture is given to test",
        3: "the same picture is given to val",
        5: "the same picture is given to val",
    }


def test_an_unlabelled_copy_contradicts_no_label():
    assert resolve_duplicates("aa", ["daisy", None], ["train", "test"])[1] == {
        0: "the same picture is given to test"
    }


def test_each_class_gives_its_share():
    labels = ["daisy"] * 100 + ["rose"] * 30 + ["lily"] * 7
    counts = count(labels, divide(labels))
    wanted = {"daisy": (70, 20, 10), "rose": (21, 6, 3), "lily": (5, 1, 1)}
    for name, numbers in wanted.items():
        assert tuple(counts[name, split] for split in ("train", "val", "test")) == numbers


def test_small_classes_train_first_then_validate_then_test():
    labels = ["one"] + ["two"] * 2 + ["three"] * 3
    counts = count(labels, divide(labels))
    assert counts == {
        ("one", "train"): 1,
        ("two", "train"): 1,
        ("two", "val"): 1,
        ("three", "train"): 1,
        ("three", "val"): 1,
        ("three", "test"): 1,
    }


def test_train_keeps_a_photo_whatever_the_fractions():
    labels = ["two"] * 2 + ["five"] * 5
    counts = count(labels, divide(labels, val=0.5, test=0.49))
    assert counts["two", "train"] >= 1
    assert counts["five", "train"] >= 1


def test_without_a_fraction_there_is_no_split():
    assert set(divide(["a"] * 10 + ["b"] * 10, val=0.2, test=0.0)) == {"train", "val"}
    assert set(divide(["a"] * 10 + ["b"] * 10, val=0.0, test=0.0)) == {"train"}


def test_the_seed_decides_and_nothing_else():
    labels = ["daisy"] * 40 + ["rose"] * 40
    assert divide(labels) == divide(labels)
    assert divide(labels, seed=1) != divide(labels)
    ids = [f"{label}/{row}" for row, label in enumerate(labels)]
    backwards = divide(labels[::-1], ids=ids[::-1])
    assert backwards[::-1] == divide(labels)


def test_a_photo_that_is_added_moves_few_others():
    before = divide(["daisy"] * 50)
    after = divide(["daisy"] * 51)[:50]
    assert sum(one != other for one, other in zip(before, after, strict=True)) <= 2


def test_a_group_goes_to_one_split_and_counts_as_its_photos():
    labels = ["daisy"] * 20 + ["rose"] * 20
    groups = [[0, 1, 2], [5, 25], [30, 31, 32, 33, 34, 35, 36]]
    splits = divide(labels, groups=groups)
    for rows in groups:
        assert len({splits[row] for row in rows}) == 1
    assert splits[30] == "train"  # seven are more than val's four
    counts = count(labels, splits)
    assert (counts["daisy", "val"], counts["daisy", "test"]) == (4, 2)
    assert (counts["rose", "val"], counts["rose", "test"]) == (4, 2)


def test_a_class_of_copies_only_trains():
    splits = divide(["daisy"] * 5 + ["rose"] * 10, groups=[[0, 1, 2, 3, 4]])
    assert splits[:5] == ["train"] * 5


def test_given_splits_stay_and_nobody_draws_a_test_beside_them():
    labels = ["daisy"] * 20
    given = ["val"] * 5 + ["train"] * 15
    assert divide(labels, given=given) == given
    freed = divide(labels, given=["test"] * 5 + [None] * 15)
    assert Counter(freed) == {"test": 5, "val": 3, "train": 12}


def test_a_free_copy_joins_the_given_one():
    splits = divide(["daisy"] * 20, given=["test"] + [None] * 19, groups=[[0, 7]])
    assert splits[7] == "test"


def test_given_copies_on_two_sides_stay_where_they_were_put():
    given = ["train", "val"] + ["train"] * 8
    assert divide(["daisy"] * 10, given=given, groups=[[0, 1]]) == given
