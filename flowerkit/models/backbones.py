"""The networks that turn scaled pixels into features: a table, Keras Applications, files, small ones.

Keras is imported where a network is built: `flowerkit models` lists the table without it.
"""

import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flowerkit.sources import KAGGLE
from flowerkit.text import did_you_mean

_log = logging.getLogger("flowerkit")

TINY = "tiny"
# The dense networks of the regularisation study: widths of the layers before the softmax.
DENSE = {"dense-small": (64, 64), "dense-large": (512, 512, 512, 512)}
# What a dense network sees of a larger image: at 224 px its first layer alone would have 77 million
# weights, at 64 px it has 6.
DENSE_INPUT_PX = 64

# Name, parameters without the classifier (Keras 3.15.1), designed input in px, licence of the weights.
# Licences: keras.io/api/applications and its older page (keras-team/keras,
# docs/templates/applications.md), else the repository that the weights come from (tensorflow/tpu,
# google/automl, tensorflow/models, facebookresearch/ConvNeXt).
_TABLE = """
tiny                   389_856   64  -
dense-small            790_656   64  -
dense-small-bn         791_040   64  -
dense-large          7_079_936   64  -
dense-large-bn       7_086_080   64  -
ConvNeXtTiny        27_820_128  224  MIT
ConvNeXtSmall       49_454_688  224  MIT
ConvNeXtBase        87_566_464  224  MIT
ConvNeXtLarge      196_230_336  224  MIT
ConvNeXtXLarge     348_147_968  224  MIT
DenseNet121          7_037_504  224  BSD-3-Clause
DenseNet169         12_642_880  224  BSD-3-Clause
DenseNet201         18_321_984  224  BSD-3-Clause
EfficientNetB0       4_049_571  224  Apache-2.0
EfficientNetB1       6_575_239  240  Apache-2.0
EfficientNetB2       7_768_569  260  Apache-2.0
EfficientNetB3      10_783_535  300  Apache-2.0
EfficientNetB4      17_673_823  380  Apache-2.0
EfficientNetB5      28_513_527  456  Apache-2.0
EfficientNetB6      40_960_143  528  Apache-2.0
EfficientNetB7      64_097_687  600  Apache-2.0
EfficientNetV2B0     5_919_312  224  Apache-2.0
EfficientNetV2B1     6_931_124  240  Apache-2.0
EfficientNetV2B2     8_769_374  260  Apache-2.0
EfficientNetV2B3    12_930_622  300  Apache-2.0
EfficientNetV2S     20_331_360  384  Apache-2.0
EfficientNetV2M     53_150_388  480  Apache-2.0
EfficientNetV2L    117_746_848  480  Apache-2.0
InceptionResNetV2   54_336_736  299  Apache-2.0
InceptionV3         21_802_784  299  Apache-2.0
MobileNet            3_228_864  224  Apache-2.0
MobileNetV2          2_257_984  224  Apache-2.0
MobileNetV3Small       939_120  224  Apache-2.0
MobileNetV3Large     2_996_352  224  Apache-2.0
NASNetMobile         4_269_716  224  Apache-2.0
NASNetLarge         84_916_818  331  Apache-2.0
ResNet50            23_587_712  224  MIT
ResNet101           42_658_176  224  MIT
ResNet152           58_370_944  224  MIT
ResNet50V2          23_564_800  224  BSD
ResNet101V2         42_626_560  224  BSD
ResNet152V2         58_331_648  224  BSD
VGG16               14_714_688  224  CC-BY-4.0
VGG19               20_024_384  224  CC-BY-4.0
Xception            20_861_480  299  MIT
"""


@dataclass(frozen=True)
class Backbone:
    """A backbone that has a name.

    `parameters`: those without the classifier. `input_px`: the side of the images that it was
    designed for (others work, from 32 px for most). `licence`: of its ImageNet weights (SPDX where
    the source is so exact); None: it has no pretrained weights.
    """

    name: str
    parameters: int
    input_px: int
    licence: str | None

    def __str__(self) -> str:
        # 4 bytes a parameter; keras.io's sizes include the classifier (528 MB for VGG16; 59 without).
        size = f"{4 * self.parameters / 1e6:,.0f} MB" if self.licence else "none"
        row = f"{self.name:<20}{self.parameters:>13,}{self.input_px:>6}{size:>10}"
        return f"{row}  {self.licence or '-'}"


def list_backbones() -> list[Backbone]:
    """All that `build_classifier` takes by name: flowerkit's own, then Keras Applications by family.

    >>> print(next(backbone for backbone in list_backbones() if backbone.name == "VGG16"))
    VGG16                  14,714,688   224     59 MB  CC-BY-4.0
    """
    rows = [line.split() for line in _TABLE.strip().splitlines()]
    return [
        Backbone(name, int(parameters), int(input_px), None if licence == "-" else licence)
        for name, parameters, input_px, licence in rows
    ]


def weights_folder() -> Path:
    """Where Keras keeps downloaded weights: KERAS_HOME or ~/.keras, then models/."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"


def find_cached_weights() -> list[Path]:
    """The weights files that Keras has downloaded before, sorted; empty if there are none."""
    folder = weights_folder()
    return sorted([*folder.glob("*_notop*.h5"), *folder.glob("*_no_top*.h5")])


def default_input_size(name: str, image_size: int) -> int:
    """The side, in px, of what the backbone `name` sees of images that have the side `image_size`."""
    return min(image_size, DENSE_INPUT_PX) if name.startswith("dense-") else image_size


def build_backbone(name: str, weights, input_size: int, dropout: float) -> tuple:
    """The keras.Model `name`, named "backbone", and the preprocess_input of its pixels, or None.

    `dropout` serves the dense networks, after each of their layers but the last.
    """
    shape = (input_size, input_size, 3)
    if name.endswith(".keras"):
        return _load_backbone(Path(name), weights), None
    if name == TINY or name.removesuffix("-bn") in DENSE:
        if weights is not None:
            raise ValueError(
                f"the {name} backbone has no pretrained weights; pass weights=None "
                f"(--weights none). Received: weights={str(weights)!r}"
            )
        body = _build_tiny(shape) if name == TINY else _build_dense(name, shape, dropout)
        return body, lambda x: x / 127.5 - 1
    build = _find_application(name)
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise FileNotFoundError(
            f"no weights file {weights}. Pass a file, weights='imagenet', or None (--weights none)."
        )
    body = _build_application(build, weights, shape)
    body.name = "backbone"
    # Each family's module has its own; keras.applications names the modules, not the function.
    return body, sys.modules[build.__module__].preprocess_input


def _find_application(name: str) -> Callable:
    import keras

    builders = {known.lower(): known for known in dir(keras.applications) if known[0].isupper()}
    if name.lower() not in builders:
        known = [backbone.name for backbone in list_backbones()]
        raise ValueError(
            f"backbone {name!r} is neither in the list of `flowerkit models` nor a .keras file."
            f"{did_you_mean(name, known)}"
        )
    return getattr(keras.applications, builders[name.lower()])


def _build_application(build: Callable, weights, shape: tuple[int, int, int]):
    try:
        return build(include_top=False, weights=weights, input_shape=shape)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        url = re.search(r"URL fetch failure on (\S+?):? ", str(error))
        if not url:
            raise
        file = url[1].rsplit("/", 1)[-1]
        attached = sorted((KAGGLE / "input").rglob(file))
        if not attached:
            raise RuntimeError(
                f"the ImageNet weights of {build.__name__} could not be downloaded ({url[1]}) and are "
                f"not in Keras' cache: {weights_folder() / file} is missing. Either put that file there "
                f"(on Kaggle: switch the internet on, or attach a data set that holds it), or train "
                f"without it: weights=None or a file (--weights none|FILE)."
            ) from error
        _log.info(f"no internet: the weights come from {attached[0]}")
        return build(include_top=False, weights=attached[0], input_shape=shape)


def _load_backbone(path: Path, weights):
    import keras

    from flowerkit.models.freezing import unfreeze

    if not path.is_file():
        raise FileNotFoundError(f"no backbone file {path}. Pass a .keras file or a backbone name.")
    body = keras.saving.load_model(path, compile=False)
    if weights != "imagenet" or keras.config.dtype_policy() != body.layers[-1].dtype_policy:
        body = _remake(body, keep_weights=weights is not None)
    if weights not in (None, "imagenet"):
        body.load_weights(weights)
    if len(body.output_shape) != 4:
        raise ValueError(
            f"{path.name} ends in shape {body.output_shape}; a backbone ends in a feature map "
            f"(n, height, width, channels). Save it without its pooling and classifier."
        )
    body.name = "backbone"
    unfreeze(body)  # a file remembers what was frozen when it was saved
    return body


def _remake(body, *, keep_weights: bool):
    """The same layers under the current dtype policy (a file remembers the policy it was saved in)."""
    import keras

    policy = keras.config.dtype_policy().name
    remade = keras.models.clone_model(
        body, clone_function=lambda old: type(old).from_config(old.get_config() | {"dtype": policy})
    )
    if keep_weights:
        remade.set_weights(body.get_weights())
    return remade


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
