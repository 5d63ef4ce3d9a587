"""memory: what training needs for an image, by the layers alone."""

import keras
import pytest

from flowerkit.models import activation_bytes, build_classifier


@pytest.mark.parametrize("size", [8, None])
def test_what_all_layers_give_is_counted_once_also_where_a_network_takes_any_size(
    accelerator, size
):
    inner_inputs = keras.Input((size, size, 4))
    inner = keras.Model(inner_inputs, keras.layers.ReLU()(inner_inputs / 255.0))
    pixels = keras.Input((8, 8, 3))
    features = inner(keras.layers.Conv2D(4, 3, padding="same")(pixels))
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(features))
    model = keras.Model(pixels, outputs)
    assert activation_bytes(model, precision="float32") == 1.5 * 4 * (256 + 2 * 256 + 4 + 2)


def test_a_larger_input_needs_more_and_half_the_precision_half(accelerator):
    def measure(size, precision="float32"):
        model = build_classifier(4, image_size=size, backbone="tiny", weights=None)
        return activation_bytes(model, precision=precision)

    assert measure(64) == pytest.approx(4 * measure(32), rel=0.05)
    assert measure(32, "bfloat16") < 0.51 * measure(32)


def test_a_file_of_any_size_needs_what_the_same_network_of_one_size_needs(accelerator, tmp_path):
    def measure(name, size):
        pixels = keras.Input((size, size, 3))
        scaled = keras.layers.Rescaling(1 / 255)(pixels)
        features = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="conv")(scaled)
        sums = keras.Sequential([keras.layers.ReLU(), keras.layers.MaxPooling2D()])(features)
        keras.Model(pixels, [sums]).save(tmp_path / name)
        return activation_bytes(
            build_classifier(5, image_size=32, backbone=tmp_path / name, weights=None),
            precision="float32",
        )

    assert measure("free.keras", None) == measure("fixed.keras", 32) > 1.5 * 4 * 32 * 32 * 3
