from dataclasses import replace

import pytest

from flowerkit.accelerator.detection import Detection, detect
from flowerkit.accelerator.machine import Evidence

GARBAGE = (
    "WARNING: could not determine TPU worker hostnames or IP addresses, please set env var "
    "`TPU_WORKER_HOSTNAMES` manually, otherwise libtpu.so will raise an error."
)
VFIO_8 = frozenset({"/dev/vfio/vfio"} | {f"/dev/vfio/{number}" for number in range(8)})


def modules(*names):
    return frozenset({"keras", *names})


KAGGLE = Evidence(
    environ={
        "ISTPUVM": "1",
        "TPU_PROCESS_ADDRESSES": "local",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
    },
    device_files=VFIO_8,
    modules=modules("tensorflow", "tensorflow-cpu", "jax", "libtpu", "google.colab"),
)
COLAB = Evidence(
    environ={"TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": GARBAGE},
    device_files=frozenset({"/dev/vfio/0", "/dev/vfio/vfio"}),
    modules=modules("jax", "libtpu", "google.colab"),
)
CLOUD_TPU_VM = Evidence(
    device_files=frozenset({f"/dev/accel{number}" for number in range(4)}),
    modules=modules("tensorflow", "tensorflow-tpu", "libtpu"),
)
BARE_V6E_VM = Evidence(  # a Cloud TPU VM sets no variables; jax without its [tpu] extra
    device_files=frozenset({"/dev/vfio/0", "/dev/vfio/vfio"}),
    modules=modules("tensorflow", "jax"),
    pci_ids=frozenset({"1ae0:006f", "1ae0:0042"}),
)
GPU_TF = Evidence(
    device_files=frozenset({"/dev/nvidia0", "/dev/nvidia1"}), modules=modules("tensorflow", "jax")
)
GPU_JAX = Evidence(
    device_files=frozenset({"/dev/nvidia0"}), modules=modules("jax", "jax_cuda12_plugin")
)
LAPTOP = Evidence(modules=modules("tensorflow", "jax"))
PASS_THROUGH = Evidence(  # hands a GPU to virtual machines, and has libtpu to compile for TPUs
    device_files=frozenset({"/dev/vfio/vfio", "/dev/vfio/17"}),
    modules=modules("tensorflow", "jax", "libtpu"),
    pci_ids=frozenset({"10de:2204", "8086:1237"}),
)


def with_variables(evidence, **variables):
    return replace(evidence, environ={**evidence.environ, **variables})


def with_keras(evidence, backend):
    imported = frozenset({"keras", backend})
    return replace(evidence, imported=imported, keras_backend=backend)


TPU_8 = "a TPU is attached (/dev/vfio/0 and 7 more, ISTPUVM is set)"
TPU_IMAGE = "no TPU or GPU is attached (ISTPUVM is set, but /dev has none)"
RECORDED = {
    "Kaggle v5e-8": (KAGGLE, Detection("tpu", "jax", "kaggle", f"{TPU_8}; Keras runs on jax")),
    "Kaggle's TPU image on a CPU machine": (
        replace(KAGGLE, device_files=frozenset({"/dev/vfio/vfio"})),
        Detection("cpu", "tensorflow", "kaggle", f"{TPU_IMAGE}; Keras runs on tensorflow"),
    ),
    "Colab v5e-1 without tensorflow": (
        COLAB,
        Detection(
            "tpu",
            "jax",
            "colab",
            "a TPU is attached (/dev/vfio/0, TPU_ACCELERATOR_TYPE is set); Keras runs on jax",
            drop_worker_hostnames=True,
        ),
    ),
    "Cloud TPU VM with tensorflow-tpu only": (
        CLOUD_TPU_VM,
        Detection(
            "tpu",
            "tensorflow",
            "local",
            "a TPU is attached (/dev/accel0 and 3 more); Keras runs on tensorflow",
        ),
    ),
    "Cloud TPU VM with both": (
        replace(CLOUD_TPU_VM, modules=CLOUD_TPU_VM.modules | {"jax"}),
        Detection(
            "tpu", "jax", "local", "a TPU is attached (/dev/accel0 and 3 more); Keras runs on jax"
        ),
    ),
    "Cloud TPU VM with libtpu, PCI bus unreadable": (
        replace(BARE_V6E_VM, modules=modules("jax", "libtpu"), pci_ids=frozenset()),
        Detection(
            "tpu",
            "jax",
            "local",
            "a TPU is attached (/dev/vfio/0, libtpu is installed); Keras runs on jax",
        ),
    ),
    "Cloud TPU VM with a chip too new for the table": (
        replace(BARE_V6E_VM, modules=modules("jax", "libtpu"), pci_ids=frozenset({"1ae0:00ff"})),
        Detection(
            "tpu",
            "jax",
            "local",
            "a TPU is attached (/dev/vfio/0, libtpu is installed); Keras runs on jax",
        ),
    ),
    "GPU machine with tensorflow": (
        GPU_TF,
        Detection(
            "gpu",
            "tensorflow",
            "local",
            "a GPU is attached (/dev/nvidia0 and 1 more); Keras runs on tensorflow",
        ),
    ),
    "GPU machine with jax only": (
        GPU_JAX,
        Detection("gpu", "jax", "local", "a GPU is attached (/dev/nvidia0); Keras runs on jax"),
    ),
    "GPU machine whose tensorflow cannot use it but whose jax can": (
        replace(GPU_JAX, modules=GPU_JAX.modules | {"tensorflow", "tensorflow-cpu"}),
        Detection("gpu", "jax", "local", "a GPU is attached (/dev/nvidia0); Keras runs on jax"),
    ),
    "GPU hidden by the user": (
        with_variables(GPU_TF, CUDA_VISIBLE_DEVICES="-1"),
        Detection(
            "cpu",
            "tensorflow",
            "local",
            "a GPU is attached (/dev/nvidia0 and 1 more), but CUDA_VISIBLE_DEVICES hides it; "
            "Keras runs on tensorflow",
        ),
    ),
    "GPU under WSL2": (
        Evidence(device_files=frozenset({"/dev/dxg"}), modules=modules("tensorflow")),
        Detection(
            "gpu", "tensorflow", "local", "a GPU is attached (/dev/dxg); Keras runs on tensorflow"
        ),
    ),
    "laptop": (
        LAPTOP,
        Detection(
            "cpu", "tensorflow", "local", "no TPU or GPU is attached; Keras runs on tensorflow"
        ),
    ),
    "laptop with the VFIO control file": (
        replace(
            LAPTOP, device_files=frozenset({"/dev/vfio/vfio"}), modules=modules("jax", "libtpu")
        ),
        Detection("cpu", "jax", "local", "no TPU or GPU is attached; Keras runs on jax"),
    ),
    "GPU pass-through host": (
        PASS_THROUGH,
        Detection(
            "cpu",
            "tensorflow",
            "local",
            "no TPU or GPU is attached (/dev/vfio/17 shows no sign of a TPU); "
            "Keras runs on tensorflow",
        ),
    ),
    "GPU pass-through host with a second GPU in use, PCI bus unreadable": (
        replace(
            PASS_THROUGH,
            device_files=PASS_THROUGH.device_files | {"/dev/nvidia0"},
            pci_ids=frozenset(),
        ),
        Detection(
            "gpu",
            "tensorflow",
            "local",
            "a GPU is attached (/dev/nvidia0); Keras runs on tensorflow",
        ),
    ),
    "TPU that the user keeps jax off": (
        with_variables(KAGGLE, JAX_PLATFORMS="cpu"),
        Detection(
            "cpu",
            "tensorflow",
            "kaggle",
            "a TPU is attached (/dev/vfio/0 and 7 more, ISTPUVM is set), but JAX_PLATFORMS=cpu "
            "keeps jax off it; Keras runs on tensorflow",
        ),
    ),
    "the user's own KERAS_BACKEND": (
        with_variables(LAPTOP, KERAS_BACKEND="jax"),
        Detection("cpu", "jax", "local", "no TPU or GPU is attached; KERAS_BACKEND=jax is set"),
    ),
    "KERAS_BACKEND that flowerkit set itself": (
        with_variables(KAGGLE, KERAS_BACKEND="jax", FLOWERKIT_CHOSEN_BACKEND="jax"),
        Detection("tpu", "jax", "kaggle", f"{TPU_8}; Keras runs on jax"),
    ),
    "keras already imported with another backend that also works": (
        with_keras(LAPTOP, "jax"),
        Detection(
            "cpu", "jax", "local", "no TPU or GPU is attached; keras was already imported with jax"
        ),
    ),
    "keras already imported with the right backend": (
        with_keras(KAGGLE, "jax"),
        Detection("tpu", "jax", "kaggle", f"{TPU_8}; Keras runs on jax"),
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_machine_is_recognised(name):
    evidence, expected = RECORDED[name]
    assert detect(evidence) == expected


GO_ON = 'or pass require="cpu" to go on without it.'
PROBLEMS = {
    "keras imported too early": (
        with_keras(KAGGLE, "tensorflow"),
        "a TPU is attached, but keras was already imported with tensorflow, which cannot reach it "
        f"here. Restart the session and import flowerkit before keras and tensorflow, {GO_ON}",
    ),
    "a KERAS_BACKEND that cannot reach the TPU": (
        with_variables(KAGGLE, KERAS_BACKEND="tensorflow"),
        "a TPU is attached, but KERAS_BACKEND=tensorflow is set, which cannot reach it here. "
        f"Unset it or set KERAS_BACKEND=jax, and restart the session, {GO_ON}",
    ),
    "jax without libtpu on a TPU VM": (
        replace(BARE_V6E_VM, modules=modules("jax")),
        'a TPU is attached, but jax has no libtpu. Run pip install "jax[tpu]" and restart the '
        f"session, {GO_ON}",
    ),
    "a tensorflow without TPU support on a TPU VM": (
        BARE_V6E_VM,
        "a TPU is attached, but this tensorflow is not built for TPUs. Run pip install "
        f'"jax[tpu]" and restart the session, {GO_ON}',
    ),
    "KERAS_BACKEND=torch": (
        with_variables(LAPTOP, KERAS_BACKEND="torch"),
        "flowerkit runs on tensorflow or jax, but KERAS_BACKEND=torch is set. "
        "Set KERAS_BACKEND to one of the two, or unset it, before keras is imported.",
    ),
    "keras imported with torch": (
        with_keras(LAPTOP, "torch"),
        "flowerkit runs on tensorflow or jax, but keras was already imported with torch. "
        "Set KERAS_BACKEND to one of the two, or unset it, before keras is imported.",
    ),
    "a KERAS_BACKEND that is not installed": (
        with_variables(replace(LAPTOP, modules=modules("tensorflow")), KERAS_BACKEND="jax"),
        "KERAS_BACKEND=jax is set, but jax is not installed. Unset it, or run: pip install jax",
    ),
    "no backend at all": (
        replace(LAPTOP, modules=modules()),
        "neither tensorflow nor jax is installed. Run: pip install tensorflow",
    ),
    "no keras": (
        replace(LAPTOP, modules=frozenset({"jax"})),
        'keras is not installed. Run: pip install "keras>=3.10"',
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_names_the_fact_and_the_remedy(name):
    evidence, expected = PROBLEMS[name]
    assert detect(evidence).problem == expected


def test_an_unreachable_tpu_is_still_a_tpu():
    assert detect(with_keras(KAGGLE, "tensorflow")).kind == "tpu"


@pytest.mark.parametrize(
    ("hostnames", "dropped"),
    [
        (GARBAGE, True),
        ("", True),
        ("localhost", False),
        ("10.164.0.2,10.164.0.3", False),
        ("t1v-n-1.c.project.internal:8471:10.0.0.1, [fe80::1]", False),
    ],
)
def test_worker_hostnames_are_dropped_unless_they_are_addresses(hostnames, dropped):
    evidence = with_variables(KAGGLE, TPU_WORKER_HOSTNAMES=hostnames)
    assert detect(evidence).drop_worker_hostnames is dropped


@pytest.mark.parametrize("value", ["0", "", "false", "False"])
def test_a_tpu_variable_that_is_switched_off_does_not_count(value):
    evidence = replace(PASS_THROUGH, environ={"ISTPUVM": value})
    assert detect(evidence).kind == "cpu"


def test_detection_reads_nothing_but_the_evidence(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("ISTPUVM", "1")
    assert detect(LAPTOP).problem is None
