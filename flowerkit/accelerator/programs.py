"""Programs of JAX: traced as soon as their shapes are known, compiled in threads, each once.

XLA compiles without Python's lock, so that data are read and other programs are traced meanwhile.
"""

import contextlib
import gc
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from hashlib import sha256
from pathlib import Path

from flowerkit.accelerator import hosts
from flowerkit.accelerator.machine import num_cores
from flowerkit.files import cache_folder, make_folder
from flowerkit.text import format_seconds

_log = logging.getLogger("flowerkit")

MOST_AT_ONCE = 4  # compilations; each uses several cores now and then
# On Kaggle the files of a run are fetched one by one, so that only what took long is kept.
KEPT_ON_KAGGLE_SECONDS = 0.5


class Program:
    """What JAX makes of `function` for arguments like `args`, trees of arrays and of `batch_spec`s.

    Making one traces the function, here and now, and begins to compile it; calling it waits for that
    and raises its error. Programs that XLA cannot tell apart share a compilation. `donate`: the numbers
    of arguments whose memory the outputs take over. `out_shardings` are those of `jax.jit`.

    A call with other shapes, or arrays that lie on other devices, raises TypeError or ValueError.
    """

    def __init__(
        self, name: str, function: Callable, *args, donate: tuple[int, ...] = (), out_shardings=None
    ):
        import jax

        jitted = jax.jit(function, donate_argnums=donate, out_shardings=out_shardings)
        with without_garbage_collection():
            lowered = jitted.lower(*args)
        self._compilation = _compiler.begin(name, lowered)
        self._was_called = False

    def __call__(self, *args):
        execute = self._compilation.result()
        if not self._was_called and hosts.are_together():
            hosts.wait_for_all()  # what they compute together waits for no host that still compiles
        self._was_called = True
        return execute(*args)

    @property
    def seconds(self) -> float:
        """How long compiling took; 0 while it goes on."""
        return self._compilation.seconds


def keep_compilations(folder: Path | None = None) -> None:
    """Let JAX keep what it compiles in `folder` and find it there in the next run, elsewhere, too.

    None: where the user's own settings of JAX say, else in the cache folder. On Kaggle that is compiled/
    among the outputs, and begins with what an attached data set holds.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    # Short ones too: fresh weights of each shape are a program, DenseNet121's 7 seconds in all.
    shortest_seconds = 0.0
    if folder is None:
        if jax.config.jax_compilation_cache_dir is not None:
            return
        folder = cache_folder() / "compiled"
        if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
            root = Path(os.environ.get("FLOWERKIT_KAGGLE_ROOT") or "/kaggle")
            folder = make_folder(root / "working" / "compiled")
            shortest_seconds = KEPT_ON_KAGGLE_SECONDS
            for depth in range(1, 5):  # of a mounted data set and a folder in it
                for file in root.glob("input/" + "*/" * depth + "jit_*-cache"):
                    with contextlib.suppress(OSError):
                        shutil.copyfile(file, folder / file.name)
    else:
        make_folder(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest_seconds)
    compilation_cache.reset_cache()  # JAX opens a folder once


def wait_for_programs() -> None:
    """Return when all that was begun is compiled: what is timed now is not disturbed by it."""
    wait(_compiler.waiting())


def is_compiling() -> bool:
    """Whether threads compile; the process cannot end normally before they are done."""
    return bool(_compiler.waiting())


def batch_spec(shape: tuple[int, ...], dtype: str):
    """What `Program` must know of a batch: shape, dtype, and how Keras's distribution divides it."""
    import jax
    import keras
    import numpy as np

    distribution, sharding = keras.distribution.distribution(), None
    if distribution is not None:
        thin = np.zeros((shape[0], *[1] * (len(shape) - 1)), "uint8")
        layout = distribution.get_data_layout(thin.shape)
        sharding = keras.distribution.distribute_tensor(thin, layout).sharding
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


class _Compilation:
    """An executable that a thread makes, or whoever needs it before a thread is free."""

    def __init__(self, name: str, lowered):
        self.name, self.seconds, self.was_cached = name, 0.0, False
        self._lowered, self._executable = lowered, None
        self._lock = threading.Lock()

    def result(self):
        """The executable."""
        with self._lock:
            if self._executable is None:
                start, _seen.hit = time.perf_counter(), False
                self._executable = self._lowered.compile()
                self.seconds, self.was_cached = time.perf_counter() - start, _seen.hit
                self._lowered = None
        return self._executable


class _Compiler:
    """Compiles each text once, in threads; when all that was begun is done, a log line tells of it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._known: weakref.WeakValueDictionary[str, _Compilation] = weakref.WeakValueDictionary()
        self._waiting: dict[_Compilation, Future] = {}
        self._done: list[_Compilation] = []

    def begin(self, name: str, lowered) -> _Compilation:
        key = sha256(lowered.as_text().encode()).hexdigest()
        with self._lock:
            if (known := self._known.get(key)) is not None:
                return known
            self._known[key] = compilation = _Compilation(name, lowered)
            if self._threads is None:
                import jax

                jax.monitoring.register_event_listener(_listen)
                num_threads = max(1, min(MOST_AT_ONCE, num_cores() // 2))
                self._threads = ThreadPoolExecutor(num_threads, "flowerkit-compile")
            self._waiting[compilation] = self._threads.submit(self._compile, compilation)
        return compilation

    def waiting(self) -> list[Future]:
        with self._lock:
            return list(self._waiting.values())

    def _compile(self, compilation: _Compilation) -> None:
        compiled, done = [], []
        try:
            compilation.result()
            compiled = [compilation]
        finally:
            with self._lock:
                del self._waiting[compilation]
                self._done += compiled
                if not self._waiting:
                    done, self._done = self._done, []
            if done:
                _log.info(_describe(done))


_seen = threading.local()  # JAX tells of its cache in the thread that compiles


def _listen(event: str, **_) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _seen.hit = True


def _describe(done: list[_Compilation]) -> str:
    import jax

    parts = ", ".join(f"{each.name} {format_seconds(each.seconds)}" for each in done)
    if not (folder := jax.config.jax_compilation_cache_dir):
        return f"compiled: {parts}; no cache keeps it"
    hits = sum(each.was_cached for each in done)
    return f"compiled: {parts}; {hits} of {len(done)} found in the cache {folder}"


_compiler = _Compiler()


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Tracing makes millions of objects that all stay alive; scanning them takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
