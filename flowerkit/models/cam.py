"""Class activation maps: the parts of a picture that speak for a class.

HiResCAM (Draelos and Carin 2020, arXiv:2011.08891): the contribution of each place of the last
feature map to the class's logit, by its gradient. Before average pooling and one dense layer, as in
most heads here, that is exactly the class activation map of Zhou et al. (2016, arXiv:1512.04150).
The logit is counted from the mean of all logits, because softmax ignores a change that they share.
"""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from PIL import Image

# Its logarithm, and 1 / it, are finite in float32.
_SMALLEST_PROBABILITY = 1e-30


def compute_cam(
    classifier: keras.Model,
    images: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    batch_size: int = 16,
) -> np.ndarray:
    """How much each pixel's place speaks for a class: (n, height, width) float32 in 0..1.

    `images` (n, height, width, 3) as the classifier takes them; `classes` (n,) int, None: each
    image's most probable class. The maximum of each map is 1; a map is all 0 if nothing speaks for
    the class. The resolution is that of the last feature map (7 x 7 for 224 px), enlarged.

    Raises ValueError for images or classes that do not fit, and a network without a feature map.
    """
    return build_cam(classifier, batch_size=batch_size)(images, classes)


def build_cam(classifier: keras.Model, *, batch_size: int = 16) -> Callable:
    """The function (images, classes=None) -> maps of `compute_cam`; many calls compile once."""
    is_jax = keras.backend.backend() == "jax"
    make = _explain_with_jax if is_jax else _explain_with_tensorflow
    explain = make(*split_at_map(classifier))

    def find_maps(images: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
        images = np.asarray(images)
        _check(images, classes, classifier)
        classes = np.full(len(images), -1) if classes is None else np.asarray(classes)
        size = min(batch_size, len(images))
        coarse = []
        for start in range(0, len(images), size):
            rows = slice(start, start + size)
            missing = size - len(images[rows])  # always the same shape: compiled once
            pixels = np.pad(images[rows], [(0, missing), (0, 0), (0, 0), (0, 0)])
            chosen = np.pad(classes[rows], (0, missing)).astype("int32")
            coarse += list(explain(pixels, chosen)[: size - missing])
        return np.stack([_enlarge(part, images.shape[1:3]) for part in coarse])

    return find_maps


def find_map_size(classifier: keras.Model) -> tuple[int, int]:
    """Height and width of the last feature map: a map of `compute_cam` tells as many places apart.

    Raises ValueError as `compute_cam` does.
    """
    features = split_at_map(classifier)[0].output
    return tuple(features.shape[1:3])


def split_at_map(classifier: keras.Model) -> tuple[keras.Model, keras.Model]:
    """(pixels -> last feature map, feature map -> probabilities), sharing the classifier's layers.

    Raises ValueError where no layer with weights has a feature map of more than one place.
    """
    layers = classifier.layers
    last = max((place for place, layer in enumerate(layers) if _takes_map(layer)), default=0)
    if not any(layer.count_params() for layer in layers[:last]):
        raise ValueError(
            f"{classifier.name!r} has no feature map: its backbone's output has no height and width. "
            f"Choose a convolutional backbone."
        )
    # The input of the layer after it: `output` of a nested model is its inner tensor.
    features = layers[last].input
    height, width = features.shape[1:3]
    if height == width == 1:
        raise ValueError(
            f"the last feature map of {classifier.name!r} is 1 x 1: it has no places. Train with a "
            f"larger input_size (--input-size)."
        )
    body = keras.Model(classifier.inputs[0], features, name="to_map")
    return body, keras.Model(features, classifier.outputs[0], name="from_map")


def _takes_map(layer: keras.Layer) -> bool:
    taken = getattr(layer, "input", None)
    return not isinstance(layer, keras.Model) and len(getattr(taken, "shape", ())) == 4


def _check(images, classes, classifier: keras.Model) -> None:
    wanted, num_classes = classifier.input_shape[1:], classifier.output_shape[-1]
    fits = [side in (None, given) for side, given in zip(wanted, images.shape[1:], strict=False)]
    if images.ndim != 4 or fits != [True] * 3 or not len(images):
        raise ValueError(
            f"the model takes images (n, {', '.join(map(str, wanted))}), n at least 1. Received: "
            f"shape {images.shape}"
        )
    known = range(num_classes)
    if classes is not None and [label in known for label in classes] != [True] * len(images):
        raise ValueError(
            f"classes must be {len(images)} integers in 0..{num_classes - 1}. Received: {classes}"
        )


def _score(probabilities, classes):
    """The sum of the logits of `classes` (-1: the most probable), each less the mean of its row."""
    chosen = ops.where(classes < 0, ops.argmax(probabilities, axis=-1), classes)
    # log softmax differs from the logits by a number that a row shares.
    logits = ops.log(ops.maximum(ops.cast(probabilities, "float32"), _SMALLEST_PROBABILITY))
    own = ops.take_along_axis(logits, ops.cast(chosen, "int32")[:, None], axis=-1)
    return ops.sum(own[:, 0] - ops.mean(logits, axis=-1))


def _weigh(features, gradients):
    # A channel that is the same everywhere (a transformer's class token) speaks for no place.
    varies = ops.any(features != features[:, :1, :1], axis=(1, 2), keepdims=True)
    product = ops.cast(features, "float32") * ops.cast(gradients, "float32")
    return ops.sum(ops.where(varies, product, 0.0), axis=-1)


def _explain_with_tensorflow(body: keras.Model, head: keras.Model) -> Callable:
    import tensorflow as tf

    def explain(pixels, classes) -> np.ndarray:
        features = body(pixels, training=False)
        with tf.GradientTape() as tape:
            tape.watch(features)
            score = _score(head(features, training=False), tf.constant(classes, "int64"))
        return _weigh(features, tape.gradient(score, features)).numpy()

    return explain


def _explain_with_jax(body: keras.Model, head: keras.Model) -> Callable:
    import jax

    def call(model, state, inputs):
        return model.stateless_call(*state, inputs, training=False)[0]

    def state_of(model):
        variables = model.trainable_variables, model.non_trainable_variables
        return [[variable.value for variable in group] for group in variables]

    @jax.jit
    def explain(states, pixels, classes):
        features = call(body, states[0], pixels)
        gradients = jax.grad(lambda map_: _score(call(head, states[1], map_), classes))(features)
        return _weigh(features, gradients)

    def explain_now(pixels, classes) -> np.ndarray:
        # Arguments: constants would be compiled in. Read at each call: Keras's predict deletes the
        # arrays that the variables had, and assigns others.
        return np.asarray(explain([state_of(body), state_of(head)], pixels, classes))

    return explain_now


def _enlarge(coarse: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """The positive part of a map in the picture's size, its maximum 1."""
    positive = Image.fromarray(np.maximum(coarse.astype("float32"), 0))
    large = np.maximum(positive.resize(size_px[::-1], Image.Resampling.BICUBIC), 0)
    return large / (large.max() or 1)
