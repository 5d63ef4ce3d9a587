"""backbones: the list, Keras Applications, files, small ones, and where weights come from."""

import keras
import numpy as np
import pytest

from flowerkit.models import backbones

LIST = {row["name"]: row for row in backbones.list_backbones()}
OWN = [name for name, row in LIST.items() if not row["licence"]]


def build(name, weights=None, *, input_size=32, dropout=0.0):
    body, _ = backbones.build_backbone(str(name), weights, input_size, dropout)
    return body


def kinds(body):
    return [type(layer).__name__ for layer in body.layers[1:]]


@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0"])
def test_the_list_has_the_parameters_that_keras_counts(name):
    with keras.StatelessScope(initialize_variables=False):  # variables without values: fast
        body = getattr(keras.applications, name)(
            include_top=False, weights=None, input_shape=(224, 224, 3)
        )
    assert body.count_params() == int(LIST[name]["parameters"])


def test_every_backbone_of_keras_applications_is_in_the_list_with_a_licence():
    known = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(LIST) - set(OWN) == known
    names = ["tiny", "dense-small", "dense-small-bn", "dense-large", "dense-large-bn"]
    assert names == OWN


def test_cached_weights_are_found_in_the_folder_of_keras(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert backbones.find_cached_weights() == []
    (tmp_path / "models").mkdir()
    for name in ("mobilenet_1_0_128_tf_no_top.h5", "efficientnetb0_notop.h5", "vgg16_top.h5"):
        (tmp_path / "models" / name).touch()
    assert [path.name for path in backbones.find_cached_weights()] == [
        "efficientnetb0_notop.h5",
        "mobilenet_1_0_128_tf_no_top.h5",
    ]


@pytest.mark.parametrize("name", OWN)
def test_flowerkits_own_have_the_parameters_that_the_list_says(name):
    body = build(name, input_size=int(LIST[name]["input_px"]))
    assert body.count_params() == int(LIST[name]["parameters"])
    assert body.name == "backbone"


def test_dense_networks_see_at_most_64_px_and_others_the_image_as_it_is():
    assert backbones.default_input_size("dense-large", 224) == 64
    assert backbones.default_input_size("dense-small-bn", 32) == 32
    assert backbones.default_input_size("DenseNet121", 224) == 224


def test_a_dense_network_drops_between_its_layers():
    body = build("dense-small", dropout=0.3)
    assert kinds(body) == ["Flatten", "Dense", "ReLU", "Dropout", "Dense", "ReLU"]
    assert body.get_layer("dropout1").rate == 0.3
    assert body.output_shape == (None, 64)


def test_a_dense_network_with_norms_has_them_between_dense_and_relu_and_no_biases():
    body = build("dense-large-bn")
    layer = ["Dense", "BatchNormalization", "ReLU"]
    assert kinds(body) == ["Flatten", *layer, *3 * ["Dropout", *layer]]
    assert body.get_layer("dense4").bias is None
    assert body.output_shape == (None, 512)


def test_an_unknown_backbone_names_the_nearest():
    with pytest.raises(
        ValueError,
        match=r"'DenseNet12' is neither .*`flowerkit models`.* Did you mean 'DenseNet121'",
    ):
        build("DenseNet12")
    with pytest.raises(ValueError, match="Did you mean 'dense-small'"):
        build("dense-smal")


def test_names_may_be_written_small():
    assert kinds(build("mobilenet")) == kinds(build("MobileNet"))
    assert kinds(build("Tiny")) == kinds(build("tiny"))
    assert kinds(build("DENSE-small")) == kinds(build("dense-small"))
    assert backbones.default_input_size("Dense-small", 224) == 64


def test_small_networks_have_no_imagenet_weights():
    with pytest.raises(ValueError, match="tiny backbone has no pretrained weights"):
        build("tiny", "imagenet")
    with pytest.raises(ValueError, match="dense-large backbone has no pretrained weights"):
        build("dense-large", "imagenet")


def test_weights_come_from_a_file(tmp_path):
    body = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    body.save_weights(tmp_path / "body.weights.h5")
    loaded = build("MobileNetV3Small", tmp_path / "body.weights.h5")
    np.testing.assert_array_equal(loaded.get_weights()[0], body.get_weights()[0])


@pytest.mark.backends
def test_a_keras_file_serves_with_its_weights_or_fresh_ones(tmp_path):
    body = build("tiny")
    body.save(tmp_path / "body.keras")
    kept = build(tmp_path / "body.keras", "imagenet")
    fresh = build(tmp_path / "body.keras", None)
    np.testing.assert_array_equal(kept.get_weights()[0], body.get_weights()[0])
    assert not np.array_equal(fresh.get_weights()[0], body.get_weights()[0])


@pytest.mark.parametrize("weights", ["imagenet", None])
def test_a_file_that_was_saved_frozen_learns_again(tmp_path, weights):
    body = build("tiny")
    body.trainable = False
    body.save(tmp_path / "body.keras")
    assert len(build(tmp_path / "body.keras", weights).trainable_variables) == 12


def test_a_keras_file_follows_the_present_precision(tmp_path):
    build("tiny").save(tmp_path / "body.keras")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        body = build(tmp_path / "body.keras", "imagenet")
    finally:
        keras.config.set_dtype_policy(before)
    assert body.layers[1].compute_dtype == "bfloat16"


def test_a_file_that_ends_in_a_vector_is_refused(tmp_path):
    inputs = keras.Input((None, None, 3))
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)).save(tmp_path / "a.keras")
    with pytest.raises(
        ValueError, match=r"ends in shape \(None, 3\); a backbone ends in a feature"
    ):
        build(tmp_path / "a.keras", "imagenet")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no backbone file .*none.keras"):
        build(tmp_path / "none.keras")
    with pytest.raises(FileNotFoundError, match="no weights .*none.h5"):
        build("DenseNet121", tmp_path / "none.h5")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No network for Keras' own download, and an empty cache of its own."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    # No proxy listens there: Keras' own download fails for real, and no packet leaves.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


def test_imagenet_weights_offline_name_the_cache_the_file_and_two_remedies(tmp_path, offline):
    name = "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with pytest.raises(RuntimeError, match=rf"{tmp_path}/models/{name} is missing.*Put that file"):
        build("DenseNet121", "imagenet", input_size=64)


def test_imagenet_weights_offline_come_from_what_is_attached(tmp_path, offline, monkeypatch):
    body = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    attached = tmp_path / "input" / "my-weights"
    attached.mkdir(parents=True)
    body.save(attached / "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5")
    monkeypatch.setattr(backbones, "KAGGLE", tmp_path)
    for loaded, saved in zip(
        build("MobileNetV3Small", "imagenet").get_weights(), body.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(loaded, saved)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("convnext_large_notop.h5", "ConvNeXtLarge"),
        ("densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5", "DenseNet121"),
        ("efficientnetb0_notop.h5", "EfficientNetB0"),
        ("efficientnetv2-b0_notop.h5", "EfficientNetV2B0"),
        ("inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "InceptionResNetV2"),
        ("inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5", "InceptionV3"),
        ("mobilenet_1_0_224_tf_no_top.h5", "MobileNet"),
        ("mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", "MobileNetV2"),
        ("weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", "MobileNetV3Small"),
        ("nasnet_mobile_no_top.h5", "NASNetMobile"),
        ("resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "ResNet50"),
        ("resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "ResNet50V2"),
        ("xception_weights_tf_dim_ordering_tf_kernels_notop.h5", "Xception"),
    ],
)
def test_a_weights_file_of_keras_is_of_one_backbone(file, name, tmp_path, monkeypatch):
    names = [row["name"] for row in backbones.list_backbones()]
    assert [each for each in names if backbones.is_weights_of(file, each)] == [name]
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / file).touch()
    (tmp_path / "models/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5").touch()
    assert backbones.find_cached_weights(name) == [tmp_path / "models" / file]


def test_weights_that_keras_keeps_under_another_name_than_their_address_are_found(
    tmp_path, monkeypatch
):
    def build(weights, **_):
        if weights == "imagenet":
            raise Exception("URL fetch failure on https://x.org/NASNet-mobile-no-top.h5: None")
        return weights

    monkeypatch.setattr(backbones, "KAGGLE", tmp_path)
    (tmp_path / "input/w").mkdir(parents=True)
    file = tmp_path / "input/w/nasnet_mobile_no_top.h5"
    file.touch()
    assert backbones._download(build, "imagenet", (32, 32, 3)) == file
