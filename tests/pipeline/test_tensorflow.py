"""The adapter to tf.data, and that JAX needs none of it."""

import os
import subprocess
import sys

import numpy as np
import pytest

from flowerkit.data import load_split
from flowerkit.pipeline.batches import eval_batches, train_batches


def test_tensors_are_the_batches_in_their_order(drawn):
    pytest.importorskip("tensorflow")
    from flowerkit.pipeline.tensorflow import to_dataset

    batches = train_batches(
        load_split(drawn, "train"), global_batch=8, seed=3, num_classes=4, first_step=6
    )
    tensors = to_dataset(batches).take(9).as_numpy_iterator()
    for ((images, params), labels), expected in zip(tensors, batches, strict=False):
        np.testing.assert_array_equal(images, expected[0][0])
        np.testing.assert_array_equal(params, expected[0][1])
        np.testing.assert_array_equal(labels, expected[1])
    of_eval = to_dataset(eval_batches(load_split(drawn, "test"), global_batch=8))
    assert [int(weights.numpy().sum()) for _, _, weights in of_eval] == [8, 8, 6]
    shapes = [tuple(each.shape) for each in of_eval.element_spec]
    assert shapes == [(8, 32, 32, 3), (8,), (8,)]


def test_an_error_of_a_batch_names_its_cause(drawn):
    tf = pytest.importorskip("tensorflow")
    from flowerkit.pipeline.batches import ArraySpec, Batches
    from flowerkit.pipeline.tensorflow import to_dataset

    def fail(number):
        raise ValueError("record 7 is not a JPEG")

    batches = Batches(fail, (ArraySpec((1,), "int32"),))
    with pytest.raises(tf.errors.InvalidArgumentError, match="record 7 is not a JPEG"):
        next(iter(to_dataset(batches)))


# Where TensorFlow is installed beside JAX, nobody imports it: that would cost seconds and memory.
REFUSES = """
import pathlib, traceback
pathlib.Path(__file__ + ".asked").write_text("".join(traceback.format_stack()))
raise ImportError("TensorFlow is not to be imported here")
"""


def test_a_whole_run_on_jax_never_imports_tensorflow(drawn, tmp_path):
    pytest.importorskip("jax")
    fake = tmp_path / "packages" / "tensorflow" / "__init__.py"
    fake.parent.mkdir(parents=True)
    fake.write_text(REFUSES)
    path = os.pathsep.join(filter(None, [str(tmp_path / "packages"), os.environ.get("PYTHONPATH")]))
    options = "--plan smoke --epochs 1 --freeze-epochs 1 --per-replica-batch 8 --out run --data"
    done = subprocess.run(
        [sys.executable, "-m", "flowerkit", "train", *options.split(), str(drawn.folder)],
        env=os.environ
        | {"KERAS_BACKEND": "jax", "FLOWERKIT_VIRTUAL_CPUS": "2", "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    asked = fake.with_name("__init__.py.asked")
    assert done.returncode == 0, asked.read_text() if asked.exists() else done.stderr
    assert not asked.exists(), asked.read_text()
    assert (tmp_path / "run" / "submission.csv").is_file()
