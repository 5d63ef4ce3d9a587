"""pipeline: batches whose order depends on (seed, epoch) alone, and their padding."""

import numpy as np
import pytest

from flowerkit.data.split import load_split
from flowerkit.pipeline import batches as pipeline
from flowerkit.pipeline.augment_host import augment_images
from flowerkit.pipeline.draws import COLUMNS, sample_params
from flowerkit.training.plan import Augmentation

NOTHING = Augmentation(flip=False)


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def test_every_image_comes_once_an_epoch_and_each_epoch_in_another_order(drawn):
    split = load_split(drawn, "train")
    first, second = (
        np.concatenate(
            [
                images.reshape(len(images), -1)
                for images, _ in take(
                    pipeline.train_batches(
                        split, global_batch=10, seed=3, augmentation=NOTHING, first_epoch=epoch
                    ),
                    5,
                )
            ]
        )
        for epoch in (0, 1)
    )
    everything = np.unique(split.images[:].reshape(50, -1), axis=0)
    np.testing.assert_array_equal(np.unique(first, axis=0), everything)
    np.testing.assert_array_equal(np.unique(second, axis=0), everything)
    assert not np.array_equal(first, second)


def test_labels_stay_with_their_images(drawn):
    split = load_split(drawn, "train")
    label_of = {
        image.tobytes(): label for image, label in zip(split.images, split.labels, strict=True)
    }
    batches = pipeline.train_batches(split, global_batch=16, seed=3, augmentation=NOTHING)
    for images, labels in take(batches, 6):
        assert [label_of[image.tobytes()] for image in images] == labels.tolist()


def test_a_batch_depends_on_seed_and_number_alone(drawn):
    split = load_split(drawn, "train")
    whole = take(pipeline.train_batches(split, global_batch=16, seed=3), 6)
    resumed = take(pipeline.train_batches(split, global_batch=16, seed=3, first_epoch=1), 3)
    other = take(pipeline.train_batches(split, global_batch=16, seed=4), 1)
    for (images, labels), (again, labels_again) in zip(whole[3:], resumed, strict=True):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, labels_again)
    assert not np.array_equal(whole[0][0], other[0][0])


def test_about_half_of_the_images_are_flipped_and_others_each_epoch(drawn):
    split = load_split(drawn, "train")
    flipped = []
    for epoch in (0, 1):
        order = pipeline.epoch_permutation(50, seed=5, epoch=epoch)
        batches = pipeline.train_batches(split, global_batch=50, seed=5, first_epoch=epoch)
        images = take(batches, 1)[0][0]
        mirrored = split.images[order][:, :, ::-1]
        changed = [bool((a == b).all()) for a, b in zip(images, mirrored, strict=True)]
        assert 15 <= sum(changed) <= 35
        flipped.append(set(order[changed]))
    assert flipped[0] != flipped[1]


def test_untouched_images_and_their_draws_come_apart_for_the_device(drawn):
    split = load_split(drawn, "train")
    strong = Augmentation(min_crop_area=0.5, random_erasing=1.0)
    how = {"global_batch": 10, "seed": 5, "augmentation": strong}
    on_host = take(pipeline.train_batches(split, **how), 5)
    on_device = take(pipeline.train_batches(split, on_host=False, **how), 5)
    params = sample_params(strong, 50, seed=5, epoch=0)
    order = pipeline.epoch_permutation(50, seed=5, epoch=0)
    for step, ((images, its_draws), labels) in enumerate(on_device):
        rows = order[10 * step : 10 * step + 10]
        np.testing.assert_array_equal(images, split.images[rows])
        np.testing.assert_array_equal(its_draws, params[rows])
        assert its_draws.shape == (10, len(COLUMNS))
        np.testing.assert_array_equal(labels, split.labels[rows])
        np.testing.assert_array_equal(on_host[step][0], augment_images(images, its_draws, strong))


def test_features_come_in_the_order_of_the_images_a_view_an_epoch(drawn):
    split = load_split(drawn, "train")
    arrays = np.arange(2 * 50 * 3, dtype="float32").reshape(2, 50, 3)
    how = {"global_batch": 16, "seed": 5}
    features = take(pipeline.feature_batches(arrays, split.labels, **how), 9)
    images = take(pipeline.train_batches(split, **how), 9)
    for step, ((rows, labels), (_, of_images)) in enumerate(zip(features, images, strict=True)):
        np.testing.assert_array_equal(labels, of_images)
        epoch = step // 3
        order = pipeline.epoch_permutation(50, seed=5, epoch=epoch)[16 * (step % 3) :][:16]
        np.testing.assert_array_equal(rows, arrays[epoch % 2, order])
        assert rows.dtype == "float32"
    resumed = take(pipeline.feature_batches(arrays, split.labels, first_epoch=2, **how), 3)
    for (rows, _), (expected, _) in zip(resumed, features[6:], strict=True):
        np.testing.assert_array_equal(rows, expected)


def test_mixed_labels_keep_their_mass_and_name_both_classes(drawn):
    split = load_split(drawn, "train")
    batches = pipeline.train_batches(
        split, global_batch=50, seed=5, augmentation=Augmentation(mixup=1.0), one_hot=4
    )
    _, labels = take(batches, 1)[0]
    assert labels.shape == (50, 4)
    assert labels.dtype == "float32"
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    assert (np.count_nonzero(labels, axis=1) == 2).sum() > 20


def test_the_parts_of_several_hosts_make_up_the_batch_of_one(drawn):
    split = load_split(drawn, "train")
    how = {"global_batch": 12, "seed": 2, "augmentation": Augmentation(min_crop_area=0.5)}
    whole = take(pipeline.train_batches(split, **how), 5)
    parts = [
        take(pipeline.train_batches(split, process=(index, 3), **how), 5) for index in range(3)
    ]
    for step, (images, labels) in enumerate(whole):
        np.testing.assert_array_equal(images, np.concatenate([part[step][0] for part in parts]))
        np.testing.assert_array_equal(labels, np.concatenate([part[step][1] for part in parts]))


def test_a_batch_that_processes_or_pairs_do_not_divide_is_refused(drawn):
    split = load_split(drawn, "train")
    with pytest.raises(ValueError, match=r"global batch \(10\) must be divisible .* \(4\)"):
        pipeline.train_batches(split, global_batch=10, seed=0, process=(0, 4))
    with pytest.raises(ValueError, match=r"must be even\. Received: 15"):
        pipeline.train_batches(
            split, global_batch=15, seed=0, augmentation=Augmentation(mixup=0.2), one_hot=4
        )


def test_evaluation_batches_are_full_and_padding_weighs_nothing(drawn):
    split = load_split(drawn, "test")
    batches = take(pipeline.eval_batches(split, global_batch=8), 9)
    assert [images.shape for images, _, _ in batches] == [(8, 32, 32, 3)] * 3
    assert batches[-1][2].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    images = np.concatenate([images for images, _, _ in batches])
    np.testing.assert_array_equal(images[:22], split.images)
    assert not images[22:].any()


def test_a_batch_larger_than_the_split_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"global batch \(128\) is larger .* \(50 images\)"):
        pipeline.steps_per_epoch(50, 128)
    assert pipeline.steps_per_epoch(50, 16) == 3
