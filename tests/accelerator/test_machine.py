import importlib.metadata
import os
import sys

import psutil
import pytest

from flowerkit.accelerator.machine import collect_evidence, free_memory_bytes, num_cores, versions

MIB = 2**20


def make_files(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_tpu_host_is_recorded_with_its_numbered_devices_and_pci_bus(tmp_path):
    root = make_files(
        tmp_path,
        {
            "dev/vfio/vfio": "",
            "dev/vfio/0": "",
            "dev/vfio/11": "",
            "dev/vfio/devices/vfio3": "",
            "dev/null": "",
            "sys/bus/pci/devices/0000:00:04.0/vendor": "0x1ae0\n",
            "sys/bus/pci/devices/0000:00:04.0/device": "0x0063\n",
        },
    )
    evidence = collect_evidence(root)
    assert evidence.device_files == {"/dev/vfio/0", "/dev/vfio/11", "/dev/vfio/devices/vfio3"}
    assert evidence.pci_ids == {"1ae0:0063"}


def test_gpu_files_are_recorded_and_control_files_are_not(tmp_path):
    root = make_files(tmp_path, {f"dev/{name}": "" for name in ("nvidia0", "nvidiactl", "kfd")})
    root = make_files(root, {"dev/accel/accel0": "", "dev/accel1": ""})
    files = {"/dev/nvidia0", "/dev/kfd", "/dev/accel1"}
    assert collect_evidence(root).device_files == files


def test_the_pci_bus_is_not_read_without_vfio_devices(tmp_path):
    root = make_files(tmp_path, {"sys/bus/pci/devices/a/vendor": "0x1ae0", "dev/nvidia0": ""})
    assert collect_evidence(root).pci_ids == frozenset()


def test_an_unreadable_pci_bus_is_no_error(tmp_path):
    root = make_files(tmp_path, {"sys/bus/pci/devices/a/vendor": "0x1ae0", "dev/vfio/0": ""})
    assert collect_evidence(root).pci_ids == frozenset()


def test_importable_modules_are_found_and_blocked_ones_are_not(tmp_path, monkeypatch):
    assert {"keras", "tensorflow", "jax"} <= collect_evidence(tmp_path).modules
    monkeypatch.setitem(sys.modules, "jax", None)
    assert "jax" not in collect_evidence(tmp_path).modules


def test_google_colab_is_found_without_importing_google(tmp_path, monkeypatch):
    make_files(tmp_path, {"google/colab/__init__.py": "raise RuntimeError"})
    monkeypatch.delitem(sys.modules, "google", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert "google.colab" in collect_evidence(tmp_path).modules


def test_secrets_in_the_environment_are_not_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    monkeypatch.setenv("ISTPUVM", "1")
    environ = collect_evidence(tmp_path).environ
    assert environ["ISTPUVM"] == "1"
    assert "KAGGLE_KEY" not in environ


def test_the_backend_of_an_imported_keras_is_recorded(tmp_path, monkeypatch):
    class Keras:
        class config:
            backend = staticmethod(lambda: "jax")

    monkeypatch.setitem(sys.modules, "keras", Keras)
    assert collect_evidence(tmp_path).keras_backend == "jax"


def test_versions_come_from_metadata_and_missing_packages_are_none(monkeypatch):
    installed = {"tensorflow-cpu": "2.20.0", "jax": "0.7.2"}

    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = versions()
    assert found["tensorflow"] == "2.20.0 (tensorflow-cpu)"
    assert found["jax"] == "0.7.2"
    assert found["libtpu"] is None


def test_memory_is_bounded_by_a_v2_limit_of_an_outer_cgroup(tmp_path):
    root = make_files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "sys/fs/cgroup/pod/box/memory.max": "max\n",
            "sys/fs/cgroup/pod/box/memory.current": f"{60 * MIB}\n",
            "sys/fs/cgroup/pod/memory.max": f"{100 * MIB}\n",
            "sys/fs/cgroup/pod/memory.current": f"{90 * MIB}\n",
            "sys/fs/cgroup/pod/memory.stat": f"anon {60 * MIB}\ninactive_file {20 * MIB}\n",
        },
    )
    assert free_memory_bytes(root) == 30 * MIB


def test_memory_is_bounded_by_a_v1_limit_when_the_path_is_the_hosts(tmp_path):
    root = make_files(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/4f2a\n1:cpu,cpuacct:/docker/4f2a\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{64 * MIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{40 * MIB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {8 * MIB}\n",
        },
    )
    assert free_memory_bytes(root) == 32 * MIB


def test_memory_over_the_limit_is_zero_and_not_negative(tmp_path):
    root = make_files(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "1000\n",
            "sys/fs/cgroup/memory.current": "1200\n",
        },
    )
    assert free_memory_bytes(root) == 0


def test_memory_without_cgroups_is_what_the_system_has(tmp_path):
    assert free_memory_bytes(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.1)
    assert 0 < free_memory_bytes() <= psutil.virtual_memory().total


def test_cores_are_at_least_one_and_at_most_those_of_the_affinity():
    assert 1 <= num_cores() <= len(os.sched_getaffinity(0))
