"""Files that are written whole or not at all, and that show damage: a rename comes last.

A file carries its own checksum (CRC-32): JSON of a dataclass as its field "checksum", weights and other
binary files at the end of their name.
"""

import itertools
import json
import logging
import os
import platform
import re
import reprlib
import types
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

T = TypeVar("T")

_log = logging.getLogger("flowerkit")


@contextmanager
def locked(file: str | os.PathLike, doing: str) -> Iterator[None]:
    """Keep other processes out until the end of the block, or of this process however it ends.

    What is locked is a small file that names who holds it. Raises FileExistsError, with that and what
    they are `doing` ("training into runs/a"), if one does.
    """
    file = Path(file)
    with file.open("a+") as lock:
        try:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read() or "another process"
            raise FileExistsError(
                f"{holder} is {doing}. Wait for it, or pass another folder."
            ) from None
        except OSError:
            pass  # some network disks know no locks
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


@contextmanager
def replacing(
    path: str | os.PathLike, *, marked: bool = False, flush: bool = True
) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it at the end of the block.

    After an error (a full disk, Ctrl-C) the temporary file is gone and an older `path` is unchanged;
    after the block the file is there even if the power fails, except without `flush`, for many small
    files. The suffix is kept, because Keras and matplotlib choose the format by it. `marked`: the
    checksum is put at the end of the name, for `find_marked`.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "notes.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("kept")
    >>> target.read_text()
    'kept'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stem, suffix = _split_suffix(path)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{suffix}")
    try:
        yield temporary
        if flush:
            _flush(temporary)
        name = f"{stem}-{checksum(temporary)}{suffix}" if marked else path.name
        os.replace(temporary, path.with_name(name))
        if flush:
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _split_suffix(path: Path) -> tuple[str, str]:
    suffix = "".join(path.suffixes[-2:])
    return path.name.removesuffix(suffix), suffix


def _flush(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, on the disk itself."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:  # a folder on a network's disk may refuse
        pass
    finally:
        os.close(number)


def checksum(path: str | os.PathLike) -> str:
    """The CRC-32 of a file's bytes, eight hexadecimal digits."""
    crc = 0
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def list_marked(path: str | os.PathLike) -> list[Path]:
    """The files that `replacing` has marked under the name of `path`, which may hold `*`."""
    stem, suffix = _split_suffix(Path(path))
    return sorted(Path(path).parent.glob(f"{stem}-{'[0-9a-f]' * 8}{suffix}"))


def find_marked(path: str | os.PathLike) -> Path | None:
    """The file that `replacing` has marked under the name of `path`, if it is whole.

    None where there is none; damage is logged.
    """
    for file in list_marked(path):
        if _split_suffix(file)[0].endswith(checksum(file)):
            return file
        _log.warning(f"{file} is damaged: its bytes are not those that were written")
    return None


def remove_temporary(folder: str | os.PathLike) -> None:
    """Remove what a process that was killed left of `replacing` in a folder that nobody else writes."""
    for file in Path(folder).glob(".*-*"):
        if file.is_file() and re.fullmatch(r"\..+-\d+(\.\w+){0,2}", file.name):
            file.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write UTF-8 text in one piece, see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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


def write_sealed(path: str | os.PathLike, values: dict) -> None:
    """Write a JSON object with its checksum, see `check_seal`."""
    write_json(path, values | {"checksum": _sum_of(values)})


def check_seal(values: dict, path: str | os.PathLike, *, remedy: str) -> None:
    """Raise ValueError where `values`, read from `path`, are not those that were sealed.

    Values without a checksum are taken as they are.
    """
    if values.get("checksum", found := _sum_of(values)) != found:
        raise ValueError(
            f"{path} is damaged or was changed by hand: its values are not those that were written. "
            f"{remedy}"
        )


def _sum_of(values: dict) -> str:
    values = {name: value for name, value in values.items() if name != "checksum"}
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"


def write_dataclass(path: str | os.PathLike, value: Any) -> None:
    """Write the fields of a dataclass as a JSON object with its checksum, see `write_json`."""
    write_sealed(path, asdict(value))


def read_dataclass(path: str | os.PathLike, kind: type[T], *, remedy: str) -> T:
    """The dataclass `kind` whose fields are in a JSON file; fields with a default may be missing.

    Nested dataclasses are read too, and lists become the tuples of their fields. Unknown keys are
    skipped. Raises FileNotFoundError, or ValueError, naming the file, the field and the remedy, for a
    file that is damaged, lacks a field or holds a value of another type or that `kind` refuses.
    """
    values = read_json(path, remedy=remedy)
    decoded = _decode(kind, values, str(path), remedy)
    check_seal(values, path, remedy=remedy)
    return decoded


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
