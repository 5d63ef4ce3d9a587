"""Letters in pictures: a font of this machine that has them, and a note where there is none.

matplotlib's own font has Latin, Greek and Cyrillic letters and draws boxes for all others. A font
is looked for only where class names need one.
"""

import functools
import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.text import Text

from flowerkit.text import clean

LONGEST_NAME = 40  # letters; a page itself holds the whole name
BOX = "\N{WHITE SQUARE}"  # in place of a letter that no font has
MOST_FONTS = 3  # at once, each for a script of its own
# Files of upright fonts without serifs come first; what they are called differs by system.
_PLAIN = re.compile("sans|gothic|nanum|malgun|dotum|gulim|hei", re.IGNORECASE)
_SLANTED = re.compile("bold|italic|oblique|light|thin|black|mono|condensed", re.IGNORECASE)

_log = logging.getLogger("flowerkit")


@contextmanager
def lettering(class_names: Sequence[str]) -> Iterator[list[str]]:
    """Texts made inside keep a font that has the letters of `class_names`; yields them as drawable.

    Afterwards matplotlib's settings are as they were. For texts that were there before, titles and
    ticks of given Axes, see `set_letters`. Names that no font here can show are told in the log, and
    have boxes and their number instead.
    """
    fonts = [*matplotlib.rcParams["font.family"], *_find_fonts(class_names)]
    # Not rc_context: around the first figure of all it would undo what a notebook's backend sets then,
    # and no later picture would be shown.
    before = matplotlib.rcParams["font.family"]
    matplotlib.rcParams["font.family"] = fonts
    try:
        known = _letters_of(fonts)
        yield [_show(name, number, known) for number, name in enumerate(class_names)]
    finally:
        matplotlib.rcParams["font.family"] = before
    _note_undrawable(tuple(find_undrawable(class_names)))


def set_letters(ax: Axes) -> None:
    """Give all texts of `ax` the fonts of the `lettering` around it; nothing where it added none."""
    family = matplotlib.rcParams["font.family"]
    if len(family) > 1:
        for text in ax.findobj(Text):
            text.set_fontfamily(family)


def drawable(class_name: str) -> str:
    """A class's name for a figure: not endless, nothing unprintable, and no formula between dollars.

    >>> print(drawable("5$ or 7$"))
    5\\$ or 7\\$
    """
    name = clean(class_name.strip())
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return name.replace("$", r"\$")


def find_undrawable(class_names: Sequence[str]) -> list[str]:
    """The names with letters that no font here has."""
    known = _letters_of([*matplotlib.rcParams["font.family"], *_find_fonts(class_names)])
    return [name for name in class_names if not set(clean(name.strip())) <= known]


def _show(name: str, number: int, known: frozenset[str]) -> str:
    shown = "".join(letter if letter in known else BOX for letter in clean(name.strip()))
    # Boxes are all alike, the class's number is not.
    return drawable(shown) + (f" (class {number})" if BOX in shown else "")


def _find_fonts(texts: Sequence[str]) -> tuple[str, ...]:
    """The installed fonts that add letters of `texts` to matplotlib's, the fewest that do."""
    letters = frozenset(clean("".join(texts)))
    return _cover(letters - _letters_of(matplotlib.rcParams["font.family"]))


@functools.lru_cache(maxsize=64)
def _cover(missing: frozenset[str]) -> tuple[str, ...]:
    # What is private to a font, or no letter at all, another font shows as anything.
    missing = {letter for letter in missing if unicodedata.category(letter)[0] != "C"}
    names: list[str] = []
    # Not matplotlib's list of fonts: it is kept on disk, and lacks what was installed since.
    files = sorted(font_manager.findSystemFonts(), key=_rank) if missing else []
    for file in files:
        found = missing & _letters_in(file)
        if found and len(names) < MOST_FONTS:
            missing -= found
            names.append(_register(file, files))
        if not missing:
            break
    return tuple(names)


def _rank(file: str) -> tuple:
    name = Path(file).name
    return not _PLAIN.search(name), bool(_SLANTED.search(name)), name


def _register(file: str, files: Sequence[str]) -> str:
    """The name of the font in a file, by which matplotlib now finds it, its bold one included."""
    name = font_manager.get_font(file).family_name
    if name not in font_manager.get_font_names():
        root = Path(file).stem.removesuffix("Regular").rstrip("-_")
        for one in files:
            if Path(one).stem.startswith(root) and _letters_in(one):
                font_manager.fontManager.addfont(one)
    return name


def _letters_of(font_names: Sequence[str]) -> frozenset[str]:
    files = [
        font_manager.findfont(font_manager.FontProperties(family=[name])) for name in font_names
    ]
    return frozenset().union(*map(_letters_in, files))


@functools.lru_cache(maxsize=256)
def _letters_in(file: str) -> frozenset[str]:
    try:
        font = font_manager.get_font(file)
    except (OSError, RuntimeError):  # damaged, or of a kind that matplotlib does not read
        return frozenset()
    # One of fixed sizes, like those of coloured emoji, cannot be drawn.
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()


@functools.lru_cache(maxsize=64)
def _note_undrawable(names: tuple[str, ...]) -> None:
    if names:
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        _log.warning(
            "no font here has the letters of %s%s: pictures show boxes and the class's number. "
            "Install one that has them (Noto Sans CJK: apt install fonts-noto-cjk).",
            ", ".join(map(repr, names[:3])),
            more,
        )
