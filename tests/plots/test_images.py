import dataclasses
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from flowerkit import plots
from flowerkit.pipeline import preview_batch
from flowerkit.plots.images import highlight_cam
from flowerkit.plots.style import GREEN, VERMILION
from flowerkit.training.plan import SMOKE

NAMES = ["pink primrose", "hard-leaved pocket orchid", "canterbury bells", "cyclamen "]


pytestmark = pytest.mark.usefixtures("no_screen")


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


def shown(ax):
    return np.asarray(ax.images[0].get_array())


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


def test_a_batch_stands_as_evaluated_above_as_trained(drawn):
    plan = dataclasses.replace(SMOKE, max_lighting=0.5)
    axes = plots.plot_batch(drawn, plan, num_images=5, epoch=2)
    batch = preview_batch(drawn, plan, num_images=5, epoch=2)
    assert axes.shape == (2, 5)
    for column in range(5):
        np.testing.assert_array_equal(shown(axes[0, column]), batch.originals[column])
        np.testing.assert_array_equal(shown(axes[1, column]), batch.changed[column])
    names = [drawn.class_names[label] for label in batch.labels]
    assert [ax.get_title() for ax in axes[0]] == [ax.get_xlabel() for ax in axes[1]] == names
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["as evaluated", "as trained, epoch 2"]


def test_mixed_images_tell_their_shares(drawn):
    plan = dataclasses.replace(SMOKE, flip=False, mixup=1.0, seed=3)
    axes = plots.plot_batch(drawn, plan, num_images=6)
    batch = preview_batch(drawn, plan, num_images=6)
    mixed = [ax.get_xlabel().replace("\n", " ") for ax in axes[1]]
    for text, shares in zip(mixed, batch.shares, strict=True):
        parts = sorted(
            ((share, name) for share, name in zip(shares, drawn.class_names, strict=True) if share),
            reverse=True,
        )
        expected = ", ".join(f"{share:.0%} {name}" for share, name in parts)
        assert text == (expected if len(parts) > 1 else parts[0][1])
    assert any(re.fullmatch(r"\d\d% \w[\w -]*, \d+% \w[\w -]*", text) for text in mixed)


def test_mistakes_come_worst_first_with_prediction_and_truth():
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 4, 3), np.uint8)
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.96, 0.04], [0.2, 0.8]])
    axes = plots.plot_mistakes(images, np.array([0, 1, 1, 1]), probabilities, NAMES[2:], k=5)
    assert [ax.get_title() for ax in axes] == [
        "✗ canterbury bells (96%)",
        "✗ canterbury bells (60%)",
    ]
    assert [ax.get_xlabel() for ax in axes] == ["is cyclamen (4%)", "is cyclamen (40%)"]
    assert [ax.images[0].get_array().max() for ax in axes] == [2, 1]


def test_mistakes_refuse_images_that_are_not_those_of_the_labels():
    with pytest.raises(ValueError, match="3 images but 1 labels. Pass the same images"):
        plots.plot_mistakes(np.zeros((3, 4, 4, 3)), np.array([0]), np.eye(2)[:1], NAMES[:2])


def test_without_mistakes_the_picture_says_so():
    axes = plots.plot_mistakes(np.zeros((1, 4, 4, 3)), np.array([0]), np.eye(2)[:1], NAMES[:2])
    assert texts_of(axes[0]) == ["No mistakes among 1 image"]


def test_a_share_of_nearly_nothing_is_not_called_nothing():
    probabilities = np.array([[0.9991, 0.0009]])
    (ax,) = plots.plot_mistakes(np.zeros((1, 4, 4, 3)), np.array([1]), probabilities, ["a", "b"])
    assert (ax.get_title(), ax.get_xlabel()) == ("✗ a (>99%)", "is b (<1%)")


def test_results_are_framed_and_marked_right_or_wrong():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 4, 4, 3), np.uint8)
    probabilities = np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    axes = plots.plot_results(images, np.array([0, 1, 1]), probabilities, NAMES[2:])
    assert [ax.get_title() for ax in axes] == [
        "✓ canterbury bells (80%)",
        "✓ cyclamen (70%)",
        "✗ canterbury bells (60%)",
    ]
    assert [ax.get_xlabel() for ax in axes] == ["", "", "is cyclamen (40%)"]
    frames = [ax.spines["top"] for ax in axes]
    colours = [plt.matplotlib.colors.to_hex(one.get_edgecolor()).upper() for one in frames]
    assert colours == [GREEN, GREEN, VERMILION]
    assert all(one.get_visible() for one in frames)


def test_results_are_taken_from_all_over_the_split():
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)
    labels, probabilities = np.zeros(100, int), np.tile([0.9, 0.1], (100, 1))
    axes = plots.plot_results(images, labels, probabilities, NAMES[:2], k=4)
    assert [int(shown(ax)[0, 0, 0]) for ax in axes] == [0, 33, 66, 99]


def test_where_the_model_looked_is_beside_each_image():
    images, maps = np.full((2, 8, 8, 3), 100, np.uint8), np.zeros((2, 8, 8), np.float32)
    axes = plots.plot_cam(images, maps, ["rose", "iris"])
    assert axes.shape == (2, 2)
    assert [ax.get_title(loc="left") for ax in axes[:, 0]] == ["rose", "iris"]
    assert shown(axes[0, 0]).max() == 100
    assert shown(axes[0, 1]).max() == 30
    with pytest.raises(ValueError, match="2 images but 1 maps. Pass the same images"):
        plots.plot_cam(images, maps[:1])


def test_light_falls_where_the_map_is_high_and_a_line_is_drawn_around():
    image = np.full((200, 200, 3), (200, 100, 0), np.uint8)
    cam = np.zeros((200, 200), np.float32)
    cam[50:100, 20:60] = 1
    lit = highlight_cam(image, cam)
    assert (lit.shape, lit.dtype) == ((200, 200, 3), np.uint8)
    assert lit[75, 40].tolist() == [200, 100, 0]
    assert lit[150, 150].tolist() == [60, 30, 0]
    white = (lit == 255).all(axis=2)
    assert white[50, 20:60].all()
    assert white[50:100, 59].all()
    assert white.sum() == 2 * 40 + 2 * 48


def test_a_small_picture_is_enlarged_for_a_fine_line():
    lit = highlight_cam(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64)))
    assert lit.shape == (192, 192, 3)
    with pytest.raises(ValueError, match=r"\(4, 4, 3\) but a map of \(4, 5\). Pass its own"):
        highlight_cam(np.zeros((4, 4, 3)), np.zeros((4, 5)))


def test_wide_letters_are_wrapped_sooner():
    (ax,) = plots.plot_images(np.zeros((1, 4, 4, 3)), ["\u4e00" * 30])
    assert max(map(len, ax.get_title().split("\n"))) == 12
