"""Finished runs as a comparison reads them: each checked whole, so that an error names its folder."""

import csv
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flowerkit.reports.facts import SavedRun, read_facts

# What NumPy, csv and json say of files that hold something else.
_DAMAGE = (ValueError, KeyError, TypeError, IndexError, csv.Error)

# Of one run: what it is called in a csv, and how it is found.
FIGURES: dict[str, Callable[["ComparedRun"], float]] = {
    "val_f1": lambda run: run.facts.best["val_f1"],
    "val_accuracy": lambda run: run.facts.best["val_accuracy"],
    "val_loss": lambda run: run.facts.best["val_loss"],
    "accuracy": lambda run: run.facts.best["accuracy"],
    "best_epoch": lambda run: run.facts.best["epoch"],
    "epochs_done": lambda run: run.facts.rows[-1]["epoch"],
    "minutes": lambda run: sum(row["seconds"] for row in run.facts.rows) / 60,
    "parameters": lambda run: run.num_parameters,
}


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A finished run: its folder and what it says. `num_parameters` is NaN where it is not known."""

    folder: Path
    facts: SavedRun
    num_parameters: float

    @property
    def setting(self) -> dict:
        """All that was chosen for it but the seed: the plan's fields, then device and data."""
        plan = self.facts.plan.to_dict()
        del plan["seed"]
        if own := self.facts.environment.get("schedule"):  # of your own, over the plan's
            plan["schedule"] = own
        return plan | {"device": _describe_device(self.facts), "data": _describe_data(self.facts)}

    @cached_property
    def order(self) -> np.ndarray:
        """The rows of its predictions by ascending id, (n,) int64."""
        return np.argsort(self.facts.predictions.ids, kind="stable")

    @cached_property
    def ids(self) -> np.ndarray:
        """The ids of the validation images, (n,) str, ascending."""
        return self.facts.predictions.ids[self.order]


def read_compared(folders: Sequence[str | os.PathLike]) -> list[ComparedRun]:
    """The runs in `folders`, in their order. Raises what `compare.compare_runs` says."""
    return [_read_run(folder) for folder in _check_folders(folders)]


def _check_folders(folders: Sequence[str | os.PathLike]) -> list[Path]:
    folders = [Path(folder) for folder in folders]
    if not folders:
        raise ValueError("there is nothing to compare: pass one run folder or more.")
    places = [folder.resolve() for folder in folders]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ValueError(f"{folders[number]} is given twice. Pass each run once.")
    return folders


def _read_run(folder: Path) -> ComparedRun:
    if (folder / "plan.json").is_file() and not (folder / "result.json").is_file():
        raise ValueError(
            f"{folder} is not finished (no result.json). Go on with it, `flowerkit train --resume "
            f"--out {folder}`, or leave it out."
        )
    try:
        facts = read_facts(folder)
        run = ComparedRun(folder, facts, _count_parameters(folder))
        _check_answers(run)
        return run
    except _DAMAGE as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{folder} is damaged: {said.rstrip('.')}. Leave it out, or train it again."
        ) from error


def _check_answers(run: ComparedRun) -> None:
    """Raise here, where the folder is named, what would be raised when runs are compared."""
    predictions = run.facts.predictions
    if predictions.labels is None:
        raise ValueError("val_predictions.npz has no labels")
    num_classes = len(run.facts.class_names)
    if predictions.probabilities.shape[1:] != (num_classes,):
        raise ValueError(
            f"val_predictions.npz has probabilities of shape {predictions.probabilities.shape} for "
            f"{num_classes} classes"
        )
    if not len(predictions) or not all(
        math.isfinite(FIGURES[name](run)) for name in ("minutes", "val_f1")
    ):
        raise ValueError("its history or its predictions hold no figures")
    _ = run.setting, run.ids, run.facts.predicted


def _count_parameters(folder: Path) -> float:
    """All weights of model.keras, those of its norms included; NaN where there is no such file."""
    import h5py

    sizes = []

    def add(_, entry) -> None:
        # The states of dropout's generators are whole numbers, and no parameters.
        if isinstance(entry, h5py.Dataset) and entry.dtype.kind == "f":
            sizes.append(entry.size)

    try:
        with (
            zipfile.ZipFile(folder / "model.keras") as parts,
            parts.open("model.weights.h5") as file,
            h5py.File(file, "r") as weights,
        ):
            weights.visititems(add)
    except (OSError, KeyError, zipfile.BadZipFile):
        return math.nan
    return float(sum(sizes))


def was_interrupted(result: Mapping) -> bool:
    """Whether a result.json is that of a run that was ended by Ctrl-C."""
    return "interrupted" in (result.get("stop_reason") or "")


def _describe_device(facts: SavedRun) -> str:
    device = facts.environment["accelerator"]
    count = f" x {device['replicas']}" if device["replicas"] > 1 else ""
    return f"{device['kind']}{count}, {device['backend']}, {device['precision']}"


def _describe_data(facts: SavedRun) -> str:
    data = facts.environment["data"]
    train, val = (f"{data['counts'][split]:,}" for split in ("train", "val"))
    origin = [] if data["origin"] == "folder" else [data["origin"]]
    what = [
        f"{len(data['class_names']):,} classes",
        f"{data['image_size']} px",
        f"{train} to train",
    ]
    return ", ".join([*origin, *what, f"{val} to validate"])
