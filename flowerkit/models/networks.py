"""The networks that turn scaled pixels into features: Keras Applications, files, small ones."""

import logging
import re
from collections.abc import Callable
from pathlib import Path

import keras

from flowerkit.models.backbones import DENSE, DENSE_INPUT_PX, TINY, list_backbones, weights_folder
from flowerkit.sources.competition import KAGGLE
from flowerkit.text import did_you_mean

_log = logging.getLogger("flowerkit")

_OWN = (TINY, *DENSE, *(f"{name}-bn" for name in DENSE))


def default_input_size(name: str, image_size: int) -> int:
    """The side, in px, of what the backbone `name` sees of images that have the side `image_size`."""
    return min(image_size, DENSE_INPUT_PX) if name.startswith("dense-") else image_size


def build_backbone(
    name: str, weights, input_size: int, dropout: float
) -> tuple[keras.Model, Callable | None]:
    """The network `name`, named "backbone", and the preprocess_input that its pixels need, if any.

    `dropout` serves the dense networks, after each of their layers but the last.
    """
    if name.endswith(".keras"):
        return _load_backbone(Path(name), weights), None
    shape = (input_size, input_size, 3)
    if name in _OWN:
        if weights is not None:
            raise ValueError(
                f"the {name} backbone has no pretrained weights; pass weights=None "
                f"(--weights none). Received: weights={str(weights)!r}"
            )
        body = _build_tiny(shape) if name == TINY else _build_dense(name, shape, dropout)
        return body, lambda x: x / 127.5 - 1
    name, family = _known_backbone(name)
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise FileNotFoundError(
            f"no weights file {weights}. Pass a file, weights='imagenet', or None (--weights none)."
        )
    body = _build_application(name, weights, shape)
    body.name = "backbone"
    return body, getattr(keras.applications, family).preprocess_input


def unfreeze(model: keras.Model) -> None:
    """Make every layer of `model` trainable, nested ones too."""
    # One by one: with TensorFlow a model that is trainable already ignores being told so, and what
    # is frozen inside it stays frozen.
    for layer in model._flatten_layers():
        layer.trainable = True


def _known_backbone(name: str) -> tuple[str, str]:
    backbones = list_backbones()
    exact = {known.lower(): known for known in backbones}
    if name.lower() in exact:
        known = exact[name.lower()]
        return known, backbones[known]
    raise ValueError(
        f"backbone {name!r} is neither a Keras Applications name, one of {', '.join(_OWN)}, nor a "
        f".keras file.{did_you_mean(name, [*backbones, *_OWN])} All: flowerkit models"
    )


def _build_application(name: str, weights, shape: tuple[int, int, int]) -> keras.Model:
    build = getattr(keras.applications, name)
    try:
        return build(include_top=False, weights=weights, input_shape=shape)
    except Exception as error:  # Keras raises a bare Exception when a download fails
        url = re.search(r"URL fetch failure on (\S+?):? ", str(error))
        if not url:
            raise
        if attached := _find_attached_weights(url[1]):
            return build(include_top=False, weights=attached, input_shape=shape)
        raise RuntimeError(_explain_missing_weights(name, url[1])) from error


def _find_attached_weights(url: str) -> Path | None:
    """The file that Keras wanted from `url`, in a data set or model attached to a Kaggle session."""
    found = sorted((KAGGLE / "input").rglob(url.rsplit("/", 1)[-1]))
    if found:
        _log.info(f"no internet: the weights come from {found[0]}")
    return found[0] if found else None


def _explain_missing_weights(name: str, url: str) -> str:
    wanted = weights_folder() / url.rsplit("/", 1)[-1]
    return (
        f"the ImageNet weights of {name} could not be downloaded ({url}) and are not in Keras's "
        f"cache: {wanted} is missing. Either put that file there (on Kaggle: switch the internet "
        f"on, or attach a data set that holds it), or train without it: weights=None or a file "
        f"(--weights none|FILE)."
    )


def _load_backbone(path: Path, weights) -> keras.Model:
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
    # A file remembers what was frozen when it was saved, and would keep it from learning unseen.
    unfreeze(body)
    return body


def _remake(body: keras.Model, *, keep_weights: bool) -> keras.Model:
    """The same layers under the present dtype policy (a file remembers the policy it was saved in)."""
    policy = keras.config.dtype_policy().name

    def remake_layer(layer):
        return layer.__class__.from_config(layer.get_config() | {"dtype": policy})

    remade = keras.models.clone_model(body, clone_function=remake_layer)
    if keep_weights:
        remade.set_weights(body.get_weights())
    return remade


def _build_tiny(shape: tuple[int, int, int]) -> keras.Model:
    """Four convolution blocks, 0.4 million parameters: learns drawn flowers on a CPU in a minute."""
    x = inputs = keras.Input(shape)
    for number, filters in enumerate((32, 64, 128, 256), 1):
        block = f"block{number}"
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{block}_conv")(x)
        # Keras's 0.99 needs hundreds of steps to forget its start, and a small split has 30 an epoch.
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"{block}_norm")(x)
        x = keras.layers.ReLU(name=f"{block}_relu")(x)
        x = keras.layers.MaxPooling2D(name=f"{block}_pool")(x)
    return keras.Model(inputs, x, name="backbone")


def _build_dense(name: str, shape: tuple[int, int, int], dropout: float) -> keras.Model:
    """Flatten, then for each width dense -> (norm) -> ReLU, with dropout in between.

    The dropout after the last of them is the head's, as in every other classifier.
    """
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
