"""Whether sub folders are classes or splits: by what they hold and by their names, or an error."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowerkit.photos.listing import list_photos
from flowerkit.photos.tree import Part, find_parts, find_split

CLASSES = st.lists(
    st.sampled_from(["rose", "daisy", "장미", "목련", "1", "10", "bus", "train", "IMG 2"]),
    min_size=2,
    max_size=6,
    unique=True,
)
WORDS = {
    "train": ["train", "Training", "TRAIN", "학습", "훈련", "treino", "训练"],
    "val": ["val", "valid", "Validation", "validate", "dev", "eval", "검증", "検証"],
    "test": ["test", "Testing", "pred", "시험", "テスト", "测试"],
}
AFFIXES = ["{}", "{}_set", "{} images", "seg_{}", "flowers-{}", "{}2017", "1.{}", "{}-data", "{}용"]


def spread(*folders, num=2):
    return [f"{folder}/{k}.jpg" for folder in folders for k in range(num)]


def read(*folders):
    return find_parts(Path("P"), spread(*folders))


def under(top, *names):
    return [f"{top}/{name}" for name in names]


def test_the_name_of_a_folder_says_a_split_in_many_ways():
    assert find_split("1.Training") == ("train", True)
    assert find_split("validation_data") == ("val", True)
    assert find_split("검증데이터") == ("val", True)
    assert find_split("TestImages2") == ("test", True)
    assert find_split("seg_pred") == ("test", False)
    assert find_split("bullet_train") == ("train", False)
    for name in ("rose", "contest", "valley", "trained", "train_val", "시험관 아님", "2017", ""):
        assert find_split(name) == (None, False)


@given(st.data(), CLASSES, st.sampled_from(AFFIXES), st.sampled_from(["", "/{0}", "/images"]))
def test_splits_are_found_by_their_names_however_these_are_written(data, classes, affix, wrapper):
    splits = data.draw(
        st.sampled_from([("train", "val", "test"), ("train", "val"), ("train", "test")])
    )
    tops = {affix.format(data.draw(st.sampled_from(WORDS[split]))): split for split in splits}
    assume(len(tops) == len(splits))
    starts = {top + wrapper.format(top): split for top, split in tops.items()}
    folders = [f"{start}/{name}" for start in starts for name in classes]
    assert read(*folders) == {start: Part(split) for start, split in starts.items()}


@given(CLASSES, st.lists(st.text("abcxyz가나0123456789", min_size=1), min_size=2, unique=True))
def test_folders_that_hold_the_same_folders_are_never_classes_without_asking(classes, tops):
    with pytest.raises(ValueError, match="which are splits, and which are classes") as error:
        read(*(f"{top}/{name}" for top in tops for name in classes))
    assert "--train DIR --val DIR --test DIR" in str(error.value)


@given(CLASSES, st.booleans())
def test_folders_that_hold_photos_or_each_its_own_folders_are_classes(classes, deep):
    # Those are doubtful: a split that holds classes beside others, a split beside IMG 2
    assume("train" not in classes or (not deep and "IMG 2" not in classes))
    inner = [f"{name}/{name} in {year}" for name in classes for year in (2024, 2025)]
    assert read(*classes, *(inner if deep else [])) == {"": Part(None)}


@given(
    st.lists(st.sampled_from(["test1", "val", "validation", "학습", "train_set"]), min_size=1),
    st.lists(st.sampled_from(["rose", "daisy", "sample_images"]), unique=True),
)
def test_flat_folders_named_as_splits_are_never_classes(named, others):
    assume(len({*named, *others}) > 1)
    with pytest.raises(ValueError, match="--train P"):
        read(*named, *others)


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        # Intel's scenes, each split in itself, and photos to predict
        (
            [
                *under("seg_train/seg_train", "sea", "street"),
                *under("seg_test/seg_test", "sea", "street"),
                "seg_pred/seg_pred",
            ],
            {
                "seg_train/seg_train": "train",
                "seg_test/seg_test": "test",
                "seg_pred/seg_pred": "test",
            },
        ),
        # eval is test beside a val
        (
            [*under("train", "a", "b"), *under("eval", "a", "b"), *under("test", "a", "b")],
            {"train": "train", "eval": "val", "test": "test"},
        ),
        (
            [*under("train", "a", "b"), *under("val", "a", "b"), *under("eval", "a", "b")],
            {"train": "train", "val": "val", "eval": "test"},
        ),
        # Keras's dummy folder of a test split without labels
        ([*under("train", "a", "b"), "test/test"], {"train": "train", "test/test": "test"}),
        ([*under("train", "a", "b"), "test/unknown"], {"train": "train", "test": "test"}),
        # the folders of AI Hub
        (
            [
                *under("1.Training/원천데이터", "a", "b"),
                *under("2.Validation/원천데이터", "a", "b"),
            ],
            {"1.Training/원천데이터": "train", "2.Validation/원천데이터": "val"},
        ),
        # other pictures beside the splits
        (
            [*under("train", "a", "b"), *under("valid", "a", "b"), "sample_images", "masks"],
            {"train": "train", "valid": "val"},
        ),
        (under("train", "a", "b"), {"train": "train"}),
        # vehicles
        (
            [*under("train", "train", "bus"), *under("test", "train", "bus")],
            {"train": "train", "test": "test"},
        ),
    ],
)
def test_splits_of_data_sets_that_people_have(folders, parts):
    assert read(*folders) == {start: Part(split) for start, split in parts.items()}


def test_each_class_may_hold_its_own_splits():
    assert read(
        *(f"{name}/{split}" for name in ("rose", "daisy") for split in ("train", "val"))
    ) == {
        "rose/train": Part("train", "rose"),
        "rose/val": Part("val", "rose"),
        "daisy/train": Part("train", "daisy"),
        "daisy/val": Part("val", "daisy"),
    }


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "bus"),
        ("bullet_train", "steam_train"),
        ("rose/2025", "daisy/2025"),
        ("train/steam", "bus"),
    ],
)
def test_classes_with_names_that_also_say_a_split_are_classes(folders):
    assert read(*folders) == {"": Part(None)}


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        ([*under("val", "a", "b"), *under("test", "a", "b")], "no split to train on is among them"),
        ([*under("train", "a", "b"), *under("TRAIN", "a", "b")], "--train P/train --train P/TRAIN"),
        ([*under("train", "a", "b"), "a", "b"], r"train/ \(a/, b/\), a/ \(no folders\)"),
        (["rose", "daisy", "test"], "--test P/test --train DIR"),
        (
            ["train", "test1"],
            "train/, test1/ are splits by name, but the photos to train on are in no",
        ),
        (["valid", "invalid"], "as classes: --train P"),
        ([*under("Day", "cat", "dog"), "Night/cat"], r"Day/ \(cat/, dog/\), Night/ \(cat/\)"),
        ([*under("own", "train", "test"), "more"], r"own/ \(test/, train/\), more/"),
        ([*under("fold 1", "a", "b"), *under("fold 2", "a", "b")], r"fold 1/ \(a/, b/\), fold 2/"),
    ],
)
def test_a_tree_that_can_be_read_in_two_ways_is_shown_with_what_to_add(folders, told):
    with pytest.raises(ValueError, match=told):
        read(*folders)


# With the options ---------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path):
    def make(*folders, num=2):
        for path in spread(*folders, num=num):
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path

    return make


def describe(listing):
    return {
        (photo.split, photo.class_name, photo.path.rpartition("/")[0]) for photo in listing.photos
    }


def test_what_a_tree_leaves_open_is_said_by_folders(make):
    folder = make(*under("A", "x", "y"), *under("B", "x", "y"), "C/C")
    listing = list_photos(folder, train=folder / "A", val="B", test=[folder / "C"])
    assert describe(listing) == {
        ("train", "x", "A/x"),
        ("train", "y", "A/y"),
        ("val", "x", "B/x"),
        ("val", "y", "B/y"),
        ("test", None, "C/C"),
    }
    assert list_photos(folder, train=folder).class_names == ("A", "B", "C")
    both = list_photos(folder, train=["A", "B"])
    assert describe(both) == {(None, name, f"{top}/{name}") for top in "AB" for name in "xy"}


def test_a_test_folder_is_taken_out_of_the_classes_beside_it(make):
    folder = make("rose", "daisy", "test")
    with pytest.raises(ValueError, match=f"--test {folder}/test"):
        list_photos(folder)
    assert describe(list_photos(folder, test=folder / "test")) == {
        (None, "rose", "rose"),
        (None, "daisy", "daisy"),
        ("test", None, "test"),
    }


def test_splits_may_lie_in_several_places(make):
    folder = make(*under("disk 1/photos", "x", "y"), *under("disk 2", "x", "y"))
    listing = list_photos(folder / "disk 1/photos", test=folder / "disk 2")
    assert listing.folder == folder
    assert describe(listing) == {
        (None, "x", "disk 1/photos/x"),
        (None, "y", "disk 1/photos/y"),
        ("test", "x", "disk 2/x"),
        ("test", "y", "disk 2/y"),
    }


def test_a_folder_that_is_not_there_and_one_that_is_given_twice_are_refused(make):
    folder = make("rose", "daisy")
    with pytest.raises(FileNotFoundError, match=r"no folder none \(val=, --val\)"):
        list_photos(folder, val="none")
    with pytest.raises(ValueError, match="rose is given as train and as test"):
        list_photos(folder, train="rose", test=folder / "rose")


def test_a_class_that_only_test_has_is_no_label_and_it_is_said(make):
    folder = make(*under("train", "a", "b"), *under("test", "a", "unknown"))
    listing = list_photos(folder)
    assert listing.class_names == ("a", "b")
    assert ("test", None, "test/unknown") in describe(listing)
    assert ("test", "a", "test/a") in describe(listing)
    said = "without a label, 2 photos of test, because no photo to learn from is of unknown"
    assert said in listing.notes
    make("test/A")
    with pytest.raises(ValueError, match="the classes 'A' and 'a' differ in case or blanks only"):
        list_photos(folder)


def test_a_csv_names_the_classes_and_the_folders_the_splits(make):
    folder = make("train", "test1")
    csv = folder / "labels.csv"
    csv.write_text("file,label\ntrain/0,cat\ntrain/1,dog\n", encoding="utf-8")
    listing = list_photos(folder, csv)
    assert [(photo.split, photo.class_name) for photo in listing.photos] == [
        ("test", None),
        ("test", None),
        (None, "cat"),
        (None, "dog"),
    ]
