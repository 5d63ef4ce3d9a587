from dataclasses import replace

import pytest

from flowerkit.accelerator.detection import detect
from flowerkit.accelerator.machine import Evidence

GARBAGE = (
    "WARNING: could not determine TPU worker hostnames or IP addresses, please set env var ..."
)
VFIO_8 = frozenset({"/dev/vfio/vfio"} | {f"/dev/vfio/{number}" for number in range(8)})
VFIO_1 = frozenset({"/dev/vfio/0", "/dev/vfio/vfio"})


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
    device_files=VFIO_1,
    modules=modules("jax", "libtpu", "google.colab"),
)
TPU_VM = Evidence(
    device_files=frozenset({f"/dev/accel{number}" for number in range(4)}),
    modules=modules("tensorflow", "tensorflow-tpu", "libtpu"),
)
BARE_V6E = Evidence(  # a Cloud TPU VM sets no variables; jax without its [tpu] extra
    device_files=VFIO_1,
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
PASS_THROUGH = Evidence(  # passes a GPU to virtual machines, and has libtpu to compile for TPUs
    device_files=frozenset({"/dev/vfio/vfio", "/dev/vfio/17"}),
    modules=modules("tensorflow", "jax", "libtpu"),
    pci_ids=frozenset({"10de:2204", "8086:1237"}),
)


def with_variables(evidence, **variables):
    return replace(evidence, environ={**evidence.environ, **variables})


LIBTPU = modules("jax", "libtpu")
RECORDED = {
    "Kaggle v5e-8": (KAGGLE, "tpu", "jax", "/dev/vfio/0 and 7 more, ISTPUVM is set"),
    "Kaggle's TPU image on a CPU machine": (
        replace(KAGGLE, device_files=frozenset({"/dev/vfio/vfio"})),
        *("cpu", "tensorflow", "ISTPUVM is set, but /dev has none"),
    ),
    "Colab v5e-1 without tensorflow": (COLAB, "tpu", "jax", "TPU_ACCELERATOR_TYPE is set"),
    "TPU VM with tensorflow-tpu only": (TPU_VM, "tpu", "tensorflow", "/dev/accel0 and 3 more"),
    "TPU VM with both": (
        replace(TPU_VM, modules=TPU_VM.modules | {"jax"}),
        *("tpu", "jax", "/dev/accel0 and 3 more"),
    ),
    "TPU VM with libtpu, PCI bus unreadable": (
        replace(BARE_V6E, modules=LIBTPU, pci_ids=frozenset()),
        *("tpu", "jax", "libtpu is installed"),
    ),
    "TPU VM with a chip too new for the table": (
        replace(BARE_V6E, modules=LIBTPU, pci_ids=frozenset({"1ae0:00ff"})),
        *("tpu", "jax", "libtpu is installed"),
    ),
    "GPUs with tensorflow": (GPU_TF, "gpu", "tensorflow", "(/dev/nvidia0 and 1 more)"),
    "GPU with jax only": (GPU_JAX, "gpu", "jax", "(/dev/nvidia0)"),
    "GPU whose tensorflow cannot use it but whose jax can": (
        replace(GPU_JAX, modules=GPU_JAX.modules | {"tensorflow", "tensorflow-cpu"}),
        *("gpu", "jax", "(/dev/nvidia0)"),
    ),
    "GPU hidden by the user": (
        with_variables(GPU_TF, CUDA_VISIBLE_DEVICES="-1"),
        *("cpu", "tensorflow", "CUDA_VISIBLE_DEVICES hides it"),
    ),
    "GPU under WSL2": (
        Evidence(device_files=frozenset({"/dev/dxg"}), modules=modules("tensorflow")),
        *("gpu", "tensorflow", "(/dev/dxg)"),
    ),
    "laptop with jax only": (
        replace(LAPTOP, modules=modules("jax")),
        *("cpu", "jax", "Keras runs on jax"),
    ),
    "laptop": (LAPTOP, "cpu", "tensorflow", "no TPU or GPU is attached; "),
    "laptop with the VFIO control file": (
        Evidence(device_files=frozenset({"/dev/vfio/vfio"}), modules=LIBTPU),
        *("cpu", "jax", "no TPU or GPU is attached; "),
    ),
    "GPU pass-through host": (
        PASS_THROUGH,
        *("cpu", "tensorflow", "/dev/vfio/17 shows no sign of a TPU"),
    ),
    "GPU pass-through host with a second GPU in use, PCI bus unreadable": (
        replace(
            PASS_THROUGH,
            device_files=PASS_THROUGH.device_files | {"/dev/nvidia0"},
            pci_ids=frozenset(),
        ),
        *("gpu", "tensorflow", "(/dev/nvidia0)"),
    ),
    "TPU that the user keeps jax off": (
        with_variables(KAGGLE, JAX_PLATFORMS="cpu"),
        *("cpu", "tensorflow", "JAX_PLATFORMS=cpu keeps jax off it"),
    ),
    "the user's own KERAS_BACKEND": (
        with_variables(LAPTOP, KERAS_BACKEND="jax"),
        *("cpu", "jax", "KERAS_BACKEND=jax is set"),
    ),
    "KERAS_BACKEND that flowerkit set itself": (
        with_variables(KAGGLE, KERAS_BACKEND="tensorflow", FLOWERKIT_CHOSEN_BACKEND="tensorflow"),
        *("tpu", "jax", "Keras runs on jax"),
    ),
    "keras already imported with another backend that also works": (
        replace(LAPTOP, keras_backend="jax"),
        *("cpu", "jax", "keras was already imported with jax"),
    ),
    "keras already imported with the right backend": (
        replace(KAGGLE, keras_backend="jax"),
        *("tpu", "jax", "Keras runs on jax"),
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_machine_is_recognised(name):
    evidence, kind, backend, reason = RECORDED[name]
    found = detect(evidence)
    assert (found.kind, found.backend, found.problem) == (kind, backend, None)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("evidence", "host"), [(KAGGLE, "kaggle"), (COLAB, "colab"), (LAPTOP, "local")]
)
def test_the_host_is_recognised(evidence, host):
    assert detect(evidence).host == host


CPU = '"cpu" (--require cpu)'
PROBLEMS = {
    "keras imported too early": (
        replace(KAGGLE, keras_backend="tensorflow"),
        *("keras was already imported with tensorflow", "import flowerkit before keras", CPU),
    ),
    "a KERAS_BACKEND that cannot reach the TPU": (
        with_variables(KAGGLE, KERAS_BACKEND="tensorflow"),
        *("KERAS_BACKEND=tensorflow is set", "set KERAS_BACKEND=jax", CPU),
    ),
    "jax without libtpu on a TPU VM": (
        replace(BARE_V6E, modules=modules("jax")),
        *("jax has no libtpu", 'pip install "jax[tpu]"', CPU),
    ),
    "a tensorflow without TPU support on a TPU VM": (
        BARE_V6E,
        *("this tensorflow is not built for TPUs", 'pip install "jax[tpu]"', CPU),
    ),
    "KERAS_BACKEND=torch": (
        with_variables(LAPTOP, KERAS_BACKEND="torch"),
        *("KERAS_BACKEND=torch is set", "unset it"),
    ),
    "keras imported with torch": (
        replace(LAPTOP, keras_backend="torch"),
        *("keras was already imported with torch", "before keras is imported"),
    ),
    "a KERAS_BACKEND that is not installed": (
        with_variables(replace(LAPTOP, modules=modules("tensorflow")), KERAS_BACKEND="jax"),
        *("jax is not installed", "pip install jax"),
    ),
    "no backend at all": (
        replace(LAPTOP, modules=modules()),
        "neither tensorflow nor jax is installed. Run: pip install tensorflow (or jax)",
    ),
    "no backend at all beside a TPU": (replace(TPU_VM, modules=modules()), '"jax[tpu]"'),
    "no backend at all beside a GPU": (
        replace(GPU_JAX, modules=modules()),
        *('"jax[cuda12]"', '"jax[cuda13]"'),
    ),
    "no keras": (replace(LAPTOP, modules=frozenset({"jax"})), 'pip install "keras>=3.10"'),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_names_the_fact_and_the_remedy(name):
    evidence, *tokens = PROBLEMS[name]
    problem = detect(evidence).problem
    assert [token for token in tokens if token not in problem] == []


def test_an_unreachable_tpu_is_still_a_tpu():
    assert detect(replace(KAGGLE, keras_backend="tensorflow")).kind == "tpu"


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
    assert detect(replace(PASS_THROUGH, environ={"ISTPUVM": value})).kind == "cpu"


def test_detection_reads_nothing_but_the_evidence(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("ISTPUVM", "1")
    assert detect(LAPTOP).problem is None
