"""The words of the command line: commands, options, and a parser that knows what you meant."""

import argparse
import re
from pathlib import Path

from flowerkit import __version__
from flowerkit.cli.beam import add_convert_beam_options
from flowerkit.cli.doctor import add_doctor_options
from flowerkit.cli.kaggle import (
    add_bundle_options,
    add_pull_options,
    add_push_options,
    add_submit_options,
    add_watch_options,
)
from flowerkit.cli.leaks import add_check_data_options
from flowerkit.cli.models import add_classify_options, add_export_options, add_serve_options
from flowerkit.cli.option_kinds import at_least_one
from flowerkit.cli.photos import add_convert_options
from flowerkit.cli.plan_options import add_plan_fields
from flowerkit.cli.predict import add_predict_options
from flowerkit.cli.report import add_report_options
from flowerkit.cli.studies import add_compare_options, add_study_options
from flowerkit.text import did_you_mean
from flowerkit.training.plan import PLANS


class Parser(argparse.ArgumentParser):
    """argparse that knows what you meant; usage errors are one sentence and exit with 2."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        choice = re.search(r"invalid choice: (['\"])(.*?)\1", message)
        self._refuse(message, choice[2] if choice else "")

    def _refuse(self, message: str, word: str):
        hint = did_you_mean(word, self._known_words())
        self.exit(2, f"{self.prog}: {message}.{hint} `{self.prog} --help` lists all.\n")

    def _known_words(self) -> list[str]:
        words = [word for action in self._actions for word in action.option_strings]
        for action in self._actions:
            words += map(str, action.choices or ())
        return words

    def parse_known_args(self, args=None, namespace=None):
        # Subparsers leave unknown words to the top, which knows none of their options.
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            words = " ".join(word or "''" for word in unknown)
            self._refuse(f"unrecognized arguments: {words}", unknown[0].split("=")[0])
        return known, unknown


def build_parser() -> Parser:
    """The parser of every command; `command` of what it parses is the command's name."""
    about = "From flowers in TFRecords to a submission.csv you can trust."
    parser = Parser(prog="flowerkit", description=about)
    parser.add_argument("--version", action="version", version=f"flowerkit {__version__}")
    _add_debug(parser, default=False)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    for name, (add_options, about) in _COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        add_options(command)
        # Without a default, which would go over a --debug before the command.
        _add_debug(command, default=argparse.SUPPRESS)
    return parser


def _add_demo(demo: Parser) -> None:
    demo.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for data/ and run/ [the next free runs/demo-N]"
    )
    _add_require(demo)


def _add_nothing(parser: Parser) -> None:
    """A command without options of its own."""


def _add_lr_find(lr_find: Parser) -> None:
    _add_data(lr_find)
    lr_find.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for the curve [the next free runs/lr-find-N]"
    )
    lr_find.add_argument("--plan", metavar="NAME|FILE", help="what is to be trained [competition]")
    lr_find.add_argument(
        "--phase",
        choices=("frozen", "whole"),
        help="the head alone, or all that learns later [the plan's first]",
    )
    for option, kind, value, help in (
        ("--min-rate", float, 1e-6, "the first rate"),
        ("--max-rate", float, 1.0, "the last one"),
        ("--steps", at_least_one, 100, "how many there are, a batch each"),
    ):
        metavar = "N" if kind is at_least_one else "X"
        lr_find.add_argument(
            option, type=kind, default=value, metavar=metavar, help=f"{help} [{value:g}]"
        )
    _add_require(lr_find)
    add_plan_fields(lr_find)


def _add_draw(draw: Parser) -> None:
    draw.add_argument("out", type=Path, metavar="FOLDER", help="the folder to make")
    for option, value, help in (
        ("--classes", 104, "species, 2 or more"),
        ("--image-size", 224, "in px"),
        ("--train", 3120, "images, at least one a species"),
        ("--val", 832, "images, at least one a species"),
        ("--test", 832, "images, at least one a species"),
        ("--seed", 0, "another one, other pictures"),
    ):
        draw.add_argument(option, type=int, default=value, metavar="N", help=f"{help} [{value}]")
    draw.add_argument(
        "--photos",
        type=at_least_one,
        metavar="N",
        help="instead of shards a sub folder of N photos for each species",
    )


def _add_train(train: Parser) -> None:
    _add_data(train)
    train.add_argument(
        "--out", type=Path, metavar="RUN", help="the run folder [the next free runs/PLAN-N]"
    )
    train.add_argument("--plan", help=f"{', '.join(PLANS)} or a JSON file [competition]")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    _add_require(train)
    add_plan_fields(train)


def _add_predict(predict: Parser) -> None:
    add_predict_options(predict)
    _add_data(predict, required=True)
    _add_require(predict)


def _add_study(study: Parser) -> None:
    add_study_options(study)
    _add_data(study)
    _add_require(study)


def _add_check(check: Parser) -> None:
    check.add_argument("csv", type=Path, metavar="CSV", help="the file to check")
    _add_data(check, required=True)
    check.add_argument(
        "--image-size",
        type=at_least_one,
        metavar="N",
        help="which of the stored sizes, in px, where there are several",
    )


_COMMANDS = {
    "demo": (_add_demo, "draw flowers, train a small network, write a checked csv"),
    "doctor": (add_doctor_options, "device, versions, data, weights, and what is missing"),
    "draw": (_add_draw, "draw flowers in the competition's layout, or as photos"),
    "convert": (add_convert_options, "a folder of photos, one sub folder a class, into shards"),
    "convert-beam": (
        add_convert_beam_options,
        "the same by Apache Beam, for more than one machine",
    ),
    "check-data": (add_check_data_options, "find pictures that stand in two splits"),
    "models": (_add_nothing, "list the backbones: size, weights, licence"),
    "lr-find": (_add_lr_find, "try rates from low to high, suggest one for a plan"),
    "train": (_add_train, "train a plan, predict the test split, write a checked csv"),
    "study": (_add_study, "train the plans of a study, several seeds each, and compare them"),
    "compare": (add_compare_options, "what differed between runs, and what came out"),
    "report": (add_report_options, "write report.html for a run anew"),
    "predict": (_add_predict, "predict the test split with a run or a blend, write a checked csv"),
    "check": (_add_check, "list every problem of a submission csv"),
    "export": (add_export_options, "a run as ONNX, SavedModel, LiteRT or one .keras file"),
    "classify": (add_classify_options, "name what is on photos"),
    "serve": (add_serve_options, "a local page that names what is on a photo"),
    "bundle": (add_bundle_options, "write the notebook for Kaggle, with the package inside"),
    "push": (add_push_options, "push it, watch its run, fetch and check the csv"),
    "watch": (add_watch_options, "follow a run on Kaggle to its end"),
    "pull": (add_pull_options, "fetch what it made, check the csv"),
    "submit": (add_submit_options, "check and submit a csv, or that of a notebook's version"),
}


def _add_debug(parser: Parser, *, default) -> None:
    parser.add_argument(
        "--debug", action="store_true", default=default, help="show the traceback of an error"
    )


def _add_data(parser: Parser, *, required: bool = False) -> None:
    help = (
        "the folder that holds tfrecords-jpeg-SxS/; or a folder of photos, a sub folder a class; or "
        "'auto', the competition's data (and where there is none, off Kaggle, drawn flowers); or "
        "'drawn'"
    )
    if required:
        parser.add_argument("--data", required=True, help=help)
    else:
        parser.add_argument("--data", default="auto", help=f"{help} [auto]")


def _add_require(parser: Parser) -> None:
    parser.add_argument("--require", choices=("tpu", "gpu", "cpu"), help="refuse any other device")
