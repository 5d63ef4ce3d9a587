"""The command line: parse, run, print. The only module that prints errors or exits."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence

from flowerkit.accelerator import (
    BACKENDS,
    collect_evidence,
    detect,
    hosts,
    is_compiling,
    is_out_of_memory,
)
from flowerkit.cli import WrongUsage, load_function, parse, start_log
from flowerkit.console import ProgressLine
from flowerkit.text import clean

# Python drops what is raised in them: the signal has to come again. JAX's is called at each collection.
_DROPPING = ("_xla_gc_callback", "__del__")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed or problems found, 2 wrong usage."""
    started = time.monotonic()
    args = parse(sys.argv[1:] if argv is None else argv)
    args.started, args.words = started, list(sys.argv[1:] if argv is None else argv)
    start_log()
    progress = ProgressLine()
    numbers = (signal.SIGTERM, signal.SIGINT)  # in training, the run has its own handlers
    before = {each: signal.getsignal(each) for each in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    try:
        status = load_function(args.command, "run_{}")(args, _echo, progress)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _fail("flowerkit: interrupted", progress)
    except BrokenPipeError:  # the reader, `| head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # a sentence comes first; --debug shows the rest
        if args.debug:
            raise
        if isinstance(error, WrongUsage):
            return _fail(f"flowerkit {args.command}: {_in_options(error)}", progress, status=2)
        return _fail(f"flowerkit: {_describe(error)}", progress)
    finally:
        progress.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(signum, frame):
    """End the command at Ctrl-C and SIGTERM."""
    while frame is not None:
        if frame.f_code.co_name in _DROPPING:
            threading.Timer(0.1, os.kill, (os.getpid(), signum)).start()
            return
        frame = frame.f_back
    signal.signal(signum, signal.SIG_DFL)  # a second one ends at once
    raise KeyboardInterrupt


def _echo(line: str) -> None:
    print(clean(line), flush=True)  # a run can take hours


def _fail(line: str, progress: ProgressLine, status: int = 1) -> int:
    progress.stop()
    print(clean(line), file=sys.stderr)
    return status


def _describe(error: Exception) -> str:
    """One line of an error; frameworks write pages."""
    if isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] in BACKENDS:
        problem = detect(collect_evidence()).problem  # of a command that starts no device
        error = RuntimeError(problem) if problem else error
    if type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and hosts.count() > 1:
        error = RuntimeError(
            f"host {hosts.index()} of {hosts.count()} lost the others, whose output may say why "
            f"({str(error).splitlines()[0][:200]}). Start all again with --resume and the same --out."
        )
    if is_out_of_memory(error):
        remedy = "Pass a smaller --per-replica-batch or --input-size."
        error = RuntimeError(f"the device has too little memory. {remedy}\n{error}")
    first, *more = _in_options(error).strip().splitlines() or ["no details"]
    if isinstance(error, ModuleNotFoundError):
        first += ". Install it; `flowerkit doctor` lists what else is missing."
    if not isinstance(error, (ValueError, OSError, RuntimeError)):
        first = f"{type(error).__name__}: {first}"
    return first + (" (--debug shows the rest)" if more else "")


def _in_options(error: Exception) -> str:
    """The words of the command line where a message has those of Python, too.

    "Pass image_size=64 (--image-size 64)" as "Pass --image-size 64".
    """
    return re.sub(r"\b(?:\w+=\S*|None|\w+_\w+) \((--[a-z][^()]*)\)", r"\1", str(error))


def run() -> None:
    """`main` as a process of its own, which ends with its exit status.

    An interpreter that ends normally waits for threads, and a compilation that is of no use any more
    can take minutes; and for other hosts, which after a failure end with this one.
    """
    status = main()
    if hosts.count() > 1 or ("jax" in sys.modules and is_compiling()):
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
