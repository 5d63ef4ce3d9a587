"""Connecting happens once a process, so tests that really connect start a fresh interpreter."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from flowerkit.accelerator import device
from flowerkit.accelerator.device import choose_precision, connect
from flowerkit.accelerator.machine import CHOSEN_BACKEND, RECORDED_VARIABLES

MACHINES = """
    from flowerkit.accelerator.device import connect
    from flowerkit.accelerator.machine import Evidence

    tpu_files = frozenset({f"/dev/vfio/{n}" for n in range(8)})
    kaggle = Evidence(
        environ={"ISTPUVM": "1", "TPU_WORKER_HOSTNAMES": "WARNING: not found"},
        device_files=tpu_files,
        modules=frozenset({"keras", "tensorflow", "tensorflow-cpu", "jax", "libtpu"}),
    )
    tpu_vm = Evidence(
        device_files=frozenset({"/dev/accel0"}),
        modules=frozenset({"keras", "tensorflow", "tensorflow-tpu"}),
    )
    gpu_jax = Evidence(
        environ={"KERAS_BACKEND": "jax"},
        device_files=frozenset({"/dev/nvidia0"}),
        modules=frozenset({"keras", "tensorflow", "jax"}),
    )
    gpu_tf = Evidence(
        device_files=frozenset({"/dev/nvidia0"}), modules=frozenset({"keras", "tensorflow"})
    )

    def error(**arguments):
        try:
            return str(connect(**arguments))
        except Exception as problem:
            return f"{type(problem).__name__}: {problem}"
"""


def run_fresh(code, hidden=None, **environ):
    """What `code` leaves in `found`, from a new interpreter without this one's choices."""
    hide = f"import sys; sys.modules[{hidden!r}] = None" if hidden else ""
    dropped = (*RECORDED_VARIABLES, "FLOWERKIT_VIRTUAL_CPUS", "XLA_FLAGS")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    parts = (hide, MACHINES, code, "import json; print(json.dumps(found))")
    text = "\n".join(map(textwrap.dedent, parts))
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**kept, "TF_CPP_MIN_LOG_LEVEL": "3", **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_flowerkit_chooses_the_backend_and_loads_no_framework():
    found = run_fresh("""
        import os, sys
        heavy = [n for n in ("keras", "tensorflow", "jax", "psutil", "numpy") if n in sys.modules]
        found = [os.environ["KERAS_BACKEND"], heavy]
    """)
    assert found == ["tensorflow", []]


def test_importing_flowerkit_chooses_the_backend_that_is_installed(tmp_path):
    """JAX alone, though TensorFlow would be preferred."""
    code = "import os; found = os.environ['KERAS_BACKEND']"
    assert run_fresh(code, hidden="tensorflow") == "jax"


def test_the_users_backend_is_kept_and_a_child_does_not_take_ours_for_the_users():
    code = "import os; found = os.environ['KERAS_BACKEND']"
    assert run_fresh(code, KERAS_BACKEND="jax") == "jax"
    assert run_fresh(code, KERAS_BACKEND="torch") == "torch"
    ours = {"KERAS_BACKEND": "jax", CHOSEN_BACKEND: "jax"}
    assert run_fresh(code, **ours) == "tensorflow"


def test_requiring_a_tpu_on_this_machine_fails_before_a_framework_is_imported():
    found = run_fresh("""
        import sys
        found = [error(require="tpu"), error(require="tpu", evidence=gpu_tf)]
        found += [error(require="gpu"), error(require="gpu", evidence=kaggle)]
        found.append([name for name in ("keras", "tensorflow", "jax") if name in sys.modules])
    """)
    assert found[0].startswith("RuntimeError: require='tpu', but no TPU or GPU is attached")
    assert "Run on a machine with a TPU" in found[0]
    assert "a GPU is attached (/dev/nvidia0)" in found[1]
    assert "require='gpu', but no TPU or GPU is attached" in found[2]
    assert "session with a GPU" in found[3]
    assert all("--require" in message for message in found[:4])
    assert found[4] == []


def test_a_backend_problem_stops_connect():
    found = run_fresh("found = error()", KERAS_BACKEND="torch")
    assert found.startswith("RuntimeError: flowerkit runs on tensorflow or jax, but KERAS_BACKEND")


def test_tensorflow_says_that_a_tpu_did_not_start_and_connects_once_to_the_cpu():
    found = run_fresh("""
        import os
        failed = error(evidence=tpu_vm)
        no_gpu = error(evidence=gpu_tf, require="gpu")
        device = connect(require="cpu", evidence=tpu_vm)
        import keras

        with connect(precision="bfloat16").scope():
            layer = keras.layers.Dense(2)
            inside = [keras.config.dtype_policy().name, layer.compute_dtype, layer.variable_dtype]
        try:
            with connect(precision="float16").scope():
                raise KeyError
        except KeyError:
            pass
        found = {
            "failed": failed, "no_gpu": no_gpu, "text": str(device),
            "inside": inside, "outside": keras.config.dtype_policy().name,
            "same": connect() is device is connect("cpu"),
            "half": str(connect(precision="float16")),
            "late": error(require="gpu", evidence=gpu_tf),
            "backend": os.environ["KERAS_BACKEND"],
        }
    """)
    assert "a TPU is attached but did not start: TPUs not found in the cluster." in found["failed"]
    assert 'require="cpu" (--require cpu)' in found["failed"]
    assert "which sees no GPU" in found["no_gpu"]
    assert 'pip install "tensorflow[and-cuda]"' in found["no_gpu"]
    reason = "a CPU was requested; Keras runs on tensorflow"
    assert found["text"] == f"CPU: 1 replica, tensorflow, float32 ({reason})"
    assert found["inside"] == ["mixed_bfloat16", "bfloat16", "float32"]
    assert found["outside"] == "float32"
    assert found["same"] is True
    assert found["half"] == f"CPU: 1 replica, tensorflow, float16 ({reason})"
    assert "already connected to CPU: 1 replica" in found["late"]
    assert "pass require='gpu'" in found["late"]
    assert found["backend"] == "tensorflow"


def test_tensorflow_has_eight_replicas_on_virtual_cpus_inside_the_scope():
    found = run_fresh(
        """
        device = connect()
        import tensorflow as tf
        with device.scope():
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
        outside = tf.distribute.has_strategy()
        found = [str(device), device.replicas, replicas, outside, connect("cpu") is device]
        """,
        FLOWERKIT_VIRTUAL_CPUS="8",
    )
    assert found[0].startswith(
        "CPU: 8 replicas, tensorflow, float32 (8 virtual CPUs were requested"
    )
    assert found[1:] == [8, 8, False, True]


def test_jax_says_that_a_tpu_did_not_start_and_that_it_sees_no_gpu():
    found = run_fresh(
        """
        import os, sys
        failed = error(evidence=kaggle)
        dropped = "TPU_WORKER_HOSTNAMES" not in os.environ
        device = connect(evidence=gpu_jax)
        import keras
        keras.utils.set_random_seed(0)
        found = [failed, dropped, device.kind, device.reason, keras.config.backend()]
        found.append("tensorflow" in sys.modules)
        """,
        KERAS_BACKEND="jax",
        TPU_WORKER_HOSTNAMES="WARNING: not found",
    )
    failed, dropped, kind, reason, backend, has_tensorflow = found
    assert failed.startswith("RuntimeError: a TPU is attached but did not start: ")
    assert 'Restart the session, or pass require="cpu"' in failed
    assert dropped
    assert (kind, backend, has_tensorflow) == ("cpu", "jax", False)
    assert reason == (
        "a GPU is attached (/dev/nvidia0); KERAS_BACKEND=jax is set, which sees no GPU"
    )


def test_jax_has_eight_replicas_on_virtual_cpus_from_the_environment(tmp_path):
    found = run_fresh(
        """
        import sys
        device = connect(precision="bfloat16")
        import jax, keras
        shards = keras.distribution.distribution().device_mesh.shape[0]
        found = [str(device), shards, "tensorflow" in sys.modules]
        found += [connect() is device, error(num_hosts=4)]
        jax.jit(lambda x: x + 1)(0)
        found.append(jax.config.jax_compilation_cache_dir)
        """,
        KERAS_BACKEND="jax",
        FLOWERKIT_VIRTUAL_CPUS="8",
        FLOWERKIT_CACHE=str(tmp_path),
    )
    device, shards, has_tensorflow, same, other, compiled = found
    assert device == (
        "CPU: 8 replicas, jax, bfloat16 (8 virtual CPUs were requested; KERAS_BACKEND=jax is set)"
    )
    assert (shards, has_tensorflow, same) == (8, False, True)
    assert "num_hosts=4 to the first connect()" in other
    assert compiled == str(tmp_path / "compiled")
    assert list((tmp_path / "compiled").iterdir())  # even what took no time


def test_jax_keeps_its_compilations_in_the_users_own_folder():
    code = "connect('cpu'); import jax; found = jax.config.jax_compilation_cache_dir"
    variables = {"KERAS_BACKEND": "jax", "JAX_COMPILATION_CACHE_DIR": "mine"}
    assert run_fresh(code, **variables) == "mine"


def test_jax_used_before_connect_is_an_error_with_the_remedy():
    found = run_fresh(
        "import jax; jax.devices(); found = error()",
        KERAS_BACKEND="jax",
        FLOWERKIT_VIRTUAL_CPUS="8",
    )
    assert found.startswith("RuntimeError: jax did not start on the CPU: jax_num_cpu_devices")
    assert found.endswith("Restart the session and call connect() before anything else uses jax.")


def test_a_cuda_plugin_of_another_version_than_jaxlib_is_named(monkeypatch):
    found = {"jaxlib": "0.10.2", "jax-cuda12-plugin": "0.9.1", "jax-cuda13-plugin": None}
    monkeypatch.setattr(device, "versions", lambda: found)
    assert device._find_plugin_gap() == " (jax-cuda12-plugin 0.9.1 does not fit jaxlib 0.10.2)"
    found["jax-cuda12-plugin"] = "0.10.2"
    assert device._find_plugin_gap() == ""


def test_several_tasks_are_refused_where_only_tensorflow_is_there():
    found = run_fresh("""
        tasks = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
        modules = frozenset({"keras", "tensorflow"})
        found = error(evidence=Evidence(environ=tasks, modules=modules))
    """)
    assert found.startswith("RuntimeError: 2 hosts (SLURM) train one model on jax alone")
    assert "KERAS_BACKEND=jax" in found


def test_an_unknown_requirement_is_refused():
    with pytest.raises(
        ValueError, match="None, tpu, gpu, cpu. Received: 'tpus'. Did you mean 'tpu'"
    ):
        connect("tpus")


@pytest.mark.parametrize(
    ("kind", "capabilities", "precision"),
    [
        ("tpu", [], "bfloat16"),
        ("cpu", [], "float32"),
        ("gpu", ["8.0"], "bfloat16"),
        ("gpu", ["9.0", "10.0"], "bfloat16"),
        ("gpu", ["7.5", "7.5"], "float32"),  # Kaggle's two T4
        ("gpu", ["6.0"], "float32"),
        ("gpu", ["8.0", "7.5"], "float32"),
        ("gpu", ["gfx942"], "float32"),
        ("gpu", [""], "float32"),
        ("gpu", [], "float32"),
    ],
)
def test_the_precision_is_that_of_the_device(kind, capabilities, precision):
    assert choose_precision(kind, capabilities) == precision


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="auto, float32, .*'bfloat'. Did you mean 'bfloat16'"):
        connect(precision="bfloat")


@pytest.mark.parametrize("number", ["0", "-1", "2.5", "many"])
def test_a_bad_number_of_virtual_cpus_is_refused(monkeypatch, number):
    monkeypatch.setenv("FLOWERKIT_VIRTUAL_CPUS", number)
    with pytest.raises(ValueError, match="VIRTUAL_CPUS must be a whole number from 1"):
        connect()


def test_virtual_cpus_and_a_required_tpu_contradict_each_other(monkeypatch):
    monkeypatch.setenv("FLOWERKIT_VIRTUAL_CPUS", "8")
    with pytest.raises(ValueError, match="FLOWERKIT_VIRTUAL_CPUS=8 contradicts"):
        connect("tpu")
