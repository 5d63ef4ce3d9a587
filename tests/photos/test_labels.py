"""The csv beside the photos: columns, spellings of names, and rows that do not match."""

import pytest

from flowerkit.photos.labels import read_labels

PATHS = ["a/x.jpg", "a/y.png", "b/x.jpg", "b/z.jpg"]


@pytest.fixture
def read(tmp_path):
    def read(text, paths=PATHS, encoding="utf-8"):
        (tmp_path / "labels.csv").write_text(text, encoding=encoding)
        return read_labels(tmp_path / "labels.csv", paths)

    return read


def test_names_may_be_paths_or_names_that_are_there_once_with_or_without_ending(read):
    found = read("file,label\na/x.jpg,rose\ny,lily\nz.jpg,daisy\n./b/x,rose\n")
    assert found.classes == {
        "a/x.jpg": "rose",
        "a/y.png": "lily",
        "b/z.jpg": "daisy",
        "b/x.jpg": "rose",
    }
    assert (found.notes, found.left_out, found.splits) == ([], {}, {})


@pytest.mark.parametrize(
    "text",
    [
        "Label;Image_ID\nrose;a\\x.jpg\n",
        "\ufeffid,species,more\na/x.jpg,rose,1\n",
        'id\tclass\n"a/x.jpg"\t rose \n\n',
    ],
)
def test_other_marks_orders_and_column_names_are_understood(read, text):
    assert read(text).classes == {"a/x.jpg": "rose"}


def test_korean_is_matched_in_either_unicode_form(read):
    pieces = "\u1100\u1161"  # as a Mac writes 가
    found = read(f"file,label\n가.jpg,{pieces}\n", [f"{pieces}.jpg"])
    assert found.classes == {f"{pieces}.jpg": "가"}


def test_a_column_of_splits_is_taken(read):
    found = read("file,label,split\ny,lily,Training\nz,daisy,valid\na/x,,test\nb/x,rose,\n")
    assert found.splits == {"a/y.png": "train", "b/z.jpg": "val", "a/x.jpg": "test"}
    assert found.classes["a/x.jpg"] is None  # a test photo may be without a label
    with pytest.raises(
        ValueError, match=r"labels\.csv, line 2: unknown split 'fold1'\. Write train, val or test"
    ):
        read("file,label,split\ny,lily,fold1\n")


def test_rows_without_a_photo_are_noted_and_photos_without_a_row_left_out(read):
    found = read("file,label\ny,lily\nq.jpg,rose\nx,rose\nz,\n")
    assert found.classes == {"a/y.png": "lily"}
    assert found.notes == [
        "labels.csv: 2 rows name no photo that is there (line 3: q.jpg; line 4: x)",
        "labels.csv: 1 rows have no label",
    ]
    assert found.left_out == dict.fromkeys(
        ["a/x.jpg", "b/x.jpg", "b/z.jpg"], "it has no label in labels.csv"
    )


def test_a_photo_labelled_twice_is_noted_if_the_rows_agree_and_left_out_if_not(read):
    found = read("file,label\ny,lily\na/y.png,lily\nz,rose\nb/z,daisy\nb/z,rose\n")
    assert found.classes == {"a/y.png": "lily"}
    assert found.notes == ["labels.csv: 1 rows say the same twice (line 3: a/y.png)"]
    assert found.left_out["b/z.jpg"] == "its rows disagree (line 6 says 'rose')"


def test_a_csv_that_names_no_photo_is_refused(read):
    with pytest.raises(
        ValueError,
        match=r"names none of the photos \(line 2: q\.jpg\)\. Its file names are relative",
    ):
        read("file,label\nq.jpg,rose\n")
    with pytest.raises(ValueError, match="names none of the photos .it has no rows with a label"):
        read("file,label\n")


def test_a_csv_that_cannot_be_understood_is_refused(read, tmp_path):
    with pytest.raises(ValueError, match="has the columns x.jpg, rose; wanted one of file names"):
        read("x.jpg,rose\ny.png,lily\n")
    with pytest.raises(ValueError, match=r"has the columns \(none\)"):
        read("")
    with pytest.raises(
        ValueError, match=r"is not UTF-8 text \(byte 11\)\. Save it as csv in UTF-8"
    ):
        read("file,label\n장미.jpg,장미\n", encoding="cp949")
    with pytest.raises(FileNotFoundError, match=r"there is no .*none\.csv"):
        read_labels(tmp_path / "none.csv", PATHS)
