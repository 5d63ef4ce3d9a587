"""TPU detection and strategy: the device that training runs on, started once a process."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from flowerkit.accelerator import hosts
from flowerkit.accelerator.detection import BACKENDS, WITHOUT_TPU, Detection, Kind, detect
from flowerkit.accelerator.machine import (
    CHOSEN_BACKEND,
    CUDA_PLUGINS,
    GPU_FILE,
    Evidence,
    collect_evidence,
    versions,
)
from flowerkit.accelerator.meeting import HostSetup, NotJoined, find_hosts
from flowerkit.accelerator.programs import keep_compilations
from flowerkit.console import quiet_frameworks, quiet_imports
from flowerkit.synonyms import explain_choice
from flowerkit.text import join_some, pluralize

VIRTUAL_CPUS = "FLOWERKIT_VIRTUAL_CPUS"  # so many replicas on the CPU, to test sharding
# What layers compute in, and Keras's name for it; weights, statistics and softmax are float32 in each.
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
ATTACH_TPU = {
    "kaggle": "Choose Settings > Accelerator > TPU v5e-8 (a pushed kernel: enable_tpu true, "
    'machine_shape "TpuV5E8", no docker_image)',
    "colab": "Choose Runtime > Change runtime type > TPU",
    "local": "Run on a machine with a TPU",
}

logger = logging.getLogger("flowerkit")


def choose_backend() -> None:
    """Set KERAS_BACKEND, which counts until keras is imported, unless the user has; never an error.

    TensorFlow is kept quiet, unless it is imported already.
    """
    evidence = collect_evidence()
    quiet_imports(has_gpu=bool(evidence.matching(GPU_FILE)))
    _set_backend(detect(evidence).backend, evidence)


def _set_backend(backend: str, evidence: Evidence) -> None:
    is_ours = os.environ.get("KERAS_BACKEND") in ("", None, os.environ.get(CHOSEN_BACKEND))
    is_usable = backend in BACKENDS and backend in evidence.modules
    if is_ours and is_usable and evidence.keras_backend is None:
        os.environ["KERAS_BACKEND"] = os.environ[CHOSEN_BACKEND] = backend


@dataclass(frozen=True)
class Accelerator:
    """The device that was started: its kind, Keras backend, replicas on all `hosts`, and the reason.

    `precision` is what layers compute in, of `POLICIES`; weights and softmax are float32 in each.
    """

    kind: Kind
    backend: str
    replicas: int
    precision: str
    reason: str
    hosts: int = 1
    strategy: Any = field(default=None, repr=False, compare=False)  # a tf.distribute.Strategy

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Build and compile models inside: it sets dtype policy and strategy, then restores them.

        With jax `connect` and `hosts.together` set the distribution, because fit needs it outside, too.
        """
        import keras

        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(POLICIES[self.precision])
        try:
            with self.strategy.scope() if self.strategy else contextlib.nullcontext():
                yield
        finally:
            keras.config.set_dtype_policy(before)

    def __str__(self) -> str:
        on_hosts = f" on {self.hosts} hosts" if self.hosts > 1 else ""
        facts = f"{pluralize(self.replicas, 'replica')}{on_hosts}, {self.backend}, {self.precision}"
        return f"{self.kind.upper()}: {facts} ({self.reason})"


_connected: Accelerator | None = None  # a second start in a process breaks the first


def connect(
    require: Kind | None = None,
    *,
    precision: str = "auto",
    evidence: Evidence | None = None,
    coordinator: str | None = None,
    num_hosts: int | None = None,
    host: int | None = None,
) -> Accelerator:
    """Start the device that is here, once; later calls return the same Accelerator.

    `require` refuses any other kind before a framework is imported; "cpu" does not touch TPUs and
    GPUs. `precision`: float32, bfloat16 or float16; "auto" is bfloat16 on TPUs and on GPUs of compute
    capability 8 and up, else float32. A later call may ask for another. `evidence` replaces what
    `collect_evidence` finds.

    Several hosts, on jax: each calls it with the same `coordinator` (HOST:PORT of host 0) and
    `num_hosts`, and its own number as `host`, from 0. What SLURM, Open MPI, GKE or Cloud TPU say need
    not be passed; hosts that your own code has joined by `jax.distributed` are used.

    Raises RuntimeError for a device that did not start, a backend that cannot work, another device
    than required, hosts that do not come, and a request after the start; ValueError for arguments that
    contradict each other.
    """
    global _connected
    kinds, precisions = (None, *get_args(Kind)), ("auto", *POLICIES)
    for name, value, known in (("require", require, kinds), ("precision", precision, precisions)):
        if value not in known:
            hint = explain_choice(str(value), map(str, known))
            listed = ", ".join(map(str, known))
            raise ValueError(
                f"{name} (--{name}) must be one of {listed}. Received: {value!r}.{hint}"
            )
    num_virtual = _read_virtual_cpus(require)
    if _connected is None:
        evidence = evidence or collect_evidence()
        setup = find_hosts(evidence.environ, coordinator, num_hosts, host)
        _connected = _start(require, num_virtual, evidence, precision, setup)
    if require not in (None, _connected.kind) or num_hosts not in (None, _connected.hosts):
        raise RuntimeError(
            f"already connected to {_connected}. Restart the session and pass require={require!r}, "
            f"num_hosts={num_hosts} to the first connect()."
        )
    if precision in ("auto", _connected.precision):
        return _connected
    return replace(_connected, precision=precision)


def _read_virtual_cpus(require: Kind | None) -> int | None:
    value = os.environ.get(VIRTUAL_CPUS)
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{VIRTUAL_CPUS} must be a whole number from 1. Received: {value!r}.")
    if require in ("tpu", "gpu"):
        raise ValueError(
            f"{VIRTUAL_CPUS}={value} contradicts require={require!r}. Drop one of them."
        )
    return int(value)


def _start(
    require: Kind | None,
    virtual_cpus: int | None,
    evidence: Evidence,
    precision: str,
    setup: HostSetup | None,
) -> Accelerator:
    if require == "cpu" or virtual_cpus:
        evidence = replace(evidence, device_files=frozenset())
    detection = detect(evidence)
    if detection.problem:
        raise RuntimeError(detection.problem)
    if require not in (None, detection.kind):
        remedy = "Choose a machine or session with a GPU"
        if require == "tpu":
            remedy = ATTACH_TPU[detection.host]
        raise RuntimeError(
            f"require={require!r}, but {detection.reason}. {remedy}, or leave out require (--require)."
        )
    _set_backend(detection.backend, evidence)
    if detection.drop_worker_hostnames:  # libtpu does not start on text that is no address list
        os.environ.pop("TPU_WORKER_HOSTNAMES", None)
    if setup and detection.backend != "jax":
        raise RuntimeError(
            f"{setup.count} hosts ({setup.found}) train one model on jax alone, and {detection.reason}. "
            f"Set KERAS_BACKEND=jax, or start one process."
        )
    try:
        with quiet_frameworks():
            if detection.backend == "jax":
                kind, replicas, strategy = _start_jax(detection.kind, virtual_cpus, setup)
            else:
                kind, replicas, strategy = _start_tensorflow(detection.kind, virtual_cpus)
    except NotJoined:
        raise
    except Exception as error:  # any failure needs the remedy beside it
        raise RuntimeError(_describe_failure(detection, error)) from error
    reason = _explain(detection, kind, require, virtual_cpus)
    if precision == "auto":
        capabilities = _find_capabilities(detection.backend) if kind == "gpu" else []
        precision = choose_precision(kind, capabilities)
    backend, num_hosts = detection.backend, hosts.count()
    return Accelerator(kind, backend, replicas, precision, reason, num_hosts, strategy)


def _describe_failure(detection: Detection, error: Exception) -> str:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .")
    if detection.kind == "tpu":
        return f"a TPU is attached but did not start: {cause}. Restart the session, {WITHOUT_TPU}"
    remedy = f"Restart the session and call connect() before anything else uses {detection.backend}"
    return f"{detection.backend} did not start on the {detection.kind.upper()}: {cause}. {remedy}."


def _explain(
    detection: Detection, kind: Kind, require: Kind | None, virtual_cpus: int | None
) -> str:
    """The reason for the device that started; RuntimeError if it is less than was required."""
    if require == "cpu" or virtual_cpus:
        requested = f"{virtual_cpus} virtual CPUs were" if virtual_cpus else "a CPU was"
        return f"{requested} requested; {detection.reason.partition('; ')[2]}"
    if kind == detection.kind:
        return detection.reason
    package = {"jax": "jax[cuda12]", "tensorflow": "tensorflow[and-cuda]"}[detection.backend]
    fact = f"{detection.reason}, which sees no GPU{_find_plugin_gap()}"
    remedy = f'For an NVIDIA GPU run pip install "{package}" and restart the session'
    if require == "gpu":
        raise RuntimeError(
            f"require='gpu', but {fact}. {remedy}, or leave out require (--require)."
        )
    logger.warning("%s: the CPU is used. %s.", fact, remedy)
    return fact


def _find_plugin_gap() -> str:
    """The versions of jaxlib and its CUDA plugin, in brackets, where they differ: JAX leaves it out."""
    found = versions()
    others = [f"{name} {found[name]}" for name in CUDA_PLUGINS if found[name]]
    gaps = [each for each in others if each.split()[1] != found["jaxlib"]]
    return f" ({join_some(gaps)} does not fit jaxlib {found['jaxlib']})" if gaps else ""


def _start_jax(
    kind: Kind, virtual_cpus: int | None, setup: HostSetup | None
) -> tuple[Kind, int, None]:
    import jax

    if kind == "cpu":  # else jax would look for TPUs wherever libtpu is installed
        jax.config.update("jax_platforms", "cpu")
    if virtual_cpus:
        jax.config.update("jax_num_cpu_devices", virtual_cpus)
    keep_compilations()  # the next run reuses what this one compiles
    if setup or hosts.has_joined():
        hosts.join(setup)
    devices = jax.devices("tpu") if kind == "tpu" else jax.devices()
    found = devices[0].platform
    if found != kind and (kind, found) != ("gpu", "cpu"):
        raise RuntimeError(f"jax already runs on the {found.upper()}")

    with contextlib.suppress(ImportError, AttributeError):
        # Keras would import an installed TensorFlow, to seed it too and to look for its types in what
        # is saved: 4 seconds and 500 MB for nothing. Where it is really needed it is still imported.
        from keras.src.utils import module_utils

        module_utils.tensorflow._available = False
    hosts.divide_devices(devices)
    return found, len(devices), None


def _start_tensorflow(kind: Kind, virtual_cpus: int | None) -> tuple[Kind, int, Any]:
    import tensorflow as tf

    if kind == "tpu":
        # A resolver for "local" never fails, so only evidence of a TPU leads here; a second
        # initialisation would invalidate the variables on the TPU.
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
        return "tpu", strategy.num_replicas_in_sync, strategy
    gpus = tf.config.get_visible_devices("GPU") if kind == "gpu" else []
    if gpus:
        return "gpu", len(gpus), tf.distribute.MirroredStrategy() if len(gpus) > 1 else None
    for hidden in ("GPU", "TPU"):  # so that a run that reports a CPU also computes on it
        tf.config.set_visible_devices([], hidden)
    if not virtual_cpus or virtual_cpus == 1:
        return "cpu", 1, None
    parts = [tf.config.LogicalDeviceConfiguration()] * virtual_cpus
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    names = [f"CPU:{number}" for number in range(virtual_cpus)]
    return "cpu", virtual_cpus, tf.distribute.MirroredStrategy(names)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had too little memory, by the error of its backend."""
    if any(kind.__name__ == "ResourceExhaustedError" for kind in type(error).__mro__):
        return True
    said = re.search("resource_exhausted|out of memory", str(error), re.IGNORECASE)
    return isinstance(error, RuntimeError) and said is not None


def choose_precision(kind: Kind, capabilities: list[str]) -> str:
    """The precision of a device by its kind, for GPUs by the compute capability of each.

    >>> choose_precision("gpu", ["9.0", "8.0"]), choose_precision("gpu", ["8.0", "7.5"])
    ('bfloat16', 'float32')
    """
    # An AMD GPU says gfx942 or so.
    majors = [int(re.match(r"\d*", text)[0] or 0) for text in capabilities]
    is_fast = kind == "tpu" or (kind == "gpu" and min(majors, default=0) >= 8)
    return "bfloat16" if is_fast else "float32"


def _find_capabilities(backend: str) -> list[str]:
    if backend == "jax":
        import jax

        return [str(getattr(device, "compute_capability", "")) for device in jax.devices()]
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    found = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return [".".join(map(str, each.get("compute_capability", ()))) for each in found]
