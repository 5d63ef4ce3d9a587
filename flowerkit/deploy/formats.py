"""The formats of a model file: how each is recognised, written and opened, and its libraries.

A library is imported where its format is used: an ONNX file needs neither TensorFlow nor Keras.
"""

import importlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from flowerkit.deploy.card import CARD_FILE, ModelCard, find_run_card
from flowerkit.deploy.keras_file import read_keras_card
from flowerkit.files import near_path, parse_json

_LABELS_FILE = "labels.txt"
_METADATA_KEY = "flowerkit"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model file, opened. `run` maps pixels 0..255 float32 (n, size, size, 3) to float32 (n, classes).

    `model` is the Keras model, None for the other formats.
    """

    path: Path
    format: str
    run: Callable
    input_shape: tuple[int | None, ...]
    num_classes: int
    card: ModelCard
    model: Any = None

    def __post_init__(self) -> None:
        if self.card is None:
            raise ValueError(
                f"{self.path} has no model card, so its classes have no names. Pass a run folder, or a "
                "file that `flowerkit export` wrote."
            )
        size, num_names = self.card.image_size, len(self.card.class_names)
        # A size that is None is free; a size that is another is none that the photos get.
        sides = zip(self.input_shape, (size, size, 3), strict=False)
        fits = [each in (None, side) for each, side in sides]
        if fits != [True] * 3 or self.num_classes != num_names:
            raise ValueError(
                f"{self.path} takes input of shape {self.input_shape} and has "
                f"{self.num_classes} outputs, but its model card describes {size} x {size} px and "
                f"{num_names} classes. Export its run again, or build it for such squares."
            )


class Format:
    """A format: the name of its file, and the modules that write and read it.

    `packages` are pip's names of those that flowerkit itself does not require.
    `convert(source, target)` writes the model and the card of a `.keras` file, and the labels for other
    tools; all but "keras" need Keras on TensorFlow. `read(path)` gives `run`, `input_shape` and
    `num_classes` of `LoadedModel`, and the JSON of the card.
    """

    name: str
    file: str
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        return not Path(self.file).suffix

    def open(self, path: Path) -> LoadedModel:
        """Open a model. Raises RuntimeError without its library, ValueError for a damaged file."""
        self.check_libraries(to_write=False)
        try:
            run, input_shape, num_classes, text = self.read(path)
        except Exception as error:  # each library has its own, one for each kind of damage
            raise ValueError(
                f"{path} does not open as {self.name!r}: {_first_line(error)} It is damaged or of "
                f"another version: export the model again, or train again."
            ) from error
        card = ModelCard.from_json(text, source=path) if text else None
        return LoadedModel(path, self.name, run, tuple(input_shape), num_classes, card)

    def check_libraries(self, *, to_write: bool) -> None:
        """Import what writes or reads the format. Raises RuntimeError with the line for pip."""
        for module in self.writers if to_write else self.readers:
            try:
                importlib.import_module(module)
            except Exception as error:  # onnx raises others beside another protobuf than it needs
                raise RuntimeError(
                    f"{'writing' if to_write else 'reading'} the format {self.name!r} needs {module}, "
                    f"which does not import ({_first_line(error)}). Install it: pip install "
                    f"{' '.join([*(self.packages or self.readers), *_pin_tensorflow()])}. `pip check` "
                    f"lists versions that do not fit."
                ) from error


class _Keras(Format):
    name, file = "keras", "classifier.keras"
    readers = ("keras",)

    def convert(self, source: Path, target: Path) -> None:
        shutil.copyfile(source, target)

    def open(self, path: Path) -> LoadedModel:
        self.check_libraries(to_write=False)
        import keras
        import numpy as np

        from flowerkit.models import load_model  # it explains a damaged file itself

        file = path / "model.keras" if path.is_dir() else path
        model = load_model(file)
        card = read_keras_card(file) or find_run_card(file.parent)
        distribution = keras.distribution.distribution()  # JAX: its devices take equal shares
        devices = distribution.device_mesh.devices.size if distribution else 1

        def run(pixels):
            padded = np.pad(pixels, [(0, -len(pixels) % devices), (0, 0), (0, 0), (0, 0)])
            # Not model(pixels): JAX would compile each operation by itself, which takes minutes.
            return keras.ops.convert_to_numpy(model.predict_on_batch(padded))[: len(pixels)]

        shape, num_classes = model.input_shape[1:], model.output_shape[-1]
        return LoadedModel(path, self.name, run, shape, num_classes, card, model)


class _SavedModel(Format):
    name, file = "savedmodel", "classifier-savedmodel"
    writers = readers = ("tensorflow",)

    def convert(self, source: Path, target: Path) -> None:
        _load_for_export(source).export(target, format="tf_saved_model", verbose=False)
        extra = target / "assets.extra"  # TensorFlow's place for what is not in the graph
        extra.mkdir(exist_ok=True)
        for name, text in _write_card(source, target).items():
            (extra / name).write_text(text, encoding="utf-8")

    def read(self, path: Path) -> tuple[Callable, tuple, int, str | bytes | None]:
        import tensorflow as tf

        file = path / "assets.extra" / CARD_FILE
        text = file.read_bytes() if file.is_file() else None
        _check_body(path, text)
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures["serving_default"]
        (name, spec), *_ = signature.structured_input_signature[1].items()
        ((output, output_spec),) = signature.structured_outputs.items()

        def run(pixels):
            # `loaded` holds the weights: a signature alone would lose them.
            predict = loaded.signatures["serving_default"]
            return predict(**{name: tf.constant(pixels)})[output].numpy()

        return run, spec.shape[1:], output_spec.shape[-1], text


class _Onnx(Format):
    name, file = "onnx", "classifier.onnx"
    writers = ("tensorflow", "onnx", "tf2onnx", "onnxruntime")
    readers = ("onnxruntime",)
    packages = ("onnx", "tf2onnx", "onnxruntime")

    def convert(self, source: Path, target: Path) -> None:
        import numpy as np
        import onnx

        model = _load_for_export(source)
        model(np.zeros((1, *model.input_shape[1:]), "float32"))  # Keras exports only a called model
        model.export(target, format="onnx", verbose=False)
        model = onnx.load(str(target))
        _replace_erfc(model)
        target.write_bytes(body := model.SerializeToString())
        text = _write_card(source, target)[CARD_FILE]
        names = json.dumps(read_keras_card(source).class_names, ensure_ascii=False)
        end = onnx.ModelProto()  # a message is its fields one after the other
        onnx.helper.set_model_props(end, {_METADATA_KEY: text, "class_names": names})
        target.write_bytes(body + end.SerializeToString())

    def read(self, path: Path) -> tuple[Callable, tuple, int, str | bytes | None]:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs, outputs = session.get_inputs()[0], session.get_outputs()[0]

        text = session.get_modelmeta().custom_metadata_map.get(_METADATA_KEY)
        _check_body(path, text)

        def run(pixels):
            return session.run([outputs.name], {inputs.name: pixels})[0]

        return run, inputs.shape[1:], outputs.shape[-1], text


def _replace_erfc(model: Any) -> None:
    """Write the Erfc of TensorFlow's exact GELU, which ONNX does not have, as 1 - Erf."""
    import numpy as np
    import onnx

    nodes, one = [], "flowerkit_one"
    for node in model.graph.node:
        if node.op_type == "Erfc":
            erf = f"{node.output[0]}_erf"
            nodes.append(onnx.helper.make_node("Erf", node.input, [erf]))
            nodes.append(onnx.helper.make_node("Sub", [one, erf], node.output))
        else:
            nodes.append(node)
    if len(nodes) > len(model.graph.node):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), one))
        del model.graph.node[:]
        model.graph.node.extend(nodes)


class _LiteRT(Format):
    name, file = "litert", "classifier.tflite"
    writers = ("tensorflow", "ai_edge_litert.interpreter")
    readers = ("ai_edge_litert.interpreter",)
    packages = ("ai-edge-litert",)

    def convert(self, source: Path, target: Path) -> None:
        import tensorflow as tf

        # By way of a SavedModel: from a function and its model the converter leaves the weights
        # outside, and the file loads and predicts NaN.
        with tempfile.TemporaryDirectory() as folder:
            FORMATS["savedmodel"].convert(source, Path(folder))
            target.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
        files = _write_card(source, target)
        with zipfile.ZipFile(target, "a") as archive:  # TFLite's tools look there for labels.txt
            for name, text in files.items():
                archive.writestr(name, text)

    def read(self, path: Path) -> tuple[Callable, tuple, int, str | bytes | None]:
        from ai_edge_litert.interpreter import Interpreter

        text = None
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                text = archive.read(CARD_FILE) if CARD_FILE in archive.namelist() else None
        _check_body(path, text)
        interpreter = Interpreter(str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

        def run(pixels):
            interpreter.resize_tensor_input(inputs["index"], pixels.shape)
            interpreter.allocate_tensors()  # does nothing if the shape is as before
            interpreter.set_tensor(inputs["index"], pixels)
            interpreter.invoke()
            return interpreter.get_tensor(outputs["index"])

        return run, inputs["shape"][1:].tolist(), int(outputs["shape"][-1]), text


FORMATS: dict[str, Format] = {
    format.name: format for format in (_Keras(), _SavedModel(), _Onnx(), _LiteRT())
}


def detect_format(path: str | os.PathLike) -> Format:
    """The format of the model at `path`, from its suffix, or from what a folder holds.

    Raises FileNotFoundError if nothing is there, ValueError for something else than a model.
    """
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        return FORMATS["savedmodel"]
    if (path / "model.keras").is_file():
        return FORMATS["keras"]
    if not path.exists():
        raise FileNotFoundError(
            f"no model {path}.{near_path(path)} Pass a run folder, or an export of a run."
        )
    for format in FORMATS.values():
        if path.is_file() and not format.is_folder and path.suffix == Path(format.file).suffix:
            return format
    raise ValueError(
        f"{path} is not a model. Pass a run folder with its model.keras, or an export of a run: a file "
        f"that ends in .keras, .onnx or .tflite, or a SavedModel folder."
    )


def _load_for_export(source: Path) -> Any:
    """The model with `training=False`, at the card's size where its own is free.

    Exporters leave the argument out, and Resizing then sets it to True.
    """
    import keras

    from flowerkit.models import load_model

    model, size = load_model(source), read_keras_card(source).image_size
    pixels = keras.Input((size, size, 3), name="pixels")
    return keras.Model(pixels, model(pixels, training=False), name="classifier")


def _write_card(source: Path, target: Path) -> dict[str, str]:
    """The labels, then the card, by the names of their files, for the model written to `target`."""
    card = read_keras_card(source)
    text = card.to_json(body=_measure_body(target))
    return {_LABELS_FILE: "\n".join(card.class_names), CARD_FILE: text}


def _measure_body(path: Path, length: int | None = None) -> dict[str, int | str]:
    """Length and CRC-32 of the first `length` bytes of a model's file, or of a SavedModel's files."""
    files = [path]
    if path.is_dir():
        files = [path / "saved_model.pb", *sorted(path.glob("variables/*"))]
    num_bytes = crc = 0
    for file in files:
        content = file.read_bytes()[:length]
        num_bytes, crc = num_bytes + len(content), zlib.crc32(content, crc)
    return {"bytes": num_bytes, "crc32": f"{crc:08x}"}


def _check_body(path: Path, card: str | bytes | None) -> None:
    """Raise ValueError where a model is not the one that its card was written for."""
    body = parse_json(card, source="its model card").get("body") if card else None
    if body and body != _measure_body(path, body["bytes"]):
        raise ValueError("its bytes are not those that were written.")


def _pin_tensorflow() -> list[str]:
    """TensorFlow as it is installed, for pip, which else chooses an onnx that breaks it."""
    names = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")
    found = (each for name in names for each in metadata.distributions(name=name))
    return [f"'{each.name}=={each.version}'" for each in found]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
