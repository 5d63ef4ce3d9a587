"""An option for every field of a TrainingPlan: its words, and how its text is read."""

import argparse
import contextlib
import types
import typing
from dataclasses import fields

from flowerkit.pipeline import Augmentation
from flowerkit.training.plan import COMPETITION, TrainingPlan


def add_plan_fields(parser: argparse.ArgumentParser) -> None:
    """An option for every field of a TrainingPlan; one that is not given is no attribute."""
    group = parser.add_argument_group(
        "plan fields", "They go over what the plan says; in brackets the competition plan's values."
    )
    helps = {field.name: field.metadata.get("help") for field in fields(Augmentation)}
    helps |= {
        field.name: field.metadata["help"] for field in fields(TrainingPlan) if field.metadata
    }
    for name, hint in typing.get_type_hints(TrainingPlan).items():
        option, value = "--" + name.replace("_", "-"), getattr(COMPETITION, name)
        shared = {"help": f"{helps[name]} [{_spell(value)}]", "default": argparse.SUPPRESS}
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if kinds == (bool,):
            group.add_argument(option, action=argparse.BooleanOptionalAction, **shared)
        else:
            kind = next(kind for kind in kinds if kind is not types.NoneType)
            read = _reader(kind, optional=types.NoneType in kinds, or_number=float in kinds)
            metavar = {str: "NAME", int: "N", float: "X"}[kind]
            group.add_argument(option, type=read, metavar=metavar, **shared)


def _spell(value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    return str(value)


def _reader(kind: type, *, optional: bool, or_number: bool):
    def read(text: str):
        if optional and text.lower() == "none":
            return None
        if or_number:  # of a name or a number
            with contextlib.suppress(ValueError):
                return float(text)
        return kind(text)

    read.__name__ = kind.__name__  # argparse says "invalid int value" with it
    return read
