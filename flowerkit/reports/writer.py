"""A run folder -> pictures of it, and one report.html that holds all there is to see."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import flowerkit
from flowerkit import metrics as evaluation
from flowerkit.files import write_json, write_text
from flowerkit.models.cam import compute_cam
from flowerkit.plots import curves as plots
from flowerkit.plots.fonts import find_undrawable
from flowerkit.plots.images import light_attention
from flowerkit.reports import sections as report_sections
from flowerkit.reports.facts import SavedRun, read_facts
from flowerkit.reports.html import Picture, page
from flowerkit.reports.pictures import (
    drawing,
    encode_figure,
    encode_file,
    encode_panels,
    encode_photo,
    new_panel,
)
from flowerkit.reports.plan_section import describe_run

CURVES, RATES, CONFUSION, MISTAKES = "curves.png", "rates.png", "confusion.png", "mistakes.png"
REPORT, SUBMISSION = "report.html", "submission.csv"
SHOWN_MISTAKES = 12


def write_pictures(folder: str | os.PathLike, *, val_images=None) -> list[Path]:
    """Write curves, rates and confusion.png into a run folder, and mistakes.png given `val_images`.

    `val_images` is (n, size, size, 3) uint8 in the order of val_predictions.npz. Returns the files.
    Raises FileNotFoundError where `folder` is no run.
    """
    folder = Path(folder)
    run = read_facts(folder)
    with drawing():
        pictures = {
            CURVES: plots.plot_curves(run.rows, run.best["epoch"]),
            RATES: plots.plot_rates(run.rows),
            CONFUSION: plots.plot_confusion(run.confusion, run.class_names),
        }
        if val_images is not None:
            pictures[MISTAKES] = plots.plot_mistakes(
                val_images, run.labels, run.probabilities, run.class_names, SHOWN_MISTAKES
            )
        for name, axes in pictures.items():
            plots.save_figure(axes, folder / name)
    return [folder / name for name in pictures]


def write_report(
    folder: str | os.PathLike,
    *,
    val_images=None,
    submission_problems: Sequence[str] | None = None,
    model=None,
) -> Path:
    """Write report.html into a run folder: one file that needs no other, no script and no network.

    `val_images` is (n, size, size, 3) uint8 in the order of val_predictions.npz; without it the
    worst mistakes are those of mistakes.png, if it is there. `submission_problems` is what
    `check_submission` said of submission.csv; None: its form alone is checked here. With `model`, the
    run's keras.Model, and `val_images` there is to see where it looked in the worst mistakes.
    Raises FileNotFoundError where `folder` is no run, ValueError for a damaged one or images that
    are not as many as the predictions.
    """
    folder = Path(folder)
    run = read_facts(folder)
    photos = [] if val_images is None else _encode_mistakes(run, val_images)
    maps, note = _encode_attention(run, val_images, model) if photos and model else ([], "")
    with drawing():
        curves, matrix = _encode_curves(run), _encode_confusion(run)
        histogram, diagram = _encode_histogram(run), _encode_calibration(run)
    undrawable = find_undrawable(run.class_names)
    content = page(
        f"{run.name}: flowerkit report",
        describe_run(run),
        report_sections.describe_training(run, curves),
        report_sections.describe_confusion(run, matrix, undrawable=undrawable),
        report_sections.describe_mistakes(run, photos, _find_sheet(folder), maps=maps, note=note),
        report_sections.describe_classes(run),
        report_sections.describe_calibration(run, diagram),
        report_sections.describe_data(run, histogram, undrawable=undrawable),
        report_sections.describe_submission(run, folder / SUBMISSION, submission_problems),
        report_sections.describe_environment(run, flowerkit.__version__),
    )
    write_text(folder / REPORT, content)
    return folder / REPORT


def write_rate_search(search, folder: str | os.PathLike) -> list[Path]:
    """Write lr_search.json and lr_search.png of a `LRFinderResult` into `folder`; returns the files."""
    folder = Path(folder)
    write_json(folder / "lr_search.json", search.to_dict())
    with drawing():
        plots.save_figure(plots.plot_rate_search(search), folder / "lr_search.png")
    return [folder / "lr_search.json", folder / "lr_search.png"]


def _encode_curves(run: SavedRun) -> list[Picture]:
    best, last = run.best, run.rows[-1]
    where = f"over {last['epoch']} epochs, best epoch {best['epoch']}"
    curves = encode_panels(
        plots.plot_curves(run.rows, best["epoch"]),
        [
            f"Loss {where}: training {best['loss']:.3f}, validation {best['val_loss']:.3f} there.",
            f"Accuracy and macro F1 {where}: validation accuracy {best['val_accuracy']:.3f}, "
            f"macro F1 {best['val_f1']:.3f} there.",
        ],
    )
    axes = plots.plot_rates(run.rows, ax=new_panel())
    said = axes.get_title(loc="left")
    return [*curves, encode_figure(axes, f"{said} over {last['epoch']} epochs.")]


def _encode_confusion(run: SavedRun) -> Picture:
    counts = run.confusion
    axes = plots.plot_confusion(counts, run.class_names)
    alt = f"Confusion matrix: {np.trace(counts):,} of {counts.sum():,} right; the list says more."
    return encode_figure(axes, alt)


def _encode_histogram(run: SavedRun) -> Picture:
    counts = report_sections.find_class_counts(run)
    axes = plots.plot_histogram(counts, run.class_names, is_counted=True)
    return encode_figure(axes, axes[0].figure.get_suptitle().replace("\n", ". "))


def _encode_calibration(run: SavedRun) -> Picture:
    axes = plots.plot_calibration(
        evaluation.calibration(run.labels, run.probabilities), ax=new_panel()
    )
    return encode_figure(axes, axes.get_title(loc="left").splitlines()[0])


def _encode_attention(run: SavedRun, val_images, model) -> tuple[list[Picture], str]:
    """Where the model looked in the worst mistakes; or none, and a sentence that says why."""
    worst = np.array(run.worst_mistakes[:SHOWN_MISTAKES])
    images = np.asarray(val_images[worst])
    try:
        attention = compute_cam(model, images, run.predicted[worst])
    except Exception as error:  # whatever a device says: a report is worth more than its maps
        return [], f"Where the model looked is not shown: {str(error).splitlines()[0]}"
    said = [f"Where it looked for {run.class_names[run.predicted[i]].strip()}" for i in worst]
    lit = map(light_attention, images, attention)
    return [encode_photo(pixels, alt) for pixels, alt in zip(lit, said, strict=True)], ""


def _encode_mistakes(run: SavedRun, val_images) -> list[tuple[int, Picture]]:
    if len(val_images) != len(run.labels):
        raise ValueError(
            f"{len(val_images)} images but {len(run.labels)} predictions. Pass those of val."
        )
    wrong = run.worst_mistakes[:SHOWN_MISTAKES]
    return [(i, encode_photo(val_images[i], _describe_mistake(run, i))) for i in wrong]


def _describe_mistake(run: SavedRun, index: int) -> str:
    guess, truth = (run.class_names[c].strip() for c in (run.predicted[index], run.labels[index]))
    return f"{truth}, taken for {guess}"


def _find_sheet(folder: Path) -> Picture | None:
    try:
        return encode_file(folder / MISTAKES, "The worst mistakes with what was guessed")
    except OSError:  # not there, or damaged: the report does without
        return None
