"""What a run folder says, read once for everything that is told about it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flowerkit import metrics as evaluation
from flowerkit.files import read_json
from flowerkit.prediction.predictions import Predictions
from flowerkit.training.history import best_row, read_history
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.run_folder import read_run


@dataclass(frozen=True, eq=False)
class SavedRun:
    """The plan, the machine and the data of a run, its history, and its answers to val.

    `result` is that of result.json, {} without one; `best` is the row of `rows` of the best epoch.
    `predictions` are those of val at that epoch.
    """

    name: str
    plan: TrainingPlan
    environment: Mapping
    result: Mapping
    rows: Sequence[Mapping[str, float]]
    best: Mapping[str, float]
    predictions: Predictions

    @property
    def class_names(self) -> list[str]:
        """All classes that the model knows."""
        return self.environment["data"]["class_names"]

    @property
    def labels(self) -> np.ndarray:
        """The true class of each validation image, (n,) int32."""
        return self.predictions.labels

    @property
    def probabilities(self) -> np.ndarray:
        """(n, num_classes) float32, rows sum to 1."""
        return self.predictions.probabilities

    @cached_property
    def predicted(self) -> np.ndarray:
        """The most probable class of each validation image, (n,) int64."""
        return self.predictions.predicted

    @cached_property
    def confusion(self) -> np.ndarray:
        """How often class i (the row) was guessed as class j: (num_classes, num_classes) int64."""
        return evaluation.confusion_matrix(self.labels, self.predicted, len(self.class_names))

    @cached_property
    def worst_mistakes(self) -> list[int]:
        """The rows of val that were guessed wrong; where the true class got least, first."""
        order = evaluation.top_losses(self.labels, self.probabilities, len(self.labels))
        return [int(i) for i in order if self.predicted[i] != self.labels[i]]

    @property
    def global_batch(self) -> int:
        """Images a step, over all replicas."""
        replicas = self.environment.get("accelerator", {}).get("replicas", 1)
        return self.plan.per_replica_batch * replicas


def read_facts(folder: str | os.PathLike) -> SavedRun:
    """What a finished or interrupted run left in its folder.

    Raises FileNotFoundError where it is no run or has no predictions, ValueError for a damaged file
    or a run without a whole epoch.
    """
    folder = Path(folder)
    plan, environment = read_run(folder)
    rows = read_history(folder / "history.csv")
    predictions = Predictions.load(folder / "val_predictions.npz")
    best = best_row(rows, plan.monitor)
    if best is None:
        raise ValueError(
            f"{folder / 'history.csv'} has no epoch with a {plan.monitor}, so there is nothing to "
            f"show. Train at least one whole epoch."
        )
    result = folder / "result.json"
    found = read_json(result) if result.is_file() else {}
    return SavedRun(folder.resolve().name, plan, environment, found, rows, best, predictions)
