"""Classifiers: backbone + head, with input scaling inside, so that a model takes plain pixels 0..255."""

import inspect
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from flowerkit.competition import KAGGLE
from flowerkit.files import replacing
from flowerkit.plan import HEADS, suggest

_log = logging.getLogger("flowerkit")

TINY = "tiny"
FAMILIES = (
    "convnext", "densenet", "efficientnet", "efficientnet_v2", "inception_resnet_v2",
    "inception_v3", "mobilenet", "mobilenet_v2", "mobilenet_v3", "nasnet", "resnet",
    "resnet_v2", "vgg16", "vgg19", "xception",
)  # fmt: skip


def list_backbones() -> dict[str, str]:
    """Every Keras Applications backbone by name, with its family (a module of `keras.applications`)."""
    backbones = {}
    for family in FAMILIES:
        members = inspect.getmembers(getattr(keras.applications, family), inspect.isfunction)
        backbones |= {name: family for name, _ in members if name[0].isupper()}
    # MobileNetV3 has no module that holds its two builders.
    return backbones | {f"MobileNetV3{size}": "mobilenet_v3" for size in ("Large", "Small")}


def build_classifier(
    num_classes: int,
    *,
    image_size: int,
    backbone: str = "DenseNet121",
    weights: str | os.PathLike | None = "imagenet",
    head: str = "notebook",
    dropout: float = 0.2,
    input_size: int | None = None,
) -> keras.Model:
    """A classifier of images (n, image_size, image_size, 3), any dtype, pixels 0..255.

    It returns (n, num_classes) float32 probabilities; rows sum to 1.

    `backbone`: a Keras Applications name, "tiny" (a small network for CPUs) or a `.keras` file.
    `weights`: "imagenet" (the pretrained weights: Keras's file, or those inside the `.keras` file),
    None (fresh ones), or a weights file of that backbone.
    `head`: "notebook" is the competition notebook's order, backbone -> BatchNormalization -> Dropout
    -> GlobalAveragePooling2D -> Dense; "pooled" the usual one, which pools first.
    `input_size` (px): what the backbone sees; other than `image_size`, images are resized inside.

    Raises ValueError for an unknown backbone or head, FileNotFoundError for a missing file and
    RuntimeError when "imagenet" weights are neither cached nor to be downloaded.
    """
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}. Received: head={head!r}")
    input_size = input_size or image_size
    body, preprocess = _build_backbone(str(backbone), weights, input_size)
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    features = body(_scale_pixels(_resize(pixels, image_size, input_size), preprocess))
    probabilities = _add_head(features, num_classes, head, dropout)
    return keras.Model(pixels, probabilities, name="flower_classifier")


def _resize(pixels, image_size: int, input_size: int):
    if input_size == image_size:
        return pixels
    return keras.layers.Resizing(input_size, input_size, dtype="float32", name="resize")(pixels)


def _add_head(features, num_classes: int, head: str, dropout: float):
    pool = keras.layers.GlobalAveragePooling2D(name="pool")
    x = pool(features) if head == "pooled" else features
    x = keras.layers.BatchNormalization(name="head_norm")(x)
    x = keras.layers.Dropout(dropout, name="head_dropout")(x)
    if head == "notebook":
        x = pool(x)
    # float32 even under mixed precision: a bfloat16 softmax rounds small probabilities away.
    softmax = keras.layers.Dense(
        num_classes, activation="softmax", dtype="float32", name="probabilities"
    )
    return softmax(x)


def _build_backbone(name: str, weights, input_size: int) -> tuple[keras.Model, Callable | None]:
    if name.endswith(".keras"):
        return _load_backbone(Path(name), weights), None
    shape = (input_size, input_size, 3)
    if name == TINY:
        if weights is not None:
            raise ValueError(f"the tiny backbone has no pretrained weights; pass weights=None "
                             f"(--weights none). Received: weights={str(weights)!r}")  # fmt: skip
        return _build_tiny(shape), lambda x: x / 127.5 - 1
    name, family = _known_backbone(name)
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise FileNotFoundError(
            f"no weights file {weights}. Pass a file, weights='imagenet', or None (--weights none)."
        )
    body = _build_application(name, weights, shape)
    body.name = "backbone"
    return body, getattr(keras.applications, family).preprocess_input


def _known_backbone(name: str) -> tuple[str, str]:
    backbones = list_backbones()
    exact = {known.lower(): known for known in backbones}
    if name.lower() in exact:
        known = exact[name.lower()]
        return known, backbones[known]
    raise ValueError(
        f"backbone {name!r} is neither a Keras Applications name, 'tiny' nor a .keras file."
        f"{suggest(name, [*backbones, TINY])}"
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


def weights_folder() -> Path:
    """Where Keras keeps downloaded weights: KERAS_HOME or ~/.keras, then models/."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"


def _explain_missing_weights(name: str, url: str) -> str:
    wanted = weights_folder() / url.rsplit("/", 1)[-1]
    return (
        f"the ImageNet weights of {name} could not be downloaded ({url}) and are not in Keras's "
        f"cache: {wanted} is missing. Either put that file there (on Kaggle: switch the internet "
        f"on, or attach a data set that holds it), or train without it: weights=None or a file "
        f"(--weights none|FILE)."
    )


def find_cached_weights() -> list[Path]:
    """The weights files that Keras has downloaded before, sorted; empty if there are none."""
    folder = weights_folder()
    return sorted([*folder.glob("*_notop*.h5"), *folder.glob("*_no_top*.h5")])


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
    for filters in (32, 64, 128, 256):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        # Keras's 0.99 needs hundreds of steps to forget its start, and a small split has 30 an epoch.
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.MaxPooling2D()(x)
    return keras.Model(inputs, x, name="backbone")


def _scale_pixels(pixels, preprocess: Callable | None):
    """What `preprocess_input` of the backbone's family does, as layers that are saved with the model.

    Every family's function is affine per channel, or reverses the channels besides (caffe's BGR), so
    its answers to black and to the three primaries say all. Asking it beats a table: a wrong entry
    would train, only badly.
    """
    if preprocess is None:
        return pixels
    black = preprocess(np.zeros((1, 1, 1, 3), "float32"))[0, 0, 0]
    primaries = preprocess(255.0 * np.eye(3, dtype="float32")[:, None, None, :])[:, 0, 0]
    gains = (primaries - black).T / 255.0
    reversed_channels = gains[0, 2] != 0
    scale = np.diag(gains[:, ::-1] if reversed_channels else gains)
    if reversed_channels:
        pixels = keras.ops.flip(pixels, axis=-1)
    if np.array_equal(scale, np.ones(3)) and not black.any():
        return pixels
    # float32 under mixed precision too: the backbone's first layer casts.
    rescale = keras.layers.Rescaling(
        scale.tolist(), black.tolist(), dtype="float32", name="scale_pixels"
    )
    return rescale(pixels)


def save_classifier(model: keras.Model, path: str | os.PathLike) -> None:
    """Write `model` to a `.keras` file in one piece; an older file survives a full disk."""
    with replacing(path) as temporary:
        model.save(temporary)


def load_classifier(path: str | os.PathLike) -> keras.Model:
    """The classifier in a `.keras` file or in a run folder's model.keras, not compiled.

    Raises FileNotFoundError, or ValueError when the file is damaged or from a newer Keras.
    """
    path = Path(path)
    path = path / "model.keras" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no model {path}. Pass a run folder of `train`, or a .keras file.")
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # h5py, zipfile and Keras each have their own
        raise ValueError(
            f"{path} does not load with Keras {keras.__version__}: {str(error).splitlines()[0]} "
            f"It is damaged, or a newer Keras wrote it: install that version, or train again."
        ) from error
    # Keras 3.10 writes one input as a list of one, and what reads it then warns at every call.
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def check_reload(model: keras.Model, path: str | os.PathLike, *, tolerance: float = 1e-4) -> float:
    """The largest difference of probabilities between `model` and its saved copy, on random pixels.

    Raises RuntimeError when it exceeds `tolerance`.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (2, *model.input_shape[1:]), "uint8")
    ours, saved = (
        keras.ops.convert_to_numpy(one(pixels, training=False))
        for one in (model, load_classifier(path))
    )
    difference = float(np.abs(ours - saved).max())
    if not difference <= tolerance:
        raise RuntimeError(
            f"{path} predicts otherwise than the model it was saved from: probabilities differ by "
            f"{difference:.2g} (tolerance {tolerance:g}). Do not use the file; report the backbone."
        )
    return difference
