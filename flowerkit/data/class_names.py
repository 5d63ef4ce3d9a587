"""Names of classes: their order, which of them are one to the eye, and what a csv calls them."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from fractions import Fraction

_NUMBER = re.compile(r"[+-]?\d{1,300}(\.\d{1,300})?")
# What shows nothing: fillers, a joiner and variation selectors; the rest is of the category Cf.
_INVISIBLE = {*map(ord, "\u034f\u115f\u1160\u3164\uffa0"), *range(0xFE00, 0xFE10)}


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order of their class ids: numbers by their value, then the others by their text.

    >>> sort_class_names(["10", "2", "rose", "01"])
    ('01', '2', '10', 'rose')
    """

    def key(name: str) -> tuple[bool, Fraction, str]:
        number = _find_number(name)
        return number is None, number or Fraction(0), name

    return tuple(sorted(names, key=key))


def _find_number(name: str) -> Fraction | None:
    return Fraction(name.strip()) if _NUMBER.fullmatch(name.strip()) else None


def find_csv_labels(class_names: Sequence[str]) -> tuple[str, ...] | None:
    """What a csv holds for each class, if it is not the class id.

    Where a name is a number that is not its id, an id would be read as the class of that name: a csv
    then holds the names.

    >>> find_csv_labels(["0", "1", "other"]), find_csv_labels(["1", "2"])
    (None, ('1', '2'))
    """
    for id, name in enumerate(class_names):
        if _find_number(name) is not None and name != str(id):
            return tuple(class_names)
    return None


def find_alike(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two different names that look the same: but for case, blanks, invisible marks, zeros.

    >>> find_alike(["iris", "Rose", "rose\\u200b"]), find_alike(["1", "01"]), find_alike(["a", "b"])
    (('Rose', 'rose\\u200b'), ('1', '01'), None)
    """
    first = {}
    for name in names:
        earlier = first.setdefault(_find_look(name), name)
        if earlier != name:
            return earlier, name
    return None


def _find_look(name: str) -> str:
    text = unicodedata.normalize("NFKC", name).casefold()
    seen = (c for c in text if unicodedata.category(c) != "Cf" and ord(c) not in _INVISIBLE)
    text = " ".join("".join(seen).split())
    number = _find_number(text)
    return text if number is None else str(number)
