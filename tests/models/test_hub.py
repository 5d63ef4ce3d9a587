"""hub: the smallest networks of each family of KerasHub, from preset folders that it wrote itself."""

import json
import re
import shutil
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from hub_presets import (
    MEAN_AND_STD,
    converters,
    dinov2,
    dinov3,
    hgnet,
    mobilenetv5,
    models,
    siglip,
    swin,
    vit,
    write_preset,
)

import flowerkit
from flowerkit.deploy import export_model, load_classifier
from flowerkit.models import (
    build_cam,
    build_classifier,
    check_reload,
    choose_trainable,
    depth_of,
    fixed_input_size,
    load_model,
    save_classifier,
    split_classifier,
    walk_layers,
)
from flowerkit.models import hub as models_hub
from flowerkit.models.freezing import find_backbone
from flowerkit.training.plan import FINE_TUNE

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")


def build(folder, *, weights="imagenet", input_size=32, head="pooled"):
    return build_classifier(
        4,
        image_size=32,
        input_size=input_size,
        backbone=f"hub:{folder}",
        weights=weights,
        head=head,
    )


def move(classifier):
    """What training does: every weight that can learn changes, in either direction."""
    rng = np.random.default_rng(2)
    for variable in classifier.trainable_variables:
        variable.assign(variable + 0.05 * rng.normal(size=variable.shape))


@pytest.mark.parametrize(
    "family",
    [
        *(pytest.param(each, marks=pytest.mark.backends) for each in (dinov2, siglip)),
        mobilenetv5,
        *(pytest.param(each, marks=pytest.mark.slow) for each in (vit, dinov3, swin, hgnet)),
    ],
)
def test_a_preset_becomes_a_classifier_that_is_saved_whole(family, tmp_path):
    classifier = build(write_preset(family))
    height, width, channels = classifier.get_layer("backbone").output_shape[1:]
    assert (height, width) == (4, 4)
    assert channels == 16  # 8 of each patch, 8 of the class token; or convolutions
    depths = [depth_of(classifier)(v) for v in classifier.trainable_variables]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1]) == (0.0, 1.0)
    move(classifier)
    save_classifier(classifier, tmp_path / "model.keras")
    assert check_reload(classifier, tmp_path / "model.keras", batch=8) < 1e-6
    assert build_cam(classifier)(PIXELS).max() == 1.0


def test_pixels_are_scaled_as_the_preset_says():
    scaling = build(write_preset(dinov2)).get_layer("scale_pixels")
    assert scaling.scale == pytest.approx(MEAN_AND_STD["scale"])
    assert scaling.offset == pytest.approx(MEAN_AND_STD["offset"])


def test_features_are_those_of_keras_hub():
    """Of the class token and the mean of the patches; the four registers are left out."""
    folder = write_preset(dinov2)
    body, _ = split_classifier(build(folder))
    alone = models.Backbone.from_preset(str(folder), image_shape=(32, 32, 3))
    converter = converters.ImageConverter.from_preset(str(folder), _allow_python_workflow=True)
    scaled = PIXELS * np.array(converter.scale) + np.array(converter.offset)
    tokens = keras.ops.convert_to_numpy(alone({"images": scaled.astype("float32")}))
    expected = np.concatenate([tokens[:, 5:].mean(axis=1), tokens[:, 0]], axis=-1)
    found = keras.ops.convert_to_numpy(body(PIXELS, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_fresh_weights_are_not_those_of_the_preset_and_may_be_of_another_size():
    folder = write_preset(vit)
    trained, fresh = build(folder), build(folder, weights=None, input_size=16)
    kernels = [
        keras.ops.convert_to_numpy(next(v for v in each.weights if "kernel" in v.path))
        for each in (trained, fresh)
    ]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    assert fresh.get_layer("backbone").output_shape == (None, 2, 2, 16)


def test_norms_of_a_transformer_stay_frozen_and_the_rest_is_unfrozen_by_stage():
    classifier = build(write_preset(vit))
    chosen = choose_trainable(classifier, "transformer_block_2", freeze_norms=True)
    block = ["mha/query", "mha/key", "mha/value", "mha/attention_output"]
    block += ["mlp/dense_1", "mlp/dense_2"]
    assert [path.partition("transformer_block_2/")[2] for path in chosen] == block


def test_every_layer_computes_in_the_precision_of_the_run(tmp_path):
    """Also the parts that a preset keeps in a precision of their own."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        classifier = build(write_preset(siglip))
        save_classifier(classifier, tmp_path / "model.keras")
        assert check_reload(classifier, tmp_path / "model.keras", batch=8) < 1e-6
    finally:
        keras.config.set_dtype_policy("float32")
    policies = {layer.dtype_policy.name for _, layer in walk_layers(find_backbone(classifier))}
    assert policies == {"mixed_bfloat16"}


# Sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "size"), [(vit, 32), (swin, 32), (siglip, 32), (dinov2, None), (mobilenetv5, None)]
)
def test_transformers_with_a_weight_for_each_place_take_one_size(family, size):
    assert fixed_input_size(f"hub:{write_preset(family)}") == size


@pytest.mark.parametrize("family", [vit, siglip])
def test_another_size_than_the_only_one_is_refused(family):
    with pytest.raises(
        ValueError, match=r"32 x 32 px only, and would get 24 x 24.*--input-size 32"
    ):
        build(write_preset(family), input_size=24)


# What is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bert_base_en", "text, sound, video or drawing"),
        ("whisper_tiny_en", "text, sound, video or drawing"),
        ("stable_diffusion_3_medium", "text, sound, video or drawing"),
    ],
)
def test_presets_of_another_modality_are_refused_before_anything_is_fetched(name, kind):
    with pytest.raises(ValueError, match=rf"hub:{name} is no encoder of images \({kind}\)"):
        build_classifier(4, image_size=32, backbone=f"hub:{name}")


def test_a_folder_of_another_modality_is_refused_by_its_class(tmp_path):
    models.BertBackbone(9, 1, 2, 8, 16).save_to_preset(tmp_path)
    with pytest.raises(ValueError, match=r"no encoder of images \(BertBackbone\)"):
        build(tmp_path)


@pytest.mark.parametrize("kind", ["PaliGemma", "SAM", "RetinaNet"])
def test_networks_of_several_parts_are_refused_before_their_weights_are_read(kind, tmp_path):
    body, converter = f"{kind}Backbone", getattr(converters, f"{kind}ImageConverter")
    config = {"module": "keras_hub", "class_name": body, "config": {}}
    config["registered_name"] = f"keras_hub>{body}"
    (tmp_path / "config.json").write_text(json.dumps(config))
    converter(image_size=(32, 32), _allow_python_workflow=True).save_to_preset(tmp_path)
    with pytest.raises(ValueError, match=rf"no encoder of images \({body}\)"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("", ValueError, "'' is no preset of KerasHub"),
        ("hf://timm/", RuntimeError, "could not be fetched"),
        ("https://huggingface.co/timm/resnet18.a1_in1k", ValueError, "hub:hf://OWNER/NAME"),
    ],
)
def test_what_is_no_name_is_refused(name, error, reason, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(error, match=reason):
        build_classifier(4, image_size=32, backbone=f"hub:{name}")


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"no preset of KerasHub .*Did you mean 'dinov2_base'\?"):
        build_classifier(4, image_size=32, backbone="hub:dinov2_bas")


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("config.json", "has no config.json"),
        ("image_converter.json", "image_converter.json.* doesn't exist"),
        ("model.weights.h5", "weights.*doesn't exist"),
    ],
)
def test_a_folder_that_is_not_whole_names_what_is_missing(missing, reason, tmp_path):
    folder = shutil.copytree(write_preset(vit), tmp_path / "preset")
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=rf"is no whole preset of KerasHub: .*{reason}"):
        build(folder)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("dinov2_base", 'kagglehub.model_download("keras/dinov2/keras/dinov2_base/'),
        (
            "kaggle://keras/vit/keras/vit_tiny",
            'kagglehub.model_download("keras/vit/keras/vit_tiny")',
        ),
        ("hf://timm/resnet18.a1_in1k", 'hf.snapshot_download("timm/resnet18.a1_in1k")'),
    ],
)
def test_without_internet_the_error_says_how_to_bring_the_preset(
    name, command, monkeypatch, tmp_path
):
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # closed
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RuntimeError, match=rf"{re.escape(command)}.*--backbone hub:FOLDER"):
        build_classifier(4, image_size=32, backbone=f"hub:{name}")


@pytest.mark.parametrize("handle", ["vit_tiny/2", "vit_tiny", "vit_patch16", "vit_patch16/2"])
def test_an_attached_model_of_kaggle_is_used_without_internet(handle, monkeypatch, tmp_path):
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models_hub, "KAGGLE", tmp_path)
    place = tmp_path / "input/models/keras/vit/keras" / handle.removesuffix("/2") / "2"
    shutil.copytree(write_preset(vit), place)
    assert fixed_input_size(f"hub:kaggle://keras/vit/keras/{handle}") == 32


def test_a_saved_model_says_what_to_install_where_keras_hub_is_missing(monkeypatch, tmp_path):
    save_classifier(build(write_preset(vit)), tmp_path / "model.keras")
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(RuntimeError, match="needs KerasHub.*pip install 'keras-hub"):
        load_model(tmp_path / "model.keras")


# From frozen features to its exports --------------------------------------------------------------


@pytest.fixture
def hub_run(quick_plan, drawn, accelerator, tmp_path):
    plan = replace(
        FINE_TUNE,
        backbone=f"hub:{write_preset(dinov2)}",
        per_replica_batch=quick_plan.per_replica_batch,
        input_size=32,
        freeze_epochs=1,
        epochs=1,
        max_lr=1e-2,
        unfreeze_from="layers_1",
    )
    return flowerkit.train(drawn, plan, out=tmp_path / "run", accelerator=accelerator)


@pytest.mark.backends
@pytest.mark.replicas
def test_a_preset_is_trained_in_stages_and_used(hub_run, tmp_path):
    assert [row["phase"] for row in hub_run.history] == [1, 2]
    classifier = load_classifier(hub_run.folder)
    assert classifier.card.backbone.startswith("dinov2")
    before = [each.probabilities for each in classifier.predict(PIXELS)]
    export = export_model(hub_run.folder, tmp_path / "model.keras", format="keras")
    after = [each.probabilities for each in load_classifier(export.path).predict(PIXELS)]
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_a_preset_is_exported_for_machines_without_keras_hub(hub_run, tmp_path):
    for format, file in (
        ("onnx", "model.onnx"),
        ("litert", "model.tflite"),
        ("savedmodel", "saved"),
    ):
        export = export_model(hub_run.folder, tmp_path / file, format=format)
        assert export.difference < 1e-4
