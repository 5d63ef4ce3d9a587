"""Classifiers: backbone + head, with input scaling inside, so that a model takes plain pixels 0..255."""

import inspect
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from flowerkit.files import replacing
from flowerkit.models.backbones import build_backbone, default_input_size
from flowerkit.models.foreign import read_keras
from flowerkit.models.freezing import find_backbone, unfreeze, walk_layers
from flowerkit.models.heads import DROPOUT, add_head, check_head

_POOLING = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Concatenate,
)
# What is compiled for a part is found again by it. A part refers to its layers, not to the classifier.
_parts: weakref.WeakKeyDictionary[keras.Model, tuple[keras.Model, keras.Model]] = (
    weakref.WeakKeyDictionary()
)


def build_classifier(
    num_classes: int,
    *,
    image_size: int,
    backbone: str | os.PathLike | keras.Model = "DenseNet121",
    weights: str | os.PathLike | None = "imagenet",
    head: str = "notebook",
    dropout: float | None = None,
    input_size: int | None = None,
    binary: bool = False,
) -> keras.Model:
    """Images (n, image_size, image_size, 3), any dtype, 0..255 -> (n, num_classes) probabilities.

    `backbone`: a name of `list_backbones` ("tiny" is a small network for CPUs), "hub:PRESET" (a
    preset of KerasHub: a name, a handle or a folder), or a network of your own, a `.keras` file or a
    model, which is copied (docs/backbones.md says what it may be).
    `weights`: "imagenet" (the pretrained weights: Keras' file, the preset's, or those inside your
    network), None (random), a weights file of that backbone, or a run folder or a classifier's
    `.keras` file, whose backbone has them.
    `head`: see `heads.add_head`. `dropout`: its fraction, and a dense network's; None: see `DROPOUT`.
    `input_size` (px): what the backbone sees; images of another size are resized inside the model.
    None: `image_size`, for a dense network at most 64.
    `binary`: one sigmoid for two classes; the output still has two columns, 1 - p and p.

    Raises ValueError for an unknown backbone, or a head that is unknown or does not fit it,
    FileNotFoundError, and RuntimeError for "imagenet" weights that cannot be downloaded.
    """
    check_head(head)  # before a backbone is downloaded
    input_size = input_size or default_input_size(str(backbone), image_size)
    dropout = DROPOUT[head] if dropout is None else dropout
    body, preprocess = build_backbone(backbone, weights, input_size, dropout)
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    resized = pixels
    if _trains_by_default(body) or any(_trains_by_default(each) for _, each in walk_layers(body)):
        # Keras's image layers, called without `training`, switch all that follows to training. This
        # layer is called first, and by default switches it to inference.
        resized = keras.layers.Dropout(0.0, dtype="float32", name="inference_by_default")(pixels)
    if input_size != image_size:
        # Not the layer Resizing: called without `training`, it switches all that follows to training.
        resized = keras.ops.image.resize(resized, (input_size, input_size))
    features = body(_scale_pixels(resized, preprocess))
    probabilities = add_head(features, num_classes, head, dropout=dropout, binary=binary)
    return keras.Model(pixels, probabilities, name="flower_classifier")


def _trains_by_default(layer: keras.Layer) -> bool:
    training = inspect.signature(layer.call).parameters.get("training")
    return training is not None and training.default is True


def after_resizing(classifier: keras.Model) -> keras.Model:
    """The classifier without its own resizing: it takes images of the size that its backbone sees.

    Its layers are shared. A classifier that does not resize comes back as it is.
    """
    for operation in classifier.operations:
        if type(operation).__name__ == "Resize":
            return keras.Model(operation.output, classifier.outputs[0], name=classifier.name)
    return classifier


def _scale_pixels(pixels, preprocess: Callable | None):
    """The `preprocess_input` of the backbone's family as layers that are saved with the model.

    Every family's function is affine per channel, some after reversing the channels (caffe's BGR), so
    its values for black and the three primaries determine it. Better than a table, in which a wrong
    entry would train, only badly.
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

    The body ends after the pooling, (n, channels), where the head starts with it ("pooled", "plain",
    "concat"), else at the feature map (n, height, width, channels). Training either part trains the
    classifier. They are made once. Raises ValueError for a model without a layer "backbone".
    """
    if classifier not in _parts:
        backbone = find_backbone(classifier)
        after = classifier.layers[classifier.layers.index(backbone) + 1 :]
        first = next(layer for layer in after if not isinstance(layer, _POOLING))
        # Not `backbone.output`, which is the inner tensor of the nested model.
        body = keras.Model(classifier.inputs[0], first.input, name="body")
        _parts[classifier] = body, keras.Model(first.input, classifier.outputs[0], name="head")
    return _parts[classifier]


def save_classifier(model: keras.Model, path: str | os.PathLike) -> None:
    """Write `model` to a `.keras` file in one piece, see `replacing`."""
    with replacing(path) as temporary:
        model.save(temporary)


def load_model(path: str | os.PathLike) -> keras.Model:
    """The classifier in a `.keras` file or in a run folder's model.keras, not compiled.

    Raises FileNotFoundError, and ValueError when the file is damaged or from a newer Keras, or holds no
    classifier of images.
    """
    path = Path(path)
    path = path / "model.keras" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no model {path}. Pass a run folder of `train`, or a .keras file.")
    model = read_keras(path)
    ends = [getattr(model, side, None) or () for side in ("inputs", "outputs")]
    if [[len(tensor.shape) for tensor in side] for side in ends] != [[4], [2]]:
        shapes = [" and ".join(str(tuple(tensor.shape)) for tensor in side) for side in ends]
        raise ValueError(
            f"{path} maps {shapes[0] or 'what its code says'} to {shapes[1] or 'what its code says'}; a "
            f"classifier maps images (None, height, width, 3) to probabilities (None, classes). Choose "
            f"one input and one output: keras.Model(model.inputs[0], model.outputs[0])."
        )
    unfreeze(model)  # a file remembers what was frozen when it was saved
    # Keras 3.10 saves the input as a list of one and then warns at every call.
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
