"""Early stopping that stops: whether it is due is read off the history, so nothing goes stale.

Keras's EarlyStopping only warns about a monitor that is not logged, cannot infer the direction of
`val_f1`, keeps its best between fits and forgets it in a resumed run. Here the plan checks the monitor,
patience counts from the end of the ramp, and a resumed run stops where the whole run would have. The
best weights are on disk (`validation.ModelCheckpoint`); `trainer.train` puts them back on every exit.
"""

import keras

from flowerkit.text import format_epochs
from flowerkit.training.history import History
from flowerkit.training.phases import Phase


class EarlyStopping(keras.callbacks.Callback):
    """Stop a phase after `patience` epochs without improvement of the history's monitor.

    `stop` is the run's `StopFlag`. Epochs of other phases, and those before the phase's
    `first_patient_epoch`, do not count. A patience of None never stops.
    """

    def __init__(self, history: History, phase: Phase, patience: int | None, stop):
        super().__init__()
        self.history, self.phase, self.patience, self.stop = history, phase, patience, stop

    def on_epoch_end(self, epoch, logs=None):
        if is_stopping_due(self.history, self.phase, self.patience):
            self.stop.request(
                f"{self.history.monitor} had not improved for "
                f"{format_epochs(self.patience)} (early stopping)",
                ends_run=False,
            )


def is_stopping_due(history: History, phase: Phase, patience: int | None) -> bool:
    """Whether `phase` has gone on for `patience` epochs without a better one."""
    epochs = history.of_phase(phase.number)
    if patience is None or phase.first_patient_epoch is None or not epochs:
        return False
    start = epochs[0]["epoch"] - 1  # epochs count through all phases
    return epochs.epochs_since_best(start + int(phase.first_patient_epoch)) >= patience
