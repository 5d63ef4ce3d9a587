"""Splits: fractions, small classes, given splits, duplicates, the order in the shards."""

from collections import Counter
from dataclasses import replace

import pytest

from flowerkit.photos.assignment import (
    SplitAssignment,
    assign_splits,
    check_fractions,
    resolve_duplicates,
)
from flowerkit.photos.listing import Photo


def list_some(labels, *, ids=None, given=None):
    ids = ids or [f"{label}/{row}" for row, label in enumerate(labels)]
    given = given or [None] * len(labels)
    return [Photo(*row, 100, 0) for row in zip(ids, ids, labels, given, strict=True)]


def assign(labels, *, ids=None, given=None, groups=(), val=0.2, test=0.1, seed=0):
    return assign_splits(list_some(labels, ids=ids, given=given), groups, val, test, seed)


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
    photos = list_some(["daisy", "rose", "lily", "lily", "rose"])
    reason = "the same picture is in 'daisy' and 'rose'; keep it in one"
    assert resolve_duplicates("aabbc", photos) == dict.fromkeys((0, 1), reason)


def test_a_picture_given_to_two_splits_stays_in_the_later_one():
    given = ["train", "test", "val", "train", "val", None, "train"]
    assert resolve_duplicates("aaabbbc", list_some(["daisy"] * 7, given=given)) == {
        0: "the same picture is given to test",
        2: "the same picture is given to test",
        3: "the same picture is given to val",
        5: "the same picture is given to val",
    }


def test_an_unlabelled_copy_contradicts_no_label():
    photos = list_some(["daisy", None], given=["train", "test"])
    assert resolve_duplicates("aa", photos) == {0: "the same picture is given to test"}


def test_each_class_gives_its_share():
    labels = ["daisy"] * 100 + ["rose"] * 30 + ["lily"] * 7
    counts = count(labels, assign(labels))
    wanted = {"daisy": (70, 20, 10), "rose": (21, 6, 3), "lily": (5, 1, 1)}
    for name, numbers in wanted.items():
        assert tuple(counts[name, split] for split in ("train", "val", "test")) == numbers


def test_small_classes_train_first_then_validate_then_test():
    labels = ["one"] + ["two"] * 2 + ["three"] * 3
    counts = count(labels, assign(labels))
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
    counts = count(labels, assign(labels, val=0.5, test=0.49))
    assert counts["two", "train"] >= 1
    assert counts["five", "train"] >= 1


def test_without_a_fraction_there_is_no_split():
    assert set(assign(["a"] * 10 + ["b"] * 10, val=0.2, test=0.0)) == {"train", "val"}
    assert set(assign(["a"] * 10 + ["b"] * 10, val=0.0, test=0.0)) == {"train"}


def test_the_seed_decides_and_nothing_else():
    labels = ["daisy"] * 40 + ["rose"] * 40
    assert assign(labels) == assign(labels)
    assert assign(labels, seed=1) != assign(labels)
    ids = [f"{label}/{row}" for row, label in enumerate(labels)]
    backwards = assign(labels[::-1], ids=ids[::-1])
    assert backwards[::-1] == assign(labels)


def test_a_photo_that_is_added_moves_few_others():
    before = assign(["daisy"] * 50)
    after = assign(["daisy"] * 51)[:50]
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 2


def test_a_group_goes_to_one_split_and_counts_as_its_photos():
    labels = ["daisy"] * 20 + ["rose"] * 20
    groups = [[0, 1, 2], [5, 25], [30, 31, 32, 33, 34, 35, 36]]
    splits = assign(labels, groups=groups)
    for rows in groups:
        assert len({splits[row] for row in rows}) == 1
    assert splits[30] == "train"  # seven are more than val's four
    counts = count(labels, splits)
    assert (counts["daisy", "val"], counts["daisy", "test"]) == (4, 2)
    assert (counts["rose", "val"], counts["rose", "test"]) == (4, 2)


def test_a_class_of_copies_only_trains():
    splits = assign(["daisy"] * 5 + ["rose"] * 10, groups=[[0, 1, 2, 3, 4]])
    assert splits[:5] == ["train"] * 5


def test_given_splits_stay_and_no_test_is_drawn_beside_them():
    labels = ["daisy"] * 20
    given = ["val"] * 5 + ["train"] * 15
    assert assign(labels, given=given) == given
    freed = assign(labels, given=["test"] * 5 + [None] * 15)
    assert Counter(freed) == {"test": 5, "val": 3, "train": 12}


def test_a_free_copy_joins_the_given_one():
    splits = assign(["daisy"] * 20, given=["test"] + [None] * 19, groups=[[0, 7]])
    assert splits[7] == "test"


def test_given_copies_on_two_sides_stay_where_they_were_put():
    given = ["train", "val"] + ["train"] * 8
    assert assign(["daisy"] * 10, given=given, groups=[[0, 1]]) == given


# The order in the shards --------------------------------------------------------------------------


@pytest.fixture
def assignment():
    photos = [
        Photo(f"{name}/{number}.jpg", f"{name}/{number}.jpg", name, None, 100, 0)
        for name in ("lily", "rose")
        for number in range(6)
    ]
    splits = ["train"] * 4 + ["val", "test"]
    return SplitAssignment(photos, splits * 2, [], ("lily", "rose"), 0, [], {}, {}, [])


def shuffled(assignment, split):
    return [(photo.id, label) for photo, label in assignment.shuffled(split)]


def test_every_photo_has_one_place_and_its_label(assignment):
    train = [(f"lily/{k}.jpg", 0) for k in range(4)] + [(f"rose/{k}.jpg", 1) for k in range(4)]
    assert sorted(shuffled(assignment, "train")) == train
    assert sorted(shuffled(assignment, "val")) == [("lily/4.jpg", 0), ("rose/4.jpg", 1)]


def test_the_test_split_holds_no_labels(assignment):
    assert sorted(shuffled(assignment, "test")) == [("lily/5.jpg", None), ("rose/5.jpg", None)]


def test_the_seed_mixes_the_classes(assignment):
    labels = [label for _, label in shuffled(assignment, "train")]
    assert labels not in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    assert shuffled(assignment, "train") != shuffled(replace(assignment, seed=1), "train")
