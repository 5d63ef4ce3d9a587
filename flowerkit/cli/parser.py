"""The table of commands, and a parser whose errors know the words of other tools."""

import argparse
import importlib
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flowerkit import __version__
from flowerkit.cli.arguments import explain_arguments, find_kind
from flowerkit.synonyms import explain_choice, find_command, find_name, find_way
from flowerkit.text import did_you_mean, join_some


class Command(NamedTuple):
    """The group in `flowerkit --help`, a line of help, an example, and the module if not the group's."""

    group: str
    help: str
    example: str
    module: str | None = None


COMMANDS = {
    "demo": Command("start", "draw flowers, train a small network, write a checked csv", "demo"),
    "doctor": Command(
        "start",
        "device, versions, data, weights, and what is missing",
        "doctor --data photos",
        "doctor",
    ),
    "draw": Command(
        "start",
        "draw flowers in the competition's layout, or as photos",
        "draw photos --photos 40 --classes 5 --image-size 64",
    ),
    "convert": Command(
        "data",
        "a folder of photos, a sub folder for each class, to shards",
        "convert photos data --image-size 224",
    ),
    "check-data": Command(
        "data", "find pictures that are in two splits", "check-data data --out pairs"
    ),
    "clean": Command(
        "data",
        "find labels that are probably wrong, decide on them on a local page",
        "clean runs/mine",
        "use",
    ),
    "train": Command(
        "train",
        "train a plan, predict the test split, write a checked csv",
        "train --data photos --max-minutes 5 --out runs/mine",
    ),
    "contest": Command(
        "train",
        "k folds of several networks and their blend, in the time given",
        "contest --data data --max-minutes 60 --out contest",
    ),
    "lr-find": Command(
        "train", "try learning rates from low to high, suggest one", "lr-find --data photos"
    ),
    "study": Command(
        "train",
        "train the plans of a study with several seeds, compare them",
        "study learning-rates --data data --seeds 3",
    ),
    "compare": Command(
        "train",
        "the settings and results of several runs",
        "compare runs/fine-tune-1 runs/ramp-1 --out comparison",
    ),
    "models": Command("train", "list the backbones: size, weights, licence", "models"),
    "predict": Command(
        "look",
        "predict the test split with a run or a blend of runs",
        "predict runs/mine --data data --out submission.csv",
    ),
    "check": Command(
        "look",
        "list every problem of a submission csv",
        "check runs/mine/submission.csv --data data",
    ),
    "report": Command("look", "write report.html of a run again", "report runs/mine"),
    "export": Command(
        "use",
        "a run as ONNX, SavedModel, LiteRT or one .keras file",
        "export runs/mine --format onnx",
    ),
    "classify": Command(
        "use", "name the flowers on photos", "classify runs/mine photos --csv names.csv"
    ),
    "serve": Command("use", "a local web page that names the flower on a photo", "serve runs/mine"),
    "bundle": Command(
        "kaggle",
        "write the notebook for Kaggle, with the package inside",
        "bundle --owner <your-name>",
    ),
    "push": Command(
        "kaggle", "push it, watch its run, fetch and check the csv", "push --require tpu"
    ),
    "watch": Command(
        "kaggle", "follow a run on Kaggle to its end", "watch <your-name>/<your-notebook>"
    ),
    "pull": Command(
        "kaggle",
        "fetch the outputs of a run, check the csv",
        "pull <your-name>/<your-notebook> outputs",
    ),
    "submit": Command(
        "kaggle",
        "check and submit a csv, or that of a notebook's version",
        'submit submission.csv --message "first try"',
    ),
    "publish": Command(
        "kaggle",
        "a run as a Kaggle Model, or its weights as a data set",
        "publish runs/mine --kaggle-model <your-name>/petals-flowerkit --licence apache-2.0",
    ),
}

_ABOUT = "From flowers in TFRecords, or from your photos, to a classifier and a csv you can trust."
_WELCOME = f"""flowerkit {__version__}. {_ABOUT}

Begin with one of these:
  flowerkit demo                  drawn flowers, a small network, a report: two minutes
  flowerkit doctor                what this machine has, and what is missing
  flowerkit train --data photos   a folder of your photos, a sub folder for each class

`flowerkit --help` lists all commands, `flowerkit COMMAND --help` the options of one."""


class WrongUsage(Exception):
    """A command line that cannot be carried out: one sentence, no traceback, exit status 2."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line; `command` is the command's name. Exits with 2 if it is wrong.

    Options are built for the command in `argv` only, so that no other module is loaded.
    """
    parser = _Parser(
        prog="flowerkit",
        description="\n".join([_ABOUT, "", *_list_commands()]),
        epilog="`flowerkit COMMAND --help` lists a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--version] [--debug] COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"flowerkit {__version__}")
    _add_debug(parser, default=False)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", prog="flowerkit", required=True, help=argparse.SUPPRESS
    )
    words = [word for word in argv if not word.startswith("-")]
    if not argv:
        parser._print_message(_WELCOME + "\n", sys.stdout)
        parser.exit()
    if words[:1] == ["help"]:  # as in git
        argv = [*words[1:2], "--help"]
    elif words[:1] == ["version"]:
        argv = ["--version"]
    for name in COMMANDS:
        subparser = commands.add_parser(name)
        if name in argv:
            _add_options(subparser, name)
    return parser.parse_args(argv)


def load_function(name: str, pattern: str) -> Callable:
    """A function of the command `name`: `add_{}_options` or `run_{}`."""
    command = COMMANDS[name]
    module = importlib.import_module(f"flowerkit.cli.{command.module or command.group}")
    return getattr(module, pattern.format(name.replace("-", "_")))


def _add_options(parser: argparse.ArgumentParser, name: str) -> None:
    parser.description = COMMANDS[name].help
    parser.epilog = f"example:\n  flowerkit {COMMANDS[name].example}"
    load_function(name, "add_{}_options")(parser)
    # Without a default, which would override a --debug before the command.
    _add_debug(parser, default=argparse.SUPPRESS)


def _list_commands() -> list[str]:
    lines = []
    for group, members in itertools.groupby(COMMANDS.items(), lambda item: item[1].group):
        lines += [f"{group}:", *(f"  {name:<12}{command.help}" for name, command in members)]
    return lines


def _add_debug(parser: argparse.ArgumentParser, *, default) -> None:
    parser.add_argument(
        "--debug", action="store_true", default=default, help="show the traceback of an error"
    )


class _Help(argparse.HelpFormatter):
    """Wraps all but the example at the end."""

    def _fill_text(self, text, width, indent):
        if text.startswith("example:"):
            return textwrap.indent(text, indent)
        return super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """Usage errors are one sentence with the word that was meant, and exit with 2."""

    def __init__(self, **options):
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False} | options)
        self.wrong: list[tuple[str, str]] = []  # (what is wrong, the word that was meant)

    def error(self, message):
        if self.prog == "flowerkit" and (word := _find_choice(message)):
            meant = find_command(word)
            hint = meant and f" Did you mean {meant!r} ({COMMANDS[meant].help})?"
            self._refuse(f"no command {word!r}", hint or did_you_mean(word, COMMANDS))
        self._refuse(message, self._explain_error(message))

    def _explain_error(self, message: str) -> str:
        if message.startswith("the following arguments are required"):
            command = COMMANDS.get(self.prog.rpartition(" ")[2], COMMANDS["demo"])
            return f" For example: `flowerkit {command.example}`."
        if number := re.search(r"must be a .*Received: '(\d+(?:\.\d+)?)[^\d.'][^']*'$", message):
            return f" Did you mean {number[1]}?"
        choices = [str(each) for action in self._actions for each in action.choices or ()]
        return explain_choice(_find_choice(message), choices)

    def _get_values(self, action, arg_strings):
        try:
            return super()._get_values(action, arg_strings)
        except argparse.ArgumentError as error:  # argparse would end at the first
            if self.prog == "flowerkit":
                raise
            self.wrong.append((str(error), self._explain_error(str(error))))

    def _refuse(self, *wrong: str):
        first, *more = (f"{fact}.{hint}" for fact, hint in (*self.wrong, *filter(None, [wrong])))
        sentences = [first, *(each[0].upper() + each[1:] for each in more)]
        self.exit(2, f"{self.prog}: {' '.join(sentences)} `{self.prog} --help` lists all.\n")

    def parse_known_args(self, args=None, namespace=None):
        # Before argparse misses what an unknown option was meant to give.
        for word in itertools.takewhile(lambda word: word != "--", args or ()):
            if self.prog == "flowerkit" and not word.startswith("-"):
                break  # a command, with options of its own
            if not word or re.fullmatch(r"--[\w-]+=", word):
                self._refuse(f"an argument is empty ({word or repr(word)})", " Give it a value.")
            name = word.partition("=")[0]
            is_option = re.fullmatch(r"(?!-h)--?[^\W\d][\w.-]*", name)
            if is_option and name not in self._option_string_actions:
                later = next((each for each in args if each in COMMANDS), None)
                if later and self.prog == "flowerkit":
                    self._refuse(f"{name} stands before {later}", " Options follow the command.")
                if (no_option := f"no option {name}") not in dict(self.wrong):
                    self.wrong.append((no_option, self._explain_option(name)))
            if name == "--data" and [each.partition("=")[0] for each in args].count(name) > 1:
                self._refuse("--data is given twice", " Put all into one folder.")
        if self.wrong:
            self._refuse()
        is_help = not {"-h", "--help"}.isdisjoint(args or ())
        if self.prog != "flowerkit" and not is_help and (wrong := explain_arguments(self, args)):
            self._refuse(*wrong)
        known, unknown = super().parse_known_args(args, namespace)
        if self.wrong:
            self._refuse()
        if unknown:
            words, options = " ".join(word or "''" for word in unknown), self._option_string_actions
            hint = ""
            if pairs := [word.split("=", 1) for word in unknown if re.match(r"\w+=.", word)]:
                own = _names_of(self, positional=False)
                named = [
                    (own.get(find_name(key, own) or "", f"--{key}"), value) for key, value in pairs
                ]
                shown = " ".join(word for pair in named for word in pair)
                hint = f" Did you mean {shown}?"
            elif find_kind(unknown[0]) == "run" and "--resume" in options:
                hint = f" Did you mean --resume --out {words}, or --weights {words}?"
            elif "--data" in options and "--data" not in args:
                hint = f" Did you mean --data {words}?"
            self._refuse(f"unrecognized arguments: {words}", hint)
        return known, unknown

    def _explain_option(self, name: str) -> str:
        """The option that is meant, how flowerkit does it, or which command has such an option."""
        own, command = _names_of(self), self.prog.rpartition(" ")[2]
        if found := find_name(name, own, spelled=False):
            return f" `{self.prog}` takes it as {own[found]}."
        if way := find_way(name):
            named = re.findall(r"--[a-z-]+", re.sub("`.*?`", "", way))
            way = way if set(named) <= set(own.values()) else f"in `flowerkit train` {way}"
            return f" {way[0].upper()}{way[1:]}."
        if found := find_name(name, own):
            return f" Did you mean {own[found]}?"
        having: dict[str, list[str]] = {}
        for other in sorted(COMMANDS, key=lambda each: each != "train"):
            if other != command:
                parser = _Parser(prog=f"flowerkit {other}")
                _add_options(parser, other)
                names = _names_of(parser, positional=False)
                if found := find_name(name, names, spelled=False):
                    having.setdefault(names[found], []).append(other)
        for option, others in having.items():
            return f" {option} is an option of {join_some(others)}."
        return ""


def _find_choice(message: str) -> str:
    """The word of argparse's message about an invalid choice; empty for other messages."""
    match = re.search(r"invalid choice: (['\"])(.*?)\1", message)
    return match[2] if match else ""


def _names_of(parser: argparse.ArgumentParser, *, positional: bool = True) -> dict[str, str]:
    """What each argument of `parser` is typed as, by its name."""
    names = {}
    for action in parser._actions:
        if action.option_strings:
            names |= {name.lstrip("-").replace("-", "_"): name for name in action.option_strings}
        elif positional and action.metavar:
            names[action.dest] = f"{action.metavar}, without an option"
    return {name: shown for name, shown in names.items() if len(name) > 1}
