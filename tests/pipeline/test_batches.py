"""batches: what is in a batch depends on (seed, number) alone; padding weighs nothing."""

import subprocess
import sys

import numpy as np
import pytest

from flowerkit.data import load_split
from flowerkit.pipeline.augment_params import PARAMS, sample_params
from flowerkit.pipeline.augmentation import Augmentation
from flowerkit.pipeline.batches import (
    epoch_permutation,
    eval_batches,
    feature_batches,
    steps_per_epoch,
    train_batches,
)

CROPS = Augmentation(min_crop_area=0.5, random_erasing=1.0)


@pytest.fixture(scope="module")
def split(drawn):
    return load_split(drawn, "train")  # 50 images


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(batch, expected):
    ((images, params), labels), ((images_2, params_2), labels_2) = batch, expected
    np.testing.assert_array_equal(images, images_2)
    np.testing.assert_array_equal(params, params_2)
    np.testing.assert_array_equal(labels, labels_2)


def test_a_batch_is_images_as_stored_their_parameters_and_labels_in_the_epochs_order(split):
    batches = take(
        train_batches(split, global_batch=10, seed=5, num_classes=4, augmentation=CROPS), 10
    )
    for number, ((images, params), labels) in enumerate(batches):
        epoch, step = divmod(number, 5)
        rows = epoch_permutation(50, seed=5, epoch=epoch)[10 * step : 10 * step + 10]
        np.testing.assert_array_equal(images, split.images[rows])
        np.testing.assert_array_equal(params, sample_params(CROPS, 50, seed=5, epoch=epoch)[rows])
        assert params.shape == (10, len(PARAMS))
        np.testing.assert_array_equal(labels, np.eye(4)[split.labels[rows]])


def test_each_epoch_has_every_image_once_in_another_order():
    orders = [epoch_permutation(50, seed=3, epoch=epoch) for epoch in (0, 1)]
    assert [sorted(order) for order in orders] == [list(range(50))] * 2
    assert not np.array_equal(*orders)
    assert epoch_permutation(6, seed=3, epoch=2).tolist() == [5, 0, 2, 1, 3, 4]


def test_a_batch_depends_on_seed_and_number_alone(split):
    whole = take(train_batches(split, global_batch=16, seed=3, num_classes=4), 6)
    resumed = take(train_batches(split, global_batch=16, seed=3, num_classes=4, first_step=3), 3)
    for batch, again in zip(whole[3:], resumed, strict=True):
        assert_equal(batch, again)
    ((other, _), _), *_ = take(train_batches(split, global_batch=16, seed=4, num_classes=4), 1)
    assert not np.array_equal(whole[0][0][0], other)


def test_features_come_in_the_order_of_the_images(split):
    array = np.arange(50 * 3, dtype="float32").reshape(50, 3)
    features = take(feature_batches(array, split.labels, global_batch=16, seed=5, num_classes=4), 9)
    for number, (rows, labels) in enumerate(features):
        epoch, step = divmod(number, 3)
        order = epoch_permutation(50, seed=5, epoch=epoch)[16 * step :][:16]
        np.testing.assert_array_equal(rows, array[order])
        np.testing.assert_array_equal(labels, np.eye(4)[split.labels[order]])
    resumed = feature_batches(
        array, split.labels, global_batch=16, seed=5, num_classes=4, first_step=6
    )
    for (rows, _), (expected, _) in zip(take(resumed, 3), features[6:], strict=True):
        np.testing.assert_array_equal(rows, expected)


def test_mixed_labels_keep_their_mass_and_name_both_classes(split):
    batches = train_batches(
        split, global_batch=50, seed=5, augmentation=Augmentation(mixup=1.0), num_classes=4
    )
    _, labels = take(batches, 1)[0]
    assert (labels.shape, labels.dtype) == ((50, 4), "float32")
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    assert (np.count_nonzero(labels, axis=1) == 2).sum() > 20


def test_shares_are_counted_in_the_pixels_of_the_size_that_the_network_takes(split):
    cutmix = Augmentation(cutmix=1.0)
    for size in (32, 8):
        batches = train_batches(
            split, global_batch=50, seed=5, num_classes=4, augmentation=cutmix, size=size
        )
        (images, _), labels = take(batches, 1)[0]
        assert images.shape == (50, 32, 32, 3)
        boxes = labels.max(axis=1) * size**2
        np.testing.assert_allclose(boxes, boxes.round(), atol=1e-3)


def test_a_batch_that_pairs_do_not_divide_is_refused(split):
    with pytest.raises(ValueError, match=r"must be even .*Received: 15"):
        train_batches(
            split, global_batch=15, seed=0, augmentation=Augmentation(mixup=0.2), num_classes=4
        )


def test_evaluation_batches_are_full_and_padding_weighs_nothing(drawn):
    split = load_split(drawn, "test")
    batches = take(eval_batches(split, global_batch=8), 9)
    assert [images.shape for images, _, _ in batches] == [(8, 32, 32, 3)] * 3
    assert batches[-1][2].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    images = np.concatenate([images for images, _, _ in batches])
    np.testing.assert_array_equal(images[:22], split.images)
    assert not images[22:].any()


def test_a_batch_larger_than_the_split_is_refused_with_both_numbers():
    with pytest.raises(
        ValueError, match=r"\(128\) is larger .* \(50 images\).*--per-replica-batch"
    ):
        steps_per_epoch(50, 128)
    assert steps_per_epoch(50, 16) == 3


# A variable of the script, and a traceback that is kept: both live until Python goes away.
HOLDS_AN_ITERATOR = """
import numpy as np
from flowerkit.data import Split
from flowerkit.pipeline.batches import train_batches
images = np.zeros((256, 224, 224, 3), "uint8")
split = Split(images, np.zeros(256, "int32"), np.arange(256).astype(str), np.arange(256))
batches = iter(train_batches(split, global_batch=128, seed=0, num_classes=4))
for _ in range(3):
    next(batches)
print("taken", flush=True)
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise KeyboardInterrupt", -2)])
def test_a_script_that_still_holds_an_iterator_ends(end, code):
    done = subprocess.run(
        [sys.executable, "-c", HOLDS_AN_ITERATOR + end],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "taken\n"
    assert done.returncode == code, done.stderr
