"""A `.keras` file looked into and written anew without Keras, so that it travels between versions.

It is a zip of config.json (layers), metadata.json and model.weights.h5. Keras refuses a config with
an argument that it does not know, and each of its versions writes all of its arguments down, those
too that nobody set. So a file of Keras 3.15 does not load in 3.13 (what Kaggle and Colab have), nor
one of 3.13 in 3.10, though the layers are the same. Measured 2026-11-22, see tests/test_keras_file.py.
"""

import json
import os
import zipfile
from pathlib import Path

from flowerkit.deploy.card import NAME, ModelCard
from flowerkit.files import replacing

_CONFIG, _METADATA = "config.json", "metadata.json"
# Arguments that not all of Keras 3.10 to 3.15 know, with the value at which they do nothing: at that
# one they are left out. From a comparison of every layer's and initializer's signature in the three.
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
    text = json.loads(_read_member(Path(path), _METADATA)).get(NAME)
    return None if text is None else ModelCard.from_json(text, where=str(path))


def read_precisions(path: str | os.PathLike) -> set[str]:
    """The dtype policies of the layers in a `.keras` file, such as {"float32", "mixed_bfloat16"}."""
    found: set[str] = set()

    def note(config: dict) -> dict:
        if config.get("class_name") == "DTypePolicy":
            found.add(config["config"]["name"])
        return config

    json.loads(_read_member(Path(path), _CONFIG), object_hook=note)
    return found


def rewrite_keras(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    card: ModelCard | None = None,
    float32: bool = False,
) -> None:
    """Write the model of `source` to `target`, in a form that Keras 3.10 to 3.15 load, in one piece.

    What it was compiled with is left out: it is for predicting, and a loss of one's own would not load
    elsewhere. `card` goes inside. `float32`: a model of mixed precision is to compute in float32
    (its weights are float32 in either).
    """
    source = Path(source)
    config = json.loads(_read_member(source, _CONFIG), object_hook=_leave_out_neutral)
    if float32:
        config = json.loads(json.dumps(config), object_hook=_compute_in_float32)
    metadata = json.loads(_read_member(source, _METADATA))
    if card:
        # Not a member of its own: Keras takes a fourth one for a sign of assets.
        metadata[NAME] = card.to_json()
    new = {_CONFIG: config, _METADATA: metadata}
    with (
        replacing(target) as temporary,
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(temporary, "w") as written,
    ):
        for member in old.infolist():
            text = json.dumps(new[member.filename]) if member.filename in new else None
            written.writestr(member, old.read(member) if text is None else text)


def _leave_out_neutral(config: dict) -> dict:
    if str(config.get("module")).startswith("keras.src.ops"):
        # Operations such as a resize take no name in Keras 3.10; the layer's entry has it besides.
        config["config"].pop("name", None)
    return {
        key: value
        for key, value in config.items()
        if key != "compile_config"
        and not (key in _NEUTRAL and type(value) is type(_NEUTRAL[key]) and value == _NEUTRAL[key])
    }


def _compute_in_float32(config: dict) -> dict:
    if config.get("class_name") == "DTypePolicy":
        config["config"]["name"] = "float32"
    return config


def _read_member(path: Path, name: str) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"no model {path}. Pass a run folder of `train`, or a .keras file.")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(
            f"{path} is no whole .keras file ({error}). It is damaged or was cut off: copy it again, "
            f"or train again."
        ) from error
