import argparse

import pytest

from flowerkit.cli.option_kinds import at_least_one, at_least_zero


def test_numbers_are_read():
    assert at_least_one("32") == 32
    assert [at_least_zero(text) for text in ("0", "2.5", ".5", "3.")] == [0.0, 2.5, 0.5, 3.0]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "two"])
def test_what_is_no_whole_number_from_1_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        at_least_one(text)
    assert str(caught.value) == f"must be a whole number from 1. Received: {text!r}"


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "", "."])
def test_what_is_no_number_from_0_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        at_least_zero(text)
    assert str(caught.value) == f"must be a number from 0. Received: {text!r}"
