"""The loss of probabilities, with label smoothing and class weights.

Models end in probabilities, so nothing here takes logits. Labels are shares (n, num_classes) float32
whose rows sum to 1, because mixup and cutmix divide an image between two classes. A binary head gives
1 - p and p, of which the crossentropy of two classes is the binary one.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("flowerkit")
class WeightedCrossentropy(keras.losses.Loss):
    """Crossentropy in which an image counts as its class does, a mixed image as its parts do.

    `class_weights` leaves the smoothed part of a label alone, as a sample weight does.
    """

    def __init__(
        self,
        class_weights: Sequence[float],
        *,
        label_smoothing: float = 0.0,
        name: str = "weighted_crossentropy",
        reduction: str = "sum_over_batch_size",
    ):
        super().__init__(name=name, reduction=reduction)
        self.class_weights = [float(weight) for weight in class_weights]
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        """The loss of each image, (n,) float32."""
        shares = y_true * ops.convert_to_tensor(self.class_weights, dtype=y_true.dtype)
        weights = ops.sum(shares, axis=-1, keepdims=True)
        # Labels that sum to 1 again: TensorFlow's gradient of the crossentropy relies on that.
        labels = ops.divide_no_nan(shares, weights)
        losses = keras.losses.categorical_crossentropy(
            labels, y_pred, label_smoothing=self.label_smoothing
        )
        return losses * ops.squeeze(weights, axis=-1)

    def get_config(self) -> dict:
        """What it was made with."""
        own = {"class_weights": self.class_weights, "label_smoothing": self.label_smoothing}
        return super().get_config() | own


def build_loss(
    *, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
) -> keras.losses.Loss:
    """The crossentropy of probabilities (n, num_classes) and labels of that shape.

    `label_smoothing` (Szegedy et al. 2015, arXiv:1512.00567) takes that part of each label and spreads
    it evenly. `class_weights` has a number above 0 for each class, see `class_weights_for`.
    """
    if class_weights is None:
        return keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    return WeightedCrossentropy(class_weights, label_smoothing=label_smoothing)


def class_weights_for(labels, num_classes: int) -> tuple[float, ...]:
    """Balanced weights of (n,) integer labels: n / (num_classes * count of the class).

    Every class then weighs the same in the loss, and the mean over the images is 1 (King and Zeng
    2001; scikit-learn's "balanced"). Raises ValueError for classes without an image.

    >>> class_weights_for([0, 0, 0, 1], 2)
    (0.6666666666666666, 2.0)
    """
    labels = np.asarray(labels, "int64")
    counts = np.bincount(labels, minlength=num_classes)
    missing = np.flatnonzero(counts == 0).tolist()
    if missing:
        named = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{len(missing)} of {num_classes} classes have no training image (class {named}), so "
            f"balanced class weights are impossible: add images, or pass class_weights=None "
            f"(--class-weights none)."
        )
    return tuple((len(labels) / (num_classes * counts)).tolist())
