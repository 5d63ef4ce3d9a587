"""The command predict: one run or a blend of several, views on request, a csv that is checked."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flowerkit.cli.connecting import connect_device
from flowerkit.cli.option_kinds import at_least_one
from flowerkit.cli.submitting import Echo, submit
from flowerkit.cli.terminal import quiet_frameworks
from flowerkit.data import FlowerData, find_sizes
from flowerkit.sources import find_data

Progress = Callable[[str, int, int], None]


def add_predict_options(predict: argparse.ArgumentParser) -> None:
    """The options of predict but --data and --require, which it shares with other commands."""
    predict.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders of train; several are blended",
    )
    predict.add_argument("--out", type=Path, required=True, metavar="CSV", help="the csv to write")
    predict.add_argument(
        "--probabilities",
        type=Path,
        metavar="NPZ",
        help="write ids and probabilities to this file, too",
    )
    predict.add_argument("--overwrite", action="store_true", help="replace files that are there")
    predict.add_argument(
        "--tta",
        type=at_least_one,
        default=1,
        metavar="N",
        help="looks at each image: as it is, mirrored, then cropped [1]",
    )
    predict.add_argument(
        "--per-replica-batch",
        type=at_least_one,
        default=32,
        metavar="N",
        help="images a step on each replica [32]",
    )
    predict.add_argument(
        "--on-corrupt",
        choices=("raise", "skip"),
        default="raise",
        help="at a bad record; after skip the csv lacks its row [raise]",
    )


def run_predict(args, echo: Echo, progress: Progress) -> int:
    """Predict the test split with each run, blend, write, check: 0 if the csv is sound, else 1.

    The weights of a blend come from the val predictions that lie in each run, see
    `blending.find_weights`. Those were made without further views, also where --tta asks for some:
    to predict val with them would take half as long again as the test split, and weights found with
    them were no better. Crops are as small as in each run's training.

    Raises FileExistsError for outputs that are there, ValueError for runs that do not fit the data
    or one another.
    """
    _check_outputs(args)
    accelerator = connect_device(args.require, echo)
    with quiet_frameworks():
        from flowerkit.training.run_folder import read_run
    read = [(run, *read_run(run)) for run in args.runs]
    members = [
        _Member(run, environment["data"], plan.min_crop_area) for run, plan, environment in read
    ]
    data = {member.image_size: _find_data_of(member, args.data) for member in members}
    for member in members:
        _check_classes(member, data[member.image_size], args.data)
    weights = _find_weights(members, echo) if len(members) > 1 else None
    predictions = _predict_all(members, data, weights, accelerator, args, progress)
    if args.probabilities:
        predictions.save(args.probabilities)
        echo(f"wrote {args.probabilities}")
    return int(bool(submit(predictions, data[members[0].image_size], args.out, echo)))


@dataclass(frozen=True)
class _Member:
    run: Path
    trained_on: dict  # "data" of its environment.json
    min_crop_area: float  # of its training; 1: it never saw a crop

    @property
    def image_size(self) -> int:
        return self.trained_on["image_size"]


def _check_outputs(args) -> None:
    if args.out.is_dir():
        raise ValueError(f"{args.out} is a folder. Pass --out a file, such as submission.csv.")
    if args.probabilities and args.probabilities.suffix != ".npz":
        raise ValueError(
            f"--probabilities writes an npz file. Received: {args.probabilities}. Let it end in .npz."
        )
    for file in filter(None, (args.out, args.probabilities)):
        if file.exists() and not args.overwrite:
            raise FileExistsError(
                f"{file} is there already. Name another file, or pass --overwrite to replace it."
            )


def _find_data_of(member: _Member, source: str) -> FlowerData:
    """The data at the size that the run was trained on."""
    trained_on, sizes = member.trained_on, find_sizes(source)
    if sizes and member.image_size not in sizes:
        raise ValueError(
            f"{member.run} was trained on {trained_on['origin']} images of {member.image_size} px "
            f"with {len(trained_on['class_names'])} classes; {source} holds "
            f"{', '.join(map(str, sizes))} px. Pass the data it was trained for."
        )
    return find_data(source, image_size=member.image_size)


def _check_classes(member: _Member, data: FlowerData, source: str) -> None:
    from flowerkit.training.run_folder import describe_difference

    known = member.trained_on["class_names"]
    if known != list(data.class_names):
        raise ValueError(
            f"{member.run} knows other classes than {source} holds "
            f"({describe_difference(known, data.class_names)}). "
            f"Pass the data it was trained for, or train on this."
        )


def _find_weights(members: list[_Member], echo: Echo) -> tuple[float, ...]:
    from flowerkit.prediction.blending import find_weights
    from flowerkit.prediction.predictions import Predictions

    files = [member.run / "val_predictions.npz" for member in members]
    found = find_weights([Predictions.load(file) for file in files], names=list(map(str, files)))
    for line in found.describe([str(member.run) for member in members]):
        echo(line)
    return found.weights


def _predict_all(members, data, weights, accelerator, args, progress: Progress):
    from flowerkit.models.classifier import load_model
    from flowerkit.prediction.blending import blend

    with accelerator.scope():  # all of them first: a damaged file is better known now
        models = [load_model(member.run) for member in members]
    batch = args.per_replica_batch * accelerator.replicas
    answers = {}
    for size, of_size in data.items():
        places = [place for place, member in enumerate(members) if member.image_size == size]
        looking = {place: (members[place], models[place]) for place in places}
        answers |= _predict_size(looking, of_size, batch, args, progress)
    if weights is None:
        return answers[0]
    names = [str(member.run) for member in members]
    return blend([answers[place] for place in range(len(members))], weights, names=names)


def _predict_size(looking: dict, data: FlowerData, batch: int, args, progress: Progress) -> dict:
    """The predictions of the members that look at images of this size, by place; one split is held."""
    from flowerkit.data import load_split
    from flowerkit.prediction.predictions import LIGHT_CROP_AREA, predict

    test = load_split(data, "test", on_corrupt=args.on_corrupt)
    answers = {}
    for place, (member, model) in looking.items():
        area = member.min_crop_area if member.min_crop_area < 1 else LIGHT_CROP_AREA
        answers[place] = predict(
            model,
            test,
            global_batch=batch,
            tta=args.tta,
            min_crop_area=area,
            progress=lambda _, done, total, run=member.run: progress(str(run), done, total),
        )
    return answers
