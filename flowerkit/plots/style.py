"""What all plots share: colours, new figures, titles, class names as text, saving."""

import functools
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowerkit.files import replacing
from flowerkit.text import clean

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6E6E6E"
LONGEST_NAME = 40  # letters of a class name in a plot
# For letters that matplotlib's own font lacks: the usual fonts of Linux, Windows and macOS.
FALLBACK_FAMILIES = (
    *("Noto Sans CJK JP", "NanumGothic", "Malgun Gothic"),  # the first has Korean and Chinese, too
    *("Apple SD Gothic Neo", "Arial Unicode MS"),
)
_FALLBACK_FILES = re.compile("NotoSansCJK|Nanum|malgun|AppleSDGothic|Arial.?Unicode", re.IGNORECASE)

_off_screen = ContextVar("off_screen", default=False)
_log = logging.getLogger("flowerkit")


def new_figure(
    rows: int = 1, columns: int = 1, *, figsize: tuple[float, float], layout="constrained", **grid
) -> np.ndarray:
    """The (rows, columns) Axes of a new figure of `figsize` inches; `grid` goes to `subplots`."""
    make = Figure if _off_screen.get() else plt.figure
    return make(figsize=figsize, layout=layout).subplots(rows, columns, squeeze=False, **grid)


def new_axes(figsize: tuple[float, float] = (7.5, 4.0), layout: str = "constrained") -> Axes:
    """The single Axes of a new figure."""
    return new_figure(figsize=figsize, layout=layout)[0, 0]


@contextmanager
def off_screen() -> Iterator[None]:
    """Figures made inside need no screen, and pyplot does not know them."""
    token = _off_screen.set(True)
    try:
        yield
    finally:
        _off_screen.reset(token)


def save_figure(axes: Axes | np.ndarray, path: str | os.PathLike, *, dpi: int = 150) -> None:
    """Write the figure of an Axes or of an array of them, whole or not at all, and close it.

    The suffix of `path` chooses the format (.png, .svg, .pdf).
    """
    figure = np.ravel(axes)[0].figure
    with replacing(path) as temporary, missing_letters_in_one_line():
        figure.savefig(temporary, dpi=dpi)
    plt.close(figure)


@contextmanager
def missing_letters_in_one_line() -> Iterator[None]:
    """Log one line instead of matplotlib's warning for each letter that no font has."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph .* missing from")
        yield
    unrelated = [warning for warning in caught if "missing from" not in str(warning.message)]
    if len(unrelated) < len(caught):
        _explain_boxes()
    for warning in unrelated:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@functools.cache  # once is enough
def _explain_boxes() -> None:
    _log.warning(
        "no installed font has some letters of the class names: plots show boxes for them. Install "
        "a font that has them, such as Noto Sans CJK (apt install fonts-noto-cjk)."
    )


def font_families(texts: Iterable[str]) -> list[str]:
    """The fonts for class names: matplotlib's own, then the installed ones of FALLBACK_FAMILIES."""
    families = list(matplotlib.rcParams["font.family"])
    return families if all(map(str.isascii, texts)) else families + _find_fallbacks()


@functools.cache
def _find_fallbacks() -> list[str]:
    fonts = font_manager.fontManager
    listed = {font.fname for font in fonts.ttflist}
    # matplotlib keeps its list on disk, without fonts that were installed later.
    for file in font_manager.findSystemFonts():
        if _FALLBACK_FILES.search(file) and file not in listed:
            fonts.addfont(file)
    installed = set(font_manager.get_font_names())
    return [family for family in FALLBACK_FAMILIES if family in installed]


def format_text(text: str) -> str:
    """`text` without what no font can show, and without formulas between dollars.

    >>> print(format_text("5$ or 7$"))
    5\\$ or 7\\$
    """
    return clean(text.strip()).replace("$", r"\$")


def format_name(class_name: str) -> str:
    """A class name as text of a plot: its first 39 letters where there are over 40."""
    name = class_name.strip()
    return format_text(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…")


def set_title(ax: Axes, text: str, pad: float = 8) -> None:
    """Set the title at the left."""
    ax.set_title(text, loc="left", fontsize=11, pad=pad)


def set_grid(ax: Axes, axis: str) -> None:
    """Grey lines below the data at the ticks of "x", "y" or "both", and no frame above and right."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=axis, color="0.9")
    ax.set_axisbelow(True)
