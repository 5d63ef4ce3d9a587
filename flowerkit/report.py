"""A run folder -> pictures of it: curves, rates, confusions and mistakes as PNG files."""

import os
from pathlib import Path

import matplotlib

from flowerkit import evaluation, plots
from flowerkit.history import best_row, read_history
from flowerkit.prediction import Predictions
from flowerkit.run_folder import read_run

CURVES, RATES, CONFUSION, MISTAKES = "curves.png", "rates.png", "confusion.png", "mistakes.png"


def write_pictures(folder: str | os.PathLike, *, val_images=None) -> list[Path]:
    """Write curves, rates and confusion.png into a run folder, and mistakes.png given `val_images`.

    `val_images` is (n, size, size, 3) uint8 in the order of val_predictions.npz. Returns the files.
    Raises FileNotFoundError where `folder` is no run.
    """
    folder = Path(folder)
    plan, environment = read_run(folder)
    rows = read_history(folder / "history.csv")
    predictions = Predictions.load(folder / "val_predictions.npz")
    names = environment["data"]["class_names"]
    counts = evaluation.confusion_counts(predictions.labels, predictions.guesses, len(names))
    # Agg: a picture file needs no screen, and must not touch the caller's figures.
    with matplotlib.rc_context({"backend": "agg"}):
        pictures = {
            CURVES: plots.plot_curves(rows, best_row(rows, plan.monitor)["epoch"]),
            RATES: plots.plot_rates(rows),
            CONFUSION: plots.plot_confusion(counts, names),
        }
        if val_images is not None:
            pictures[MISTAKES] = plots.plot_mistakes(
                val_images, predictions.labels, predictions.probabilities, names, 12
            )
        for name, axes in pictures.items():
            plots.save_figure(axes, folder / name)
    return [folder / name for name in pictures]
