"""Runs on converted photos whose borders decide the class, and their exports, each made once.

The middle square of every photo is grey: a classifier that crops cannot tell the classes apart.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"iris": (255, 0, 0), "rose": (0, 255, 0), "tulip": (255, 255, 0), "수국": (0, 0, 255)}
CLASSES = tuple(COLOURS)
_FOLDER = tempfile.TemporaryDirectory(prefix="flowerkit-exports-")
_MODULES = {"onnx": ("onnx", "tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}


def draw_photo(class_name, seed=0):
    """A photo of 96 x 32 px."""
    pixels = np.empty((32, 96, 3))
    pixels[:] = COLOURS[class_name]
    pixels[:, 32:64] = 128
    pixels += np.random.default_rng(seed).normal(0, 10, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype("uint8"))


@functools.cache
def train_on_photos(resize):
    """The folder of a run, after photos were drawn and converted with `resize`."""
    import flowerkit
    from flowerkit.training import RAMP, train

    folder = Path(_FOLDER.name) / resize
    for name in CLASSES:
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(16):
            draw_photo(name, number).save(folder / "photos" / name / f"{number}.png")
    data, _ = flowerkit.convert_photos(
        folder / "photos",
        folder / "data",
        image_size=32,
        resize=resize,
        val_fraction=0.25,
        test_fraction=0,
        workers=1,
    )
    accelerator = flowerkit.connect()
    plan = dataclasses.replace(
        RAMP,
        backbone="tiny",
        weights=None,
        epochs=6,
        per_replica_batch=8 // accelerator.replicas,
        lr_reference_batch=None,
        rampup_epochs=1,
        start_lr=1e-3,
        max_lr=5e-3,
        min_crop_area=1.0,
        random_erasing=0.0,
    )
    train(data, plan, out=folder / "run", accelerator=accelerator)
    return folder / "run"


@functools.cache
def export(format):
    """The `Export` of the padded run, beside its model."""
    from flowerkit.deploy import export_model

    return export_model(train_on_photos("pad"), format=format)


def skip_without(format):
    """Skip the test where a library of the format is missing."""
    for module in _MODULES.get(format, ()):
        pytest.importorskip(module)
