"""Figures and photos -> small encoded pictures that a page can hold."""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from PIL import Image

from flowerkit.report_page import Picture, clean

DPI = 150  # twice what a screen shows at half the width of the page
LARGEST_PX = 1500  # the longer side of a figure; a matrix of 104 classes is legible at it
PHOTO_PX = 224
SHEET_PX = 1100
MARGIN_PX = 8
LONGEST_NAME = 40  # letters; the page itself holds the whole name
# Fonts with Korean, Japanese and Chinese letters, as systems call them.
FONTS = (
    "Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo",
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans K", "UnDotum", "Baekmuk Gulim",
)  # fmt: skip
COLOURS = 128  # a plot has few; the file is a third of its true-colour size


@contextmanager
def drawing(class_names: Sequence[str]) -> Iterator[None]:
    """Figures drawn inside need no screen, touch no caller's figures, and know the names' letters."""
    fonts = [*matplotlib.rcParams["font.family"], *_find_fonts(class_names)]
    with (
        matplotlib.rc_context({"backend": "agg", "font.family": fonts}),
        warnings.catch_warnings(),
    ):
        # The page says it once (`find_undrawable`); a line for each letter says no more.
        warnings.filterwarnings("ignore", message="(?s).*missing from.*font")
        yield


def drawable(class_name: str) -> str:
    """A class's name for a figure: not endless, nothing unprintable, and no formula between dollars.

    >>> print(drawable("5$ or 7$"))
    5\\$ or 7\\$
    """
    name = clean(class_name.strip())
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return name.replace("$", r"\$")


def find_undrawable(class_names: Sequence[str]) -> list[str]:
    """The names with letters that no font here has; figures show boxes in their place."""
    names = [*matplotlib.rcParams["font.family"], *_find_fonts(class_names)]
    known = set().union(*(_letters(name) for name in names))
    return [name for name in class_names if not set(map(ord, clean(name.strip()))) <= known]


def _find_fonts(class_names: Sequence[str]) -> list[str]:
    """The first installed font that adds letters, if a name has others than Latin, Greek, Cyrillic."""
    if all(letter < "\u0600" for name in class_names for letter in name):
        return []
    installed = set(font_manager.get_font_names())
    return [name for name in FONTS if name in installed][:1]


def _letters(font_name: str) -> set[int]:
    file = font_manager.findfont(font_manager.FontProperties(family=[font_name]))
    return set(font_manager.get_font(file).get_charmap())


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
