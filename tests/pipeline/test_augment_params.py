"""augment_params: what is sampled for an image depends on (seed, epoch, row) alone."""

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
    make_rotations,
    make_warps,
    make_zooms,
    mix_labels,
    random_stream,
    sample_params,
)
from flowerkit.pipeline.augmentation import Augmentation

OFF = Augmentation(flip=False)
EVERYTHING = Augmentation(
    vertical_flip=True,
    max_rotation_degrees=30,
    max_zoom=2,
    max_lighting=0.4,
    max_warp=0.2,
    min_crop_area=0.5,
    random_erasing=1,
    mixup=0.4,
    cutmix=1,
)
# Each change alone, and the columns that it fills; those of the map are shared.
ALONE = {
    replace(OFF, min_crop_area=0.5): ["crop_top", "crop_left", "crop_bottom", "crop_right"],
    replace(OFF, max_lighting=0.4): ["light_shift", "light_gain"],
    replace(OFF, random_erasing=1): ["erased_top", "erased_left", "erased_bottom", "erased_right"],
    replace(OFF, mixup=0.4, cutmix=1): [
        "mixup",
        "cutmix_top",
        "cutmix_left",
        "cutmix_bottom",
        "cutmix_right",
    ],
}
UNCHANGED = sample_params(OFF, 1, seed=0, epoch=0)[0]


def sample(augmentation, num_images=1000, *, seed=1, epoch=2):
    return sample_params(augmentation, num_images, seed=seed, epoch=epoch)


def rows_with(num_images=1, maps=None, **values):
    """Rows that change nothing but what is given; `maps` (n, 3, 3) or (3, 3)."""
    params = np.tile(UNCHANGED, (num_images, 1))
    if maps is not None:
        start = PARAMS.index("map_xx")
        params[:, start : start + 9] = np.broadcast_to(maps, (num_images, 3, 3)).reshape(-1, 9)
    for name, value in values.items():
        params[:, PARAMS.index(name)] = value
    return params


def maps_of(params):
    start = PARAMS.index("map_xx")
    return params[:, start : start + 9].reshape(-1, 3, 3)


def test_order_and_flips_have_streams_of_their_own():
    order, flips = (random_stream(3, 4, stream).random(5) for stream in (0, 1))
    assert not np.isclose(order, flips).any()


def test_params_depend_on_seed_and_epoch_and_on_nothing_else():
    first = sample(EVERYTHING)
    np.random.seed(5)  # the global generator must not matter
    np.testing.assert_array_equal(sample(EVERYTHING), first)
    np.testing.assert_array_equal(sample(EVERYTHING, 10), first[:10])  # nor how many there are
    for changed in (sample(EVERYTHING, epoch=3), sample(EVERYTHING, seed=2)):
        fresh = (changed != first).mean(axis=0)
        assert fresh[PARAMS.index("map_xx")] > 0.99
        assert fresh[PARAMS.index("crop_top")] > 0.99
        assert fresh[PARAMS.index("mixup")] > 0.4


def test_params_are_the_same_in_every_process():
    """A resumed run samples what the whole run would have; the literals hold for other machines too."""
    code = (
        "from flowerkit.pipeline.augment_params import *\n"
        "from flowerkit.pipeline.augmentation import Augmentation\n"
        "params = sample_params(Augmentation(min_crop_area=0.5, max_zoom=2, mixup=0.4), 12,"
        " seed=1, epoch=2)\n"
        "print(*(column(params, 'map_xx') < 0).astype(int))\n"
        "print(*(column(params, 'crop_top')[:3] * 4096).astype(int))\n"
        "print(*(1 / column(params, 'map_yy')[:3]).round(4))\n"
        "print(*column(params, 'mixup')[:3].round(4))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "0 1 0 0 1 0 1 1 1 1 0 0",
        "162 6 135",
        "1.606 1.6524 1.5699",
        "0.2178 0.5328 1.0",
    ]


def test_nothing_is_sampled_where_everything_is_off():
    np.testing.assert_array_equal(maps_of(sample(OFF, 2)), [np.eye(3)] * 2)
    np.testing.assert_array_equal(sample(OFF, 2), [UNCHANGED, UNCHANGED])
    assert sample(EVERYTHING, 0).shape == (0, len(PARAMS))


@pytest.mark.parametrize("augmentation", ALONE, ids=lambda augmentation: ALONE[augmentation][0])
def test_switching_a_change_on_leaves_the_params_of_the_others_alone(augmentation):
    alone, all_on = sample(augmentation), sample(EVERYTHING)
    for name in PARAMS:
        if name in ALONE[augmentation]:
            np.testing.assert_array_equal(column(alone, name), column(all_on, name))
        else:
            assert set(column(alone, name)) == {UNCHANGED[PARAMS.index(name)]}
    own = np.stack([column(alone, name) for name in ALONE[augmentation]], axis=1)
    assert len(np.unique(own, axis=0)) > 990  # every image has its own


def test_the_map_is_a_flip_a_rotation_a_zoom_and_a_tilt_each_with_its_own_random_numbers():
    def maps(**changes):
        return maps_of(sample(replace(OFF, **changes))).astype("float64")

    flips = maps(flip=True, vertical_flip=True)
    both = maps(flip=True), maps(vertical_flip=True)
    np.testing.assert_array_equal(flips, both[0] @ both[1])
    for mirrored, axis in zip(both, (0, 1), strict=True):
        assert 450 < (mirrored[:, axis, axis] == -1).sum() < 550
        mirrored[:, axis, axis] = 1
        np.testing.assert_array_equal(mirrored, [np.eye(3)] * 1000)
    alone = flips @ maps(max_rotation_degrees=30) @ maps(max_zoom=2) @ maps(max_warp=0.2)
    np.testing.assert_allclose(maps_of(sample(EVERYTHING)), alone, atol=1e-5)


def test_strengths_bound_what_is_sampled_on_both_sides():
    params = sample(EVERYTHING, 10_000)
    rotations = maps_of(sample(replace(OFF, max_rotation_degrees=30), 10_000))
    zooms = maps_of(sample(replace(OFF, max_zoom=2), 10_000))
    for values, lowest, highest in [
        (np.degrees(np.arcsin(rotations[:, 1, 0])), -30, 30),
        (1 / zooms[:, 0, 0], 1, 2),
        (1 / (1 + np.exp(-column(params, "light_shift"))), 0.3, 0.7),  # fastai's brightness
        (np.log(column(params, "light_gain")), np.log(0.6), -np.log(0.6)),  # and contrast
    ]:
        margin = 0.01 * (highest - lowest)
        assert lowest - 1e-4 <= values.min() < lowest + margin
        assert highest - margin < values.max() <= highest + 1e-4
    # A zoom shows nothing from outside, and reaches every part.
    ends = zooms[:, :2, 2] + zooms[:, [0, 1], [0, 1]]
    assert 0.98 < ends.max() <= 1 + 1e-6


def test_maps_say_what_each_point_shows():
    np.testing.assert_allclose(  # the upper left corner shows the upper right: counter-clockwise
        make_rotations(np.array([90.0]))[0] @ [-1, -1, 1], [1, -1, 1], atol=1e-9
    )
    zoom = make_zooms(np.array([4.0]), np.array([1.0]), np.array([0.5]))[0]
    np.testing.assert_allclose(zoom @ [1, 0.5, 1], [1, 0.5, 1])  # its own point stays
    np.testing.assert_allclose(zoom @ [0, 0.5, 1], [0.75, 0.5, 1])


@pytest.mark.parametrize("tilts", [(0.2, 0), (0, -0.3), (0.4, 0.4), (-0.4, 0.1)])
def test_a_warp_moves_the_corners_as_fastais_does_and_turns_nothing_inside_out(tilts):
    (matrix,) = make_warps(*np.array(tilts)[:, None])
    for u in (-1, 1):
        for v in (-1, 1):
            x, y, w = matrix @ [u, v, 1]
            np.testing.assert_allclose(
                [x / w, y / w], [u * (1 - tilts[1] * v), v * (1 - tilts[0] * u)], atol=1e-9
            )
            assert w > 0


def test_crops_keep_the_requested_area_and_nearly_the_shape():
    params = sample(EVERYTHING, 10_000)
    top, left, bottom, right = (column(params, name) for name in PARAMS[:4])
    assert min(top.min(), left.min()) >= 0
    assert max(bottom.max(), right.max()) <= 1
    areas, aspects = (bottom - top) * (right - left), (right - left) / (bottom - top)
    assert 0.499 < areas.min() < 0.51
    assert 0.99 < areas.max() <= 1
    assert areas.mean() == pytest.approx(0.75, abs=0.01)
    assert 0.799 < aspects.min() < 0.81
    assert 1.23 < aspects.max() < 1.251


def test_erased_boxes_cover_2_to_20_percent_of_as_many_images_as_requested():
    params = sample(replace(OFF, random_erasing=0.25), 10_000)
    top, left, bottom, right = (
        column(params, f"erased_{edge}") for edge in ("top", "left", "bottom", "right")
    )
    painted = bottom > top
    assert 0.23 < painted.mean() < 0.27
    areas = ((bottom - top) * (right - left))[painted]
    assert 0.0195 < areas.min() < 0.021
    assert 0.19 < areas.max() < 0.2005


def test_mixing_takes_half_of_the_images_each_where_both_kinds_are_on():
    params = sample(EVERYTHING, 10_000)
    is_mixed, is_cut = column(params, "mixup") < 1, column(params, "cutmix_bottom") > 0
    assert not (is_mixed & is_cut).any()
    assert 0.48 < is_cut.mean() < 0.52
    # Beta(0.4, 0.4): the mean is a half, the variance 1 / (4 (2 * 0.4 + 1)).
    shares = column(params, "mixup")[is_mixed]
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / 7.2, abs=0.01)


def test_boxes_snap_to_whole_pixels_the_same_on_every_device():
    params = rows_with(erased_top=0.25, erased_left=0.5, erased_bottom=0.3125, erased_right=1)
    assert [int(edge[0]) for edge in find_box(params, "erased", 8)] == [2, 4, 3, 8]
    assert [int(edge[0]) for edge in find_box(params, "erased", 224)] == [56, 112, 70, 224]
    assert [int(edge[0]) for edge in find_box(rows_with(), "erased", 224)] == [0, 0, 0, 0]
    thin = rows_with(crop_top=0.9, crop_left=0.6, crop_bottom=1, crop_right=0.7)
    assert [int(edge[0]) for edge in find_box(thin, "crop", 4)] == [3, 2, 4, 3]  # at least a pixel
    edges = np.stack([column(sample(EVERYTHING), name) for name in PARAMS if name[-3:] in "topeft"])
    np.testing.assert_array_equal(edges * 4096, np.round(edges * 4096))


def test_odd_batches_do_not_pair():
    check_pairs(16)
    with pytest.raises(ValueError, match="--per-replica-batch.* Received: 15"):
        check_pairs(15)
    with pytest.raises(ValueError, match="Received: 3"):
        mix_labels(np.arange(3), rows_with(3), replace(OFF, mixup=1), num_classes=3, image_size=8)


def test_labels_of_unmixed_images_are_one_hot_whatever_their_number():
    shares = mix_labels(np.array([2, 0, 1]), rows_with(3), OFF, num_classes=3, image_size=8)
    assert shares.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert shares.dtype == np.float32


def test_partners_exchange_what_the_first_of_them_has_sampled():
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
    params = rows_with(2, cutmix_top=0.125, cutmix_bottom=0.4375, cutmix_right=0.5)
    shares = mix_labels(  # at 8 px: rows 1..3 (3.5 is rounded up), columns 0..3
        np.array([0, 1]), params, replace(OFF, cutmix=1), num_classes=2, image_size=8
    )
    assert shares.tolist() == [[1 - 12 / 64, 12 / 64], [12 / 64, 1 - 12 / 64]]


def test_label_mass_is_kept():
    labels = np.random.default_rng(0).integers(0, 104, 1000)
    shares = mix_labels(labels, sample(EVERYTHING), EVERYTHING, num_classes=104, image_size=224)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    assert shares.min() >= 0
    pairs = shares.reshape(500, 2, 104).sum(axis=1)
    whole = np.eye(104)[labels].reshape(500, 2, 104).sum(axis=1)
    np.testing.assert_allclose(pairs, whole, atol=1e-6)  # what a partner gives, the other gets
