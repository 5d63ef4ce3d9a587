"""Predict once, look many times: ids, probabilities and labels that stay together."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from flowerkit import evaluation
from flowerkit.files import replacing
from flowerkit.pipeline import Split, evaluation_batches


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's answers to one split; row i of every array is the same image.

    `ids` (n,) str; `probabilities` (n, num_classes) float32, rows sum to 1; `labels` (n,) int32, or
    None for an unlabelled split.
    """

    ids: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray | None

    def __post_init__(self) -> None:
        counts = {len(self.ids), len(self.probabilities)}
        if self.labels is not None:
            counts.add(len(self.labels))
        if len(counts) != 1:
            raise ValueError(f"ids, probabilities and labels differ in number: {sorted(counts)}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def guesses(self) -> np.ndarray:
        """The most probable class of each image, (n,) int64."""
        return evaluation.predicted_labels(self.probabilities)

    def score(self) -> dict[str, float]:
        """val_loss, val_accuracy and val_f1 of a labelled split. Raises ValueError without labels."""
        if self.labels is None:
            raise ValueError("these predictions have no labels to score against (a test split).")
        return {
            "val_loss": evaluation.log_loss(self.labels, self.probabilities),
            "val_accuracy": evaluation.accuracy(self.labels, self.guesses),
            "val_f1": evaluation.macro_f1(self.labels, self.guesses),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write an npz file in one piece."""
        arrays = {"ids": self.ids, "probabilities": self.probabilities}
        if self.labels is not None:
            arrays["labels"] = self.labels
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Predictions":
        """What `save` wrote. Raises FileNotFoundError, or ValueError for another kind of file."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no predictions {path}. Run `flowerkit train` first.")
        try:
            with np.load(path) as arrays:
                return cls(arrays["ids"], arrays["probabilities"], arrays.get("labels"))
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} holds no predictions of flowerkit: {error}") from error


def predict(model: keras.Model, split: Split, *, global_batch: int) -> Predictions:
    """The probabilities of every image of `split`, in its order.

    `global_batch` is a multiple of the replicas; the padding of the last batch is cut off again.
    Raises ValueError if the model takes images of another size.
    """
    wanted, stored = tuple(model.input_shape[1:]), split.images.shape[1:]
    if wanted != stored:
        raise ValueError(
            f"the model takes images of {_size(wanted)}, the data holds {_size(stored)}. "
            f"Choose the stored size with --image-size, or train on this one."
        )
    batches = evaluation_batches(split, global_batch=global_batch)
    probabilities = model.predict(batches, verbose=0)[: len(split)]
    return Predictions(split.ids, probabilities, split.labels)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} px"
