"""labels: the csv files that fastai, Keras, torchvision, Excel and Kaggle make, and patterns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowerkit.photos.labels import LabelsCsv, find_label, read_labels, read_pattern

PATHS = ["rose/IMG_1.JPG", "rose/2.jpg", "lily/2.jpg", "lily/장미.png"]


@pytest.fixture
def read(tmp_path):
    """`read(text, paths, **columns)`: by name its paths, class and split; and the notes."""

    def read(text, paths=PATHS, encoding="utf-8", **columns):
        file = tmp_path / "labels.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        notes = []
        rows = list(read_labels(LabelsCsv(file, **columns), paths, notes))
        return {row.name: (row.paths, row.class_name, row.split) for row in rows}, notes

    return read


def classes(rows):
    return {name: row[1] for name, row in rows.items()}


def splits(rows):
    return {name: row[2] for name, row in rows.items()}


# Encodings ----------------------------------------------------------------------------------------

KOREAN = "file,label\n2.jpg,목련\n장미.png,장미\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp949"]
)
def test_every_encoding_of_excel_is_read(read, encoding):
    rows, notes = read(KOREAN, encoding=encoding)
    assert classes(rows) == {"2.jpg": "목련", "장미.png": "장미"}
    assert rows["장미.png"][0] == ["lily/장미.png"]
    said = ["labels.csv is read as Korean from Windows (CP949)"] if encoding == "cp949" else []
    assert notes == said


@pytest.mark.parametrize(
    ("text", "encoding"), [("é, ü,ñ", "latin-1"), ("éa üb", "latin-1"), ("яблоко", "cp1251")]
)
def test_another_encoding_is_refused(read, text, encoding):
    with pytest.raises(ValueError, match=r"text neither in UTF-8 nor in UTF-16 or Korean CP949"):
        read(f"file,label\n2.jpg,{text}\n", encoding=encoding)


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("rose/IMG_1.JPG", ["rose/IMG_1.JPG"]),
        ("IMG_1", ["rose/IMG_1.JPG"]),
        ("img_1.jpg", ["rose/IMG_1.JPG"]),
        ("ROSE/img_1", ["rose/IMG_1.JPG"]),
        ("./rose\\2.jpg", ["rose/2.jpg"]),
        ("2.jpg", ["rose/2.jpg", "lily/2.jpg"]),
        ("2", ["rose/2.jpg", "lily/2.jpg"]),
        ("lily/2", ["lily/2.jpg"]),
        ("tulip/IMG_1.JPG", []),
        ("IMG_1.png", []),
    ],
)
def test_a_name_means_the_photo_that_it_spells(read, name, paths):
    rows, _ = read(f"file,label\n{name},a\nlily/장미.png,b\n")
    assert rows[name.replace("\\\\", "\\")][0] == paths


def test_names_of_two_spellings_are_told_apart(read):
    rows, _ = read("file,label\na.jpg,x\nA.jpg,y\n", ["A.jpg", "a.jpg"])
    assert rows["a.jpg"][0] == ["a.jpg"]
    assert rows["A.jpg"][0] == ["A.jpg"]


def test_folders_of_another_machine_that_all_paths_share_are_left_out(read):
    start = "/kaggle/input/flowers/"
    rows, _ = read(f"path,label\n{start}rose/2.jpg,x\n{start}lily/2.jpg,y\n{start}oak/2.jpg,z\n")
    assert [row[0] for row in rows.values()] == [["rose/2.jpg"], ["lily/2.jpg"], []]
    rows, _ = read(
        "path,label\nrose/2.jpg,x\nlily/2.jpg,y\n", ["data/rose/2.jpg", "data/lily/2.jpg"]
    )
    assert rows["rose/2.jpg"][0] == ["data/rose/2.jpg"]


# Columns ------------------------------------------------------------------------------------------

FILES = [f"{number}.jpg" for number in range(1, 7)]


def make_csv(head, *values):
    return "\n".join([head, *values]) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        "fname,flower\n1.jpg,rose\n2.jpg,lily\n",
        "flower,fname\nrose,1\nlily,2\n",
        ",fname,flower\n0,1.jpg,rose\n1,2.jpg,lily\n",
        "Unnamed: 0;사진;종\n0;1.jpg;rose\n1;2.jpg;lily\n",
        "id,label,fname\n77,rose,1.jpg\n78,lily,2.jpg\n",
    ],
)
def test_the_column_of_photos_is_seen_by_what_it_holds(read, text):
    rows, _ = read(text, FILES)
    assert [(row[0], row[1]) for row in rows.values()] == [(["1.jpg"], "rose"), (["2.jpg"], "lily")]


def test_columns_can_be_named(read):
    text = "a,b,kind,color,part\n1,2,rose,red,train\n3,4,lily,white,valid\n"
    rows, _ = read(text, FILES, image="B", label="color", split="part")
    assert rows == {"2": (["2.jpg"], "red", "train"), "4": (["4.jpg"], "white", "val")}
    with pytest.raises(
        ValueError, match=r"no column 'colour' \(--csv-label\), .* Did you mean 'color'"
    ):
        read(text, FILES, label="colour")
    with pytest.raises(ValueError, match=r"needs one of classes, such as 'label', .*--csv-label"):
        read(text, FILES)


def test_a_csv_without_names_of_columns_is_refused(read):
    with pytest.raises(
        ValueError, match=r"has the columns 1\.jpg, rose; it needs one of file names"
    ):
        read("1.jpg,rose\n2.jpg,lily\n", FILES)


def test_a_column_for_each_class_is_one_hot(read):
    text = "image_id,healthy,rust,Scab\n1,1,0,0\n2,0,1,0\n3,0,0,1\n4,0,0,0\n5,1,1,0\n"
    rows, _ = read(text, FILES)
    assert list(classes(rows).values()) == ["healthy", "rust", "Scab", None, None]
    rows, _ = read("f,rose,lily\n1,1.0,0.0\n2,False,True\n", FILES)
    assert list(classes(rows).values()) == ["rose", "lily"]


# Splits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("is_valid", ["True", "False", "FALSE"], ["val", "train", "train"]),
        ("is_valid", ["1", "0", "0"], ["val", "train", "train"]),
        ("is_valid", ["0.0", "1.0", ""], ["train", "val", None]),
        ("is_test", ["1", "0", "0"], ["test", None, None]),
        ("is_train", ["1", "0", "1"], ["train", "val", "train"]),
        ("split", ["Training", "valid", "TEST"], ["train", "val", "test"]),
        ("subset", ["학습", "검증", "시험"], ["train", "val", "test"]),
        ("fold", ["0", "1", "2"], ["val", "train", "train"]),
        ("fold", ["5", "1", "3"], ["train", "val", "train"]),
        ("fold", ["1.0", "0.0", "1.0"], ["train", "val", "train"]),
    ],
)
def test_a_column_of_splits_is_read_as_its_values_say(read, column, values, expected):
    lines = [f"{k}.jpg,rose,{value}" for k, value in enumerate(values, start=1)]
    rows, notes = read(make_csv(f"file,label,{column}", *lines), FILES)
    assert list(splits(rows).values()) == expected
    assert len(notes) == (column == "fold")


def test_a_column_of_folds_that_is_empty_says_nothing(read):
    rows, notes = read("file,label,fold\n1,a,\n2,b,\n", FILES)
    assert ([split for *_, split in rows.values()], notes) == ([None, None], [])


def test_the_fold_that_is_val_is_said(read):
    _, notes = read("file,label,fold\n1,a,1\n2,b,2\n3,b,3\n", FILES)
    assert notes == ["labels.csv: fold 1 of the column 'fold' is val, the other 2 are train"]


# Patterns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "label"),
    [
        (r"(.+)_\d+", "images/Abyssinian_1.jpg", "Abyssinian"),
        (r"^(.*)_\d+.jpg$", "great_dane_12.jpg", "great_dane"),
        (r"([^/]+)/[^/]+$", "flowers/rose/1.jpg", "rose"),
        (r"^(\d+)_", "rose/1.jpg", None),
        (r"class=(\w*)", "class=.jpg", None),
        ("(.+?)[0-9]", "\u1100\u11611.jpg", "가"),
    ],
)
def test_a_pattern_finds_the_class_in_the_name_or_the_path(pattern, path, label):
    assert find_label(read_pattern(pattern), path) == label


# Any csv ------------------------------------------------------------------------------------------

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters='/\\,;"', categories=["L", "N"]), min_size=1
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    names=st.lists(NAMES, min_size=2, max_size=6, unique_by=str.casefold),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    mark=st.sampled_from(",;\t"),
    end=st.sampled_from(["", ".jpg", ".JPG"]),
    order=st.permutations([0, 1, 2]),
)
def test_every_photo_gets_the_label_of_its_row(tmp_path_factory, names, encoding, mark, end, order):
    file = tmp_path_factory.mktemp("csv") / "labels.csv"
    columns = [["photo", *(name + end for name in names)]]
    columns += [["label", *(f"c{k}" for k in range(len(names)))], ["note", *("-" for _ in names)]]
    lines = (mark.join(columns[k][row] for k in order) for row in range(len(names) + 1))
    file.write_text("\n".join(lines), encoding=encoding)
    paths = [f"folder/{name}.jpg" for name in names]
    rows = list(read_labels(LabelsCsv(file), paths, []))
    assert [row.paths for row in rows] == [[path] for path in paths]
    assert [row.class_name for row in rows] == [f"c{k}" for k in range(len(names))]
