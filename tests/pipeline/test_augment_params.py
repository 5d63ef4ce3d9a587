import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from flowerkit.pipeline.augment_params import (
    PARAMS,
    check_pairs,
    column,
    find_box,
    find_maps,
    mix_labels,
    random_stream,
    sample_params,
)
from flowerkit.training.plan import Augmentation

OFF = Augmentation(flip=False)
EVERYTHING = Augmentation(
    min_crop_area=0.5,
    max_shift=0.2,
    max_zoom=2,
    max_rotation_degrees=30,
    max_shear_degrees=10,
    max_brightness=0.2,
    max_contrast=0.3,
    random_erasing=1,
    mixup=0.4,
    cutmix=1,
)
# Each change alone, and the columns that it draws.
ALONE = {
    Augmentation(): ["flip"],
    replace(OFF, min_crop_area=0.5): ["crop_top", "crop_left", "crop_bottom", "crop_right"],
    replace(OFF, max_shift=0.2): ["shift_right", "shift_down"],
    replace(OFF, max_zoom=2): ["zoom"],
    replace(OFF, max_rotation_degrees=30): ["rotation_degrees"],
    replace(OFF, max_shear_degrees=10): ["shear_degrees"],
    replace(OFF, max_brightness=0.2): ["brightness"],
    replace(OFF, max_contrast=0.3): ["contrast"],
    replace(OFF, random_erasing=1): ["block_top", "block_left", "block_bottom", "block_right"],
    replace(OFF, mixup=0.4, cutmix=1): [
        "mixup",
        "cutmix_top",
        "cutmix_left",
        "cutmix_bottom",
        "cutmix_right",
    ],
}
UNCHANGED = [0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]


def draw(augmentation, num_images=1000, *, seed=1, epoch=2):
    return sample_params(augmentation, num_images, seed=seed, epoch=epoch)


def rows_with(num_images=1, **values):
    """Rows that change nothing but what is given."""
    params = np.tile(np.array(UNCHANGED, "float32"), (num_images, 1))
    for name, value in values.items():
        params[:, PARAMS.index(name)] = value
    return params


def test_order_and_flips_have_streams_of_their_own():
    order, flips = (random_stream(3, 4, stream).random(5) for stream in (0, 1))
    assert not np.isclose(order, flips).any()


def test_draws_depend_on_seed_and_epoch_and_on_nothing_else():
    first = draw(EVERYTHING)
    np.random.seed(5)  # the global generator must not matter
    np.testing.assert_array_equal(draw(EVERYTHING), first)
    for other in (draw(EVERYTHING, epoch=3), draw(EVERYTHING, seed=2)):
        fresh = (other != first).mean(axis=0)
        assert fresh.min() > 0.4  # half of the flips, and of the boxes of cutmix, are not fresh
        assert fresh[PARAMS.index("zoom")] > 0.99


def test_draws_are_the_same_in_every_process():
    """A resumed run draws what the whole one would have; the literals hold for other machines too."""
    code = (
        "from flowerkit.pipeline.augment_params import *; from flowerkit.training.plan import Augmentation\n"
        "draws = sample_params(Augmentation(min_crop_area=0.5, max_zoom=2, mixup=0.4), 12,"
        " seed=1, epoch=2)\n"
        "print(*column(draws, 'flip').astype(int))\n"
        "print(*(column(draws, 'crop_top')[:3] * 4096).astype(int))\n"
        "print(*column(draws, 'zoom')[:3].round(4))\n"
        "print(*column(draws, 'mixup')[:3].round(4))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "0 1 0 0 1 0 1 1 1 1 0 0",
        "162 6 135",
        "1.1583 1.3182 0.5243",
        "0.2178 0.5328 1.0",
    ]


def test_a_row_depends_on_its_place_and_not_on_how_many_there_are():
    np.testing.assert_array_equal(draw(EVERYTHING, 10), draw(EVERYTHING, 1000)[:10])


def test_every_image_has_its_own_draw():
    params = draw(EVERYTHING, 5000)
    assert params.dtype == np.float32
    assert params.shape == (5000, 21)
    for augmentation, names in ALONE.items():
        columns = np.stack([column(params, name) for name in names], axis=1)
        distinct = len(np.unique(columns, axis=0))
        assert distinct == 2 if augmentation.flip else distinct > 4900, names


def test_nothing_is_drawn_where_everything_is_off():
    assert draw(OFF, 2).tolist() == [UNCHANGED, UNCHANGED]
    assert draw(EVERYTHING, 0).shape == (0, 21)


@pytest.mark.parametrize("augmentation", ALONE, ids=lambda augmentation: ALONE[augmentation][0])
def test_switching_one_change_on_leaves_the_draws_of_the_others_alone(augmentation):
    alone, all_on = draw(augmentation), draw(EVERYTHING)
    for name in PARAMS:
        if name in ALONE[augmentation]:
            np.testing.assert_array_equal(column(alone, name), column(all_on, name))
        else:
            assert set(column(alone, name)) == {UNCHANGED[PARAMS.index(name)]}


def test_half_of_the_images_are_flipped():
    assert 4_800 < column(draw(Augmentation(), 10_000), "flip").sum() < 5_200


def test_strengths_bound_the_draws_on_both_sides():
    params = draw(EVERYTHING, 10_000)
    for name, lowest, highest in [
        ("shift_right", -0.2, 0.2),
        ("shift_down", -0.2, 0.2),
        ("zoom", 0.5, 2),
        ("contrast", 0.7, 1.3),
        ("rotation_degrees", -30, 30),
        ("shear_degrees", -10, 10),
        ("brightness", -0.2, 0.2),
    ]:
        values = column(params, name)
        margin = 0.01 * (highest - lowest)
        assert lowest <= values.min() < lowest + margin, name
        assert highest - margin < values.max() <= highest, name
    assert np.median(column(params, "zoom")) == pytest.approx(1, abs=0.03)  # as often in as out


def test_crops_keep_the_area_asked_for_and_nearly_the_shape():
    top, left, bottom, right = (
        column(draw(EVERYTHING, 10_000), f"crop_{edge}")
        for edge in ("top", "left", "bottom", "right")
    )
    assert min(top.min(), left.min()) >= 0
    assert max(bottom.max(), right.max()) <= 1
    areas, aspects = (bottom - top) * (right - left), (right - left) / (bottom - top)
    assert 0.499 < areas.min() < 0.51
    assert 0.99 < areas.max() <= 1
    assert areas.mean() == pytest.approx(0.75, abs=0.01)
    assert 0.799 < aspects.min() < 0.81
    assert 1.23 < aspects.max() < 1.251


def test_blocks_cover_2_to_20_percent_of_as_many_images_as_asked_for():
    params = draw(replace(OFF, random_erasing=0.25), 10_000)
    top, left, bottom, right = (
        column(params, f"block_{edge}") for edge in ("top", "left", "bottom", "right")
    )
    painted = bottom > top
    assert 0.23 < painted.mean() < 0.27
    areas = ((bottom - top) * (right - left))[painted]
    aspects = ((right - left) / np.where(painted, bottom - top, 1))[painted]
    assert 0.0195 < areas.min() < 0.021
    assert 0.19 < areas.max() < 0.2005
    assert 0.49 < aspects.min() < 0.51
    assert 1.95 < aspects.max() < 2.02


def test_mixing_takes_half_of_the_images_each_where_both_kinds_are_on():
    params = draw(EVERYTHING, 10_000)
    is_mixed, is_cut = column(params, "mixup") < 1, column(params, "cutmix_bottom") > 0
    assert not (is_mixed & is_cut).any()
    assert 0.48 < is_cut.mean() < 0.52
    # Beta(0.4, 0.4): the mean is a half, the variance 1 / (4 (2 * 0.4 + 1)).
    shares = column(params, "mixup")[is_mixed]
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / 7.2, abs=0.01)


def test_edges_are_multiples_of_a_4096th_so_that_no_device_rounds_them_to_other_pixels():
    params = draw(EVERYTHING)
    for name in PARAMS:
        if name.startswith(("crop_", "block_", "cutmix_")):
            edges = column(params, name) * 4096
            np.testing.assert_array_equal(edges, np.round(edges))


def test_boxes_snap_to_whole_pixels():
    params = rows_with(block_top=0.25, block_left=0.5, block_bottom=0.3125, block_right=1)
    assert [int(edge[0]) for edge in find_box(params, "block", 8)] == [2, 4, 3, 8]
    assert [int(edge[0]) for edge in find_box(params, "block", 224)] == [56, 112, 70, 224]
    assert [int(edge[0]) for edge in find_box(rows_with(), "block", 224)] == [0, 0, 0, 0]
    assert [int(edge[0]) for edge in find_box(rows_with(), "crop", 224)] == [0, 0, 224, 224]


def test_a_crop_keeps_at_least_one_pixel():
    params = rows_with(crop_top=0.9, crop_left=0.6, crop_bottom=1, crop_right=0.7)
    assert [int(edge[0]) for edge in find_box(params, "crop", 4)] == [3, 2, 4, 3]


@pytest.mark.parametrize(
    ("changes", "row_x", "row_y"),
    [
        ({}, (1, 0, 0), (0, 1, 0)),
        ({"flip": 1}, (-1, 0, 7), (0, 1, 0)),
        ({"crop_top": 0.5}, (1, 0, 0), (0, 0.5, 3.75)),  # the lower half, stretched
        ({"shift_right": 0.25, "shift_down": -0.5}, (1, 0, -2), (0, 1, 4)),
        ({"zoom": 2}, (0.5, 0, 1.75), (0, 0.5, 1.75)),
        ({"rotation_degrees": 90}, (0, -1, 7), (1, 0, 0)),
        ({"shear_degrees": 45}, (1, 1, -3.5), (0, 1, 0)),
        # Flipped first and turned then, so the left edge of the picture lies on top.
        ({"flip": 1, "rotation_degrees": 90}, (0, 1, 0), (1, 0, 0)),
    ],
)
def test_maps_say_where_each_pixel_comes_from(changes, row_x, row_y):
    maps = find_maps(rows_with(**changes), 8)
    np.testing.assert_allclose([part[0] for part in maps[0]], row_x, atol=1e-6)
    np.testing.assert_allclose([part[0] for part in maps[1]], row_y, atol=1e-6)


def test_odd_batches_do_not_pair():
    check_pairs(16)
    message = "mixup and cutmix pair neighbours: per_replica_batch must be even. Received: 15"
    with pytest.raises(ValueError, match=message):
        check_pairs(15)
    with pytest.raises(ValueError, match="must be even. Received: 3"):
        mix_labels(
            np.arange(3),
            rows_with(3, mixup=0.5),
            replace(OFF, mixup=1),
            num_classes=3,
            image_size=8,
        )


def test_labels_of_unmixed_images_are_one_hot_whatever_their_number():
    shares = mix_labels(np.array([2, 0, 1]), rows_with(3), OFF, num_classes=3, image_size=8)
    assert shares.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert shares.dtype == np.float32


def test_partners_exchange_what_the_first_of_them_has_drawn():
    params = rows_with(6)
    params[:, PARAMS.index("mixup")] = [0.75, 0.1, 1, 0.2, 0.5, 1]
    shares = mix_labels(
        np.array([0, 1, 0, 2, 1, 1]), params, replace(OFF, mixup=1), num_classes=3, image_size=8
    )
    assert shares.tolist() == [
        [0.75, 0.25, 0],
        [0.25, 0.75, 0],
        [1, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [0, 1, 0],  # partners of one class keep it whole
    ]


def test_the_share_of_a_box_is_counted_in_painted_pixels():
    box = {"cutmix_top": 0.125, "cutmix_left": 0, "cutmix_bottom": 0.4375, "cutmix_right": 0.5}
    params = rows_with(2, **box)  # at 8 px: rows 1..3 (3.5 is rounded up), columns 0..3
    shares = mix_labels(
        np.array([0, 1]), params, replace(OFF, cutmix=1), num_classes=2, image_size=8
    )
    assert shares.tolist() == [[1 - 12 / 64, 12 / 64], [12 / 64, 1 - 12 / 64]]


def test_label_mass_is_kept():
    labels = np.random.default_rng(0).integers(0, 104, 1000)
    shares = mix_labels(labels, draw(EVERYTHING), EVERYTHING, num_classes=104, image_size=224)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert shares.min() >= 0
    pairs = shares.reshape(500, 2, 104).sum(axis=1)
    whole = np.eye(104)[labels].reshape(500, 2, 104).sum(axis=1)
    np.testing.assert_allclose(pairs, whole, atol=1e-6)  # what one gives, the other gets
