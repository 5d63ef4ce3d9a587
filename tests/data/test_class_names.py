"""The order of class names, names that look the same, and what a csv holds for a class."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerkit.data import find_alike, find_csv_labels, sort_class_names
from flowerkit.submission import check_submission, read_labels, write_submission

NUMBERS = st.lists(st.integers(0, 200), min_size=2, max_size=20, unique=True)
WORDS = st.text("abc장미 ,\"'", min_size=1, max_size=6).filter(lambda text: text == text.strip())


def test_numbers_are_in_the_order_of_their_values_before_words():
    names = ["rose", "11", "2", "0", "1.5", "-3", "１０", "장미", "1e2", "nan", "inf"]
    assert sort_class_names(names) == (
        *("-3", "0", "1.5", "2", "１０", "11"),
        *("1e2", "inf", "nan", "rose", "장미"),
    )


@given(NUMBERS, st.integers(1, 5), st.randoms())
def test_numbers_are_sorted_as_numbers_with_any_zeros_before_them(numbers, width, random):
    names = [f"{number:0{width}}" for number in numbers]
    random.shuffle(names)
    assert list(map(int, sort_class_names(names))) == sorted(numbers)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("daisy", "rose"), None),
        (("0", "1", "2"), None),
        (("0", "1", "unknown"), None),
        (("1", "2", "3"), ("1", "2", "3")),
        (("00", "01"), ("00", "01")),
        (("0", "2"), ("0", "2")),
        (("7", "rose"), ("7", "rose")),
    ],
)
def test_a_csv_holds_names_where_a_number_would_be_read_as_another_class(names, labels):
    assert find_csv_labels(names) == labels


@given(
    st.lists(st.one_of(WORDS, NUMBERS.map(lambda found: str(found[0]))), min_size=2, unique=True)
)
def test_every_class_comes_back_from_a_csv_and_a_number_is_the_class_of_that_name(
    tmp_path_factory, found
):
    names = sort_class_names(found)
    csv = tmp_path_factory.getbasetemp() / "labels.csv"
    ids, labels = [f"{number}.jpg" for number in range(len(names))], range(len(names))
    write_submission(csv, ids, labels, find_csv_labels(names))
    assert check_submission(csv, ids, len(names), find_csv_labels(names)) == []
    assert read_labels(csv, find_csv_labels(names)) == dict(zip(ids, labels, strict=True))
    for line, name in zip(csv.read_text(encoding="utf-8").splitlines()[1:], names, strict=True):
        text = line.split(",", 1)[1]
        assert text == name if name.isdecimal() else text not in set(names) - {name}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("rose", "Rose"),
        ("rose", "rose "),
        ("rose", "rose\u200b"),
        ("rose", "\ufeffrose"),
        ("rose", "ro\u00adse"),
        ("rose", "ｒｏｓｅ"),
        ("rose", "rose\ufe0f"),
        ("장미", "장미\u3164"),
        ("a b", "a\u0085b"),
        ("a b", "a\u00a0b"),
        ("1", "01"),
        ("1", "1.0"),
        ("0", "-0"),
        ("nan", "NaN"),
    ],
)
def test_names_that_only_look_different_in_bytes_are_found(first, second):
    assert find_alike(["lily", first, second]) == (first, second)


def test_names_that_look_different_are_none():
    assert (
        find_alike(["rose", "roses", "ro se", "1", "10", "1.01", "1e0", "nan", "장미", "장"])
        is None
    )
