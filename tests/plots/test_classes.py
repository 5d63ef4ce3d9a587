import itertools
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from flowerkit import metrics, plots

NAMES = ["rose", "iris ", "lotus", "lily"]

pytestmark = pytest.mark.usefixtures("no_screen")


def texts_of(ax):
    return [text.get_text().strip() for text in ax.texts]


def names_of(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def test_a_histogram_has_the_largest_class_on_top_and_every_count():
    train, val = np.repeat([0, 1, 2], [2, 5, 1]), np.repeat([0, 1, 2], [1, 1, 1])
    (ax,) = plots.plot_histogram({"train": train, "val": val}, NAMES)
    assert names_of(ax) == ["iris", "rose", "lotus"]
    assert texts_of(ax) == ["5 + 1", "2 + 1", "1 + 1"]
    widths = [[bar.get_width() for bar in bars] for bars in ax.containers]
    assert widths == [[5, 2, 1], [1, 1, 1]]
    (legend,) = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["train", "val"]
    assert ax.get_ylim() == (2.6, -0.6)  # the first on top
    assert ax.figure.get_suptitle() == (
        "train: 8 images of 3 classes, 1 to 5 of each (median 2); none of 1\n"
        "val: 3 images of 3 classes, 1 to 1 of each (median 1); none of 1"
    )


def test_many_classes_stand_in_columns_each_with_its_name():
    names = [f"flower {i}" for i in range(104)]
    axes = plots.plot_histogram({"val": np.repeat(range(104), range(104, 0, -1))}, names)
    assert [len(names_of(ax)) for ax in axes] == [35, 35, 34]
    assert list(itertools.chain(*map(names_of, axes))) == names
    assert len({ax.get_xlim() for ax in axes}) == len({ax.get_ylim() for ax in axes}) == 1
    axes[0].figure.canvas.draw()
    labels = [text.get_window_extent() for text in axes[0].get_yticklabels()]
    assert all(upper.y0 > lower.y0 + 8 for upper, lower in itertools.pairwise(labels))
    assert min(box.x0 for box in labels) >= 0


def test_a_histogram_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match=r"one to three splits. Received: \[\]"):
        plots.plot_histogram({}, NAMES)
    with pytest.raises(ValueError, match=r"labels\[1\] is 4, outside 0..3"):
        plots.plot_histogram({"train": np.array([0, 4])}, NAMES)
    assert plt.get_fignums() == []


def test_calibration_shows_probability_beside_accuracy_with_counts(ax):
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.7, 0.3], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    assert plots.plot_calibration(metrics.calibration(labels, probabilities, bins=5), ax) is ax
    bars = [(round(bar.get_center()[0], 2), bar.get_height()) for bar in ax.containers[0]]
    assert bars == [(0.7, 1.0), (0.9, pytest.approx(2 / 3))]
    (dots,) = [line for line in ax.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(dots.get_xydata(), [(0.7, 0.7), (0.9, 0.9)])
    assert texts_of(ax) == ["1", "3"]
    assert "error 0.250 (too sure by 0.100)" in ax.get_title(loc="left")


def test_a_modest_model_is_called_so(ax):
    found = metrics.calibration(np.array([0, 0]), np.array([[0.6, 0.4], [0.7, 0.3]]))
    plots.plot_calibration(found, ax)
    assert "(too modest by 0.350)" in ax.get_title(loc="left")


def test_few_classes_have_every_count_and_name(ax):
    counts = np.array([[5, 1, 0, 0], [0, 2000, 0, 0], [0, 0, 7, 0], [3, 0, 0, 4]])
    assert plots.plot_confusion(counts, NAMES, ax) is ax
    assert sorted(texts_of(ax)) == ["1", "2,000", "3", "4", "5", "7"]
    assert names_of(ax) == ["rose", "iris", "lotus", "lily"]
    assert ax.get_title(loc="left").startswith("2,016 of 2,020 right")


def test_predictions_of_classes_that_do_not_occur_share_the_last_column(ax):
    counts = np.zeros((104, 104), dtype=np.int64)
    counts[3, 3], counts[50, 50], counts[50, 60], counts[50, 61] = 8, 5, 2, 1
    plots.plot_confusion(counts, [f"flower {i}" for i in range(104)], ax)
    assert names_of(ax) == ["flower 3", "flower 50"]
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
