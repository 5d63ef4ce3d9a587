import subprocess
import sys

import numpy as np

from flowerkit.augment import draw_flips, flip_images, random_stream


def test_flips_depend_on_seed_and_epoch_and_on_nothing_else():
    first = draw_flips(1000, seed=1, epoch=2)
    np.random.seed(5)  # the global generator must not matter
    np.testing.assert_array_equal(draw_flips(1000, seed=1, epoch=2), first)
    assert (draw_flips(1000, seed=1, epoch=3) != first).sum() > 400
    assert (draw_flips(1000, seed=2, epoch=2) != first).sum() > 400


def test_flips_are_the_same_in_every_process():
    """A resumed run draws what the whole one would have; the literal holds for other machines too."""
    literal = [False, True, False, False, True, False, True, True, True, True, False, False]
    assert draw_flips(12, seed=1, epoch=2).tolist() == literal
    code = "from flowerkit.augment import *; print(draw_flips(12, seed=1, epoch=2).tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert printed.strip() == str(literal)


def test_half_of_the_images_are_flipped():
    flips = draw_flips(10_000, seed=0, epoch=0)
    assert flips.dtype == bool
    assert 4_800 < flips.sum() < 5_200


def test_flips_and_order_have_streams_of_their_own():
    order, flips = (random_stream(3, 4, stream).random(5) for stream in (0, 1))
    assert not np.isclose(order, flips).any()


def test_a_flip_exchanges_left_and_right_of_the_chosen_images_only():
    images = np.arange(2 * 2 * 3 * 3, dtype="uint8").reshape(2, 2, 3, 3)
    flipped = flip_images(images, np.array([False, True]))
    np.testing.assert_array_equal(flipped[0], images[0])
    assert flipped[1, 0].tolist() == [[24, 25, 26], [21, 22, 23], [18, 19, 20]]
    assert flipped.dtype == np.uint8
    assert images[1, 0, 0].tolist() == [18, 19, 20]  # the cache of decoded images stays as it was
