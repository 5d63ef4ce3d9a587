"""Random changes to training images, each a function of (seed, epoch, index), never of trace time."""

import numpy as np

_FLIPS = 1  # the stream of random numbers that flips draw from; the order of images has stream 0


def random_stream(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """Random numbers that depend on these three alone, on every machine and after every resume."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, stream))))


def draw_flips(num_images: int, *, seed: int, epoch: int) -> np.ndarray:
    """Which images to mirror in `epoch`: (num_images,) bool, about half of them True."""
    return random_stream(seed, epoch, _FLIPS).random(num_images) < 0.5


def flip_images(images: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """`images` (n, height, width, 3), left and right exchanged where `flips` (n,) is True; a copy."""
    images = images.copy()
    images[flips] = images[flips, :, ::-1]
    return images
