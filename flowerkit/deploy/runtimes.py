"""Model files of every format, opened as one thing: pixels in, probabilities out.

Each library is imported where its format is opened: an ONNX or LiteRT file needs neither TensorFlow
nor Keras to be used.
"""

import functools
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowerkit.deploy.card import CARD_FILE, NAME, ModelCard, read_run_card
from flowerkit.deploy.formats import check_libraries, damaged, detect_format
from flowerkit.deploy.keras_file import read_keras_card


@dataclass(frozen=True, eq=False)
class Runtime:
    """An opened model. `run` takes float32 pixels 0..255 (n, size, size, 3), gives (n, classes).

    `card` is None where no class names came with the model. `model` is Keras's, None for the other
    formats.
    """

    format: str
    run: Callable[[np.ndarray], np.ndarray]
    input_shape: tuple[int | None, ...]
    num_classes: int
    card: ModelCard | None
    model: Any = None


def open_runtime(path: str | os.PathLike) -> Runtime:
    """Open a run folder, a `.keras`, `.onnx` or `.tflite` file, or a SavedModel folder.

    Raises FileNotFoundError if it is none of them, RuntimeError (with the line for pip) when the
    library is missing and ValueError for a damaged file.
    """
    path = Path(path)
    found = detect_format(path)
    check_libraries(found, to_write=False)
    return _OPENERS[found.name](path)


def _open_keras(path: Path) -> Runtime:
    from flowerkit.models.classifier import load_model

    file = path / "model.keras" if path.is_dir() else path
    model = load_model(file)
    card = read_keras_card(file) or read_run_card(file.parent)
    run = functools.partial(run_keras, model)
    return Runtime("keras", run, model.input_shape[1:], model.output_shape[-1], card, model)


def run_keras(model: Any, pixels: np.ndarray) -> np.ndarray:
    """The model's answers (n, classes) to pixels (n, size, size, 3), for any n, in one batch.

    Not by calling the model: with JAX that compiles each operation by itself, which takes minutes.
    """
    import keras

    distribution = keras.distribution.distribution()  # JAX's alone; its devices take equal shares
    devices = distribution.device_mesh.devices.size if distribution else 1
    padded = np.pad(pixels, [(0, -len(pixels) % devices), (0, 0), (0, 0), (0, 0)])
    return keras.ops.convert_to_numpy(model.predict_on_batch(padded))[: len(pixels)]


def _open_savedmodel(path: Path) -> Runtime:
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
        serve = loaded.signatures["serving_default"]
    except Exception as error:  # OSError, KeyError, DataLossError, DecodeError ...
        raise damaged(path, f"TensorFlow {tf.__version__}", error) from error
    (name, spec), *_ = serve.structured_input_signature[1].items()
    ((answer, outputs),) = serve.structured_outputs.items()

    def run(pixels: np.ndarray) -> np.ndarray:
        # `loaded` holds the weights: a signature alone would lose them.
        return loaded.signatures["serving_default"](**{name: tf.constant(pixels)})[answer].numpy()

    extra = path / "assets.extra" / CARD_FILE
    card = _read_card(extra.read_bytes(), path) if extra.is_file() else None
    return Runtime("savedmodel", run, tuple(spec.shape[1:]), outputs.shape[-1], card)


def _open_onnx(path: Path) -> Runtime:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # classes of its own, one for each kind of damage
        raise damaged(path, f"onnxruntime {onnxruntime.__version__}", error) from error
    inputs, outputs = session.get_inputs()[0], session.get_outputs()[0]

    def run(pixels: np.ndarray) -> np.ndarray:
        return session.run([outputs.name], {inputs.name: pixels})[0]

    text = session.get_modelmeta().custom_metadata_map.get(NAME)
    card = _read_card(text, path) if text else None
    return Runtime("onnx", run, tuple(inputs.shape[1:]), outputs.shape[-1], card)


def _open_litert(path: Path) -> Runtime:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise damaged(path, "LiteRT", error) from error
    inputs, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    shape = [tuple(inputs["shape"])]

    def run(pixels: np.ndarray) -> np.ndarray:
        if shape[0] != pixels.shape:
            interpreter.resize_tensor_input(inputs["index"], pixels.shape)
            interpreter.allocate_tensors()
            shape[0] = pixels.shape
        interpreter.set_tensor(inputs["index"], pixels)
        interpreter.invoke()
        return interpreter.get_tensor(outputs["index"])

    sizes = tuple(int(side) for side in inputs["shape"][1:])
    return Runtime("litert", run, sizes, int(outputs["shape"][-1]), _find_appended_card(path))


def _find_appended_card(path: Path) -> ModelCard | None:
    """The card in the zip that stands behind the model, where TFLite's metadata has its files."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if CARD_FILE not in archive.namelist():
            return None
        return _read_card(archive.read(CARD_FILE), path)


def _read_card(text: str | bytes, path: Path) -> ModelCard:
    return ModelCard.from_json(text, where=str(path))


_OPENERS = {
    "keras": _open_keras,
    "savedmodel": _open_savedmodel,
    "onnx": _open_onnx,
    "litert": _open_litert,
}
