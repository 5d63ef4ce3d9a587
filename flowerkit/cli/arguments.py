"""Arguments in the wrong order, or of the wrong kind: what they are, and the command that was meant.

Only names and folders are looked at: what a path is called, and which files lie there.
"""

import argparse
import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from flowerkit.photos import SUFFIXES
from flowerkit.sources import OUTPUTS, find_output, is_of_photos

# What a path can be, in words.
KINDS = {
    "run": "a run folder",
    "runs": "a folder of runs",
    "model": "an exported model",
    "photo": "a photo",
    "photos": "a folder of photos",
    "data": "a folder of shards",
    "csv": "a csv",
    "plan": "a JSON file",
    "file": "a file of a run",
    "url": "an address",
    "new": "a new folder",
    **{kind: kind for kind in OUTPUTS.values()},
}
_MODELS = (".keras", ".onnx", ".tflite")


def find_kind(word: str) -> str | None:
    """A key of KINDS; None for what is none of these, or not there and without a telling suffix."""
    if re.match(r"https?://", word):
        return "url"
    path = Path(word)
    suffix = path.suffix.lower()
    if path.is_dir():
        if (path / "plan.json").is_file() or (path / "model.keras").is_file():
            return "run"
        if (path / "saved_model.pb").is_file():
            return "model"
        if any(path.glob("tfrecords-jpeg-*")):
            return "data"
        if is_of_photos(path):
            return "photos"
        return "runs" if any(path.glob("*/plan.json")) else find_output(path)
    if suffix in SUFFIXES:
        return "photo"
    if suffix == ".csv":
        return "csv"
    if path.is_file() and find_run(path):
        return "model" if suffix in _MODELS else "file"
    return {".json": "plan"}.get(suffix, "model" if suffix in _MODELS else None)


def find_run(path: Path) -> Path | None:
    """The run folder that a file lies in, in its checkpoints/ too."""
    return next((each for each in path.parents[:2] if (each / "plan.json").is_file()), None)


def explain_arguments(
    parser: argparse.ArgumentParser, words: Sequence[str]
) -> tuple[str, str] | None:
    """(what is wrong with the `words` of a command, the one that was meant); None if nothing is."""
    given, options = _divide(parser, words)
    slots = {x: [] for x in parser._actions if _is_needed(x) or (x in options and _takes(x))}
    spare = []
    for word in given:  # as argparse understands them
        place = next((x for x in slots if not x.option_strings and _has_room(x, slots[x])), None)
        (spare if place is None else slots[place]).append(word)
    for action in slots:
        slots[action] += options.get(action, [])
    facts = [_describe(word, action) for action, each in slots.items() for word in each]
    if spare and not all(slots.values()):
        facts.append(f"{spare[0]} needs the name of its option")
    if not any(facts):
        return None
    # All anew, what is known first: each into the first place that takes it.
    placed, lost = {action: [] for action in slots}, {}
    everything = [word for each in slots.values() for word in each] + spare
    for word in sorted(everything, key=lambda word: find_kind(word) is None):
        found, place = _find_place(word, placed)
        if place is None:
            lost[find_kind(found)] = shlex.quote(found)
        elif found not in placed[place]:
            placed[place].append(found)
    meant = _explain_lost(lost, parser._option_string_actions)
    if not meant:
        shown = _show(parser, placed, options)
        is_whole = not lost and all(placed.values())
        meant = f"Did you mean `{shown}`?" if is_whole else f"Pass `{shown}`."
    return "; ".join(filter(None, facts)), f" {meant}"


def _describe(word: str, action: argparse.Action) -> str | None:
    """What is wrong with a word as the value of an argument."""
    kind, takes = find_kind(word), _takes(action)
    # Of an address for --data `find_data` knows better.
    if not takes or kind in (None, *takes) or (kind == "url" and "data" in takes):
        return None
    name = action.option_strings[0] if action.option_strings else action.metavar
    wanted = " or ".join(KINDS[each] for each in takes)
    return f"{word} is {KINDS[kind]}, but {name} must be {wanted}"


def _explain_lost(lost: Mapping[str | None, str], options: Collection[str]) -> str | None:
    """How a command with these `options` uses what no argument takes, by its kind."""
    if address := lost.get("url"):
        return f"Download it first: `curl -LO {address}`."
    if (csv := lost.get("csv")) and "--labels" in options:
        return f"`--data FOLDER --labels {csv}` takes labels from it."
    if (run := lost.get("run")) and "--resume" in options:
        return f"`--resume --out {run}` continues the run, `--weights {run}` trains on from it."
    if source := lost.get("photos") or lost.get("data"):
        return f"`flowerkit train --data {source}` makes a run of it."
    return None


def _takes(action: argparse.Action) -> tuple[str, ...]:
    """The kinds that an argument takes; () for any."""
    return getattr(action, "takes", ())


def _find_place(word: str, placed) -> tuple[str, argparse.Action | None]:
    """(word, the argument that takes it); of a file of a run perhaps its folder, of a run its csv.

    Of a folder of runs it is the first run, or the shards beside it, as in that of the demo.
    """
    path, kind = Path(word), find_kind(word)
    candidates = [word, find_run(path) if path.is_file() else None]
    if kind == "runs":
        inner = [*path.glob("*/plan.json"), *path.glob("*/tfrecords-jpeg-*")]
        candidates += sorted({file.parent for file in inner})
    candidates += [path / name for name in ("predictions.csv", "submission.csv") if kind == "run"]
    for each in [str(each) for each in candidates if each and (each == word or each.exists())]:
        for action, words in placed.items():
            takes = _takes(action)
            fits = not action.option_strings
            if kind:  # what is there belongs elsewhere than into a new folder
                fits = find_kind(each) in takes and "new" not in takes
            if fits and _has_room(action, words):
                return each, action
    return word, None


def _is_needed(action: argparse.Action) -> bool:
    return not action.option_strings or action.required


def _has_room(action: argparse.Action, words: Sequence[str]) -> bool:
    return action.nargs == "+" or not words


def _divide(parser, words) -> tuple[list[str], dict[argparse.Action, list[str]]]:
    """(the words without an option, the values of each option)."""
    given, rest, left = [], {}, list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            given += left
            break
        name, equals, value = word.partition("=")
        action = parser._option_string_actions.get(name) if word.startswith("-") else None
        if action is None:
            given.append(word)
            continue
        values = rest.setdefault(action, [])
        if equals:
            values.append(value)
        elif action.nargs == "+":
            while left and not left[0].startswith("-"):
                values.append(left.pop(0))
        elif action.nargs != 0 and left:
            values.append(left.pop(0))
    return given, rest


def _show(parser, placed, options) -> str:
    """The command, with the name of each argument that is not given."""
    words = [parser.prog]
    for action, values in (placed | {x: options[x] for x in options if x not in placed}).items():
        option = [action.option_strings[-1]] if action.option_strings else []
        shown = [shlex.quote(os.fspath(value)) for value in values]
        if not shown and action.nargs != 0:
            shown = [action.metavar or action.dest.upper()]
        words += [*option, *shown]
    return " ".join(words)
