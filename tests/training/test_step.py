"""step: it can be compiled without TensorFlow."""

import os
import subprocess
import sys


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
