import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from pipeline.test_draws import EVERYTHING, OFF, draw, rows_with

from flowerkit.pipeline import augment_host
from flowerkit.pipeline.augment_host import augment_images, is_available
from flowerkit.pipeline.draws import COLUMNS, mix_labels
from flowerkit.training.plan import Augmentation

SHIFT = replace(OFF, max_shift=0.5)
TURN = replace(OFF, max_rotation_degrees=180)
MIXUP = replace(OFF, mixup=1)


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype="uint8")


def grid(side=4):
    """One picture whose red counts columns, green rows, both in tens; blue is always 7."""
    image = np.full((1, side, side, 3), 7, "uint8")
    image[..., 0] = 10 * np.arange(side)
    image[..., 1] = 10 * np.arange(side)[:, None]
    return image


def test_opencv_is_there_but_not_loaded_before_it_is_wanted():
    assert is_available()
    code = "import sys, flowerkit.pipeline.augment_host; print('cv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_opencv_there_is_no_host_road(monkeypatch, noise):
    monkeypatch.setitem(sys.modules, "cv2", None)  # import cv2 raises ImportError
    augment_host._load_cv2.cache_clear()
    try:
        assert not is_available()
        with pytest.raises(
            RuntimeError, match="Install opencv-python-headless, or pass augment_on="
        ):
            augment_images(noise, rows_with(8), OFF)
    finally:
        augment_host._load_cv2.cache_clear()


def test_tables_and_images_that_do_not_fit_are_refused(noise):
    with pytest.raises(ValueError, match=r"shape \(8, 16, 16, 3\), draws of shape \(3, 21\)"):
        augment_images(noise, rows_with(3), OFF)
    with pytest.raises(ValueError, match="square images"):
        augment_images(noise[:, :8], rows_with(8), OFF)
    with pytest.raises(ValueError, match="per_replica_batch must be even. Received: 7"):
        augment_images(noise[:7], rows_with(7), MIXUP)


def test_images_stay_as_they_are_where_everything_is_off(noise):
    changed = augment_images(noise, draw(OFF, 8), OFF)
    np.testing.assert_array_equal(changed, noise)
    assert changed.dtype == np.uint8
    assert not np.shares_memory(changed, noise)


@pytest.mark.parametrize("augmentation", [OFF, Augmentation(), EVERYTHING])
def test_the_cache_of_decoded_images_stays_as_it_was(noise, augmentation):
    before = noise.copy()
    noise.setflags(write=False)
    augment_images(noise, draw(augmentation, 8), augmentation)
    np.testing.assert_array_equal(noise, before)


def test_memory_mapped_and_strided_images_serve_too(tmp_path, noise):
    mapped = np.memmap(tmp_path / "images", "uint8", "w+", shape=noise.shape)
    mapped[:] = noise
    params = draw(EVERYTHING, 8)
    wanted = augment_images(noise, params, EVERYTHING)
    np.testing.assert_array_equal(augment_images(mapped, params, EVERYTHING), wanted)
    doubled = np.repeat(noise, 2, axis=0)[::2]
    np.testing.assert_array_equal(augment_images(doubled, params, EVERYTHING), wanted)


def test_a_flip_exchanges_left_and_right_of_the_chosen_images_only():
    images = np.concatenate([grid(), grid()])
    params = rows_with(2)
    params[1, COLUMNS.index("flip")] = 1
    changed = augment_images(images, params, Augmentation())
    np.testing.assert_array_equal(changed[0], images[0])
    assert changed[1, :, :, 0].tolist() == [[30, 20, 10, 0]] * 4
    np.testing.assert_array_equal(changed[1, :, :, 1], images[1, :, :, 1])


@pytest.mark.parametrize(
    ("augmentation", "changes", "reds", "greens"),
    [
        # The right half: columns 2 and 3, nothing of column 1 at its edge.
        (
            replace(OFF, min_crop_area=0.5),
            {"crop_left": 0.5},
            [20, 22.5, 27.5, 30],
            [0, 10, 20, 30],
        ),
        (
            Augmentation(min_crop_area=0.5),
            {"crop_left": 0.5, "flip": 1},
            [30, 27.5, 22.5, 20],
            [0, 10, 20, 30],
        ),
        # As part of a composed map the crop's surroundings are the picture's own: 17.5 is from column 1.
        (
            replace(SHIFT, min_crop_area=0.5),
            {"crop_left": 0.5},
            [17.5, 22.5, 27.5, 27.5],
            [0, 10, 20, 30],
        ),
        (SHIFT, {"shift_right": 0.25}, [10, 0, 10, 20], [0, 10, 20, 30]),  # column 1 is mirrored in
        (SHIFT, {"shift_down": -0.5}, [0, 10, 20, 30], [20, 30, 20, 10]),
        (replace(OFF, max_zoom=2), {"zoom": 2}, [7.5, 12.5, 17.5, 22.5], [7.5, 12.5, 17.5, 22.5]),
        (replace(OFF, max_zoom=3), {"zoom": 1 / 3}, [30, 0, 30, 0], [30, 0, 30, 0]),
        (TURN, {"rotation_degrees": 180}, [30, 20, 10, 0], [30, 20, 10, 0]),
    ],
)
def test_geometry_on_a_drawn_grid(augmentation, changes, reds, greens):
    changed = augment_images(grid(), rows_with(**changes), augmentation)[0].astype(int)
    np.testing.assert_allclose(changed[..., 0], np.tile(reds, (4, 1)), atol=0.51)
    np.testing.assert_allclose(changed[..., 1], np.tile(greens, (4, 1)).T, atol=0.51)
    np.testing.assert_array_equal(changed[..., 2], 7)


def test_a_quarter_turn_is_counter_clockwise():
    turned = augment_images(grid(), rows_with(rotation_degrees=90), TURN)
    np.testing.assert_array_equal(turned[0], np.rot90(grid()[0]))


def test_a_shear_leans_the_top_to_the_right():
    leaning = augment_images(
        grid(5), rows_with(shear_degrees=45), replace(OFF, max_shear_degrees=45)
    )
    assert leaning[0, :, 2, 0].tolist() == [0, 10, 20, 30, 40]  # the middle column, from the top
    np.testing.assert_array_equal(leaning[0, :, :, 1], grid(5)[0, :, :, 1])


def test_brightness_is_added_and_contrast_stretches_around_each_channels_mean():
    colours = replace(OFF, max_brightness=0.2, max_contrast=0.5)
    params = rows_with(brightness=0.2, contrast=0.5)
    changed = augment_images(grid(), params, colours)[0]
    assert changed[0, :, 0].tolist() == [58, 64, 68, 74]  # 15 + 51 + (-15, -5, 5, 15) / 2, to even
    assert set(changed[..., 2].ravel()) == {58}
    white = np.full((1, 4, 4, 3), 250, "uint8")
    assert set(augment_images(white, rows_with(brightness=0.2), colours).ravel()) == {255}
    assert set(augment_images(grid(), rows_with(brightness=-0.2), colours).ravel()) == {0}


def test_a_block_is_grey_and_lies_over_changed_colours():
    augmentation = replace(OFF, random_erasing=1, max_brightness=1)
    params = rows_with(
        block_top=0.25, block_left=0.5, block_bottom=0.75, block_right=1, brightness=-1
    )
    changed = augment_images(grid(), params, augmentation)[0]
    assert changed[..., 0].tolist() == [
        [0, 0, 0, 0],
        [0, 0, 128, 128],
        [0, 0, 128, 128],
        [0, 0, 0, 0],
    ]


def test_mixup_adds_partners_in_the_shares_that_their_labels_get():
    images = np.repeat(np.array([0, 200, 40, 80], "uint8"), 48).reshape(4, 4, 4, 3)
    params = rows_with(4)
    params[:, COLUMNS.index("mixup")] = [
        0.75,
        0.5,
        1,
        0.5,
    ]  # the second of each pair does not count
    changed = augment_images(images, params, MIXUP)
    assert changed[:, 0, 0, 0].tolist() == [50, 150, 40, 80]
    shares = mix_labels(np.array([0, 1, 0, 1]), params, MIXUP, num_classes=2, image_size=4)
    assert (shares @ [0, 200])[:2].tolist() == [50, 150]


def test_cutmix_exchanges_a_box_of_exactly_the_area_that_the_labels_say():
    augmentation = replace(OFF, cutmix=1)
    params = draw(augmentation, 400)
    images = np.zeros((400, 37, 37, 3), "uint8")
    images[1::2] = 1
    changed = augment_images(images, params, augmentation)
    painted = changed.mean(axis=(1, 2, 3))
    labels = np.arange(400) % 2
    shares = mix_labels(labels, params, augmentation, num_classes=2, image_size=37)
    np.testing.assert_allclose(shares[:, 1], painted, atol=1e-7)
    assert len(np.unique(painted)) > 150
    np.testing.assert_array_equal(changed[::2], 1 - changed[1::2])


def test_every_image_gets_its_own_change_and_a_fresh_one_each_epoch(noise):
    images = np.repeat(noise[:1], 64, axis=0)
    augmentation = Augmentation(min_crop_area=0.3, random_erasing=1)
    first, again, next_epoch = (
        augment_images(images, draw(augmentation, 64, epoch=epoch), augmentation)
        for epoch in (0, 0, 1)
    )
    assert len(np.unique(first.reshape(64, -1), axis=0)) == 64
    np.testing.assert_array_equal(first, again)
    assert (first != next_epoch).any(axis=(1, 2, 3)).all()
