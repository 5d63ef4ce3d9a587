"""`.keras` files, read and rewritten without Keras, so that they load in other versions of it.

A file is a zip of config.json (layers), metadata.json and model.weights.h5. Keras refuses a config with
an argument that it does not know, and each version writes all of its arguments, also those at their
default. So a file of Keras 3.15 does not load in 3.13 (Kaggle's and Colab's), nor one of 3.13 in 3.10,
although the layers are the same. Measured on 2026-11-22, see tests/deploy/test_keras_file.py.
"""

import json
import os
import zipfile
import zlib
from pathlib import Path

from flowerkit.deploy.card import ModelCard
from flowerkit.files import parse_json, replacing

_CONFIG, _METADATA = "config.json", "metadata.json"
_NO_VALUE = object()
_CARD_KEY = "flowerkit"
# Arguments that only some of Keras 3.10 to 3.15 know, and the value at which they have no effect: with
# it they are left out. From a comparison of every layer's and initializer's signature in the three.
_NEUTRAL = {
    "renorm": False,  # BatchNormalization, from 3.14
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
    "input_axes": None,  # Glorot, He, Lecun, VarianceScaling, from 3.14
    "output_axes": None,
    "quantization_config": None,  # Dense, EinsumDense, Embedding, from 3.11
    "output_padding": None,  # transposed convolutions, from 3.11
    "sliding_window": None,  # attention, from 3.14
    "use_gate": False,
    "rms_scaling": False,  # LayerNormalization, to 3.10
}


def read_keras_card(path: str | os.PathLike) -> ModelCard | None:
    """The card inside a `.keras` file; None if it has none. Raises ValueError for a damaged file."""
    text = _read_json(Path(path), _METADATA).get(_CARD_KEY)
    return None if text is None else ModelCard.from_json(text, source=path)


def rewrite_keras(
    source: str | os.PathLike, target: str | os.PathLike, *, card: ModelCard, float32: bool = False
) -> bool:
    """Copy the model `source` to `target`, with `card` inside, so that Keras 3.10 to 3.15 load it.

    The loss and the optimizer are left out: a custom loss would not load elsewhere. `float32`: a model
    of mixed precision computes in float32 in the copy; returns whether it was one.
    """
    source, was_mixed = Path(source), False

    def rewrite(node, of_keras: bool = True):
        nonlocal was_mixed
        if isinstance(node, list):
            return [rewrite(each, of_keras) for each in node]
        if not isinstance(node, dict):
            return node
        if "class_name" in node:  # a user's class may give these names another meaning
            of_keras = str(node.get("module")).startswith("keras")
        if float32 and node.get("class_name") == "DTypePolicy":
            was_mixed |= node["config"]["name"] != "float32"
            node["config"]["name"] = "float32"
        if str(node.get("module")).startswith("keras.src.ops"):
            # Keras 3.10 gives operations such as a resize no name; the layer's entry repeats it.
            node["config"].pop("name", None)
        return {
            key: rewrite(value, of_keras)
            for key, value in node.items()
            if key != "compile_config"
            and not (of_keras and repr(value) == repr(_NEUTRAL.get(key, _NO_VALUE)))
        }

    # The card is no member of its own: Keras takes a fourth member for a sign of assets.
    metadata = _read_json(source, _METADATA) | {_CARD_KEY: card.to_json()}
    config = rewrite(_read_json(source, _CONFIG))
    changed = {_CONFIG: json.dumps(config), _METADATA: json.dumps(metadata)}
    with (
        replacing(target) as temporary,
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(temporary, "w") as new,
    ):
        for member in old.infolist():
            new.writestr(member, changed.get(member.filename) or old.read(member))
    return was_mixed


def _read_json(path: Path, name: str) -> dict:
    try:
        with zipfile.ZipFile(path) as archive:
            return parse_json(archive.read(name), source=name)
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a whole .keras file ({error}). It is damaged or cut off: copy it again, or "
            f"train again."
        ) from error
