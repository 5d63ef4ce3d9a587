"""A run on a preset of KerasHub, from frozen features to its exports; on both backends."""

from dataclasses import replace

import numpy as np
import pytest
from hub_presets import dinov2, write_preset

import flowerkit
from flowerkit.deploy import export_model, load_classifier
from flowerkit.training.plan import FINE_TUNE

PHOTOS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype("uint8")


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
    before = [each.probabilities for each in classifier.predict(PHOTOS)]
    export = export_model(hub_run.folder, tmp_path / "model.keras", format="keras")
    after = [each.probabilities for each in load_classifier(export.path).predict(PHOTOS)]
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_a_preset_is_exported_for_machines_without_keras_hub(hub_run, tmp_path):
    for format, file in (
        ("onnx", "model.onnx"),
        ("litert", "model.tflite"),
        ("savedmodel", "saved"),
    ):
        export = export_model(hub_run.folder, tmp_path / file, format=format)
        assert export.difference < 1e-4
