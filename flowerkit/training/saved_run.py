"""A finished run folder, read whole and checked."""

import os
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flowerkit import metrics
from flowerkit.prediction import Predictions
from flowerkit.text import format_epochs
from flowerkit.training.history import History
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.run_folder import Environment, Fitted, RunFolder, RunResult


@dataclass(frozen=True, eq=False)
class SavedRun:
    """A finished run; `predictions` are those of val at the best epoch."""

    path: Path
    plan: TrainingPlan
    fitted: Fitted
    environment: Environment
    history: History
    result: RunResult
    predictions: Predictions

    @classmethod
    def load(cls, path: str | os.PathLike) -> "SavedRun":
        """The run in a folder.

        Raises FileNotFoundError for a folder without a finished run, and ValueError, which names the
        file, where one is damaged.
        """
        folder = RunFolder(path)
        run = cls(
            folder.path,
            folder.plan(),
            folder.fitted(),
            folder.environment(),
            folder.history(),
            folder.result(),
            folder.val_predictions(),
        )
        if len(run.history) < run.result.stopped_at_epoch:
            raise ValueError(
                f"{folder.history_file} is damaged: it has {format_epochs(len(run.history))} and the "
                f"run had {run.result.stopped_at_epoch}. Restore it, or train again in a new folder."
            )
        if run.result.val_f1 is None:
            raise ValueError(
                f"{folder} was trained without validation, so there is nothing to report or compare."
            )
        # Better epochs have lost their weights.
        while (best := run.history.best) and best["epoch"] != run.result.best_epoch:
            run.history.lost.add(best["epoch"])
        if best is None:
            raise ValueError(
                f"{folder.history_file} is damaged: epoch {run.result.best_epoch}, the best one, has no "
                f"{run.plan.monitor} there. Restore it, or train again in a new folder."
            )
        expected = (len(run.predictions), len(run.class_names))
        if run.labels is None or run.probabilities.shape != expected or 0 in expected:
            raise ValueError(
                f"{folder.val_predictions_file} must hold labels and {expected} probabilities. "
                f"Received: {run.probabilities.shape}. Train again in a new folder."
            )
        return run

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.resolve().name

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes that the model knows."""
        return self.environment.data.class_names

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
        """See `metrics.confusion_matrix`: (num_classes, num_classes) int64."""
        return metrics.confusion_matrix(self.labels, self.predicted, len(self.class_names))

    @cached_property
    def worst_mistakes(self) -> np.ndarray:
        """The rows of val that are predicted wrong, least probability of the true class first."""
        order = metrics.top_losses(self.labels, self.probabilities)
        return order[(self.predicted != self.labels)[order]]

    @property
    def global_batch(self) -> int:
        """Images per step, over all replicas."""
        return self.plan.per_replica_batch * self.environment.accelerator.replicas

    @cached_property
    def num_parameters(self) -> int:
        """The weights in model.keras, its norms included. Raises ValueError for a damaged file."""
        import h5py

        file, sizes = RunFolder(self.path).model_file, []

        def add(_, entry) -> None:
            # The states of dropout's generators are whole numbers, and no parameters.
            if isinstance(entry, h5py.Dataset) and entry.dtype.kind == "f":
                sizes.append(entry.size)

        try:
            with (
                zipfile.ZipFile(file) as archive,
                archive.open("model.weights.h5") as stored,
                h5py.File(stored, "r") as weights,
            ):
                weights.visititems(add)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file} is damaged or missing: {error}. Train again.") from error
        return sum(sizes)
