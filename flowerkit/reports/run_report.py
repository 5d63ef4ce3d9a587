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
from flowerkit.models import compute_cam
from flowerkit.pipeline import Augmentation
from flowerkit.reports.pictures import Picture, encode_figure, encode_file, encode_photo, new_panel
from flowerkit.reports.rendering import render
from flowerkit.reports.saved_run import SavedRun
from flowerkit.submission import check_submission, read_ids
from flowerkit.training import RunFolder, TrainingPlan, plan_phases

MISTAKES = "mistakes.png"
SHOWN_MISTAKES = 12
LISTED_PAIRS = 10
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
            pictures[MISTAKES] = plots.plot_mistakes(
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
    """Write report.html into a run folder: a single file without scripts that loads nothing.

    `val_images` is (n, size, size, 3) uint8 in the order of val_predictions.npz; without it the
    worst mistakes are those of mistakes.png, if it is there. `submission_problems` is the result of
    `check_submission` for submission.csv; None: only its form is checked here. With `model`, the run's
    keras.Model, and `val_images` the report shows where it looked in the worst mistakes.
    Raises what `SavedRun.load` raises, and ValueError where images and predictions differ in number.
    """
    run = SavedRun.load(folder)
    mistakes, cam_error = _show_mistakes(run, val_images, model)
    counts = {
        "train": np.array(run.environment.data.class_counts["train"]),
        "val": metrics.count_classes(run.labels, len(run.class_names)),
    }
    calibration = metrics.calibration(run.labels, run.probabilities)
    classes = metrics.class_report(run.labels, run.predicted, run.class_names)
    phases = plan_phases(run.plan, global_batch=run.global_batch)
    text = render(
        "report.html.j2",
        title=f"{run.name}: flowerkit report",
        version=flowerkit.__version__,
        run=run,
        scores=run.predictions.score(),
        data_name=_describe_origin(run),
        backbone=_stem(run.plan.backbone),
        phases=phases,
        optimizer=_describe_optimizer(run.plan),
        augmentation=_describe_augmentation(run.plan.augmentation()),
        training_only=_list_training_only(run.plan),
        epoch_columns=EPOCH_COLUMNS if len(phases) == 1 else PHASE_COLUMN | EPOCH_COLUMNS,
        # Ids instead of names: two classes may have the same name.
        confused=metrics.most_confused(run.confusion, range(len(run.class_names)), LISTED_PAIRS),
        mistakes=mistakes,
        cam_error=cam_error,
        mistakes_sheet=_find_sheet(run.path / MISTAKES),
        classes=sorted(classes, key=lambda row: (row["f1"], row["recall"], row["name"])),
        calibration=calibration,
        class_counts={split: plots.describe_counts(of_split) for split, of_split in counts.items()},
        rarest=_find_rarest(run.class_names, counts["train"]),
        submission=_check_submission(run, submission_problems),
        curves=_encode_curves(run),
        confusion_plot=_encode_confusion(run),
        calibration_plot=_encode_calibration(calibration),
        histogram=_encode_histogram(run, counts),
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


def _show_mistakes(run: SavedRun, val_images, model) -> tuple[list[dict], str]:
    """The worst mistakes with their photos; and why they are without maps, if they should have them."""
    if val_images is None:
        return [], ""
    if len(val_images) != len(run.labels):
        raise ValueError(
            f"{len(val_images)} images but {len(run.labels)} predictions. Pass those of val."
        )
    rows, cam_error = run.worst_mistakes[:SHOWN_MISTAKES], ""
    images, cams = np.asarray(val_images[rows]), [None] * len(rows)
    if model is not None and len(rows):
        try:
            cams = compute_cam(model, images, run.predicted[rows])
        except Exception as error:  # any error of a device: a report is worth more than its maps
            cam_error = str(error).splitlines()[0]
    return [
        _show_mistake(run, row, image, cam)
        for row, image, cam in zip(rows, images, cams, strict=True)
    ], cam_error


def _show_mistake(run: SavedRun, row: int, image: np.ndarray, cam: np.ndarray | None) -> dict:
    true, predicted = run.labels[row], run.predicted[row]
    true_name, predicted_name = (run.class_names[k].strip() for k in (true, predicted))
    return {
        "id": run.predictions.ids[row],
        "true": true_name,
        "predicted": predicted_name,
        "true_share": run.probabilities[row, true],
        "predicted_share": run.probabilities[row, predicted],
        "photo": encode_photo(image, f"{true_name}, taken for {predicted_name}"),
        "cam": None
        if cam is None
        else encode_photo(plots.highlight_cam(image, cam), f"Where it looked for {predicted_name}"),
    }


def _find_sheet(file: Path) -> Picture | None:
    try:
        return encode_file(file, "The worst mistakes with their predictions")
    except OSError:  # missing or damaged: the report does without
        return None


def _find_rarest(class_names: Sequence[str], counts: np.ndarray) -> list[tuple[str, int]]:
    order = [i for i in np.argsort(counts, kind="stable") if counts[i]]
    return [(class_names[i], int(counts[i])) for i in order[:3]]


def _check_submission(run: SavedRun, problems: Sequence[str] | None) -> dict | None:
    """The problems of submission.csv, its number of rows, and whether its ids were checked."""
    file, num_rows = RunFolder(run.path).submission_file, 0
    if not file.is_file():
        return {"problems": problems} if problems else None
    found = problems
    try:
        ids = read_ids(file)
        num_rows = len(ids)
        if problems is None:
            names = run.class_names
            found = check_submission(file, ids, len(names), find_csv_labels(names))
    except ValueError as error:
        found = problems or [str(error)]
    return {"problems": found, "num_rows": num_rows, "ids_checked": problems is not None}


# Plots --------------------------------------------------------------------------------------------


def _encode_curves(run: SavedRun) -> list[Picture]:
    best, num_epochs = run.history.best, len(run.history)
    summary = f"over {num_epochs} epochs, best epoch {best['epoch']}"
    loss, score = plots.plot_curves(run.history, best["epoch"], (new_panel(), new_panel()))
    rates = plots.plot_rates(run.history, new_panel())
    return [
        encode_figure(
            loss,
            f"Loss {summary}: training {best['loss']:.3f}, validation {best['val_loss']:.3f} there.",
        ),
        encode_figure(
            score,
            f"Accuracy and macro F1 {summary}: validation accuracy {best['val_accuracy']:.3f}, macro "
            f"F1 {best['val_f1']:.3f} there.",
        ),
        encode_figure(rates, f"{rates.get_title(loc='left')} over {num_epochs} epochs."),
    ]


def _encode_confusion(run: SavedRun) -> Picture:
    counts = run.confusion
    with plots.off_screen():
        axes = plots.plot_confusion(counts, run.class_names)
    alt = f"Confusion matrix: {np.trace(counts):,} of {counts.sum():,} right; the list says more."
    return encode_figure(axes, alt)


def _encode_calibration(calibration: metrics.Calibration) -> Picture:
    axes = plots.plot_calibration(calibration, new_panel())
    return encode_figure(axes, axes.get_title(loc="left").splitlines()[0])


def _encode_histogram(run: SavedRun, counts: dict[str, np.ndarray]) -> Picture:
    labels = {split: np.arange(len(values)).repeat(values) for split, values in counts.items()}
    with plots.off_screen():
        axes = plots.plot_histogram(labels, run.class_names)
    return encode_figure(axes, axes[0].figure.get_suptitle().replace("\n", ". "))
