"""terminal: the progress line, and noise that is held back."""

import io
import os

import pytest

from flowerkit.cli import terminal as terminal_room
from flowerkit.cli.terminal import ProgressLine, quiet_frameworks


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_line_with_rate_and_time_left_that_is_erased_at_the_end(monkeypatch):
    terminal, clock = Terminal(), iter([100.0, 102.0, 104.0])
    monkeypatch.setattr(terminal_room.sys, "stderr", terminal)
    monkeypatch.setattr(terminal_room.time, "monotonic", lambda: next(clock))
    line = ProgressLine()
    line("drawing", 1, 2001)
    line("drawing", 201, 2001)
    assert terminal.getvalue().endswith("\r\x1b[Kdrawing: 201 of 2,001, 100.0/s, 18 s left")
    assert "\n" not in terminal.getvalue()
    line("drawing", 2001, 2001)
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_progress_stays_quiet_where_there_is_no_terminal(capsys):
    ProgressLine()("drawing", 1, 2)
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
def test_only_a_level_that_somebody_chose_is_kept(monkeypatch, given, used):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", given or "")
    if given is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    with quiet_frameworks():
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == used
