"""Options that several commands share, and an option for each field of a plan."""

import argparse
import contextlib
import re
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path

from flowerkit.accelerator import POLICIES
from flowerkit.cli.parser import WrongUsage
from flowerkit.data import FlowerData
from flowerkit.files import check_writable
from flowerkit.photos import LabelsCsv, is_decisions
from flowerkit.pipeline import Augmentation
from flowerkit.text import format_value
from flowerkit.training import PLANS, RunFolder, TrainingPlan, change_plan, load_plan


def at_least_one(text: str) -> int:
    """A whole number from 1, or argparse's error."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1. Received: {text!r}")
    return int(text)


def add_path(
    parser: argparse.ArgumentParser,
    name: str,
    metavar: str,
    help: str,
    *,
    takes: Collection[str] = (),
    **more,
) -> None:
    """A file or a folder, positional or an option; `takes`: of which `arguments.KINDS`, () for any."""
    action = parser.add_argument(name, type=Path, metavar=metavar, help=help, **more)
    action.takes = tuple(takes)


def add_number(
    parser: argparse.ArgumentParser, name: str, default, help: str, kind: Callable = at_least_one
) -> None:
    """An option for a number, its default in brackets; None: the help says what happens."""
    type = _reader(kind, (kind,)) if kind in (int, float) else kind
    help = help if default is None else f"{help} [{default:g}]"
    metavar = "X" if kind is float else "N"
    parser.add_argument(name, type=type, default=default, metavar=metavar, help=help)


def add_data(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """--data, "auto" unless it is required."""
    help = (
        "the folder that holds tfrecords-jpeg-SxS/; or a folder of photos with a sub folder for each "
        "class; or 'auto', the competition's data (where there is none, off Kaggle: drawn flowers); "
        "or 'drawn'"
    )
    if not required:
        help += " [auto]"
    action = parser.add_argument("--data", required=required, default="auto", help=help)
    action.takes = ("data", "photos")
    add_photo_options(parser)


def _add_labels(parser: argparse.ArgumentParser) -> None:
    """--labels with its columns, and --label-pattern, for a folder of photos without class folders."""
    labels = (
        "file names, classes and splits, instead of class folders; or the decisions of `flowerkit "
        "clean`, which change labels of photos or shards; repeat it for both"
    )
    add_path(parser, "--labels", "CSV", labels, action="append")
    for role, text in (("image", "file names"), ("label", "classes"), ("split", "splits")):
        help = f"the column of {text} in --labels, where it is not found by itself"
        parser.add_argument(f"--csv-{role}", metavar="COLUMN", help=help)
    parser.add_argument(
        "--label-pattern",
        metavar="REGEX",
        help=r"the class in the file name, in brackets: '(.+)_\d+' for rose_12.jpg; a pattern with a "
        "slash is of the whole path",
    )


def read_labels(args: argparse.Namespace) -> dict:
    """`labels_csv` and `decisions` of functions that take both: a csv of --labels each, or None."""
    columns = (args.csv_image, args.csv_label, args.csv_split)
    kinds = {"labels_csv": None, "decisions": None}
    for file in args.labels or ():
        kind = "decisions" if is_decisions(file) else "labels_csv"
        if kinds[kind]:
            noun = "decisions of `flowerkit clean`" if kind == "decisions" else "labels"
            raise WrongUsage(f"{kinds[kind]} and {file} both hold {noun}. Pass one (--labels).")
        kinds[kind] = file
    if kinds["labels_csv"]:
        kinds["labels_csv"] = LabelsCsv(kinds["labels_csv"], *columns)
    elif any(columns):
        raise WrongUsage("--csv-image, --csv-label and --csv-split need --labels CSV.")
    return kinds


def add_photo_options(parser: argparse.ArgumentParser) -> None:
    """Labels and splits of a folder of photos, which its folders do not tell."""
    _add_labels(parser)
    for split, purpose in (
        ("train", "to train on; nothing else of the folder of photos is taken then"),
        ("val", "to choose the best epoch"),
        ("test", "to measure the final result; its photos may have no class folders"),
    ):
        help = f"a folder of photos {purpose}; repeat it for several"
        add_path(parser, f"--{split}", "DIR", help, action="append")


def open_data(args: argparse.Namespace, source: str | Path | None = None, **options) -> FlowerData:
    """The data of `source`, by default of --data, with the folders that are splits; see `find_data`."""
    from flowerkit.sources import find_data

    return find_data(args.data if source is None else source, **_photo_options(args), **options)


def _photo_options(args: argparse.Namespace) -> dict:
    return {
        **read_labels(args),
        "label_pattern": args.label_pattern,
        "train": args.train,
        "val": args.val,
        "test": args.test,
    }


def check_inputs(
    args: argparse.Namespace, plan: TrainingPlan | None = None, source: str | Path | None = None
) -> None:
    """Refuse data and a network that cannot be, and an --out that cannot be written; in a second."""
    from flowerkit.models import check_network
    from flowerkit.sources import check_source

    size = None
    if plan is not None:
        size = plan.image_size
        try:
            check_network(
                plan.backbone, plan.weights, None if plan.input_size == "auto" else plan.input_size
            )
        except ValueError as error:
            raise WrongUsage(str(error)) from error
    source = args.data if source is None else source
    check_source(source, image_size=size, **_photo_options(args))
    if args.out is not None:
        check_writable(args.out)


def add_require(parser: argparse.ArgumentParser) -> None:
    """--require."""
    parser.add_argument("--require", choices=("tpu", "gpu", "cpu"), help="refuse any other device")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """--precision."""
    parser.add_argument(
        "--precision",
        choices=("auto", *POLICIES),
        default="auto",
        help="what layers compute in; auto: bfloat16 on TPUs and on GPUs that compute it, else "
        "float32; float16 for older GPUs, with loss scaling [auto]",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """--require, --precision and --compile-cache."""
    add_require(parser)
    add_precision(parser)
    help = (
        "what JAX compiles is kept there and found again; it can be carried [in the cache folder]"
    )
    add_path(parser, "--compile-cache", "DIR", help)


def add_hosts(parser: argparse.ArgumentParser) -> None:
    """--coordinator, --num-hosts and --host."""
    group = parser.add_argument_group(
        "several hosts",
        "Run the same command on each, on JAX. Where SLURM, Open MPI or GKE start them, nothing need be "
        "given; on a Cloud TPU slice --num-hosts is enough.",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="host 0, and a port that is free")
    add_number(group, "--num-hosts", None, "how many hosts train one model together")
    group.add_argument("--host", type=int, metavar="I", help="which of them this is, from 0")


_GROUPS = {
    "plan: what is set first (the fine-tune plan's values are in brackets)": (
        *("max_minutes", "epochs", "backbone", "weights", "input_size", "per_replica_batch"),
        *("max_lr", "patience", "seed"),
    ),
    "plan: the network": ("head", "dropout", "binary"),
    "plan: the head first, then the network": (
        *("freeze_epochs", "small_epochs", "freeze_lr", "freeze_flip", "unfreeze_from"),
        *("freeze_norms", "backbone_lr_factor"),
    ),
    "plan: optimizer and learning rate": (
        *("optimizer", "schedule", "start_lr", "min_lr", "rampup_epochs", "sustain_epochs"),
        *("exp_decay", "lr_reference_batch", "plateau_patience"),
    ),
    "plan: regularisation": ("weight_decay", "ema", "label_smoothing", "class_weights"),
    "plan: augmentation": [field.name for field in fields(Augmentation)],
}


def add_plan(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """--plan, and an option for each field of a plan; one that is not given is no attribute."""
    parser.add_argument(
        "--plan",
        metavar="NAME|FILE",
        help=f"{', '.join(PLANS)} or a JSON file; the options below replace its values [fine-tune]",
    )
    parser.usage = f"{parser.prog} [OPTION ...]"  # about fifty
    groups = {
        name: group
        for title, names in _GROUPS.items()
        for group in [parser.add_argument_group(title)]
        for name in names
    }
    rest = parser.add_argument_group("plan: the run")
    helps = {
        field.name: field.metadata["help"]
        for field in (*fields(Augmentation), *fields(TrainingPlan))
        if field.metadata
    }
    hints = typing.get_type_hints(TrainingPlan)
    for name in [*groups, *(name for name in hints if name not in groups)]:
        if name in without:
            continue
        group, hint = groups.get(name, rest), hints[name]
        option, value = "--" + name.replace("_", "-"), getattr(PLANS["fine-tune"], name)
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if is_union else (hint,)
        kind = next(kind for kind in kinds if isinstance(kind, type) and kind is not types.NoneType)
        if kind is bool:
            added = group.add_argument(option, action=argparse.BooleanOptionalAction)
        else:
            metavar = {str: "NAME", int: "N", float: "X"}[kind]
            added = group.add_argument(option, type=_reader(kind, kinds), metavar=metavar)
        added.help, added.default = f"{helps[name]} [{format_value(value)}]", argparse.SUPPRESS


# The fields of a plan that say what network it is.
_NETWORK = ("backbone", "head", "binary", "input_size")


def find_changes(args: argparse.Namespace) -> dict:
    """The plan fields among the options that were given."""
    known = {field.name for field in fields(TrainingPlan)}
    return {name: value for name, value in vars(args).items() if name in known}


def read_plan(name: str | None, changes: dict) -> TrainingPlan:
    """The plan of --plan with `changes`. Raises WrongUsage where either cannot be."""
    try:
        plan = load_plan(name or "fine-tune")
    except FileNotFoundError as error:  # a damaged plan file is no wrong usage
        raise WrongUsage(str(error)) from error
    before = Path(str(changes.get("weights")))
    if before.is_dir():  # a run that goes on keeps its network
        network = RunFolder(before).plan()
        kept = {name: getattr(network, name) for name in _NETWORK}
        changes = kept | changes
    return apply_changes(plan, changes)


def apply_changes(plan: TrainingPlan, changes: dict) -> TrainingPlan:
    """`plan` with other values. Raises WrongUsage for values that no plan can have."""
    try:
        return change_plan(plan, changes, where="")
    except ValueError as error:
        raise WrongUsage(_name_options(str(error).removeprefix(": "))) from error


def _name_options(message: str) -> str:
    """A message about fields of a plan in options: "max_minutes=0" as "--max-minutes 0"."""
    for each in fields(TrainingPlan):
        # What has its option in brackets is replaced by that, see `__main__`.
        named = rf"(?<![\w-]){each.name}=(?!\S+ \(--)|(?:^|(?<=; )){each.name}\b(?!=)"
        if "_" in each.name:
            named += rf"|(?<![\w-]){each.name}\b(?!=)"
        option = "--" + each.name.replace("_", "-")
        message = re.sub(
            named, lambda found, option=option: option + " " * found[0].endswith("="), message
        )
    return message


def _reader(kind: type, kinds: tuple):
    words = [word for each in kinds for word in typing.get_args(each)]
    allowed = [{int: "a whole number", float: "a number", str: "a name"}[kind], *words]
    allowed += ["none"] * (types.NoneType in kinds)

    def read(text: str):
        if types.NoneType in kinds and text.lower() == "none":
            return None
        if text in words:
            return text
        if float in kinds:  # a name or a number
            with contextlib.suppress(ValueError):
                return _whole(float(text))
        try:
            return kind(text)
        except ValueError:
            message = f"must be {' or '.join(allowed)}. Received: {text!r}"
            raise argparse.ArgumentTypeError(message) from None

    return read


def _whole(number: float) -> float | int:
    """A whole number as an int, as it is written: 3 epochs."""
    return int(number) if number.is_integer() else number
