"""predict, check and report."""

import argparse
from pathlib import Path

from flowerkit.cli.options import (
    add_data,
    add_device,
    add_number,
    add_path,
    add_photo_options,
    open_data,
)
from flowerkit.cli.terminal import Echo, Progress, connect_device
from flowerkit.files import check_writable
from flowerkit.sources import find_problems, find_score, write_csv
from flowerkit.submission import find_single_label, holds_predictions
from flowerkit.text import pluralize

_SHOWN_PROBLEMS = 50

# predict ------------------------------------------------------------------------------------------


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    add_path(parser, "runs", "RUN", "run folders; several are blended", takes=["run"], nargs="+")
    add_path(parser, "--out", "CSV", "the csv to write", takes=["csv"], required=True)
    add_path(parser, "--probabilities", "NPZ", "write ids and probabilities there, too")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_number(parser, "--tta", 1, "views of each image: as it is, mirrored, then crops")
    add_number(parser, "--per-replica-batch", 32, "images a step on each replica")
    parser.add_argument(
        "--on-corrupt",
        choices=("raise", "skip"),
        default="raise",
        help="at a bad record; with skip the csv lacks its row [raise]",
    )
    add_data(parser, required=True)
    add_device(parser)


def run_predict(args, echo: Echo, progress: Progress) -> int:
    """Predict the test split with each run, blend, write and check the csv.

    The weights of a blend come from each run's val predictions, which have one view: predicting val
    with --tta would take half as long as the test split, and weights found with it were no better.
    """
    from flowerkit.sources import check_test_split
    from flowerkit.training import RunFolder

    _check_outputs(args)
    runs = [RunFolder(path) for path in args.runs]
    areas = [run.plan().min_crop_area for run in runs]
    trained_on = [run.environment().data for run in runs]
    for run in runs:
        if not run.model_file.is_file():
            run.result()  # which says how to finish it
            raise FileNotFoundError(f"{run} has lost its model.keras. Train again in a new folder.")
    data = {}
    for run, known in zip(runs, trained_on, strict=True):
        data[known.image_size] = _find_data(run, known, args)
    for data_of_size in data.values():
        check_test_split(data_of_size, on_corrupt=args.on_corrupt)
    accelerator = connect_device(args, echo)
    from flowerkit.data import load_split
    from flowerkit.prediction import LIGHT_CROP_AREA, blend, find_weights, predict

    weights, names = None, [str(run) for run in runs]
    if len(runs) > 1:
        found = find_weights([run.val_predictions() for run in runs], names=names)
        weights = found.weights
        for line in found.describe(names):
            echo(line)
    with accelerator.scope():  # all of them first, so that a damaged file is found early
        models = [run.model() for run in runs]
    predictions = {}
    for size, data_of_size in data.items():  # one split at a time is in memory
        test = load_split(data_of_size, "test", on_corrupt=args.on_corrupt)
        for number, name in enumerate(names):
            if trained_on[number].image_size == size:
                predictions[number] = predict(
                    models[number],
                    test,
                    global_batch=args.per_replica_batch * accelerator.replicas,
                    tta=args.tta,
                    min_crop_area=areas[number] if areas[number] < 1 else LIGHT_CROP_AREA,
                    progress=lambda _, done, total, name=name: progress(name, done, total),
                )
    blended = blend([predictions[number] for number in range(len(runs))], weights, names=names)
    if args.probabilities:
        blended.save(args.probabilities)
        echo(f"wrote {args.probabilities}")
    write_csv(args.out, blended, data_of_size)
    return int(bool(report_problems(args.out, data_of_size, echo)))


def _check_outputs(args) -> None:
    if args.out.is_dir():
        raise ValueError(
            f"{args.out} is a folder. Pass --out a file, such as {args.out}/submission.csv."
        )
    if args.probabilities and args.probabilities.suffix != ".npz":
        raise ValueError(
            f"--probabilities writes an npz file. Received: {args.probabilities}. Let it end in .npz."
        )
    for file in filter(None, (args.out, args.probabilities)):
        if file.exists() and not args.overwrite:
            raise FileExistsError(
                f"{file} already exists. Name another file, or pass --overwrite to replace it."
            )
        check_writable(file.parent)


def _find_data(run, trained_on, args):
    """The data at the size, and with the classes, that the run was trained on."""
    from flowerkit.data import find_sizes
    from flowerkit.training import describe_difference

    source = args.data
    sizes = find_sizes(source)
    if sizes and trained_on.image_size not in sizes:
        raise ValueError(
            f"{run} was trained on {trained_on.origin} images of {trained_on.image_size} px with "
            f"{len(trained_on.class_names)} classes; {source} holds {', '.join(map(str, sizes))} px. "
            f"Pass the data it was trained on (--data)."
        )
    data = open_data(args, image_size=trained_on.image_size)
    if list(trained_on.class_names) != list(data.class_names):
        raise ValueError(
            f"{run} was trained on other classes than those of {source} "
            f"({describe_difference(trained_on.class_names, data.class_names)}). Pass the data it was "
            f"trained on (--data), or train on this."
        )
    return data


# check --------------------------------------------------------------------------------------------


def add_check_options(parser: argparse.ArgumentParser) -> None:
    add_path(parser, "csv", "CSV", "the file to check", takes=["csv"])
    add_data(parser, required=True)
    add_number(parser, "--image-size", None, "the stored size, in px, where there are several")


def run_check(args, echo: Echo, progress: Progress) -> int:
    data = open_data(args, image_size=args.image_size)
    return int(bool(report_problems(args.csv, data, echo)))


def report_problems(csv: Path, data, echo: Echo) -> list[str]:
    """Check a csv against the test split of `data`; return every problem, print the first 50.

    Of a valid csv it is printed if all labels are the same, and the score where the test labels are
    known (a folder of photos).
    """
    problems = find_problems(csv, data)
    if problems:
        echo(f"{csv}: {pluralize(len(problems), 'problem')}")
        for problem in problems[:_SHOWN_PROBLEMS]:
            echo(f"  {problem}")
        if len(problems) > _SHOWN_PROBLEMS:
            echo(f"  ... and {len(problems) - _SHOWN_PROBLEMS:,} more")
        return problems
    rows = data.counts["test"]
    if holds_predictions(csv):
        echo(f"{csv}: {pluralize(rows, 'photo')}, every one once, with names of classes: valid")
    else:
        labels = "class names that are numbers" if data.csv_labels else f"0..{data.num_classes - 1}"
        echo(f"{csv}: {pluralize(rows, 'row')}, every id once, labels in {labels}: valid")
    if warning := find_single_label(csv):
        echo(warning)
    if score := find_score(csv, data):
        f1, share, num = score
        echo(
            f"on test, whose labels are known: macro F1 {f1:.4f}, accuracy {share:.4f} "
            f"({pluralize(num, 'image')})"
        )
    return []


# report -------------------------------------------------------------------------------------------


def add_report_options(parser: argparse.ArgumentParser) -> None:
    add_path(parser, "run_folder", "RUN", "a run of `flowerkit train`", takes=["run"])
    data = "its data, for the pictures of its mistakes [where it was in training]"
    action = parser.add_argument("--data", metavar="FOLDER", help=data)
    action.takes = ("data", "photos")
    add_photo_options(parser)


def run_report(args, echo: Echo, progress: Progress) -> int:
    """Write report.html again; without its data only with the pictures that the run folder has."""
    from flowerkit.training import RunFolder

    run = RunFolder(args.run_folder)
    run.plan()  # what is no run is an error before frameworks take their seconds
    trained_on = run.environment().data
    from flowerkit.reports import read_data, write_report

    if args.data:
        data = open_data(args, image_size=trained_on.image_size)
        val, problems = read_data(run, trained_on.restore(data))
        report = write_report(
            run.path, val_images=val.images, submission_problems=problems, model=run.model()
        )
    else:
        report = write_report(run.path)
    echo(f"wrote {report}")
    return 0
