"""Counts, bytes, names and shares in words."""

import csv
import difflib
import io
import re
from collections.abc import Iterable, Sequence

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_FORMULA = re.compile(r"\s*[=+@\uff1d\uff0b\uff20-]")
_NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?")
_ANY_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Bytes of a file name that are not UTF-8 are half surrogate pairs in Python (PEP 383). With what may
# belong to them: the second byte of a syllable in CP949 can be a letter, but no blank, slash or digit.
_NOT_UTF8 = re.compile("[A-Za-z\x80-\U0010ffff]*[\udc80-\udcff][A-Za-z\x80-\U0010ffff]*")
_HALF_PAIRS = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def pluralize(num: int, noun: str) -> str:
    """The number and its noun, which is in the plural unless the number is 1.

    >>> pluralize(1, "seed"), pluralize(1200, "photo"), pluralize(0, "class"), pluralize(2, "epoch")
    ('1 seed', '1,200 photos', '0 classes', '2 epochs')
    """
    plural = "es" if noun.endswith(("s", "x", "sh", "tch")) else "s"
    return f"{num:,} {noun}{plural * (num != 1)}"


def join_some(items: Sequence[str], num: int = 5, mark: str = ", ") -> str:
    """The first `num` items, and how many more there are.

    >>> join_some(["a", "b"]), join_some("abcdefg")
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = len(items) - num
    return mark.join(items[:num]) + (f" and {more:,} more" if more > 0 else "")


def format_value(value: object) -> str:
    """A value of a plan as options are written.

    >>> [format_value(value) for value in (None, True, False, 0.001, "tiny")]
    ['none', 'on', 'off', '0.001', 'tiny']
    """
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_epochs(count: float) -> str:
    """The number of epochs and its noun.

    >>> format_epochs(1), format_epochs(2.5)
    ('1 epoch', '2.5 epochs')
    """
    return "1 epoch" if count == 1 else f"{round(count, 2):g} epochs"


def format_bytes(num_bytes: float) -> str:
    """In GiB, or in MiB below 1 GiB.

    >>> format_bytes(3 * 2**29), format_bytes(70 * 2**20), format_bytes(4096)
    ('1.50 GiB', '70 MiB', '0.0 MiB')
    """
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.2f} GiB"
    mib = num_bytes / 2**20
    return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"


def format_seconds(seconds: float) -> str:
    """A duration in words.

    >>> [format_seconds(seconds) for seconds in (0.0421, 5.31, 42.4, 200, 5040)]
    ['0.04 s', '5.3 s', '42 s', '3 min 20 s', '1 h 24 min']
    """
    if seconds < 90:
        return f"{seconds:.{0 if seconds >= 10 else 1 if seconds >= 1 else 2}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" with the nearest of the known names, in any case of letters, or nothing.

    >>> did_you_mean("val_f2", ["val_f1", "loss"])
    " Did you mean 'val_f1'?"
    >>> did_you_mean("ROSE", ["iris", "Rose"])
    " Did you mean 'Rose'?"
    """
    spelt = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(str(name).casefold(), list(spelt), n=1)
    return f" Did you mean {spelt[near[0]]!r}?" if near else ""


def readable(text: str) -> str:
    """`text` as UTF-8 can hold it, for every path that is printed or written.

    What is not UTF-8 in a file name is Korean from Windows (CP949), if it reads as Korean, and else its
    bytes in hexadecimal digits.

    >>> readable(b"\\xc0\\xe5\\xb9\\xcc 1/caf\\xe9.jpg".decode("utf-8", "surrogateescape"))
    '장미 1/caf\\\\xe9.jpg'
    """
    if text.isascii():
        return text
    text = _HALF_PAIRS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return _NOT_UTF8.sub(_decode_name, text)


def _decode_name(match: re.Match[str]) -> str:
    raw = match[0].encode("utf-8", "surrogateescape")
    try:
        text = raw.decode("cp949")
    except UnicodeDecodeError:
        text = ""
    letters = [letter for letter in text if letter > "\x7f"]
    # Two accented letters of Europe can be a syllable too, but not one of the 2,350 that words have.
    usual = [all(byte > 0xA0 for byte in letter.encode("cp949")) for letter in letters]
    if all("가" <= letter <= "힣" for letter in letters) and 2 * sum(usual) > len(letters):
        return text
    return raw.decode("utf-8", "backslashreplace")


def clean(text: str) -> str:
    """`text` that is `readable`, with a question mark for control characters.

    >>> clean("bell\\x07 half\\ud800")
    'bell? half\\\\ud800'
    """
    return _CONTROLS.sub("?", readable(text))


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would take the text for a formula.

    >>> [text for text in ("=1+1", " @x", "-1", "-rose", "+1.5", "rose") if is_formula(text)]
    ['=1+1', ' @x', '-rose']
    """
    return _FORMULA.match(text) is not None and not _NUMBER.fullmatch(text)


def format_csv(rows: Iterable[Iterable]) -> str:
    """Rows as csv text; None is an empty cell. No cell is more than text to whatever opens the file.

    Line ends and other control characters are written as Python does, and what a spreadsheet would take
    for a formula has an apostrophe in front.

    >>> print(format_csv([["=1+1", "-0.5", "two\\nlines", 3, None]]))
    '=1+1,-0.5,two\\nlines,3,
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(map(to_cell, row) for row in rows)
    return text.getvalue()


def to_cell(cell):
    """A cell as `format_csv` writes it, before quotes."""
    if not isinstance(cell, str):
        return cell
    text = _ANY_CONTROL.sub(lambda found: repr(found[0])[1:-1], readable(cell))
    return f"'{text}" if is_formula(text) else text


def from_cell(text: str) -> str:
    """The text of a cell before `to_cell` put an apostrophe in front.

    >>> from_cell(to_cell("=x/1.jpg")), from_cell("'tis")
    ('=x/1.jpg', "'tis")
    """
    return text[1:] if text[:1] == "'" and is_formula(text[1:]) else text


def percent(share: float) -> str:
    """A share of 1 in percent; only 0 is 0% and only 1 is 100%.

    >>> [percent(share) for share in (0, 0.0004, 0.126, 0.9996, 1)]
    ['0%', '<1%', '13%', '>99%', '100%']
    """
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"
