"""Augmentation inside the compiled step: whole batches in the backend's own operations.

Every geometric change is part of a single projective map, and the pixels are resampled once, straight
to the size that the network takes.
"""

from dataclasses import asdict

import keras
import numpy as np
from keras import ops

from flowerkit.pipeline.augment_params import PARAMS, check_pairs, column, find_box
from flowerkit.pipeline.augmentation import Augmentation

ERASED_GREY = 128  # the middle of 0..255


class Augment(keras.layers.Layer):
    """Layer without weights: (images (n, side, side, 3) uint8, params) -> images (n, size, size, 3).

    They are in the compute dtype, 0..255; bfloat16 holds whole pixel values exactly. `params` (n,
    len(PARAMS)) float32 are those of `sample_params`; a `size` of None is `side`. In this order:
    geometry, lighting, erasing, mixing of rows 2k and 2k+1. It is no part of the model that is saved.

    Raises ValueError for images that are not square, params that are not float32, and an odd number of
    images, if images mix.
    """

    def __init__(self, augmentation: Augmentation, size: int | None = None, **kwargs) -> None:
        # Keras would cast the params to the compute dtype: bfloat16 cannot hold a coordinate.
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.augmentation, self.size = augmentation, size

    def call(self, inputs):
        """The augmented images."""
        images, params = inputs
        size = self.size or images.shape[1]
        _check(images, params, self.augmentation)
        images = _resample(images, params, self.augmentation, size, self.compute_dtype)
        if self.augmentation.max_lighting > 0:
            images = _change_lighting(images, params)
        if self.augmentation.random_erasing > 0:
            grey = ops.cast(ERASED_GREY, images.dtype)
            images = ops.where(_find_mask(params, "erased", size), grey, images)
        return _mix_pairs(images, params, self.augmentation)

    def get_config(self) -> dict:
        """What it was made with, for TensorBoard and a checkpoint of your own."""
        return super().get_config() | {"augmentation": asdict(self.augmentation), "size": self.size}

    @classmethod
    def from_config(cls, config: dict) -> "Augment":
        """The layer that `get_config` describes."""
        dtype = keras.dtype_policies.get(config["dtype"])
        augmentation = Augmentation(**config["augmentation"])
        return cls(augmentation, config["size"], name=config["name"], dtype=dtype)

    def compute_output_spec(self, inputs):
        """The images' shape in the compute dtype."""
        num_images, side, _, channels = inputs[0].shape
        size = self.size or side
        return keras.KerasTensor((num_images, size, size, channels), self.compute_dtype)


def augment_images(
    images: np.ndarray, params: np.ndarray, augmentation: Augmentation
) -> np.ndarray:
    """What `Augment` makes of `images` (n, side, side, 3) uint8, outside of a step: rounded to uint8."""
    changed = Augment(augmentation, dtype="float32")((images, params))
    return np.rint(ops.convert_to_numpy(changed)).astype("uint8")


def _check(images, params, augmentation: Augmentation) -> None:
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"augmentation takes square images. Received: shape {images.shape}")
    if keras.backend.standardize_dtype(params.dtype) != "float32":
        raise ValueError(
            f"params must be float32: shorter floats hold no coordinate. Received: {params.dtype}"
        )
    if augmentation.mixes and images.shape[0] is not None:
        check_pairs(images.shape[0])


# Geometry -----------------------------------------------------------------------------------------


def _resample(images, params, augmentation: Augmentation, size: int, dtype: str):
    if augmentation.max_rotation_degrees > 0 or augmentation.max_warp > 0:
        return _gather(images, params, size, dtype)
    if augmentation.min_crop_area < 1 or augmentation.max_zoom > 1 or size != images.shape[1]:
        return _multiply(images, params, size, dtype)
    for is_on, axis, name in (
        (augmentation.flip, 2, "map_xx"),
        (augmentation.vertical_flip, 1, "map_yy"),
    ):
        if is_on:
            is_flipped = column(params, name)[:, None, None, None] < 0
            images = ops.where(is_flipped, ops.flip(images, axis=axis), images)
    return ops.cast(images, dtype)


def _find_rows(params, side: int, size: int) -> list[tuple]:
    """The rows x, y and w of the map in pixels, each as its three coefficients (n,) float32.

    Column j and row i of the new picture show column x/w and row y/w of the old, x = a j + b i + c,
    counted from the centres of the pixels. Whole numbers stay exact.
    """
    top, left, bottom, right = find_box(params, "crop", side, ops)
    x, y, w = ([column(params, f"map_{row}{of}") for of in "xy1"] for row in "xyw")
    w = w[0] * (2 / size), w[1] * (2 / size), w[2]

    def to_pixels(row, low, high):
        scale, centre = (high - low) / size, (low + high - 1) / 2
        row = scale * row[0], scale * row[1], scale * (size / 2) * row[2]
        return [own + centre * shared for own, shared in zip(row, w, strict=True)]

    middle = (size - 1) / 2  # up to here j and i are counted from the middle
    rows = to_pixels(x, left, right), to_pixels(y, top, bottom), w
    return [(a, b, c - a * middle - b * middle) for a, b, c in rows]


def _multiply(images, params, size: int, dtype: str):
    """Rows, then columns, each resampled by a batched matrix product: what matrix units are for."""
    side = images.shape[1]
    (xx, _, x1), (_, yy, y1), _ = _find_rows(params, side, size)
    top, left, bottom, right = find_box(params, "crop", side, ops)
    images = ops.cast(images, dtype)
    for equation, scale, start, low, high in (
        ("nij,njkc->nikc", yy, y1, top, bottom),
        ("nkj,nijc->nikc", xx, x1, left, right),
    ):
        places = scale[:, None] * ops.arange(size, dtype="float32") + start[:, None]
        # Nothing from outside of the crop, as if it had been cut out before.
        places = ops.clip(places, low[:, None], high[:, None] - 1)
        distances = ops.abs(places[:, :, None] - ops.arange(side, dtype="float32"))
        if size == side:  # nothing shrinks: linear interpolation
            weights = ops.maximum(1 - distances, 0)
        else:  # a triangle over all pixels that a new pixel covers, as Pillow's BILINEAR
            reach = ops.maximum(ops.abs(scale), 1)[:, None, None]
            weights = ops.maximum(1 - distances / reach, 0)
            weights = weights / ops.sum(weights, axis=2, keepdims=True)
        images = ops.einsum(equation, ops.cast(weights, dtype), images)
    return images


def _gather(images, params, size: int, dtype: str):
    """Linear interpolation between the four neighbours of any point."""
    side = images.shape[1]
    if size < side:
        images = _smooth(ops.cast(images, dtype), side / size)
    places = ops.arange(size, dtype="float32")
    x, y, w = (
        a[:, None, None] * places + b[:, None, None] * places[:, None] + c[:, None, None]
        for a, b, c in _find_rows(params, side, size)
    )
    x, y = _mirror(x / w, side), _mirror(y / w, side)
    left, top = ops.floor(x), ops.floor(y)
    flat = ops.reshape(images, (-1, side * side, 3))

    def take(y_px, x_px):
        # A coordinate on the last pixel has no neighbour beyond, and needs none: its weight is 0.
        index = ops.minimum(y_px, side - 1) * side + ops.minimum(x_px, side - 1)
        index = ops.reshape(ops.cast(index, "int32"), (-1, size * size, 1))
        pixels = ops.take_along_axis(flat, index, axis=1)
        return ops.cast(ops.reshape(pixels, (-1, size, size, 3)), dtype)

    down = ops.cast(y - top, dtype)[..., None]
    across = ops.cast(x - left, dtype)[..., None]
    upper = take(top, left) * (1 - across) + take(top, left + 1) * across
    lower = take(top + 1, left) * (1 - across) + take(top + 1, left + 1) * across
    return upper * (1 - down) + lower * down


def _smooth(images, shrinkage: float):
    """What four neighbours miss where a new pixel covers more: with the Gaussian the interpolation
    has the variance of a triangle over `shrinkage` pixels."""
    places = np.arange(images.shape[1])
    weights = np.exp(-((places[:, None] - places) ** 2) / ((shrinkage**2 - 1) / 3))
    weights = ops.cast(weights / weights.sum(axis=1, keepdims=True), images.dtype)
    return ops.einsum("kj,nijc->nikc", weights, ops.einsum("ij,njkc->nikc", weights, images))


def _mirror(coordinates, side: int):
    """Coordinates brought into 0..side-1, reflected around the centres of the edge pixels."""
    last = max(side - 1, 1)
    return last - ops.abs(ops.mod(coordinates, 2 * last) - last)


# Pixels -------------------------------------------------------------------------------------------


def _change_lighting(images, params):
    """A shift and a gain of the logits, so that black and white stay, and nothing is clipped."""
    light = ops.clip(ops.cast(images, "float32") / 255, 1e-7, 1 - 1e-7)
    shift, gain = (
        column(params, name)[:, None, None, None] for name in ("light_shift", "light_gain")
    )
    logits = ops.log(light) - ops.log1p(-light) + shift
    return ops.cast(255 * ops.sigmoid(gain * logits), images.dtype)


def _find_mask(params, name: str, size: int):
    """(n, size, size, 1) bool: the pixels inside the box."""
    places = ops.arange(size, dtype="float32")
    top, left, bottom, right = (edge[:, None] for edge in find_box(params, name, size, ops))
    rows = ops.logical_and(places >= top, places < bottom)
    cols = ops.logical_and(places >= left, places < right)
    return ops.logical_and(rows[:, :, None], cols[:, None, :])[..., None]


def _mix_pairs(images, params, augmentation: Augmentation):
    if not augmentation.mixes:
        return images
    shape = images.shape[1:]
    pairs = ops.reshape(images, (-1, 2, *shape))
    firsts = ops.reshape(params, (-1, 2, len(PARAMS)))[:, 0]
    if augmentation.mixup > 0:
        share = ops.cast(column(firsts, "mixup"), images.dtype)[:, None, None, None, None]
        pairs = share * pairs + (1 - share) * ops.flip(pairs, axis=1)
    if augmentation.cutmix > 0:
        masks = _find_mask(firsts, "cutmix", shape[0])[:, None]
        pairs = ops.where(masks, ops.flip(pairs, axis=1), pairs)
    return ops.reshape(pairs, (-1, *shape))
