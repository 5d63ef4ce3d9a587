"""What a run logged, a row an epoch: history.csv, the best epoch and the time since. Pure Python."""

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
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
    "averaged",
    "planned_lr",
    "learning_rate",
    "seconds",
    "images_per_second",
    "steps",
    "phase",
)


class History(Sequence):
    """The epochs of a run in order, each a row: a dict of floats by the names in COLUMNS.

    `monitor` (of MONITORS) decides which row is best. Epochs count from 1. With a `path`, `append`
    writes history.csv.

    >>> rows = [{"epoch": k, "val_f1": f1} for k, f1 in enumerate([0.1, 0.7, 0.5], 1)]
    >>> history = History("val_f1", rows)
    >>> history.best["epoch"], history.epochs_since_best(), history.epochs_since_best(first_epoch=2)
    (2, 1, 1)
    """

    def __init__(
        self, monitor: str, rows: Iterable[dict] = (), path: str | os.PathLike | None = None
    ):
        self.monitor, self.path = monitor, path
        self.rows = list(rows)

    @classmethod
    def load(cls, path: str | os.PathLike, monitor: str) -> "History":
        """The rows of a history.csv; an empty history where there is no file.

        Raises ValueError, with the file and the line, for text that is not such a table.
        """
        path = Path(path)
        if not path.is_file():
            return cls(monitor, (), path)
        rows = []
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            try:
                missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
                if missing:
                    raise ValueError(f"column {missing[0]!r} is missing")
                for line in reader:
                    row = {name: float(line[name]) for name in COLUMNS}
                    rows.append(row | {"epoch": int(row["epoch"])})
            except (TypeError, ValueError, csv.Error) as error:
                raise ValueError(
                    f"{path}, line {max(1, reader.line_num)}: {error}. The file is damaged: restore it, "
                    f"or train again in a new folder."
                ) from error
        return cls(monitor, rows, path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def append(self, row: dict[str, float]) -> None:
        """Add the row of an epoch, and write the file in one piece: seven digits, as float32 holds.

        The row here has the same digits: a tie with it is one after a resume, too.
        """
        self.rows.append(
            {
                name: value if name == "epoch" else float(f"{value:.7g}")
                for name, value in row.items()
            }
        )
        if self.path is None:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for each in self.rows:
            writer.writerow(f"{each.get(name, math.nan):.7g}" for name in COLUMNS)
        write_text(self.path, text.getvalue())

    @property
    def last(self) -> dict[str, float] | None:
        """The row of the newest epoch; None before the first."""
        return self.rows[-1] if self.rows else None

    @property
    def best(self) -> dict[str, float] | None:
        """The row with the best value of the monitor, the earliest on a tie; None if no row has one."""
        scored = [row for row in self.rows if math.isfinite(row.get(self.monitor, math.nan))]
        sign = 1 if MONITORS[self.monitor] == "max" else -1
        return max(scored, key=lambda row: sign * row[self.monitor]) if scored else None

    @property
    def last_is_best(self) -> bool:
        """Whether the newest epoch is the best one."""
        return self.best is not None and self.best is self.last

    def of_phase(self, number: int) -> "History":
        """The epochs of one phase alone."""
        return History(self.monitor, [row for row in self.rows if row["phase"] == number])

    def epochs_since_best(self, first_epoch: int = 0) -> int:
        """Epochs since the best one; those up to `first_epoch` (the ramp's) do not count."""
        if not self.rows:
            return 0
        best_epoch = self.best["epoch"] if self.best else 0
        return max(0, self.rows[-1]["epoch"] - max(best_epoch, first_epoch))

    def count_plateaus(self, patience: int) -> int:
        """How often `patience` epochs in a row brought nothing better; counting starts anew each time.

        >>> scores = [0.1, 0.7, 0.5, 0.6, 0.7, 0.6]
        >>> rows = [{"epoch": k, "val_f1": f1} for k, f1 in enumerate(scores, 1)]
        >>> History("val_f1", rows).count_plateaus(2)
        2
        """
        plateaus = waited = 0
        for number in range(1, len(self.rows) + 1):
            better = History(self.monitor, self.rows[:number]).last_is_best
            waited = 0 if better else waited + 1
            if waited == patience:
                plateaus, waited = plateaus + 1, 0
        return plateaus
