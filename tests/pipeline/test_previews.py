"""previews: what is shown is what will be trained on."""

import dataclasses

import numpy as np
import pytest

from flowerkit.data import load_split
from flowerkit.pipeline.augment_layer import augment_images
from flowerkit.pipeline.batches import train_batches
from flowerkit.pipeline.previews import preview_batch
from flowerkit.training.plan import SMOKE

PLAN = dataclasses.replace(
    SMOKE, seed=5, min_crop_area=0.5, max_lighting=0.2, mixup=0.4, cutmix=1.0
)


@pytest.fixture(scope="module")
def split(drawn):
    return load_split(drawn, "train")


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_preview_is_the_first_batch_of_the_epoch(drawn, split, epoch):
    batches = train_batches(
        split,
        global_batch=10,
        seed=5,
        augmentation=PLAN.augmentation(),
        num_classes=4,
        first_step=5 * (epoch - 1),
    )
    (images, params), shares = next(iter(batches))
    images = augment_images(images, params, PLAN.augmentation())
    shown = preview_batch(drawn, PLAN, num_images=10, epoch=epoch)
    np.testing.assert_array_equal(shown.changed, images)
    np.testing.assert_array_equal(shown.shares, shares)
    assert not np.array_equal(shown.changed, shown.originals)


def test_originals_and_labels_are_those_of_the_split(drawn, split):
    shown = preview_batch(drawn, PLAN)
    assert shown.originals.shape == shown.changed.shape == (6, 32, 32, 3)
    rows = [int((split.images[:] == one).all(axis=(1, 2, 3)).argmax()) for one in shown.originals]
    np.testing.assert_array_equal(shown.originals, split.images[np.array(rows)])
    np.testing.assert_array_equal(shown.labels, split.labels[rows])


def test_without_augmentation_nothing_changes(drawn):
    shown = preview_batch(drawn, dataclasses.replace(SMOKE, flip=False), num_images=3)
    np.testing.assert_array_equal(shown.changed, shown.originals)
    np.testing.assert_array_equal(shown.shares.argmax(axis=1), shown.labels)
    assert shown.shares.max(axis=1).tolist() == [1, 1, 1]


def test_what_cannot_be_shown_is_refused(drawn):
    with pytest.raises(ValueError, match="count from 1. Received: epoch=0"):
        preview_batch(drawn, PLAN, epoch=0)
    with pytest.raises(ValueError, match="mixup and cutmix pair neighbours"):
        preview_batch(drawn, PLAN, num_images=5)
