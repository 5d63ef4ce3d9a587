"""Grids of photos with text: batches, predictions, mistakes, and where a model looked.

`images` are n arrays (h, w, 3) with pixels 0..255; `labels` (n,) int and `probabilities`
(n, num_classes) are in their order.
"""

import math
import textwrap
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image

from flowerkit.metrics import predicted_labels, top_losses
from flowerkit.plots import style
from flowerkit.text import percent, pluralize

CELL_INCHES = 2.0
LETTERS_PER_LINE = 24  # of 10 pt in a cell; Korean and Chinese letters are twice as wide
LIGHT_OUTSIDE = 0.3  # the brightness of a pixel where the model did not look
SMALLEST_LIT_PX = 192
EDGE_AT = 0.5  # of the highest value: where the line is drawn


def plot_images(
    images: Sequence[np.ndarray], titles: Sequence[str] | None = None, *, columns: int = 4
) -> np.ndarray:
    """A grid of images, each with its title: (n,) Axes. Raises ValueError without images."""
    _check_number("titles", titles, images)
    axes = _image_grid(images, columns, text_lines=0 if titles is None else 2)
    for ax, title in zip(axes, titles or [], strict=False):
        _write(ax.set_title, style.format_text(title))
    return axes


def plot_batch(data, plan, *, num_images: int = 4, epoch: int = 1) -> np.ndarray:
    """The first images of an epoch as evaluated, and below each as trained: (2, num_images) Axes.

    Below an image is what it counts as: "70% rose, 30% iris" where the plan mixes images. Raises
    ValueError as `preview_batch` does.
    """
    from flowerkit.pipeline import preview_batch  # loads a framework, no other plot does

    batch = preview_batch(data, plan, num_images=num_images, epoch=epoch)
    names = list(map(style.format_name, data.class_names))
    images = [*batch.originals, *batch.changed]
    axes = _image_grid(images, len(batch.originals), text_lines=1).reshape(2, -1)
    for above, below, label, shares in zip(*axes, batch.labels, batch.shares, strict=True):
        _write(above.set_title, names[label])
        _write(below.set_xlabel, _describe_shares(shares, names))
    axes[0, 0].set_ylabel("as evaluated", fontsize=10, color=style.GREY)
    axes[1, 0].set_ylabel(f"as trained, epoch {epoch}", fontsize=10, color=style.GREY)
    return axes


def plot_results(
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    k: int = 12,
) -> np.ndarray:
    """k images from the whole split with their prediction: (at most k,) Axes.

    A right one has ✓ and a green frame, a wrong one ✗, an orange frame, and the true class below.
    """
    _check_number("labels", labels, images)
    # Evenly spread: shards may hold the classes in order.
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(k, len(labels))).round().astype(int))
    return _plot_predictions(images, labels, probabilities, class_names, chosen)


def plot_mistakes(
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    k: int = 12,
) -> np.ndarray:
    """The k wrong predictions with the least probability of the true class, worst first, drawn as by
    `plot_results`: (at most k,) Axes."""
    _check_number("labels", labels, images)
    order = top_losses(labels, probabilities)
    wrong = order[(predicted_labels(probabilities) != labels)[order]][:k]
    if len(wrong):
        return _plot_predictions(images, labels, probabilities, class_names, wrong)
    ax = style.new_axes((5, 1.5))
    text = f"No mistakes among {pluralize(len(labels), 'image')}"
    ax.text(0.5, 0.5, text, ha="center", va="center")
    ax.set_axis_off()
    return np.array([ax])


def _plot_predictions(images, labels, probabilities, class_names, chosen) -> np.ndarray:
    predicted = predicted_labels(probabilities)
    is_right = predicted == labels
    text_lines = 1 if is_right[chosen].all() else 4
    axes = _image_grid([images[i] for i in chosen], columns=4, text_lines=text_lines)
    for ax, i in zip(axes, chosen, strict=True):
        found, true = (
            f"{style.format_name(class_names[k])} ({percent(probabilities[i, k])})"
            for k in (predicted[i], labels[i])
        )
        mark, colour = ("✓", style.GREEN) if is_right[i] else ("✗", style.VERMILION)
        _write(ax.set_title, f"{mark} {found}", color=colour)
        if not is_right[i]:
            _write(ax.set_xlabel, f"is {true}", color=style.BLUE)
        ax.spines[:].set(visible=True, color=colour, linewidth=4)
    return axes


def plot_cam(
    images: Sequence[np.ndarray],
    maps: np.ndarray,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 2,
) -> np.ndarray:
    """Each image, and beside it the same, bright only where the model looked: (n, 2) Axes.

    `maps` (n, h, w) in 0..1 is from `models.compute_cam`; the white line is where a map is at half
    its highest value. Raises ValueError for maps or titles that do not fit the images.
    """
    _check_number("maps", maps, images)
    _check_number("titles", titles, images)
    lit = map(highlight_cam, images, maps)
    panels = [panel for pair in zip(images, lit, strict=True) for panel in pair]
    axes = _image_grid(panels, 2 * columns, 0 if titles is None else 2).reshape(-1, 2)
    for (ax, _), title in zip(axes, titles or [], strict=False):
        _write(ax.set_title, style.format_text(title), loc="left")
    return axes


def highlight_cam(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """`image` (h, w, 3) with pixels 0..255, dark where `cam` (h, w) in 0..1 is low: uint8.

    Brightness instead of colours, so that the flower keeps its own. An image of under 192 px is
    enlarged by a whole factor, so that the line is fine.
    """
    image, cam = np.asarray(image), np.asarray(cam, np.float32)
    if cam.shape != image.shape[:2]:
        raise ValueError(f"an image of shape {image.shape} but a map of {cam.shape}. Pass its own.")
    factor = math.ceil(SMALLEST_LIT_PX / min(cam.shape))
    size = (cam.shape[1] * factor, cam.shape[0] * factor)
    light = np.asarray(Image.fromarray(cam).resize(size, Image.Resampling.BILINEAR))
    pixels = image.repeat(factor, axis=0).repeat(factor, axis=1)
    lit = np.clip(pixels * (LIGHT_OUTSIDE + (1 - LIGHT_OUTSIDE) * light[..., None]), 0, 255)
    inside = np.pad(light >= EDGE_AT, 1, mode="edge")
    # The line: inside, with a neighbour that is not.
    surrounded = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    lit[inside[1:-1, 1:-1] & ~surrounded] = 255
    return lit.astype(np.uint8)


def _check_number(name: str, values: Sequence | None, images: Sequence) -> None:
    if values is not None and len(values) != len(images):
        raise ValueError(f"{len(images)} images but {len(values)} {name}. Pass the same images.")


def _describe_shares(shares: np.ndarray, names: Sequence[str]) -> str:
    order = [i for i in np.argsort(-shares, kind="stable") if shares[i] >= 0.005]
    if len(order) == 1:
        return names[order[0]]
    return ", ".join(f"{percent(shares[i])} {names[i]}" for i in order)


def _write(set_text, text: str, **text_style) -> None:
    """Set a title or a label, wrapped to the width of a cell, with letters for any class name."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    width = LETTERS_PER_LINE // 2 if 2 * wide > len(text) else LETTERS_PER_LINE
    wrapped = textwrap.fill(text, width)
    set_text(wrapped, fontsize=10, fontfamily=style.font_families(text), **text_style)


def _image_grid(images: Sequence[np.ndarray], columns: int, text_lines: int) -> np.ndarray:
    if len(images) == 0:
        raise ValueError("no images to show. Is the split empty?")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    size = (columns * CELL_INCHES, rows * (CELL_INCHES + 0.16 * text_lines))
    grid = style.new_figure(rows, columns, figsize=size)
    grid[0, 0].figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)
    for ax in grid.flat[len(images) :]:
        ax.set_axis_off()
    for ax, image in zip(grid.flat, images, strict=False):
        # Clipped, because imshow takes floats for 0..1 and would show augmented images white.
        ax.imshow(np.clip(image, 0, 255).astype(np.uint8))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return grid.flat[: len(images)]
