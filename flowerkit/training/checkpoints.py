"""The weights that a run keeps while it trains: the best, with their predictions, and the last."""

from contextlib import nullcontext
from pathlib import Path

import keras

from flowerkit.files import replacing
from flowerkit.training.callbacks import Validation
from flowerkit.training.step import RunContext


class ModelCheckpoint(keras.callbacks.Callback):
    """Keep the classifier's best weights with their validation predictions, and the last weights.

    With averaged weights, the best are the averages, and the raw weights are kept beside them. The last
    are those of the training model with its optimizer, so that a resumed run continues exactly. Each
    file is written under a temporary name: a full disk costs no older file.
    """

    def __init__(self, run: RunContext, validation: Validation):
        super().__init__()
        self.folder, self.classifier, self.history = run.folder, run.classifier, run.history
        self.steps, self.validation = run.num_steps, validation

    def on_epoch_end(self, epoch, logs=None):
        row = self.history.last
        if row is None or row["epoch"] != epoch + 1:
            return  # an epoch that was cut short
        if self.validation.predictions is not None and self.history.last_is_best:
            self._save_best()
        if row["steps"] == self.steps:  # after a part of an epoch there is nothing to resume from
            save_weights(self.model, self.folder.last_weights)

    def _save_best(self) -> None:
        averaged = self.validation.averaged
        with averaged(self.model) if averaged else nullcontext():
            save_weights(self.classifier, self.folder.best_weights)
        if averaged:
            save_weights(self.classifier, self.folder.best_raw_weights)
        self.validation.predictions.save(self.folder.val_predictions_file)


def save_weights(model: keras.Model, path: Path) -> None:
    """Write a weights file in one piece; an older file survives a full disk."""
    with replacing(path) as temporary:
        model.save_weights(temporary)
