from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from pipeline.test_augment_params import EVERYTHING, OFF, draw, rows_with

from flowerkit.pipeline.augment_layer import Augment, augment
from flowerkit.pipeline.augment_params import PARAMS
from flowerkit.training.plan import Augmentation

pytestmark = pytest.mark.backends

JAX = keras.backend.backend() == "jax"
CROP = replace(OFF, min_crop_area=0.3)
SHIFT = replace(OFF, max_shift=0.5)
ZOOM = replace(OFF, max_zoom=4)
TURN = replace(OFF, max_rotation_degrees=180)


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype="uint8")


@pytest.fixture(scope="module")
def photos():
    """Pictures without sharp edges, as photos are: twelve rough pixels a side, blown up to 96."""
    rough = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3)).astype("float32")
    return ops.convert_to_numpy(ops.image.resize(rough, (96, 96))).round().astype("uint8")


def grid():
    """Red grows by 10 a column, green by 10 a row; 4 by 4 px."""
    places = np.arange(4, dtype="uint8") * 10
    red, green = np.meshgrid(places, places)
    return np.stack([red, green, np.full_like(red, 7)], axis=-1)[None]


def compute(images, params, augmentation, **options):
    def function(images, params):
        return augment(images, params, augmentation, **options)

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

    def function(images, params):
        return augment(images, params, augmentation)

    if JAX:
        import jax

        return str(jax.make_jaxpr(function)(images, params)).lower()
    import tensorflow as tf

    graph = tf.function(function).get_concrete_function(tf.constant(images), tf.constant(params))
    return " ".join(operation.type for operation in graph.graph.get_operations()).lower()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "augmentation",
    [OFF, Augmentation(), CROP, SHIFT, TURN],
    ids=["off", "flip", "crop", "shift", "turn"],
)
def test_pixels_stay_exact_where_a_row_changes_nothing(noise, augmentation, dtype):
    values = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1).repeat(3, axis=3)  # all there are
    images = np.concatenate([noise, values])
    np.testing.assert_array_equal(compute(images, rows_with(9), augmentation, dtype=dtype), images)


def test_a_flip_is_exact(noise):
    flipped = compute(noise, rows_with(8, flip=1), Augmentation())
    np.testing.assert_array_equal(flipped, noise[:, :, ::-1])
    in_crop = compute(noise, rows_with(8, flip=1), replace(CROP, flip=True))
    np.testing.assert_array_equal(in_crop, noise[:, :, ::-1])


@pytest.mark.parametrize(
    ("augmentation", "changes", "reds", "greens"),
    [
        (CROP, {"crop_left": 0.5}, [20, 22.5, 27.5, 30], [0, 10, 20, 30]),
        (
            CROP,
            {"crop_top": 0.5, "crop_left": 0.25, "crop_right": 0.75, "flip": 1},
            [20, 17.5, 12.5, 10],
            [20, 22.5, 27.5, 30],
        ),
        (
            replace(SHIFT, min_crop_area=0.3),
            {"crop_left": 0.5},
            [17.5, 22.5, 27.5, 27.5],
            [0, 10, 20, 30],
        ),
        (SHIFT, {"shift_right": 0.25, "shift_down": -0.5}, [10, 0, 10, 20], [20, 30, 20, 10]),
        (SHIFT, {"shift_right": 0.125}, [5, 5, 15, 25], [0, 10, 20, 30]),
        (ZOOM, {"zoom": 2}, [7.5, 12.5, 17.5, 22.5], [7.5, 12.5, 17.5, 22.5]),
        (ZOOM, {"zoom": 0.5}, [15, 5, 25, 15], [15, 5, 25, 15]),
        (TURN, {"rotation_degrees": 180}, [30, 20, 10, 0], [30, 20, 10, 0]),
        (TURN, {"shift_right": 0.25, "zoom": 0.5}, [25, 15, 5, 25], [15, 5, 25, 15]),
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
    wanted = ops.convert_to_numpy(ops.image.resize(part, (16, 16), interpolation="bilinear"))
    np.testing.assert_allclose(compute(noise, params, CROP), wanted, atol=1e-3)


def test_keras_flips_and_erases_the_same(noise):
    """Which images it flips, and where it erases, is read off its pictures."""
    layer = keras.layers.RandomFlip("horizontal", seed=2)
    theirs = ops.convert_to_numpy(layer(noise.astype("float32"), training=True))
    params = rows_with(8)
    flips = (theirs != noise).any(axis=(1, 2, 3))
    params[:, PARAMS.index("flip")] = flips
    assert 0 < flips.sum() < 8
    np.testing.assert_array_equal(compute(noise, params, Augmentation()), theirs)

    layer = keras.layers.RandomErasing((1.0, 1.0), scale=(0.2, 0.2), fill_value=128, seed=2)
    theirs = ops.convert_to_numpy(layer(noise.astype("float32"), training=True))
    for row, mask in enumerate((theirs != noise).any(axis=3)):
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        for edge, place in zip(
            ("top", "left", "bottom", "right"),
            (rows[0], cols[0], rows[-1] + 1, cols[-1] + 1),
            strict=True,
        ):
            params[row, PARAMS.index(f"block_{edge}")] = place / 16
    params[:, PARAMS.index("flip")] = 0
    np.testing.assert_array_equal(compute(noise, params, replace(OFF, random_erasing=1)), theirs)


@pytest.mark.parametrize(
    ("name", "factors", "augmentation", "changes", "inside"),
    [
        # Compared where both see the picture: Keras mirrors around the edge, not around the edge pixels.
        (
            "RandomTranslation",
            ((0.25, 0.25), (-0.125, -0.125)),
            SHIFT,
            {"shift_down": 0.25, "shift_right": -0.125},
            np.s_[:, 4:, :-2],
        ),
        ("RandomZoom", ((-0.4, -0.4),), ZOOM, {"zoom": 1 / 0.6}, np.s_[:]),
        (
            "RandomRotation",
            ((1 / 12, 1 / 12),),
            TURN,
            {"rotation_degrees": 30},
            np.s_[:, 4:-4, 4:-4],
        ),
        (
            "RandomBrightness",
            ((0.2, 0.2),),
            replace(OFF, max_brightness=0.2),
            {"brightness": 0.2},
            np.s_[:],
        ),
    ],
)
def test_keras_layers_show_the_same_picture(noise, name, factors, augmentation, changes, inside):
    layer = getattr(keras.layers, name)(
        *factors, seed=0
    )  # ranges with equal ends: nothing is random
    theirs = ops.convert_to_numpy(layer(noise.astype("float32"), training=True))
    assert np.abs(theirs[inside] - noise[inside]).mean() > 10  # it did something
    ours = compute(noise, rows_with(8, **changes), augmentation)
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=0.01)


def test_keras_stretches_contrast_the_same(noise):
    pale = noise // 4 + 90  # so that nothing is clipped, and the gain can be read off
    layer = keras.layers.RandomContrast(0.5, seed=2)
    theirs = ops.convert_to_numpy(layer(pale.astype("float32"), training=True))
    params = rows_with(8)
    gains = theirs[..., 0].std(axis=(1, 2)) / pale[..., 0].std(axis=(1, 2))
    params[:, PARAMS.index("contrast")] = gains
    assert len(np.unique(gains.round(3))) == 8
    ours = compute(pale, params, replace(OFF, max_contrast=0.5))
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_colours_are_clipped():
    colours = replace(OFF, max_brightness=0.2, max_contrast=0.5)
    changed = compute(grid(), rows_with(brightness=-0.05, contrast=1.5), colours)[0]
    np.testing.assert_allclose(changed[0, :, 0], [0, 0, 9.75, 24.75], atol=1e-4)
    assert changed[..., 2].max() == 0  # 7 - 12.75
    white = np.full((1, 4, 4, 3), 250, "uint8")
    assert (compute(white, rows_with(brightness=0.2), colours) == 255).all()


@pytest.mark.parametrize("augmentation", [Augmentation(), CROP, EVERYTHING])
def test_one_trace_serves_all_draws(noise, augmentation):
    traces = []

    @compiled
    def step(images, params):
        traces.append(1)
        return augment(images, params, augmentation)

    for epoch in range(3):
        params = draw(augmentation, 8, epoch=epoch)
        in_step = step(ops.convert_to_tensor(noise), ops.convert_to_tensor(params))
        np.testing.assert_allclose(in_step, compute(noise, params, augmentation), atol=0.01)
    assert len(traces) == 1


def test_only_what_is_on_is_traced(noise):
    params = rows_with(8)
    multiplies, gathers, turns = ("dot_general" if JAX else "einsum"), "gather", "sin"
    kinds = {"off": OFF, "flip": Augmentation(), "crop": CROP, "turn": TURN}
    operations = {name: list_operations(kind, noise, params) for name, kind in kinds.items()}
    assert multiplies in operations["crop"]
    assert gathers in operations["turn"]
    assert turns in operations["turn"]
    for name in ("off", "flip"):
        assert multiplies not in operations[name]
        assert gathers not in operations[name]
        assert turns not in operations[name]


def test_what_cannot_be_right_is_refused(noise):
    with pytest.raises(ValueError, match="square images. Received: shape"):
        compute(noise[:, :8], rows_with(8), OFF)
    with pytest.raises(ValueError, match="draws must be float32: .* Received: .*bfloat16"):
        augment(noise, ops.cast(rows_with(8), "bfloat16"), OFF)
    with pytest.raises(ValueError, match="per_replica_batch must be even. Received: 7"):
        compute(noise[:7], rows_with(7), replace(OFF, mixup=1))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_layer_keeps_draws_exact_and_adds_nothing_to_a_model(photos, policy):
    augmentation = replace(EVERYTHING, mixup=0, cutmix=0)
    layer = Augment(augmentation, dtype=policy)
    inputs = (keras.Input((96, 96, 3), dtype="uint8"), keras.Input((len(PARAMS),), dtype="float32"))
    model = keras.Model(inputs, layer(inputs))
    params = draw(augmentation, 8)
    changed = model.predict_on_batch([photos, params])
    wanted = "bfloat16" if policy == "mixed_bfloat16" else "float32"
    assert str(changed.dtype) == model.output.dtype == wanted
    np.testing.assert_allclose(
        changed.astype("float32"),
        compute(photos, params, augmentation, dtype=wanted),
        atol=2 if policy == "mixed_bfloat16" else 0.01,  # compiled together, or one by one
    )
    assert model.weights == []
    assert model.non_trainable_variables == []  # no seed generator


@pytest.mark.replicas
@pytest.mark.parametrize(
    "augmentation", [EVERYTHING, replace(EVERYTHING, max_rotation_degrees=0, max_shear_degrees=0)]
)
def test_every_number_of_replicas_shows_the_same_pictures(accelerator, augmentation):
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype="uint8")
    params = draw(augmentation, 16)
    step = compiled(lambda images, params: augment(images, params, augmentation))
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
    np.testing.assert_allclose(changed, compute(images, params, augmentation), atol=0.01)
