"""What a run logged, a row an epoch: history.csv read and written, the best epoch found. Pure Python."""

import csv
import io
import math
import os
from pathlib import Path

from flowerkit.files import write_text
from flowerkit.training.plan import MONITORS

COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "val_f1",
    "planned_lr",
    "learning_rate",
    "seconds",
    "images_per_second",
    "steps",
    "phase",
)


def read_history(path: str | os.PathLike) -> list[dict[str, float]]:
    """The rows of a history.csv, numbers throughout; epochs count from 1. [] if there is no file."""
    path = Path(path)
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            {name: float(text) if text else math.nan for name, text in row.items()}
            for row in csv.DictReader(file)
        ]
    return [row | {"epoch": int(row["epoch"])} for row in rows]


def write_history(path: str | os.PathLike, rows: list[dict[str, float]]) -> None:
    """Write history.csv in one piece, seven significant digits: what float32 holds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(f"{row.get(name, math.nan):.7g}" for name in COLUMNS)
    write_text(path, text.getvalue())


def best_row(rows: list[dict[str, float]], monitor: str) -> dict[str, float] | None:
    """The row with the best value of `monitor`, the earliest on a tie; None if no row has a value."""
    scored = [row for row in rows if math.isfinite(row.get(monitor, math.nan))]
    sign = 1 if MONITORS[monitor] == "max" else -1
    return max(scored, key=lambda row: sign * row[monitor]) if scored else None


def count_epochs_without_better(
    rows: list[dict[str, float]], monitor: str, first_epoch: int
) -> int:
    """Epochs since the best one, leaving out the first `first_epoch` (the ramp's).

    >>> rows = [{"epoch": k, "val_f1": f1} for k, f1 in enumerate([0.1, 0.7, 0.5, 0.6], start=1)]
    >>> [count_epochs_without_better(rows, "val_f1", ramp) for ramp in (0, 3, 9)]
    [2, 1, 0]
    """
    best = best_row(rows, monitor)
    since = max(best["epoch"] if best else 0, first_epoch)
    return max(0, rows[-1]["epoch"] - since) if rows else 0


def count_plateaus(
    rows: list[dict[str, float]], monitor: str, patience: int, cooldown: int = 0
) -> int:
    """How often `patience` epochs in a row were not better than the best before them.

    Each time counting starts anew, after `cooldown` epochs that do not count. An epoch without a
    value is no better one.

    >>> rows = [{"epoch": k, "val_f1": f1} for k, f1 in enumerate([0.1, 0.7, 0.5, 0.6, 0.7, 0.6], 1)]
    >>> [count_plateaus(rows, "val_f1", 2, cooldown) for cooldown in (0, 1, 9)]
    [2, 1, 1]
    """
    falls = waited = cooling = 0
    for number, row in enumerate(rows, 1):
        if best_row(rows[:number], monitor) is row:
            waited = 0
        elif not cooling:
            waited += 1
        cooling = max(0, cooling - 1)
        if waited == patience:
            falls, waited, cooling = falls + 1, 0, cooldown
    return falls
