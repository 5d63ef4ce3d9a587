"""The last lines of a command: whether the result is good, and commands that go on from it."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from flowerkit.files import find_free_folder
from flowerkit.sources import CLASS_NAMES


def close_training(run, problems: Sequence[str] | None, command: Sequence[str]) -> list[str]:
    """The last lines of `train` and `demo` for a `SavedRun`; of one that failed the last says why.

    `problems` are those of its csv, None without one; `command` is what trained it, without "flowerkit".
    """
    from flowerkit.training import judge

    verdict, csv = judge(run), _csv_of(run)
    failed = [finding for finding in verdict.findings if finding.name == "failed"]
    lines = [verdict.headline, *(str(x) for x in verdict.findings if x not in failed)]
    if run.environment.data.origin == "drawn" and not _has_option(command, "--data"):
        lines.append("these were drawn flowers: pass --data FOLDER to learn from yours")
    better = next((finding for finding in verdict.findings if finding.changes), None)
    better = [change_command(command, better.options)] if better and command else []
    if better and _has_option(command, "--out"):
        free = find_free_folder(run.path.parent, re.sub(r"-\d+$", "", run.path.name))
        better = [f"{better[0]} --out {shlex.quote(str(free))}"]
    using = [] if failed or verdict.level == "chance" else _list_uses(run, csv, problems)
    lines.append("next:")
    lines += [f"  {each}" for each in (using + better if verdict.is_good else better + using)]
    if len(lines) > 1 and lines[-1] == "next:":
        lines.pop()
    if problems:
        lines.append(f"{csv} has problems, listed above: do not use it")
    for finding in failed:
        lines.append(f"{finding}; csv and report are those of epoch {run.result.best_epoch}")
    return lines


def _has_option(command: Sequence[str], name: str) -> bool:
    return any(word.partition("=")[0] == name for word in command)


def change_command(command: Sequence[str], options: str) -> str:
    """A `flowerkit train` with other `options`, into a new folder, quoted as a shell wants it.

    >>> change_command(["train", "--data", "my photos", "--epochs=3", "--out", "run"], "--epochs 6")
    "flowerkit train --data 'my photos' --epochs 6"
    """
    changed = shlex.split(options)
    replaced = ["--out", *(word for word in changed if word.startswith("--"))]
    return join_command([*drop_options(command, replaced), *changed])


def drop_options(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words of a command without these options and their values."""
    kept, left = [], list(words)
    while left:
        word = left.pop(0)
        if word.partition("=")[0] not in names:
            kept.append(word)
        elif "=" not in word and left:
            left.pop(0)
    return kept


def join_command(words: Sequence[str | Path]) -> str:
    """A command as it can be pasted into a shell."""
    return shlex.join(["flowerkit", *map(str, words)])


def _csv_of(run) -> Path:
    from flowerkit.training import RunFolder

    return RunFolder(run.path).csv_file()


def _list_uses(run, csv: Path, problems: Sequence[str] | None) -> list[str]:
    data, name = run.environment.data, run.path
    if data.class_names == CLASS_NAMES and not data.photos:  # the competition's, in a folder too
        if problems != []:
            return []
        return [join_command(["submit", csv, "--message", run.name])]
    uses = [join_command(["serve", name])]
    if data.photos and Path(data.photos).is_dir():
        near = os.path.relpath(data.photos)
        shown = data.photos if near.startswith("..") else near
        uses.insert(0, join_command(["classify", name, shown]))
    return uses
