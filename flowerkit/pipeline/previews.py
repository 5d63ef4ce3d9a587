"""A few training images before and after augmentation, just as an epoch will show them."""

from dataclasses import dataclass

import numpy as np

from flowerkit.data import FlowerData, load_split
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


def preview_batch(data: FlowerData, plan, *, num_images: int = 6, epoch: int = 1) -> Preview:
    """The first `num_images` that `plan` trains on in `epoch` (counted from 1, as in a history).

    Raises ValueError for an epoch below 1, and an odd number of images, if images mix.
    """
    if epoch < 1 or num_images < 1:
        raise ValueError(
            f"epoch and num_images count from 1. Received: epoch={epoch}, num_images={num_images}"
        )
    split = load_split(data, "train", cache="none")  # a handful of images is decoded, not thousands
    augmentation, num_all = plan.augmentation(), len(split)
    rows = epoch_permutation(num_all, seed=plan.seed, epoch=epoch - 1)[:num_images]
    params = sample_params(augmentation, num_all, seed=plan.seed, epoch=epoch - 1)[rows]
    originals, labels = np.asarray(split.images[rows]), split.labels[rows]
    shares = mix_labels(
        labels, params, augmentation, num_classes=data.num_classes, image_size=data.image_size
    )
    changed = augment_images(originals, params, augmentation)
    return Preview(originals, changed, labels, shares)
