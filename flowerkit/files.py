"""Files that are written whole or not at all, and that show damage: a rename comes last.

A file carries its own checksum (CRC-32): JSON of a dataclass as its field "checksum", weights and other
binary files at the end of their name.
"""

import difflib
import errno
import itertools
import json
import logging
import os
import platform
import re
import reprlib
import shlex
import shutil
import tempfile
import types
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flowerkit.text import format_bytes, readable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

T = TypeVar("T")

_log = logging.getLogger("flowerkit")


@contextmanager
def locked(file: str | os.PathLike, doing: str) -> Iterator[None]:
    """Keep other processes out until the end of the block, or of this process however it ends.

    The file names who holds it. Raises FileExistsError, with that and what they are `doing` ("training
    into runs/a"), if one does.
    """
    file = Path(file)
    with file.open("a+") as lock:
        try:
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read() or "another process"
            message = f"{holder} is {doing}. Wait for it, or pass another folder."
            raise FileExistsError(message) from None
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
    make_folder(path.parent)
    stem, suffix = _split_suffix(path)
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{suffix}")
    try:
        with writing_to(path.parent):
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
    with suppress(OSError):  # a folder on a network's disk may refuse
        os.fsync(number)
    os.close(number)


def near_path(path: str | os.PathLike) -> str:
    """ " Did you mean runs/mine?" for a path that is not there, by what lies beside it, or nothing."""
    path = Path(path)
    with suppress(OSError):
        names = [] if path.exists() else os.listdir(path.parent)
        if near := difflib.get_close_matches(path.name, names, n=1):
            return f" Did you mean {path.parent / near[0]}?"
    return ""


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
    """Write UTF-8 text in one piece, see `replacing`; file names in it become `readable`."""
    with replacing(path) as temporary:
        temporary.write_text(readable(text), encoding="utf-8")


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


def write_sealed(path: str | os.PathLike, values: dict) -> None:
    """Write a JSON object with its checksum, see `check_seal`."""
    write_json(path, seal(values))


def seal(values: dict) -> dict:
    """`values`, ready for JSON, with their checksum."""
    return values | {"checksum": _sum_of(values)}


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
    if base in (tuple, list, Sequence) and isinstance(value, list):
        item = inner[0] if inner else Any
        items = [_convert(each, item, where, remedy) for each in value]
        return tuple(items) if base is tuple else items
    if base in (dict, Mapping) and isinstance(value, dict):
        item = inner[1] if inner else Any
        return {key: _convert(each, item, where, remedy) for key, each in value.items()}
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
    folder = Path(folder)
    try:
        yield
    except (OSError, RuntimeError) as error:
        number, file = getattr(error, "errno", None), getattr(error, "filename", None)
        if number is None and (found := re.search(r"errno = (\d+)", str(error))):  # HDF5's own
            number = int(found[1])
        if number in _FULL:
            raise _no_room(folder) from error
        is_elsewhere = file and not Path(file).is_relative_to(folder)
        if number not in _CLOSED or is_elsewhere:
            raise
        raise _cannot_write(folder, error, os.strerror(number)) from error


_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
_CLOSED += (errno.EFBIG, errno.EIO)


def _cannot_write(folder: Path, error: Exception, reason: str) -> OSError:
    kind = type(error) if isinstance(error, OSError) else OSError
    return kind(f"{folder} cannot be written to ({reason}). {_other_folder(folder)}.")


def _no_room(folder: Path, needed: str = "") -> OSError:
    free, remedy = format_bytes(_free_bytes(folder)), _other_folder(folder)
    return OSError(
        f"no room on the disk of {folder}: {needed}{free} are free. {remedy}, or make room."
    )


def _other_folder(folder: Path) -> str:
    if folder.absolute().is_relative_to(cache_folder().absolute()):
        return "Set the variable FLOWERKIT_CACHE to another folder"
    return "Pass another folder"


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(_nearest(folder)).free


def _nearest(folder: Path) -> Path:
    """`folder`, or the folder above it that is there."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def check_writable(folder: str | os.PathLike) -> None:
    """Raise OSError where `folder` cannot be made or nothing can be written into it; makes nothing."""
    folder = Path(folder)
    try:
        tempfile.TemporaryFile(dir=_nearest(folder)).close()
    except OSError as error:
        raise _cannot_write(folder, error, error.strerror or str(error)) from error


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


_URL = re.compile(r"(?i)(https?|ftp|gs|s3):/+(.+)")
_ARCHIVE = re.compile(r"(?i)(.*?)\.(?:(tar|tgz|tbz2|txz|tar\.(?:gz|bz2|xz|zst))|(zip|7z|rar))")


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
    if not (match := _ARCHIVE.fullmatch(os.path.basename(path))):
        return None
    archive, folder = shlex.quote(path), shlex.quote(match[1] or "photos")
    if match[2]:
        command = f"mkdir {folder} && tar -xf {archive} -C {folder}"
    elif match[3].lower() == "zip":
        names, is_korean = _read_zip(path)
        encoding = " --metadata-encoding cp949" if is_korean else ""
        tops = {name.partition("/")[0] for name in names} - {"__MACOSX"}
        if len(tops) == 1 and any(name.count("/") > 1 for name in names):
            # All is in a folder already.
            return f"Unpack it first, into {tops.pop()}: python -m zipfile{encoding} -e {archive} ."
        command = f"python -m zipfile{encoding} -e {archive} {folder}"
    else:
        command = f"7z x {archive} -o{folder}"
    return f"Unpack it first: {command}"


def _read_zip(path: str) -> tuple[list[str], bool]:
    """The names of the files in a zip, and if they read as Korean without being said to be UTF-8."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (OSError, ValueError, zipfile.BadZipFile):
        return [], False
    names = [info.filename for info in infos]
    try:
        old = [info.orig_filename for info in infos if not info.flag_bits & 0x800]
        old = [name.encode("cp437").decode("cp949") for name in old]
    except ValueError:
        return names, False
    if any("가" <= letter <= "힣" for name in old for letter in name):
        return old, True
    return names, False
