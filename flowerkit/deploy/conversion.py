"""From a `.keras` file to SavedModel, ONNX or LiteRT, with Keras on TensorFlow.

Keras on JAX writes the first only, and not the others (3.15: ONNX by jax2onnx, LiteRT not at all), so
a session on JAX has another process convert: TensorFlow is there in any case, for the data.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

from flowerkit.deploy.card import CARD_FILE, LABELS_FILE, NAME, ModelCard


def convert(source: Path, target: Path, format: str, card: ModelCard) -> None:
    """Write the model of the `.keras` file `source` to `target`, with `card` inside.

    Raises RuntimeError when it cannot be converted, with the last line of why.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        convert_here(source, target, format)
    else:
        _convert_in_child(source, target, format)
    _ADD_CARD[format](target, card)


def convert_here(source: Path, target: Path, format: str) -> None:
    """As `convert`, in this process, which must run Keras on TensorFlow; puts no card inside."""
    from flowerkit.models.classifier import load_model

    model = _fix_to_prediction(load_model(source))
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy's, at what Keras does to tf2onnx
            _CONVERTERS[format](model, Path(target))
    except Exception as error:  # each converter has its own
        raise RuntimeError(
            f"the model does not convert to {format!r}: {_last_line(str(error)) or type(error)}. "
            f"Export it as another format."
        ) from error


def _fix_to_prediction(model):
    """The model as in `predict`, whoever calls it.

    Exporters call it without saying that they do not train it, and a layer such as Keras's Resizing
    then switches all that follows to training: its norms would learn from what it is to classify.
    """
    import keras

    pixels = keras.Input(model.input_shape[1:], name="pixels")
    return keras.Model(pixels, model(pixels, training=False), name="classifier")


def _convert_in_child(source: Path, target: Path, format: str) -> None:
    code = "import sys; from flowerkit.deploy.conversion import convert_here as c; c(*sys.argv[1:])"
    # The accelerator belongs to this process; converting needs none.
    settings = {
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "FLOWERKIT_VIRTUAL_CPUS": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(target), format],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"the process that was to convert the model to {format!r} ended with "
            f"{done.returncode}: {_last_line(done.stderr) or 'it said nothing'}"
        )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("RuntimeError: ") if lines else ""


# Converters ---------------------------------------------------------------------------------------


def _write_savedmodel(model, target: Path) -> None:
    model.export(target, format="tf_saved_model", verbose=False)


def _write_onnx(model, target: Path) -> None:
    model(np.zeros((1, *model.input_shape[1:]), "float32"))  # Keras wants one that was called
    model.export(target, format="onnx", verbose=False)


def _write_litert(model, target: Path) -> None:
    """By way of a SavedModel, which Keras's own exporter (3.12 and newer) takes too.

    From a function and its model, the shorter way, the converter leaves the weights outside: such a
    file loads, and answers NaN.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        _write_savedmodel(model, Path(folder))
        target.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


_CONVERTERS = {"savedmodel": _write_savedmodel, "onnx": _write_onnx, "litert": _write_litert}


# Cards --------------------------------------------------------------------------------------------


def _add_to_savedmodel(folder: Path, card: ModelCard) -> None:
    """In assets.extra, where TensorFlow keeps what belongs to a model but not to its graph."""
    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / CARD_FILE).write_text(card.to_json(), encoding="utf-8")
    (extra / LABELS_FILE).write_text(_list_labels(card), encoding="utf-8")


def _add_to_onnx(file: Path, card: ModelCard) -> None:
    import onnx

    model = onnx.load(str(file))
    names = json.dumps(card.class_names, ensure_ascii=False)
    onnx.helper.set_model_props(model, {NAME: card.to_json(), "class_names": names})
    file.write_bytes(model.SerializeToString())


def _add_to_litert(file: Path, card: ModelCard) -> None:
    """In a zip behind the model, where TFLite's tools look for labels.txt."""
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(LABELS_FILE, _list_labels(card))
        archive.writestr(CARD_FILE, card.to_json())


def _list_labels(card: ModelCard) -> str:
    return "".join(f"{name}\n" for name in card.class_names)


_ADD_CARD = {"savedmodel": _add_to_savedmodel, "onnx": _add_to_onnx, "litert": _add_to_litert}
