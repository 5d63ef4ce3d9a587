"""A run folder -> report.html, one file and plots as picture files."""

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

import flowerkit
from flowerkit import metrics, plots
from flowerkit.data import find_csv_labels
from flowerkit.files import write_text
from flowerkit.models import compute_cam, find_map_size
from flowerkit.pipeline import Augmentation
from flowerkit.prediction import find_label_issues
from flowerkit.reports.charts import Chart, draw_calibration, draw_history
from flowerkit.reports.pictures import PHOTO_PX, Picture, encode_photo, encode_photos
from flowerkit.reports.rendering import render
from flowerkit.submission import check_csv, holds_predictions, read_ids
from flowerkit.training import Phase, RunFolder, SavedRun, TrainingPlan, judge, plan_phases

SHOWN_MISTAKES = 12
SHOWN_DOUBTED = 6
MOST_DOUBTED = 0.1  # of the labels; a model that doubts more is wrong too often to judge them
SHOWN_OF_PAIR = 8  # photos of a kind of mistake
SHOWN_OF_PAIRS = 240  # of all kinds
THUMBNAIL_PX = 112
PHOTO_BYTES = 2_000_000  # of all photos in the page but the maps
NUMBERED_CLASSES = 12  # up to here the confusion matrix is a table with its counts
COARSEST_MAP = 4  # places a side of the feature map: with fewer a map lights half of the photo
SCORES = {"val_f1": "macro F1 on val", "val_accuracy": "accuracy on val", "accuracy": "in training"}
PHASE_COLUMN = {"phase": ".0f"}
EPOCH_COLUMNS = {
    "loss": ".3f",
    "val_loss": ".3f",
    "accuracy": ".3f",
    "val_accuracy": ".3f",
    "val_f1": ".3f",
    "planned_lr": ".2e",
    "learning_rate": ".2e",
    "seconds": ",.1f",
    "images_per_second": ",.0f",
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

    `val_images` is (n, size, size, 3) uint8 in the order of val_predictions.npz; without it the report
    has no photos. `submission_problems` are those of its csv, see `submission.check_csv`; None: only
    the csv's form is checked here. With `model`, the run's keras.Model, and `val_images` the report
    shows where it looked in the worst mistakes, if its feature map is fine enough.
    Raises what `SavedRun.load` raises, and ValueError where images and predictions differ in number.
    """
    run = SavedRun.load(folder)
    if val_images is not None and len(val_images) != len(run.labels):
        raise ValueError(
            f"{len(val_images)} images but {len(run.labels)} predictions. Pass those of val."
        )
    mistakes = run.worst_mistakes[:SHOWN_MISTAKES].tolist()
    issues = find_label_issues(run.labels, run.probabilities)
    doubted = issues.order[issues.is_issue[issues.order]].tolist()
    if len(doubted) > MOST_DOUBTED * len(run.labels):
        doubted = []
    pairs, examples = _find_pairs(run), _find_examples(run)
    photos = _encode_shown(run, val_images, mistakes, doubted[:SHOWN_DOUBTED], pairs, examples)
    cams, no_cam = _find_cams(run, val_images, model, mistakes)
    counts = {
        "train": np.array(run.environment.data.class_counts["train"]),
        "val": metrics.count_classes(run.labels, len(run.class_names)),
    }
    calibration = metrics.calibration(run.labels, run.probabilities)
    classes = metrics.class_report(run.labels, run.predicted, run.class_names)
    # In the order of class_report: two classes may have the same name.
    for row, label in zip(classes, np.flatnonzero(counts["val"]), strict=True):
        row["train"] = int(counts["train"][label])
    phases = plan_phases(run.plan, global_batch=run.global_batch)
    text = render(
        "report.html.j2",
        title=f"{run.name}: flowerkit report",
        version=flowerkit.__version__,
        run=run,
        verdict=judge(run),
        scores=run.predictions.score(),
        data_name=_describe_origin(run),
        backbone=_stem(run.plan.backbone),
        phases=phases,
        trained=_describe_training(run, phases),
        optimizer=_describe_optimizer(run.plan),
        augmentation=_describe_augmentation(run.plan.augmentation()),
        training_only=_list_training_only(run.plan),
        epoch_columns=EPOCH_COLUMNS if len(phases) == 1 else PHASE_COLUMN | EPOCH_COLUMNS,
        photos=photos,
        mistakes=mistakes,
        cams=cams,
        no_cam=no_cam,
        issues=issues,
        doubted=doubted,
        shown_doubted=SHOWN_DOUBTED,
        pairs=pairs,
        linked={(x["label"], x["predicted"]) for x in pairs if x["rows"][0] in photos},
        examples=examples,
        # Places in the matrix: of a network that knows more classes it shows those that occur.
        shown={label: place for place, label in enumerate(_find_shown(run.confusion))},
        numbered_classes=NUMBERED_CLASSES,
        classes=sorted(classes, key=lambda row: (row["f1"], row["recall"], row["name"])),
        calibration=calibration,
        class_counts={split: plots.describe_counts(of_split) for split, of_split in counts.items()},
        rarest=_find_rarest(run.class_names, counts["train"]),
        csv_name=RunFolder(folder).csv_file().name,
        submission=_check_submission(run, submission_problems),
        charts=_draw_charts(run),
        calibration_chart=_draw_calibration(calibration),
    )
    file = RunFolder(folder).report_file
    write_text(file, text)
    return file


# What was trained ---------------------------------------------------------------------------------


def _describe_origin(run: SavedRun) -> str:
    data = run.environment.data
    kinds = {"competition": "the competition's", "drawn": "drawn flowers", "folder": "a folder"}
    return f"{_stem(data.photos or data.folder)} ({kinds[data.origin]})"


def _stem(path: str) -> str:
    """The last part of a path of any system, without the suffix of a model file."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2].removesuffix(".keras")


def _describe_training(run: SavedRun, phases: Sequence[Phase]) -> list[dict]:
    """What learned in each phase, for how many epochs and how long, and its best macro F1."""
    described = []
    for phase in phases:
        rows = run.history.of_phase(phase.number)
        if rows:
            described.append(
                {
                    "learns": "the head, on features"
                    if phase.is_frozen
                    else _name_trained(run.plan),
                    "epochs": len(rows),
                    "seconds": sum(row["seconds"] for row in rows),
                    "f1": max(row["val_f1"] for row in rows),
                }
            )
    return described


def _name_trained(plan: TrainingPlan) -> str:
    part = (
        f"the network from {plan.unfreeze_from} on" if plan.unfreeze_from else "the whole network"
    )
    return part + (" without its norms" if plan.freeze_norms else "")


def _describe_optimizer(plan: TrainingPlan) -> str:
    names = ("weight_decay", "ema", "label_smoothing", "class_weights")
    values = {name.replace("_", " "): getattr(plan, name) for name in names}
    return ", ".join(
        [plan.optimizer, *(f"{name} {value}" for name, value in values.items() if value)]
    )


def _describe_augmentation(augmentation: Augmentation) -> str:
    off = Augmentation(flip=False)
    changes = [
        field.name.replace("_", " ") + ("" if value is True else f" {value:g}")
        for field in fields(augmentation)
        if (value := getattr(augmentation, field.name)) != getattr(off, field.name)
    ]
    return ", ".join(changes) or "none"


def _list_training_only(plan: TrainingPlan) -> list[str]:
    """What the training loss has and the validation loss has not, so that it may be higher."""
    names = ("label_smoothing", "class_weights", "mixup", "cutmix")
    return [name.replace("_", " ") for name in names if getattr(plan, name)]


# What came out ------------------------------------------------------------------------------------


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


def _find_shown(counts: np.ndarray) -> list[int]:
    return np.flatnonzero(counts.any(axis=0) | counts.any(axis=1)).tolist()


def _find_examples(run: SavedRun) -> dict[int, int]:
    """Of each class that was ever predicted right the row with its highest probability."""
    right = np.flatnonzero(run.predicted == run.labels)
    order = right[np.argsort(run.probabilities[right, run.labels[right]], kind="stable")]
    return dict(zip(run.labels[order].tolist(), order.tolist(), strict=True))


def _encode_shown(run, images, mistakes, doubted, pairs, examples) -> dict[int, Picture]:
    """The photos that the report shows, by their row: of each kind of mistake the worst ones."""
    if images is None:
        return {}
    first = [
        pair["rows"][place]
        for place in range(SHOWN_OF_PAIR)
        for pair in pairs
        if place < len(pair["rows"])
    ]
    sizes = dict.fromkeys(mistakes, PHOTO_PX)
    for rows in (doubted, first[:SHOWN_OF_PAIRS]):
        for row in rows:
            classes = int(run.labels[row]), int(run.predicted[row])
            for wanted in (row, *(examples.get(label, row) for label in classes)):
                sizes.setdefault(wanted, THUMBNAIL_PX)
    return encode_photos(images, sizes, PHOTO_BYTES)


def _find_cams(run: SavedRun, images, model, rows: list[int]) -> tuple[dict[int, Picture], str]:
    """Where the model looked in the photos of `rows`; and why that is not shown, if it should be."""
    if images is None or model is None or not rows:
        return {}, ""
    try:
        height, width = find_map_size(model)
        if min(height, width) < COARSEST_MAP:
            return {}, (
                f"its last feature map has {height} x {width} places, too few to point at a part of "
                f"the flower. Train with a larger --input-size to see it."
            )
        chosen = np.asarray(images[np.array(rows)])
        cams = compute_cam(model, chosen, run.predicted[rows])
    except Exception as error:  # any error of a device: a report is worth more than its maps
        return {}, str(error).splitlines()[0]
    lit = map(plots.highlight_cam, chosen, cams)
    return dict(zip(rows, map(encode_photo, lit), strict=True)), ""


def _find_rarest(class_names: Sequence[str], counts: np.ndarray) -> list[tuple[str, int]]:
    order = [i for i in np.argsort(counts, kind="stable") if counts[i]]
    return [(class_names[i], int(counts[i])) for i in order[:3]]


def _check_submission(run: SavedRun, problems: Sequence[str] | None) -> dict | None:
    """The problems of the run's csv, its name and rows, and whether its ids were checked."""
    file, names = RunFolder(run.path).csv_file(), run.class_names
    found, num_rows, has_names = problems, 0, False
    if not file.is_file():
        return {"problems": problems, "name": file.name} if problems else None
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


def _draw_calibration(calibration: metrics.Calibration) -> Chart:
    side = "too sure" if calibration.overconfidence > 0 else "too modest"
    summary = (
        f"Expected calibration error {calibration.error:.3f}; {side} by "
        f"{abs(calibration.overconfidence):.3f} on average."
    )
    return draw_calibration("Right predictions, by their probability", summary, calibration)
