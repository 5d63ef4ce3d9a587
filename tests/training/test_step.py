"""compiling: where augmentation runs, and that a step can be compiled without TensorFlow."""

import dataclasses
import os
import subprocess
import sys

import pytest

from flowerkit.accelerator.device import Accelerator
from flowerkit.pipeline import augment_host
from flowerkit.training import step as compiling


def test_augmentation_runs_where_the_device_is(quick_plan, monkeypatch):
    cpu = Accelerator("cpu", "tensorflow", 1, "float32", "a test")
    tpu = Accelerator("tpu", "jax", 8, "mixed_bfloat16", "a test")
    assert compiling.augments_on_host(quick_plan, cpu)
    assert not compiling.augments_on_host(quick_plan, tpu)
    forced = dataclasses.replace(quick_plan, augment_on="host")
    assert compiling.augments_on_host(forced, tpu)
    monkeypatch.setattr(augment_host, "is_available", lambda: False)
    assert not compiling.augments_on_host(quick_plan, cpu)
    with pytest.raises(ModuleNotFoundError, match=r"pip install opencv-python-headless, or pass"):
        compiling.augments_on_host(forced, tpu)


def test_no_tensorflow_is_needed():
    code = (
        "import sys; sys.modules['tensorflow'] = None; import flowerkit.training.step; "
        "print('tensorflow' in sys.modules and sys.modules['tensorflow'] is None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
