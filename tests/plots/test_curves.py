import inspect
import math
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from flowerkit.plots import classes as plots_classes
from flowerkit.plots import curves as plots
from flowerkit.plots import images as plots_images
from flowerkit.plots import rates as plots_rates
from flowerkit.schedules import COMPETITION

NAMES = ["pink primrose", "hard-leaved pocket orchid", "canterbury bells", "cyclamen "]


pytestmark = pytest.mark.usefixtures("no_screen")


def history(num_epochs, **changed):
    rows = []
    for epoch in range(num_epochs):
        row = {"epoch": epoch + 1, "loss": 3 / (epoch + 1), "accuracy": epoch / (epoch + 1)}
        row |= {"val_loss": 4 / (epoch + 1), "val_accuracy": 0.5, "val_f1": 0.25}
        row |= {"planned_lr": COMPETITION(epoch), "learning_rate": COMPETITION(epoch)}
        rows.append(row | changed)
    return rows


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


def test_curves_show_loss_and_scores_and_mark_the_best_epoch():
    loss_ax, score_ax = plots.plot_curves(history(6), best_epoch=4)
    legend = [text.get_text() for text in score_ax.get_legend().get_texts()]
    assert legend == ["training accuracy", "validation accuracy", "validation macro F1"]
    assert texts_of(loss_ax) == texts_of(score_ax) == ["best: epoch 4"]
    marked = [line for line in loss_ax.lines if line.get_markersize() == 9]
    assert marked[0].get_xdata().tolist() == [4]
    assert marked[0].get_ydata().tolist() == [1.0]


@pytest.mark.parametrize("num_epochs", [1, 2, 100])
def test_curves_of_few_and_many_epochs_can_be_drawn(num_epochs, tmp_path):
    plots.save_figure(plots.plot_curves(history(num_epochs), best_epoch=1), tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_what_a_history_lacks_is_left_out(recwarn):
    rows = [{"epoch": 1, "loss": 2.0, "accuracy": 0.5, "val_loss": "", "val_f1": None}]
    loss_ax, _ = plots.plot_curves(rows)
    assert [text.get_text() for text in loss_ax.get_legend().get_texts()] == ["training"]
    plots.plot_curves([{"epoch": 1, "loss": math.nan}])
    assert len(recwarn) == 0


def test_a_phase_begins_at_its_line():
    rows = history(3, phase=1.0) + [row | {"phase": 2.0} for row in history(6)[3:]]
    for ax in plots.plot_curves(rows, best_epoch=4):
        assert texts_of(ax) == ["phase 2 →", "best: epoch 4"]
        (begin,) = [line for line in ax.lines if line.get_linestyle() == ":"]
        assert begin.get_xdata() == [3.5, 3.5]
        assert ax.texts[0].get_position()[1] < ax.texts[1].get_position()[1]  # one above the other


def test_an_empty_history_has_no_curve():
    for plot in (plots.plot_curves, plots.plot_rates):
        with pytest.raises(ValueError, match="the history is empty: no epoch was finished"):
            plot([])
    assert plt.get_fignums() == []


def test_few_classes_have_every_count_and_name(ax):
    counts = np.array([[5, 1, 0, 0], [0, 2000, 0, 0], [0, 0, 7, 0], [3, 0, 0, 4]])
    assert plots.plot_confusion(counts, NAMES, ax) is ax
    assert sorted(texts_of(ax)) == ["1", "2,000", "3", "4", "5", "7"]
    assert [text.get_text() for text in ax.get_yticklabels()] == [name.strip() for name in NAMES]
    assert ax.get_title(loc="left").startswith("2,016 of 2,020 right")


def test_guesses_of_classes_that_do_not_occur_share_the_last_column(ax):
    counts = np.zeros((104, 104), dtype=np.int64)
    counts[3, 3], counts[50, 50], counts[50, 60], counts[50, 61] = 8, 5, 2, 1
    plots.plot_confusion(counts, [f"flower {i}" for i in range(104)], ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["flower 3", "flower 50"]
    assert ax.get_xticklabels()[-1].get_text() == "(another class)"
    assert sorted(texts_of(ax)) == ["3", "5", "8"]


def test_many_classes_have_the_worst_pairs_ringed_and_listed(ax):
    counts = np.eye(104, dtype=np.int64) * 20
    counts[7, 70], counts[30, 2] = 9, 4
    plots.plot_confusion(counts, [f"flower {i}" for i in range(104)], ax)
    rings = [(line.get_ydata()[0], line.get_xdata()[0]) for line in ax.lines]
    assert rings == [(7, 70), (30, 2)]
    assert texts_of(ax)[:2] == ["1", "2"]
    assert "1. flower 7\n     taken for flower 70\n     9 of 29" in texts_of(ax)[2]
    bold = [text.get_text() for text in ax.get_yticklabels() if text.get_fontweight() == "bold"]
    assert bold == ["flower 2", "flower 7", "flower 30", "flower 70"]


def test_counts_that_are_no_confusion_matrix_are_refused(ax):
    with pytest.raises(ValueError, match=re.escape("shape (3, 3) and sum 3 make no confusion")):
        plots.plot_confusion(np.eye(3, dtype=int), NAMES, ax)
    with pytest.raises(ValueError, match="sum 0 make no confusion matrix of 4 classes"):
        plots.plot_confusion(np.zeros((4, 4), dtype=int), NAMES, ax)


def test_every_picture_of_the_rooms_below_is_to_be_had_here():
    for room in (plots_classes, plots_images, plots_rates):
        made = [thing for thing in vars(room).values() if inspect.isfunction(thing)]
        names = {one.__name__ for one in made if one.__module__ == room.__name__}
        pictures = {name for name in names if name.startswith("plot_")}
        assert len(pictures) >= 3
        assert pictures <= set(plots.__all__)
    assert all(callable(getattr(plots, name)) for name in plots.__all__)


def test_saving_writes_the_picture_and_leaves_nothing_open(tmp_path):
    settings = dict(matplotlib.rcParams)
    plots.save_figure(plots.plot_schedule(COMPETITION, 5), tmp_path / "rate.png", dpi=100)
    plots.save_figure(plots.plot_images(np.zeros((2, 4, 4, 3))), tmp_path / "grid.png")
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == settings
    assert Image.open(tmp_path / "rate.png").size == (750, 400)


@pytest.mark.filterwarnings("error")
def test_a_matrix_in_given_axes_has_its_letters(ax):
    """The texts of given Axes are older than the fonts; without any they show boxes and a number."""
    plots.plot_confusion(np.eye(2, dtype=int), ["장미", "\ue0ff"], ax)
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_yticklabels()][1] == "□ (class 1)"


def test_drawing_into_given_axes_opens_no_figure(ax):
    plots.plot_schedule(COMPETITION, 5, ax)
    plots.plot_confusion(np.eye(4, dtype=int), NAMES, ax)
    assert plt.get_fignums() == []
