"""Decisions on labels: the csv, what it changes in photos and in shards, and what is refused."""

import pytest
from PIL import Image

from flowerkit.data import find_ids, load_split
from flowerkit.photos import convert_photos
from flowerkit.photos.decisions import (
    Decision,
    apply_decisions,
    is_decisions,
    read_decisions,
    relabel,
    write_decisions,
)
from flowerkit.photos.listing import list_photos
from flowerkit.sources import find_data

WHEN = "2026-11-27 05:00:00"
HEAD = "id,file,given,new,decided\n"


@pytest.fixture
def write(tmp_path):
    def write(*rows, head=HEAD):
        file = tmp_path / "decisions.csv"
        file.write_text(head + "".join(f"{row}\n" for row in rows), encoding="utf-8")
        return file

    return write


# The csv ------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path):
    made = [
        Decision("a1", "장미/1, 2.jpg", "장미", "leave out", WHEN),
        Decision("=b", "=x/1.jpg", "=x", "rose", WHEN),
        Decision("c", "", "rose", "rose", WHEN),
    ]
    write_decisions(tmp_path / "d.csv", made)
    assert list(read_decisions(tmp_path / "d.csv").values()) == made
    assert is_decisions(tmp_path / "d.csv")


def test_a_csv_of_labels_is_no_csv_of_decisions(write, tmp_path):
    assert not is_decisions(write("1.jpg,rose", head="file,label\n"))
    assert not is_decisions(tmp_path)
    with pytest.raises(FileNotFoundError, match="other.csv"):
        is_decisions(tmp_path / "other.csv")


def test_a_csv_that_a_spreadsheet_saved_is_read(tmp_path):
    file = tmp_path / "d.csv"
    file.write_bytes("id;file;given;new\n7;a/7.jpg;rose;튤립\n".encode("utf-16"))
    assert read_decisions(file) == {"7": Decision("7", "a/7.jpg", "rose", "튤립", "")}


@pytest.mark.parametrize(
    ("rows", "values"),
    [
        (["a,,rose,lily,", "b,,rose,rose,", "a,,rose,leave out,"], ["'a'", "line 2", "line 4"]),
        (["a,,,rose,"], ["line 2", "no given"]),
        ([",,rose,lily,"], ["line 2", "no id"]),
    ],
)
def test_rows_that_decide_nothing_or_twice_are_refused_by_their_lines(write, rows, values):
    with pytest.raises(ValueError) as error:
        read_decisions(write(*rows))
    assert all(value in str(error.value) for value in values)


def test_the_same_decision_twice_is_one_and_an_empty_one_is_none(write):
    assert list(read_decisions(write("a,,rose,lily,", "b,,rose,,", "a,,rose,lily,"))) == ["a"]


@pytest.mark.parametrize("new", ["Leave out", "LEAVE OUT"])
def test_leave_out_is_read_in_any_case(write, new):
    assert read_decisions(write(f"a,,rose,{new},"))["a"].new == "leave out"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            f'{HEAD}a,,rose,lily,\n"b,,rose,lily,\nc,,rose,lily,\n'.encode(),
            "line 2 or later.*close",
        ),
        (f"{HEAD}a\0,,rose,lily,\n".encode(), "Save it as csv in UTF-8"),
        (f"{HEAD}a,,rose,caf\xe9,\n".encode("latin-1"), "Save it as csv in UTF-8"),
        (b"", "no column 'id'.*Pass such a csv"),
    ],
)
def test_a_damaged_csv_is_refused_and_loses_no_decision(tmp_path, content, reason):
    file = tmp_path / "d.csv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"d\.csv.*{reason}"):
        read_decisions(file)


def test_a_folder_is_no_csv(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder. Pass a csv"):
        read_decisions(tmp_path)


def test_another_csv_is_refused_by_its_columns(write):
    with pytest.raises(ValueError, match="no column 'file' and 'given' and 'new'"):
        read_decisions(write("a,rose", head="id,label\n"))


# Shards -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(drawn):
    """Of each split its ids, and the class name of each id."""
    found = {}
    for name in ("train", "val"):
        split = load_split(drawn, name)
        names = [drawn.class_names[label] for label in split.labels]
        found[name] = dict(zip(split.ids.tolist(), names, strict=True))
    return found


def test_shards_keep_their_bytes_and_get_other_labels(drawn, known, write):
    (first, was), (second, kept), (third, of_third) = list(known["train"].items())[:3]
    (of_val, in_val), other = next(iter(known["val"].items())), drawn.class_names[-1]
    new = other if was != other else drawn.class_names[0]
    before = {file: file.read_bytes() for file in drawn.files["train"]}
    file = write(
        f"{first},,{was},{new},",
        f"{second},,{kept},{kept},",
        f"{third},,{of_third},leave out,",
        f"{of_val},,{in_val},leave out,",
    )
    data = find_data(drawn.folder, decisions=file)
    assert data.relabelled == {first: drawn.class_names.index(new), third: None, of_val: None}
    assert (data.counts["train"], data.counts["val"]) == (49, 17)
    train = load_split(data, "train")
    labels = dict(zip(train.ids.tolist(), train.labels.tolist(), strict=True))
    assert len(train) == len(train.images) == 49
    assert third not in labels
    assert drawn.class_names[labels[first]] == new
    assert drawn.class_names[labels[second]] == kept
    assert len(load_split(data, "val")) == 17
    assert before == {file: file.read_bytes() for file in drawn.files["train"]}
    assert apply_decisions(data, file) == data  # the same again changes nothing
    assert relabel(drawn, data.relabelled).counts == data.counts


@pytest.mark.parametrize(
    ("change", "values"),
    [
        (lambda id, was: f"nobody,,{was},leave out,", ["other data", "'nobody'"]),
        (lambda id, was: f"{id},,{was},nothing like it,", ["no class", "nothing like it"]),
        (lambda id, was: f"{id},,other,{was[:-1]}x,", ["no class", "Did you mean"]),
    ],
)
def test_decisions_that_do_not_fit_are_refused(drawn, known, write, change, values):
    with pytest.raises(ValueError) as error:
        apply_decisions(drawn, write(change(*next(iter(known["train"].items())))))
    assert all(value in str(error.value) for value in values)


def test_an_id_with_a_third_label_is_of_other_data(drawn, known, write):
    id, was = next(iter(known["train"].items()))
    others = [name for name in drawn.class_names if name != was]
    with pytest.raises(ValueError, match=f"of other data: '{id}' was '{others[0]}'"):
        apply_decisions(drawn, write(f"{id},,{others[0]},{others[1]},"))


def test_a_test_image_has_no_label_to_change(drawn, write):
    id = find_ids(drawn.files["test"][0])[0]
    with pytest.raises(ValueError, match="of other data"):
        apply_decisions(drawn, write(f"{id},,x,{drawn.class_names[0]},"))


def test_an_id_that_is_gone_may_still_be_left_out(drawn, known, write):
    id, was = next(iter(known["train"].items()))
    data = apply_decisions(drawn, write("gone,,rose,leave out,", f"{id},,{was},leave out,"))
    assert data.relabelled == {id: None}
    with pytest.raises(ValueError, match="not in"):
        relabel(drawn, {"gone": None})


# Photos -------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """Empty files: a listing opens none."""
    for path in ("rose/1.jpg", "rose/2.jpg", "rose/3.jpg", "lily/1.jpg", "lily/2.jpg"):
        file = tmp_path / "photos" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "photos"


def test_photos_get_other_labels_by_their_paths_and_stay_where_they_are(photos, write):
    file = write(
        "x,rose/1.jpg,rose,lily,", "y,rose/2.jpg,rose,leave out,", "z,lily/1.jpg,lily,lily,"
    )
    listing = list_photos(photos, decisions=file)
    assert {photo.path: photo.class_name for photo in listing.photos} == {
        "lily/1.jpg": "lily",
        "lily/2.jpg": "lily",
        "rose/1.jpg": "lily",
        "rose/3.jpg": "rose",
    }
    assert listing.left_out == {"rose/2.jpg": "decisions.csv leaves it out"}
    assert "decisions.csv: 1 label changed" in listing.notes
    assert sorted(path.name for path in (photos / "rose").iterdir()) == ["1.jpg", "2.jpg", "3.jpg"]


def test_decisions_change_the_labels_of_a_csv_too(photos, write, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\n" + "".join(f"rose/{k}.jpg,{k % 2}\n" for k in (1, 2, 3)))
    listing = list_photos(photos, labels, decisions=write("x,rose/1.jpg,1,0,"))
    assert [photo.class_name for photo in listing.photos] == ["0", "0", "1"]


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ("x,tulip/1.jpg,tulip,rose,", ["1 file", "tulip/1.jpg"]),
        ("x,rose/1.jpg,rose,tulip,", ["'tulip'", "no class"]),
        ("x,,rose,lily,", ["no file", "id x", "shards"]),
    ],
)
def test_decisions_on_other_photos_are_refused(photos, write, row, values):
    with pytest.raises(ValueError) as error:
        list_photos(photos, decisions=write(row))
    assert all(value in str(error.value) for value in values)


def test_two_decisions_on_a_photo_are_refused_whatever_its_ids(photos, write):
    file = write("1,rose/1.jpg,rose,lily,", "2,rose/1.jpg,rose,leave out,")
    with pytest.raises(ValueError, match="two decisions for rose/1.jpg, .*Keep one"):
        list_photos(photos, decisions=file)


def test_what_a_conversion_left_out_may_be_left_out_again(write, tmp_path):
    for name, colour in (("rose", "red"), ("lily", "blue")):
        (tmp_path / name).mkdir()
        for number in range(4):
            image = Image.effect_noise((40, 40), 20 * number + len(colour))
            image.save(tmp_path / name / f"{number}.png")
    file, out = write("rose/3.png,rose/3.png,rose,leave out,"), tmp_path.with_name("converted")
    convert_photos(tmp_path, out, image_size=32, decisions=file, workers=1)
    data = find_data(out, decisions=file)
    assert data.relabelled == {}
    for row in ("rose/3.png,rose/3.png,rose,lily,", "x,rose/9.png,rose,leave out,"):
        with pytest.raises(ValueError, match="is of other data"):
            find_data(out, decisions=write(row))


def test_decisions_are_not_taken_for_the_labels_of_all_photos(photos, write):
    with pytest.raises(ValueError, match="decisions="):
        list_photos(photos, write("x,rose/1.jpg,rose,lily,"))
