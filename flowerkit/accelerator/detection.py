"""From evidence to device and Keras backend; pure, so that recorded machines can test it."""

import re
from dataclasses import dataclass
from typing import Literal

from flowerkit.accelerator.machine import (
    CHOSEN_BACKEND,
    GPU_FILE,
    TPU_FILE,
    TPU_VARIABLES,
    VFIO_FILE,
    Evidence,
)
from flowerkit.text import join_some

Kind = Literal["tpu", "gpu", "cpu"]
Host = Literal["kaggle", "colab", "local"]
BACKENDS = ("tensorflow", "jax")

GOOGLE = "1ae0"  # PCI vendor; the chips are v3, v4, v5p, v5e, v6e, 7x in jax/_src/hardware_utils.py
TPU_CHIPS = {f"{GOOGLE}:{chip}" for chip in ("0027", "005e", "0062", "0063", "006f", "0076")}

# What pip installs so that a backend can use a device; ours are the extras tpu, cuda and tensorflow.
PACKAGES_FOR = {
    "tpu": '"jax[tpu]"',
    "gpu": '"jax[cuda12]" (an NVIDIA GPU; with a CUDA 13 driver "jax[cuda13]")',
    "cpu": "tensorflow (or jax)",
}
WITHOUT_TPU = 'or pass require="cpu" (--require cpu) to go on without it.'


@dataclass(frozen=True)
class Detection:
    """What the evidence means. With a `problem` (fact and remedy) `connect` refuses to start."""

    kind: Kind
    backend: str  # "jax" or "tensorflow"; another name only beside a problem
    host: Host
    reason: str
    problem: str | None = None
    drop_worker_hostnames: bool = False


def detect(evidence: Evidence) -> Detection:
    """Device and backend from evidence alone; a pure function.

    >>> kaggle = Evidence(
    ...     environ={"ISTPUVM": "1", "KAGGLE_KERNEL_RUN_TYPE": "Batch"},
    ...     device_files=frozenset({"/dev/vfio/0", "/dev/vfio/vfio"}),
    ...     modules=frozenset({"keras", "tensorflow", "tensorflow-cpu", "jax", "libtpu"}),
    ... )
    >>> detect(kaggle).reason
    'a TPU is attached (/dev/vfio/0, ISTPUVM is set); Keras runs on jax'
    """
    kind, seen = _detect_device(evidence)
    capable = _list_capable_backends(evidence, kind)
    installed = [name for name in BACKENDS if name in evidence.modules]
    backend, why = _keep_backend(evidence, preferred=[*capable, *installed, "tensorflow"][0])
    problem = _find_backend_problem(evidence, kind, backend, why)
    if problem is None and kind == "tpu" and backend not in capable:
        problem = _describe_unreachable_tpu(evidence, backend, why, capable)
    # Kaggle and Colab may hold "WARNING: could not determine TPU worker hostnames ..." there.
    hostnames = evidence.environ.get("TPU_WORKER_HOSTNAMES", "localhost").split(",")
    drop = not all(re.fullmatch(r"[\w.:\[\]-]+", part.strip()) for part in hostnames)
    host = "colab" if "google.colab" in evidence.modules else "local"
    if "KAGGLE_KERNEL_RUN_TYPE" in evidence.environ:  # google.colab may import there, too
        host = "kaggle"
    return Detection(kind, backend, host, f"{seen}; {why}", problem, drop)


def _detect_device(evidence: Evidence) -> tuple[Kind, str]:
    """The device and half a sentence about it."""
    groups, gpus = (join_some(evidence.matching(kind), 1) for kind in (VFIO_FILE, GPU_FILE))
    if tpu := _describe_tpu(evidence):
        seen, platforms = f"a TPU is attached ({tpu})", evidence.environ.get("JAX_PLATFORMS", "")
        if platforms and "tpu" not in platforms and "tensorflow-tpu" not in evidence.modules:
            return "cpu", f"{seen}, but JAX_PLATFORMS={platforms} keeps jax off it"
        return "tpu", seen
    if gpus:
        seen = f"a GPU is attached ({gpus})"
        if evidence.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
            return "cpu", f"{seen}, but CUDA_VISIBLE_DEVICES hides it"
        return "gpu", seen
    if groups:
        return "cpu", f"no TPU or GPU is attached ({groups} shows no sign of a TPU)"
    if variable := _find_tpu_variable(evidence):
        # Kaggle's TPU image sets them on any machine, with a TPU or without.
        return "cpu", f"no TPU or GPU is attached ({variable} is set, but /dev has none)"
    return "cpu", "no TPU or GPU is attached"


def _describe_tpu(evidence: Evidence) -> str | None:
    """The files of a TPU, and why its VFIO groups are no GPU passed to a virtual machine."""
    if chips := evidence.matching(TPU_FILE):
        return join_some(chips, 1)
    groups = join_some(evidence.matching(VFIO_FILE), 1)
    if not groups:
        return None
    if variable := _find_tpu_variable(evidence):
        return f"{groups}, {variable} is set"
    if chips := TPU_CHIPS & evidence.pci_ids:
        return f"{groups}, PCI {min(chips)}"
    # libtpu is also installed to compile for TPUs elsewhere: the PCI bus, if readable, must show a
    # Google device; if it is not, a GPU in use makes another GPU in VFIO likelier.
    google = any(pci_id.startswith(GOOGLE) for pci_id in evidence.pci_ids)
    unknown = not evidence.pci_ids and not evidence.matching(GPU_FILE)
    if "libtpu" in evidence.modules and (google or unknown):
        return f"{groups}, libtpu is installed"
    return None


def _find_tpu_variable(evidence: Evidence) -> str | None:
    values = {name: evidence.environ.get(name, "").strip().lower() for name in TPU_VARIABLES}
    return next((name for name, value in values.items() if value not in ("", "0", "false")), None)


def _list_capable_backends(evidence: Evidence, kind: Kind) -> list[str]:
    """The backends that can drive such a device as they are installed, the preferred one first."""
    have = evidence.modules
    tensorflow, jax = "tensorflow" in have, "jax" in have
    if kind == "tpu":
        return ["jax"] * (jax and "libtpu" in have) + ["tensorflow"] * ("tensorflow-tpu" in have)
    if kind == "gpu":
        tensorflow = tensorflow and not have & {"tensorflow-cpu", "tensorflow-tpu"}
        jax = jax and bool(have & {"jax_cuda12_plugin", "jax_cuda13_plugin"})
    return ["tensorflow"] * tensorflow + ["jax"] * jax


def _keep_backend(evidence: Evidence, *, preferred: str) -> tuple[str, str]:
    """The backend and half a sentence: an imported keras decides, then the user's own choice."""
    imported, requested = evidence.keras_backend, evidence.environ.get("KERAS_BACKEND")
    if imported not in (None, preferred):
        return imported, f"keras was already imported with {imported}"
    if requested and imported is None and requested != evidence.environ.get(CHOSEN_BACKEND):
        return requested, f"KERAS_BACKEND={requested} is set"
    return preferred, f"Keras runs on {preferred}"


def _find_backend_problem(evidence: Evidence, kind: Kind, backend: str, why: str) -> str | None:
    if not evidence.modules & set(BACKENDS):
        return f"neither tensorflow nor jax is installed. Run: pip install {PACKAGES_FOR[kind]}"
    if "keras" not in evidence.modules:
        return 'keras is not installed. Run: pip install "keras>=3.10"'
    if backend not in BACKENDS:
        remedy = "Set KERAS_BACKEND to one of the two, or unset it, before keras is imported"
        return f"flowerkit runs on tensorflow or jax, but {why}. {remedy}."
    if backend not in evidence.modules:
        return f"{why}, but {backend} is not installed. Unset it, or run: pip install {backend}"
    return None


def _describe_unreachable_tpu(
    evidence: Evidence, backend: str, why: str, capable: list[str]
) -> str:
    if not capable:
        lack = "jax has no libtpu" if backend == "jax" else "this tensorflow is not built for TPUs"
        remedy = 'Run pip install "jax[tpu]" and restart the session'
        return f"a TPU is attached, but {lack}. {remedy}, {WITHOUT_TPU}"
    remedy = f"Unset it or set KERAS_BACKEND={capable[0]}, and restart the session"
    if evidence.keras_backend:
        remedy = "Restart the session and import flowerkit before keras and tensorflow"
    return f"a TPU is attached, but {why}, which cannot reach it here. {remedy}, {WITHOUT_TPU}"
