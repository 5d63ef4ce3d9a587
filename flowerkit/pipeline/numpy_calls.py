"""Python that TensorFlow's threads call, and the end of the program.

An iterator that is there when Python goes away waits for its threads, and these for Python's lock,
which nobody hands out any more: the program hangs or is aborted. It takes no more than a variable of
a script, or the traceback of a training that was interrupted. So the exit waits until no thread is in
Python: nobody takes batches by then, and the buffers are soon full.
"""

import atexit
import functools
import threading
import time
from collections.abc import Callable, Sequence

import tensorflow as tf

_MAX_EXIT_SECONDS = 5.0
_LOOK_SECONDS = 0.01
_QUIET_LOOKS = 5  # a thread that waits for the lock is seen when it gets it

_inside: set[int] = set()


def call_numpy(function: Callable, inputs: Sequence, dtypes: Sequence) -> list[tf.Tensor]:
    """`tf.numpy_function`, without the hang at the end: tensors of `dtypes`, of unknown shapes."""

    @functools.wraps(function)
    def watched(*arrays):
        me = threading.get_ident()
        _inside.add(me)
        try:
            return function(*arrays)
        finally:
            _inside.discard(me)

    _wait_at_exit()
    return tf.numpy_function(watched, list(inputs), list(dtypes))


@functools.cache
def _wait_at_exit() -> None:
    """Once, by whoever calls Python: a program that never does ends at once."""
    atexit.register(_wait_until_quiet)


def _wait_until_quiet() -> None:
    quiet, end = 0, time.monotonic() + _MAX_EXIT_SECONDS
    while quiet < _QUIET_LOOKS and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        quiet = 0 if _inside else quiet + 1
