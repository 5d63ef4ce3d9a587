"""Predict once, look many times: ids, probabilities and labels that stay together."""

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from flowerkit import metrics as evaluation
from flowerkit.data.split import Split
from flowerkit.files import replacing
from flowerkit.pipeline.augment_layer import augment
from flowerkit.pipeline.augment_params import sample_params
from flowerkit.pipeline.augmentation import Augmentation
from flowerkit.pipeline.batches import eval_batches

# What NumPy raises for a file that is empty, cut off, damaged inside, or another kind of file.
_DAMAGE = (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)

# The smallest part of the picture in a view after the mirrored one: models that never saw a crop in
# training lose by smaller ones.
LIGHT_CROP_AREA = 0.9


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
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, (n,) int64."""
        return evaluation.predicted_labels(self.probabilities)

    def score(self) -> dict[str, float]:
        """val_loss, val_accuracy and val_f1 of a labelled split. Raises ValueError without labels."""
        if self.labels is None:
            raise ValueError("these predictions have no labels to score against (a test split).")
        return {
            "val_loss": evaluation.log_loss(self.labels, self.probabilities),
            "val_accuracy": evaluation.accuracy(self.labels, self.predicted),
            "val_f1": evaluation.macro_f1(self.labels, self.predicted),
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

    `global_batch` is a multiple of the replicas; the padding of the last batch is cut off again.
    With `tta` above 1 (test-time augmentation) each image is seen so often: as it is, mirrored, then
    as random crops of (seed, view), a part of at least `min_crop_area`, half of them mirrored. The
    arithmetic mean of the probabilities is answered; the geometric one was now better, now worse.
    Pass the plan's `min_crop_area` where it trained with crops; a model that did not gains from 2
    views, hardly from more. Time grows with `tta`, memory does not. Leave it at 1 where a mirrored
    picture means something else.

    `progress` is told (what, images done, images in all).
    Raises ValueError if the model takes images of another size, or for a tta below 1.
    """
    _check_request(model, split, tta)
    num_images, crops = len(split), Augmentation(flip=True, min_crop_area=min_crop_area)

    def look(view):
        seen = replace(split, images=_View(split.images, view, crops, seed)) if view else split
        tell = progress and _tell_images(progress, view * num_images, num_images, tta, global_batch)
        batches = eval_batches(seen, global_batch=global_batch)
        return _predict_batches(model, batches, tell)[:num_images]

    probabilities = look(0)
    if tta > 1:
        total = probabilities.astype("float64")
        for view in range(1, tta):
            total += look(view)
        probabilities = (total / tta).astype("float32")
    return Predictions(split.ids, probabilities, split.labels)


def _check_request(model: keras.Model, split: Split, tta: int) -> None:
    wanted, stored = tuple(model.input_shape[1:]), split.images.shape[1:]
    if wanted != stored:
        raise ValueError(
            f"the model takes images of {_size(wanted)}, the data holds {_size(stored)}. "
            f"Choose the stored size with --image-size, or train on this one."
        )
    if tta < 1:
        raise ValueError(f"tta counts the views of each image, 1 or more. Received: tta={tta}")


class _View:
    """The images of a split as view 1, 2, ... shows them, changed a batch at a time."""

    def __init__(self, images, view: int, crops: Augmentation, seed: int):
        self.shape = images.shape
        self._images, self._crops = images, crops
        self._draws = None
        if view > 1:
            self._draws = sample_params(crops, len(images), seed=seed, epoch=view)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        images = np.asarray(self._images[rows])
        if self._draws is None:
            return np.ascontiguousarray(images[:, :, ::-1])
        # Rounded: with uint8 the model needs no second compilation.
        changed = keras.ops.convert_to_numpy(augment(images, self._draws[rows], self._crops))
        return np.rint(changed).astype("uint8")


def _tell_images(progress, done_before: int, num_images: int, tta: int, global_batch: int):
    def tell(num_batches: int) -> None:
        done = done_before + min(num_batches * global_batch, num_images)
        progress("predict", done, tta * num_images)

    return tell


class _TellBatches(keras.callbacks.Callback):
    def __init__(self, tell: Callable[[int], None]):
        super().__init__()
        self.tell = tell

    def on_predict_batch_end(self, batch, logs=None):
        self.tell(batch + 1)


def _predict_batches(model: keras.Model, batches, tell) -> np.ndarray:
    strategy = getattr(model, "distribute_strategy", None)  # TensorFlow's alone
    if strategy and strategy.num_replicas_in_sync > 1:
        return _predict_replicated(model, strategy, batches, tell)
    return model.predict(batches, verbose=0, callbacks=[_TellBatches(tell)] if tell else None)


def _predict_replicated(model: keras.Model, strategy, batches, tell) -> np.ndarray:
    """Over several TensorFlow replicas, without Keras's iterator for each device.

    Those are autotuned whatever the data set says, and the end of each can block for seconds: that
    would be paid at every validation.
    """
    probabilities = []
    for images, _, _ in batches.as_numpy_iterator():
        probabilities.append(model.predict_on_batch(split_over(strategy, images)))
        if tell:
            tell(len(probabilities))
    return np.concatenate(probabilities)


def split_over(strategy, batch: np.ndarray):
    """`batch` in equal parts, one for each replica of a TensorFlow strategy."""
    parts = np.split(batch, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda context: parts[context.replica_id_in_sync_group]
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} px"
