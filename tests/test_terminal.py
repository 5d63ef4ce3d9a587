"""terminal: the progress line."""

import io

from flowerkit import terminal as terminal_room
from flowerkit.terminal import ProgressLine


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
