"""Kinds of option values that argparse lacks; each refuses what does not fit with a sentence."""

import argparse
import re


def at_least_one(text: str) -> int:
    """A whole number from 1, or argparse's error.

    >>> at_least_one("32")
    32
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1. Received: {text!r}")
    return int(text)


def at_least_zero(text: str) -> float:
    """A number from 0, or argparse's error.

    >>> at_least_zero("2.5")
    2.5
    """
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text):
        raise argparse.ArgumentTypeError(f"must be a number from 0. Received: {text!r}")
    return float(text)
