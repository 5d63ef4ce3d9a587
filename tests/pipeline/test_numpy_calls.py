"""numpy_calls: a program ends while TensorFlow's threads still want Python."""

import subprocess
import sys

import pytest
import tensorflow as tf

from flowerkit.pipeline import numpy_calls

# A variable of the script, and a traceback that is kept: both live until Python goes away.
SCRIPT = """
import numpy as np
from flowerkit.data.split import Split
from flowerkit.pipeline.batches import train_batches
images = np.zeros((256, 224, 224, 3), "uint8")
split = Split(images, np.zeros(256, "int32"), np.arange(256).astype(str), np.arange(256))
batches = iter(train_batches(split, global_batch=128, seed=0))
for _ in range(3):
    next(batches)
print("taken", flush=True)
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise KeyboardInterrupt", -2)])
def test_a_script_that_still_holds_an_iterator_ends(end, code):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + end],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "taken\n"
    assert done.returncode == code, done.stderr


def test_what_python_gives_is_a_tensor_of_the_dtype():
    doubled, named = numpy_calls.call_numpy(
        lambda number: (2 * number, str(number)), [tf.constant(4)], (tf.int32, tf.string)
    )
    assert int(doubled) == 8
    assert named.numpy() == b"4"


def test_an_error_in_python_reaches_the_caller_and_the_exit_waits_for_nobody():
    def fail(number):
        raise ValueError("no such batch")

    with pytest.raises(ValueError, match="no such batch"):
        numpy_calls.call_numpy(fail, [tf.constant(1)], (tf.int32,))
    assert not numpy_calls._inside
