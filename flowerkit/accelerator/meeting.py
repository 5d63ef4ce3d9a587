"""How a host knows that there are several and which it is, and how all meet before JAX joins them.

Where they do not all come, or do not fit each other, JAX aborts without a word: so they meet at the
coordinator's address first.
"""

import contextlib
import itertools
import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from flowerkit.text import join_some, pluralize

# Those who start a process on each host, by the variables with the number of all and of this one.
LAUNCHERS = {
    "SLURM": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
}
TPU_WORKERS = ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID")
HOST_VARIABLES = (*itertools.chain(*LAUNCHERS.values()), *TPU_WORKERS, "TF_CONFIG")

_REMEDY = (
    "Start all at about the same time, each with the same --coordinator (an address of host 0 that the "
    "others reach, and a free port) and --num-hosts, and with a --host of its own"
)


@dataclass(frozen=True)
class HostSetup:
    """How this process joins the others; None is for JAX to find out."""

    coordinator: str | None = None  # HOST:PORT of host 0
    count: int | None = None
    index: int | None = None
    found: str = ""  # what says that there are several


def find_hosts(
    environ: Mapping[str, str],
    coordinator: str | None = None,
    num_hosts: int | None = None,
    host: int | None = None,
) -> HostSetup | None:
    """How to join, from the options or what a launcher has set; None: this host is alone.

    Raises ValueError for options that contradict each other, and for a TF_CONFIG with several tasks.

    >>> find_hosts({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}).index
    2
    """
    found = _find_launcher(environ)
    if coordinator is num_hosts is host is None:
        num_tasks = 0
        with contextlib.suppress(AttributeError, TypeError, ValueError):  # not for TensorFlow
            cluster = json.loads(environ.get("TF_CONFIG") or "{}").get("cluster", {})
            num_tasks = sum(map(len, cluster.values()))
        if found is None and num_tasks > 1:
            raise ValueError(
                f"TF_CONFIG tells of {num_tasks} tasks, but several hosts train on jax alone. Set "
                f"KERAS_BACKEND=jax and pass --coordinator HOST:PORT --num-hosts {num_tasks} --host I "
                f"on each, or unset TF_CONFIG."
            )
        return found
    if num_hosts == 1 and host in (None, 0):
        return None
    index = host if host is not None or found is None else found.index
    if coordinator and not re.fullmatch(r"(\[[\da-fA-F:]+\]|[\w.-]+):\d{1,5}", coordinator):
        problem = "the coordinator is host 0, HOST:PORT"
    elif (num_hosts or 2) < 1 or not 0 <= (host or 0) < (num_hosts or (host or 0) + 1):
        problem = "there is no such host"
    elif num_hosts is None or (found and num_hosts != found.count):
        problem = f"{found.found} started {found.count}" if found else "nothing else says how many"
    elif coordinator and index is None:
        problem = "nothing says which host this is"
    else:
        return HostSetup(coordinator, num_hosts, index, "--num-hosts")
    raise ValueError(
        f"{problem}. Received: coordinator={coordinator}, num_hosts={num_hosts}, host={host}. Pass "
        f"--coordinator HOST:PORT --num-hosts N --host I, with I from 0 to N - 1."
    )


def _find_launcher(environ: Mapping[str, str]) -> HostSetup | None:
    def read(name: str) -> int:
        value = environ.get(name, "")
        return int(value) if value.isdecimal() else 0

    for launcher, (count, index) in LAUNCHERS.items():
        if read(count) > 1 and index in environ:
            return HostSetup(None, read(count), read(index), launcher)
    names, index = (environ.get(name, "") for name in TPU_WORKERS)
    workers = [name for name in names.split(",") if re.fullmatch(r"[\w.:-]+", name.strip())]
    if len(workers) > 1 and len(workers) == names.count(",") + 1 and index.isdecimal():
        return HostSetup(None, len(workers), int(index), TPU_WORKERS[0])
    return None


# Meeting ------------------------------------------------------------------------------------------


class NotJoined(RuntimeError):
    """Hosts did not all come, or do not fit each other; says what to do."""


def meet(setup: HostSetup, timeout_seconds: float) -> None:
    """Return when all have met at the coordinator's address and fit each other; else NotJoined."""
    end = time.monotonic() + timeout_seconds
    try:
        problem = (_await_others if setup.index == 0 else _visit_first)(setup, end)
    except OSError as error:
        raise NotJoined(describe_failure(setup, error, timeout_seconds)) from error
    if problem:
        raise NotJoined(problem)


def _await_others(setup: HostSetup, end: float) -> str:
    """Wait for all others, and answer each with the problem, if there is one."""
    address = ("", int(setup.coordinator.rpartition(":")[2]))
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    here, problem = {}, ""
    with socket.create_server(address, family=family, dualstack_ipv6=both) as server:
        while len(here) < setup.count - 1 and not problem:
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                visitor, _ = server.accept()
                visitor.settimeout(max(0.01, end - time.monotonic()))
                count, index = json.loads(visitor.makefile().readline())
            except TimeoutError:
                missing = [str(i) for i in range(1, setup.count) if i not in here]
                problem = f"host {join_some(missing)} of {setup.count} did not come. {_REMEDY}."
                break
            except (OSError, TypeError, ValueError):  # somebody else's connection
                continue
            if count != setup.count:
                problem = (
                    f"host {index} was started for {pluralize(count, 'host')}, host 0 for "
                    f"{setup.count}. {_REMEDY}."
                )
            elif index in here or not 0 < index < count:
                problem = f"two hosts have the number {index} (--host). {_REMEDY}."
            here[index if index not in here else -1] = visitor
        for visitor in here.values():
            with contextlib.suppress(OSError), visitor:
                visitor.sendall(json.dumps(problem).encode() + b"\n")
    return problem


def _visit_first(setup: HostSetup, end: float) -> str:
    """Say who this is, and return what host 0 answers when all have come."""
    name, _, port = setup.coordinator.rpartition(":")
    while True:
        try:
            connection = socket.create_connection((name.strip("[]"), int(port)), timeout=10)
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
    with connection:
        connection.sendall(json.dumps([setup.count, setup.index]).encode() + b"\n")
        connection.settimeout(max(1.0, end + 5 - time.monotonic()))
        answer = connection.makefile().readline()
    if not answer:
        raise OSError("host 0 ended before all had come")
    return json.loads(answer)


def describe_failure(setup: HostSetup, error: Exception, timeout_seconds: float) -> str:
    """The sentence of an error."""
    cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .")
    where = setup.coordinator or f"the address that {setup.found} gives"
    return (
        f"host {setup.index} of {setup.count} did not join the others at {where} within "
        f"{timeout_seconds} s: {cause[:200]}. {_REMEDY}."
    )
