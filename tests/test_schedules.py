import re
from dataclasses import replace

import pytest

from flowerkit.schedules import (
    COMPETITION,
    NOTEBOOK,
    Constant,
    RampSustainDecay,
    scale_for_batch,
)

SHORT = RampSustainDecay(
    start_lr=0.1, max_lr=0.5, min_lr=0.1, rampup_epochs=4, sustain_epochs=2, exp_decay=0.5
)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.1),
        (1, 0.2),
        (1.5, 0.25),
        (4, 0.5),
        (5.9, 0.5),
        (6, 0.5),
        (7, 0.3),
        (8, 0.2),
        (9, 0.15),
        (500, 0.1),
    ],
)
def test_the_rate_ramps_stays_and_decays(epoch, rate):
    assert SHORT(epoch) == pytest.approx(rate, abs=1e-12)


def test_the_notebooks_schedule_has_its_literal_values():
    rates = [NOTEBOOK(epoch) for epoch in (0, 1, 10, 29, 30, 31, 32)]
    assert rates == pytest.approx([0.001, 0.0013, 0.004, 0.0097, 0.01, 0.00802, 0.006436])


def test_the_competition_schedule_peaks_at_4e_4_after_four_epochs():
    rates = [COMPETITION(epoch) for epoch in (0, 1, 2, 3, 4, 5)]
    assert rates == pytest.approx([1e-5, 1.075e-4, 2.05e-4, 3.025e-4, 4e-4, 3.22e-4])
    assert max(COMPETITION(epoch / 10) for epoch in range(300)) == 4e-4


def test_without_a_ramp_the_first_rate_is_the_peak():
    schedule = RampSustainDecay(0.1, 0.5, 0.1, 0, 0, 0.5)
    assert [schedule(0), schedule(1)] == pytest.approx([0.5, 0.3])


def test_a_second_argument_is_refused_so_that_keras_cannot_replace_start_lr():
    # Keras calls schedule(epoch, rate) first; only a TypeError makes it try schedule(epoch).
    for schedule in (NOTEBOOK, Constant(0.1)):
        with pytest.raises(TypeError):
            schedule(0, 0.001)


@pytest.mark.parametrize("epoch", [-1, -0.001, float("nan")])
def test_an_epoch_before_the_first_is_refused(epoch):
    for schedule in (SHORT, Constant(0.1)):
        with pytest.raises(ValueError, match="the first epoch is 0"):
            schedule(epoch)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"start_lr": -0.1}, "start_lr is -0.1; it must be 0 or more."),
        ({"max_lr": 0.0, "start_lr": 0.0, "min_lr": 0.0}, "max_lr is 0, so nothing"),
        ({"start_lr": 0.6}, "start_lr is 0.6, above max_lr 0.5. Raise max_lr"),
        ({"min_lr": 0.7}, "min_lr is 0.7, above max_lr 0.5. Raise max_lr"),
        ({"rampup_epochs": -3}, "rampup_epochs is -3; it must be 0 or more."),
        ({"exp_decay": 0}, "exp_decay is 0; it is the factor kept per epoch"),
        ({"exp_decay": 1.1}, "exp_decay is 1.1; it is the factor kept per epoch"),
        ({"max_lr": "0.01"}, "max_lr is '0.01' (str); it must be a finite number."),
        ({"max_lr": float("inf")}, "max_lr is inf (float); it must be a finite number."),
        ({"sustain_epochs": True}, "sustain_epochs is True (bool); it must be a finite number."),
        ({"sustain_epochs": None}, "sustain_epochs is None (NoneType)"),
    ],
)
def test_values_that_make_no_schedule_are_refused(changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(SHORT, **changed)


def test_a_constant_of_zero_is_refused():
    with pytest.raises(ValueError, match="lr is 0, so nothing would be learned"):
        Constant(0)


def test_scaling_multiplies_the_rates_and_leaves_the_epochs():
    assert SHORT.scaled(2) == RampSustainDecay(0.2, 1.0, 0.2, 4, 2, 0.5)
    assert Constant(0.25).scaled(2) == Constant(0.5)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (NOTEBOOK, "0.001 to 0.01 over 30 epochs, then x 0.8 per epoch towards 0.0001"),
        (
            SHORT,
            "0.1 to 0.5 over 4 epochs, held for 2 epochs, then x 0.5 per epoch towards 0.1",
        ),
        (RampSustainDecay(0, 0.5, 0.1, 0, 0, 0.5), "0.5, then x 0.5 per epoch towards 0.1"),
        (RampSustainDecay(0, 0.5, 0.1, 1, 0, 1), "0 to 0.5 over 1 epoch, then held"),
        (Constant(0.0004), "0.0004 throughout"),
    ],
)
def test_a_schedule_prints_as_a_phrase(schedule, text):
    assert str(schedule) == text


def test_the_rate_grows_with_the_square_root_of_the_batch():
    assert scale_for_batch(128) == 1.0
    assert scale_for_batch(32) == 0.5
    assert scale_for_batch(1024, reference_batch=16) == 8.0
    with pytest.raises(ValueError, match="global_batch is 0; a batch holds at least 1 image"):
        scale_for_batch(0)
