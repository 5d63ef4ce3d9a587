"""Augmentation on the host, for machines whose device is the CPU: OpenCV, uint8 in and out.

The same pictures as `augment` within rounding, ten times faster on a CPU than its matrix products.
OpenCV releases Python's lock while it works, so the pipeline's threads run beside one another.
"""

import functools
import importlib
from collections.abc import Sequence

import numpy as np

from flowerkit.pipeline.augmentation import Augmentation
from flowerkit.pipeline.draws import ERASED_GREY, check_pairs, column, find_box, find_maps


@functools.cache
def _load_cv2():
    # Imported when first wanted: half of all runs, those on accelerators, never do.
    try:
        return importlib.import_module("cv2")
    except ImportError:  # not installed, or its shared libraries are missing
        return None


def is_available() -> bool:
    """Whether OpenCV can be imported."""
    return _load_cv2() is not None


def augment_images(
    images: Sequence[np.ndarray],
    params: np.ndarray,
    augmentation: Augmentation,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """`images` (n, side, side, 3) uint8, changed as `draws` (n, columns) say: a new array, or `out`.

    They may be an array or a list of its rows, which saves copying them together first.
    In this order: geometry, colour, random-erasing, mixing of rows 2k and 2k+1.
    Raises RuntimeError without OpenCV, ValueError for tables that do not fit the images and for an
    odd number of images, if images mix.
    """
    cv2 = _load_cv2()
    if cv2 is None:
        raise RuntimeError(
            "augmentation on the host needs OpenCV. Install opencv-python-headless, or pass "
            "augment_on='device'."
        )
    shape = (len(images), *images[0].shape)
    if len(params) != len(images) or shape[1] != shape[2]:
        raise ValueError(
            f"augmentation takes square images and a row of draws for each. Received: images of "
            f"shape {shape}, draws of shape {params.shape}"
        )
    if augmentation.mixes:
        check_pairs(len(images))
    changed = np.empty(shape, "uint8") if out is None else out
    _apply_geometry(cv2, images, changed, params, augmentation)
    if augmentation.max_brightness > 0 or augmentation.max_contrast > 0:
        _change_colours(cv2, changed, params)
    if augmentation.random_erasing > 0:
        for image, (top, left, bottom, right) in zip(
            changed, _boxes(params, "block", changed), strict=True
        ):
            image[top:bottom, left:right] = ERASED_GREY
    if augmentation.mixes:
        _mix_pairs(cv2, changed, params)
    return changed


def _boxes(params, name: str, images) -> list:
    return np.stack(find_box(params, name, images.shape[1]), axis=1).astype(int).tolist()


def _apply_geometry(cv2, images, changed, params, augmentation: Augmentation) -> None:
    if augmentation.turns or augmentation.max_shift > 0 or augmentation.max_zoom > 1:
        _warp(cv2, images, changed, params)
        return
    flips = column(params, "flip").tolist()
    if augmentation.min_crop_area == 1:
        for image, target, flip in zip(images, changed, flips, strict=True):
            if flip:
                cv2.flip(image, 1, dst=target)
            else:
                target[:] = image
        return
    size = changed.shape[2:0:-1]
    for image, target, flip, (top, left, bottom, right) in zip(
        images, changed, flips, _boxes(params, "crop", changed), strict=True
    ):
        part = image[top:bottom, left:right]
        # Flipped first: the part is smaller than what it is resized to. A part of full size is copied.
        cv2.resize(cv2.flip(part, 1) if flip else part, size, dst=target)


def _warp(cv2, images, changed, params) -> None:
    size = changed.shape[2:0:-1]
    maps = np.transpose(np.array(find_maps(params, changed.shape[1]), "float64"), (2, 0, 1))
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for image, target, source in zip(images, changed, maps, strict=True):
        cv2.warpAffine(
            image, source, size, dst=target, flags=how, borderMode=cv2.BORDER_REFLECT_101
        )


def _change_colours(cv2, images, params) -> None:
    levels = np.arange(256, dtype="float32")[:, None]
    added, gains = 255 * column(params, "brightness"), column(params, "contrast")
    for image, plus, gain in zip(images, added, gains, strict=True):
        means = np.array(cv2.mean(image)[:3], "float32")
        table = np.rint(np.clip((levels - means) * gain + means + plus, 0, 255))
        cv2.LUT(image, table.astype("uint8")[None], dst=image)


def _mix_pairs(cv2, images, params) -> None:
    firsts = params[::2]
    rows = zip(
        images[::2],
        images[1::2],
        column(firsts, "mixup").tolist(),
        _boxes(firsts, "cutmix", images),
        strict=True,
    )
    for one, other, share, (top, left, bottom, right) in rows:
        if share < 1:
            before = one.copy()
            cv2.addWeighted(one, share, other, 1 - share, 0, dst=one)
            cv2.addWeighted(other, share, before, 1 - share, 0, dst=other)
        box = np.s_[top:bottom, left:right]
        kept = one[box].copy()
        one[box] = other[box]
        other[box] = kept
