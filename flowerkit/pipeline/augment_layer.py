"""Augmentation on the device: whole batches in the backend's own operations, to be compiled."""

import keras
from keras import ops

from flowerkit.pipeline.augment_params import ERASED_GREY, check_pairs, column, find_box, find_maps
from flowerkit.pipeline.augmentation import Augmentation


def augment(images, params, augmentation: Augmentation, *, dtype: str = "float32"):
    """`images` (n, side, side, 3) uint8, changed as `draws` (n, columns) say: `dtype`, 0..255.

    In this order: geometry, colour, random-erasing, mixing of rows 2k and 2k+1. Only what is on in
    `augmentation` is traced. `dtype` may be "bfloat16": it holds whole pixel values exactly, and
    coordinates stay float32. Raises ValueError for images that are not square, draws that are not
    float32, and an odd number of images, if images mix.
    """
    _check(images, params, augmentation)
    images = _apply_geometry(images, params, augmentation, dtype)
    if augmentation.max_brightness > 0 or augmentation.max_contrast > 0:
        images = _change_colours(images, params)
    if augmentation.random_erasing > 0:
        images = ops.where(
            _find_mask(params, "block", images), ops.cast(ERASED_GREY, dtype), images
        )
    return _mix_pairs(images, params, augmentation) if augmentation.mixes else images


class Augment(keras.layers.Layer):
    """`augment` as a layer without weights: call((images uint8, draws)) -> images, compute dtype.

    For the training step alone; it is no part of the model that is saved.
    """

    def __init__(self, augmentation: Augmentation, **kwargs) -> None:
        # Keras would cast the draws to the compute dtype: bfloat16 cannot hold a coordinate.
        super().__init__(trainable=False, autocast=False, **kwargs)
        self.augmentation = augmentation

    def call(self, inputs):
        """(images (n, side, side, 3), draws (n, columns)) -> images of the same shape."""
        images, params = inputs
        return augment(images, params, self.augmentation, dtype=self.compute_dtype)

    def compute_output_spec(self, inputs):
        """The images' shape in the compute dtype."""
        return keras.KerasTensor(inputs[0].shape, self.compute_dtype)


def _check(images, params, augmentation: Augmentation) -> None:
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"augmentation takes square images. Received: shape {images.shape}")
    if keras.backend.standardize_dtype(params.dtype) != "float32":
        raise ValueError(
            f"draws must be float32: shorter floats hold no coordinate. Received: {params.dtype}"
        )
    if augmentation.mixes and images.shape[0] is not None:
        check_pairs(images.shape[0])


def _apply_geometry(images, params, augmentation: Augmentation, dtype: str):
    resamples = augmentation.max_shift > 0 or augmentation.max_zoom > 1
    if augmentation.turns:
        return _gather(images, params, dtype)
    if resamples or augmentation.min_crop_area < 1:
        return _multiply(ops.cast(images, dtype), params, dtype, mirrored=resamples)
    if augmentation.flip:
        flips = column(params, "flip")[:, None, None, None] > 0.5
        images = ops.where(flips, ops.flip(images, axis=2), images)
    return ops.cast(images, dtype)


def _multiply(images, params, dtype: str, *, mirrored: bool):
    """Rows, then columns, each resampled by one batched matrix product: what matrix units are for."""
    side = images.shape[1]
    (xx, _, x0), (_, yy, y0) = find_maps(params, side, ops)
    places = ops.arange(side, dtype="float32")
    x = xx[:, None] * places + x0[:, None]
    y = yy[:, None] * places + y0[:, None]
    if mirrored:
        x, y = _mirror(x, side), _mirror(y, side)
    else:  # a crop alone: nothing from outside of it, as if it had been cut out before
        top, left, bottom, right = (edge[:, None] for edge in find_box(params, "crop", side, ops))
        x, y = ops.clip(x, left, right - 1), ops.clip(y, top, bottom - 1)
    images = ops.einsum("nij,njkc->nikc", _weights(y, places, dtype), images)
    return ops.einsum("nkj,nijc->nikc", _weights(x, places, dtype), images)


def _weights(coordinates, places, dtype: str):
    """Bilinear weights (n, side, side): row i says how much of each old pixel the new pixel i takes."""
    distances = ops.abs(coordinates[:, :, None] - places)
    return ops.cast(ops.maximum(1 - distances, 0), dtype)


def _mirror(coordinates, side: int):
    """Coordinates brought into 0..side-1, reflected around the centres of the edge pixels."""
    last = max(side - 1, 1)
    return last - ops.abs(ops.mod(coordinates, 2 * last) - last)


def _gather(images, params, dtype: str):
    """Bilinear interpolation between the four neighbours of any point."""
    side = images.shape[1]
    (xx, xy, x0), (yx, yy, y0) = (
        [part[:, None, None] for part in row] for row in find_maps(params, side, ops)
    )
    places = ops.arange(side, dtype="float32")
    col, row = places[None, None, :], places[None, :, None]
    x, y = _mirror(xx * col + xy * row + x0, side), _mirror(yx * col + yy * row + y0, side)
    left, top = ops.floor(x), ops.floor(y)
    flat = ops.reshape(images, (-1, side * side, 3))

    def take(y_px, x_px):
        # A coordinate on the last pixel has no neighbour beyond, and needs none: its weight is 0.
        index = ops.minimum(y_px, side - 1) * side + ops.minimum(x_px, side - 1)
        index = ops.reshape(ops.cast(index, "int32"), (-1, side * side, 1))
        pixels = ops.take_along_axis(flat, index, axis=1)
        return ops.cast(ops.reshape(pixels, (-1, side, side, 3)), dtype)

    down = ops.cast(y - top, dtype)[..., None]
    across = ops.cast(x - left, dtype)[..., None]
    upper = take(top, left) * (1 - across) + take(top, left + 1) * across
    lower = take(top + 1, left) * (1 - across) + take(top + 1, left + 1) * across
    return upper * (1 - down) + lower * down


def _change_colours(images, params):
    dtype = images.dtype
    images = ops.cast(images, "float32")  # a mean of 50,000 pixels in bfloat16 would be a guess
    means = ops.mean(images, axis=(1, 2), keepdims=True)
    gain = column(params, "contrast")[:, None, None, None]
    added = 255 * column(params, "brightness")[:, None, None, None]
    return ops.cast(ops.clip((images - means) * gain + means + added, 0, 255), dtype)


def _find_mask(params, name: str, images):
    """(n, side, side, 1) bool: the pixels inside the box."""
    side = images.shape[1]
    places = ops.arange(side, dtype="float32")
    top, left, bottom, right = (edge[:, None] for edge in find_box(params, name, side, ops))
    rows = ops.logical_and(places >= top, places < bottom)
    cols = ops.logical_and(places >= left, places < right)
    return ops.logical_and(rows[:, :, None], cols[:, None, :])[..., None]


def _mix_pairs(images, params, augmentation: Augmentation):
    shape = (-1, *images.shape[1:])
    pairs = ops.reshape(images, (-1, 2, *images.shape[1:]))
    firsts = ops.reshape(params, (-1, 2, params.shape[1]))[:, 0]
    if augmentation.mixup > 0:
        share = ops.cast(column(firsts, "mixup"), images.dtype)[:, None, None, None, None]
        pairs = share * pairs + (1 - share) * ops.flip(pairs, axis=1)
    if augmentation.cutmix > 0:
        masks = _find_mask(firsts, "cutmix", images)[:, None]
        pairs = ops.where(masks, ops.flip(pairs, axis=1), pairs)
    return ops.reshape(pairs, shape)
