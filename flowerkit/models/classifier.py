"""Classifiers: backbone + head, with input scaling inside, so that a model takes plain pixels 0..255."""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

from flowerkit.files import replacing
from flowerkit.models.heads import DROPOUT, add_head, check_head
from flowerkit.models.networks import build_backbone, default_input_size, unfreeze

_POOLING = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Concatenate,
)


def build_classifier(
    num_classes: int,
    *,
    image_size: int,
    backbone: str = "DenseNet121",
    weights: str | os.PathLike | None = "imagenet",
    head: str = "notebook",
    dropout: float | None = None,
    input_size: int | None = None,
    binary: bool = False,
) -> keras.Model:
    """A classifier of images (n, image_size, image_size, 3), any dtype, pixels 0..255.

    It returns (n, num_classes) float32 probabilities; rows sum to 1.

    `backbone`: a name of `backbones.describe_backbones` ("tiny" is a small network for CPUs) or a
    `.keras` file.
    `weights`: "imagenet" (the pretrained weights: Keras's file, or those inside the `.keras` file),
    None (fresh ones), or a weights file of that backbone.
    `head`: see `heads.add_head`; "notebook" is the competition notebook's order, backbone ->
    BatchNormalization -> Dropout -> GlobalAveragePooling2D -> Dense. `dropout`: the part that it
    drops, as a dense network does between its layers; None: what is usual for the head.
    `input_size` (px): what the backbone sees; other than `image_size`, images are resized inside.
    None: the images as they are; a dense network gets them at no more than 64 px.
    `binary`: two classes told apart by one sigmoid; there still are two columns, 1 - p and p.

    Raises ValueError for an unknown backbone or head and a head that does not fit the backbone,
    FileNotFoundError for a missing file and RuntimeError when "imagenet" weights are neither cached
    nor to be downloaded.
    """
    check_head(head)  # before a backbone is downloaded
    input_size = input_size or default_input_size(str(backbone), image_size)
    dropout = DROPOUT[head] if dropout is None else dropout
    body, preprocess = build_backbone(str(backbone), weights, input_size, dropout)
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    features = body(_scale_pixels(_resize(pixels, image_size, input_size), preprocess))
    probabilities = add_head(features, num_classes, head, dropout=dropout, binary=binary)
    return keras.Model(pixels, probabilities, name="flower_classifier")


def _resize(pixels, image_size: int, input_size: int):
    if input_size == image_size:
        return pixels
    # Not the layer Resizing: called without `training`, it switches all that follows to training.
    return keras.ops.image.resize(pixels, (input_size, input_size))


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


def split_classifier(classifier: keras.Model) -> tuple[keras.Model, keras.Model]:
    """(body, head), which share the classifier's layers: head(body(pixels)) is classifier(pixels).

    The cut is where features are small: after the pooling, (n, channels), where the head begins with
    it ("pooled", "plain", "concat"), else at the feature map (n, height, width, channels). Training
    either trains the classifier. Raises ValueError for a model without a layer "backbone".
    """
    backbone = _find_backbone(classifier)
    after = classifier.layers[classifier.layers.index(backbone) + 1 :]
    first = next(layer for layer in after if not isinstance(layer, _POOLING))
    # Not `backbone.output`: of a model that is its own inner one.
    body = keras.Model(classifier.inputs[0], first.input, name="body")
    return body, keras.Model(first.input, classifier.outputs[0], name="head")


def join_classifier(body: keras.Model, head: keras.Model) -> keras.Model:
    """One classifier that predicts head(body(pixels)), and shares the layers of both.

    `head` may be any model of features, such as one that was trained on `features.compute_features`.
    Raises ValueError for a head that does not take what the body gives.
    """
    given, wanted = tuple(body.output_shape[1:]), tuple(head.input_shape[1:])
    if given != wanted:
        raise ValueError(
            f"a head that does not fit: the body gives features of shape {given}, the head takes "
            f"{wanted}. Cut both out of classifiers with the same backbone, head and input_size."
        )
    return keras.Model(body.inputs[0], head(body.outputs[0]), name="flower_classifier")


def freeze_backbone(classifier: keras.Model) -> None:
    """Let the head learn, and nothing of the backbone; its norms use and keep their statistics.

    Compile again before training. Dropout inside the backbone (EfficientNet has some) goes on.
    """
    backbone = _find_backbone(classifier)
    unfreeze(classifier)
    backbone.trainable = False


def choose_trainable(
    classifier: keras.Model, unfreeze_from: str | float | None = None, *, freeze_norms: bool = False
) -> list[str]:
    """Let the head and the end of the backbone learn; gives the names of the backbone's layers that do.

    `unfreeze_from`: None: the whole backbone; a number above 0, to 1: that last part of its layers
    that have weights, rounded up; a layer's name ("block5_conv1") or the beginning of a stage's
    ("conv5_block", "block5"): from the first such layer on.
    `freeze_norms`: no BatchNormalization of the backbone learns, or updates its statistics (in Keras
    one that is not trainable works as in prediction). Frozen layers never do.

    Compile again before training. Raises ValueError for an unknown name (with the nearest), a
    number out of range, and when nothing of the backbone would learn.
    """
    backbone = _find_backbone(classifier)
    layers = list(_walk_layers(backbone))
    first = _find_first(layers, unfreeze_from)
    chosen = {
        path: layer
        for path, layer in layers[first:]
        if _can_learn(layer)
        and not (freeze_norms and isinstance(layer, keras.layers.BatchNormalization))
    }
    if not chosen:
        raise ValueError(
            f"unfreeze_from={unfreeze_from!r} would unfreeze nothing: no layer from there on has "
            f"weights to learn{' besides norms' if freeze_norms else ''}. Name an earlier layer, or "
            f"leave the backbone frozen."
        )
    unfreeze(classifier)
    learning = {id(layer) for layer in chosen.values()}
    for _, layer in layers:
        layer.trainable = id(layer) in learning
    return list(chosen)


def depth_of(classifier: keras.Model) -> dict[str, float]:
    """How deep each trainable variable is, by its path: 0 in the backbone's first layer, 1 in the head.

    The backbone's layers that have weights, frozen ones too, are evenly spaced in between, in order.
    A rate that grows with depth is for example `lowest ** (1 - depth)` times the head's (Howard and
    Ruder 2018, arXiv:1801.06146).
    """
    layers = [layer for _, layer in _walk_layers(_find_backbone(classifier)) if _can_learn(layer)]
    depths = {
        id(variable): place / len(layers)
        for place, layer in enumerate(layers)
        for variable in layer.variables
    }
    return {one.path: depths.get(id(one), 1.0) for one in classifier.trainable_variables}


def _find_backbone(classifier: keras.Model) -> keras.Model:
    names = [layer.name for layer in classifier.layers]
    if "backbone" not in names:
        raise ValueError(
            f"{classifier.name!r} has no layer 'backbone' (it has {', '.join(names[:5])} ...), so it "
            f"cannot be told from the head. Build it with build_classifier."
        )
    return classifier.get_layer("backbone")


def _walk_layers(model: keras.Model, inside: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """(path, layer) in order, those of nested models one by one in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _walk_layers(layer, f"{inside}{layer.name}/")
        elif not isinstance(layer, keras.layers.InputLayer):
            yield inside + layer.name, layer


def _can_learn(layer: keras.Layer) -> bool:
    # What Normalization holds is computed from data once, not learned.
    return layer.count_params() > 0 and not isinstance(layer, keras.layers.Normalization)


def _find_first(layers: list[tuple[str, keras.Layer]], unfreeze_from: str | float | None) -> int:
    """The place in `layers` from which on they are to learn."""
    if unfreeze_from is None:
        return 0
    if isinstance(unfreeze_from, str):
        return _find_named([path for path, _ in layers], unfreeze_from)
    if not 0 < unfreeze_from <= 1:  # nan is not, either
        raise ValueError(
            f"unfreeze_from={unfreeze_from:g} is not a fraction above 0, to 1. To unfreeze nothing, "
            f"leave the backbone frozen; for everything pass None."
        )
    places = [place for place, (_, layer) in enumerate(layers) if _can_learn(layer)]
    return places[-max(1, math.ceil(round(unfreeze_from * len(places), 6)))]


def _find_named(paths: list[str], name: str) -> int:
    """The first of `paths` with a part that is `name`, else the first with one that begins with it.

    Words and numbers count whole: "block1" is no beginning of "block10_conv1".
    """
    same_kind = r"\d" if name[-1:].isdigit() else "[A-Za-z]" if name[-1:].isalpha() else r"\Z"
    for pattern in (rf"{re.escape(name)}\Z", rf"{re.escape(name)}(?!{same_kind})"):
        for place, path in enumerate(paths):
            parts = [path, *path.split("/")]
            if name and any(re.match(pattern, part) for part in parts):
                return place
    raise ValueError(
        f"unfreeze_from={name!r}: the backbone has no such layer or stage. {_list_nearest(paths, name)}"
    )


def _list_nearest(paths: list[str], name: str) -> str:
    names = [part for path in paths for part in path.split("/")]
    stages = [name[: match.start()] for name in names for match in re.finditer("_", name)]
    known = dict.fromkeys([*stages, *names])
    nearest = difflib.get_close_matches(name, known, n=5)
    span = f"Its layers go from {paths[0]!r} to {paths[-1]!r}"
    return f"{span}; nearest: {', '.join(nearest)}" if nearest else f"{span}."


def save_classifier(model: keras.Model, path: str | os.PathLike) -> None:
    """Write `model` to a `.keras` file in one piece; an older file survives a full disk."""
    with replacing(path) as temporary:
        model.save(temporary)


def load_model(path: str | os.PathLike) -> keras.Model:
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
    # A file remembers what was frozen when it was saved; who trains it again chooses anew.
    unfreeze(model)
    # Keras 3.10 writes one input as a list of one, and what reads it then warns at every call.
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def check_reload(model: keras.Model, path: str | os.PathLike, *, tolerance: float = 1e-4) -> float:
    """The largest difference of probabilities between `model` and its saved copy, on random pixels.

    Raises RuntimeError when it exceeds `tolerance`.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (2, *model.input_shape[1:]), "uint8")
    ours, saved = (
        keras.ops.convert_to_numpy(one(pixels, training=False)) for one in (model, load_model(path))
    )
    difference = float(np.abs(ours - saved).max())
    if not difference <= tolerance:
        raise RuntimeError(
            f"{path} predicts otherwise than the model it was saved from: probabilities differ by "
            f"{difference:.2g} (tolerance {tolerance:g}). Do not use the file; report the backbone."
        )
    return difference
