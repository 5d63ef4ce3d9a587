"""What work says while it goes on: log lines, progress, and frameworks that are kept quiet.

Everything is said through the logger "flowerkit", so that a program's own logging decides; only the live
line of a terminal is not.
"""

import contextlib
import functools
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import PathFinder
from typing import TextIO

from flowerkit.text import clean, format_seconds

Progress = Callable[[str, int, int], None]

SECONDS_A_LINE = 60.0  # where there is no terminal
LIVE_SECONDS = 0.2
_ERASE = "\r\x1b[K"
TF_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # TensorFlow's: 0 all, 1 no infos, 2 errors, 3 nothing

_log = logging.getLogger("flowerkit")


# Log lines ----------------------------------------------------------------------------------------


class CleanFormatter(logging.Formatter):
    """The message alone, without what a terminal obeys: names of files may hold that."""

    def formatMessage(self, record):
        record.message = clean(record.message)
        return super().formatMessage(record)


class LineHandler(logging.StreamHandler):
    """Writes log lines to the terminal, over the live line, and in a notebook below the cell."""

    def __init__(self, stream: TextIO | None = None):
        super().__init__(stream or sys.stderr)
        self.is_fixed = stream is not None
        self.setFormatter(CleanFormatter())

    def emit(self, record):
        if not self.is_fixed:  # as Python's handler of last resort: what is the stream now
            self.stream = sys.stdout if in_notebook() else sys.stderr
        if self.stream.isatty():
            self.stream.write(_ERASE)
        super().emit(record)


class _LibraryHandler(LineHandler):
    """Shows what the program's own logging does not show, and leaves the rest to it."""

    def emit(self, record):
        root = logging.getLogger()
        if root.handlers and record.levelno >= root.level:
            root.callHandlers(record)
        else:
            super().emit(record)


def shows_progress(function: Callable) -> Callable:
    """`function`, whose log lines and `progress` are shown, see `showing`."""

    @functools.wraps(function)
    def call(*args, progress: Progress | None = None, **options):
        with showing(progress) as shown:
            return function(*args, progress=shown, **options)

    return call


@contextlib.contextmanager
def showing(progress: Progress | None = None, *, speaks: bool = True) -> Iterator[Progress | None]:
    """Show log lines and progress of a call from Python, and yield `progress` or one of its own.

    Where the program has configured logging so that it shows flowerkit's lines, or has given the logger
    "flowerkit" a level or a handler, nothing is changed. Otherwise the infos go to stderr, in a notebook
    below the cell, and warnings where they went. Of several processes only one `speaks`.
    """
    if not speaks:
        yield progress
        return
    root, own = logging.getLogger(), ProgressLine() if progress is None else None
    has_own = bool(_log.level or _log.handlers or not _log.propagate)
    is_shown = has_own or (root.handlers and root.level <= logging.INFO)
    handler = None if is_shown else _LibraryHandler()
    try:
        if handler:
            _log.addHandler(handler)
            _log.setLevel(logging.INFO)
            _log.propagate = False
        yield own or progress
    finally:
        if own:
            own.stop()
        if handler:
            _log.removeHandler(handler)
            _log.setLevel(logging.NOTSET)
            _log.propagate = True


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


# Progress -----------------------------------------------------------------------------------------


class ProgressLine:
    """How much is done, with rate and time left: a live line on a terminal, elsewhere a line a minute.

    Called with (description, done, total); on a terminal the line vanishes when done is total, `stop` is
    called or another description begins. Elsewhere, in a notebook, a pipe or a file, lines are logged.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream
        self.description: str | None = None
        self.is_drawn = False

    def __call__(self, description: str, done: int, total: int) -> None:
        """Show how much is done."""
        now = time.monotonic()
        if description != self.description:
            self.stop()
            self.description, self.start, self.shown = description, (now, done), now
        if done >= total:
            self.stop()
        elif not _log.isEnabledFor(logging.INFO):
            return
        elif self._is_live():
            if not self.is_drawn or now - self.shown >= LIVE_SECONDS:
                self._draw(self._describe(now, done, total))
                self.shown = now
        elif now - self.shown >= SECONDS_A_LINE:
            _log.info(self._describe(now, done, total))
            self.shown = now

    def stop(self) -> None:
        """Remove the live line."""
        if self.is_drawn:
            self._stream().write(_ERASE)
            self._stream().flush()
        self.description, self.is_drawn = None, False

    def _describe(self, now: float, done: int, total: int) -> str:
        text = f"{self.description}: {done:,} of {total:,}"
        seconds, num = now - self.start[0], done - self.start[1]
        if num <= 0 or seconds <= 0:
            return text
        rate = num / seconds
        return f"{text}, {rate:,.3g}/s, {format_seconds((total - done) / rate)} left"

    def _draw(self, text: str) -> None:
        columns = shutil.get_terminal_size().columns
        self._stream().write(_ERASE + clean(text)[: columns - 1])
        self._stream().flush()
        self.is_drawn = True

    def _is_live(self) -> bool:
        return self._stream().isatty() and os.environ.get("TERM") != "dumb"

    def _stream(self) -> TextIO:
        return self.stream or sys.stderr


# Frameworks ---------------------------------------------------------------------------------------

# How absl, and TensorFlow before it, begin a line: I0000 00:00:..., 2026-11-27 05:06:07.8: W ...
_CPP_LINE = re.compile(
    rb"[IWE]\d{4} |\d{4}-\d\d-\d\d [\d:.]+: [IWE] |WARNING: All log messages before absl"
    rb"|To enable the following instructions:|Skipping registering GPU devices"
)
_quiet = threading.Lock()


@contextlib.contextmanager
def quiet_frameworks() -> Iterator[None]:
    """Drop the log lines that C++ writes while frameworks are imported and started, unless that fails.

    They are dropped at Ctrl-C, and where a file or a value was wrong, too: there they would explain
    nothing. What else is written to stderr meanwhile is written at the end. After this TensorFlow writes
    its errors alone. Where the user has asked for more, by TF_CPP_MIN_LOG_LEVEL=0 or 1, nothing is held
    back.
    """
    os.environ[TF_LOG_LEVEL] = os.environ.get(TF_LOG_LEVEL) or "2"
    if os.environ[TF_LOG_LEVEL] in ("0", "1") or not _quiet.acquire(blocking=False):
        yield
        return
    try:
        with _holding_back():
            yield
    finally:
        _quiet.release()


class _QuietImport:
    """Has `import tensorflow`, whoever does it, run within `quiet_frameworks`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target=None):
        spec = PathFinder.find_spec(name, path) if name == "tensorflow" else None
        if spec and spec.loader:
            spec.loader.exec_module = quiet_frameworks()(spec.loader.exec_module)
        return spec


def quiet_imports(*, has_gpu: bool) -> None:
    """Keep TensorFlow quiet from its import on; without a GPU that it misses one, too (level 3).

    Nothing changes where it is imported already.
    """
    if "tensorflow" not in sys.modules and _QuietImport not in sys.meta_path:
        sys.meta_path.insert(0, _QuietImport)
        os.environ[TF_LOG_LEVEL] = os.environ.get(TF_LOG_LEVEL) or ("2" if has_gpu else "3")


@contextlib.contextmanager
def _holding_back() -> Iterator[None]:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there may be no stderr
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # a service without one
        yield
        return
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        is_explained = True
        try:
            yield
        except (KeyboardInterrupt, OSError, ValueError):
            raise
        except BaseException:
            is_explained = False
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            noise.seek(0)
            lines = noise.read().splitlines(keepends=True)
            os.write(2, b"".join(x for x in lines if not (is_explained and _CPP_LINE.match(x))))
