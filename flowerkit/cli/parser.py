"""The table of commands, and a parser that suggests the nearest word."""

import argparse
import importlib
import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flowerkit import __version__
from flowerkit.text import did_you_mean


class Command(NamedTuple):
    """The group in `flowerkit --help`, a line of help, and the module where it is not the group's."""

    group: str
    help: str
    module: str | None = None


COMMANDS = {
    "demo": Command("start", "draw flowers, train a small network, write a checked csv"),
    "doctor": Command("start", "device, versions, data, weights, and what is missing", "doctor"),
    "draw": Command("start", "draw flowers in the competition's layout, or as photos"),
    "convert": Command("data", "a folder of photos, a sub folder for each class, to shards"),
    "check-data": Command("data", "find pictures that are in two splits"),
    "train": Command("train", "train a plan, predict the test split, write a checked csv"),
    "contest": Command("train", "k folds of several networks and their blend, in the time given"),
    "lr-find": Command("train", "try learning rates from low to high, suggest one"),
    "study": Command("train", "train the plans of a study with several seeds, compare them"),
    "compare": Command("train", "the settings and results of several runs"),
    "models": Command("train", "list the backbones: size, weights, licence"),
    "predict": Command("look", "predict the test split with a run or a blend of runs"),
    "check": Command("look", "list every problem of a submission csv"),
    "report": Command("look", "write report.html of a run again"),
    "export": Command("use", "a run as ONNX, SavedModel, LiteRT or one .keras file"),
    "classify": Command("use", "name the flowers on photos"),
    "serve": Command("use", "a local web page that names the flower on a photo"),
    "bundle": Command("kaggle", "write the notebook for Kaggle, with the package inside"),
    "push": Command("kaggle", "push it, watch its run, fetch and check the csv"),
    "watch": Command("kaggle", "follow a run on Kaggle to its end"),
    "pull": Command("kaggle", "fetch the outputs of a run, check the csv"),
    "submit": Command("kaggle", "check and submit a csv, or that of a notebook's version"),
}


class WrongUsage(Exception):
    """A command line that cannot be carried out: one sentence, no traceback, exit status 2."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line; `command` is the command's name. Exits with 2 if it is wrong.

    Options are built for the commands in `argv` only, so that no other module is loaded.
    """
    about = "From flowers in TFRecords to a submission.csv you can trust.\n\n"
    parser = _Parser(
        prog="flowerkit",
        description=about + "\n".join(_list_commands()),
        epilog="`flowerkit COMMAND --help` lists a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flowerkit {__version__}")
    _add_debug(parser, default=False)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, description=command.help)
        if name in argv:
            load_function(name, "add_{}_options")(subparser)
        # Without a default, which would override a --debug before the command.
        _add_debug(subparser, default=argparse.SUPPRESS)
    return parser.parse_args(argv)


def load_function(name: str, pattern: str) -> Callable:
    """A function of the command `name`: `add_{}_options` or `run_{}`."""
    command = COMMANDS[name]
    module = importlib.import_module(f"flowerkit.cli.{command.module or command.group}")
    return getattr(module, pattern.format(name.replace("-", "_")))


def _list_commands() -> list[str]:
    lines = []
    for group, members in itertools.groupby(COMMANDS.items(), lambda item: item[1].group):
        lines += [f"{group}:", *(f"  {name:<12}{command.help}" for name, command in members)]
    return lines


def _add_debug(parser: argparse.ArgumentParser, *, default) -> None:
    parser.add_argument(
        "--debug", action="store_true", default=default, help="show the traceback of an error"
    )


class _Parser(argparse.ArgumentParser):
    """Usage errors are one sentence with the nearest word, and exit with 2."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        choice = re.search(r"invalid choice: (['\"])(.*?)\1", message)
        self._refuse(message, choice[2] if choice else "")

    def _refuse(self, message: str, word: str):
        known = [option for action in self._actions for option in action.option_strings]
        known += [str(choice) for action in self._actions for choice in action.choices or ()]
        hint = did_you_mean(word, known)
        self.exit(2, f"{self.prog}: {message}.{hint} `{self.prog} --help` lists all.\n")

    def parse_known_args(self, args=None, namespace=None):
        # Subparsers leave unknown words to the top, which has none of their options.
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            text = " ".join(word or "''" for word in unknown)
            self._refuse(f"unrecognized arguments: {text}", unknown[0].split("=")[0])
        return known, unknown
