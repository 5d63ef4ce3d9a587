import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from flowerkit import plots
from flowerkit.plots.curves import line_style
from flowerkit.schedules import NOTEBOOK, RAMP, OneCycle

pytestmark = pytest.mark.usefixtures("no_screen")


def history(num_epochs, first_of_phase_2=None):
    return [
        {
            "epoch": epoch,
            "loss": 3 / epoch,
            "accuracy": 1 - 1 / epoch,
            "val_loss": 4 / epoch,
            "val_accuracy": 0.5,
            "val_f1": 0.25,
            "planned_lr": RAMP(epoch - 1),
            "learning_rate": RAMP(epoch - 1),
            "phase": 2.0 if first_of_phase_2 and epoch >= first_of_phase_2 else 1.0,
        }
        for epoch in range(1, num_epochs + 1)
    ]


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# One run ------------------------------------------------------------------------------------------


def test_curves_show_loss_and_scores_and_mark_the_best_epoch(finished_run):
    epoch = finished_run.history.best["epoch"]
    loss_ax, score_ax = plots.plot_curves(finished_run.history, epoch)
    assert legend_of(score_ax) == [
        "training accuracy",
        "validation accuracy",
        "validation macro F1",
    ]
    assert texts_of(loss_ax) == texts_of(score_ax) == [f"best: epoch {epoch}"]
    (marked,) = [line for line in loss_ax.lines if line.get_markersize() == 9]
    assert marked.get_xydata().tolist() == [[epoch, finished_run.history.best["val_loss"]]]


@pytest.mark.parametrize("num_epochs", [1, 100])
def test_curves_of_few_and_many_epochs_are_drawn_into_given_axes(num_epochs):
    axes = plt.figure().subplots(1, 2)
    assert plots.plot_curves(history(num_epochs), best_epoch=1, axes=axes).tolist() == list(axes)
    assert axes[0].lines[0].get_xdata().tolist() == list(range(1, num_epochs + 1))


@pytest.mark.filterwarnings("error")
def test_a_loss_that_diverged_leaves_a_gap_and_the_layout_holds():
    rows = history(3)
    rows[1]["val_loss"] = math.nan
    plots.plot_curves(rows, best_epoch=1)[0].figure.canvas.draw()


def test_a_phase_begins_at_its_line():
    for ax in plots.plot_curves(history(6, first_of_phase_2=4), best_epoch=4):
        assert texts_of(ax) == ["phase 2 →", "best: epoch 4"]
        (begin,) = [line for line in ax.lines if line.get_linestyle() == ":"]
        assert begin.get_xdata() == [3.5, 3.5]
        assert ax.texts[0].get_position()[1] < ax.texts[1].get_position()[1]  # do not overlap


def test_an_empty_history_has_no_curve():
    with pytest.raises(ValueError, match="the history is empty"):
        plots.plot_curves([], best_epoch=1)
    with pytest.raises(ValueError, match="the history is empty"):
        plots.plot_rates([])
    assert plt.get_fignums() == []


def test_planned_and_used_rates_that_agree_are_called_so(ax):
    assert plots.plot_rates(history(6, first_of_phase_2=3), ax) is ax
    assert ax.get_title(loc="left") == "The learning rate was as planned"
    assert texts_of(ax) == ["phase 2 →"]


def test_of_a_single_epoch_the_planned_rate_is_a_mark(ax):
    plots.plot_rates(history(1), ax)
    assert ax.lines[0].get_marker() == "s"


def test_a_rate_that_was_not_the_planned_rate_is_ringed_and_counted(ax):
    rows = history(6)
    rows[4]["learning_rate"] *= 0.5
    plots.plot_rates(rows, ax)
    assert ax.get_title(loc="left").endswith("not as planned in 1 of 6 epochs")
    assert ax.lines[2].get_xdata().tolist() == [5]


# Learning rates -----------------------------------------------------------------------------------


def test_a_schedule_has_a_dot_at_the_rate_of_each_epoch(ax):
    assert plots.plot_schedule(NOTEBOOK, 3, ax) is ax
    dots = ax.lines[1]
    assert dots.get_xdata().tolist() == [1, 2, 3]
    assert dots.get_ydata() == pytest.approx([0.001, 0.0013, 0.0016])
    assert ax.get_title(loc="left") == str(NOTEBOOK)
    assert ax.get_ylabel() == "learning rate, in $10^{-3}$"
    with pytest.raises(ValueError, match="epochs is 0"):
        plots.plot_schedule(NOTEBOOK, 0, ax)


def test_a_schedule_that_moves_within_epochs_is_drawn_to_the_end_of_the_last(ax):
    plots.plot_schedule(OneCycle(max_lr=0.01, epochs=3), 3, ax)
    line, dots = ax.lines
    assert line.get_xdata()[-1] == ax.get_xlim()[1] == 4
    assert line.get_ydata()[-1] == pytest.approx(1e-7)
    assert dots.get_xdata().tolist() == [1, 2, 3]
    assert ax.get_ylim()[1] > max(line.get_ydata()) > max(dots.get_ydata())


def found(smoothed=(4.6, 4.6, 4.4, 3.8, 3.0, 2.5, 3.2, 10.0)):
    smoothed = np.array(smoothed)
    return SimpleNamespace(
        rates=10.0 ** np.arange(-6, 2),
        smoothed=smoothed,
        losses=smoothed + 0.1,
        suggestion=1e-3,
        stop_reason="the loss diverged at a rate of 10",
        global_batch=128,
    )


def test_a_range_test_shows_both_losses_and_the_suggestion(ax):
    assert plots.plot_lr_finder(found(), ax) is ax
    assert ax.get_xscale() == "log"
    assert legend_of(ax) == ["each batch", "smoothed", "valley: 0.001"]
    assert ax.get_title(loc="left") == "Range test: the loss diverged at a rate of 10"
    assert ax.get_xlabel() == "learning rate, for batches of 128"
    marks = [line for line in ax.lines if line.get_markersize() == 9]
    assert [line.get_xdata()[0] for line in marks] == [1e-3]
    assert marks[0].get_ydata()[0] == pytest.approx(3.8)  # on the smoothed curve


@pytest.mark.parametrize("first", [4.6, 2.4])  # a lucky first batch may be the lowest loss
def test_a_loss_that_diverged_leaves_the_plot_and_the_valley_fills_it(ax, first):
    plots.plot_lr_finder(found((first, 4.6, 4.4, 3.8, 3.0, 2.5, 3.2, 10.0)), ax)
    bottom, top = ax.get_ylim()
    assert 2 < bottom < 2.5
    assert 4.7 < top < 5.5


def test_a_flat_curve_can_be_drawn(ax):
    plots.plot_lr_finder(found([4.6] * 8), ax)
    assert ax.get_ylim()[0] < 4.6 < ax.get_ylim()[1]


# Several runs -------------------------------------------------------------------------------------


def scores(*f1, loss=1.0):
    return [
        {"epoch": epoch, "val_f1": value, "val_loss": 2 * loss / epoch, "loss": loss / epoch}
        for epoch, value in enumerate(f1, 1)
    ]


def lines_of(ax):
    """The curves as (epochs, values, width)."""
    return [
        (line.get_xdata().tolist(), line.get_ydata().tolist(), line.get_linewidth())
        for line in ax.lines
    ]


def test_21_lines_are_all_different():
    lines = [line_style(number) for number in range(21)]
    assert len(set(lines)) == 21
    assert (lines[0], lines[20]) == (("#0072B2", "solid"), ("#6E6E6E", "dotted"))


def test_each_experiment_has_a_line_in_each_panel():
    axes = plots.plot_comparison({"a": [scores(0.1, 0.5)], "장미": [scores(0.2, 0.3)]})
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles == ["Macro F1 on val", "Loss on val", "Loss in training"]
    assert lines_of(axes[0]) == [([1, 2], [0.1, 0.5], 2), ([1, 2], [0.2, 0.3], 2)]
    assert lines_of(axes[1])[0] == ([1, 2], [2, 1], 2)
    assert lines_of(axes[2])[0] == ([1, 2], [1, 0.5], 2)
    assert [line.get_color() for line in axes[2].lines] == ["#0072B2", "#D55E00"]
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "장미"]


def test_seeds_become_their_mean_and_a_band_from_the_lowest_to_the_highest():
    axes = plots.plot_comparison({"a": [scores(0.1, 0.5), scores(0.3, 0.9)]})
    assert lines_of(axes[0]) == [([1, 2], [pytest.approx(0.2), pytest.approx(0.7)], 2)]
    (band,) = axes[0].collections
    corners = {(x, round(y, 6)) for x, y in band.get_paths()[0].vertices.tolist()}
    assert corners == {(1, 0.1), (2, 0.5), (2, 0.9), (1, 0.3)}


def test_a_seed_that_went_on_alone_is_a_thin_line_and_a_single_epoch_a_dot():
    axes = plots.plot_comparison({"a": [scores(0.1), scores(0.3, 0.5, 0.6)]})
    assert lines_of(axes[0]) == [([1], [0.2], 2), ([1, 2, 3], [0.3, 0.5, 0.6], 0.8)]
    assert axes[0].lines[0].get_marker() == "o"


def test_losses_that_diverged_are_cut_off_and_the_title_says_so():
    wild = scores(0.1, 0.1, 0.1)
    wild[2]["val_loss"] = 900.0
    wild[1]["val_loss"] = math.nan
    axes = plots.plot_comparison({"tame": [scores(0.1, 0.2, 0.3)], "wild": [wild]})
    assert axes[1].get_title(loc="left") == "Loss on val (cut off above)"
    assert axes[1].get_ylim()[1] < 10
    assert axes[2].get_title(loc="left") == "Loss in training"


def test_more_than_21_experiments_are_too_many_and_the_legend_stays_inside():
    names = [f"a rather long name of an experiment, number {number}" for number in range(25)]
    axes = plots.plot_comparison({name: [scores(0.1, 0.2)] for name in names})
    assert len(axes[0].lines) == 21
    figure = axes[0].figure
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert len(legend.get_texts()) == 21
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    assert box.y0 >= 0


def test_no_experiment_is_an_error():
    with pytest.raises(ValueError, match="no history to draw"):
        plots.plot_comparison({})
