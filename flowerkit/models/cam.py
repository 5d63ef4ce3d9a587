"""Where a classifier looks: the parts of a picture that speak for a class.

HiResCAM (Draelos and Carin 2020, arXiv:2011.08891): what each place of the last feature map adds to
the class's logit, by the gradient there. Before average pooling and one dense layer, as in most
heads here, that is the class activation map of Zhou et al. (2016, arXiv:1512.04150) exactly;
every other head has a gradient too. The logit counts from the mean of all logits: softmax does not
change when all of them grow alike, so that one alone says nothing.
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
    image's most probable class. Every map's highest place is 1; it is 0 where nothing speaks for the
    class, and all over if nothing does. The detail is that of the last feature map (7 x 7 for 224
    px), enlarged. Where it is to be asked often, keep `build_attention`: it compiles once.

    Raises ValueError for images or classes that do not fit, and a network without such a map.
    """
    return build_attention(classifier, batch_size=batch_size)(images, classes)


def build_attention(classifier: keras.Model, *, batch_size: int = 16) -> Callable:
    """The function (images, classes=None) -> maps of `compute_cam`, ready to be called often."""
    body, head = split_at_map(classifier)
    explain = _explain_with_jax(body, head) if _is_jax() else _explain_with_tensorflow(body, head)
    num_classes = classifier.output_shape[-1]

    def find_maps(images: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
        images = np.asarray(images)
        _check(images, classes, classifier.input_shape[1:], num_classes)
        # A class of -1 stands for the guess.
        classes = np.full(len(images), -1) if classes is None else np.asarray(classes)
        size = min(batch_size, len(images))
        coarse = []
        for start in range(0, len(images), size):
            rows = slice(start, start + size)
            missing = size - len(images[rows])  # the same shape always: it is compiled once
            pixels = np.pad(images[rows], [(0, missing), (0, 0), (0, 0), (0, 0)])
            chosen = np.pad(classes[rows], (0, missing)).astype("int32")
            coarse += list(explain(pixels, chosen)[: size - missing])
        return np.stack([_enlarge(one, images.shape[1:3]) for one in coarse])

    return find_maps


def split_at_map(classifier: keras.Model) -> tuple[keras.Model, keras.Model]:
    """(pixels -> last feature map, feature map -> probabilities), sharing the classifier's layers.

    Raises ValueError where no layer with weights answers with a map of more than one place.
    """
    layers = classifier.layers
    takers = [place for place, layer in enumerate(layers) if _takes_map(layer)]
    last = takers[-1] if takers else 0
    if not any(layer.count_params() for layer in layers[:last]):
        raise ValueError(
            f"{classifier.name!r} has no feature map: its backbone answers with numbers that have no "
            f"place in the picture. Choose a convolutional backbone."
        )
    # The input of who takes it: `output` of a model within the model is its own inner one.
    features = layers[last].input
    height, width = features.shape[1:3]
    if height == width == 1:
        raise ValueError(
            f"the last feature map of {classifier.name!r} is a single place, which is the whole "
            f"picture. Train with a larger input_size."
        )
    body = keras.Model(classifier.inputs[0], features, name="to_map")
    return body, keras.Model(features, classifier.outputs[0], name="from_map")


def _takes_map(layer: keras.Layer) -> bool:
    taken = getattr(layer, "input", None)
    return not isinstance(layer, keras.Model) and len(getattr(taken, "shape", ())) == 4


def _is_jax() -> bool:
    return keras.backend.backend() == "jax"


def _check(images, classes, wanted: tuple, num_classes: int) -> None:
    if images.ndim != 4 or images.shape[1:] != tuple(wanted) or not len(images):
        raise ValueError(
            f"the model takes images (n, {', '.join(map(str, wanted))}), n at least 1. Received: "
            f"shape {images.shape}"
        )
    if classes is None:
        return
    classes = np.asarray(classes)
    if classes.shape != (len(images),) or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"classes must be {len(images)} integers, one an image. Received: shape "
            f"{classes.shape}, {classes.dtype}"
        )
    if classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(
            f"classes must be in 0..{num_classes - 1}. Received: {classes.min()}..{classes.max()}"
        )


def _score(probabilities, classes):
    """The sum of the logits of `classes`, each counted from the mean of its row's."""
    chosen = ops.where(classes < 0, ops.argmax(probabilities, axis=-1), classes)
    # log softmax is the logits but for a number that all of a row share.
    logits = ops.log(ops.maximum(ops.cast(probabilities, "float32"), _SMALLEST_PROBABILITY))
    own = ops.take_along_axis(logits, ops.cast(chosen, "int32")[:, None], axis=-1)
    return ops.sum(own[:, 0] - ops.mean(logits, axis=-1))


def _weigh(features, gradients):
    product = ops.cast(features, "float32") * ops.cast(gradients, "float32")
    return ops.sum(product, axis=-1)


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

    models = (body, head)

    def call(model, state, inputs):
        return model.stateless_call(*state, inputs, training=False)[0]

    @jax.jit
    def explain(states, pixels, classes):
        features = call(body, states[0], pixels)
        gradients = jax.grad(lambda map_: _score(call(head, states[1], map_), classes))(features)
        return _weigh(features, gradients)

    def explain_now(pixels, classes) -> np.ndarray:
        # Read at each call: training goes on. As arguments: constants would be compiled in.
        states = [
            [[one.value for one in variables] for variables in pair]
            for pair in (
                (model.trainable_variables, model.non_trainable_variables) for model in models
            )
        ]
        return np.asarray(explain(states, pixels, classes))

    return explain_now


def _enlarge(coarse: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """What speaks for the class, as large as the picture, its highest place 1."""
    height, width = size_px
    kept = np.maximum(coarse.astype("float32"), 0)
    large = np.asarray(Image.fromarray(kept).resize((width, height), Image.Resampling.BICUBIC))
    large = np.maximum(large, 0)
    highest = large.max()
    return (large / highest if highest > 0 else large).astype("float32")
