import argparse
import subprocess
import sys

import pytest

from flowerkit.cli.terminal import connect_device


def test_log_lines_hold_nothing_that_a_terminal_obeys():
    code = (
        "import logging; from flowerkit.cli.terminal import start_log; start_log();"
        "logging.getLogger('flowerkit').info('left out: %s', 'a\\x1b[31m.jpg')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "left out: a?[31m.jpg\n"


def test_a_device_has_its_line_and_another_than_required_is_refused(accelerator):
    lines = []
    args = argparse.Namespace(require=None, precision="auto", compile_cache=None)
    assert connect_device(args, lines.append) is accelerator
    assert lines == [str(accelerator)]
    other = "gpu" if accelerator.kind != "gpu" else "tpu"
    with pytest.raises((RuntimeError, ValueError), match=f"require='{other}'"):
        connect_device(argparse.Namespace(**vars(args) | {"require": other}), lines.append)
    assert lines == [str(accelerator)]
