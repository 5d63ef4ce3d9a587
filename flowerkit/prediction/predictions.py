"""Predict once, use the result many times: ids, probabilities and labels that stay together."""

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from flowerkit import metrics
from flowerkit.data import Split
from flowerkit.files import replacing
from flowerkit.models import find_chain, stream_outputs
from flowerkit.pipeline import Augmentation, augment_images, eval_batches, sample_params

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
            raise ValueError(
                f"{path} holds no predictions of flowerkit: {error}. Restore it, or train again."
            ) from error


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
    for view in range(tta):  # as it is, mirrored, crops
        seen, done = split, 0
        if view > 1:
            params = sample_params(crops, num_images, seed=seed, epoch=view)
            seen = replace(split, images=_Augmented(split.images, params, crops))
        for rows in stream_split(find_chain(model), seen, global_batch, mirrored=view == 1):
            total[done : done + len(rows)] += rows
            done += len(rows)
            if progress:
                progress("predict", view * num_images + done, tta * num_images)
    return Predictions(split.ids, (total / tta).astype("float32"), split.labels)


def stream_split(
    models: keras.Model | Sequence[keras.Model],
    split: Split,
    global_batch: int,
    *,
    mirrored: bool = False,
    name: str | None = None,
    report: Callable[[int], None] | None = None,
) -> Iterator[np.ndarray]:
    """`stream_outputs` for the images of `split`, without the padding of the last batch.

    `report(images done)` is called after each batch.
    """
    done = 0
    batches = eval_batches(split, global_batch=global_batch)
    views = (images[:, :, ::-1] if mirrored else images for images, _, _ in batches)
    for rows in stream_outputs(models, views, name=name):
        yield rows[: len(split) - done]
        done = min(done + len(rows), len(split))
        if report:
            report(done)


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


class _Augmented:
    """The images of a split, augmented a batch at a time."""

    def __init__(self, images, params: np.ndarray, augmentation: Augmentation):
        self.shape, self.images = images.shape, images
        self.params, self.augmentation = params, augmentation

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        # Rounded: with uint8 the model needs no second compilation.
        return augment_images(np.asarray(self.images[rows]), self.params[rows], self.augmentation)
