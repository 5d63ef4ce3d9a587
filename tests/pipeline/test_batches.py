"""batches: what is in a batch depends on (seed, number) alone; padding weighs nothing."""

import gc
import itertools
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

from flowerkit.data import load_split
from flowerkit.pipeline.augment_params import PARAMS, sample_params
from flowerkit.pipeline.augmentation import Augmentation
from flowerkit.pipeline.batches import (
    ArraySpec,
    Batches,
    Memory,
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


def take(batches, count):
    return list(itertools.islice(batches, count))


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
    views = [array, -array]  # an image shows the one in its even epochs, the other in its odd ones
    features = take(feature_batches(views, split.labels, global_batch=16, seed=5, num_classes=4), 9)
    for number, (rows, labels) in enumerate(features):
        epoch, step = divmod(number, 3)
        order = epoch_permutation(50, seed=5, epoch=epoch)[16 * step :][:16]
        np.testing.assert_array_equal(rows, array[order] * (-1.0) ** (order + epoch)[:, None])
        np.testing.assert_array_equal(labels, np.eye(4)[split.labels[order]])
    resumed = feature_batches(
        views, split.labels, global_batch=16, seed=5, num_classes=4, first_step=6
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


def numbers(make=lambda number: (np.float32([[number]]),), **options):
    """Batches that hold their number."""
    return Batches(make, (ArraySpec((1, 1), "float32"),), **options)


def find_threads():
    return {each for each in threading.enumerate() if each.name.startswith("flowerkit-batches")}


def wait_until(condition):
    for _ in range(500):
        if condition():
            return True
        threading.Event().wait(0.01)
    return False


def test_batches_come_in_their_order_however_long_each_takes():
    first_is_slow = threading.Event()

    def make(number):
        if number == 3:
            first_is_slow.wait(10)
        elif number == 4:
            first_is_slow.set()
        return (number,)

    assert [number for (number,) in numbers(make, first=3, stop=9)] == [3, 4, 5, 6, 7, 8]


def test_only_a_few_batches_are_made_ahead():
    made = []
    iterator = iter(numbers(lambda number: made.append(number) or (number,)))
    assert next(iterator) == (0,)
    assert wait_until(lambda: len(made) >= 2)
    threading.Event().wait(0.05)
    assert len(made) <= 6


def test_an_error_of_a_thread_arrives_where_the_batch_would_have():
    def make(number):
        if number == 2:
            raise ValueError("record 7 is not a JPEG")
        return (number,)

    iterator = iter(numbers(make))
    assert [next(iterator), next(iterator)] == [(0,), (1,)]
    with pytest.raises(ValueError, match="record 7"):
        next(iterator)


def test_an_iterator_that_is_dropped_ends_its_threads():
    before = find_threads()
    iterator = iter(numbers())
    next(iterator)
    own = find_threads() - before
    assert own
    del iterator
    gc.collect()
    assert wait_until(lambda: not own & find_threads())


def test_memory_is_used_again_when_no_view_of_it_is_left():
    memory = Memory()
    array = memory.empty((4, 6), "float32")
    place, view = array.ctypes.data, array[1:3, 2]
    assert place % 64 == 0
    del array
    other = memory.empty((4, 6), "float32")
    assert other.ctypes.data != place
    del view
    assert memory.empty((6, 4), "float32").ctypes.data == place


@pytest.mark.backends
def test_what_the_backend_keeps_of_a_batch_does_not_change(split):
    """Memory is used again: never while a tensor still refers to it, copied or not."""
    batches = train_batches(split, global_batch=16, seed=3, num_classes=4)
    kept = [
        keras.ops.convert_to_tensor(images) + 0
        if number % 2
        else keras.ops.convert_to_tensor(images)
        for number, ((images, _), _) in enumerate(itertools.islice(batches, 30))
    ]
    for tensor, ((images, _), _) in zip(kept, batches, strict=False):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(tensor), images)
    fed = list(itertools.islice(batches.for_keras(), 30))
    for batch, expected in zip(fed, batches, strict=False):
        arrays = keras.tree.map_structure(keras.ops.convert_to_numpy, batch)
        assert_equal(arrays, expected)


@pytest.mark.backends
@pytest.mark.replicas
def test_keras_trains_on_every_batch_once_in_order_and_goes_on_in_the_next_epoch(accelerator):
    size = accelerator.replicas

    def make(number):
        return np.full((size, 1), number, "float32"), np.zeros((size, 1), "float32")

    spec = ArraySpec((size, 1), "float32"), ArraySpec((size, 1), "float32")
    with accelerator.scope():
        inputs = keras.Input((1,))
        model = keras.Model(inputs, keras.layers.Rescaling(1.0)(inputs))
        model.compile(loss=lambda _, number: number)
    batches = Batches(make, spec, first=2).for_keras()
    history = model.fit(batches, epochs=3, steps_per_epoch=4, verbose=0, shuffle=False)
    assert history.history["loss"] == [3.5, 7.5, 11.5]


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
@pytest.mark.parametrize("of", ["{}", "{}.for_keras()"])
def test_a_script_that_still_holds_an_iterator_ends(end, code, of):
    batches = "train_batches(split, global_batch=128, seed=0, num_classes=4)"
    script = HOLDS_AN_ITERATOR.replace(batches, of.format(batches))
    done = subprocess.run(
        [sys.executable, "-c", script + end],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "taken\n"
    assert done.returncode == code, done.stderr
