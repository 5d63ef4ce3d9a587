"""Photos as small encoded pictures, which a page holds."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

PHOTO_PX = 224
READ_AT_ONCE = 32  # photos: what is kept as JPEG is decoded for them


@dataclass(frozen=True)
class Picture:
    """An encoded picture: its bytes, JPEG, and its size in px."""

    content: bytes
    width_px: int
    height_px: int

    @property
    def address(self) -> str:
        """The picture as an address, which a page can hold."""
        return to_data_uri(self.content)


def to_data_uri(content: bytes, kind: str = "jpeg") -> str:
    """An encoded picture as the address of itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def encode_photo(pixels: np.ndarray, size_px: int = PHOTO_PX) -> Picture:
    """One photo (h, w, 3) uint8, reduced where its longer side is over `size_px`."""
    image, raw = Image.fromarray(np.asarray(pixels, "uint8")), io.BytesIO()
    image.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    image.save(raw, "jpeg", optimize=True, quality=82)
    return Picture(raw.getvalue(), image.width, image.height)


def encode_photos(images, sizes: Mapping[int, int], num_bytes: int) -> dict[int, Picture]:
    """The photos of the rows of `images` in `sizes`, each at most so many px, in their order.

    They end where their addresses would be longer than `num_bytes` in all.
    """
    found: dict[int, Picture] = {}
    for start in range(0, len(sizes), READ_AT_ONCE):
        rows = list(sizes)[start : start + READ_AT_ONCE]
        for row, pixels in zip(rows, np.asarray(images[np.array(rows)]), strict=True):
            picture = encode_photo(pixels, sizes[row])
            num_bytes -= len(picture.address)
            if num_bytes < 0:
                return found
            found[row] = picture
    return found
