"""What this machine has, without starting anything: device files, modules, versions, memory, cores."""

import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowerkit.accelerator.meeting import HOST_VARIABLES

# TPU v2 to v4 are /dev/accel0; other makers' chips are /dev/accel/accel0.
TPU_FILE = r"/dev/accel\d+"
# TPU v5e and later, and any device passed to a virtual machine; /dev/vfio/vfio is no device.
VFIO_FILE = r"/dev/vfio/(devices/vfio)?\d+"
# NVIDIA, NVIDIA under WSL2, AMD.
GPU_FILE = r"/dev/(nvidia\d+|dxg|kfd)"

TPU_VARIABLES = (
    "ISTPUVM",
    "TPU_ACCELERATOR_TYPE",
    "TPU_CHIPS_PER_HOST_BOUNDS",
    "TPU_PROCESS_ADDRESSES",
)
# Distinguishes a KERAS_BACKEND that flowerkit set from the user's own, in child processes too.
CHOSEN_BACKEND = "FLOWERKIT_CHOSEN_BACKEND"
# Only these are recorded: the environment also holds tokens.
RECORDED_VARIABLES = (
    *TPU_VARIABLES,
    *HOST_VARIABLES,
    "JAX_PLATFORMS",
    "CUDA_VISIBLE_DEVICES",
    "KERAS_BACKEND",
    CHOSEN_BACKEND,
    "KAGGLE_KERNEL_RUN_TYPE",
)
MODULES = ("keras", "tensorflow", "jax", "libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin")
CUDA_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
TENSORFLOW_BUILDS = ("tensorflow-cpu", "tensorflow-tpu")
PACKAGES = (
    *("keras", "tensorflow", "jax", "jaxlib", "libtpu", "numpy", "pillow", "matplotlib"),
    *("protobuf", "google-crc32c", "simplejpeg"),
    *CUDA_PLUGINS,
    *("scikit-learn", "psutil", "kaggle", "kagglehub"),
)


@dataclass(frozen=True)
class Evidence:
    """What was found on a machine.

    `modules` holds importable modules and the distributions "tensorflow-cpu" and "tensorflow-tpu";
    `keras_backend` is the backend of a keras that is imported already; `pci_ids` is the PCI bus as
    "vendor:device", empty where it was not read.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    device_files: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    keras_backend: str | None = None
    pci_ids: frozenset[str] = frozenset()

    def matching(self, pattern: str) -> list[str]:
        """The device files that match, in the order of their numbers.

        >>> Evidence(device_files=frozenset({"/dev/vfio/10", "/dev/vfio/9"})).matching(VFIO_FILE)
        ['/dev/vfio/9', '/dev/vfio/10']
        """
        found = (name for name in self.device_files if re.fullmatch(pattern, name))
        return sorted(found, key=lambda name: (len(name), name))


def collect_evidence(root: str | os.PathLike = "/") -> Evidence:
    """Evidence from the environment, the import path, and /dev and /sys under `root`."""
    modules = {name for name in MODULES if _is_importable(name)}
    if "tensorflow" in modules:
        modules |= {build for build in TENSORFLOW_BUILDS if _find_version(build)}
    if _has_colab():
        modules.add("google.colab")
    dev = Path(root, "dev")
    wanted = f"{TPU_FILE}|{VFIO_FILE}|{GPU_FILE}"
    paths = [path for folder in ("", "vfio", "vfio/devices") for path in (dev / folder).glob("*")]
    names = (f"/dev/{path.relative_to(dev).as_posix()}" for path in paths)
    files = frozenset(name for name in names if re.fullmatch(wanted, name))
    keras = getattr(sys.modules.get("keras"), "config", None)
    # Some hundred small files of the bus, so only where they can decide something.
    has_vfio = any(re.fullmatch(VFIO_FILE, name) for name in files)
    return Evidence(
        environ={name: os.environ[name] for name in RECORDED_VARIABLES if name in os.environ},
        device_files=files,
        modules=frozenset(modules),
        keras_backend=keras.backend() if hasattr(keras, "backend") else None,
        pci_ids=_read_pci_ids(Path(root, "sys/bus/pci/devices")) if has_vfio else frozenset(),
    )


def _is_importable(name: str) -> bool:
    # A module without a __spec__ is found too; None in sys.modules forbids the import.
    if name in sys.modules:
        return sys.modules[name] is not None
    return importlib.util.find_spec(name) is not None


def _has_colab() -> bool:
    try:
        return importlib.util.find_spec("google.colab") is not None
    except (ImportError, ValueError):  # there is no google, or one without a __spec__
        return "google.colab" in sys.modules


def _read_pci_ids(bus: Path) -> frozenset[str]:
    def read(path: Path) -> str:
        return path.read_text().strip().removeprefix("0x")

    try:
        return frozenset(f"{read(d / 'vendor')}:{read(d / 'device')}" for d in bus.glob("*"))
    except OSError:  # a sandbox may show the folder and keep its files
        return frozenset()


def versions() -> dict[str, str | None]:
    """Python and package versions from their metadata, nothing imported; None means not installed.

    "tensorflow" names its build where that matters: "2.20.0 (tensorflow-cpu)".
    """
    found = {"python": platform.python_version()}
    found |= {name: _find_version(name) for name in PACKAGES}
    for build in TENSORFLOW_BUILDS:
        if found["tensorflow"] is None and (version := _find_version(build)):
            found["tensorflow"] = f"{version} ({build})"
    return found


def _find_version(distribution: str) -> str | None:
    from importlib import metadata  # brings the email package along: every helper would pay for it

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def num_cores() -> int:
    """CPU cores that this process may use: bounded by its affinity and its container's quota."""
    import joblib  # brings NumPy along

    return joblib.cpu_count()


def free_memory_bytes(root: str | os.PathLike = "/") -> int:
    """Bytes that can still be used: what the system has available, bounded by the cgroup's limit.

    In a container the system's figure is the host's. Page cache on the inactive list is free, as
    Kubernetes has it.
    """
    import psutil

    amounts = [psutil.virtual_memory().available]
    v2 = "memory.max", "memory.current", "inactive_file"
    v1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    for folder in _memory_cgroups(Path(root)):
        for limit_name, used_name, cache_name in (v2, v1):
            limit, used = _read(folder / limit_name).strip(), _read(folder / used_name).strip()
            stat = _read(folder / "memory.stat").split()
            cache = stat[stat.index(cache_name) + 1] if cache_name in stat else 0
            if limit.isdecimal() and used.isdecimal():  # v2 writes "max" for no limit
                amounts.append(int(limit) - int(used) + int(cache))
    return max(0, min(amounts))


def _memory_cgroups(root: Path) -> Iterator[Path]:
    """The folders of the memory cgroups (v1, v2) around this process; some may not exist.

    In a container /proc may name the host's path while the mount starts at the container's folder.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            folder = mount / path.strip("/")
            yield from (place for place in (folder, *folder.parents) if place.is_relative_to(mount))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
