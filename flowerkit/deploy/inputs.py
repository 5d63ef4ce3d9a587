"""What one may hand to a classifier: paths, folders, Pillow images, arrays, and lists of these."""

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowerkit.photos import SUFFIXES

# What a PNG holds as it is; a TIFF holds CMYK too, and what is left is turned into RGB.
_PNG_MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "I", "I;16")


def list_sources(photos: Any) -> Iterator[tuple[str, Any]]:
    """(what it is called, its path or picture) of each photo, in order; a folder's sorted by path.

    Raises FileNotFoundError for a path that is not there; ValueError for a folder without photos, an
    array that is no picture, and any other kind of thing.
    """
    for number, photo in enumerate(_flatten(photos), 1):
        yield (str(photo) if isinstance(photo, Path) else f"photo {number}"), photo


def _flatten(photos: Any) -> Iterable[Any]:
    if isinstance(photos, str | os.PathLike):
        return _find_files(Path(photos))
    if isinstance(photos, np.ndarray):
        _check_array(photos)
        return photos if photos.ndim == 4 else [photos]
    if isinstance(photos, Image.Image):
        return [photos]
    if not isinstance(photos, Iterable):
        raise ValueError(
            f"photos must be a path, a folder, a Pillow image, an array or a list of these. Received: "
            f"{type(photos).__name__}"
        )
    return [photo for one in photos for photo in _flatten(one)]


def _find_files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"no photo {path}")
    if not path.is_dir():
        return [path]
    inside = [file for file in sorted(path.rglob("*")) if file.is_file()]
    photos = [
        file
        for file in inside
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not photos:
        raise ValueError(
            f"no photos in {path} ({len(inside)} other files). Photos end in "
            f"{', '.join(SUFFIXES[:6])} ..."
        )
    return photos


def _check_array(array: np.ndarray) -> None:
    """Refuse what is no picture of numbers 0..255, or a batch of them."""
    channels = array.shape[-1] if array.ndim in (3, 4) else 3
    if array.ndim not in (2, 3, 4) or channels not in (1, 3, 4) or 0 in array.shape[-3:]:
        raise ValueError(
            f"an array of shape {array.shape} is no picture. Pass (height, width), (height, width, 3) "
            f"or (n, height, width, 3)."
        )
    if array.dtype.kind not in "uif" or not np.isfinite(array).all():
        raise ValueError(
            f"a picture is of finite numbers 0..255; this array is {array.dtype}, or holds nan or inf."
        )
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if low < 0 or high > 255:
        raise ValueError(f"pixels go from {low:g} to {high:g}; pass numbers 0..255.")
    if array.dtype.kind == "f" and 0 < high <= 1:
        raise ValueError(f"pixels go up to {high:g} only; pass 0..255, not 0..1 (times 255).")


def to_image(array: np.ndarray) -> Image.Image:
    """The picture of an array (height, width) or (height, width, 1, 3 or 4), numbers 0..255."""
    _check_array(array)
    pixels = np.round(array).astype("uint8")
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def to_bytes(image: Image.Image) -> bytes:
    """The picture as a file in memory, losslessly, so that it is read as any other photo."""
    format = "PNG" if image.mode in _PNG_MODES else "TIFF"
    if image.mode not in (*_PNG_MODES, "CMYK"):
        image = image.convert("RGB")
    data = io.BytesIO()
    options = {"compress_level": 1} if format == "PNG" else {}
    image.save(data, format, exif=image.getexif(), **options)
    return data.getvalue()
