"""backbones: the facts of the table, and what is on this machine."""

import inspect
from pathlib import PurePath

import keras
import pytest

from flowerkit.models import backbones


def find(name):
    return next(one for one in backbones.describe_backbones() if one.name == name)


def build_without_weights(name, **options):
    """The network, its variables without values: large ones take a second and no memory."""
    with keras.StatelessScope(initialize_variables=False):
        return getattr(keras.applications, name)(
            include_top=False, input_shape=(224, 224, 3), **options
        )


def test_every_applications_backbone_is_listed_with_its_family():
    builders = {
        name
        for name in dir(keras.applications)
        if name[0].isupper() and callable(getattr(keras.applications, name))
    }
    listed = backbones.list_backbones()
    assert set(listed) == builders
    assert set(listed.values()) == set(backbones.FAMILIES)
    assert listed["DenseNet121"] == "densenet"
    assert listed["ResNet50V2"] == "resnet_v2"
    assert listed["MobileNetV3Small"] == "mobilenet_v3"
    for name, family in listed.items():
        module = inspect.getmodule(getattr(keras.applications, name)).__name__
        assert module.rpartition(".")[2] == family


@pytest.mark.parametrize(
    "name", ["VGG16", "MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0"]
)
def test_parameters_are_those_that_keras_counts_and_the_weights_file_is_kerass(name, monkeypatch):
    asked = []

    def stop(file_name, *args, **kwargs):
        asked.append(file_name)
        raise FileNotFoundError

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", stop)
    with pytest.raises(FileNotFoundError):
        build_without_weights(name, weights="imagenet")
    row = find(name)
    assert build_without_weights(name, weights=None).count_params() == row.parameters
    (file_name,) = asked
    assert PurePath(file_name).match(row.weights_file)


def test_weights_are_weighed_without_the_classifier_and_carry_their_licence():
    vgg16 = find("VGG16")
    assert round(vgg16.weights_mb, 1) == 58.9  # Keras's file has 58,889,256 bytes
    assert vgg16.licence == "CC-BY-4.0"
    assert find("DenseNet121").licence == "BSD-3-Clause"
    assert all(
        one.licence and one.weights_mb > 3
        for one in backbones.describe_backbones()
        if one.family != "flowerkit"
    )


def test_default_sizes_are_the_builders():
    sizes = {name: find(name).input_px for name in ("EfficientNetB7", "Xception", "NASNetLarge")}
    assert sizes == {"EfficientNetB7": 600, "Xception": 299, "NASNetLarge": 331}


def test_flowerkits_own_come_first_and_have_no_weights():
    own = backbones.describe_backbones()[:5]
    names = ["tiny", "dense-small", "dense-small-bn", "dense-large", "dense-large-bn"]
    assert [one.name for one in own] == names
    assert {(one.weights_mb, one.licence, one.is_cached) for one in own} == {(None, None, False)}


def test_cached_weights_are_found_in_kerass_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert backbones.weights_folder() == tmp_path / "models"
    assert backbones.find_cached_weights() == []
    (tmp_path / "models").mkdir()
    for name in ("mobilenet_1_0_128_tf_no_top.h5", "efficientnetb0_notop.h5", "vgg16_top.h5"):
        (tmp_path / "models" / name).touch()
    cached = [one.name for one in backbones.describe_backbones() if one.is_cached]
    assert cached == ["EfficientNetB0", "MobileNet"]
    assert [path.name for path in backbones.find_cached_weights()] == [
        "efficientnetb0_notop.h5",
        "mobilenet_1_0_128_tf_no_top.h5",
    ]
