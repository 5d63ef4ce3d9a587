"""early_stopping: it stops after the ramp, by the monitor, in its own phase, after a resume."""

import keras

from flowerkit.training.callbacks import StopFlag
from flowerkit.training.early_stopping import EarlyStopping, is_stopping_due
from flowerkit.training.history import History
from flowerkit.training.phases import Phase


def phase_of(number=1, first_patient_epoch=0):
    return Phase(
        number,
        False,
        epochs=99,
        steps=3,
        first_lr=1e-3,
        schedule=None,
        end=99,
        most_epochs=99,
        first_patient_epoch=first_patient_epoch,
    )


def stopping_epoch(values, *, patience, ramp=0, monitor="val_f1", before=()):
    """The epoch after which EarlyStopping ends a phase that logs `values` after the rows `before`."""
    history, phase, stop = History(monitor, before), phase_of(2, ramp), StopFlag()
    stopping = EarlyStopping(history, phase, patience, stop)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.stop_training = False
    for callback in (stop, stopping):
        callback.set_model(model)
    for epoch, value in enumerate(values, start=len(before) + 1):
        history.append({"epoch": epoch, "phase": 2, monitor: value})
        stopping.on_epoch_end(epoch - 1)
        if model.stop_training:
            assert not stop.ends_run  # the next phase follows
            return epoch
    return None


def test_it_stops_after_patience_epochs_without_improvement():
    values = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9]
    assert stopping_epoch(values, patience=3) == 5
    assert stopping_epoch(values, patience=4) is None
    assert stopping_epoch(values, patience=None) is None


def test_a_falling_loss_is_improvement():
    falling = [3.0, 2.0, 1.0, 0.5, 0.4]
    assert stopping_epoch(falling, patience=1, monitor="val_loss") is None
    assert stopping_epoch(falling, patience=1, monitor="val_f1") == 2


def test_patience_starts_after_the_ramp():
    values = [0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1]
    assert stopping_epoch(values, patience=2) == 3
    assert stopping_epoch(values, patience=2, ramp=4) == 6


def test_a_cycle_has_no_patience_as_its_end_alone_counts():
    assert stopping_epoch([0.5, 0.4, 0.3, 0.2, 0.1], patience=1, ramp=None) is None


def test_a_ramp_of_a_part_of_an_epoch_ends_within_it():
    assert stopping_epoch([0.5, 0.4, 0.3, 0.2, 0.1], patience=1, ramp=2.7) == 3


def test_what_another_phase_reached_does_not_count():
    before = [{"epoch": k, "phase": 1, "val_f1": 0.9} for k in (1, 2, 3)]
    assert stopping_epoch([0.1, 0.2, 0.3, 0.2, 0.1], patience=2, before=before) == 3 + 5
    assert stopping_epoch([0.3, 0.2, 0.1, 0.1], patience=1, ramp=2, before=before) == 3 + 3


def test_a_resumed_run_stops_where_the_whole_one_would_have():
    rows = [{"epoch": k, "phase": 1, "val_f1": f1} for k, f1 in enumerate([0.5, 0.4, 0.3], 1)]
    assert is_stopping_due(History("val_f1", rows), phase_of(), 2)
    assert not is_stopping_due(History("val_f1", rows), phase_of(), 3)
    assert not is_stopping_due(History("val_f1"), phase_of(), 1)
