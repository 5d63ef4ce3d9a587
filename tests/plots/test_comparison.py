import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from flowerkit.plots.comparison import line_of, plot_comparison


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def history(*f1, loss=1.0):
    return [
        {"epoch": epoch, "val_f1": value, "val_loss": 2 * loss / epoch, "loss": loss / epoch}
        for epoch, value in enumerate(f1, 1)
    ]


def lines_of(ax):
    """The curves that hold something, as (epochs, values, width)."""
    return [
        (line.get_xdata().tolist(), line.get_ydata().tolist(), line.get_linewidth())
        for line in ax.lines
        if len(line.get_xdata())
    ]


def test_21_lines_are_all_different():
    lines = [line_of(number) for number in range(21)]
    assert len(set(lines)) == 21
    assert lines[0] == ("#0072B2", "solid")
    assert lines[20] == ("#6E6E6E", "dotted")


def test_each_experiment_has_a_line_in_each_panel():
    axes = plot_comparison({"a": [history(0.1, 0.5)], "b": [history(0.2, 0.3)]})
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles == ["Macro F1 on val", "Loss on val", "Loss in training"]
    assert lines_of(axes[0]) == [([1, 2], [0.1, 0.5], 2), ([1, 2], [0.2, 0.3], 2)]
    assert lines_of(axes[1])[0] == ([1, 2], [2, 1], 2)
    assert lines_of(axes[2])[0] == ([1, 2], [1, 0.5], 2)
    assert [to_hex(line.get_color()).upper() for line in axes[2].lines[:2]] == [
        "#0072B2",
        "#D55E00",
    ]
    legend = axes[0].figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_seeds_become_their_mean_and_a_band_from_the_lowest_to_the_highest():
    axes = plot_comparison({"a": [history(0.1, 0.5), history(0.3, 0.9)]})
    assert lines_of(axes[0]) == [([1, 2], [pytest.approx(0.2), pytest.approx(0.7)], 2)]
    (band,) = axes[0].collections
    corners = {(x, round(y, 6)) for x, y in band.get_paths()[0].vertices.tolist()}
    assert corners == {(1, 0.1), (2, 0.5), (2, 0.9), (1, 0.3)}


def test_a_seed_that_went_on_alone_is_a_thin_line_of_its_own():
    axes = plot_comparison({"a": [history(0.1), history(0.3, 0.5, 0.6)]})
    mean, alone = lines_of(axes[0])
    assert mean == ([1], [0.2], 2)
    assert alone == ([1, 2, 3], [0.3, 0.5, 0.6], 0.8)


def test_a_single_epoch_is_a_dot():
    axes = plot_comparison({"a": [history(0.4)]})
    assert axes[0].lines[0].get_marker() == "o"


def test_losses_that_diverged_are_cut_off_and_the_title_says_so():
    wild = history(0.1, 0.1, 0.1)
    wild[2]["val_loss"] = 900.0
    wild[1]["val_loss"] = math.nan
    axes = plot_comparison({"tame": [history(0.1, 0.2, 0.3)], "wild": [wild]})
    assert axes[1].get_title(loc="left") == "Loss on val (what is higher is cut off)"
    assert axes[1].get_ylim()[1] < 10
    assert axes[2].get_title(loc="left") == "Loss in training"


def test_more_than_21_experiments_are_too_many():
    axes = plot_comparison({str(k): [history(0.1, k / 100)] for k in range(25)})
    assert len(lines_of(axes[0])) == 21
    assert len(axes[0].figure.legends[0].get_texts()) == 21


def test_the_legend_stays_inside_the_figure():
    names = {f"a rather long name of an experiment, number {k}": [history(0.1)] for k in range(12)}
    figure = plot_comparison(names)[0].figure
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y0 >= 0


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="no history to draw"):
        plot_comparison({})
    with pytest.raises(ValueError, match="the history is empty"):
        plot_comparison({"a": [[]]})


def test_global_settings_are_left_alone():
    before = dict(plt.rcParams)
    plot_comparison({"a": [history(0.1, np.float32(0.2))]})
    assert dict(plt.rcParams) == before
