"""Plots and photos as small encoded pictures, which a page holds."""

import base64
import io
import os
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from flowerkit.plots import missing_letters_in_one_line

DPI = 150  # twice what a screen shows at half the width of the page
LARGEST_PX = 1500  # the longer side of a figure; a matrix of 104 classes is legible at it
PHOTO_PX = 224
SHEET_PX = 1100
COLOURS = 128  # a plot has few; the file is a third of its true-colour size


@dataclass(frozen=True)
class Picture:
    """An encoded picture: its bytes, "png" or "jpeg", its size in px and its description."""

    content: bytes
    kind: str
    width_px: int
    height_px: int
    alt: str

    @property
    def base64(self) -> str:
        """The bytes as text, for a data address."""
        return base64.b64encode(self.content).decode("ascii")


def new_panel() -> Axes:
    """An Axes of its own figure, which pyplot does not know; two fit side by side on a page."""
    return Figure(figsize=(5.5, 4.2), layout="constrained").subplots()


def encode_figure(axes: Axes | np.ndarray, alt: str) -> Picture:
    """The whole figure of an Axes, or of an array of them."""
    figure, raw = np.ravel(axes)[0].figure, io.BytesIO()
    with missing_letters_in_one_line():
        figure.savefig(raw, format="png", dpi=min(DPI, LARGEST_PX / max(figure.get_size_inches())))
    image = Image.open(raw).convert("RGB")
    return _encode(image.quantize(COLOURS), "png", alt)


def encode_photo(pixels: np.ndarray, alt: str) -> Picture:
    """One photo (h, w, 3) uint8, reduced where its longer side is over 224 px."""
    image = Image.fromarray(np.asarray(pixels, "uint8"))
    image.thumbnail((PHOTO_PX, PHOTO_PX), Image.Resampling.LANCZOS)
    return _encode(image, "jpeg", alt)


def encode_file(path: str | os.PathLike, alt: str) -> Picture:
    """A picture file, reduced to at most 1100 px. Raises OSError for a damaged file."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    image.thumbnail((SHEET_PX, SHEET_PX), Image.Resampling.LANCZOS)
    return _encode(image, "jpeg", alt)


def _encode(image: Image.Image, kind: str, alt: str) -> Picture:
    raw = io.BytesIO()
    image.save(raw, kind, optimize=True, quality=82)
    return Picture(raw.getvalue(), kind, image.width, image.height, alt)
