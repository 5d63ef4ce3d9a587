"""Connecting happens once a process, so tests that really connect start a fresh interpreter."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from flowerkit.accelerator.device import Accelerator, connect
from flowerkit.accelerator.machine import CHOSEN_BACKEND, RECORDED_VARIABLES

MACHINES = """
    from flowerkit.accelerator.device import Evidence, connect

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

    def error(**wishes):
        try:
            return str(connect(**wishes))
        except Exception as problem:
            return f"{type(problem).__name__}: {problem}"
"""
FIT = """
    def fit_one_step():
        import keras
        import numpy

        with device.scope():
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
            model.compile("sgd", "mse")
        images, targets = numpy.ones((16, 4), "float32"), numpy.ones((16, 3), "float32")
        losses = model.fit(images, targets, batch_size=16, epochs=2, verbose=0).history["loss"]
        return losses[1] < losses[0]
"""


def run_fresh(code, **environ):
    """What `code` leaves in `found`, from a new interpreter without this one's choices."""
    dropped = (*RECORDED_VARIABLES, "FLOWERKIT_VIRTUAL_CPUS", "XLA_FLAGS")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    parts = (MACHINES, FIT) if "fit_one_step" in code else (MACHINES,)
    text = "\n".join(map(textwrap.dedent, (*parts, code, "import json; print(json.dumps(found))")))
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
    tpu = "Run on a machine with a TPU, or pass require=None."
    assert found[0] == (
        "RuntimeError: require='tpu', but no TPU or GPU is attached; Keras runs on tensorflow. "
        + tpu
    )
    assert found[1].endswith(f"a GPU is attached (/dev/nvidia0); Keras runs on tensorflow. {tpu}")
    assert found[2].startswith("RuntimeError: require='gpu', but no TPU or GPU is attached")
    assert found[3].endswith("Keras runs on jax. Choose a GPU session, or pass require=None.")
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
        from dataclasses import replace

        with replace(device, precision="mixed_bfloat16").scope():
            layer = keras.layers.Dense(2)
            inside = [keras.config.dtype_policy().name, layer.compute_dtype, layer.variable_dtype]
        try:
            with replace(device, precision="mixed_bfloat16").scope():
                raise KeyError
        except KeyError:
            pass
        found = {
            "failed": failed, "no_gpu": no_gpu, "device": device.to_dict(), "text": str(device),
            "inside": inside, "outside": keras.config.dtype_policy().name,
            "same": connect() is device is connect("cpu") is connect(virtual_cpus=1),
            "late": error(require="gpu", evidence=gpu_tf), "more": error(virtual_cpus=8),
            "backend": os.environ["KERAS_BACKEND"],
        }
    """)
    assert found["failed"].startswith(
        "RuntimeError: a TPU is attached but did not start: TPUs not found in the cluster."
    )
    assert found["failed"].endswith(
        'Restart the session, or pass require="cpu" to go on without it.'
    )
    assert found["no_gpu"] == (
        "RuntimeError: require='gpu', but a GPU is attached (/dev/nvidia0); Keras runs on "
        'tensorflow, which sees no GPU. For an NVIDIA GPU run pip install "tensorflow[and-cuda]" '
        "and restart the session, or pass require=None."
    )
    assert found["device"] == {
        "kind": "cpu",
        "backend": "tensorflow",
        "replicas": 1,
        "precision": "float32",
        "reason": "a CPU was asked for; Keras runs on tensorflow",
    }
    assert found["text"] == (
        "CPU: 1 replica, tensorflow, float32 (a CPU was asked for; Keras runs on tensorflow)"
    )
    assert found["inside"] == ["mixed_bfloat16", "bfloat16", "float32"]
    assert found["outside"] == "float32"
    assert found["same"] is True
    assert found["late"] == (
        f"RuntimeError: already connected to {found['text']}; require='gpu' came too late. "
        "Restart the session and ask at the first connect()."
    )
    assert "virtual_cpus=8 came too late" in found["more"]
    assert found["backend"] == "tensorflow"


def test_tensorflow_trains_on_eight_virtual_cpus():
    found = run_fresh("""
        device = connect(virtual_cpus=8)
        learned = fit_one_step()
        with device.scope():
            import tensorflow as tf
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
        outside = tf.distribute.has_strategy()
        found = [str(device), device.replicas, replicas, outside, learned, connect("cpu") is device]
    """)
    text = "CPU: 8 replicas, tensorflow, float32 (8 virtual CPUs were asked for; Keras runs on "
    assert found == [f"{text}tensorflow)", 8, 8, False, True, True]


def test_jax_says_that_a_tpu_did_not_start_and_that_it_sees_no_gpu():
    found = run_fresh(
        """
        import os, sys
        failed = error(evidence=kaggle)
        dropped = "TPU_WORKER_HOSTNAMES" not in os.environ
        device = connect(evidence=gpu_jax)
        import tensorflow as tf
        import keras
        found = [failed, dropped, device.kind, device.reason, keras.config.backend()]
        found.append(len(tf.config.get_visible_devices("GPU")))
        """,
        KERAS_BACKEND="jax",
        TPU_WORKER_HOSTNAMES="WARNING: not found",
    )
    failed, dropped, kind, reason, backend, visible_gpus = found
    assert failed.startswith("RuntimeError: a TPU is attached but did not start: ")
    assert failed.endswith('. Restart the session, or pass require="cpu" to go on without it.')
    assert dropped
    assert (kind, backend, visible_gpus) == ("cpu", "jax", 0)
    assert reason == (
        "a GPU is attached (/dev/nvidia0); KERAS_BACKEND=jax is set, which sees no GPU"
    )


def test_jax_trains_on_eight_virtual_cpus_asked_for_by_the_environment():
    found = run_fresh(
        """
        import sys
        device = connect()
        learned = fit_one_step()
        import keras
        shards = keras.distribution.distribution().device_mesh.shape[0]
        found = [device.to_dict(), shards, learned, "tensorflow" in sys.modules]
        found += [connect(virtual_cpus=8) is device, error(virtual_cpus=4)]
        """,
        KERAS_BACKEND="jax",
        FLOWERKIT_VIRTUAL_CPUS="8",
    )
    device, shards, learned, has_tensorflow, same, other = found
    assert (device["kind"], device["backend"], device["replicas"]) == ("cpu", "jax", 8)
    assert device["reason"] == "8 virtual CPUs were asked for; KERAS_BACKEND=jax is set"
    assert (shards, learned, has_tensorflow, same) == (8, True, False, True)
    assert "virtual_cpus=4 came too late" in other


def test_jax_keeps_what_it_compiles_but_not_over_a_folder_of_yours(tmp_path):
    code = "connect(); import jax; found = jax.config.jax_compilation_cache_dir"
    ours = run_fresh(code, KERAS_BACKEND="jax", FLOWERKIT_CACHE=str(tmp_path))
    assert ours == str(tmp_path / "compiled")
    yours = run_fresh(
        code, KERAS_BACKEND="jax", FLOWERKIT_CACHE=str(tmp_path), JAX_COMPILATION_CACHE_DIR="yours"
    )
    assert yours == "yours"


def test_jax_used_before_connect_is_an_error_with_the_remedy():
    found = run_fresh(
        "import jax; jax.devices(); found = error(virtual_cpus=8)", KERAS_BACKEND="jax"
    )
    assert found.startswith("RuntimeError: jax did not start on the CPU: jax_num_cpu_devices")
    assert found.endswith("Restart the session and call connect() before anything else uses jax.")


def test_an_unknown_requirement_is_refused():
    message = r"require must be None, 'tpu', 'gpu' or 'cpu', got 'tpus'. Did you mean 'tpu'\?"
    with pytest.raises(ValueError, match=message):
        connect("tpus")


@pytest.mark.parametrize("number", [0, -1, 2.5, "many"])
def test_a_bad_number_of_virtual_cpus_is_refused(number):
    with pytest.raises(ValueError, match="virtual_cpus must be a whole number from 1, got"):
        connect(virtual_cpus=number)


def test_virtual_cpus_and_a_required_tpu_contradict_each_other(monkeypatch):
    with pytest.raises(ValueError, match="virtual_cpus=8 asks for CPUs, require='tpu' does not"):
        connect("tpu", virtual_cpus=8)
    monkeypatch.setenv("FLOWERKIT_VIRTUAL_CPUS", "8")
    with pytest.raises(ValueError, match="FLOWERKIT_VIRTUAL_CPUS=8 asks for CPUs"):
        connect("tpu")


def test_an_accelerator_prints_on_one_line():
    tpu = Accelerator("tpu", "jax", 8, "mixed_bfloat16", "a TPU is attached; Keras runs on jax")
    assert str(tpu) == (
        "TPU: 8 replicas, jax, mixed_bfloat16 (a TPU is attached; Keras runs on jax)"
    )
