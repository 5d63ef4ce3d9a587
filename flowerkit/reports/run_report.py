"""A run folder -> report.html, one file and plots as picture files."""

import itertools
import logging
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

import flowerkit
from flowerkit import metrics, plots
from flowerkit.data import FlowerData, Split, find_csv_labels
from flowerkit.files import write_text
from flowerkit.models import compute_cam, find_map_size
from flowerkit.pipeline import Augmentation
from flowerkit.prediction import find_label_issues
from flowerkit.reports.charts import Chart, draw_calibration, draw_history
from flowerkit.reports.pictures import PHOTO_PX, Picture, encode_photo, encode_photos
from flowerkit.reports.rendering import render
from flowerkit.sources import find_problems
from flowerkit.submission import check_csv, holds_predictions, read_ids
from flowerkit.training import Phase, RunFolder, SavedRun, judge, plan_phases

SHOWN_MISTAKES = 12
SHOWN_DOUBTED = 6
MOST_DOUBTED = 0.1  # of the labels; a model that doubts more is wrong too often to judge them
SHOWN_OF_PAIR = 8  # photos of a kind of mistake

_log = logging.getLogger("flowerkit")
SHOWN_OF_PAIRS = 240  # of all kinds
THUMBNAIL_PX = 112
PHOTO_BYTES = 2_000_000  # of all photos in the page but the maps
NUMBERED_CLASSES = 12  # up to here the confusion matrix is a table with its counts
COARSEST_MAP = 4  # places a side of the feature map: with fewer a map lights half of the photo
SCORES = {"val_f1": "macro F1 on val", "val_accuracy": "accuracy on val", "accuracy": "in training"}
PHASE_COLUMN = {"phase": ".0f"}
EPOCH_COLUMNS = {
    **dict.fromkeys(("loss", "val_loss", "accuracy", "val_accuracy", "val_f1"), ".3f"),
    **{"planned_lr": ".2e", "learning_rate": ".2e", "seconds": ",.1f", "images_per_second": ",.0f"},
}


def write_pictures(folder: str | os.PathLike, *, val_images=None) -> list[Path]:
    """Write curves, rates and confusion.png into a run folder, and mistakes.png given `val_images`.

    `val_images` is (n, size, size, 3) uint8 in the order of val_predictions.npz. Returns the files.
    Raises what `SavedRun.load` raises.
    """
    run = SavedRun.load(folder)
    with plots.off_screen():
        pictures = {
            "curves.png": plots.plot_curves(run.history, run.history.best["epoch"]),
            "rates.png": plots.plot_rates(run.history),
            "confusion.png": plots.plot_confusion(run.confusion, run.class_names),
        }
        if val_images is not None:
            pictures["mistakes.png"] = plots.plot_mistakes(
                val_images, run.labels, run.probabilities, run.class_names, SHOWN_MISTAKES
            )
        for name, axes in pictures.items():
            plots.save_figure(axes, run.path / name)
    return [run.path / name for name in pictures]


def write_report(
    folder: str | os.PathLike,
    *,
    val_images=None,
    submission_problems: Sequence[str] | None = None,
    model=None,
) -> Path:
    """Write report.html into a run folder: a single file that loads nothing.

    `val_images` is (n, size, size, 3) uint8 in the order of val_predictions.npz. `submission_problems`
    are those of its csv, see `submission.check_csv`; None: only the csv's form is checked here. With
    `model`, the run's keras.Model, and `val_images` the report shows where it looked in the worst
    mistakes, if its feature map is fine enough. Without `val_images` all three are read from where the
    run's data were in training; where these are gone the report has no photos, which is logged.
    Raises what `SavedRun.load` raises, and ValueError where images and predictions differ in number.
    """
    run, get_model = SavedRun.load(folder), lambda: model
    if val_images is None and (found := _find_data(run)):
        val_images, submission_problems = found[0].images, found[1]
        get_model = RunFolder(folder).model if model is None else get_model
    if val_images is not None and len(val_images) != len(run.labels):
        raise ValueError(
            f"{len(val_images)} images but {len(run.labels)} predictions. Pass those of val."
        )
    calibration = metrics.calibration(run.labels, run.probabilities)
    text = render(
        "report.html.j2",
        title=f"{run.name}: flowerkit report",
        version=flowerkit.__version__,
        run=run,
        verdict=judge(run),
        scores=run.predictions.score(),
        csv_name=RunFolder(folder).csv_file().name,
        submission=_check_submission(run, submission_problems),
        calibration=calibration,
        charts=_draw_charts(run),
        calibration_chart=draw_calibration(calibration),
        **_describe_plan(run),
        **_describe_classes(run),
        **_find_photos(run, val_images, get_model),
    )
    file = RunFolder(folder).report_file
    write_text(file, text)
    return file


def read_data(run: RunFolder, data: FlowerData) -> tuple[Split, list[str] | None]:
    """(val, the problems of the csv) for `write_report`, from the data of a run.

    Raises what `RunFolder.split` raises.
    """
    val, csv = run.split("val", data), run.csv_file()
    return val, find_problems(csv, data) if csv.is_file() else None


def _find_data(run: SavedRun) -> tuple[Split, list[str] | None] | None:
    """`read_data` of where the data were in training; None, which is logged, where they are gone."""
    folder = RunFolder(run.path)
    try:
        return read_data(folder, folder.data())
    except (OSError, ValueError) as error:
        source = shlex.quote(run.environment.data.photos or "FOLDER")
        _log.warning(
            f"a report without photos: {error} If they are elsewhere: `flowerkit report "
            f"{shlex.quote(str(run.path))} --data {source}`, in Python val_images="
        )
        return None


# What was trained ---------------------------------------------------------------------------------


def _describe_plan(run: SavedRun) -> dict:
    """What the report says of data, network, phases and augmentation."""
    data, plan = run.environment.data, run.plan
    phases = plan_phases(plan, global_batch=run.global_batch)
    seen_px = plan.input_size or data.image_size
    if phases[int(run.history.best["phase"]) - 1].is_small:
        seen_px = plan.small_px(data.image_size)
    kinds = {"competition": "the competition's", "drawn": "drawn flowers", "folder": "a folder"}
    return {
        "data_name": f"{_stem(data.photos or data.folder)} ({kinds[data.origin]})",
        "backbone": _stem(plan.backbone),
        "seen_px": seen_px,
        "phases": phases,
        "trained": _describe_training(run, phases),
        "augmentation": _describe_augmentation(plan.augmentation()),
        "epoch_columns": EPOCH_COLUMNS if len(phases) == 1 else PHASE_COLUMN | EPOCH_COLUMNS,
    }


def _stem(path: str) -> str:
    """The last part of a path of any system, without the suffix of a model file."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2].removesuffix(".keras")


def _describe_training(run: SavedRun, phases: Sequence[Phase]) -> list[dict]:
    """What learned in each phase, for how many epochs and how long, and its best macro F1."""
    first = run.plan.unfreeze_from
    network = f"the network from {first} on" if first else "the whole network"
    if run.plan.freeze_norms:
        network += " without its norms"
    return [
        {
            "learns": ("the head, on features" if phase.is_frozen else network)
            + ", on smaller images" * phase.is_small,
            "epochs": len(rows),
            "seconds": sum(row["seconds"] for row in rows),
            "f1": max(row["val_f1"] for row in rows),
        }
        for phase in phases
        if (rows := run.history.of_phase(phase.number))
    ]


def _describe_augmentation(augmentation: Augmentation) -> str:
    off = Augmentation(flip=False)
    changes = [
        field.name.replace("_", " ") + ("" if value is True else f" {value:g}")
        for field in fields(augmentation)
        if (value := getattr(augmentation, field.name)) != getattr(off, field.name)
    ]
    return ", ".join(changes) or "none"


# What came out ------------------------------------------------------------------------------------


def _describe_classes(run: SavedRun) -> dict:
    """Images and scores of each class, and the places in the matrix of those that occur."""
    names, train = run.class_names, np.array(run.environment.data.class_counts["train"])
    val = metrics.count_classes(run.labels, len(names))
    classes = metrics.class_report(run.labels, run.predicted, names)
    # In the order of class_report: two classes may have the same name.
    for row, label in zip(classes, np.flatnonzero(val), strict=True):
        row["train"] = int(train[label])
    order = [i for i in np.argsort(train, kind="stable") if train[i]]
    occurs = run.confusion.any(axis=0) | run.confusion.any(axis=1)
    return {
        "classes": sorted(classes, key=lambda row: (row["f1"], row["recall"], row["name"])),
        "class_counts": {"train": plots.describe_counts(train), "val": plots.describe_counts(val)},
        "rarest": [(names[i], int(train[i])) for i in order[:3]],
        "shown": {label: place for place, label in enumerate(np.flatnonzero(occurs).tolist())},
        "numbered_classes": NUMBERED_CLASSES,
    }


def _find_photos(run: SavedRun, images, get_model: Callable) -> dict:
    """The rows whose photos are shown: mistakes, doubtful labels, kinds of mistakes; and the photos."""
    mistakes = run.worst_mistakes[:SHOWN_MISTAKES].tolist()
    issues = find_label_issues(run.labels, run.probabilities)
    doubted = issues.order[issues.is_issue[issues.order]].tolist()
    if len(doubted) > MOST_DOUBTED * len(run.labels):
        doubted = []
    pairs, examples = _find_pairs(run), _find_examples(run)
    photos = _encode_shown(run, images, mistakes, doubted[:SHOWN_DOUBTED], pairs, examples)
    cams, no_cam = _find_cams(images, get_model, mistakes, run.predicted[mistakes])
    return {
        "photos": photos,
        "mistakes": mistakes,
        "cams": cams,
        "no_cam": no_cam,
        "issues": issues,
        "doubted": doubted,
        "shown_doubted": SHOWN_DOUBTED,
        "pairs": pairs,
        "linked": {(x["label"], x["predicted"]) for x in pairs if x["rows"][0] in photos},
        "examples": examples,
    }


def _find_pairs(run: SavedRun) -> list[dict]:
    """Each kind of mistake, the most frequent first: label, predicted, and its rows, worst first."""
    rows: dict[tuple[int, int], list[int]] = {}
    for row in run.worst_mistakes.tolist():
        rows.setdefault((int(run.labels[row]), int(run.predicted[row])), []).append(row)
    support = run.confusion.sum(axis=1)
    return [
        {"label": label, "predicted": predicted, "rows": found, "support": int(support[label])}
        for (label, predicted), found in sorted(rows.items(), key=lambda x: (-len(x[1]), x[0]))
    ]


def _find_examples(run: SavedRun) -> dict[int, int]:
    """Of each class that was ever predicted right the row with its highest probability."""
    right = np.flatnonzero(run.predicted == run.labels)
    order = right[np.argsort(run.probabilities[right, run.labels[right]], kind="stable")]
    return dict(zip(run.labels[order].tolist(), order.tolist(), strict=True))


def _encode_shown(run, images, mistakes, doubted, pairs, examples) -> dict[int, Picture]:
    """The photos that the report shows, by their row: of each kind of mistake the worst ones."""
    if images is None:
        return {}
    places = itertools.zip_longest(*(pair["rows"][:SHOWN_OF_PAIR] for pair in pairs))
    first = [row for rows in places for row in rows if row is not None][:SHOWN_OF_PAIRS]
    sizes = dict.fromkeys(mistakes, PHOTO_PX)
    for row in doubted + first:
        sizes.setdefault(row, THUMBNAIL_PX)
        for label in (run.labels[row], run.predicted[row]):
            sizes.setdefault(examples.get(int(label), row), THUMBNAIL_PX)
    return encode_photos(images, sizes, PHOTO_BYTES)


def _find_cams(
    images, get_model: Callable, rows: list[int], predicted: np.ndarray
) -> tuple[dict[int, Picture], str]:
    """Where the model looked in the photos of `rows`; and why that is not shown, if it should be."""
    if images is None or not rows:
        return {}, ""
    try:
        if (model := get_model()) is None:
            return {}, ""
        height, width = find_map_size(model)
        if min(height, width) < COARSEST_MAP:
            return {}, (
                f"its last feature map has {height} x {width} places, too few to point at a part of "
                f"the flower. Train with a larger --input-size to see it."
            )
        chosen = np.asarray(images[np.array(rows)])
        cams = compute_cam(model, chosen, predicted)
    except Exception as error:  # any error of a device: a report is worth more than its maps
        return {}, str(error).splitlines()[0]
    lit = map(plots.highlight_cam, chosen, cams)
    return dict(zip(rows, map(encode_photo, lit), strict=True)), ""


def _check_submission(run: SavedRun, problems: Sequence[str] | None) -> dict | None:
    """The problems of the run's csv, its name and rows, and whether its ids were checked."""
    file, names = RunFolder(run.path).csv_file(), run.class_names
    if not file.is_file():
        return {"problems": problems, "name": file.name} if problems else None
    found, num_rows, has_names = problems, 0, False
    try:
        has_names = holds_predictions(file)
        ids = read_ids(file, column="photo" if has_names else "id")
        num_rows = len(ids)
        if problems is None:
            found = check_csv(file, ids, names, find_csv_labels(names))
    except ValueError as error:
        found = problems or [str(error)]
    return {
        "problems": found,
        "name": file.name,
        "holds": "names of classes" if has_names else f"labels in 0..{len(names) - 1}",
        "num_rows": num_rows,
        "ids_checked": problems is not None,
    }


# Charts -------------------------------------------------------------------------------------------


def _draw_charts(run: SavedRun) -> list[Chart]:
    history, best = run.history, run.history.best
    rates = {"learning_rate": "used", "planned_lr": "planned"}
    if all(np.isclose(row["planned_lr"], row["learning_rate"], rtol=1e-4) for row in history):
        del rates["planned_lr"]
    charts = []
    for title, columns, form in (
        ("Loss", {"loss": "training", "val_loss": "validation"}, ".3f"),
        ("Score", SCORES, ".3f"),
        ("Learning rate", rates, ".2e"),
    ):
        values = ", ".join(f"{label} {best[name]:{form}}" for name, label in columns.items())
        summary = f"Best epoch {best['epoch']}: {values}"
        charts.append(draw_history(title, summary, history, columns, form, best["epoch"]))
    return charts
