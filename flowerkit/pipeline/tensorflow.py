"""The adapter to tf.data, for the TensorFlow backend alone: the same batches, as tensors."""

import atexit
import functools
import threading
import time

import numpy as np
import tensorflow as tf

from flowerkit.pipeline.batches import ArraySpec, Batches

_MAX_EXIT_SECONDS = 5.0


def to_dataset(batches: Batches) -> tf.data.Dataset:
    """`batches` in their order; they are made by threads of tf.data."""
    spec = _map_specs(batches.spec)
    specs = tf.nest.flatten(spec)

    def make(number):
        me = threading.get_ident()
        _threads_in_python.add(me)
        try:
            return tf.nest.flatten(batches.make(int(number)))
        finally:
            _threads_in_python.discard(me)

    @tf.autograph.experimental.do_not_convert
    def batch(number):
        tensors = tf.numpy_function(make, [number], [each.dtype for each in specs])
        for tensor, each in zip(tensors, specs, strict=True):
            tensor.set_shape(each.shape)
        return tf.nest.pack_sequence_as(spec, tensors)

    _wait_at_exit()
    stop = np.iinfo("int64").max if batches.stop is None else batches.stop
    numbers = tf.data.Dataset.range(batches.first, stop)
    dataset = numbers.map(batch, num_parallel_calls=batches.num_threads, deterministic=True)
    dataset = dataset.prefetch(1)
    options = tf.data.Options()
    options.autotune.enabled = False  # its end can block for seconds
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


def _map_specs(spec):
    if isinstance(spec, ArraySpec):
        return tf.TensorSpec(spec.shape, spec.dtype)
    return tuple(map(_map_specs, spec))


# An iterator that is still alive when Python ends waits for its threads, and these for Python's lock,
# which is no longer given: the program hangs or is aborted. A variable of a script is enough, or the
# traceback of an interrupted training. So the exit waits until no thread is in Python: by then no
# batches are taken, and the prefetch buffers are soon full.
_threads_in_python: set[int] = set()


@functools.cache
def _wait_at_exit() -> None:
    atexit.register(_wait_until_quiet)


def _wait_until_quiet() -> None:
    quiet, end = 0, time.monotonic() + _MAX_EXIT_SECONDS
    while quiet < 5 and time.monotonic() < end:  # a thread that waits for the lock shows late
        time.sleep(0.01)
        quiet = 0 if _threads_in_python else quiet + 1
