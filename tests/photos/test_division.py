"""Each split's rows in the order of the shards, the classes mixed, the test split without labels."""

from flowerkit.photos.division import SplitAssignment, place_rows
from flowerkit.photos.listing import Photo


def make_division():
    photos = [
        Photo(f"{name}/{number}.jpg", f"{name}/{number}.jpg", name, None, 100, 0)
        for name in ("lily", "rose")
        for number in range(6)
    ]
    splits = ["train"] * 4 + ["val", "test"]
    return SplitAssignment(photos, ("lily", "rose"), splits * 2, [], [], {}, [])


def test_every_row_has_one_place_and_its_label():
    division = make_division()
    placed = {split: place_rows(division, split, 0) for split in ("train", "val", "test")}
    assert sorted(placed["train"]) == [(row, 0) for row in range(4)] + [
        (row, 1) for row in range(6, 10)
    ]
    assert sorted(placed["val"]) == [(4, 0), (10, 1)]


def test_the_classes_are_mixed_by_the_seed():
    division = make_division()
    labels = [label for _, label in place_rows(division, "train", 0)]
    assert labels not in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    assert place_rows(division, "train", 0) == place_rows(division, "train", 0)
    assert place_rows(division, "train", 0) != place_rows(division, "train", 1)


def test_the_test_split_carries_no_label():
    assert sorted(place_rows(make_division(), "test", 0)) == [(5, None), (11, None)]
