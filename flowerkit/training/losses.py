"""Losses and metrics from probabilities: label smoothing, class weights, focal; one-hot labels or not.

The models end in probabilities, so nothing here takes logits. A binary head answers 1 - p and p, of
which the crossentropy of two classes is the binary one: it needs no loss of its own.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("flowerkit")
class WeightedCrossentropy(keras.losses.Loss):
    """Crossentropy with what Keras's classes do not combine; an image counts as its class does.

    Labels (n, num_classes) with `one_hot`, else (n,) integers. A mixed image counts by the weights of
    its parts. `class_weights` leaves the smoothed part of a label alone, as a sample weight does.
    `focal_gamma` multiplies each term by (1 - p)**gamma, without the alpha of Keras's class, whose
    0.25 only makes every loss a quarter (Lin et al. 2017, arXiv:1708.02002).
    """

    def __init__(
        self,
        num_classes: int,
        *,
        label_smoothing: float = 0.0,
        focal_gamma: float | None = None,
        class_weights: Sequence[float] | None = None,
        one_hot: bool = False,
        name: str = "weighted_crossentropy",
        reduction: str = "sum_over_batch_size",
    ):
        super().__init__(name=name, reduction=reduction)
        self.num_classes, self.one_hot = num_classes, one_hot
        self.label_smoothing, self.focal_gamma = label_smoothing, focal_gamma
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]

    def call(self, y_true, y_pred):
        """The loss of each image, (n,) float32."""
        labels = y_true if self.one_hot else self._spread(y_true)
        if self.class_weights is None:
            return self._crossentropy(labels, y_pred)
        parts = labels * ops.convert_to_tensor(self.class_weights, dtype=labels.dtype)
        weights = ops.sum(parts, axis=-1, keepdims=True)
        # Labels that sum to 1 again: TensorFlow's gradient of the crossentropy takes that for granted.
        labels = ops.divide_no_nan(parts, weights)
        return self._crossentropy(labels, y_pred) * ops.squeeze(weights, axis=-1)

    def _spread(self, y_true):
        rows = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        return ops.one_hot(rows, self.num_classes, dtype=self.dtype)

    def _crossentropy(self, labels, y_pred):
        smoothing, gamma = self.label_smoothing, self.focal_gamma
        if gamma is None:
            return keras.losses.categorical_crossentropy(labels, y_pred, label_smoothing=smoothing)
        return keras.losses.categorical_focal_crossentropy(
            labels, y_pred, alpha=1.0, gamma=gamma, label_smoothing=smoothing
        )

    def get_config(self) -> dict:
        """What it was made with."""
        names = ("num_classes", "label_smoothing", "focal_gamma", "class_weights", "one_hot")
        return super().get_config() | {name: getattr(self, name) for name in names}


def build_loss(
    num_classes: int,
    *,
    label_smoothing: float = 0.0,
    focal_gamma: float | None = None,
    class_weights: Sequence[float] | None = None,
    one_hot: bool = False,
) -> keras.losses.Loss:
    """The crossentropy of probabilities (n, num_classes).

    Labels are (n,) integers, with `one_hot` (n, num_classes) floats whose rows sum to 1 (mixed images
    need that). `label_smoothing` (Szegedy et al. 2015,
    arXiv:1512.00567) takes that part of each label and spreads it evenly. `class_weights` has a number
    above 0 for each class (`class_weights_for`). Keras's own class wherever it does what was asked for,
    else `WeightedCrossentropy`.

    Raises ValueError for values out of range, and a wrong number of weights.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; there must be 2 to tell apart.")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing:g}; it must be 0 or more, below 1.")
    if focal_gamma is not None and not 0 <= focal_gamma < float("inf"):
        raise ValueError(f"focal_gamma is {focal_gamma:g}; it must be 0 or more. None: off.")
    if class_weights is not None:
        _check_weights(class_weights, num_classes)
    if class_weights is None and focal_gamma is None:
        if one_hot:
            return keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
        if label_smoothing == 0:
            return keras.losses.SparseCategoricalCrossentropy()
    return WeightedCrossentropy(
        num_classes,
        label_smoothing=label_smoothing,
        focal_gamma=focal_gamma,
        class_weights=class_weights,
        one_hot=one_hot,
    )


def build_metrics(*, one_hot: bool = False) -> list[keras.metrics.Metric]:
    """[accuracy] for the labels that `build_loss` takes; of a mixed image its larger part counts."""
    if one_hot:
        return [keras.metrics.CategoricalAccuracy(name="accuracy")]
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


def class_weights_for(labels, num_classes: int) -> tuple[float, ...]:
    """Balanced weights of (n,) integer labels: n / (num_classes * count of the class).

    Every class then weighs the same in the loss, and the mean over the images is 1 (King and Zeng
    2001; scikit-learn's "balanced"). Raises ValueError for labels outside 0..num_classes-1, and for
    classes without an image.

    >>> class_weights_for([0, 0, 0, 1], 2)
    (0.6666666666666666, 2.0)
    """
    labels = np.asarray(labels, "int64")
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(f"label {outside[0]} is outside 0..{num_classes - 1}.")
    counts = np.bincount(labels, minlength=num_classes)
    missing = np.flatnonzero(counts == 0).tolist()
    if missing:
        named = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{len(missing)} of {num_classes} classes have no image to weigh (class {named}). Balanced "
            "class weights need one of each: add images, or train without class weights."
        )
    return tuple((len(labels) / (num_classes * counts)).tolist())


def _check_weights(class_weights: Sequence[float], num_classes: int) -> None:
    if len(class_weights) != num_classes:
        raise ValueError(f"{len(class_weights)} class weights for {num_classes} classes.")
    for number, weight in enumerate(class_weights):
        if not 0 < weight < float("inf"):
            raise ValueError(f"the weight of class {number} is {weight}; it must be above 0.")
