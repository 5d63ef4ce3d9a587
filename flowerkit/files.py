"""Files that are written whole or not at all: a temporary name first, then a rename."""

import itertools
import json
import os
import re
import reprlib
import shlex
import types
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flowerkit.text import readable

T = TypeVar("T")


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it at the end of the block.

    After an error (a full disk, Ctrl-C) the temporary file is gone and an older `path` is unchanged.
    The suffix is kept, because Keras and matplotlib choose the format by it.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("kept")
    >>> target.read_text()
    'kept'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{''.join(path.suffixes[-2:])}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text in one piece, see `replacing`; file names in it become `readable`."""
    with replacing(path) as temporary:
        temporary.write_text(readable(text), encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write indented JSON in one piece, see `replacing`."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, as in a file name that is not UTF-8
        text = json.dumps(value, indent=2)
    write_text(path, text + "\n")


def read_json(path: str | os.PathLike, *, what: str = "a JSON object", remedy: str = "") -> dict:
    """The JSON object in a file. Errors name the file, `what` it should hold, and the remedy.

    A byte order mark, which editors on Windows put in front, is skipped. Raises FileNotFoundError, or
    ValueError for text that is not JSON, or JSON that is no object.
    """
    path, remedy = Path(path), f". {remedy}" if remedy else ""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}{remedy}")
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}{remedy}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold {what}, not {reprlib.repr(value)}{remedy}")
    return value


def write_dataclass(path: str | os.PathLike, value: Any) -> None:
    """Write the fields of a dataclass as a JSON object, see `write_json`."""
    write_json(path, asdict(value))


def read_dataclass(path: str | os.PathLike, kind: type[T], *, remedy: str) -> T:
    """The dataclass `kind` whose fields are in a JSON file; fields with a default may be missing.

    Nested dataclasses are read too, and lists become the tuples of their fields. Unknown keys are
    skipped. Raises FileNotFoundError, or ValueError, naming the file, the field and the remedy, for a
    file that is damaged, lacks a field or holds a value of another type or that `kind` refuses.
    """
    return _decode(kind, read_json(path, remedy=remedy), str(path), remedy)


def _decode(kind: type[T], values: dict, where: str, remedy: str) -> T:
    hints = get_type_hints(kind)
    found = {}
    for field in (field for field in fields(kind) if field.init):
        if field.name in values:
            try:
                found[field.name] = _convert(values[field.name], hints[field.name], where, remedy)
            except TypeError:
                raise ValueError(
                    f"{where} is damaged: {field.name} is {reprlib.repr(values[field.name])}. {remedy}"
                ) from None
        elif field.default is field.default_factory is MISSING:
            raise ValueError(f"{where} lacks {field.name}. {remedy}")
    try:
        return kind(**found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} is damaged: {error}. {remedy}") from error


def _convert(value, hint, where: str, remedy: str):
    """`value` as the type `hint` has it. Raises TypeError where it is of another type."""
    if hint is Any:
        return value
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        hint = next(part for part in get_args(hint) if part is not type(None))
    if is_dataclass(hint) and isinstance(value, dict):
        return _decode(hint, value, where, remedy)
    base, inner = get_origin(hint) or hint, get_args(hint)
    if base is tuple and isinstance(value, list):
        item = inner[0] if inner else Any
        return tuple(_convert(each, item, where, remedy) for each in value)
    if base in (dict, Mapping) and isinstance(value, dict):
        item = inner[1] if inner else Any
        return {key: _convert(each, item, where, remedy) for key, each in value.items()}
    if base in (list, Sequence) and isinstance(value, list):
        item = inner[0] if inner else Any
        return [_convert(each, item, where, remedy) for each in value]
    if base is float and type(value) is int:
        return float(value)
    if type(value) is not base:
        raise TypeError
    return value


def make_folder(path: str | os.PathLike) -> Path:
    """The folder `path`, made if it is not there; an OSError names it and the remedy."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"{path} cannot be made ({error.strerror or error}). Pass another folder."
        ) from None
    return Path(path)


def find_free_folder(parent: str | os.PathLike, name: str) -> Path:
    """The first of parent/name-1, parent/name-2, ... that does not exist; does not make it.

    >>> import tempfile
    >>> runs = tempfile.mkdtemp()
    >>> find_free_folder(runs, "petals").mkdir()
    >>> find_free_folder(runs, "petals").name
    'petals-2'
    """
    numbered = (Path(parent) / f"{name}-{number}" for number in itertools.count(1))
    return next(folder for folder in numbered if not folder.exists())


_URL = re.compile(r"(?i)(https?|ftp|gs|s3):/+(.+)")
_TARS = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def explain_unpacking(path: str | os.PathLike) -> str | None:
    """The sentence with the command that unpacks an archive, or fetches an address; None for others.

    >>> explain_unpacking("my photos.tar.gz")
    "Unpack it first: mkdir 'my photos' && tar -xf 'my photos.tar.gz' -C 'my photos'"
    """
    path = os.fspath(path)
    if match := _URL.match(path):  # of which pathlib keeps one slash
        url = f"{match[1]}://{match[2]}"
        name = match[2].partition("?")[0].rstrip("/").rpartition("/")[2] or "photos.zip"
        if dataset := re.search(r"kaggle\.com/datasets/([\w-]+/[\w-]+)", url):
            return f"Download it first: kaggle datasets download {dataset[1]} --unzip -p photos"
        then = explain_unpacking(name)
        then = f" && {then.partition(': ')[2]}" if then else ""
        return f"Download it first: curl -L -o {shlex.quote(name)} {shlex.quote(url)}{then}"
    name = os.path.basename(path)
    suffix = next((s for s in sorted(_TARS, key=len)[::-1] if name.lower().endswith(s)), None)
    suffix = suffix or os.path.splitext(name)[1]
    archive, folder = (
        shlex.quote(path),
        shlex.quote(name.removesuffix(name[-len(suffix) :]) or "photos"),
    )
    if suffix.lower() in _TARS:
        command = f"mkdir {folder} && tar -xf {archive} -C {folder}"
    elif suffix.lower() == ".zip":
        encoding = " --metadata-encoding cp949" if _has_korean_names(path) else ""
        command = f"python -m zipfile{encoding} -e {archive} {folder}"
    elif suffix.lower() in (".7z", ".rar"):
        command = f"7z x {archive} -o{folder}"
    else:
        return None
    return f"Unpack it first: {command}"


def _has_korean_names(path: str) -> bool:
    """Whether a zip has names that it does not say are UTF-8, and that read as Korean."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                info.orig_filename for info in archive.infolist() if not info.flag_bits & 0x800
            ]
        names = [name.encode("cp437").decode("cp949") for name in names if not name.isascii()]
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    return any("가" <= letter <= "힣" for name in names for letter in name)
