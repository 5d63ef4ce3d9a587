"""Progress bars, log lines, the device's line, and silent frameworks."""

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from flowerkit.accelerator import Accelerator, connect, hosts, keep_compilations
from flowerkit.text import clean

Echo = Callable[[str], None]
Progress = Callable[[str, int, int], None]


def start_log() -> None:
    """Send the library's log lines to the terminal, also while `quiet_frameworks` is active."""
    if logging.getLogger().hasHandlers():
        return
    stream = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115 - open as long as the process
    erase = "\r\x1b[K" if stream.isatty() else ""  # a progress bar may be on the line
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_CleanFormatter(f"{erase}%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("flowerkit").setLevel(logging.INFO)


class _CleanFormatter(logging.Formatter):
    """Names of files may hold what a terminal obeys."""

    def formatMessage(self, record):
        record.message = clean(record.message)
        return super().formatMessage(record)


class ProgressBar:
    """A bar with count, rate and time left on stderr or in a notebook; nothing where it is a file.

    Called with (description, done, total); each description has its own bar, which vanishes when
    done is total or `stop` is called.
    """

    def __init__(self):
        self._bar = self._description = None

    def __call__(self, description: str, done: int, total: int) -> None:
        """Show how much is done."""
        if description != self._description:
            self.stop()
            self._bar, self._description = self._start(description, total), description
        self._bar.update(0, completed=done, total=total)
        if done >= total:
            self.stop()

    def stop(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
        self._bar = self._description = None

    @staticmethod
    def _start(description: str, total: int):
        from rich import progress
        from rich.console import Console

        class Rate(progress.ProgressColumn):
            def render(self, task):
                return f"{task.speed:,.1f}/s" if task.speed else "starting"

        console = Console(stderr=True)
        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            Rate(),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not (console.is_terminal or console.is_jupyter),
        )
        bar.add_task(description, total=total)
        bar.start()
        return bar


def connect_device(
    require: str | None, echo: Echo, precision: str = "auto", compile_cache: Path | None = None
) -> Accelerator:
    """Start the device, print its line, and use `compile_cache` for what JAX compiles.

    Raises RuntimeError where SLURM or another launcher has started several processes.
    """
    if setup := hosts.find_hosts(os.environ):
        raise RuntimeError(
            f"{setup.found} says that there are {setup.count} processes, and of the commands only "
            f"train runs in several. Start one (with SLURM: srun --ntasks=1)."
        )
    with quiet_frameworks():
        accelerator = connect(require, precision=precision)
    _introduce(accelerator, echo, compile_cache)
    return accelerator


def _introduce(accelerator: Accelerator, echo: Echo, compile_cache: Path | None) -> None:
    echo(str(accelerator))
    if compile_cache is not None:
        if accelerator.backend == "jax":
            keep_compilations(compile_cache)
        else:
            echo("--compile-cache has no effect: only JAX keeps what it compiles")


@contextlib.contextmanager
def connect_hosts(
    args, echo: Echo, progress: Progress
) -> Iterator[tuple[Accelerator, Echo, Progress | None]]:
    """Start the device, join other hosts if there are any, and part from them at the end of the block.

    (the device, echo, progress): host 0 alone speaks.
    """
    with quiet_frameworks():
        accelerator = connect(
            args.require,
            precision=args.precision,
            coordinator=args.coordinator,
            num_hosts=args.num_hosts,
            host=args.host,
        )
    if not hosts.is_first():
        echo, progress = (lambda line: None), None
        logging.getLogger("flowerkit").setLevel(logging.ERROR)
    _introduce(accelerator, echo, args.compile_cache)
    with _last_words() if hosts.count() > 1 else contextlib.nullcontext():
        yield accelerator, echo, progress
        hosts.leave()


_SPEAK_AT_THE_END = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"


@contextlib.contextmanager
def _last_words():
    """Have another process say what happened if JAX aborts this one, as when a host is lost."""
    sentence = (
        f"flowerkit: host {hosts.index()} of {hosts.count()} was ended, because a host was lost; its "
        f"own output may say why. Start all again with --resume and the same --out; their number may "
        f"change."
    )
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SPEAK_AT_THE_END, sentence],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        yield
    finally:
        watcher.communicate(b"done")


@contextlib.contextmanager
def quiet_frameworks():
    """Hold back what C++ writes while frameworks are imported and started; show it if that fails.

    Not at Ctrl-C, and not where a file or a value was wrong: there it would explain nothing.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = os.environ.get("TF_CPP_MIN_LOG_LEVEL") or "3"
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        try:
            yield
        except (KeyboardInterrupt, OSError, ValueError):
            raise
        except BaseException:
            noise.seek(0)
            os.write(kept, noise.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
