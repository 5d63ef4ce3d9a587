"""Figures and photos -> small encoded pictures that a page can hold."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from flowerkit.plots.fonts import drawable, lettering
from flowerkit.reports.html import Picture

__all__ = [
    "drawable",
    "drawing",
    "encode_figure",
    "encode_file",
    "encode_panels",
    "encode_photo",
    "new_panel",
]

DPI = 150  # twice what a screen shows at half the width of the page
LARGEST_PX = 1500  # the longer side of a figure; a matrix of 104 classes is legible at it
PHOTO_PX = 224
SHEET_PX = 1100
MARGIN_PX = 8
COLOURS = 128  # a plot has few; the file is a third of its true-colour size


@contextmanager
def drawing(texts: Sequence[str] = ()) -> Iterator[None]:
    """Figures drawn inside need no screen, touch no caller's figures, and know the texts' letters.

    Class names need not be given: pictures that show them see to their letters themselves.
    """
    with matplotlib.rc_context({"backend": "agg"}), lettering(texts):
        yield


def new_panel() -> Axes:
    """An Axes on its own figure, as large as one of `encode_panels`, so that letters are too."""
    return plt.subplots(figsize=(5.5, 4.2), layout="constrained")[1]


def encode_figure(axes: Axes | np.ndarray, alt: str) -> Picture:
    """The whole figure of an Axes, or of an array of them, which is closed."""
    return _as_png(_render(np.ravel(axes)[0].figure), alt)


def encode_panels(axes: np.ndarray, alts: Sequence[str]) -> list[Picture]:
    """Each Axes of a figure as a picture of its own, so that a phone shows one below the other."""
    figure = axes[0].figure
    whole = _render(figure)
    scale = whole.width / figure.bbox.width
    # Boxes count from the lower left, pictures from the upper left.
    boxes = [ax.get_tightbbox().extents * scale for ax in axes]
    return [
        _as_png(
            whole.crop(
                (
                    max(0, int(left) - MARGIN_PX),
                    max(0, whole.height - int(top) - MARGIN_PX),
                    min(whole.width, int(right) + MARGIN_PX),
                    min(whole.height, whole.height - int(bottom) + MARGIN_PX),
                )
            ),
            alt,
        )
        for (left, bottom, right, top), alt in zip(boxes, alts, strict=True)
    ]


def encode_photo(pixels: np.ndarray, alt: str) -> Picture:
    """One photo (h, w, 3) uint8, made smaller where its longer side is over 224 px."""
    return _as_jpeg(Image.fromarray(np.asarray(pixels, "uint8")), PHOTO_PX, alt)


def encode_file(path: str | os.PathLike, alt: str) -> Picture:
    """A sheet of photos from a picture file, at most 1100 px wide or high.

    Raises OSError for a file that is no picture or is damaged.
    """
    with Image.open(path) as image:
        return _as_jpeg(image.convert("RGB"), SHEET_PX, alt)


def _render(figure) -> Image.Image:
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=min(DPI, LARGEST_PX / max(figure.get_size_inches())))
    plt.close(figure)
    return Image.open(raw).convert("RGB")


def _as_png(image: Image.Image, alt: str) -> Picture:
    raw = io.BytesIO()
    image.quantize(COLOURS).save(raw, "png", optimize=True)
    return Picture(raw.getvalue(), "png", image.width, image.height, alt)


def _as_jpeg(image: Image.Image, largest_px: int, alt: str) -> Picture:
    image.thumbnail((largest_px, largest_px), Image.Resampling.LANCZOS)
    raw = io.BytesIO()
    image.save(raw, "jpeg", quality=82, optimize=True)
    return Picture(raw.getvalue(), "jpeg", image.width, image.height, alt)
