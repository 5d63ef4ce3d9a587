"""Freezing: which layers of a classifier are trainable, and how deep each variable is."""

import math
import re
from collections.abc import Callable, Iterator

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
    can learn, rounded up; a layer's name ("block5_conv1"), its path in nested parts ("stage2/conv") or
    the start of a stage's ("conv5_block", "block5"): from the first such layer on. `freeze_norms`: no
    normalisation layer of the backbone learns or updates its statistics; frozen layers never do.

    Compile again before training. Raises ValueError for a name that is unknown or stands in several
    parts, a fraction out of range, and when no layer of the backbone would be trainable.
    """
    layers = list(walk_layers(find_backbone(classifier)))
    first = _find_first(layers, unfreeze_from)
    frozen = [
        place < first or (freeze_norms and _is_norm(layer))
        for place, (_, layer) in enumerate(layers)
    ]
    chosen = [
        path
        for (path, layer), is_frozen in zip(layers, frozen, strict=True)
        if own_learnable(layer) and not is_frozen
    ]
    if not chosen:
        raise ValueError(
            f"unfreeze_from={unfreeze_from!r} would unfreeze nothing: no layer from there on has "
            f"weights to learn{' besides norms' if freeze_norms else ''}. Name an earlier layer "
            f"(--unfreeze-from), or leave the backbone frozen (epochs=0, --epochs 0)."
        )
    unfreeze(classifier)
    for (_, layer), is_frozen in zip(layers, frozen, strict=True):
        if is_frozen and not _inside(layer):
            layer.trainable = False
        elif is_frozen:  # what is inside has its own turn
            for variable in own_learnable(layer):
                variable.trainable = False
    return chosen


def depth_of(classifier: keras.Model) -> Callable[[keras.Variable], float]:
    """The function that gives a variable's depth: 0 in the backbone's first layer, 1 in the head.

    The backbone's layers that can learn, frozen ones too, are evenly spaced in between (for learning
    rates by layer: Howard and Ruder 2018, arXiv:1801.06146).
    """
    layers = [each for _, each in walk_layers(find_backbone(classifier)) if own_learnable(each)]
    # By the variable itself: names repeat, in nested parts and in the head.
    depths = {
        id(variable): place / len(layers)
        for place, layer in enumerate(layers)
        for variable in own_learnable(layer)
    }
    return lambda variable: depths.get(id(variable), 1.0)


def find_backbone(classifier: keras.Model) -> keras.Model:
    """The layer "backbone" of a classifier. Raises ValueError for a model without it."""
    names = [layer.name for layer in classifier.layers]
    if "backbone" not in names:
        raise ValueError(
            f"{classifier.name!r} has no layer 'backbone' (it has {', '.join(names[:5])} ...). Build it "
            f"with build_classifier."
        )
    return classifier.get_layer("backbone")


def walk_layers(layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    """(path, layer) of every layer inside `layer`, in order, each once; one with parts before them.

    Parts are the layers of nested models and those that a layer holds itself (Keras's wrappers and
    attention, a user's block). Names that repeat within a part are counted: conv, conv_1.
    """
    yield from _walk(layer, "", {id(layer)})


def _walk(parent: keras.Layer, prefix: str, seen: set[int]) -> Iterator[tuple[str, keras.Layer]]:
    taken = set()
    for layer in _inside(parent):
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        name, number = layer.name, 0
        while name in taken:
            number += 1
            name = f"{layer.name}_{number}"
        taken.add(name)
        yield prefix + name, layer
        yield from _walk(layer, f"{prefix}{name}/", seen)


def _inside(layer: keras.Layer) -> list[keras.Layer]:
    if isinstance(layer, keras.Model):
        parts = layer.layers
    else:  # the same of a layer, for which Keras has no public name
        parts = layer._flatten_layers(include_self=False, recursive=False)
    return [part for part in parts if not isinstance(part, keras.layers.InputLayer)]


def random_layers(model: keras.Model) -> list[str]:
    """The paths of the layers that draw random numbers in training: dropout, noise, augmentation."""
    return [path for path, layer in walk_layers(model) if layer._seed_generators]


def own_learnable(layer: keras.Layer) -> list[keras.Variable]:
    """The variables that `layer` itself can learn, frozen or not: no statistics, none of its parts'."""
    return layer._trainable_variables


_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
)


def _is_norm(layer: keras.Layer) -> bool:
    """A normalisation of Keras, or a layer that is called one and learns no more than vectors."""
    are_vectors = all(len(variable.shape) < 2 for variable in own_learnable(layer))
    return isinstance(layer, _NORMS) or ("norm" in type(layer).__name__.lower() and are_vectors)


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
    places = [place for place, (_, layer) in enumerate(layers) if own_learnable(layer)]
    last = places[-max(1, math.ceil(round(unfreeze_from * len(places), 6))) :]
    return last[0] if last else 0


def _find_named(paths: list[str], name: str) -> int:
    """The index of the path `name`, else of the first with a part `name`, else with one that starts so.

    Words and numbers count whole: "block1" does not match "block10_conv1".
    """
    if name in paths:
        return paths.index(name)
    same_kind = r"\d" if name[-1:].isdigit() else "[A-Za-z]" if name[-1:].isalpha() else r"\Z"
    for end in (r"(/|\Z)", f"(?!{same_kind})"):
        found = {}  # the part that each stands in -> the first there
        for place, path in enumerate(paths):
            if name and (match := re.search(f"(^|/){re.escape(name)}{end}", path)):
                found.setdefault(path[: match.start()], place)
        if len(found) > 1:
            named = [paths[place] for place in found.values()]
            raise ValueError(
                f"unfreeze_from={name!r} stands in {len(named)} parts of the backbone: "
                f"{', '.join(named[:8])}{' ...' * (len(named) > 8)}. Pass one of these "
                f"(--unfreeze-from {named[-1]})."
            )
        if found:
            return next(iter(found.values()))
    names = [part for path in paths for part in path.split("/")]
    stages = [name[: match.start()] for name in names for match in re.finditer("_", name)]
    raise ValueError(
        f"unfreeze_from={name!r}: the backbone has no such layer or stage. Its layers go from "
        f"{paths[0]!r} to {paths[-1]!r}.{did_you_mean(name, [*stages, *names])}"
    )
