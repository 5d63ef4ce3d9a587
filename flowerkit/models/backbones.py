"""The networks that turn scaled pixels into features: Keras Applications, files, small ones; their list.

Those of KerasHub are in `hub`.

Keras is imported where a network is built: `flowerkit models` prints the list without it.
"""

import csv
import json
import logging
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from flowerkit.files import near_path
from flowerkit.sources import KAGGLE
from flowerkit.text import did_you_mean

_log = logging.getLogger("flowerkit")

TINY = "tiny"
HUB = "hub:"
# The dense networks of the regularisation study: widths of the layers before the softmax.
DENSE = {"dense-small": (64, 64), "dense-large": (512, 512, 512, 512)}
# What a dense network sees of a larger image: at 224 px its first layer alone would have 77 million
# weights, at 64 px it has 6.
DENSE_INPUT_PX = 64
# The smallest side of an image, in px, where it is not 32: of Keras Applications (their min_size in
# Keras 3.15), and of four halvings.
SMALLEST_PX = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71, TINY: 16}

# Of PyTorch, safetensors, TensorFlow 1, ONNX, Flax and TensorFlow Lite.
_FOREIGN_SUFFIXES = (
    *(".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl", ".tar", ".npz"),
    *(".onnx", ".pb", ".msgpack", ".tflite"),
)

# Parameters without the classifier (Keras 3.15.1), the side of the images that each was designed for,
# the licence of its ImageNet weights (empty: it has none), from keras.io/api/applications, its older
# page (keras-team/keras, docs/templates/applications.md), else the repository of the weights
# (tensorflow/tpu, google/automl, tensorflow/models, facebookresearch/ConvNeXt).
_LIST = Path(__file__).with_suffix(".csv")


def list_backbones() -> list[dict[str, str]]:
    """All that `build_classifier` takes by name: flowerkit's own, then Keras Applications by family.

    >>> list_backbones()[-1]
    {'name': 'Xception', 'parameters': '20861480', 'input_px': '299', 'licence': 'MIT'}
    """
    return list(csv.DictReader(_LIST.read_text(encoding="utf-8").splitlines()))


def tabulate_backbones() -> list[str]:
    """`list_backbones` as lines under a heading, with the size of the weights."""
    lines = [f"{'backbone':<20}{'parameters':>13}{'px':>6}{'weights':>10}  licence"]
    for row in list_backbones():
        parameters, licence = int(row["parameters"]), row["licence"]
        # 4 bytes a parameter; keras.io's sizes include the classifier (528 MB for VGG16; 59 without).
        size = f"{4 * parameters / 1e6:,.0f} MB" if licence else "none"
        figures = f"{parameters:>13,}{row['input_px']:>6}{size:>10}"
        lines.append(f"{row['name']:<20}{figures}  {licence or '-'}")
    return lines


def weights_folder() -> Path:
    """Where Keras keeps downloaded weights: KERAS_HOME or ~/.keras, then models/."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"


def find_cached_weights(name: str | None = None) -> list[Path]:
    """The weights files that Keras has downloaded before, sorted; or those of the backbone `name`."""
    files = sorted(weights_folder().glob("*_no*top*.h5"))
    return [file for file in files if name is None or is_weights_of(file.name, name)]


def is_weights_of(file: str, name: str) -> bool:
    """Whether Keras keeps the ImageNet weights of the backbone `name` in a file of this name.

    >>> is_weights_of("resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5", "ResNet50")
    False
    """
    start = rf"(weights)?{re.escape(name.lower())}(?!v\d)"
    return bool(re.match(start, re.sub("[^a-z0-9]", "", file.lower()))) and "top" in file


def _spell(name: str) -> str:
    """A name of the list, written in any case, as it stands there; others as they are."""
    names = {row["name"].lower(): row["name"] for row in list_backbones()}
    return names.get(name.lower(), name)


def fixed_input_size(backbone, *, with_weights: bool = True) -> int | None:
    """The only side, in px, of the images that a `backbone` takes; None: it takes any.

    Files and models can have one, and with their weights transformers of KerasHub. Raises as
    `build_backbone`.
    """
    if isinstance(backbone, str) and backbone.startswith(HUB):
        from flowerkit.models.hub import fixed_input_size

        return fixed_input_size(backbone) if with_weights else None
    if not isinstance(backbone, str):
        shapes = [tuple(each.shape) for each in getattr(backbone, "inputs", None) or ()]
    else:
        shapes = read_input_shapes(Path(backbone)) if backbone.endswith(".keras") else []
    return shapes[0][1] if shapes else None


def takes_sizes(backbone, *sizes: int) -> bool:
    """Whether the same weights of a `backbone` serve images of each of these sides, in px."""
    if isinstance(backbone, str) and backbone.lower().removesuffix("-bn") in DENSE:
        return len(set(sizes)) == 1  # each pixel has weights of its own
    if (fixed := fixed_input_size(backbone)) is not None:
        return set(sizes) == {fixed}
    try:
        for size in sizes:
            check_network(backbone, None, size)
    except ValueError:
        return False
    return True


def read_config(path: Path) -> str:
    """The layers of a `.keras` file as JSON; empty for what is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read("config.json").decode()
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, zlib.error):
        return ""


def read_input_shapes(path: Path) -> list[tuple[int | None, ...]]:
    """The shapes (images, height, width, channels) that a `.keras` file takes, as far as it says."""
    try:
        layers = json.loads(read_config(path))["config"]["layers"]
        return [
            tuple(layer["config"]["batch_shape"])
            for layer in layers
            if layer["class_name"] == "InputLayer"
        ]
    except (ValueError, KeyError, TypeError):  # of a class of the user, or damaged
        return []


def check_input(shapes: Sequence[tuple[int | None, ...]], name: str, size: int | None) -> None:
    """Refuse the inputs of a network that would get images (size, size); None: of any size."""
    if not shapes:  # a subclassed model is asked by calling it
        return
    if len(shapes) > 1 or len(shapes[0]) != 4 or shapes[0][3] not in (3, None):
        raise ValueError(
            f"{name} takes {' and '.join(map(str, shapes))}; a backbone takes RGB images (None, height, "
            f"width, 3). Put before it what makes its input of them: images = keras.Input((None, None, "
            f"3)), then keras.Model(images, network(...))."
        )
    height, width = shapes[0][1:3]
    if height != width:
        raise ValueError(
            f"{name} takes images of {height} x {width} px only. Images are squares here: build it on "
            f"keras.Input((None, None, 3))."
        )
    if size is not None and height not in (None, size):
        raise ValueError(
            f"{name} takes images of {height} x {height} px only, and would get {size} x {size}. Pass "
            f"input_size={height} (--input-size {height})."
        )


def default_input_size(name: str, image_size: int) -> int:
    """The side, in px, of what the backbone `name` sees of images that have the side `image_size`."""
    is_dense = name.lower().startswith("dense-")
    return min(image_size, DENSE_INPUT_PX) if is_dense else image_size


def check_network(network, weights, input_size: int | None = None) -> None:
    """Refuse without a framework what `build_backbone` could not build.

    FileNotFoundError for a missing file, ValueError for an unknown name, for weights that a network has
    not, and for images, (input_size, input_size), that it does not take. Of a network in a file only
    its input is looked at; one of KerasHub and a model are looked at when they are built.
    """
    for given in (network, weights):
        if isinstance(given, str | os.PathLike) and Path(given).suffix.lower() in _FOREIGN_SUFFIXES:
            raise ValueError(
                f"{given} is no file of Keras, and others are not read. Pass a .keras file, or weights "
                f"in .weights.h5 or .h5; or name a network that comes with weights: one of `flowerkit "
                f"models`, or of KerasHub, such as hub:dinov2_base."
            )
    if weights not in (None, "imagenet") and not Path(weights).exists():
        raise FileNotFoundError(
            f"no weights {weights}.{near_path(weights)} Pass a weights file, a run folder, "
            "weights='imagenet', or None (--weights none)."
        )
    name = _spell(os.fspath(network)) if isinstance(network, str | os.PathLike) else ""
    if not name or name.startswith(HUB) or name.endswith(".keras"):
        if name.endswith(".keras"):
            if not Path(name).is_file():
                raise FileNotFoundError(
                    f"no backbone file {name}.{near_path(name)} Pass a .keras file or a backbone name."
                )
            if not zipfile.is_zipfile(name):
                raise ValueError(f"{name} is no .keras file: it is no zip file. Copy it again.")
            check_input(read_input_shapes(Path(name)), Path(name).name, input_size)
        return
    if weights == "imagenet" and (name == TINY or name.removesuffix("-bn") in DENSE):
        raise ValueError(
            f"the {name} backbone has no pretrained weights; pass weights=None "
            f"(--weights none). Received: weights={str(weights)!r}"
        )
    names = [row["name"] for row in list_backbones()]
    if name not in names:
        raise ValueError(
            f"backbone {name!r} is neither in the list of `flowerkit models` nor a .keras file, nor a "
            f"preset of KerasHub, hub:NAME.{did_you_mean(name, names)}"
        )
    least = SMALLEST_PX.get(name, 1 if name.startswith("dense-") else 32)
    if input_size is not None and input_size < least:
        raise ValueError(
            f"{name} does not take images of {input_size} x {input_size} px. Pass input_size={least} "
            f"(--input-size {least}) or more."
        )


def build_backbone(network, weights, input_size: int, dropout: float) -> tuple:
    """The keras.Model `network`, named "backbone", and the preprocess_input of its pixels, or None.

    `network`: a name of the list, "hub:PRESET", a `.keras` file, or a keras.Model. `weights`: see
    `build_classifier`. `dropout` serves the dense networks, after each of their layers but the last.
    """
    import keras

    from flowerkit.models.foreign import adopt, load_weights

    shape, is_model = (input_size, input_size, 3), isinstance(network, keras.Model)
    name = "" if is_model else _spell(os.fspath(network))
    check_network(network, weights, input_size)
    is_file = weights not in (None, "imagenet")
    preprocess = None
    if name.startswith(HUB):
        from flowerkit.models.hub import build_from_hub

        body, preprocess = build_from_hub(
            name, input_size=input_size, with_weights=weights == "imagenet"
        )
    elif is_model or name.endswith(".keras"):
        body = adopt(network, input_size=input_size, with_weights=weights is not None)
    elif name == TINY or name.removesuffix("-bn") in DENSE:
        body = _build_tiny(shape) if name == TINY else _build_dense(name, shape, dropout)
        preprocess = _to_unit
    else:
        body, preprocess = _build_application(name, weights, shape)
    if is_file:
        load_weights(body, Path(weights))
    return body, preprocess


def _to_unit(pixels):
    return pixels / 127.5 - 1


def _build_application(name: str, weights, shape: tuple[int, int, int]) -> tuple:
    import keras

    from flowerkit.models.foreign import reason_of

    build = getattr(keras.applications, name)
    try:
        body = _download(build, weights if weights == "imagenet" else None, shape)
    except ValueError as error:
        raise ValueError(
            f"{build.__name__} does not take images of {shape[0]} x {shape[0]} px: {reason_of(error)} "
            f"Pass a larger input_size (--input-size)."
        ) from error
    body.name = "backbone"
    # Each family's module has its own; keras.applications names the modules, not the function.
    return body, sys.modules[build.__module__].preprocess_input


def _download(build, weights: str | None, shape: tuple[int, int, int]):
    try:
        return build(include_top=False, weights=weights, input_shape=shape)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        url = re.search(r"URL fetch failure on (\S+?):? ", str(error))
        if not url:
            raise
        file = url[1].rsplit("/", 1)[-1]
        if file.startswith("NASNet-"):  # Keras keeps it under another name
            file = file.lower().replace("-", "_")
        attached = sorted((KAGGLE / "input").rglob(file))
        if not attached:
            raise RuntimeError(
                f"the ImageNet weights of {build.__name__} could not be downloaded ({url[1]}), and "
                f"{weights_folder() / file} is missing. Put that file there (on Kaggle: switch the "
                f"internet on, or attach a data set with it). Without: load_plan('smoke') (--plan "
                f"smoke) trains a small network from scratch; weights=None (--weights none) this one, "
                f"which takes long."
            ) from error
        _log.info(f"no internet: the weights come from {attached[0]}")
        return build(include_top=False, weights=attached[0], input_shape=shape)


def _build_tiny(shape: tuple[int, int, int]):
    """Four convolution blocks, 0.4 million parameters: learns drawn flowers on a CPU in a minute."""
    import keras

    x = inputs = keras.Input(shape)
    for number, filters in enumerate((32, 64, 128, 256), 1):
        block = f"block{number}"
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{block}_conv")(x)
        # Keras' 0.99 needs hundreds of steps to forget its start, and a small split has 30 an epoch.
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"{block}_norm")(x)
        x = keras.layers.ReLU(name=f"{block}_relu")(x)
        x = keras.layers.MaxPooling2D(name=f"{block}_pool")(x)
    return keras.Model(inputs, x, name="backbone")


def _build_dense(name: str, shape: tuple[int, int, int], dropout: float):
    """Flatten, then for each width dense -> (norm) -> ReLU, with dropout in between.

    The dropout after the last of them is the head's, as in every other classifier.
    """
    import keras

    with_norm = name.endswith("-bn")
    inputs = keras.Input(shape)
    x = keras.layers.Flatten(name="pixels_in_a_row")(inputs)
    for number, width in enumerate(DENSE[name.removesuffix("-bn")], 1):
        if number > 1:
            x = keras.layers.Dropout(dropout, name=f"dropout{number - 1}")(x)
        # The norm subtracts a mean, and with it any bias.
        x = keras.layers.Dense(width, use_bias=not with_norm, name=f"dense{number}")(x)
        if with_norm:
            x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    return keras.Model(inputs, x, name="backbone")
