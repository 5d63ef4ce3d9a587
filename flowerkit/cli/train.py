"""train, lr-find, study, compare and models."""

import argparse
import contextlib
import functools
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from flowerkit.accelerator import find_hosts, hosts
from flowerkit.cli.closing import change_command, close_training, drop_options, join_command
from flowerkit.cli.options import (
    add_data,
    add_device,
    add_hosts,
    add_number,
    add_path,
    add_plan,
    apply_changes,
    check_inputs,
    find_changes,
    open_data,
    read_plan,
)
from flowerkit.cli.parser import WrongUsage
from flowerkit.cli.terminal import Echo, Progress, connect_device, connect_hosts
from flowerkit.files import check_room, check_writable, find_free_folder, write_json
from flowerkit.text import pluralize

# train --------------------------------------------------------------------------------------------


def add_train_options(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    add_path(parser, "--out", "RUN", "the run folder [the next free runs/PLAN-N]")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    add_device(parser)
    add_plan(parser)
    add_hosts(parser)


def run_train(args, echo: Echo, progress: Progress) -> int:
    read = functools.partial(_read_resumed if args.resume else _read_new, args)
    try:
        setup = find_hosts(os.environ, args.coordinator, args.num_hosts, args.host)
    except ValueError as error:
        raise WrongUsage(str(error)) from error
    # Host 0 alone need see the run folder; what is wrong there is said before a device is started.
    requested = read() if setup is None or setup.index == 0 else None
    with connect_hosts(args, echo, progress) as (accelerator, echo, progress):
        if requested is None and hosts.is_first():
            requested = read()
        plan, source, out, trained_on = _share(requested) if setup else requested
        data = hosts.first_then_others(
            functools.partial(
                open_data, args, source, image_size=plan.image_size, progress=progress
            )
        )
        if trained_on and args.labels is None:
            data = trained_on.restore(data)
        echo(str(data))
        return train_and_submit(
            plan,
            data,
            out,
            accelerator,
            args.started,
            echo,
            progress,
            # A resumed run has its plan from its folder, and its command would resume it again.
            command=() if args.resume else args.words,
            resume=args.resume,
        )


def _share(requested: tuple | None) -> tuple:
    """What host 0 has read, on every host."""
    from flowerkit.training import TrainedOn, TrainingPlan

    values = None
    if requested:
        plan, source, out, trained_on = requested
        values = plan.to_dict(), str(source), str(out), trained_on and asdict(trained_on)
    plan, source, out, trained_on = hosts.broadcast(values)
    return TrainingPlan(**plan), source, Path(out), trained_on and TrainedOn(**trained_on)


def _read_new(args) -> tuple:
    from flowerkit.training import RunFolder

    plan = read_plan(args.plan, find_changes(args))
    check_inputs(args, plan)
    out = args.out or find_free_folder("runs", Path(args.plan or "fine-tune").stem)
    RunFolder.start(out)
    return plan, args.data, out, None


def _read_resumed(args) -> tuple:
    """The run's own plan and data, with what those were in training."""
    changes = find_changes(args)
    if args.out is None:
        raise WrongUsage("--resume needs --out RUN, the folder of the run to continue.")
    open_fields = {"epochs", "max_minutes", "accumulate", "halve_on_oom"}
    fixed = sorted(set(changes) - open_fields) + ["plan"] * bool(args.plan)
    if fixed:
        options = ", ".join("--" + name.replace("_", "-") for name in fixed)
        raise WrongUsage(
            f"a resumed run keeps its plan; only --epochs, --max-minutes, --accumulate and "
            f"--halve-on-oom may change. Leave out {options}, or start a new run."
        )
    from flowerkit.training import RunFolder

    run = RunFolder(args.out)
    # The time limit was for that session.
    plan = apply_changes(run.plan(), {"max_minutes": None} | changes)
    environment = run.environment()
    if args.precision == "auto":
        args.precision = environment.accelerator.precision
    source = environment.data.folder if args.data == "auto" else args.data
    check_inputs(args, plan, source)
    return plan, source, args.out, environment.data


def train_and_submit(
    plan,
    data,
    out: Path,
    accelerator,
    started: float,
    echo: Echo,
    progress: Progress,
    *,
    command: Sequence[str],
    resume=False,
) -> int:
    """Train, and write pictures, the checked csv and report.html into the run folder.

    The last lines are about the result and how to go on, perhaps from `command`.
    """
    from flowerkit.reports import write_pictures, write_report
    from flowerkit.training import RunFolder, SavedRun, train

    with _telling_how_to_go_on(out, echo):
        run = train(
            data,
            plan,
            out=out,
            accelerator=accelerator,
            resume=resume,
            started=started,
            progress=progress,
        )
        if not hosts.is_first():
            return int(run.summary.interrupted or run.summary.failed)
        echo(str(run.summary))
        if run.summary.interrupted:
            echo("write a csv with the best weights so far:")
            csv = RunFolder(out).csv_file().name
            echo(f"  {join_command(['predict', out, '--data', data.folder, '--out', csv])}")
            raise KeyboardInterrupt
        problems = _submit_test(run, data, echo)  # the csv first: it is what the run is for
        if not len(run.predictions):  # nor val images to show
            return int(bool(problems) or run.summary.failed)
        write_pictures(out, val_images=run.val_images)
        report = write_report(
            out, val_images=run.val_images, submission_problems=problems, model=run.model
        )
        echo(f"wrote {report}")
        for line in close_training(SavedRun.load(out), problems, command):
            echo(line)
        return int(bool(problems) or run.summary.failed)


@contextlib.contextmanager
def _telling_how_to_go_on(out: Path, echo: Echo):
    """At Ctrl-C or SIGTERM print what continues the run, where an epoch of it is done."""
    try:
        yield
    except KeyboardInterrupt:
        if (out / "history.csv").is_file():
            echo("continue the run:")
            echo(f"  {join_command(['train', '--resume', '--out', out])}")
        raise


def _submit_test(run, data, echo: Echo) -> list[str] | None:
    """Write the run's csv, and a known score into result.json; None without a test split."""
    from flowerkit.cli.look import report_problems
    from flowerkit.data import load_split
    from flowerkit.prediction import predict
    from flowerkit.sources import find_score, write_csv
    from flowerkit.training import RunFolder

    if not data.counts["test"]:
        echo("no test split, so no csv")
        return None
    folder = RunFolder(run.folder)
    csv = folder.csv_file()
    test = load_split(data, "test", on_corrupt=run.plan.on_corrupt)
    predictions = predict(run.model, test, global_batch=run.global_batch // run.plan.accumulate)
    write_csv(csv, predictions, data)
    problems = report_problems(csv, data, echo)
    if not problems and (score := find_score(csv, data)):
        f1, accuracy, num = score
        folder.write_result(
            replace(run.summary, test_f1=f1, test_accuracy=accuracy, test_images=num)
        )
    return problems


# contest ------------------------------------------------------------------------------------------


def add_contest_options(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    out = "the contest's folder; a contest there continues [the next free runs/contest-N]"
    add_path(parser, "--out", "FOLDER", out)
    add_number(
        parser, "--folds", 5, "parts of train and val; each run is scored on the one it lacks"
    )
    parser.add_argument(
        "--backbones",
        metavar="NAME[@PX]",
        nargs="+",
        help="the networks, the most important first, @PX for another --input-size; as many as the time "
        "allows take part [--backbone, with two others of Keras Applications]",
    )
    add_device(parser)
    add_plan(parser)


def run_contest(args, echo: Echo, progress: Progress) -> int:
    plan = read_plan(args.plan, find_changes(args))
    if plan.max_minutes is None:
        raise WrongUsage("a contest needs its time: --max-minutes 480 is 8 hours.")
    check_inputs(args, plan)
    accelerator = connect_device(args, echo)
    from flowerkit.cli.look import report_problems
    from flowerkit.experiments import run_contest

    data = open_data(args, image_size=plan.image_size, progress=progress)
    echo(str(data))
    out = args.out or find_free_folder("runs", "contest")
    try:
        contest = run_contest(
            data,
            plan,
            out=out,
            backbones=args.backbones,
            folds=args.folds,
            accelerator=accelerator,
            started=args.started,
            progress=progress,
        )
    except (KeyboardInterrupt, RuntimeError):
        if (out / "contest.json").is_file():
            echo(f"the same command with --out {shlex.quote(str(out))} continues the contest")
        raise
    echo(str(contest))
    echo(f"wrote {contest.page}")
    if contest.csv is None:
        echo("no test split, so no csv")
        return 0
    return int(bool(report_problems(contest.csv, data, echo)))


# lr-find ------------------------------------------------------------------------------------------


def add_lr_find_options(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    add_path(parser, "--out", "FOLDER", "for the curve [the next free runs/lr-find-N]")
    parser.add_argument(
        "--phase",
        choices=("frozen", "whole"),
        help="the head alone, or all that learns later [the plan's first]",
    )
    add_number(parser, "--min-rate", 1e-6, "the first rate", float)
    add_number(parser, "--max-rate", 1.0, "the last rate", float)
    add_number(parser, "--steps", 100, "the number of rates, a batch for each")
    add_device(parser)
    add_plan(
        parser, without=("start_lr", "max_lr", "min_lr")
    )  # --min-rate and --max-rate are meant


def run_lr_find(args, echo: Echo, progress: Progress) -> int:
    plan = read_plan(args.plan, find_changes(args))
    check_inputs(args, plan)
    out = args.out or find_free_folder("runs", "lr-find")
    files = [out / "lr_finder.json", out / "lr_finder.png"]
    if older := next(filter(Path.exists, files), None):
        raise FileExistsError(f"{older} already exists. Pass another folder (--out), or remove it.")
    accelerator = connect_device(args, echo)
    from flowerkit.plots import off_screen, plot_lr_finder, save_figure
    from flowerkit.training import lr_find

    check_room(out)
    data = open_data(args, image_size=plan.image_size, progress=progress)
    echo(str(data))
    search = lr_find(
        data,
        plan,
        accelerator=accelerator,
        min_lr=args.min_rate,
        max_lr=args.max_rate,
        num_steps=args.steps,
        phase=args.phase,
        progress=progress,
    )
    echo(str(search))
    write_json(files[0], search.to_dict())
    with off_screen():
        save_figure(plot_lr_finder(search), files[1])
    for file in files:
        echo(f"wrote {file}")
    echo(_recommend(search, plan, args.words))
    return 0


_OF_LR_FIND = ("--out", "--phase", "--min-rate", "--max-rate", "--steps")


def _recommend(search, plan, words: Sequence[str]) -> str:
    """One rate, and the command that trains with it: the suggestion, or the plan's own rate."""
    ((name, rate),) = search.for_plan().items()
    reason = ""
    if search.is_flat:
        rate = plan.highest_lr if name == "max_lr" else plan.freeze_lr or plan.highest_lr
        reason = ", the plan's own, because the loss hardly fell"
    option = f"--{name.replace('_', '-')} {rate:.2g}"
    command = ["train", *drop_options(words[words.index("lr-find") + 1 :], _OF_LR_FIND)]
    return f"recommended: {name} {rate:.2g}{reason}: {change_command(command, option)}"


# study and compare --------------------------------------------------------------------------------


def add_study_options(parser: argparse.ArgumentParser) -> None:
    from flowerkit.experiments import STUDIES

    parser.add_argument("study", choices=STUDIES, help="the plans to train and compare")
    out = "for the runs and their table; a study there continues [the next free runs/STUDY-N]"
    add_path(parser, "--out", "FOLDER", out)
    add_number(parser, "--seeds", 3, "runs of each plan, with seeds 0, 1, ...")
    add_number(parser, "--epochs", None, "of each run [the study's]")
    add_data(parser)
    add_device(parser)


def run_study(args, echo: Echo, progress: Progress) -> int:
    check_inputs(args)
    accelerator = connect_device(args, echo)
    from flowerkit.experiments import STUDIES, run_study

    data = open_data(args)
    echo(str(data))
    out = args.out or find_free_folder("runs", args.study)
    plans, seeds = (pluralize(len(STUDIES[args.study]), "plan"), pluralize(args.seeds, "seed"))
    echo(f"{plans}, {seeds} each, into {shlex.quote(str(out))}")
    comparison = run_study(
        args.study,
        data,
        out,
        seeds=range(args.seeds),
        epochs=args.epochs,
        accelerator=accelerator,
        progress=progress,
    )
    _show_comparison(comparison, out, echo)
    failed = [run for run in comparison.runs if run.result.failed]
    for run in failed:
        echo(f"{run.name} failed: {run.result.stop_reason}")
    return int(bool(failed))


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    runs = "finished run folders; those that differ only in the seed are one row"
    add_path(parser, "runs", "RUN", runs, takes=["run"], nargs="+")
    add_path(parser, "--out", "FOLDER", "write the table there: html with curves, markdown, csv")


def run_compare(args, echo: Echo, progress: Progress) -> int:
    from flowerkit.training import RunFolder

    for run in args.runs:
        RunFolder(run).plan()
        RunFolder(run).result()
    if args.out:
        check_writable(args.out)
    from flowerkit.experiments import compare_runs

    return _show_comparison(compare_runs(args.runs), args.out, echo)


def _show_comparison(comparison, out: Path | None, echo: Echo) -> int:
    from flowerkit.experiments import to_markdown, write_comparison

    echo(to_markdown(comparison).rstrip())
    for file in write_comparison(comparison, out) if out else ():
        echo(f"wrote {file}")
    return 0


# models -------------------------------------------------------------------------------------------


def add_models_options(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run_models(args, echo: Echo, progress: Progress) -> int:
    from flowerkit.models import tabulate_backbones

    echo("\n".join(tabulate_backbones()))
    return 0
