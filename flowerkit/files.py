"""Files that are written whole or not at all: a temporary name first, then a rename."""

import itertools
import json
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well.

    After an error (a full disk, Ctrl-C) the temporary file is gone and an older `path` is untouched.
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
    """Write UTF-8 text in one piece, see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write indented JSON in one piece, see `replacing`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


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

    Raises FileNotFoundError, or ValueError, naming the file and the remedy, for a file that is
    damaged, lacks a field or holds a value that `kind` refuses. Unknown keys are skipped.
    """
    values = read_json(path, remedy=remedy)
    known = [field for field in fields(kind) if field.init]
    missing = [
        field.name
        for field in known
        if field.name not in values and field.default is field.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}. {remedy}")
    try:
        return kind(**{field.name: values[field.name] for field in known if field.name in values})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}. {remedy}") from error


def find_free_folder(parent: str | os.PathLike, name: str) -> Path:
    """The first of parent/name-1, parent/name-2, ... that is not there yet; makes nothing.

    >>> import tempfile
    >>> runs = tempfile.mkdtemp()
    >>> find_free_folder(runs, "petals").mkdir()
    >>> find_free_folder(runs, "petals").name
    'petals-2'
    """
    numbered = (Path(parent) / f"{name}-{number}" for number in itertools.count(1))
    return next(folder for folder in numbered if not folder.exists())
