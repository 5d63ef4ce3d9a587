"""The command line: the only place that prints errors or exits."""

import contextlib
import dataclasses
import logging
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

import flowerkit
from flowerkit.files import find_free_folder
from flowerkit.options import build_parser
from flowerkit.plan import PLANS, TrainingPlan, change_plan, load_plan

DEMO_CLASSES, DEMO_SIZE_PX = 12, 64
DEMO_COUNTS = {"num_train": 1440, "num_val": 360, "num_test": 362}


class WrongUsage(Exception):
    """What was typed cannot be done; said without a traceback, and the exit status is 2."""


# Commands -----------------------------------------------------------------------------------------


def run_demo(args) -> int:
    from flowerkit.synthetic import draw_competition

    out = args.out or find_free_folder("runs", "demo")
    accelerator = _connect(args.require)
    print(f"drawing {sum(DEMO_COUNTS.values()):,} flowers of {DEMO_CLASSES} species")
    data = draw_competition(
        out / "data", num_classes=DEMO_CLASSES, image_size=DEMO_SIZE_PX, **DEMO_COUNTS,
        progress=_ProgressLine(),
    )  # fmt: skip
    print(data)
    return _train_and_submit(
        PLANS["smoke"], data, out / "run", accelerator, resume=False, args=args
    )


def run_doctor(args) -> int:
    with _quiet_frameworks():
        from flowerkit.doctor import examine

        findings = examine(args.data)
    for finding in findings:
        print(finding)
    return int(any(finding.blocks for finding in findings))


def run_draw(args) -> int:
    from flowerkit.synthetic import draw_competition

    with _quiet_frameworks():
        import tensorflow  # noqa: F401 - the shards are written with it
    data = draw_competition(
        args.out, num_classes=args.classes, image_size=args.image_size, num_train=args.train,
        num_val=args.val, num_test=args.test, seed=args.seed, progress=_ProgressLine(),
    )  # fmt: skip
    print(data)
    return 0


def run_train(args) -> int:
    from flowerkit.sources import find_data

    changes = _find_changes(args)
    settled = None if args.resume else _settle_new(args, changes)
    # The device before data is read or downloaded, in case another one is required; and before a
    # run is read, for that imports Keras.
    accelerator = _connect(args.require)
    plan, source, out = settled or _settle_resumed(args, changes)
    data = find_data(source, image_size=plan.image_size)
    print(data)
    return _train_and_submit(plan, data, out, accelerator, resume=args.resume, args=args)


def _find_changes(args) -> dict:
    """The plan fields among the options; a resumed run takes few of them."""
    known = {field.name for field in dataclasses.fields(TrainingPlan)}
    changes = {name: value for name, value in vars(args).items() if name in known}
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
    plan, environment = _import_training().read_run(args.out)
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
    training = _import_training()
    from flowerkit.report import write_pictures

    run = training.train(
        plan, data, out=out, accelerator=accelerator, resume=resume, started=args.started,
        progress=_ProgressLine(),
    )  # fmt: skip
    print(run)
    if run.interrupted:
        print(f"the best weights are in {out}/model.keras; go on with:")
        print(f"  flowerkit train --resume --out {shlex.quote(str(out))}")
        return 1
    if data.counts["test"]:
        status = _submit(run.model, data, run.global_batch, out / "submission.csv", plan.on_corrupt)
    else:
        print("no test split, so no submission.csv")
        status = 0
    for picture in write_pictures(out, val_images=run.val_images):
        print(f"wrote {picture}")
    return status


def run_predict(args) -> int:
    from flowerkit.sources import find_data

    accelerator = _connect(args.require)
    training = _import_training()
    trained_on = training.read_run(args.run_folder)[1]["data"]
    data = find_data(args.data, image_size=trained_on["image_size"])
    if list(data.class_names) != trained_on["class_names"]:
        raise ValueError(
            f"{args.run_folder} knows other classes than {args.data} holds "
            f"({_describe_difference(trained_on['class_names'], data.class_names)}). "
            f"Pass the data it was trained for, or train on this."
        )
    with accelerator.scope():
        model = training.load_run(args.run_folder)[2]
    batch = args.per_replica_batch * accelerator.replicas
    return _submit(model, data, batch, args.out, args.on_corrupt)


def _describe_difference(known: list[str], held: tuple[str, ...]) -> str:
    if len(known) != len(held):
        return f"{len(known)} and {len(held)}"
    number = next(k for k, pair in enumerate(zip(known, held, strict=True)) if len(set(pair)) == 2)
    return f"class {number} is {known[number]!r} and {held[number]!r}"


def _submit(model, data, global_batch: int, csv: Path, on_corrupt: str) -> int:
    from flowerkit.pipeline import load_split
    from flowerkit.prediction import predict
    from flowerkit.submission import write_submission

    test = load_split(data, "test", on_corrupt=on_corrupt)
    predictions = predict(model, test, global_batch=global_batch)
    write_submission(csv, predictions.ids, predictions.guesses)
    return _report_problems(csv, data)


def run_check(args) -> int:
    from flowerkit.sources import find_data

    return _report_problems(args.csv, find_data(args.data, image_size=args.image_size))


def _report_problems(csv: Path, data) -> int:
    from flowerkit.sources import find_test_ids
    from flowerkit.submission import check_submission

    ids = find_test_ids(data)
    problems = check_submission(csv, ids, data.num_classes)
    if not problems:
        print(
            f"{csv}: {len(ids):,} rows, every id once, labels in 0..{data.num_classes - 1}: sound"
        )
        return 0
    noun = "problem" if len(problems) == 1 else "problems"
    print(f"{csv}: {len(problems):,} {noun}", *problems, sep="\n  ")
    return 1


COMMANDS = {
    "demo": run_demo,
    "doctor": run_doctor,
    "draw": run_draw,
    "train": run_train,
    "predict": run_predict,
    "check": run_check,
}

# Around them --------------------------------------------------------------------------------------


def _connect(require: str | None):
    with _quiet_frameworks():
        accelerator = flowerkit.connect(require)
        import tensorflow  # noqa: F401 - with jax too, the shards are written and read with it
    print(accelerator)
    return accelerator


@contextlib.contextmanager
def _quiet_frameworks():
    """Hold back what C++ writes while frameworks are imported and started; show it if that fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except BaseException:
            noise.seek(0)
            os.write(kept, noise.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class _ProgressLine:
    """One line on a terminal that is written over: how far, how fast, how long still. Else nothing."""

    def __init__(self):
        self.what, self.shown_at = None, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        now = time.monotonic()
        if what != self.what:
            self.what, self.start, self.done_at_start = what, now, done
        if done == total:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        elif now - self.shown_at > 0.2:
            self.shown_at = now
            # The first step traces and compiles: the rate is that of the steps after it.
            rate = (done - self.done_at_start) / (now - self.start) if now > self.start else 0
            left = f"{rate:,.1f}/s, {(total - done) / rate:,.0f} s left" if rate else "starting"
            print(
                f"\r\x1b[K{what}: {done:,} of {total:,}, {left}",
                end="",
                file=sys.stderr,
                flush=True,
            )


def _import_training():
    with _quiet_frameworks():
        from flowerkit import training
    return training


def _start_log() -> None:
    """The library's log lines go to the terminal, also while the frameworks are being quieted."""
    if logging.getLogger().hasHandlers():
        return
    stream = open(os.dup(2), "w", buffering=1)  # noqa: SIM115 - open as long as the process
    # On a terminal a line may meet the progress line: erase that first.
    erase = "\r\x1b[K" if stream.isatty() else ""
    logging.basicConfig(format=f"{erase}%(message)s", stream=stream)
    logging.getLogger("flowerkit").setLevel(logging.INFO)


def _describe(error: Exception) -> str:
    """One line, whatever was raised; frameworks write pages."""
    first, *more = str(error).strip().splitlines() or ["no more is known"]
    if isinstance(error, ModuleNotFoundError):
        first += ". Install it; `flowerkit doctor` tells what else is missing."
    return f"{type(error).__name__}: {first}" + (" (--debug shows the rest)" if more else "")


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed or problems found, 2 wrong usage."""
    started = time.monotonic()
    args = build_parser().parse_args(argv)
    args.started = started
    _start_log()
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
