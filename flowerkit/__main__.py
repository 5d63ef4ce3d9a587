"""The command line: the only place that prints errors or exits."""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import time
import types
import typing
from pathlib import Path

import flowerkit
from flowerkit.plan import PLANS, TrainingPlan, change_plan, load_plan, suggest

DEMO_CLASSES, DEMO_SIZE_PX = 12, 64
DEMO_COUNTS = {"num_train": 1440, "num_val": 360, "num_test": 362}


class Parser(argparse.ArgumentParser):
    """argparse that knows what you meant; usage errors exit with 2."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        word = message.rsplit("unrecognized arguments: ", 1)[-1].split()[0].split("=")[0]
        if "invalid choice" in message:
            word = message.split("'")[1]
        self.exit(
            2, f"{self.prog}: {message}.{suggest(word, self._known_words())} (--help lists all)\n"
        )

    def _known_words(self) -> list[str]:
        words = [word for action in self._actions for word in action.option_strings]
        for action in self._actions:
            words += map(str, action.choices or ())
        return words

    def parse_known_args(self, args=None, namespace=None):
        # Subparsers leave unknown words to the top, which knows none of their options.
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def build_parser() -> Parser:
    """The parser of every command; each sets `run`, a function of the parsed arguments."""
    parser = Parser(
        prog="flowerkit", description="From flowers in TFRecords to a submission.csv you can trust."
    )
    parser.add_argument("--version", action="version", version=f"flowerkit {flowerkit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run, help: str) -> Parser:
        subparser = commands.add_parser(name, help=help, description=help)
        subparser.set_defaults(run=run)
        subparser.add_argument(
            "--debug", action="store_true", help="show the traceback of an error"
        )
        return subparser

    demo = command("demo", run_demo, "draw flowers, train a small network, write a checked csv")
    demo.add_argument(
        "--out", type=Path, help="the run folder (default: the next free runs/demo-N)"
    )
    _add_require(demo)

    doctor = command("doctor", run_doctor, "device, versions, data, weights, and what is missing")
    _add_data(doctor)

    draw = command("draw", run_draw, "draw flowers in the competition's layout")
    draw.add_argument("out", type=Path, help="the folder to make")
    draw.add_argument("--classes", type=int, default=104, help="how many species (104)")
    draw.add_argument("--image-size", type=int, default=224, help="in pixels (224)")
    draw.add_argument("--train", type=int, default=3120, help="training images (3120)")
    draw.add_argument("--val", type=int, default=832, help="validation images (832)")
    draw.add_argument("--test", type=int, default=832, help="test images (832)")
    draw.add_argument("--seed", type=int, default=0)

    train = command("train", run_train, "train a plan, predict the test split, write a checked csv")
    _add_data(train)
    train.add_argument(
        "--out", type=Path, help="the run folder (default: the next free runs/PLAN-N)"
    )
    train.add_argument("--plan", help=f"{', '.join(PLANS)} or a JSON file (default: competition)")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    _add_require(train)
    _add_plan_fields(train)

    predict = command(
        "predict", run_predict, "predict the test split with a run, write a checked csv"
    )
    predict.add_argument("run_folder", type=Path, metavar="RUN")
    _add_data(predict, required=True)
    predict.add_argument("--out", type=Path, required=True, metavar="CSV")
    predict.add_argument("--per-replica-batch", type=int, default=32)
    predict.add_argument("--on-corrupt", choices=("raise", "skip"), default="raise")
    _add_require(predict)

    check = command("check", run_check, "list every problem of a submission csv")
    check.add_argument("csv", type=Path)
    _add_data(check, required=True)
    return parser


def _add_data(parser: Parser, *, required: bool = False) -> None:
    parser.add_argument(
        "--data", required=required, default=None if required else "auto",
        help="a folder of shards, 'auto' (the competition, or drawn flowers) or 'drawn'",
    )  # fmt: skip


def _add_require(parser: Parser) -> None:
    parser.add_argument("--require", choices=("tpu", "gpu", "cpu"), help="refuse any other device")


def _add_plan_fields(parser: Parser) -> None:
    group = parser.add_argument_group("plan fields, over what the plan says ('none' switches off)")
    for name, hint in typing.get_type_hints(TrainingPlan).items():
        option = "--" + name.replace("_", "-")
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if kinds == (bool,):
            action = argparse.BooleanOptionalAction
            group.add_argument(option, action=action, default=argparse.SUPPRESS)
        else:
            kind = next(kind for kind in kinds if kind is not types.NoneType)
            group.add_argument(
                option, type=_reader(kind, optional=types.NoneType in kinds),
                metavar=kind.__name__.upper(), default=argparse.SUPPRESS,
            )  # fmt: skip


def _reader(kind: type, *, optional: bool):
    def read(text: str):
        return None if optional and text.lower() == "none" else kind(text)

    read.__name__ = kind.__name__  # argparse says "invalid int value" with it
    return read


# Commands -----------------------------------------------------------------------------------------


def run_demo(args) -> int:
    from flowerkit.synthetic import draw_competition

    out = args.out or _next_free("demo")
    accelerator = _connect(args.require)
    print(f"drawing {sum(DEMO_COUNTS.values()):,} flowers of {DEMO_CLASSES} species")
    data = draw_competition(
        out / "data", num_classes=DEMO_CLASSES, image_size=DEMO_SIZE_PX, **DEMO_COUNTS
    )
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
    return 0 if all(finding.remedy is None for finding in findings[:1]) else 1


def run_draw(args) -> int:
    from flowerkit.synthetic import draw_competition

    data = draw_competition(
        args.out, num_classes=args.classes, image_size=args.image_size, num_train=args.train,
        num_val=args.val, num_test=args.test, seed=args.seed,
    )  # fmt: skip
    print(data)
    return 0


def run_train(args) -> int:
    plan, source, out = _settle_plan(args)
    from flowerkit.sources import find_data

    data = find_data(source, image_size=plan.image_size)
    print(data)
    accelerator = _connect(args.require)
    return _train_and_submit(plan, data, out, accelerator, resume=args.resume, args=args)


def _settle_plan(args) -> tuple[TrainingPlan, str, Path]:
    """The plan with the options laid over it; a resumed run brings its own plan and data."""
    fields = typing.get_type_hints(TrainingPlan)
    changes = {name: value for name, value in vars(args).items() if name in fields}
    if not args.resume:
        plan = change_plan(load_plan(args.plan or "competition"), changes, where="the options")
        return plan, args.data, args.out or _next_free(args.plan or "competition")
    if args.out is None:
        raise ValueError("--resume needs --out RUN, the folder of the run to go on with.")
    from flowerkit.training import read_run

    plan, environment = read_run(args.out)
    fixed = sorted(set(changes) - {"epochs", "max_minutes"})
    if fixed or args.plan:
        raise ValueError(
            f"a resumed run keeps its plan; only --epochs and --max-minutes may change. "
            f"Leave out {', '.join(fixed) or 'plan'}, or start a new run."
        )
    source = environment["data"]["folder"] if args.data == "auto" else args.data
    changes.setdefault("max_minutes", None)  # the limit was that session's, not this one's
    return change_plan(plan, changes, where="the options"), source, args.out


def _train_and_submit(plan, data, out, accelerator, *, resume: bool, args) -> int:
    with _quiet_frameworks():
        from flowerkit.report import write_pictures
        from flowerkit.training import train

    run = train(
        plan, data, out=out, accelerator=accelerator, resume=resume, started=args.started,
        verbose=1 if sys.stdout.isatty() else 0,
    )  # fmt: skip
    print(run)
    if run.interrupted:
        print(f"the best weights are in {out}/model.keras; go on with:")
        print(f"  flowerkit train --resume --out {out}")
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
    with _quiet_frameworks():
        from flowerkit.training import load_run, read_run
    _, environment = read_run(args.run_folder)
    data = find_data(args.data, image_size=environment["data"]["image_size"])
    if list(data.class_names) != environment["data"]["class_names"]:
        raise ValueError(
            f"{args.run_folder} was trained on other classes than {args.data} has "
            f"({len(environment['data']['class_names'])} and {data.num_classes}). Train on this data."
        )
    with accelerator.scope():
        model = load_run(args.run_folder)[2]
    batch = args.per_replica_batch * accelerator.replicas
    return _submit(model, data, batch, args.out, args.on_corrupt)


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

    return _report_problems(args.csv, find_data(args.data))


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
    print(f"{csv}: {len(problems)} {noun}", *problems, sep="\n  ", file=sys.stderr)
    return 1


# Around them --------------------------------------------------------------------------------------


def _connect(require: str | None):
    with _quiet_frameworks():
        accelerator = flowerkit.connect(require)
    print(accelerator)
    return accelerator


def _next_free(name: str) -> Path:
    name = Path(name).stem
    number = 1
    while Path("runs", f"{name}-{number}").exists():
        number += 1
    return Path("runs", f"{name}-{number}")


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


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed or problems found, 2 wrong usage."""
    started = time.monotonic()
    args = build_parser().parse_args(argv)
    args.started = started
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("flowerkit").setLevel(logging.INFO)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("flowerkit: interrupted", file=sys.stderr)
        return 1
    except Exception as error:  # whatever it is, a sentence comes first; --debug shows the rest
        if args.debug:
            raise
        print(f"flowerkit: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
