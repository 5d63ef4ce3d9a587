import math

import numpy as np
import pytest

from flowerkit import metrics
from flowerkit.reports.charts import HEIGHT, WIDTH, draw_calibration, draw_experiments, draw_history

LOSSES = [
    {"epoch": epoch, "phase": 1 + (epoch > 2), "loss": loss, "val_loss": 2 * loss}
    for epoch, loss in enumerate((4.0, 2.0, 1.0, 0.5), 1)
]
COLUMNS = {"loss": "training", "val_loss": "validation"}


def points(path):
    """ "M54 20L390 206" -> [(54, 20), (390, 206)]"""
    pairs = path.replace("M", "L").removesuffix("Z").split("L")[1:]
    return [tuple(map(float, pair.split())) for pair in pairs]


def draw(histories, column="val_loss"):
    return draw_experiments("Loss", "", histories, column, ".2f")


def rows(*values, column="val_loss"):
    return [{"epoch": epoch, column: value} for epoch, value in enumerate(values, 1)]


def test_a_history_is_drawn_from_zero_with_its_best_epoch_and_its_phases():
    chart = draw_history("Loss", "falls", LOSSES, COLUMNS, ".1f", 4)
    first, second = chart.lines
    assert (first.label, first.style, second.label, second.style) == (
        "training",
        0,
        "validation",
        1,
    )
    (x, high), *_, (right, low) = points(second.path)
    assert (x, right) == (103.0, 349.0)
    assert chart.y_ticks[0] == (206.0, "0")
    # 8 is the highest value, with a margin above; a value of 1 is an eighth of it.
    assert (206 - low) / (206 - high) == pytest.approx(1 / 8, abs=0.005)
    assert chart.marks == ((349.0, ""), (226.0, "phase 2 →"))
    assert [text for _, text in chart.x_ticks] == ["1", "2", "3", "4"]
    assert [step.text for step in chart.steps][:2] == [
        "Epoch 1: training 4.0, validation 8.0",
        "Epoch 2: training 2.0, validation 4.0",
    ]
    # Together they cover the plot: every place can be pointed at.
    assert [step.x for step in chart.steps] == [62.0, 144.0, 226.0, 308.0]
    assert {step.width for step in chart.steps} == {82.0}


def test_a_value_that_is_no_number_leaves_a_gap():
    chart = draw({"net": [rows(1.0, math.nan, 1.0, 1.0)]})
    assert chart.lines[0].path.count("M") == 2
    assert chart.steps[1].text == "Epoch 2: "
    assert draw({"net": [rows(math.nan)]}).lines[0].path == ""


def test_seeds_have_their_mean_their_range_and_the_rest_of_the_longest():
    chart = draw({"net": [rows(4.0, 2.0), rows(2.0, 2.0, 1.0)]})
    (line,) = chart.lines
    assert len(points(line.path)) == 2
    top, *_, bottom = (y for _, y in points(line.band))
    assert top < points(line.path)[0][1] < bottom
    assert len(points(line.thin)) == 2
    assert [step.text for step in chart.steps] == [
        "Epoch 1: net 3.00",
        "Epoch 2: net 2.00",
        "Epoch 3: net 1.00",
    ]


def test_a_single_epoch_is_a_dot():
    (line,) = draw({"net": [rows(3.0)]}).lines
    assert len(line.dots) == 1
    assert draw({"net": [rows(3.0, 2.0)]}).lines[0].dots == ()


def test_a_loss_that_diverged_leaves_the_chart_and_a_score_does_not():
    values = [1.0] * 9 + [1e9]
    cut = draw({"net": [rows(*values)]})
    assert points(cut.lines[0].path)[0][1] < 140  # a loss of 1 is not flat on the axis
    assert points(cut.lines[0].path)[-1][1] < -100
    assert cut.title == "Loss (cut off above)"
    kept = draw({"net": [rows(0.1, 0.1, 0.9, column="val_f1")]}, "val_f1")
    assert min(y for _, y in points(kept.lines[0].path)) > 20
    assert kept.title == "Loss"


@pytest.mark.parametrize("value", [0.0, 1e-9, 3e-4, 7e5])
def test_axes_have_ticks_for_values_of_any_size(value):
    chart = draw({"net": [rows(value, value)]})
    assert 2 <= len(chart.y_ticks) <= 6
    places = [place for place, _ in (*chart.y_ticks, *chart.x_ticks)]
    assert all(0 <= place <= WIDTH for place in places)


def test_more_experiments_than_styles_are_left_out():
    chart = draw({f"net {number}": [rows(1.0)] for number in range(23)})
    assert [line.style for line in chart.lines] == list(range(21))


def test_calibration_has_a_bar_and_a_dot_for_each_bin_that_is_filled():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.95, 0.05], [0.9, 0.1], [0.3, 0.7], [0.38, 0.62]])
    chart = draw_calibration(metrics.calibration(labels, probabilities, bins=5))
    assert [step.text for step in chart.steps] == [
        "2 images with a mean probability of 66%: 50% right",
        "2 images with a mean probability of 92%: 100% right",
    ]
    (_, top, _, height), (_, full, _, whole) = chart.bars
    assert (top, height, full, whole) == (113.0, 93.0, 20.0, 186.0)
    diagonal, sure = chart.lines
    assert points(diagonal.path) == [(62.0, 206.0), (390.0, 20.0)]
    assert sure.dots == ((291.6, 83.2), (357.2, 33.9))
    assert all(y < HEIGHT for _, y in sure.dots)
