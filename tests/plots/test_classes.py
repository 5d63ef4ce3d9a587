import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

from flowerkit import metrics as evaluation
from flowerkit.plots import classes as plots

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
    axes = plots.plot_histogram({"val": np.arange(104, 0, -1)}, names, is_counted=True)
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
    with pytest.raises(ValueError, match=r"val: counts must be 4 numbers.*shape \(2,\), sum 3"):
        plots.plot_histogram({"val": [1, 2]}, NAMES, is_counted=True)
    assert plt.get_fignums() == []


def test_calibration_shows_promise_beside_truth_with_counts(ax):
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.7, 0.3], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    assert plots.plot_calibration(evaluation.calibration(labels, probabilities, bins=5), ax) is ax
    bars = [(round(bar.get_center()[0], 2), bar.get_height()) for bar in ax.containers[0]]
    assert bars == [(0.7, 1.0), (0.9, pytest.approx(2 / 3))]
    (dots,) = [line for line in ax.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(dots.get_xydata(), [(0.7, 0.7), (0.9, 0.9)])
    assert texts_of(ax) == ["1", "3"]
    assert ax.get_title(loc="left").startswith(
        "Expected calibration error 0.250 (too sure by 0.100)"
    )


def test_a_modest_model_is_called_so(ax):
    found = evaluation.calibration(np.array([0, 0]), np.array([[0.6, 0.4], [0.7, 0.3]]))
    plots.plot_calibration(found, ax)
    assert "(too modest by 0.350)" in ax.get_title(loc="left")


def test_the_worst_classes_are_on_top_with_precision_and_recall(ax):
    labels, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 2, 1])
    report = evaluation.class_report(labels, predicted, NAMES)
    plots.plot_classes(report, k=2, ax=ax)
    assert names_of(ax) == ["iris  (2)", "lotus  (2)"]
    assert [bar.get_width() for bar in ax.containers[0]] == [0.5, pytest.approx(2 / 3)]
    precision, recall = (line.get_xdata().tolist() for line in ax.lines)
    assert (precision, recall) == ([0.5, 1.0], [0.5, 0.5])
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert ax.get_title(loc="left") == "The worst 2 of 3 classes, images in brackets"
    assert plots.plot_classes(report).get_title(loc="left").startswith("All 3 classes")
    with pytest.raises(ValueError, match="0 classes to show, k=20: both must be at least 1"):
        plots.plot_classes([])


def test_the_most_frequent_mistakes_come_first_with_their_share(ax):
    counts = np.array([[5, 2, 0, 0], [0, 6, 0, 0], [1, 3, 4, 0], [0, 0, 0, 0]])
    plots.plot_confused(counts, NAMES, k=2, ax=ax)
    assert names_of(ax) == ["lotus  →  iris", "rose  →  iris"]
    assert texts_of(ax) == ["3 of 8 (38%)", "2 of 7 (29%)"]
    assert [bar.get_width() for bar in ax.containers[0]] == [3, 2]


def test_without_mistakes_the_picture_says_so():
    ax = plots.plot_confused(np.eye(4, dtype=int), NAMES)
    assert ax.get_title(loc="left") == "Nothing was mistaken"
    ax.figure.canvas.draw()


def test_no_setting_of_matplotlib_is_changed():
    before = dict(plt.rcParams)
    plots.plot_histogram({"val": np.array([0, 1])}, ["장미", "iris"])
    plots.plot_confused(np.ones((2, 2), int), ["장미", "iris"])
    assert dict(plt.rcParams) == before
