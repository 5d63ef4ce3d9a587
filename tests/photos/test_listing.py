"""Folders of photos as people have them: classes, splits, ids, and what else lies around."""

import re

import pytest

from flowerkit.photos.listing import list_photos
from flowerkit.photos.walk import find_photos

PIECES = "\u1103\u1166\u110b\u1175\u110c\u1175"  # 데이지 as a Mac writes it


@pytest.fixture
def make(tmp_path):
    """Empty files by their paths: a listing opens none."""

    def make(*paths):
        for path in paths:
            file = tmp_path / "photos" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path / "photos"

    return make


def describe(listing):
    return {photo.path: (photo.class_name, photo.split) for photo in listing.photos}


def test_a_sub_folder_is_a_class_in_any_script(make):
    listing = list_photos(make("장미/1.jpg", "daisy/b.PNG", "daisy/a.webp", "tulipán/x.heic"))
    assert describe(listing) == {
        "daisy/a.webp": ("daisy", None),
        "daisy/b.PNG": ("daisy", None),
        "tulipán/x.heic": ("tulipán", None),
        "장미/1.jpg": ("장미", None),
    }
    assert listing.class_names == ("daisy", "tulipán", "장미")
    assert listing.left_out == {}


def test_folders_that_differ_in_their_unicode_form_are_one_class(make):
    listing = list_photos(make(f"{PIECES}/1.jpg", "데이지/1.jpg", "장미/1.jpg", "장미/2.jpg"))
    assert listing.class_names == ("데이지", "장미")
    assert sorted(photo.id for photo in listing.photos[:2]) == ["데이지/1-2.jpg", "데이지/1.jpg"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("Rose", "rose"), ("rose", "rose "), ("a  b", "a b"), ("rose", "rose\u200b"), ("01", "1")],
)
def test_classes_that_differ_in_case_or_blanks_are_refused(make, first, second):
    folder = make(f"{first}/1.jpg", f"{second}/2.jpg")
    said = re.escape(f"{first!r} and {second!r} differ in case or blanks only")
    with pytest.raises(ValueError, match=said):
        list_photos(folder)


def test_deeper_folders_belong_to_the_top_one_and_it_is_said(make):
    listing = list_photos(
        make("rose/2025/may/1.jpg", "rose/2.jpg", "rose/3.jpg", "daisy/1.jpg", "daisy/2.jpg")
    )
    assert describe(listing)["rose/2025/may/1.jpg"] == ("rose", None)
    assert listing.notes == ("photos in rose/2025/may/ count as rose",)


def test_folders_named_as_splits_that_hold_classes_are_splits(make):
    listing = list_photos(
        make(
            "Train/rose/1.jpg",
            "Train/daisy/1.jpg",
            "valid/rose/2.jpg",
            "valid/daisy/3.jpg",
            "test/rose/4.jpg",
            "test/5.jpg",
        )
    )
    assert describe(listing) == {
        "Train/daisy/1.jpg": ("daisy", "train"),
        "Train/rose/1.jpg": ("rose", "train"),
        "test/5.jpg": (None, "test"),
        "test/rose/4.jpg": ("rose", "test"),
        "valid/daisy/3.jpg": ("daisy", "val"),
        "valid/rose/2.jpg": ("rose", "val"),
    }
    assert {photo.split for photo in listing.photos} == {"train", "val", "test"}


def test_without_val_photos_those_of_train_are_free_to_give_some(make):
    listing = list_photos(make("train/rose/1.jpg", "train/daisy/1.jpg", "test/rose/2.jpg"))
    assert [photo.split for photo in listing.photos] == ["test", None, None]


def test_a_class_may_be_named_train(make):
    assert list_photos(make("train/1.jpg", "bus/1.jpg")).class_names == ("bus", "train")


def test_what_is_no_photo_is_counted_and_what_systems_leave_is_not(make):
    listing = list_photos(
        make(
            "rose/1.jpg",
            "rose/2.jpg",
            "rose/Thumbs.db",
            "rose/.DS_Store",
            "rose/._1.jpg",
            "rose/notes.txt",
            "rose/film.mp4",
            "rose/film2.mp4",
            "rose/README",
            "daisy/1.jpg",
            "daisy/2.jpg",
            "__MACOSX/rose/1.jpg",
            "daisy/@eaDir/1.jpg",
            "empty/desktop.ini",
        )
    )
    assert [photo.path for photo in listing.photos] == [
        "daisy/1.jpg",
        "daisy/2.jpg",
        "rose/1.jpg",
        "rose/2.jpg",
    ]
    assert listing.notes == (
        "folders without a photo, passed over: empty",
        "folders that systems leave, passed over: __MACOSX, @eaDir",
        "files that are no photos, passed over: 2 .mp4, 1 without a suffix, 1 .txt",
    )


def test_photos_beside_the_class_folders_are_left_out(make):
    listing = list_photos(make("1.jpg", "rose/1.jpg", "rose/2.jpg", "daisy/1.jpg", "daisy/2.jpg"))
    assert listing.left_out == {"1.jpg": "it is in no class folder"}
    assert len(listing.photos) == 4


def test_a_class_of_one_photo_is_named(make):
    listing = list_photos(make("rose/1.jpg", "daisy/1.jpg", "daisy/2.jpg"))
    assert listing.notes == ("classes with one photo, which can only train: rose",)


def test_links_are_followed_but_not_in_circles(make, tmp_path):
    folder = make("rose/1.jpg", "rose/2.jpg", "daisy/1.jpg")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "9.jpg").touch()
    (folder / "daisy" / "more").symlink_to(elsewhere)
    (folder / "rose" / "again").symlink_to(folder)
    (folder / "rose" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    listing = list_photos(folder)
    assert [photo.path for photo in listing.photos] == [
        "daisy/1.jpg",
        "daisy/more/9.jpg",
        "rose/1.jpg",
        "rose/2.jpg",
    ]
    assert "rose/again is a link to a folder above it, and is not followed" in listing.notes
    assert listing.left_out == {"rose/gone.jpg": "cannot be opened (No such file or directory)"}


def test_ids_are_paths_that_fit_into_a_csv(make):
    listing = list_photos(make('rose/a, "b".jpg', "rose/a_ _b_.jpg", "daisy/1.jpg", "daisy/2.jpg"))
    assert [photo.id for photo in listing.photos] == [
        "daisy/1.jpg",
        "daisy/2.jpg",
        "rose/a_ _b_.jpg",
        "rose/a_ _b_-2.jpg",
    ]


def test_an_id_holds_no_control_character_and_is_no_formula(make):
    names = ["=rose/1.jpg", "daisy/a\x1b[31m.jpg", "daisy/b\u2028.jpg", "daisy/c\n.jpg"]
    assert [photo.id for photo in list_photos(make(*names, "=rose/2.jpg")).photos] == [
        "_=rose/1.jpg",
        "_=rose/2.jpg",
        "daisy/a_[31m.jpg",
        "daisy/b_.jpg",
        "daisy/c_.jpg",
    ]


def test_an_empty_folder_says_what_it_holds(make):
    folder = make("a/notes.txt", "b/notes.txt")
    with pytest.raises(ValueError, match=r"no photos under .*photos \(it holds 2 \.txt\)"):
        list_photos(folder)
    for file in folder.rglob("*.txt"):
        file.unlink()
    with pytest.raises(ValueError, match=r"\(it is empty\)\. Photos end in \.jpg, \.jpeg"):
        list_photos(folder)


def test_one_class_is_refused_and_the_folder_that_was_meant_is_named(make):
    folder = make("flowers/rose/1.jpg", "flowers/daisy/1.jpg")
    with pytest.raises(
        ValueError,
        match=r"of one class, 'flowers'\. Did you mean .*/photos/flowers, which holds 2 folders",
    ):
        list_photos(folder)
    with pytest.raises(
        ValueError, match=r"1 photo under .* of one class, 'rose'\. A classifier needs two classes"
    ):
        list_photos(folder / "flowers", _one_label(folder))
    flat = make("flat/images/1.jpg", "flat/images/2.jpg") / "flat"
    (flat / "train.csv").write_text("image_id,label\n1,rose\n2,daisy\n")
    with pytest.raises(ValueError, match=r"or pass the labels .*--labels .*flat/train\.csv\)"):
        list_photos(flat)


def _one_label(folder):
    labels = folder.parent / "labels.csv"
    labels.write_text("file,label\nrose/1.jpg,rose\n", encoding="utf-8")
    return labels


@pytest.mark.parametrize("above", ["a", "a/b", "a/b/c"])
def test_the_right_path_is_named_however_deep_it_is(make, above):
    folder = make(f"{above}/rose/1.jpg", f"{above}/rose/2.jpg", f"{above}/daisy/1.jpg")
    with pytest.raises(ValueError, match=rf"Did you mean .*photos/{above}, which holds 2 folders"):
        list_photos(folder)
    assert list_photos(folder / above).class_names == ("daisy", "rose")


def test_a_whole_copy_inside_is_no_class(make):
    names = ["rose/1.jpg", "rose/2.jpg", "daisy/1.jpg", "daisy/2.jpg"]
    folder = make(*names, *(f"my flowers/{name}" for name in names))
    with pytest.raises(
        ValueError, match=r"my flowers/ in it both hold daisy/, rose/.* Pass '.*/photos/my flowers'"
    ):
        list_photos(folder)
    assert list_photos(folder / "my flowers").class_names == ("daisy", "rose")


def test_photos_without_class_folders_are_refused(make):
    with pytest.raises(
        ValueError,
        match=r"holds 2 photos, but none in a sub folder\. Make a folder for each class, pass a csv",
    ):
        list_photos(make("1.jpg", "2.jpg"))


def test_a_file_and_no_folder_are_refused(tmp_path):
    (tmp_path / "photos.zip").touch()
    with pytest.raises(NotADirectoryError, match=r"zip is a file\. Unpack it first: python -m zip"):
        list_photos(tmp_path / "photos.zip")
    with pytest.raises(FileNotFoundError, match=r"no folder .*none\. Pass the folder"):
        list_photos(tmp_path / "none")


def test_shards_are_no_photos(tmp_path):
    (tmp_path / "tfrecords-jpeg-64x64").mkdir()
    with pytest.raises(ValueError, match=r"holds shards \(tfrecords-jpeg-64x64/\), not photos"):
        list_photos(tmp_path)


def test_photos_are_found_at_any_depth_in_order(make, tmp_path):
    names = ["1.jpg", "rose/2.jpg", "rose/notes.txt", "@eaDir/3.jpg", ".hidden.jpg"]
    assert list(find_photos(make(*names))) == ["1.jpg", "rose/2.jpg"]
    assert list(find_photos(tmp_path / "none")) == []


# A csv --------------------------------------------------------------------------------------------

PATHS = ["a/x.jpg", "a/y.png", "b/x.jpg", "b/z.jpg"]


@pytest.fixture
def label(make, tmp_path):
    def label(text, paths=PATHS, encoding="utf-8"):
        (tmp_path / "labels.csv").write_text(text, encoding=encoding)
        return list_photos(make(*paths), tmp_path / "labels.csv")

    return label


def test_names_in_a_csv_are_paths_or_names_that_occur_once_with_or_without_suffix(label):
    listing = label("file,label\na/x.jpg,rose\ny,lily\nz.jpg,daisy\n./b/x,rose\n")
    assert describe(listing) == {
        "a/x.jpg": ("rose", None),
        "a/y.png": ("lily", None),
        "b/x.jpg": ("rose", None),
        "b/z.jpg": ("daisy", None),
    }
    assert listing.left_out == {}


@pytest.mark.parametrize(
    "text",
    [
        "Label;Image_ID\nrose;a\\x.jpg\nlily;z\n",
        "\ufeffid,species,more\na/x.jpg,rose,1\nz,lily\n,,\n",
        'id\tclass\n"a/x.jpg"\t rose \n\nz\tlily\n',
    ],
)
def test_separators_orders_and_column_names_of_a_csv_are_recognized(label, text):
    assert describe(label(text)) == {"a/x.jpg": ("rose", None), "b/z.jpg": ("lily", None)}


def test_names_in_a_csv_match_in_either_unicode_form(label):
    pieces = "\u1100\u1161"  # as a Mac writes 가
    listing = label(f"file,label\n가.jpg,{pieces}\nb,나\n", [f"{pieces}.jpg", "b.jpg"])
    assert listing.class_names == ("가", "나")


def test_a_column_of_splits_is_taken(label):
    listing = label("file,label,split\ny,lily,Training\nz,daisy,valid\na/x,,test\nb/x,rose,\n")
    assert describe(listing) == {
        "a/x.jpg": (None, "test"),
        "a/y.png": ("lily", "train"),
        "b/x.jpg": ("rose", None),
        "b/z.jpg": ("daisy", "val"),
    }
    with pytest.raises(ValueError, match=r"labels\.csv, line 2: unknown split 'fold1'\."):
        label("file,label,split\ny,lily,fold1\n")


def test_rows_without_a_photo_are_noted_and_photos_without_a_row_left_out(label):
    listing = label("file,label\ny,lily\na/x,rose\nq.jpg,rose\nx,rose\nz,\n")
    assert set(describe(listing)) == {"a/x.jpg", "a/y.png"}
    assert listing.notes[2] == "labels.csv: 1 row without a label"
    assert listing.notes[:2] == (
        "labels.csv: 1 row without a photo of this name (line 4: q.jpg)",
        "labels.csv: 1 row with a name of several photos, which need their folders "
        "(line 5: x may be a/x.jpg and b/x.jpg)",
    )
    reason = "it has no label in labels.csv"
    assert listing.left_out == {"b/x.jpg": reason, "b/z.jpg": reason}


def test_what_pandas_writes_for_a_missing_label_is_none(label):
    listing = label("file,label\ny,lily\na/x,rose\nb/x,nan\nz,<NA>\n")
    assert listing.class_names == ("lily", "rose")
    assert "labels.csv: 2 rows without a label" in listing.notes
    assert list_photos(listing.folder).class_names == ("a", "b")


def test_a_folder_may_be_called_nan(make):
    assert list_photos(make("nan/1.jpg", "pita/1.jpg")).class_names == ("nan", "pita")


def test_marks_that_end_a_line_elsewhere_are_blanks_in_a_label(label):
    listing = label("file,label\ny,lily\x85white\nz,rose\u2028red\na/x,rose\x0bred\n")
    assert listing.class_names == ("lily white", "rose red")


def test_a_photo_whose_rows_disagree_is_left_out(label):
    listing = label("file,label\ny,lily\na/y.png,lily\nz,rose\nb/z,daisy\nb/z,rose\na/x,rose\n")
    assert set(describe(listing)) == {"a/x.jpg", "a/y.png"}
    assert listing.left_out["b/z.jpg"] == "its rows disagree (line 5 says 'daisy')"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,label\nq.jpg,rose\n", r"labels none of the photos \(line 2: q\.jpg\)"),
        ("file,label\n", r"labels none of the photos \(it has no rows"),
        ("x.jpg,rose\ny.png,lily\n", "has the columns x.jpg, rose; it needs one of file names"),
        ("", r"has the columns \(none\)"),
    ],
)
def test_a_csv_that_labels_no_photo_is_refused(label, text, reason):
    with pytest.raises(ValueError, match=rf"labels\.csv {reason}"):
        label(text)


def test_a_csv_in_an_unknown_encoding_and_one_that_is_missing_are_refused(label, make, tmp_path):
    with pytest.raises(
        ValueError, match=r"labels\.csv is text neither in UTF-8 .* \(byte 14\)\. Save"
    ):
        label("file,label\ncaf\xe9.jpg,caf\xe9\n", encoding="latin-1")
    with pytest.raises(FileNotFoundError, match=r"there is no .*none\.csv"):
        list_photos(make(*PATHS), tmp_path / "none.csv")


def test_a_pattern_takes_classes_from_names_and_splits_from_folders(make):
    folder = make("train/cat.0.jpg", "train/dog.0.jpg", "train/dog.1.jpg", "test/17.jpg")
    listing = list_photos(folder, label_pattern=r"^([a-z]+)\.")
    assert describe(listing) == {
        "test/17.jpg": (None, "test"),
        "train/cat.0.jpg": ("cat", None),
        "train/dog.0.jpg": ("dog", None),
        "train/dog.1.jpg": ("dog", None),
    }
    pets = (
        make("images/great_dane_1.jpg", "images/Abyssinian_12.jpg", "images/9.jpg").parent
        / "photos"
    )
    listing = list_photos(pets / "images", label_pattern=r"(.+)_\d+")
    assert listing.class_names == ("Abyssinian", "great_dane")
    assert listing.left_out == {"9.jpg": r"its name does not match '(.+)_\\d+'"}


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(rose", "is no pattern of Python"),
        ("rose", r"has no group\. Put the class in brackets"),
        ("(iris)", r"matches no photo, such as '1\.jpg'\. It is searched for in the file name"),
    ],
)
def test_a_pattern_that_finds_no_class_is_refused(make, pattern, reason):
    with pytest.raises(ValueError, match=reason):
        list_photos(make("1.jpg", "2.jpg"), label_pattern=pattern)


def test_a_csv_and_a_pattern_are_one_too_many(make):
    with pytest.raises(
        ValueError, match=r"a csv \(--labels\) or a pattern \(--label-pattern\)\. Pass"
    ):
        list_photos(make("1.jpg"), "labels.csv", label_pattern="(.)")
