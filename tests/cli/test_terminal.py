import io
import os
import subprocess
import sys

import pytest

from flowerkit.cli import terminal
from flowerkit.cli.terminal import ProgressBar, connect_device, quiet_frameworks


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_log_lines_hold_nothing_that_a_terminal_obeys():
    code = (
        "import logging; from flowerkit.cli.terminal import start_log; start_log();"
        "logging.getLogger('flowerkit').info('left out: %s', 'a\\x1b[31m.jpg')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "left out: a?[31m.jpg\n"


def test_progress_is_a_bar_with_count_and_rate_that_vanishes(monkeypatch):
    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(terminal.sys, "stderr", screen)
    bar = ProgressBar()
    bar("drawing", 1, 2001)
    bar("drawing", 201, 2001)
    bar.stop()
    assert "drawing" in screen.getvalue()
    assert "201/2001" in screen.getvalue()
    assert screen.getvalue().rstrip().endswith("\x1b[2K")  # the line is erased


def test_progress_stays_quiet_where_there_is_no_terminal(capsys):
    ProgressBar()("drawing", 1, 2)
    assert capsys.readouterr() == ("", "")


def make_noise_and_fail(error):
    with quiet_frameworks():
        os.write(2, b"noise")
        raise error


@pytest.mark.parametrize(
    ("error", "is_shown"),
    [
        (RuntimeError("it did not start"), True),
        (ImportError("no module"), True),
        (ValueError("a wrong value"), False),
        (FileNotFoundError("no file"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_the_frameworks_noise_is_shown_where_it_may_explain_the_error(capfd, error, is_shown):
    with pytest.raises(type(error)):
        make_noise_and_fail(error)
    assert (capfd.readouterr().err == "noise") == is_shown


def test_the_frameworks_noise_is_held_back_where_all_went_well(capfd):
    with quiet_frameworks():
        os.write(2, b"noise")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("given", "used"), [(None, "3"), ("", "3"), ("0", "0")])
def test_only_a_level_that_the_user_chose_is_kept(monkeypatch, given, used):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", given or "")
    if given is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    with quiet_frameworks():
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == used


def test_a_device_has_its_line_and_another_than_required_is_refused(accelerator):
    lines = []
    assert connect_device(None, lines.append) is accelerator
    assert lines == [str(accelerator)]
    other = "gpu" if accelerator.kind != "gpu" else "tpu"
    with pytest.raises((RuntimeError, ValueError), match=f"require='{other}'"):
        connect_device(other, lines.append)
    assert lines == [str(accelerator)]
