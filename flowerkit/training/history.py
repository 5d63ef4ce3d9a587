"""What a run logged, a row an epoch: history.csv, the best epoch and the time since. Pure Python."""

import logging
import math
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from flowerkit.files import write_text
from flowerkit.training.plan import MONITORS

_log = logging.getLogger("flowerkit")

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

    `monitor` (of MONITORS) decides which row is best, of those whose epoch is not in `lost`: their
    weights were not kept, or the file is damaged. Epochs count from 1. `save` writes history.csv, where
    each line ends with its checksum.

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
        self.lost: set[int] = set()

    @classmethod
    def load(cls, path: str | os.PathLike, monitor: str, *, cut: bool = False) -> "History":
        """The rows of a history.csv; an empty history where there is no file.

        Raises ValueError, with the file and the line, for text that is not such a table or has changed
        since it was written; with `cut` the rows before that are returned, and it is logged.
        """
        path = Path(path)
        if not path.is_file():
            return cls(monitor, (), path)
        rows, number = [], 1
        try:
            first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
            names = first.split(",")
            missing = [name for name in COLUMNS if name not in names]
            if missing:
                raise ValueError(f"column {missing[0]!r} is missing")
            for number, line in enumerate(lines, 2):
                row = _read_row(dict(zip(names, line.split(","), strict=True)))
                if row["epoch"] != number - 1:
                    raise ValueError(f"epoch {number - 1} is missing")
                rows.append(row)
        except (OverflowError, ValueError) as error:
            message = f"{path}, line {number}: {error}. The file is damaged"
            if not cut:
                raise ValueError(
                    f"{message}: restore it, or train again in a new folder."
                ) from error
            _log.warning(message)
        return cls(monitor, rows, path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def append(self, row: dict[str, float]) -> None:
        """Add the row of an epoch, with the seven digits that the file keeps, as float32 holds.

        A tie with it is then one after a resume, too.
        """
        self.rows.append(
            {
                name: value if name == "epoch" else float(f"{value:.7g}")
                for name, value in row.items()
            }
        )

    def save(self) -> None:
        """Write history.csv in one piece; nothing without a `path`."""
        if self.path is None:
            return
        lines = [",".join((*COLUMNS, "checksum"))]
        for row in self.rows:
            line = ",".join(f"{row.get(name, math.nan):.7g}" for name in COLUMNS)
            lines.append(f"{line},{_sum_of(line)}")
        write_text(self.path, "\n".join(lines) + "\n")

    @property
    def last(self) -> dict[str, float] | None:
        """The row of the newest epoch; None before the first."""
        return self.rows[-1] if self.rows else None

    @property
    def best(self) -> dict[str, float] | None:
        """The row with the best value of the monitor, the earliest on a tie; None if none has one."""
        scored = [
            row
            for row in self.rows
            if math.isfinite(row.get(self.monitor, math.nan)) and row["epoch"] not in self.lost
        ]
        sign = 1 if MONITORS[self.monitor] == "max" else -1
        return max(scored, key=lambda row: sign * row[self.monitor]) if scored else None

    @property
    def last_is_best(self) -> bool:
        """Whether the newest epoch is the best one."""
        return self.best is not None and self.best is self.last

    def of_phase(self, number: int) -> "History":
        """The epochs of one phase alone."""
        history = History(self.monitor, [row for row in self.rows if row["phase"] == number])
        history.lost = self.lost
        return history

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


def _read_row(values: dict[str, str]) -> dict[str, float]:
    row = {name: float(values[name]) for name in COLUMNS}
    line = ",".join(values[name] for name in COLUMNS)
    if values.get("checksum", found := _sum_of(line)) != found:  # older files have none
        raise ValueError("a value was changed")
    return row | {"epoch": int(row["epoch"])}


def _sum_of(line: str) -> str:
    return f"{zlib.crc32(line.encode()):08x}"
