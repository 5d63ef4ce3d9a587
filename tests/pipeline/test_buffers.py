"""batch_memory: arrays come round again when they are free, and never before."""

import numpy as np

from flowerkit.pipeline.buffers import BatchMemory, take_rows


def test_an_array_is_handed_out_again_only_when_nobody_holds_it():
    memory = BatchMemory((4, 3))
    first, second = memory.get(), memory.get()
    assert not np.shares_memory(first, second)
    place = first.ctypes.data
    part = first[1:]
    del first
    assert memory.get().ctypes.data != place  # a view is held
    del part
    assert memory.get().ctypes.data == place


def test_other_numbers_than_pixels_have_memory_too():
    array = BatchMemory((5, 7), "float32").get()
    assert (array.shape, array.dtype, array.ctypes.data % 64) == ((5, 7), "float32", 0)
    array[:] = 0.5
    assert array.sum() == 17.5


def test_arrays_begin_where_tensorflow_takes_them_without_a_copy():
    assert BatchMemory((5, 7, 3)).get().ctypes.data % 64 == 0


def test_a_tensor_keeps_its_batch_while_others_are_made():
    import tensorflow as tf

    memory = BatchMemory((64, 64, 3))

    def make(number):
        images = memory.get()
        images[:] = number
        return images

    batches = tf.data.Dataset.range(50).map(
        lambda number: tf.numpy_function(make, [number], tf.uint8), num_parallel_calls=2
    )
    held = list(batches.take(20))
    assert [int(batch[0, 0, 0]) for batch in held] == list(range(20))
    assert all(len(np.unique(batch)) == 1 for batch in held)


def test_rows_are_taken_into_the_memory_given():
    images = np.arange(24, dtype="uint8").reshape(4, 2, 3)
    out = np.empty((2, 2, 3), "uint8")
    assert take_rows(images, np.array([3, 1]), out) is out
    np.testing.assert_array_equal(out, images[[3, 1]])
