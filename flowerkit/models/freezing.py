"""Freezing: which layers of a classifier are trainable, and how deep each variable is."""

import math
import re
from collections.abc import Iterator

import keras

from flowerkit.text import did_you_mean


def unfreeze(model: keras.Model) -> None:
    """Make every layer of `model` trainable, nested ones too."""
    # First False: on TensorFlow, assigning the value that is there already reaches no inner layer.
    for trainable in (False, True):
        model.trainable = trainable


def freeze_backbone(classifier: keras.Model) -> None:
    """Make the head trainable and nothing of the backbone, whose norms keep their statistics.

    Compile again before training. Dropout inside the backbone (EfficientNet has some) stays active.
    """
    backbone = find_backbone(classifier)
    unfreeze(classifier)
    backbone.trainable = False


def choose_trainable(
    classifier: keras.Model, unfreeze_from: str | float | None = None, *, freeze_norms: bool = False
) -> list[str]:
    """Make the head and the end of the backbone trainable; the names of its trainable layers.

    `unfreeze_from`: None: the whole backbone; a fraction in (0, 1]: the last part of its layers that
    have weights, rounded up; a layer's name ("block5_conv1") or the start of a stage's
    ("conv5_block", "block5"): from the first such layer on. `freeze_norms`: no BatchNormalization of
    the backbone learns or updates its statistics; frozen layers never do.

    Compile again before training. Raises ValueError for an unknown name, a fraction out of range, and
    when no layer of the backbone would be trainable.
    """
    layers = list(walk_layers(find_backbone(classifier)))
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
            f"weights to learn{' besides norms' if freeze_norms else ''}. Name an earlier layer "
            f"(--unfreeze-from), or leave the backbone frozen (epochs=0, --epochs 0)."
        )
    unfreeze(classifier)
    learning = {id(layer) for layer in chosen.values()}
    for _, layer in layers:
        layer.trainable = id(layer) in learning
    return list(chosen)


def depth_of(classifier: keras.Model) -> dict[str, float]:
    """The depth of each trainable variable, by its path: 0 in the backbone's first layer, 1 in the head.

    The backbone's layers that have weights, frozen ones too, are evenly spaced in between (for
    learning rates by layer: Howard and Ruder 2018, arXiv:1801.06146).
    """
    layers = [layer for _, layer in walk_layers(find_backbone(classifier)) if _can_learn(layer)]
    depths = dict.fromkeys((variable.path for variable in classifier.trainable_variables), 1.0)
    for place, layer in enumerate(layers):
        depths |= {variable.path: place / len(layers) for variable in layer.trainable_variables}
    return depths


def find_backbone(classifier: keras.Model) -> keras.Model:
    """The layer "backbone" of a classifier. Raises ValueError for a model without it."""
    names = [layer.name for layer in classifier.layers]
    if "backbone" not in names:
        raise ValueError(
            f"{classifier.name!r} has no layer 'backbone' (it has {', '.join(names[:5])} ...). Build it "
            f"with build_classifier."
        )
    return classifier.get_layer("backbone")


def walk_layers(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """(path, layer) in order, those of nested models included."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from walk_layers(layer, f"{prefix}{layer.name}/")
        elif not isinstance(layer, keras.layers.InputLayer):
            yield prefix + layer.name, layer


def _can_learn(layer: keras.Layer) -> bool:
    # Normalization's weights are statistics, not learned.
    return layer.count_params() > 0 and not isinstance(layer, keras.layers.Normalization)


def _find_first(layers: list[tuple[str, keras.Layer]], unfreeze_from: str | float | None) -> int:
    if unfreeze_from is None:
        return 0
    if isinstance(unfreeze_from, str):
        return _find_named([path for path, _ in layers], unfreeze_from)
    if not 0 < unfreeze_from <= 1:  # nan is not, either
        raise ValueError(
            f"unfreeze_from must be above 0 and at most 1, a layer's name, or None for the whole "
            f"backbone. Received: unfreeze_from={unfreeze_from:g}"
        )
    places = [place for place, (_, layer) in enumerate(layers) if _can_learn(layer)]
    return places[-max(1, math.ceil(round(unfreeze_from * len(places), 6)))]


def _find_named(paths: list[str], name: str) -> int:
    """The index of the first path with a part `name`, else of the first with a part that starts so.

    Words and numbers count whole: "block1" does not match "block10_conv1".
    """
    same_kind = r"\d" if name[-1:].isdigit() else "[A-Za-z]" if name[-1:].isalpha() else r"\Z"
    for end in (r"(/|\Z)", f"(?!{same_kind})"):
        for place, path in enumerate(paths):
            if name and re.search(f"(^|/){re.escape(name)}{end}", path):
                return place
    names = [part for path in paths for part in path.split("/")]
    stages = [name[: match.start()] for name in names for match in re.finditer("_", name)]
    raise ValueError(
        f"unfreeze_from={name!r}: the backbone has no such layer or stage. Its layers go from "
        f"{paths[0]!r} to {paths[-1]!r}.{did_you_mean(name, [*stages, *names])}"
    )
