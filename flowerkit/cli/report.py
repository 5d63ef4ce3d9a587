"""The command report: the page of a run once more, with the pictures of the data it was trained on."""

import argparse
from collections.abc import Callable
from pathlib import Path

from flowerkit.cli.terminal import quiet_frameworks

Echo = Callable[[str], None]


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """The options of `flowerkit report`."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run of `flowerkit train`")
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="its data, for the pictures of its mistakes [the run's own]",
    )


def run_report(args, echo: Echo, progress) -> int:
    """Write report.html anew, as `train` does at its end; 0, or what `write_report` raises.

    Without its data there are no pictures but those that lie in the run, and that is told. Raises
    FileNotFoundError or ValueError for a --data that is not there or is not the run's.
    """
    with quiet_frameworks():
        from flowerkit.reports.writer import write_report
        from flowerkit.training.run_folder import read_run

        read_run(args.run_folder)
    try:
        seen = _find_seen(args.run_folder, args.data)
    except (FileNotFoundError, ValueError) as error:
        if args.data:
            raise
        echo(f"without the pictures of its data: {error} (--data FOLDER says where it is now)")
        seen = {}
    echo(f"wrote {write_report(args.run_folder, **seen)}")
    return 0


def _find_seen(run_folder: Path, source: str | None) -> dict:
    """What `write_report` takes besides the folder: images, what is wrong with the csv, the model."""
    from flowerkit.data import load_split
    from flowerkit.prediction.predictions import Predictions
    from flowerkit.sources import find_data, find_test_ids
    from flowerkit.submission import check_submission
    from flowerkit.training.run_folder import load_run

    plan, environment, model = load_run(run_folder)
    known = environment["data"]
    data = find_data(source or known["folder"], image_size=known["image_size"])
    val = load_split(data, "val", on_corrupt=plan.on_corrupt)
    predictions = Predictions.load(run_folder / "val_predictions.npz")
    if val.ids.tolist() != predictions.ids.tolist():
        raise ValueError(
            f"the val images of {data.folder} are not those that {run_folder} answered."
        )
    csv = run_folder / "submission.csv"
    problems = None
    if csv.is_file():
        problems = check_submission(csv, find_test_ids(data), data.num_classes)
    return {"val_images": val.images, "submission_problems": problems, "model": model}
