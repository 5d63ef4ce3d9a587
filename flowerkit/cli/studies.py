"""The commands `compare` and `study`: their options, and what they do. Light until one is run."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

from flowerkit.cli.connecting import connect_device
from flowerkit.cli.option_kinds import at_least_one
from flowerkit.cli.terminal import quiet_frameworks
from flowerkit.experiments.studies import STUDIES
from flowerkit.files import find_free_folder
from flowerkit.sources import find_data
from flowerkit.text import pluralize

Echo = Callable[[str], None]


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    """The options of `flowerkit compare`."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="finished run folders; those that differ in the seed alone are one row",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write the table there too: html with curves, markdown, csv",
    )


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """The options of `flowerkit study` but --data and --require, which it shares with others."""
    parser.add_argument("study", choices=STUDIES, help="which plans to train and compare")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="for the runs and their table; a study begun there is gone on with "
        "[the next free runs/STUDY-N]",
    )
    parser.add_argument(
        "--seeds",
        type=at_least_one,
        default=3,
        metavar="N",
        help="train each plan so often, with seeds 0, 1, ... [3]",
    )
    parser.add_argument(
        "--epochs", type=at_least_one, metavar="N", help="of each run [the study's]"
    )


def run_compare(args: argparse.Namespace, echo: Echo, progress=None) -> int:
    """Print the table of several runs, and write it into a folder if one is given."""
    with quiet_frameworks():
        from flowerkit.experiments.compare import compare_runs

    _show(compare_runs(args.runs), args.out, echo)
    return 0


def run_study_command(args: argparse.Namespace, echo: Echo, progress=None) -> int:
    """Train the plans of a study, print their table, and write it beside the runs."""
    accelerator = connect_device(args.require, echo)
    with quiet_frameworks():
        from flowerkit.experiments.runs import run_study

    data = find_data(args.data)
    echo(str(data))
    out = args.out or find_free_folder("runs", args.study)
    echo(
        f"{len(STUDIES[args.study])} plans, {pluralize(args.seeds, 'seed')} each, into "
        f"{shlex.quote(str(out))}"
    )
    comparison = run_study(
        args.study,
        data,
        out,
        seeds=range(args.seeds),
        epochs=args.epochs,
        accelerator=accelerator,
        progress=progress,
    )
    _show(comparison, out, echo)
    return 0


def _show(comparison, out: Path | None, echo: Echo) -> None:
    from flowerkit.experiments.tables import to_markdown

    echo(to_markdown(comparison).rstrip())
    if out is not None:
        from flowerkit.experiments.page import write_comparison

        for file in write_comparison(comparison, out):
            echo(f"wrote {file}")
