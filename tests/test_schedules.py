import functools
import math
import re
from dataclasses import asdict, replace

import pytest

from flowerkit.schedules import (
    COMPETITION,
    NOTEBOOK,
    Constant,
    OfEpochAndRate,
    RampSustainDecay,
    Staircase,
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
    of_both = OfEpochAndRate(keep_two_then_halve, 0.1)
    for schedule in (NOTEBOOK, Constant(0.1), STAIRS, of_both):
        with pytest.raises(TypeError):
            schedule(0, 0.001)


@pytest.mark.parametrize("epoch", [-1, -0.001, float("nan"), float("inf")])
def test_an_epoch_before_the_first_is_refused(epoch):
    for schedule in (SHORT, Constant(0.1), STAIRS, OfEpochAndRate(keep_two_then_halve, 0.1)):
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
        (SHORT, "0.1 to 0.5 over 4 epochs, held for 2 epochs, then x 0.5 per epoch towards 0.1"),
        (RampSustainDecay(0, 0.5, 0.1, 0, 0, 0.5), "0.5, then x 0.5 per epoch towards 0.1"),
        (RampSustainDecay(0, 0.5, 0.1, 1, 0, 1), "0 to 0.5 over 1 epoch, then held"),
        (Constant(0.0004), "0.0004 throughout"),
    ],
)
def test_a_schedule_prints_as_a_phrase(schedule, text):
    assert str(schedule) == text


STAIRS = Staircase(max_lr=0.8, factor=0.5, every_epochs=3, min_lr=0.15)


def test_a_staircase_multiplies_the_rate_every_n_epochs_down_to_its_floor():
    rates = [STAIRS(epoch) for epoch in (0, 1, 2.9, 3, 5, 6, 8, 9, 10, 999)]
    assert rates == [0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.15, 0.15, 0.15]
    assert Staircase(1.0, 0.5, 1)(10) == 0.0009765625


def test_a_staircase_prints_scales_and_goes_into_a_file():
    assert str(STAIRS) == "0.8, then x 0.5 every 3 epochs, never under 0.15"
    assert str(Staircase(0.1, 0.9, 1)) == "0.1, then x 0.9 every epoch"
    assert STAIRS.scaled(2) == Staircase(1.6, 0.5, 3, 0.3)
    assert Staircase(**asdict(STAIRS)) == STAIRS
    assert asdict(STAIRS) == {"max_lr": 0.8, "factor": 0.5, "every_epochs": 3, "min_lr": 0.15}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"factor": 0}, "factor is 0; the rate is multiplied by it at each stair"),
        ({"factor": 1.5}, "factor is 1.5; the rate is multiplied by it at each stair"),
        ({"every_epochs": 0}, "every_epochs is 0; a stair is a whole number of epochs"),
        ({"every_epochs": 2.5}, "every_epochs is 2.5; a stair is a whole number of epochs"),
        ({"min_lr": 0.9}, "min_lr is 0.9, above max_lr 0.8."),
        ({"max_lr": 0, "min_lr": 0}, "max_lr is 0, so nothing would be learned."),
    ],
)
def test_values_that_make_no_stairs_are_refused(changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(STAIRS, **changed)


def keep_two_then_halve(epoch, lr):
    return lr if epoch < 2 else lr / 2


def test_a_step_function_is_asked_once_an_epoch_in_order_whatever_epoch_is_wanted_first():
    asked = []

    def add_epoch(epoch, lr):
        asked.append((epoch, lr))
        return lr + epoch

    schedule = OfEpochAndRate(add_epoch, 1)
    assert [schedule(epoch) for epoch in (3, 0, 1, 2.99, 3)] == [7.0, 1.0, 2.0, 4.0, 7.0]
    assert asked == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0)]


def test_a_scaled_step_function_sees_the_rates_it_was_written_for():
    schedule = OfEpochAndRate(keep_two_then_halve, 0.4).scaled(10)
    assert [schedule(epoch) for epoch in range(4)] == [4.0, 4.0, 2.0, 1.0]


def test_a_step_function_is_named_and_not_serialised():
    schedule = OfEpochAndRate(keep_two_then_halve, 0.4)
    name = f"{__name__}:keep_two_then_halve"
    assert repr(schedule) == f"OfEpochAndRate({name}, start_lr=0.4)"
    assert repr(schedule.scaled(2)) == f"OfEpochAndRate({name}, start_lr=0.4, factor=2.0)"
    assert str(schedule) == f"0.4, then as {name} says every epoch"
    assert str(schedule.scaled(2)) == f"0.4, then as {name} says every epoch, x 2"
    assert asdict(schedule)["function"] is keep_two_then_halve


@pytest.mark.parametrize("answer", [None, math.nan, math.inf, -0.1, True, "0.1", [0.1]])
def test_an_answer_that_is_no_rate_is_an_error_that_names_the_epoch(answer):
    schedule = OfEpochAndRate(lambda epoch, lr: answer if epoch == 2 else lr, 0.5)
    assert schedule(1) == 0.5
    message = f"returned {answer!r} for epoch 2 and rate 0.5; a learning rate is a finite number"
    with pytest.raises(ValueError, match=re.escape(message)):
        schedule(2)


def test_a_function_that_would_not_get_what_it_was_written_for_is_refused():
    def tutorial(epoch, start_lr=0.001, max_lr=0.01):
        return start_lr

    with pytest.raises(ValueError, match=r"second parameter .*tutorial.* whatever start_lr was"):
        OfEpochAndRate(tutorial, 0.001)
    with pytest.raises(ValueError, match=r"pass lambda epoch, lr: tutorial\(epoch\)"):
        OfEpochAndRate(tutorial, 0.001)
    with pytest.raises(ValueError, match=r"cannot be called with \(epoch, lr\): too many"):
        OfEpochAndRate(lambda epoch: 0.1, 0.001)
    with pytest.raises(ValueError, match="functools:partial.* cannot be called"):
        OfEpochAndRate(functools.partial(tutorial, start_lr=0.1), 0.001)
    with pytest.raises(ValueError, match="function is 0.1; it must be callable"):
        OfEpochAndRate(0.1, 0.001)
    with pytest.raises(ValueError, match="start_lr is -1; it must be 0 or more"):
        OfEpochAndRate(keep_two_then_halve, -1)


def test_these_schedules_hold_their_rate_through_an_epoch():
    of_both = OfEpochAndRate(keep_two_then_halve, 0.1)
    assert not any(one.per_step for one in (NOTEBOOK, Constant(0.1), STAIRS, of_both))


def test_the_rate_grows_with_the_square_root_of_the_batch():
    assert scale_for_batch(128) == 1.0
    assert scale_for_batch(32) == 0.5
    assert scale_for_batch(1024, reference_batch=16) == 8.0
    with pytest.raises(ValueError, match="global_batch is 0; a batch holds at least 1 image"):
        scale_for_batch(0)
