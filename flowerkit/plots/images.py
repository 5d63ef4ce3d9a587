"""Grids of photos with what is said of them: batches, answers, mistakes, and where a model looked.

Axes out, as in `plots`, which shows these to the world. What tells things apart is never a colour
alone.
"""

import math
import textwrap
import unicodedata
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from flowerkit.metrics import predicted_labels, top_losses
from flowerkit.plots.fonts import lettering
from flowerkit.plots.rates import BLUE, GREEN, GREY, VERMILION, new_axes
from flowerkit.text import percent

CELL_INCHES = 1.9  # an image in a grid
LIGHT_OUTSIDE = 0.3  # of a pixel where the model did not look
SMALLEST_LIT_PX = 192
EDGE_AT = 0.5  # of the highest place: the line around where it did


def plot_images(
    images: Sequence[np.ndarray], titles: Sequence[str] | None = None, *, columns: int = 6
) -> np.ndarray:
    """A grid of images, each with its title: (n,) Axes.

    `images` are n arrays (h, w, 3) with pixels 0..255. Raises ValueError if there are none, or not
    as many titles.
    """
    _check_number("titles", titles, images)
    with lettering(titles or []):
        axes = _image_grid(images, columns, text_lines=0 if titles is None else 2)
        for ax, title in zip(axes, titles or [], strict=False):
            ax.set_title(_wrapped(title), fontsize=9, pad=3)
    return axes


def plot_batch(source, plan, *, class_names=None, num_images: int = 6, epoch: int = 1):
    """The first images of an epoch as stored and evaluated, and below each as trained on.

    Takes what `previews.preview_batch` does: data (or a split and its `class_names`) and a
    TrainingPlan. Below each changed image is what it counts as: "70% rose, 30% iris" where images mix.
    Gives (2, num_images) Axes. Raises ValueError as `preview_batch` does.
    """
    # Here, because it loads TensorFlow, which no other picture needs.
    from flowerkit.pipeline import preview_batch

    batch = preview_batch(source, plan, class_names=class_names, num_images=num_images, epoch=epoch)
    with lettering(batch.class_names) as names:
        pairs = [*batch.originals, *batch.changed]
        axes = _image_grid(pairs, len(batch.originals), text_lines=1).reshape(2, -1)
        for above, below, label, shares in zip(*axes, batch.labels, batch.shares, strict=True):
            above.set_title(_wrapped(names[label]), fontsize=9, pad=3)
            below.set_xlabel(_wrapped(_describe_shares(shares, names)), fontsize=9, labelpad=3)
        axes[0, 0].set_ylabel("as evaluated", fontsize=10, color=GREY)
        axes[1, 0].set_ylabel(f"as trained, epoch {epoch}", fontsize=10, color=GREY)
    return axes


def plot_mistakes(
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    k: int = 12,
) -> np.ndarray:
    """The k wrong guesses that gave the true class least, worst first: (at most k,) Axes.

    `images` are n arrays (h, w, 3) with pixels 0..255, in the order of `labels` (n,) and
    `probabilities` (n, num_classes). Above each image what was guessed, below it what it is.
    """
    _check_number("labels", labels, images)
    predicted = predicted_labels(probabilities)
    wrong = [i for i in top_losses(labels, probabilities, len(labels)) if predicted[i] != labels[i]]
    if not wrong:
        ax = new_axes(None, figsize=(5, 1.5))
        ax.text(0.5, 0.5, f"No mistakes among {len(labels):,} images", ha="center", va="center")
        ax.set_axis_off()
        return np.array([ax])
    with lettering(class_names) as names:
        axes = _image_grid([images[i] for i in wrong[:k]], columns=6, text_lines=4)
        for ax, i in zip(axes, wrong, strict=False):
            _say_guess(
                ax, f"guessed {names[predicted[i]]}", probabilities[i, predicted[i]], VERMILION
            )
            _say_truth(ax, f"is {names[labels[i]]}", probabilities[i, labels[i]])
    return axes


def plot_results(
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    k: int = 12,
) -> np.ndarray:
    """k images from all over the split with the guess: ✓ in a green frame, or ✗ in a red one.

    Under a wrong guess stands what it is. Arguments as of `plot_mistakes`; (at most k,) Axes.
    """
    _check_number("labels", labels, images)
    predicted = predicted_labels(probabilities)
    # Evenly spread: shards may hold one class after the other.
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(k, len(labels))).round().astype(int))
    with lettering(class_names) as names:
        text_lines = 1 if (predicted == labels)[chosen].all() else 4
        axes = _image_grid([images[i] for i in chosen], columns=6, text_lines=text_lines)
        for ax, i in zip(axes, chosen, strict=True):
            is_right = predicted[i] == labels[i]
            mark, colour = ("✓", GREEN) if is_right else ("✗", VERMILION)
            _say_guess(ax, f"{mark} {names[predicted[i]]}", probabilities[i, predicted[i]], colour)
            if not is_right:
                _say_truth(ax, f"is {names[labels[i]]}", probabilities[i, labels[i]])
            ax.spines[:].set(visible=True, color=colour, linewidth=4)
    return axes


def plot_attention(
    images: Sequence[np.ndarray],
    maps: np.ndarray,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 3,
) -> np.ndarray:
    """Each image, and beside it the same with light only where the model looked: (n, 2) Axes.

    `images` are n arrays (h, w, 3) with pixels 0..255, `maps` (n, h, w) in 0..1 from
    `attention_maps.compute_cam`. A white line is where the map is half its highest. Raises
    ValueError for maps or titles that do not fit the images.
    """
    _check_number("maps", maps, images)
    _check_number("titles", titles, images)
    pairs = [
        one
        for image, map_ in zip(images, maps, strict=True)
        for one in (image, light_attention(image, map_))
    ]
    with lettering(titles or []):
        text_lines = 0 if titles is None else 2
        axes = _image_grid(pairs, 2 * columns, text_lines).reshape(-1, 2)
        for (ax, _), title in zip(axes, titles or [], strict=False):
            ax.set_title(_wrapped(title), fontsize=9, pad=3, loc="left")
    return axes


def light_attention(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """`image` (h, w, 3) with pixels 0..255, dark where `attention` (h, w) in 0..1 is low: uint8.

    Light and dark instead of colours laid over it, so that the flower keeps its own. A picture of
    under 192 px is a whole number of times as large, or the line would be coarse.
    """
    image, attention = np.asarray(image), np.asarray(attention)
    if attention.shape != image.shape[:2]:
        raise ValueError(
            f"an image of shape {image.shape} but a map of {attention.shape}. Pass its own map."
        )
    times = math.ceil(SMALLEST_LIT_PX / min(image.shape[:2]))
    light = _enlarge(attention, times)
    pixels = np.repeat(np.repeat(image, times, axis=0), times, axis=1)
    lit = np.clip(pixels * (LIGHT_OUTSIDE + (1 - LIGHT_OUTSIDE) * light[..., None]), 0, 255)
    inside = np.pad(light >= EDGE_AT, 1, mode="edge")
    # The line: inside, with a neighbour that is not.
    around = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    lit[inside[1:-1, 1:-1] & ~around] = 255
    return lit.astype(np.uint8)


def _enlarge(attention: np.ndarray, times: int) -> np.ndarray:
    height, width = attention.shape
    image = Image.fromarray(attention.astype("float32"))
    return np.asarray(image.resize((width * times, height * times), Image.Resampling.BILINEAR))


def _check_number(what: str, values: Sequence | None, images: Sequence) -> None:
    if values is not None and len(values) != len(images):
        raise ValueError(f"{len(images)} images but {len(values)} {what}. Pass the same images.")


def _describe_shares(shares: np.ndarray, names: Sequence[str]) -> str:
    order = [i for i in np.argsort(-shares, kind="stable") if shares[i] >= 0.005]
    if len(order) == 1:
        return names[order[0]]
    return ", ".join(f"{percent(shares[i])} {names[i]}" for i in order)


def _say_guess(ax: Axes, text: str, share: float, colour: str) -> None:
    ax.set_title(_wrapped(f"{text} ({percent(share)})"), fontsize=9, pad=4, color=colour)


def _say_truth(ax: Axes, text: str, share: float) -> None:
    ax.set_xlabel(_wrapped(f"{text} ({percent(share)})"), fontsize=9, labelpad=3, color=BLUE)


def _wrapped(text: str) -> str:
    # 9 pt sans serif runs at about 13 characters an inch; Korean and Chinese ones are twice as wide.
    width = int(CELL_INCHES * 13)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return textwrap.fill(text.strip(), width=width // 2 if 2 * wide > len(text) else width)


def _image_grid(images: Sequence[np.ndarray], columns: int, text_lines: int) -> np.ndarray:
    if len(images) == 0:
        raise ValueError("no images to show. Is the split empty?")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    size = (columns * CELL_INCHES, rows * (CELL_INCHES + 0.16 * text_lines))
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)
    for ax in grid.flat[len(images) :]:
        ax.set_axis_off()
    for ax, image in zip(grid.flat, images, strict=False):
        # Clipped, because imshow takes floats for 0..1 and would show augmented images white.
        ax.imshow(np.clip(image, 0, 255).astype(np.uint8))
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    return grid.flat[: len(images)]
