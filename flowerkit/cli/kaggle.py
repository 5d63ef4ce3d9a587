"""Kaggle: bundle and push the notebook, watch its run, submit its csv, publish models and weights."""

import contextlib
import shlex
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from flowerkit import kaggle
from flowerkit.cli.options import add_number, add_path, add_require
from flowerkit.cli.terminal import Echo, Progress
from flowerkit.files import check_writable, find_free_folder
from flowerkit.submission import find_single_label
from flowerkit.text import pluralize
from flowerkit.training import PLANS

# bundle -------------------------------------------------------------------------------------------


def add_bundle_options(parser: ArgumentParser) -> None:
    _add_root(parser)
    parser.add_argument("--owner", metavar="OWNER", help="your Kaggle user name, into the metadata")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the committed bundle is stale"
    )


def run_bundle(args, echo: Echo, progress: Progress) -> int:
    if args.check:
        problems = kaggle.check_bundle(args.root)
        for line in problems or [f"the bundle in {args.root} is up to date"]:
            echo(line)
        return int(bool(problems))
    for path in kaggle.write_bundle(args.root, owner=args.owner):
        echo(f"wrote {path} ({path.stat().st_size:,} bytes)")
    problems = kaggle.lint(args.root)
    for problem in problems:
        echo(f"before a push: {problem}")
    if not problems:
        echo("ready: push it with `flowerkit push` or the plain client's `kaggle kernels push`")
    return 0


# push, watch, pull --------------------------------------------------------------------------------


def add_push_options(parser: ArgumentParser) -> None:
    _add_root(parser)
    add_path(parser, "--out", "FOLDER", "for the outputs [the next free runs/kaggle-N]")
    parser.add_argument("--submit", action="store_true", help="submit the csv if it is valid")
    parser.add_argument(
        "--compile-cache",
        metavar="OWNER/NAME",
        help="attach a data set with what an earlier run compiled: compiled/ of its outputs",
    )
    parser.add_argument(
        "--weights-dataset",
        metavar="OWNER/NAME",
        help="attach a data set with pretrained weights, for runs without internet",
    )
    parser.add_argument(
        "--plan",
        choices=(*PLANS, "contest"),
        help="what the notebook trains; contest: folds and their blend [fine-tune]",
    )
    add_number(parser, "--max-minutes", None, "of the training [480, 8 hours]")
    add_require(parser)
    _add_submission(parser)


def run_push(args, echo: Echo, progress: Progress) -> int:
    data = _find_data(args)  # a mistake in an option is reported before the hours of a run
    if args.out:
        check_writable(args.out)
    client = kaggle.sign_in(echo)
    run = kaggle.push_notebook(
        client,
        args.root,
        require=args.require,
        data_sets=list(filter(None, [args.compile_cache, args.weights_dataset])),
        plan=args.plan,
        max_minutes=args.max_minutes,
    )
    echo(f"pushed {run}: {run.url}")
    require = kaggle.KernelMetadata.load(args.root).device
    _watch(client, run, require)
    out = args.out or find_free_folder("runs", "kaggle")
    with _hint(echo, f"fetch it with: flowerkit pull {run} {shlex.quote(str(out))}"):
        csv = kaggle.pull_outputs(client, run, out)
    _tell_of_compiled(out, echo)
    if args.submit:
        return _check_and_submit(client, csv, csv, data, args, echo)
    return _check(csv, data, echo)


def add_watch_options(parser: ArgumentParser) -> None:
    _add_run(parser)
    add_require(parser)


def run_watch(args, echo: Echo, progress: Progress) -> int:
    run, client = _read_run(args.run, echo), kaggle.sign_in(echo)
    _watch(client, run, args.require)
    echo(f"fetch its outputs with: flowerkit pull {run} OUT")
    return 0


def _watch(client, run, require: str | None) -> None:
    options = f" --require {require}" if require else ""
    hint = f"the run goes on; follow it with: flowerkit watch {run}{options}"
    with _hint(client.echo, hint):
        log = kaggle.watch_run(client, run, require=require)
    client.echo(f"{run} is done, on {log.device or 'a device that its log does not name'}")


def add_pull_options(parser: ArgumentParser) -> None:
    _add_run(parser)
    add_path(parser, "out", "OUT", "the folder for its outputs")
    _add_data(parser)


def run_pull(args, echo: Echo, progress: Progress) -> int:
    run, data = _read_run(args.run, echo), _find_data(args)
    check_writable(args.out)
    client = kaggle.sign_in(echo)
    csv = kaggle.pull_outputs(client, run, args.out)
    _tell_of_compiled(args.out, echo)
    return _check(csv, data, echo)


def _tell_of_compiled(out: Path, echo: Echo) -> None:
    folder = out / "compiled"
    if folder.is_dir():
        echo(f"{folder} holds what the run compiled; with it in a data set the next one need not:")
        echo(f"  kaggle datasets init -p {shlex.quote(str(folder))}  # then `create`")
        echo("  flowerkit push --compile-cache OWNER/NAME")


# submit -------------------------------------------------------------------------------------------


def add_submit_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="CSV|RUN",
        help="a csv file; or OWNER/NAME[/VERSION] of a notebook, whose submission.csv Kaggle takes",
    )
    _add_submission(parser)


def run_submit(args, echo: Echo, progress: Progress) -> int:
    path = Path(args.source)
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Pass its csv, for example {path}/submission.csv.")
    if path.is_file() or path.suffix == ".csv":
        return _check_and_submit(None, path, path, _find_data(args), args, echo)
    run = kaggle.KernelRun.parse(args.source)
    if not run.version and (number := run.find_version_id(args.source)):
        raise ValueError(
            f"the address names a version by its id {number}, which Kaggle's API does not know. Pass "
            f"{run}/VERSION with the number that the page shows, or {run} for the newest."
        )
    data, client = _find_data(args), kaggle.sign_in(echo)
    run = kaggle.resolve_version(client, run)
    with tempfile.TemporaryDirectory(prefix="flowerkit-") as folder:
        csv = kaggle.pull_outputs(client, run, folder, csv_only=True)
        return _check_and_submit(client, csv, run, data, args, echo)


def _check_and_submit(client, csv: Path, source, data, args, echo: Echo) -> int:
    """Submit `source`, a csv or a run, if its csv is valid or --force is given."""
    if _check(csv, data, echo, hint=False) and not args.force:
        echo("not submitted. Correct it, or pass --force")
        return 1
    client = client or kaggle.sign_in(echo)
    number = kaggle.submit(client, source, message=args.message)
    echo(f"submission {number} is in; waiting for its score")
    score = kaggle.wait_for_score(client, number)
    echo(f"submission {number}: {f'public score {score}' if score else 'no score yet'}")
    return 0


def _check(csv: Path, data, echo: Echo, *, hint: bool = True) -> int:
    problems = kaggle.check_csv(csv, data)
    if problems:
        echo(f"{csv}: {pluralize(len(problems), 'problem')}")
        for problem in problems:
            echo(f"  {problem}")
        return 1
    checked = "every id of the data once" if data else "its form; --data checks the ids"
    echo(f"{csv}: valid ({checked})")
    if warning := find_single_label(csv):
        echo(warning)
    if hint:
        echo(f"submit it with: flowerkit submit {shlex.quote(str(csv))}")
    return 0


# publish ------------------------------------------------------------------------------------------


def add_publish_options(parser: ArgumentParser) -> None:
    add_path(parser, "source", "RUN|FILE", "a finished run; or, for a data set, a weights file")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument(
        "--kaggle-model",
        metavar="OWNER/NAME",
        help="publish the run as a Kaggle Model: the exported network, its classes, its card",
    )
    kinds.add_argument(
        "--weights-dataset",
        metavar="OWNER/NAME",
        help="publish the pretrained weights of the run, or the file, as a data set for runs offline",
    )
    parser.add_argument(
        "--licence", "--license", metavar="NAME", help="required: apache-2.0, CC-BY-4.0 ..."
    )
    parser.add_argument("--public", action="store_true", help="everybody sees it [only you do]")


def run_publish(args, echo: Echo, progress: Progress) -> int:
    kind = "model" if args.kaggle_model else "dataset"
    name = args.kaggle_model or args.weights_dataset
    target = kaggle.Publication(kind, name, args.licence, args.public)
    kaggle.publish(kaggle.sign_in(echo), args.source, target)
    return 0


# Shared -------------------------------------------------------------------------------------------


def _add_root(parser: ArgumentParser) -> None:
    add_path(parser, "--root", "ROOT", "the checkout of flowerkit [this folder]", default=Path())


def _add_run(parser: ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN", help="OWNER/NAME of a notebook, OWNER/NAME/VERSION, or its address"
    )


def _read_run(text: str, echo: Echo) -> kaggle.KernelRun:
    run = kaggle.KernelRun.parse(text)
    if not run.version and (number := run.find_version_id(text)):
        echo(
            f"this is the newest version of {run}: Kaggle's API does not know the id {number}. "
            f"{run}/VERSION names another, by the number that its page shows"
        )
    return run


def _add_data(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        help="the folder of the data, whose ids the csv must have [only its form is checked]",
    )


def _add_submission(parser: ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--message", metavar="TEXT", help="the submission's name on Kaggle")
    parser.add_argument("--force", action="store_true", help="submit a csv that fails its check")


def _find_data(args):
    from flowerkit.sources import find_data

    return find_data(args.data) if args.data else None


@contextlib.contextmanager
def _hint(echo: Echo, hint: str) -> Iterator[None]:
    """Say after an error how to go on, where the run does."""
    try:
        yield
    except (KeyboardInterrupt, kaggle.KaggleError) as error:
        if not isinstance(error, kaggle.RunFailed):
            echo(hint)
        raise
