"""A run folder as training leaves it, made without training, and its exports, each made once."""

import functools
import tempfile
from pathlib import Path

from flowerkit.files import write_json

CLASSES = ("iris", "rose", "수국", "tulip")
_FOLDER = tempfile.TemporaryDirectory(prefix="flowerkit-exports-")


@functools.cache
def make_run():
    """The folder; its model is sure of itself, as a trained one is, so that differences show."""
    import keras

    from flowerkit.models.classifier import build_classifier, save_classifier

    keras.utils.set_random_seed(0)
    folder = Path(_FOLDER.name) / "run"
    model = build_classifier(4, image_size=32, backbone="tiny", weights=None)
    kernel, bias = model.get_layer("probabilities").get_weights()
    model.get_layer("probabilities").set_weights([25 * kernel, bias])
    save_classifier(model, folder / "model.keras")
    data = {"class_names": CLASSES, "image_size": 32, "origin": "drawn", "folder": str(folder)}
    write_json(folder / "environment.json", {"data": data})
    write_json(folder / "plan.json", {"backbone": "tiny"})
    write_json(folder / "result.json", {"val_f1": 0.75})
    return folder


@functools.cache
def export(format):
    """What `export_model` answers for the run."""
    from flowerkit.deploy.exports import export_model

    return export_model(make_run(), format=format)


def needed(format):
    """The modules that tests of a format skip without."""
    return {"onnx": ("onnx", "tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}.get(
        format, ()
    )
