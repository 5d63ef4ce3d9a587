"""The training images in the device's own memory: a step is told row numbers, and takes them there.

No image travels or is copied on the host after the first step: taking, changing and learning are one
compiled program. hlb-CIFAR10 (github.com/tysam-code/hlb-CIFAR10) keeps its 50,000 images so.
"""

import logging
import time

import keras
import numpy as np
from keras import ops

from flowerkit.accelerator.device import Accelerator
from flowerkit.accelerator.machine import free_memory_bytes
from flowerkit.text import format_bytes

# Of the device's memory that is free: the rest is for the network and the steps.
FRACTION = 0.5

_ALIGNMENT = 64  # bytes; TensorFlow reads an array that begins so as it stands

_log = logging.getLogger("flowerkit")


class TakeImages(keras.layers.Layer):
    """call(rows (batch,) int32) -> images (batch, size, size, 3) uint8 of an array (n, size, size, 3).

    The array is a variable of this layer, so that each replica has its copy, and in no file.
    """

    def __init__(self, images: np.ndarray, **kwargs) -> None:
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.size = images.shape[1]
        # A TPU fills the last two sides of an array up to its tiles: 3 colours would become 128.
        self.table = self.add_weight(
            shape=(len(images), self.size, 3 * self.size),
            dtype="uint8",
            trainable=False,
            name="table",
            initializer=lambda shape, dtype: _hand_over(np.reshape(images, shape)),
        )

    def call(self, rows):
        """The images of `rows`."""
        if keras.backend.backend() == "jax":
            # jnp.take, and so ops.take, asks of every byte whether its row exists, which costs more.
            taken = self.table.value.at[rows].get(mode="clip")
        else:
            taken = ops.take(self.table, rows, axis=0)
        return ops.reshape(taken, (-1, self.size, self.size, 3))

    def compute_output_spec(self, rows):
        """The images' shape."""
        return keras.KerasTensor((*rows.shape, self.size, self.size, 3), "uint8")

    def save_own_variables(self, store) -> None:
        """Nothing: a checkpoint is of what was learned."""

    def load_own_variables(self, store) -> None:
        """Nothing, see `save_own_variables`."""


def _hand_over(array: np.ndarray):
    """`array` as the backend takes it without a copy, where that can be.

    TensorFlow would copy it on the host first, and so much fresh memory takes longer than decoding.
    """
    if keras.backend.backend() != "tensorflow" or not array.flags.writeable:
        return array
    if array.ctypes.data % _ALIGNMENT:
        return array
    import tensorflow as tf

    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def put_on_device(images: np.ndarray, accelerator: Accelerator) -> TakeImages | None:
    """All of `images` (n, size, size, 3) uint8 on every replica; None, and a warning, without room.

    `images` may be those of a `decoding.Split`: it waits until all are decoded. Call it within the
    accelerator's scope. Raises ValueError for an image that cannot be decoded.
    """
    start = time.perf_counter()
    size = f"train: {format_bytes(images.nbytes)} of decoded images"
    free = _free_bytes(accelerator)
    if images.nbytes > FRACTION * free:
        return _tell_no_room(size, f"{format_bytes(free)} of memory are free for each copy")
    copies = f"{accelerator.replicas} devices" if accelerator.replicas > 1 else "the device"
    try:
        layer = TakeImages(images[:], name="device_images")
    except Exception as error:
        if not _means_no_memory(error):
            raise
        return _tell_no_room(size, "its memory was refused")
    _log.info(f"{size} are in the memory of {copies} ({time.perf_counter() - start:.1f} s)")
    return layer


def _tell_no_room(size: str, reason: str) -> None:
    _log.warning(f"{size} do not go to the device ({reason}): every batch comes from the host")


def _means_no_memory(error: Exception) -> bool:
    """Whether it is NumPy's, TensorFlow's or JAX's error for memory; TensorFlow need not be here."""
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return True
    return "RESOURCE_EXHAUSTED" in str(error)


def _free_bytes(accelerator: Accelerator) -> int:
    """What is free for one copy: on the host, through which it goes, and on devices that tell."""
    free = free_memory_bytes()
    if accelerator.kind == "cpu":
        return free // accelerator.replicas
    if accelerator.backend != "jax":
        return free  # TensorFlow knows what it uses, and not what there is
    import jax

    told = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    of_devices = [one["bytes_limit"] - one["bytes_in_use"] for one in told if "bytes_limit" in one]
    return min([free, *of_devices])
