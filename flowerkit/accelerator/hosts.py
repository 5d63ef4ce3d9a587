"""Several hosts that train one model, joined by JAX: what host 0 tells the others, and any of them all.

All do the same in the same order, each for its own rows of a batch; what could differ between them, the
time and what is on disk, is host 0's. A signal to one host stops all after the same step; a host that
fails, or is lost, ends all.
"""

import collections
import contextlib
import itertools
import json
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flowerkit.accelerator.meeting import HostSetup, NotJoined, describe_failure, meet
from flowerkit.text import pluralize

JOIN_SECONDS = 300
LOST_SECONDS = 30  # without a heartbeat
_ONE_DAY_MS = 24 * 3600 * 1000  # host 0 may be busy for long, and JAX ends all if it is lost
_KEPT_MESSAGES = 1000  # steps keep hosts closer together than that
_LISTEN_SECONDS = 0.5
_GRACE_SECONDS = 2  # for a host that ends by itself, as where all find the same fault
_ENDING_SECONDS = 10


class _Job:
    """The hosts that this process has joined. `together`: they train now, with one mesh for all."""

    def __init__(self, client, count: int, index: int):
        self.client, self.count, self.index = client, count, index
        self.numbers = itertools.count()
        self.names: collections.deque[str] = collections.deque()
        self.together = False
        self.listener: _Listener | None = None
        self.scratch = tempfile.TemporaryDirectory(prefix="flowerkit-host-")
        # Keras's distributions over all devices and over this host's
        self.joint = self.alone = None


_job: _Job | None = None


def has_joined() -> bool:
    """Whether JAX has been joined to other processes, by flowerkit or by the user's own code."""
    import jax

    return jax.distributed.is_initialized()


def join(setup: HostSetup | None, *, timeout_seconds: int = JOIN_SECONDS) -> None:
    """Join the other hosts, before JAX starts a device; None: JAX has joined them already.

    Raises NotJoined where they do not all come, or were started with another number of hosts.
    """
    import jax

    # What hosts with CPUs alone compute together; it is the default of newer versions only.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if not has_joined():
        if setup.coordinator:
            meet(setup, timeout_seconds)
        try:
            jax.distributed.initialize(
                setup.coordinator,
                setup.count,
                setup.index,
                initialization_timeout=timeout_seconds,
                heartbeat_timeout_seconds=LOST_SECONDS,
            )
        except Exception as error:  # of many kinds
            raise NotJoined(describe_failure(setup, error, timeout_seconds)) from error
    _use_joined(setup.count if setup else None)


def _use_joined(num_hosts: int | None) -> None:
    global _job
    from jax._src.distributed import global_state as state

    if state.num_processes == 1:
        return
    _job = _Job(state.client, state.num_processes, state.process_id)
    if threading.current_thread() is threading.main_thread():  # JAX has taken it, and only warns
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    first_count = broadcast(num_hosts or _job.count)
    if first_count != (num_hosts or _job.count):
        raise NotJoined(
            f"host 0 was started for {pluralize(first_count, 'host')}, host {_job.index} for "
            f"{num_hosts}. Start all with the same --num-hosts."
        )


def count() -> int:
    """How many hosts were joined; 1 without others."""
    return _job.count if _job else 1


def index() -> int:
    """Which of them this process is, from 0."""
    return _job.index if _job else 0


def is_first() -> bool:
    """Whether this is host 0, which alone writes and speaks."""
    return index() == 0


def are_together() -> bool:
    """Whether this process is one of several hosts that train one model now."""
    return bool(_job and _job.together)


def scratch() -> Path:
    """A folder of this process, for what host 0 keeps and others need for a while; gone at the end."""
    folder = Path(_job.scratch.name)
    folder.mkdir(exist_ok=True)
    return folder


def own_rows(num_rows: int) -> slice:
    """The rows of a batch of `num_rows` that this host makes: all, unless hosts train together."""
    if not are_together():
        return slice(0, num_rows)
    return slice(num_rows * _job.index // _job.count, num_rows * (_job.index + 1) // _job.count)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Train one model on all hosts: variables lie on all devices, and `broadcast` reaches everybody.

    Outside, each host has its own devices alone.
    """
    if _job is None or _job.together:
        yield
        return
    import keras

    keras.distribution.set_distribution(_job.joint)
    _job.together = True
    try:
        yield
    finally:
        _job.together = False
        keras.distribution.set_distribution(_job.alone)


def broadcast(value: Any) -> Any:
    """Host 0's `value`, of what JSON can hold, on every host: all must ask for it, in the same order."""
    if _job is None:
        return value
    name = f"flowerkit/{next(_job.numbers)}"
    if _job.index:
        return json.loads(_job.client.blocking_key_value_get(name, _ONE_DAY_MS))
    _job.client.key_value_set(name, json.dumps(value))
    _job.names.append(name)
    if len(_job.names) > _KEPT_MESSAGES:
        _job.client.key_value_delete(_job.names.popleft())
    return value


def now() -> float:
    """Host 0's `time.monotonic()`: what is decided by time is decided alike on every host."""
    return broadcast(time.monotonic())


def on_first(function: Callable[[], Any]) -> Any:
    """What `function()` gives on host 0, the only one that calls it; its error is raised on all."""
    value = message = error = None
    if is_first():
        try:
            value = function()
        except (OSError, ValueError, RuntimeError) as caught:
            error, message = caught, str(caught)
    if message := broadcast(message):
        raise error or RuntimeError(f"host 0: {message}")
    return broadcast(value)


def check_same(value: Any, what: str) -> None:
    """Raise ValueError on a host where `value`, of what JSON can hold, is not as on host 0."""
    if _job is None:
        return
    first, value = broadcast(value), json.loads(json.dumps(value))
    if first != value:
        if isinstance(value, dict):
            differing = [name for name in value if first.get(name) != value[name]]
            first, value = ({name: each.get(name) for name in differing} for each in (first, value))
        raise ValueError(
            f"host {index()} has other {what} than host 0: {value}, host 0: {first}. Give all hosts "
            f"the same."
        )


def copy_from_first(source: Path, target: Path) -> None:
    """Write the files of host 0's folder `source` and of the folders in it to `target` on the others."""
    import numpy as np
    from jax.experimental.multihost_utils import broadcast_one_to_all

    files = sorted(source.glob("*")) + sorted(source.glob("*/*")) if is_first() else []
    files = [file for file in files if file.is_file()]
    sizes = broadcast([(str(file.relative_to(source)), file.stat().st_size) for file in files])
    for name, size in sizes:
        content = (source / name).read_bytes() if is_first() else bytes(size)
        content = broadcast_one_to_all(np.frombuffer(content, "uint8")).astype("uint8")
        if not is_first():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(content)


def gather(array) -> Any:
    """All rows of what JAX computed of a batch, a NumPy array on every host."""
    import numpy as np

    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(array, tiled=True)


def wait_for_all() -> None:
    """Return when every host has come here; at once where there are no others."""
    if _job:
        _job.client.wait_at_barrier(f"flowerkit/{next(_job.numbers)}", _ONE_DAY_MS)


def leave() -> None:
    """Part from the others when every host has come here; what follows is done alone."""
    global _job
    if _job:
        import jax

        wait_for_all()
        if _job.listener:
            _job.listener.stop()
        jax.distributed.shutdown()
        _job = None


def first_then_others(function: Callable[[], Any]) -> Any:
    """What `function()` gives, called on host 0, and then on the others: they find what it left."""
    if not is_first():
        wait_for_all()
    value = function()
    if is_first():
        wait_for_all()
    return value


# What any host may say, at any time ---------------------------------------------------------------


def _abort(sentence: str) -> None:
    """End this process as JAX does where another host is lost."""
    logging.getLogger("flowerkit").error(sentence)
    os.abort()


@contextlib.contextmanager
def listening(end: Callable[[str], None] = _abort) -> Iterator[None]:
    """Hear of the other hosts what none of them waits to be told; all enter it in the same order.

    That is a signal, see `tell_signal`, and that a host has left the block by an error: `end(sentence)`
    is then called in a thread of every other host, unless that leaves it by an error, too. It must end
    the process, which may wait for that host for ever. Within such a block another changes nothing.
    """
    if _job is None or _job.listener:
        yield
        return
    job = _job
    job.listener = listener = _Listener(job, end)
    try:
        yield
    except BaseException as error:
        listener.stop()
        listener.say("error", str(error) or "it was interrupted")
        listener.wait_for_others()
        job.scratch.cleanup()  # the process may end without it
        raise
    finally:
        listener.stop()
        job.listener = None


def tell_signal(name: str) -> None:
    """Have `heard_signal` give `name` on all hosts soon."""
    _job.listener.say("signal", name)


def heard_signal() -> str | None:
    """The signal that any host has received, as host 0 knows of it: see `broadcast`."""
    return broadcast(_job.listener.signal)


class _Listener(threading.Thread):
    """Reads every half second what hosts have said."""

    def __init__(self, job: _Job, end: Callable[[str], None]):
        super().__init__(name="flowerkit-hosts", daemon=True)
        self.job, self.end, self.place = job, end, f"flowerkit/{next(job.numbers)}"
        self.signal: str | None = None
        self.is_over = threading.Event()
        self.start()

    def say(self, kind: str, text: str) -> None:
        """Leave a message for the listeners of all hosts, this one's, too."""
        with contextlib.suppress(RuntimeError):  # said already, or host 0 is gone
            message = json.dumps([kind, self.job.index, text])
            self.job.client.key_value_set(f"{self.place}/{self.job.index}-{kind}", message)

    def run(self) -> None:
        while not self.is_over.wait(_LISTEN_SECONDS):
            try:
                messages = self.job.client.key_value_dir_get(f"{self.place}/")
            except RuntimeError:  # host 0 is gone, and JAX will end this process
                return
            for _, message in messages:
                kind, host, text = json.loads(message)
                if kind == "signal":
                    self.signal = text
                elif not self.is_over.wait(_GRACE_SECONDS):
                    self.wait_for_others()
                    self.job.scratch.cleanup()  # the process ends without it
                    self.end(
                        f"host {self.job.index} of {self.job.count} ends, because host {host} did: "
                        f"{text.rstrip('.')}. Start all again; with --resume and the same --out a run "
                        f"goes on after its last whole epoch."
                    )

    def wait_for_others(self) -> None:
        """Let all hosts hear before one ends: with host 0 ends what messages go through."""
        with contextlib.suppress(RuntimeError):
            self.job.client.wait_at_barrier(self.place, 1000 * _ENDING_SECONDS)

    def stop(self) -> None:
        """Listen no more."""
        self.is_over.set()
        if threading.current_thread() is not self:
            self.join()


# Devices ------------------------------------------------------------------------------------------


def divide_devices(devices: list) -> None:
    """Have Keras use this host's devices, and all of them while hosts train `together`.

    `devices` are JAX's, of all hosts. Raises NotJoined where hosts have different numbers of them.
    """
    import keras

    def name(device) -> str:
        return f"{device.platform}:{device.id}"

    # A host's rows are beside each other in a batch, so its devices must be in the mesh.
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    own = [name(each) for each in devices if each.process_index == index()]
    if _job is None:
        if len(own) > 1:
            keras.distribution.set_distribution(keras.distribution.DataParallel(devices=own))
        return
    numbers = collections.Counter(device.process_index for device in devices)
    if len(set(numbers.values())) > 1 or len(numbers) != _job.count:
        listed = ", ".join(str(numbers[host]) for host in range(_job.count))
        raise NotJoined(f"all hosts need as many devices as the others. Received: {listed}")
    _place_without_asking()
    _job.joint = keras.distribution.DataParallel(devices=[name(each) for each in devices])
    _job.joint._is_multi_process = False  # Keras would divide batches that are divided already
    _job.alone = keras.distribution.DataParallel(devices=own) if len(own) > 1 else None
    keras.distribution.set_distribution(_job.alone)


def _place_without_asking() -> None:
    """Let a host put a value on its devices alone, where Keras has JAX compare it with all others'.

    All hosts assign the same values. Host 0 may be asked for one, and a comparison for each variable
    would cost a message.
    """
    import jax
    import numpy as np
    from keras.src.backend.jax import distribution_lib

    place = distribution_lib.distribute_tensor

    def distribute_tensor(tensor, layout):
        sharding = getattr(layout, "backend_layout", layout)
        if isinstance(tensor, jax.core.Tracer) or sharding.is_fully_addressable:
            return place(tensor, layout)
        if isinstance(tensor, jax.Array) and not tensor.is_fully_addressable:
            return tensor
        return jax.make_array_from_process_local_data(sharding, np.asarray(tensor))

    distribution_lib.distribute_tensor = distribute_tensor
