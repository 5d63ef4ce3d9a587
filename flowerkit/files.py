"""Files that are written whole or not at all: a temporary name first, then a rename."""

import errno
import itertools
import json
import os
import re
import reprlib
import shutil
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flowerkit.text import format_bytes

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
    make_folder(path.parent)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{''.join(path.suffixes[-2:])}")
    try:
        with writing_to(path.parent):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text in one piece, see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any, *, indent: int = 2) -> None:
    """Write indented JSON in one piece, see `replacing`."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, as in a file name that is not UTF-8
        text = json.dumps(value, indent=indent)
    write_text(path, text + "\n")


def read_json(path: str | os.PathLike, *, what: str = "a JSON object", remedy: str = "") -> dict:
    """The JSON object in a file. Errors name the file, `what` it should hold, and the remedy.

    A byte order mark, which editors on Windows put in front, is skipped. Raises FileNotFoundError, or
    ValueError for text that is not JSON, or JSON that is no object.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no {path}" + (f". {remedy}" if remedy else ""))
    return parse_json(Path(path).read_bytes(), source=path, what=what, remedy=remedy)


def parse_json(
    text: str | bytes,
    *,
    source: str | os.PathLike,
    kind: type[T] = dict,
    what: str = "a JSON object",
    remedy: str = "",
) -> T:
    """The value of a `kind` (dict, list) that the JSON `text` of the file `source` holds.

    Raises ValueError, see `read_json`.
    """
    remedy = f". {remedy}" if remedy else ""
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not JSON: {error}{remedy}") from error
    if not isinstance(value, kind):
        raise ValueError(f"{source} must hold {what}, not {reprlib.repr(value)}{remedy}")
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
    with writing_to(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


@contextmanager
def writing_to(folder: str | os.PathLike) -> Iterator[None]:
    """The OSError of a disk that is full, or of a folder that cannot be written, names `folder`.

    It has the remedy, too. Errors of HDF5, which are pages long, are among them.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        explained = _explain(error, Path(folder))
        if explained is None:
            raise
        raise explained from error


_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
_CLOSED += (errno.EFBIG, errno.EIO)


def _explain(error: Exception, folder: Path) -> OSError | None:
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    if number is None and (found := re.search(r"errno = (\d+)", str(error))):  # HDF5's own
        number = int(found[1])
    if number in _FULL:
        return _no_room(folder)
    if number not in _CLOSED or (
        file and Path(file) != folder and folder not in Path(file).parents
    ):
        return None
    remedy = _another(folder)
    remedy = remedy[0].upper() + remedy[1:]
    return OSError(f"{folder} cannot be written to ({os.strerror(number)}). {remedy}.")


def _no_room(folder: Path, needed: str = "") -> OSError:
    free = format_bytes(_free_bytes(folder))
    remedy = f"Make room, or {_another(folder)}"
    return OSError(f"no room on the disk of {folder}: {needed}{free} are free. {remedy}.")


def _another(folder: Path) -> str:
    if folder.absolute().is_relative_to(cache_folder().absolute()):
        return "set the variable FLOWERKIT_CACHE to another folder"
    return "pass another folder"


def _free_bytes(folder: Path) -> int:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def check_room(folder: str | os.PathLike, num_bytes: int = 0) -> None:
    """Make `folder` and raise OSError where nothing can be written into it, or not `num_bytes`."""
    folder = make_folder(folder)
    with writing_to(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0" * 4096)
        file.flush()
    if _free_bytes(folder) < num_bytes:
        raise _no_room(folder, f"{format_bytes(num_bytes)} are needed, ")


def cache_folder() -> Path:
    """Where flowerkit keeps what it can make again: drawn flowers, converted photos, decoded images.

    FLOWERKIT_CACHE, else flowerkit/ in XDG_CACHE_HOME, else in ~/.cache. It need not exist.
    """
    if chosen := os.environ.get("FLOWERKIT_CACHE"):
        return Path(chosen).expanduser()
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "flowerkit"
    try:
        return Path.home() / ".cache" / "flowerkit"
    except RuntimeError:  # a container may run as a user who has no home
        return Path(tempfile.gettempdir()) / "flowerkit"


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
