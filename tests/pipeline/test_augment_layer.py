"""augment_layer: the right pixels, by NumPy, SciPy and Pillow, on every backend."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image
from pipeline.test_augment_params import EVERYTHING, OFF, rows_with, sample
from scipy.ndimage import map_coordinates

from flowerkit.pipeline.augment_layer import Augment, augment_images
from flowerkit.pipeline.augment_params import PARAMS, make_rotations, make_warps, make_zooms
from flowerkit.pipeline.augmentation import Augmentation

JAX = keras.backend.backend() == "jax"
CROP = replace(OFF, min_crop_area=0.3)
ZOOM = replace(OFF, max_zoom=4)
ROTATE = replace(OFF, max_rotation_degrees=180)
WARP = replace(OFF, max_warp=0.4)


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype="uint8")


@pytest.fixture(scope="module")
def photos():
    """(8, 96, 96, 3): smooth and sharp parts, as photos have."""
    rng = np.random.default_rng(0)
    rough = [Image.fromarray(rng.integers(0, 256, (12, 12, 3), "uint8")) for _ in range(8)]
    images = np.stack([np.asarray(one.resize((96, 96), Image.BICUBIC)) for one in rough])
    images[:, 20:50, 30:33] = 255
    return images


def grid():
    """A picture of 4 by 4 px whose red counts columns, green rows, both in tens; blue is 7."""
    red, green = np.meshgrid(10 * np.arange(4), 10 * np.arange(4))
    return np.stack([red, green, np.full_like(red, 7)], axis=-1).astype("uint8")[None]


def compute(images, params, augmentation, **options):
    layer = Augment(augmentation, **{"dtype": "float32"} | options)

    def function(images, params):
        return layer((images, params))

    # JAX compiles each operation by itself where nothing compiles the whole: many seconds.
    change = compiled(function) if JAX else function
    result = change(ops.convert_to_tensor(images), ops.convert_to_tensor(params))
    return ops.convert_to_numpy(ops.cast(result, "float32"))


def compiled(function):
    """As it runs inside the training step."""
    if JAX:
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


def list_operations(augmentation, images, params) -> str:
    """The program that is traced, as text."""

    layer = Augment(augmentation)

    def function(images, params):
        return layer((images, params))

    if JAX:
        import jax

        return str(jax.make_jaxpr(function)(images, params)).lower()
    import tensorflow as tf

    graph = tf.function(function).get_concrete_function(tf.constant(images), tf.constant(params))
    return " ".join(operation.type for operation in graph.graph.get_operations()).lower()


def look_up(image, show, size=None, mode="mirror"):
    """`image` (side, side, 3) where the point (u, v), -1..1, shows `show(u, v)`; by SciPy."""
    side = len(image)
    size = size or side
    places = (2 * np.arange(size) + 1) / size - 1
    u, v = show(*np.meshgrid(places, places))
    at = [(place + 1) * side / 2 - 0.5 for place in (v, u)]
    channels = [
        map_coordinates(image[..., k].astype("float64"), at, order=1, mode=mode) for k in range(3)
    ]
    return np.stack(channels, axis=-1)


# Geometry -----------------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("augmentation", [OFF, Augmentation(), CROP, ZOOM, ROTATE, WARP])
def test_pixels_stay_exact_where_a_row_changes_nothing(noise, augmentation, dtype):
    values = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1).repeat(3, axis=3)  # all there are
    images = np.concatenate([noise, values])
    np.testing.assert_array_equal(compute(images, rows_with(9), augmentation, dtype=dtype), images)


def test_flips_are_exact(noise):
    for augmentation in (replace(OFF, flip=True, vertical_flip=True), CROP, ROTATE):
        flipped = compute(noise, rows_with(8, map_xx=-1), augmentation)
        np.testing.assert_array_equal(flipped, noise[:, :, ::-1])
        flipped = compute(noise, rows_with(8, map_yy=-1), augmentation)
        np.testing.assert_array_equal(flipped, noise[:, ::-1])


@pytest.mark.parametrize(
    ("augmentation", "changes", "reds", "greens"),
    [
        (CROP, {"crop_left": 0.5}, [20, 22.5, 27.5, 30], [0, 10, 20, 30]),
        (
            CROP,
            {"crop_top": 0.5, "crop_left": 0.25, "crop_right": 0.75, "map_xx": -1},
            [20, 17.5, 12.5, 10],
            [20, 22.5, 27.5, 30],
        ),
        (ROTATE, {"crop_left": 0.5}, [17.5, 22.5, 27.5, 27.5], [0, 10, 20, 30]),
        (ROTATE, {"map_x1": 0.5}, [10, 20, 30, 20], [0, 10, 20, 30]),  # mirrored at the edge
        (ZOOM, {"map_xx": 0.5, "map_yy": 0.5}, [7.5, 12.5, 17.5, 22.5], [7.5, 12.5, 17.5, 22.5]),
        (ROTATE, {"map_xx": 2, "map_yy": 2}, [15, 5, 25, 15], [15, 5, 25, 15]),
        (ROTATE, {"map_xx": -1, "map_yy": -1}, [30, 20, 10, 0], [30, 20, 10, 0]),
    ],
)
def test_geometry_on_a_drawn_grid(augmentation, changes, reds, greens):
    changed = compute(grid(), rows_with(**changes), augmentation)[0]
    np.testing.assert_allclose(changed[..., 0], np.tile(reds, (4, 1)), atol=1e-4)
    np.testing.assert_allclose(changed[..., 1], np.tile(greens, (4, 1)).T, atol=1e-4)
    np.testing.assert_allclose(changed[..., 2], 7, atol=1e-4)


def test_a_crop_is_the_cut_out_part_resized(noise):
    params = rows_with(8, crop_top=0.125, crop_left=0.25, crop_bottom=0.75, crop_right=0.8125)
    part = noise[:, 2:12, 4:13].astype("float32")
    expected = ops.convert_to_numpy(ops.image.resize(part, (16, 16), interpolation="bilinear"))
    np.testing.assert_allclose(compute(noise, params, CROP), expected, atol=1e-3)


def test_a_rotation_shows_what_scipy_and_pillow_show(noise):
    maps = make_rotations(np.full(8, 30.0))
    changed = compute(noise, rows_with(8, maps=maps), ROTATE)
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)

    def rotate(u, v):
        return cos * u - sin * v, sin * u + cos * v

    np.testing.assert_allclose(changed[0], look_up(noise[0], rotate), atol=0.01)
    by_pillow = Image.fromarray(noise[0]).rotate(30, Image.BILINEAR)  # counter-clockwise
    inside = np.s_[4:-4, 4:-4]
    np.testing.assert_allclose(changed[0][inside], np.asarray(by_pillow)[inside], atol=1)


def test_a_zoom_enlarges_around_its_point(noise):
    maps = make_zooms(np.full(8, 2.5), np.full(8, -1.0), np.full(8, 0.5))
    changed = compute(noise, rows_with(8, maps=maps), ZOOM)
    expected = look_up(noise[0], lambda u, v: (u / 2.5 - 0.6, v / 2.5 + 0.3), mode="nearest")
    np.testing.assert_allclose(changed[0], expected, atol=0.01)
    by_gather = compute(noise, rows_with(8, maps=maps), replace(ZOOM, max_warp=0.1))
    np.testing.assert_allclose(by_gather[:, :, 1:], changed[:, :, 1:], atol=0.01)


@pytest.mark.parametrize("tilt", [0.4, -0.2])
def test_a_warp_tilts_the_picture(noise, tilt):
    """The one projective map that stretches the left side by 1 + tilt and the right by 1 - tilt."""
    changed = compute(noise, rows_with(8, maps=make_warps(np.full(8, tilt), np.zeros(8))), WARP)

    def show(u, v):
        w = 1 + tilt * u
        return (u + tilt) / w, v * (1 - tilt**2) / w

    np.testing.assert_allclose(changed[0], look_up(noise[0], show), atol=0.02)
    turned = compute(
        noise.swapaxes(1, 2), rows_with(8, maps=make_warps(np.zeros(8), np.full(8, tilt))), WARP
    )
    np.testing.assert_allclose(turned.swapaxes(1, 2), changed, atol=0.02)


@pytest.mark.backends
def test_all_geometry_together_is_one_map_in_its_order(noise):
    """On the picture: crop, flip, rotation, zoom, tilt; the map is read from the last to the first."""
    maps = np.diag([-1.0, 1, 1]) @ make_rotations(np.full(8, 20.0))
    maps = maps @ make_zooms(np.full(8, 1.5), np.full(8, 0.2), np.full(8, 0.0))
    maps = maps @ make_warps(np.full(8, 0.2), np.full(8, 0.0))
    params = rows_with(8, maps=maps, crop_left=0.25, crop_bottom=0.75)
    changed = compute(noise, params, replace(ROTATE, max_zoom=2, max_warp=0.3, min_crop_area=0.5))
    cos, sin = np.cos(np.pi / 9), np.sin(np.pi / 9)

    def show(u, v):
        u, v = (u + 0.2) / (1 + 0.2 * u), v * 0.96 / (1 + 0.2 * u)
        u, v = u / 1.5 + 0.2 / 3, v / 1.5
        u, v = cos * u - sin * v, sin * u + cos * v
        return 0.25 - 0.75 * u, 0.75 * v - 0.25

    np.testing.assert_allclose(changed[0], look_up(noise[0], show), atol=0.02)


# Presizing ----------------------------------------------------------------------------------------


def test_images_shrink_as_pillow_shrinks_them(photos):
    params = rows_with(8, crop_left=0.25, crop_bottom=0.75)
    changed = compute(photos, params, CROP, size=40)
    box = (24, 0, 96, 72)
    by_pillow = [Image.fromarray(one).resize((40, 40), Image.BILINEAR, box) for one in photos]
    np.testing.assert_allclose(changed, np.stack(by_pillow), atol=1.5)
    for size in (40, 150):
        off = compute(photos, rows_with(8), OFF, size=size)
        resized = ops.image.resize(photos.astype("float32"), (size, size), antialias=True)
        np.testing.assert_allclose(off, ops.convert_to_numpy(resized), atol=0.01)


@pytest.mark.parametrize("size", [68, 40])
def test_a_single_resampling_to_a_smaller_size_is_better_than_two(photos, size):
    matrix = (make_rotations(np.full(1, 25.0)) @ make_warps(np.full(1, 0.2), np.full(1, 0.1)))[0]
    params = rows_with(8, maps=matrix)

    def show(u, v):
        x, y, w = (row[0] * u + row[1] * v + row[2] for row in matrix)
        return x / w, y / w

    # The mean of 6 by 6 points in each new pixel.
    exact = look_up(photos[0], show, 6 * size).reshape(size, 6, size, 6, 3).mean((1, 3))
    once = compute(photos, params, WARP, size=size)[0]
    resized = compute(photos, rows_with(8), OFF, size=size).round().astype("uint8")
    twice = compute(resized, params, WARP)[0]
    errors = [np.sqrt(np.mean((one - exact) ** 2)) for one in (once, twice)]
    assert errors[0] < 0.8 * errors[1]


# Pixels -------------------------------------------------------------------------------------------


def test_lighting_shifts_and_stretches_logits():
    levels = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1).repeat(3, axis=3)
    lighting = replace(OFF, max_lighting=0.5)
    changed = compute(levels, rows_with(light_shift=0.5, light_gain=1.5), lighting)[0]
    light = levels[0].astype("float64") / 255
    with np.errstate(divide="ignore"):
        expected = 255 / (1 + np.exp(-1.5 * (np.log(light / (1 - light)) + 0.5)))
    np.testing.assert_allclose(changed, expected, atol=0.01)
    assert changed[0, 0].max() < 1e-3 < 254.9 < changed[-1, -1].min()  # black and white stay
    unchanged = compute(levels, rows_with(), lighting)
    np.testing.assert_allclose(unchanged, levels, atol=0.01)


def test_the_erased_box_is_grey(noise):
    params = rows_with(8, erased_top=0.25, erased_left=0.5, erased_bottom=0.5, erased_right=1)
    expected = noise.copy()
    expected[:, 4:8, 8:16] = 128
    erasing = replace(OFF, random_erasing=1)
    np.testing.assert_array_equal(compute(noise, params, erasing), expected)


@pytest.mark.backends
def test_partners_mix_as_the_first_of_them_says(noise):
    params = rows_with(8, mixup=0.75)
    pairs = noise.reshape(4, 2, 16, 16, 3).astype("float32")
    mixed = compute(noise, params, replace(OFF, mixup=1)).reshape(pairs.shape)
    np.testing.assert_allclose(mixed, 0.75 * pairs + 0.25 * pairs[:, ::-1], atol=1e-3)
    params = rows_with(8, cutmix_top=0.5, cutmix_left=0.25, cutmix_bottom=1, cutmix_right=0.5)
    params[1::2] = rows_with()  # the second's own row does not matter
    expected = pairs.copy()
    expected[:, :, 8:, 4:8] = pairs[:, ::-1, 8:, 4:8]
    cut = compute(noise, params, replace(OFF, cutmix=1)).reshape(pairs.shape)
    np.testing.assert_array_equal(cut, expected)


# Inside the step ----------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.parametrize("augmentation", [CROP, EVERYTHING])
def test_a_single_trace_serves_all_params(noise, augmentation):
    traces, layer = [], Augment(augmentation)

    @compiled
    def step(images, params):
        traces.append(1)
        return layer((images, params))

    for epoch in range(3):
        params = sample(augmentation, 8, epoch=epoch)
        in_step = step(ops.convert_to_tensor(noise), ops.convert_to_tensor(params))
        np.testing.assert_allclose(in_step, compute(noise, params, augmentation), atol=0.01)
    assert len(traces) == 1


def test_only_what_is_on_is_traced(noise):
    product, gather, logit = ("dot_general" if JAX else "einsum"), "gather", "log"
    expected = {
        OFF: set(),
        Augmentation(vertical_flip=True): set(),
        CROP: {product},
        ZOOM: {product},
        ROTATE: {gather},
        WARP: {gather},
        replace(OFF, max_lighting=0.1): {logit},
    }
    for augmentation, kinds in expected.items():
        operations = list_operations(augmentation, noise, rows_with(8))
        operations = operations.replace("logical", "")
        assert {kind for kind in (product, gather, logit) if kind in operations} == kinds


def test_outside_of_a_step_pixels_are_rounded(noise):
    params = rows_with(8, mixup=0.75)
    rounded = augment_images(noise, params, replace(OFF, mixup=1))
    assert rounded.dtype == np.uint8
    np.testing.assert_array_equal(rounded, compute(noise, params, replace(OFF, mixup=1)).round())


def test_what_cannot_be_right_is_refused(noise):
    with pytest.raises(ValueError, match=r"square images.*Received: shape \(8, 8, 16, 3\)"):
        compute(noise[:, :8], rows_with(8), OFF)
    with pytest.raises(ValueError, match=r"params must be float32: .* Received: .*bfloat16"):
        compute(noise, ops.cast(rows_with(8), "bfloat16"), OFF)


@pytest.mark.backends
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_layer_keeps_params_exact_and_adds_nothing_to_a_model(photos, policy):
    augmentation = replace(EVERYTHING, mixup=0, cutmix=0)
    layer = Augment(augmentation, size=64, dtype=policy)
    inputs = (keras.Input((96, 96, 3), dtype="uint8"), keras.Input((len(PARAMS),), dtype="float32"))
    model = keras.Model(inputs, layer(inputs))
    params = sample(augmentation, 8)
    changed = model.predict_on_batch([photos, params])
    dtype = "bfloat16" if policy == "mixed_bfloat16" else "float32"
    assert str(changed.dtype) == model.output.dtype == dtype
    assert changed.shape == (8, *model.output.shape[1:]) == (8, 64, 64, 3)
    expected = compute(photos, params, augmentation, size=64)
    difference = np.abs(changed.astype("float32") - expected)
    assert difference.mean() < (1 if dtype == "bfloat16" else 0.001)
    assert model.weights == model.non_trainable_variables == []  # no seed generator either


@pytest.mark.backends
@pytest.mark.replicas
@pytest.mark.parametrize("augmentation", [EVERYTHING, replace(CROP, mixup=1, max_lighting=0.5)])
def test_every_number_of_replicas_shows_the_same_pictures(accelerator, augmentation):
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype="uint8")
    params = sample(augmentation, 16)
    layer = Augment(augmentation, size=12)
    step = compiled(lambda images, params: layer((images, params)))
    if JAX:
        import jax

        mesh = jax.sharding.Mesh(jax.devices(), "batch")
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
        arrays = jax.device_put((images, params), spread)
        program = step.lower(*arrays).compile().as_text()
        # Partners lie on one device, so no device waits for another's images.
        assert not [word for word in ("all-gather", "all-to-all", "collective") if word in program]
        changed = np.asarray(step(*arrays))
    else:
        import tensorflow as tf

        with accelerator.scope():
            strategy = tf.distribute.get_strategy()
            count = strategy.num_replicas_in_sync
            parts = [
                strategy.experimental_distribute_values_from_function(
                    lambda context, array=array: tf.constant(
                        np.split(array, count)[context.replica_id_in_sync_group]
                    )
                )
                for array in (images, params)
            ]
            changed = strategy.run(step, parts)
        changed = np.concatenate(strategy.experimental_local_results(changed))
    expected = compute(images, params, augmentation, size=12)
    np.testing.assert_allclose(changed, expected, atol=0.01)


def test_the_layer_survives_its_configuration():
    layer = Augment(replace(OFF, flip=True, mixup=0.2), size=12)
    again = Augment.from_config(layer.get_config())
    assert (again.augmentation, again.size) == (layer.augmentation, layer.size)
