"""Predict once, look many times: ids, probabilities and labels that stay together."""

import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from flowerkit import evaluation
from flowerkit.decoding import Split
from flowerkit.files import replacing
from flowerkit.pipeline import evaluation_batches

# What NumPy raises for a file that is empty, cut off, damaged inside, or another kind of file.
_DAMAGE = (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


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
        except _DAMAGE as error:
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
    strategy = getattr(model, "distribute_strategy", None)  # TensorFlow's alone
    if strategy and strategy.num_replicas_in_sync > 1:
        probabilities = _predict_replicated(model, strategy, batches)
    else:
        probabilities = model.predict(batches, verbose=0)
    return Predictions(split.ids, probabilities[: len(split)], split.labels)


def _predict_replicated(model: keras.Model, strategy, batches) -> np.ndarray:
    """Over several TensorFlow replicas, without Keras's iterator for each device.

    Those are autotuned whatever the data set says, and the end of each can block for seconds: that
    would be paid at every validation.
    """
    probabilities = []
    for images, _, _ in batches.as_numpy_iterator():
        parts = np.split(images, strategy.num_replicas_in_sync)
        placed = strategy.experimental_distribute_values_from_function(
            lambda context, parts=parts: parts[context.replica_id_in_sync_group]
        )
        probabilities.append(model.predict_on_batch(placed))
    return np.concatenate(probabilities)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} px"
