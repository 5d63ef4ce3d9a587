from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from flowerkit.plots import curves as plots
from flowerkit.plots import rates as plots_rates
from flowerkit.schedules import COMPETITION, NOTEBOOK, OneCycle

pytestmark = pytest.mark.usefixtures("no_screen")


def history(num_epochs):
    return [
        {"epoch": k + 1, "planned_lr": COMPETITION(k), "learning_rate": COMPETITION(k)}
        for k in range(num_epochs)
    ]


def test_they_are_to_be_had_from_plots_too():
    for name in ("plot_schedule", "plot_rates", "plot_rate_search"):
        assert getattr(plots, name) is getattr(plots_rates, name)


def test_a_schedule_has_a_dot_at_the_rate_of_each_epoch(ax):
    assert plots_rates.plot_schedule(NOTEBOOK, 3, ax) is ax
    dots = ax.lines[1]
    assert dots.get_xdata().tolist() == [1, 2, 3]
    assert dots.get_ydata() == pytest.approx([0.001, 0.0013, 0.0016])
    assert ax.get_title(loc="left") == str(NOTEBOOK)
    assert ax.get_ylabel() == "learning rate, in $10^{-3}$"
    with pytest.raises(ValueError, match="epochs is 0"):
        plots_rates.plot_schedule(NOTEBOOK, 0, ax)


def test_a_schedule_that_moves_within_epochs_is_drawn_to_the_end_of_the_last(ax):
    plots_rates.plot_schedule(OneCycle(max_lr=0.01, epochs=3), 3, ax)
    line, dots = ax.lines
    assert line.get_xdata()[-1] == ax.get_xlim()[1] == 4
    assert line.get_ydata()[-1] == pytest.approx(1e-7)
    assert dots.get_xdata().tolist() == [1, 2, 3]
    assert ax.get_ylim()[1] > max(line.get_ydata()) > max(dots.get_ydata())


def test_planned_and_used_rates_that_agree_are_said_to(ax):
    plots_rates.plot_rates(history(6), ax)
    assert ax.get_title(loc="left") == "The learning rate was as planned"
    assert [line.get_label() for line in ax.lines] == ["planned", "used"]


def test_of_a_single_epoch_the_planned_rate_is_a_mark(ax):
    plots_rates.plot_rates(history(1), ax)
    assert ax.lines[0].get_marker() == "s"


def test_a_rate_that_was_not_the_planned_one_is_ringed_and_counted(ax):
    rows = history(6)
    rows[4]["learning_rate"] *= 0.5
    plots_rates.plot_rates(rows, ax)
    assert ax.get_title(loc="left") == "The learning rate was not as planned in 1 of 6 epochs"
    assert ax.collections[0].get_offsets()[:, 0].tolist() == [5]


def search(losses=None, **changed):
    rates = 10.0 ** np.arange(-6, 2)
    smoothed = np.array([4.6, 4.6, 4.4, 3.8, 3.0, 2.5, 3.2, 10.0])
    facts = {
        "rates": rates,
        "smoothed": smoothed,
        "losses": smoothed + 0.1 if losses is None else losses,
        "suggestions": {"valley": 1e-3, "steep": 3e-3, "minimum_over_10": 0.01},
        "stop_reason": "the loss diverged at a rate of 10",
        "global_batch": 128,
    }
    return SimpleNamespace(**(facts | changed))


def labels_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_phases_are_marked_where_they_begin(ax):
    rows = [row | {"phase": 1.0 if row["epoch"] < 3 else 2.0} for row in history(5)]
    plots_rates.plot_rates(rows, ax)
    assert [text.get_text() for text in ax.texts] == ["phase 2 →"]
    assert [line.get_xdata() for line in ax.lines if line.get_linestyle() == ":"] == [[2.5, 2.5]]


def test_a_history_of_one_phase_or_without_phases_has_no_mark(ax):
    assert plots_rates.find_phase_starts(history(3)) == []
    rows = [row | {"phase": 1.0} for row in history(3)]
    assert plots_rates.mark_phases(ax, rows) is False
    assert not ax.texts
    # A run that was begun before phases were recorded, and resumed after.
    mixed = [*history(2), {"epoch": 3, "phase": 1.0}, {"epoch": 4, "phase": 2.0}]
    assert plots_rates.find_phase_starts(mixed) == [(2, 4)]


def test_a_range_test_shows_both_losses_and_every_suggestion(ax):
    assert plots_rates.plot_rate_search(search(), ax) is ax
    assert ax.get_xscale() == "log"
    assert labels_of(ax) == [
        "each batch",
        "smoothed",
        "valley: 0.001",
        "steepest: 0.003",
        "minimum / 10: 0.01",
    ]
    assert ax.get_title(loc="left") == "Range test: the loss diverged at a rate of 10"
    assert ax.get_xlabel() == "learning rate, for batches of 128"
    marks = [line for line in ax.lines if line.get_markersize() == 9]
    assert [line.get_xdata()[0] for line in marks] == [1e-3, 3e-3, 0.01]
    assert marks[0].get_ydata()[0] == pytest.approx(3.8)  # on the smoothed curve
    assert marks[2].get_ydata()[0] == pytest.approx(3.0)


def test_a_loss_that_diverged_runs_out_of_the_picture_and_the_valley_fills_it(ax):
    for first in (4.6, 2.4):  # a lucky first batch may be the lowest of the smoothed
        smoothed = np.r_[first, search().smoothed[1:]]
        plots_rates.plot_rate_search(search(smoothed=smoothed), ax)
        bottom, top = ax.get_ylim()
        assert 2 < bottom < 2.5
        assert 4.7 < top < 5.5


def test_a_flat_curve_without_suggestions_can_be_drawn(tmp_path):
    flat = np.full(8, 4.6)
    ax = plots_rates.plot_rate_search(search(flat, smoothed=flat, suggestions={}))
    plots.save_figure(ax, tmp_path / "flat.png")
    assert (tmp_path / "flat.png").stat().st_size > 5000
    assert plt.get_fignums() == []
