import re

import numpy as np
import pytest

from flowerkit.submission import (
    check_predictions,
    check_submission,
    find_single_label,
    holds_predictions,
    read_ids,
    read_labels,
    read_predictions,
    write_predictions,
    write_submission,
)

IDS = ["a1b2", "c3d4", "e5f6", "0789"]


@pytest.fixture
def checked(tmp_path):
    """Writes the text to a csv and returns what is wrong with it, for four ids and 104 classes."""

    def check(text, encoding="utf-8"):
        path = tmp_path / "submission.csv"
        path.write_bytes(text.encode(encoding))
        return check_submission(path, IDS, 104)

    return check


def test_a_submission_is_a_header_and_a_row_per_image_and_passes_the_check(tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, IDS, np.array([3, 0, 103, 7]))
    assert path.read_bytes() == b"id,label\na1b2,3\nc3d4,0\ne5f6,103\n0789,7\n"
    assert check_submission(path, IDS, 104) == []
    assert check_submission(path, reversed(IDS), 104) == []


@pytest.mark.parametrize(
    ("ids", "labels", "message"),
    [
        (IDS, [1, 2, 3], "4 ids but 3 labels. Each image needs both."),
        ([], [], "no predictions to write. Does the test split hold any images?"),
        (["a", "b", "a"], [1, 2, 3], "row 2: id 'a' appears twice (first in row 0)"),
        ([b"a1b2"], [1], "row 0: id b'a1b2' is bytes, not text. Decode it."),
        (["a,b"], [1], "row 0: id 'a,b' does not fit into a csv"),
        ([""], [1], "row 0: id '' does not fit into a csv"),
        (["a", "b"], [1, 2.0], "row 1: label 2.0 is not an integer"),
        (["a", "b"], np.array([1.0, 2.0]), "is not an integer. Pass class indices"),
        (["a", "b"], [1, -1], "row 1: label -1 is no class; they start at 0."),
    ],
)
def test_a_wrong_submission_is_never_written(tmp_path, ids, labels, message):
    path = tmp_path / "submission.csv"
    path.write_text("the old one")
    with pytest.raises(ValueError, match=re.escape(message)):
        write_submission(path, ids, labels)
    assert path.read_text() == "the old one"


def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "submission.csv"
    path.write_text("the old one")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no room on the disk"):
        write_submission(path, IDS, [1, 2, 3, 4])
    assert path.read_text() == "the old one"
    assert [file.name for file in tmp_path.iterdir()] == ["submission.csv"]


def test_every_problem_is_listed_with_its_line(checked):
    text = "id,label\na1b2,3\nzzzz,4\na1b2,5\nc3d4,104\ne5f6,2.0\n"
    assert checked(text) == [
        "line 3: id 'zzzz' is not in the test set",
        "line 4: id 'a1b2' appears twice (first on line 2)",
        "line 5: label 104 is outside 0..103",
        "line 6: label '2.0' is not an integer",
        "5 rows, wanted 4",
        "1 id of the test set missing: '0789'",
    ]


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("", "label '' is not an integer"),
        ("nan", "label 'nan' is not an integer"),
        ("rose", "label 'rose' is not an integer"),
        (" 3", "label ' 3' is not an integer"),
        ("1e1", "label '1e1' is not an integer"),
        ("1_0", "label '1_0' is not an integer"),
        ("٣", "label '٣' is not an integer"),
        ("-1", "label -1 is outside 0..103"),
        ("9" * 5000, "label 99999999999999999999 is outside 0..103"),
    ],
)
def test_a_label_that_is_no_class_is_named(checked, label, problem):
    text = f"id,label\na1b2,3\nc3d4,{label}\ne5f6,0\n0789,1\n"
    assert checked(text) == [f"line 3: {problem}"]


@pytest.mark.parametrize(
    ("first_lines", "problem"),
    [
        ("Id,Label\n", "line 1: header is 'Id,Label', wanted 'id,label'"),
        ("id,label,p\n", "line 1: header is 'id,label,p', wanted 'id,label'"),
        ("", "line 1: no header; wanted 'id,label'"),
    ],
)
def test_a_wrong_header_is_a_problem_and_the_rows_are_checked_too(checked, first_lines, problem):
    text = first_lines + "a1b2,3\nc3d4,0\ne5f6,103\n0789,999\n"
    last_line = text.count("\n")
    assert checked(text) == [problem, f"line {last_line}: label 999 is outside 0..103"]


def test_wrong_columns_and_empty_lines_are_problems(checked):
    assert checked("id,label\na1b2\n\nc3d4,1,2\ne5f6,0\n0789,1\n") == [
        "line 2: 1 column, wanted 2 (id,label)",
        "line 3: empty",
        "line 4: 3 columns, wanted 2 (id,label)",
        "5 rows, wanted 4",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffid,label\na1b2,3\nc3d4,0\ne5f6,1\n0789,7\n",
        "id,label\r\na1b2,3\r\nc3d4,0\r\ne5f6,1\r\n0789,7\r\n",
        'id,label\n"a1b2","3"\nc3d4,0\ne5f6,1\n0789,7',
        "id,label\na1b2,3\nc3d4,0\ne5f6,1\n0789,7\n\n\n",
    ],
    ids=["byte order mark", "windows line ends", "quotes", "empty lines at the end"],
)
def test_what_spreadsheets_and_editors_do_is_no_problem(checked, text):
    assert checked(text) == []


def test_an_unclosed_quote_spoils_only_its_own_line(checked):
    assert checked('id,label\n"a1b2,3\nc3d4,0\ne5f6,1\n0789,7\n') == [
        "line 2: 1 column, wanted 2 (id,label)",
        "line 2: id '\"a1b2,3' is not in the test set",
        "1 id of the test set missing: 'a1b2'",
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_a_problem(checked, text):
    assert checked(text) == ["the file is empty; wanted the header 'id,label' and 4 rows"]


def test_a_header_alone_misses_everything(checked):
    assert checked("id,label\n") == [
        "0 rows, wanted 4",
        "4 ids of the test set missing: 'a1b2', 'c3d4', 'e5f6', '0789'",
    ]


def test_a_file_for_other_data_or_with_other_columns_is_one_problem_not_thousands(checked):
    swapped = checked("label,id\n" + "".join(f"3,{name}\n" for name in IDS))
    assert swapped == [
        "line 1: header is 'label,id', wanted 'id,label'",
        "none of the 4 rows starts with an id of the test set (line 2 starts with '3', the test "
        "set with 'a1b2'): other data, or other columns; the rows were not checked",
    ]
    semicolons = checked("id;label\n" + "".join(f"{name};3\n" for name in IDS))
    assert len(semicolons) == 2
    assert "line 2 starts with 'a1b2;3'" in semicolons[1]


def test_only_the_first_few_missing_ids_are_named(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("id,label\n0,1\n")
    problems = check_submission(path, [str(number) for number in range(7382)], 104)
    assert problems == [
        "1 row, wanted 7,382",
        "7,381 ids of the test set missing: '1', '2', '3', '4', '5' and 7,376 more",
    ]


def test_bytes_that_are_no_text_are_a_problem(checked, tmp_path):
    (problem,) = checked("id,label\na1b2,3\n", encoding="utf-16")
    assert problem.startswith("not UTF-8 text (byte 0: invalid start byte)")
    with pytest.raises(ValueError, match=r"is not UTF-8 text .* Fetch the file again"):
        read_ids(tmp_path / "submission.csv")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none.csv. Check the path"):
        check_submission(tmp_path / "none.csv", IDS, 104)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=r"has not .*--resume --out .* write_submission\(csv, "
    ):
        read_labels(tmp_path / "none.csv")
    (tmp_path / "predictions.csv").touch()
    with pytest.raises(FileNotFoundError, match=r"Did you mean .*/predictions.csv\?"):
        read_labels(tmp_path / "submission.csv")


def test_the_ids_of_the_sample_come_in_its_order(tmp_path):
    path = tmp_path / "sample_submission.csv"
    path.write_bytes(b"\xef\xbb\xbfid,label\r\nc3d4,0\r\na1b2,0\r\n")
    assert read_ids(path) == ["c3d4", "a1b2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows; wanted a csv whose first column is 'id'"),
        ("id,label\n", "holds no rows; wanted a csv"),
        ("c3d4,0\na1b2,0\n", "starts with 'c3d4,0'; wanted a csv"),
        ("id,label\nx,0\ny,0\nx,0\n", "line 4: id 'x' appears twice (first on line 2)"),
    ],
)
def test_a_sample_without_trustworthy_ids_is_refused(tmp_path, text, message):
    path = tmp_path / "sample_submission.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_ids(path)


def test_labels_are_read_back(tmp_path):
    write_submission(tmp_path / "s.csv", ["a", "b"], [3, 0])
    assert read_labels(tmp_path / "s.csv") == {"a": 3, "b": 0}


@pytest.mark.parametrize("row", ["b", "b,rose", "b,-1", "b,1,2"])
def test_a_row_that_is_no_id_and_label_is_named(tmp_path, row):
    (tmp_path / "s.csv").write_text(f"id,label\na,1\n{row}\n")
    with pytest.raises(ValueError, match=f"s.csv: '{row}' is not an id and its label"):
        read_labels(tmp_path / "s.csv")


# predictions.csv ----------------------------------------------------------------------------------

PHOTOS = ["rose/1.jpg", "lily/2.jpg", "new/3.jpg"]
CLASSES = ["lily", 'rose, "old"', "=1+1"]


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "predictions.csv"
    labels = {"rose/1.jpg": 1, "lily/2.jpg": 0}
    write_predictions(path, PHOTOS, np.array([1, 0, 2]), [0.98765, 1.0, 0.5], CLASSES, labels)
    return path


def test_predictions_have_names_and_probabilities_and_the_true_label_where_it_is_known(predictions):
    assert predictions.read_text(encoding="utf-8") == (
        "photo,predicted,probability,label\n"
        'rose/1.jpg,"rose, ""old""",0.9877,"rose, ""old"""\n'
        "lily/2.jpg,lily,1.0000,lily\n"
        "new/3.jpg,'=1+1,0.5000,\n"  # no formula for a spreadsheet
    )
    assert check_predictions(predictions, PHOTOS, CLASSES) == []
    assert read_predictions(predictions, CLASSES) == dict(zip(PHOTOS, [1, 0, 2], strict=True))


def test_without_labels_there_is_no_column_of_them(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, PHOTOS[:1], [1], [0.75], CLASSES)
    assert path.read_text().splitlines()[0] == "photo,predicted,probability"
    assert check_predictions(path, PHOTOS[:1], CLASSES) == []


def test_the_header_tells_predictions_from_a_submission(predictions, tmp_path):
    assert holds_predictions(predictions)
    submission = tmp_path / "submission.csv"
    write_submission(submission, IDS, [1, 2, 3, 4])
    assert not holds_predictions(submission)
    submission.write_bytes(b"")
    assert not holds_predictions(submission)
    submission.write_bytes(b"\xff\xfe")
    assert not holds_predictions(submission)
    with pytest.raises(FileNotFoundError, match="no file"):
        holds_predictions(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (",lily,1.0000", ",lilly,1.0000", "line 3: label 'lilly' is none of the classes lily, "),
        (",lily\n", ",lilly\n", "line 3: label 'lilly' is none of the classes"),
        ("1.0000", "1.2", "line 3: label has the probability '1.2', wanted 0 to 1"),
        ("1.0000", "nan", "line 3: label has the probability 'nan', wanted 0 to 1"),
        ("1.0000,lily", "1.0000", "line 3: 3 columns, wanted 4 (photo,predicted,"),
        ("lily/2.jpg,", "lily/9.jpg,", "line 3: id 'lily/9.jpg' is not in the test set"),
        ("new/3.jpg,", "lily/2.jpg,", "line 4: id 'lily/2.jpg' appears twice (first on line 3)"),
    ],
)
def test_every_problem_of_predictions_names_its_line(predictions, old, new, problem):
    text = predictions.read_text()
    assert old in text
    predictions.write_text(text.replace(old, new, 1))
    assert check_predictions(predictions, PHOTOS, CLASSES)[0].startswith(problem)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("id,label\na,3\nb,3\n", "all 2 rows have the label '3'"),
        ('photo,predicted,probability\na,"x, y",0.9\nb,"x, y",0.8\n', "the label 'x, y'"),
        ("id,label\na,3\nb,0\n", None),
        ("id,label\na,3\n", None),
    ],
)
def test_a_csv_with_one_label_alone_is_warned_of(tmp_path, text, warning):
    (tmp_path / "s.csv").write_text(text)
    found = find_single_label(tmp_path / "s.csv")
    assert warning in found if warning else found is None
