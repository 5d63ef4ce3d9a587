import io
import logging
import os
import subprocess
import sys

import pytest

from flowerkit import console
from flowerkit.console import ProgressLine, quiet_frameworks, showing, shows_progress

LOG = logging.getLogger("flowerkit")
NOISE = b"""WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795755749.277393   11288 port.cc:153] oneDNN custom operations are on.
2026-11-27 05:06:07.812345: W tensorflow/core/framework/local_rendezvous.cc:407] End of sequence
E0000 00:00:1795755771.349781   11288 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR
To enable the following instructions: AVX2 AVX512F FMA, rebuild TensorFlow.
"""


@pytest.fixture
def bare():
    """Called in a test, makes logging what it is in a new process: pytest's handlers are gone."""
    root = logging.getLogger()
    yield root.handlers.clear
    root.handlers.clear()
    root.setLevel(logging.WARNING)
    LOG.setLevel(logging.NOTSET)


def speak():
    LOG.info("epoch 1/3")
    LOG.warning("few steps")


# Log lines ----------------------------------------------------------------------------------------


def test_a_call_from_python_shows_its_lines_and_leaves_logging_as_it_was(bare, capsys):
    bare()
    with showing(), showing():  # a call inside a call
        speak()
    LOG.info("later")
    assert capsys.readouterr() == ("", "epoch 1/3\nfew steps\n")
    assert (LOG.level, LOG.handlers, LOG.propagate) == (logging.NOTSET, [], True)


def test_it_leaves_logging_as_it_was_after_an_error_too(bare):
    bare()
    with pytest.raises(KeyError), showing():
        raise KeyError
    assert (LOG.level, LOG.handlers, LOG.propagate) == (logging.NOTSET, [], True)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_your_own_configuration_replaces_it_and_no_line_comes_twice(bare, capsys, level):
    bare()
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stdout)
    with showing():
        speak()
    assert capsys.readouterr() == ("INFO epoch 1/3\nWARNING few steps\n", "")


def test_a_configuration_for_warnings_gets_the_warnings_alone(bare, capsys):
    """absl and Colab make one, too, so it does not mean that nobody wants to see the epochs."""
    bare()
    with showing():
        logging.basicConfig(format="mine: %(message)s", stream=sys.stdout)  # also meanwhile
        speak()
    assert capsys.readouterr() == ("mine: few steps\n", "epoch 1/3\n")


@pytest.mark.parametrize("level", ["WARNING", "ERROR"])
def test_a_level_of_the_logger_decides(bare, capsys, level, monkeypatch):
    bare()
    monkeypatch.setattr(console, "SECONDS_A_LINE", 0)
    LOG.setLevel(level)
    with showing() as progress:
        speak()
        progress("epoch 1/3", 1, 10)
        progress("epoch 1/3", 2, 10)
    assert capsys.readouterr().err == ("few steps\n" if level == "WARNING" else "")
    assert LOG.level == getattr(logging, level)


def test_a_handler_of_the_logger_decides(bare, capsys):
    bare()
    handler = logging.StreamHandler(io.StringIO())
    LOG.addHandler(handler)
    try:
        with showing():
            speak()
    finally:
        LOG.removeHandler(handler)
    assert handler.stream.getvalue() == "few steps\n"
    assert capsys.readouterr() == ("", "")


def test_in_a_notebook_lines_are_below_the_cell_and_no_error(bare, capsys, monkeypatch):
    bare()
    monkeypatch.setattr(console, "in_notebook", lambda: True)
    with showing():
        speak()
    assert capsys.readouterr() == ("epoch 1/3\nfew steps\n", "")


def test_of_several_processes_one_speaks(bare, capsys):
    bare()
    with showing(speaks=False) as progress:
        LOG.info("epoch 1/3")
    assert (progress, capsys.readouterr()) == (None, ("", ""))


def test_a_function_gets_a_progress_unless_you_pass_yours(bare):
    bare()

    @shows_progress
    def work(num, *, progress=None):
        return num, progress

    assert isinstance(work(3)[1], ProgressLine)
    assert work(3, progress=print) == (3, print)


# Progress -----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    times = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: times[0])
    return times


def test_on_a_terminal_progress_is_one_live_line_that_vanishes(bare, clock, monkeypatch):
    bare()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    LOG.setLevel(logging.INFO)
    screen = Terminal()
    progress = ProgressLine(screen)
    for done, seconds in ((1, 0), (2, 0.1), (201, 100), (2001, 400)):
        clock[0] = 1000 + seconds
        progress("drawing", done, 2001)
    assert screen.getvalue().split("\r\x1b[K") == [
        "",
        "drawing: 1 of 2,001",
        "drawing: 201 of 2,001, 2/s, 15 min 0 s left",
        "",
    ]
    progress("a name\x1b[31m that is longer than the line of this terminal", 1, 9)
    assert screen.getvalue().endswith("a name?[31m that is longer than the line of this terminal: ")


def test_elsewhere_it_is_a_line_a_minute(bare, clock, capsys):
    bare()
    with showing() as progress:
        for step in range(1, 200):  # a step a second, and the first has compiled
            clock[0] += 1
            progress("epoch 2/12", step, 200)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 2/12: 61 of 200, 1/s, 2 min 19 s left",
        "epoch 2/12: 121 of 200, 1/s, 79 s left",
        "epoch 2/12: 181 of 200, 1/s, 19 s left",
    ]


def test_short_epochs_have_no_lines_of_progress(bare, clock, capsys):
    bare()
    with showing() as progress:
        for epoch in range(20):
            for step in range(1, 31):
                clock[0] += 1
                progress(f"epoch {epoch}/20", step, 30)
    assert capsys.readouterr().err == ""


def test_a_log_line_on_a_terminal_replaces_the_live_line(bare, monkeypatch):
    bare()
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with showing() as progress:
        progress("epoch 1/3", 1, 9)
        LOG.info("a line")
    assert screen.getvalue() == "\r\x1b[Kepoch 1/3: 1 of 9\r\x1b[Ka line\n\r\x1b[K"


# Frameworks ---------------------------------------------------------------------------------------


def make_noise_and_fail(error):
    with quiet_frameworks():
        os.write(2, NOISE)
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
    assert (capfd.readouterr().err == NOISE.decode()) == is_shown


def test_only_the_frameworks_noise_is_held_back_where_all_went_well(capfd):
    with quiet_frameworks():
        with quiet_frameworks():
            os.write(2, NOISE)
        os.write(2, b"UserWarning: of a library\nIn 3 cases more\n")
    assert capfd.readouterr().err == "UserWarning: of a library\nIn 3 cases more\n"


@pytest.mark.parametrize(
    ("given", "used", "is_shown"),
    [(None, "2", False), ("", "2", False), ("3", "3", False), ("1", "1", True), ("0", "0", True)],
)
def test_a_level_that_the_user_chose_is_kept(monkeypatch, capfd, given, used, is_shown):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", given or "")
    if given is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    with quiet_frameworks():
        os.write(2, NOISE)
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == used
    assert bool(capfd.readouterr().err) == is_shown


@pytest.mark.backends
@pytest.mark.parametrize("use", ["flowerkit.connect('cpu')", "import keras; keras.ops.ones(1) + 1"])
def test_nothing_is_said_from_import_to_device(use):
    environment = {name: text for name, text in os.environ.items() if name != console.TF_LOG_LEVEL}
    command = [sys.executable, "-c", f"import flowerkit; flowerkit.train; {use}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("", "")
