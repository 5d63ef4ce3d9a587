"""Heads: what turns a backbone's features into probabilities."""

import keras

from flowerkit.text import did_you_mean

# PyTorch's default. With Keras' 0.99 the statistics are those of a hundred steps ago; fine-tuning has
# changed the features since, and val is scored too low: macro F1 of 0.38 in an epoch where 0.9 is
# right, and a wrong best epoch.
_MOMENTUM = 0.9
_FLATTEN_WIDTH = 256
_MAX_WEIGHTS = 50_000_000


def add_head(features, num_classes: int, head: str, *, dropout: float, binary: bool = False):
    """Probabilities (n, num_classes) float32 of symbolic `features`; rows sum to 1.

    Features are a map (n, height, width, channels), or vectors (n, width), which only "plain" takes.
    "notebook": norm, dropout, average pooling, softmax: the DenseNet121 head of the competition's
    notebook.
    "pooled": average pooling, norm, dropout, softmax: the usual one.
    "plain": average pooling, dropout, softmax.
    "concat": fastai's `create_head`: average and max pooling, norm, half the dropout, dense 512,
    ReLU, norm, dropout, softmax.
    "flatten": the whole map, dense 256, ReLU, dropout, softmax.
    `binary`, for two classes: one logit z, and the probabilities 1 - sigmoid(z) and sigmoid(z).

    Raises ValueError for a head that does not fit the features, a dense layer of more than 50 million
    weights, and `binary` unless there are two classes.
    """
    if binary and num_classes != 2:
        raise ValueError(
            f"binary needs 2 classes; there are {num_classes}. Pass binary=False (--no-binary)."
        )
    if len(features.shape) == 2 and head != "plain":
        raise ValueError(
            f"head={head!r} takes a feature map (height, width, channels), and this backbone ends in "
            f"a vector of {features.shape[-1]}. Pass head='plain' (--head plain)."
        )
    x = _HEADS[head](features, dropout)
    # float32 even under mixed precision: a bfloat16 softmax rounds small probabilities away.
    if not binary:
        softmax = keras.layers.Dense(
            num_classes, activation="softmax", dtype="float32", name="probabilities"
        )
        return softmax(x)
    # The softmax of the logits 0 and z is 1 - sigmoid(z) and sigmoid(z): two columns, as in any task.
    logit = keras.layers.Dense(1, dtype="float32", name="logit")(x)
    logits = keras.ops.pad(logit, [[0, 0], [1, 0]])
    return keras.layers.Activation("softmax", dtype="float32", name="probabilities")(logits)


def check_head(head: str) -> None:
    """Raise ValueError for an unknown head."""
    if head not in _HEADS:
        raise ValueError(
            f"head must be one of {', '.join(_HEADS)}. Received: head={head!r}."
            f"{did_you_mean(str(head), _HEADS)}"
        )


def _add_notebook(x, dropout: float):
    x = keras.layers.BatchNormalization(momentum=_MOMENTUM, name="head_norm")(x)
    x = keras.layers.Dropout(dropout, name="head_dropout")(x)
    return keras.layers.GlobalAveragePooling2D(name="pool")(x)


def _add_pooled(x, dropout: float):
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.BatchNormalization(momentum=_MOMENTUM, name="head_norm")(x)
    return keras.layers.Dropout(dropout, name="head_dropout")(x)


def _add_plain(x, dropout: float):
    if len(x.shape) == 4:
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.layers.Dropout(dropout, name="head_dropout")(x)


def _add_concat(x, dropout: float):
    """fastai's `create_head` (fastai/vision/learner.py) with its initial weights."""
    average = keras.layers.GlobalAveragePooling2D(name="pool_average")(x)
    largest = keras.layers.GlobalMaxPooling2D(name="pool_max")(x)
    x = keras.layers.Concatenate(name="pool")([largest, average])
    x = keras.layers.BatchNormalization(momentum=_MOMENTUM, epsilon=1e-5, name="head_norm")(x)
    x = keras.layers.Dropout(dropout / 2, name="head_dropout")(x)
    dense = keras.layers.Dense(
        512, use_bias=False, kernel_initializer="he_normal", name="head_dense"
    )
    x = keras.layers.ReLU(name="head_relu")(dense(x))
    x = keras.layers.BatchNormalization(momentum=_MOMENTUM, epsilon=1e-5, name="head_norm2")(x)
    return keras.layers.Dropout(dropout, name="head_dropout2")(x)


def _add_flatten(x, dropout: float):
    height, width, channels = x.shape[1:]
    weights = height * width * channels * _FLATTEN_WIDTH
    if weights > _MAX_WEIGHTS:
        raise ValueError(
            f"head='flatten' on a feature map of {height} x {width} x {channels} would have "
            f"{weights:,} weights in one layer (at most {_MAX_WEIGHTS:,}). Pass a smaller input_size "
            f"(--input-size), or head='pooled' (--head pooled)."
        )
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(_FLATTEN_WIDTH, activation="relu", name="head_dense")(x)
    return keras.layers.Dropout(dropout, name="head_dropout")(x)


_HEADS = {
    "notebook": _add_notebook,
    "pooled": _add_pooled,
    "plain": _add_plain,
    "concat": _add_concat,
    "flatten": _add_flatten,
}
# fastai's 0.5 (half of it before the first dense layer), the learners' notes' 0.5 behind Flatten.
DROPOUT = {"notebook": 0.2, "pooled": 0.2, "plain": 0.2, "concat": 0.5, "flatten": 0.5}
