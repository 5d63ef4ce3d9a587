"""Kinds of option values that argparse lacks; each refuses what does not fit with a sentence."""

import argparse


def at_least_one(text: str) -> int:
    """A whole number from 1, or argparse's error.

    >>> at_least_one("32")
    32
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1. Received: {text!r}")
    return int(text)
