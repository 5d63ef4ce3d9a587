import math
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from flowerkit import plots
from flowerkit.schedules import COMPETITION

NAMES = ["pink primrose", "hard-leaved pocket orchid", "canterbury bells", "cyclamen "]


@pytest.fixture(autouse=True)
def _no_screen_and_no_open_figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return Figure(figsize=(5, 4)).subplots()


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


def test_a_grid_shows_every_image_with_its_title():
    images = np.zeros((5, 8, 8, 3), dtype=np.uint8)
    axes = plots.plot_images(images, ["a", "b", "c", "d", NAMES[1]], columns=3)
    assert [ax.get_title() for ax in axes] == ["a", "b", "c", "d", "hard-leaved pocket\norchid"]
    assert len(axes[0].figure.axes) == 6
    assert all(len(ax.images) == 1 for ax in axes)


def test_float_pixels_are_shown_as_0_to_255_and_never_white():
    augmented = np.full((1, 4, 4, 3), 40.5, dtype=np.float32)
    (ax,) = plots.plot_images(augmented)
    assert ax.images[0].get_array().dtype == np.uint8
    assert ax.images[0].get_array().max() == 40


def test_a_grid_refuses_no_images_and_other_numbers_of_titles():
    with pytest.raises(ValueError, match="no images to show. Is the split empty"):
        plots.plot_images([])
    with pytest.raises(ValueError, match="2 images but 1 titles"):
        plots.plot_images(np.zeros((2, 4, 4, 3), np.uint8), ["a"])


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


def test_mistakes_come_worst_first_with_guess_and_truth():
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 4, 3), np.uint8)
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.96, 0.04], [0.2, 0.8]])
    axes = plots.plot_mistakes(images, np.array([0, 1, 1, 1]), probabilities, NAMES[2:], k=5)
    assert [ax.get_title() for ax in axes] == [
        "guessed canterbury bells\n(96%)",
        "guessed canterbury bells\n(60%)",
    ]
    assert [ax.get_xlabel() for ax in axes] == ["is cyclamen (4%)", "is cyclamen (40%)"]
    assert [ax.images[0].get_array().max() for ax in axes] == [2, 1]


def test_mistakes_refuse_images_that_are_not_those_of_the_labels():
    with pytest.raises(ValueError, match="3 images but 1 labels. Pass the same images"):
        plots.plot_mistakes(np.zeros((3, 4, 4, 3)), np.array([0]), np.eye(2)[:1], NAMES[:2])


def test_without_mistakes_the_picture_says_so():
    axes = plots.plot_mistakes(np.zeros((1, 4, 4, 3)), np.array([0]), np.eye(2)[:1], NAMES[:2])
    assert texts_of(axes[0]) == ["No mistakes among 1 images"]


def test_saving_writes_the_picture_and_leaves_nothing_open(tmp_path):
    settings = dict(matplotlib.rcParams)
    plots.save_figure(plots.plot_schedule(COMPETITION, 5), tmp_path / "rate.png", dpi=100)
    plots.save_figure(plots.plot_images(np.zeros((2, 4, 4, 3))), tmp_path / "grid.png")
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == settings
    assert Image.open(tmp_path / "rate.png").size == (750, 400)


def test_drawing_into_given_axes_opens_no_figure(ax):
    plots.plot_schedule(COMPETITION, 5, ax)
    plots.plot_confusion(np.eye(4, dtype=int), NAMES, ax)
    assert plt.get_fignums() == []
