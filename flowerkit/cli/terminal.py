"""Log lines, the device's line, and the last words of a host that is ended."""

import argparse
import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from flowerkit.accelerator import Accelerator, connect, find_hosts, hosts, keep_compilations
from flowerkit.console import LineHandler, Progress
from flowerkit.text import clean

Echo = Callable[[str], None]


def start_log() -> None:
    """Send the library's log lines to the terminal, also while `quiet_frameworks` is active."""
    if logging.getLogger().hasHandlers():
        return
    stream = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115 - open as long as the process
    logging.basicConfig(handlers=[LineHandler(stream)])
    logging.getLogger("flowerkit").setLevel(logging.INFO)


def connect_device(args: argparse.Namespace, echo: Echo) -> Accelerator:
    """Start the device as the options of `add_device` say, and print its line.

    Raises RuntimeError where SLURM or another launcher has started several processes.
    """
    if setup := find_hosts(os.environ):
        raise RuntimeError(
            f"{setup.found} says that there are {setup.count} processes, and of the commands only "
            f"train runs in several. Start one (with SLURM: srun --ntasks=1)."
        )
    accelerator = connect(args.require, precision=args.precision)
    _introduce(accelerator, echo, args.compile_cache)
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
    if hosts.count() == 1:
        yield accelerator, echo, progress
        return
    with _last_words() as end, hosts.listening(end):
        yield accelerator, echo, progress
        hosts.leave()


_SPEAK_AT_THE_END = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"


@contextlib.contextmanager
def _last_words() -> Iterator[Callable[[str], None]]:
    """Have another process say what happened if JAX aborts this one, as when a host is lost.

    The function of the block ends this process with other words.
    """
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

    def end(sentence: str) -> None:
        watcher.communicate(b"done")
        print(clean(f"flowerkit: {sentence}"), file=sys.stderr, flush=True)
        os._exit(1)

    try:
        yield end
    finally:
        watcher.communicate(b"done")
