"""What a person sees while they wait: log lines, one progress line, and no noise of frameworks."""

import contextlib
import logging
import os
import sys
import tempfile
import time


def start_log() -> None:
    """The library's log lines go to the terminal, also while the frameworks are being quieted."""
    if logging.getLogger().hasHandlers():
        return
    stream = open(os.dup(2), "w", buffering=1)  # noqa: SIM115 - open as long as the process
    # On a terminal a line may meet the progress line: erase that first.
    erase = "\r\x1b[K" if stream.isatty() else ""
    logging.basicConfig(format=f"{erase}%(message)s", stream=stream)
    logging.getLogger("flowerkit").setLevel(logging.INFO)


class ProgressLine:
    """One line on a terminal that is written over: how far, how fast, how long still. Else nothing."""

    def __init__(self):
        self.what, self.shown_at = None, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        now = time.monotonic()
        if what != self.what:
            self.what, self.start, self.done_at_start = what, now, done
        if done == total:
            _write_over("")
        elif now - self.shown_at > 0.2:
            self.shown_at = now
            # The first step traces and compiles: the rate is that of the steps after it.
            rate = (done - self.done_at_start) / (now - self.start) if now > self.start else 0
            left = f"{rate:,.1f}/s, {(total - done) / rate:,.0f} s left" if rate else "starting"
            _write_over(f"{what}: {done:,} of {total:,}, {left}")


def _write_over(text: str) -> None:
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


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
