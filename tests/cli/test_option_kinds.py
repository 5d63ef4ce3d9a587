import argparse

import pytest

from flowerkit.cli.option_kinds import at_least_one


def test_numbers_are_read():
    assert at_least_one("32") == 32


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "two"])
def test_what_is_no_whole_number_from_1_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        at_least_one(text)
    assert str(caught.value) == f"must be a whole number from 1. Received: {text!r}"
