"""The command line: the only place that prints errors or exits."""

import dataclasses
import importlib
import os
import shlex
import sys
import time
from pathlib import Path

from flowerkit.cli.connecting import connect_device
from flowerkit.cli.options import build_parser
from flowerkit.cli.terminal import ProgressLine, quiet_frameworks, start_log
from flowerkit.files import find_free_folder
from flowerkit.training.plan import PLANS, TrainingPlan, change_plan, load_plan

DEMO_CLASSES, DEMO_SIZE_PX = 12, 64
DEMO_COUNTS = {"num_train": 1440, "num_val": 360, "num_test": 362}


class WrongUsage(Exception):
    """What was typed cannot be done; said without a traceback, and the exit status is 2."""


# Commands -----------------------------------------------------------------------------------------


def run_demo(args) -> int:
    from flowerkit.sources import draw_competition

    out = args.out or find_free_folder("runs", "demo")
    accelerator = connect_device(args.require, _echo)
    print(f"drawing {sum(DEMO_COUNTS.values()):,} flowers of {DEMO_CLASSES} species")
    data = draw_competition(
        out / "data",
        num_classes=DEMO_CLASSES,
        image_size=DEMO_SIZE_PX,
        **DEMO_COUNTS,
        progress=ProgressLine(),
    )
    print(data)
    return _train_and_submit(
        PLANS["smoke"], data, out / "run", accelerator, resume=False, args=args
    )


def run_draw(args) -> int:
    from flowerkit.sources import draw_competition, draw_photos

    if args.photos:
        folder = draw_photos(
            args.out,
            num_classes=args.classes,
            photos_per_class=args.photos,
            image_size=args.image_size,
            seed=args.seed,
            progress=ProgressLine(),
        )
        print(f"drew {args.classes * args.photos:,} photos of {args.classes} species into {folder}")
        return 0
    with quiet_frameworks():
        import tensorflow  # noqa: F401 - the shards are written with it
    data = draw_competition(
        args.out,
        num_classes=args.classes,
        image_size=args.image_size,
        num_train=args.train,
        num_val=args.val,
        num_test=args.test,
        seed=args.seed,
        progress=ProgressLine(),
    )
    print(data)
    return 0


def run_train(args) -> int:
    from flowerkit.sources import find_data

    changes = _find_changes(args)
    settled = None if args.resume else _settle_new(args, changes)
    # The device before data is read or downloaded, in case another one is required; and before a
    # run is read, for that imports Keras.
    accelerator = connect_device(args.require, _echo)
    plan, source, out = settled or _settle_resumed(args, changes)
    data = find_data(source, image_size=plan.image_size, progress=ProgressLine())
    print(data)
    return _train_and_submit(plan, data, out, accelerator, resume=args.resume, args=args)


def run_lr_find(args) -> int:
    plan = _lay_over(_find_plan(args.plan or "competition"), _plan_fields(args))
    accelerator = connect_device(args.require, _echo)
    with quiet_frameworks():
        from flowerkit.training.lr_finder import lr_find
    from flowerkit.reports.writer import write_rate_search
    from flowerkit.sources import find_data

    data = find_data(args.data, image_size=plan.image_size, progress=ProgressLine())
    print(data)
    search = lr_find(
        plan,
        data,
        accelerator=accelerator,
        min_lr=args.min_rate,
        max_lr=args.max_rate,
        num_steps=args.steps,
        phase=args.phase,
        progress=ProgressLine(),
    )
    print(search)
    for file in write_rate_search(search, args.out or find_free_folder("runs", "lr-find")):
        print(f"wrote {file}")
    return 0


def run_models(args) -> int:
    from flowerkit.models import list_backbones

    print(f"{'backbone':<20}{'parameters':>13}{'px':>6}{'weights':>10}  licence")
    print(*list_backbones(), sep="\n")
    return 0


def _plan_fields(args) -> dict:
    known = {field.name for field in dataclasses.fields(TrainingPlan)}
    return {name: value for name, value in vars(args).items() if name in known}


def _find_changes(args) -> dict:
    """The plan fields among the options; a resumed run takes few of them."""
    changes = _plan_fields(args)
    if args.resume and args.out is None:
        raise WrongUsage("--resume needs --out RUN, the folder of the run to go on with.")
    fixed = sorted(set(changes) - {"epochs", "max_minutes"}) + ["plan"] * bool(args.plan)
    if args.resume and fixed:
        options = ", ".join("--" + name.replace("_", "-") for name in fixed)
        raise WrongUsage(
            f"a resumed run keeps its plan; only --epochs and --max-minutes may change. "
            f"Leave out {options}, or start a new run."
        )
    return changes


def _settle_new(args, changes: dict) -> tuple[TrainingPlan, str, Path]:
    name = args.plan or "competition"
    out = args.out or find_free_folder("runs", Path(name).stem)
    return _lay_over(_find_plan(name), changes), args.data, out


def _settle_resumed(args, changes: dict) -> tuple[TrainingPlan, str, Path]:
    """A resumed run brings its own plan and data."""
    plan, environment = _import_training()[1].read_run(args.out)
    source = environment["data"]["folder"] if args.data == "auto" else args.data
    # The limit was that session's, not this one's.
    return _lay_over(plan, {"max_minutes": None} | changes), source, args.out


def _find_plan(name: str) -> TrainingPlan:
    try:
        return load_plan(name)
    except FileNotFoundError as error:  # a fault inside a file that is there is no wrong usage
        raise WrongUsage(str(error)) from error


def _lay_over(plan: TrainingPlan, changes: dict) -> TrainingPlan:
    try:
        return change_plan(plan, changes, where="the options")
    except ValueError as error:
        raise WrongUsage(str(error)) from error


def _train_and_submit(plan, data, out, accelerator, *, resume: bool, args) -> int:
    training, run_folder = _import_training()
    from flowerkit.cli.submitting import find_score, predict_and_submit
    from flowerkit.reports.writer import write_pictures, write_report
    from flowerkit.sources import check_test_split

    check_test_split(data, on_corrupt=plan.on_corrupt)
    run = training.train(
        plan,
        data,
        out=out,
        accelerator=accelerator,
        resume=resume,
        started=args.started,
        progress=ProgressLine(),
    )
    print(run)
    if run.summary.interrupted:
        folder, source = shlex.quote(str(out)), shlex.quote(str(data.folder))
        print("a csv with what was learned so far is written by:")
        print(f"  flowerkit predict {folder} --data {source} --out submission.csv")
        print(f"the best weights are in {out}/model.keras; go on with:")
        print(f"  flowerkit train --resume --out {folder}")
        return 1
    for picture in write_pictures(out, val_images=run.val_images):
        print(f"wrote {picture}")
    problems = None
    if data.counts["test"]:
        csv = out / "submission.csv"
        problems = predict_and_submit(
            run.model, data, csv, _echo, global_batch=run.global_batch, on_corrupt=plan.on_corrupt
        )
        if not problems:
            summary = dataclasses.replace(run.summary, **find_score(csv, data))
            run_folder.RunFolder(out).write_result(summary)
    else:
        print("no test split, so no submission.csv")
    report = write_report(
        out, val_images=run.val_images, submission_problems=problems, model=run.model
    )
    print(f"wrote {report}")
    return int(bool(problems))


def run_check(args) -> int:
    from flowerkit.cli.submitting import report_problems
    from flowerkit.sources import find_data

    data = find_data(args.data, image_size=args.image_size)
    return int(bool(report_problems(args.csv, data, _echo)))


def _echo(line: str) -> None:
    print(line, flush=True)  # some runs take hours: a line when it comes


def _from_module(room: str, name: str):
    """The command `name` of a room, which is imported when it is called."""

    def run(args) -> int:
        command = getattr(importlib.import_module(f"flowerkit.{room}"), name)
        return command(args, _echo, ProgressLine())

    return run


COMMANDS = {
    "demo": run_demo,
    "doctor": _from_module("cli.doctor", "run_doctor"),
    "draw": run_draw,
    "train": run_train,
    "lr-find": run_lr_find,
    "models": run_models,
    "report": _from_module("cli.report", "run_report"),
    "check": run_check,
    "convert": _from_module("cli.photos", "run_convert"),
    "convert-beam": _from_module("cli.beam", "run_convert_beam"),
    "check-data": _from_module("cli.leaks", "run_check_data"),
    "predict": _from_module("cli.predict", "run_predict"),
    "compare": _from_module("cli.studies", "run_compare"),
    "study": _from_module("cli.studies", "run_study_command"),
    "export": _from_module("cli.models", "run_export"),
    "classify": _from_module("cli.models", "run_classify"),
    "serve": _from_module("cli.models", "run_serve"),
    "bundle": _from_module("cli.kaggle", "run_bundle"),
    "push": _from_module("cli.kaggle", "run_push"),
    "watch": _from_module("cli.kaggle", "run_watch"),
    "pull": _from_module("cli.kaggle", "run_pull"),
    "submit": _from_module("cli.kaggle", "run_submit"),
}

# Around them --------------------------------------------------------------------------------------


def _import_training():
    with quiet_frameworks():
        from flowerkit.training import run_folder
        from flowerkit.training import trainer as training
    return training, run_folder


def _describe(error: Exception) -> str:
    """One line, whatever was raised; frameworks write pages."""
    first, *more = str(error).strip().splitlines() or ["no more is known"]
    if isinstance(error, ModuleNotFoundError):
        first += ". Install it; `flowerkit doctor` tells what else is missing."
    if not isinstance(
        error, (ValueError, OSError, RuntimeError)
    ):  # a name helps where we did not speak
        first = f"{type(error).__name__}: {first}"
    return first + (" (--debug shows the rest)" if more else "")


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed or problems found, 2 wrong usage."""
    started = time.monotonic()
    args = build_parser().parse_args(argv)
    args.started = started
    start_log()
    try:
        status = COMMANDS[args.command](args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("flowerkit: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # whatever it is, a sentence comes first; --debug shows the rest
        if args.debug:
            raise
        if isinstance(error, WrongUsage):
            print(f"flowerkit {args.command}: {error}", file=sys.stderr)
            return 2
        print(f"flowerkit: {_describe(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
