"""Predict once, use the result many times: ids, probabilities and labels that stay together."""

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from flowerkit import metrics
from flowerkit.data import Split
from flowerkit.files import replacing
from flowerkit.models import find_chain, stream_outputs
from flowerkit.pipeline import Augmentation, Batches, augment_images, eval_batches, sample_params

# What NumPy raises for a file that is empty, cut off, damaged inside, or another kind of file.
_DAMAGE = (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)

# The smallest crop of test-time augmentation: models trained without crops lose by smaller ones.
LIGHT_CROP_AREA = 0.9


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's predictions for one split; row i of every array is the same image.

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
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, (n,) int64."""
        return metrics.predicted_labels(self.probabilities)

    def score(self) -> dict[str, float]:
        """val_loss, val_accuracy and val_f1 of a labelled split. Raises ValueError without labels."""
        if self.labels is None:
            raise ValueError("these predictions have no labels to score against (a test split).")
        return {
            "val_loss": metrics.log_loss(self.labels, self.probabilities),
            "val_accuracy": metrics.accuracy(self.labels, self.predicted),
            "val_f1": metrics.macro_f1(self.labels, self.predicted),
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


def predict(
    model: keras.Model,
    split: Split,
    *,
    global_batch: int,
    tta: int = 1,
    min_crop_area: float = LIGHT_CROP_AREA,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Predictions:
    """The probabilities of every image of `split`, in its order.

    `global_batch` is a multiple of the replicas; the padding of the last batch is dropped.
    `tta` (test-time augmentation): the probabilities are the mean over so many views of each image:
    as it is, mirrored, then random crops of (seed, view) of at least `min_crop_area`, half of them
    mirrored. Pass the plan's `min_crop_area` where it trained with crops; a model that did not gains
    from 2 views, hardly from more. Time grows with `tta`, memory does not. Leave it at 1 where a
    mirrored picture means something else.

    `progress` is called with ("predict", images done, images in all).
    Raises ValueError if the model takes images of another size, or for a tta below 1.
    """
    _check_request(model, split, tta)
    num_images, crops = len(split), Augmentation(flip=True, min_crop_area=min_crop_area)
    total = np.zeros((num_images, model.output_shape[-1]))
    for view in range(tta):

        def on_batch(num_batches: int, images_before: int = view * num_images) -> None:
            if progress:
                done = min(num_batches * global_batch, num_images)
                progress("predict", images_before + done, tta * num_images)

        seen = replace(split, images=_View(split.images, view, crops, seed)) if view else split
        batches = eval_batches(seen, global_batch=global_batch)
        total += _predict_batches(model, batches, on_batch)[:num_images]
    return Predictions(split.ids, (total / tta).astype("float32"), split.labels)


def _check_request(model: keras.Model, split: Split, tta: int) -> None:
    wanted, stored = tuple(model.input_shape[1:]), split.images.shape[1:]
    if wanted != stored:
        raise ValueError(
            f"the model takes images of {wanted[1]}x{wanted[0]} px, the data holds "
            f"{stored[1]}x{stored[0]} px. Choose the stored size with image_size (--image-size), or "
            f"train on this one."
        )
    if tta < 1:
        raise ValueError(f"tta counts the views of each image, 1 or more. Received: tta={tta}")


class _View:
    """The images of a split, augmented for view 1, 2, ... a batch at a time."""

    def __init__(self, images, view: int, crops: Augmentation, seed: int):
        self.shape = images.shape
        self._images, self._crops = images, crops
        self._params = None
        if view > 1:
            self._params = sample_params(crops, len(images), seed=seed, epoch=view)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        images = np.asarray(self._images[rows])
        if self._params is None:
            return np.ascontiguousarray(images[:, :, ::-1])
        # Rounded: with uint8 the model needs no second compilation.
        return augment_images(images, self._params[rows], self._crops)


class _BatchCounter(keras.callbacks.Callback):
    def __init__(self, on_batch: Callable[[int], None]):
        super().__init__()
        self.on_batch = on_batch

    def on_predict_batch_end(self, batch, logs=None):
        self.on_batch(batch + 1)


def _predict_batches(
    model: keras.Model, batches: Batches, on_batch: Callable[[int], None]
) -> np.ndarray:
    # Not Keras's `predict` on several replicas of TensorFlow: the end of its iterator for each device
    # can block for seconds, at every validation.
    if (
        keras.backend.backend() == "tensorflow"
        and model.distribute_strategy.num_replicas_in_sync == 1
    ):
        return model.predict(
            batches.for_keras(), steps=batches.stop, verbose=0, callbacks=[_BatchCounter(on_batch)]
        )
    probabilities = []
    for rows in stream_outputs(find_chain(model), (images for images, _, _ in batches)):
        probabilities.append(rows)
        on_batch(len(probabilities))
    return np.concatenate(probabilities)
