"""A few training images before and after augmentation, just as an epoch will show them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowerkit.data import FlowerData, Split, load_split
from flowerkit.pipeline.augment_layer import augment_images
from flowerkit.pipeline.augment_params import mix_labels, sample_params
from flowerkit.pipeline.batches import epoch_permutation


@dataclass(frozen=True, eq=False)
class Preview:
    """The first images of an epoch; row i of every array is the same image.

    `originals` and `changed` (n, size, size, 3) uint8, as evaluated and as trained on; `labels` (n,)
    int; `shares` (n, num_classes) float32, what `changed` shows of each class, rows sum to 1.
    """

    originals: np.ndarray
    changed: np.ndarray
    labels: np.ndarray
    shares: np.ndarray
    class_names: Sequence[str]


def preview_batch(
    source: FlowerData | Split,
    plan,
    *,
    class_names: Sequence[str] | None = None,
    num_images: int = 6,
    epoch: int = 1,
) -> Preview:
    """The first `num_images` that `plan` trains on in `epoch` (counted from 1, as in a history).

    `source` is data, whose training split is then read, or that split together with `class_names`.
    Raises ValueError for a split without labels or names, an epoch below 1, and an odd number of
    images, if images mix.
    """
    if epoch < 1 or num_images < 1:
        raise ValueError(
            f"epoch and num_images count from 1. Received: epoch={epoch}, num_images={num_images}"
        )
    if isinstance(source, FlowerData):  # a handful of images is decoded, not thousands
        split = load_split(source, "train", cache="none")
        class_names = class_names or source.class_names
    else:
        split = source
    if split.labels is None:
        raise ValueError("this split has no labels (a test split). Pass the training split.")
    if class_names is None:
        raise ValueError("a split has no class names. Pass class_names=, or the data.")
    augmentation, num_all = plan.augmentation(), len(split)
    rows = epoch_permutation(num_all, seed=plan.seed, epoch=epoch - 1)[:num_images]
    params = sample_params(augmentation, num_all, seed=plan.seed, epoch=epoch - 1)[rows]
    originals, labels = np.asarray(split.images[rows]), split.labels[rows]
    shares = mix_labels(
        labels, params, augmentation, num_classes=len(class_names), image_size=originals.shape[1]
    )
    changed = augment_images(originals, params, augmentation)
    return Preview(originals, changed, labels, shares, class_names)
