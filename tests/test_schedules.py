import functools
import math
import re
from dataclasses import replace

import pytest

from flowerkit.schedules import (
    NOTEBOOK,
    RAMP,
    Constant,
    CosineWarmup,
    OfEpochAndRate,
    OneCycle,
    RampSustainDecay,
    Staircase,
    as_schedule,
)

SHORT = RampSustainDecay(
    start_lr=0.1, max_lr=0.5, min_lr=0.1, rampup_epochs=4, sustain_epochs=2, exp_decay=0.5
)
COSINE = CosineWarmup(start_lr=0.1, max_lr=0.5, min_lr=0.1, rampup_epochs=2, epochs=6)
CYCLE = OneCycle(max_lr=1.0, epochs=8, pct_start=0.25, div=5)
STAIRS = Staircase(max_lr=0.8, factor=0.5, every_epochs=3, min_lr=0.15)


def keep_two_then_halve(epoch, lr):
    return lr if epoch < 2 else lr / 2


OWN = OfEpochAndRate(keep_two_then_halve, 0.1)
ALL = (SHORT, COSINE, CYCLE, STAIRS, Constant(0.1), OWN)


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


def test_the_ramp_peaks_at_4e_4_after_four_epochs():
    rates = [RAMP(epoch) for epoch in (0, 1, 2, 3, 4, 5)]
    assert rates == pytest.approx([1e-5, 1.075e-4, 2.05e-4, 3.025e-4, 4e-4, 3.22e-4])
    assert max(RAMP(epoch / 10) for epoch in range(300)) == 4e-4


def test_without_a_ramp_the_first_rate_is_the_peak():
    schedule = RampSustainDecay(0.1, 0.5, 0.1, 0, 0, 0.5)
    assert [schedule(0), schedule(1)] == pytest.approx([0.5, 0.3])


def test_a_staircase_multiplies_the_rate_every_n_epochs_down_to_its_floor():
    rates = [STAIRS(epoch) for epoch in (0, 1, 2.9, 3, 5, 6, 8, 9, 10, 999)]
    assert rates == [0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.15, 0.15, 0.15]
    assert Staircase(1.0, 0.5, 1)(10) == 0.0009765625


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        (0, 0.1),
        (1, 0.3),
        (1.5, 0.4),
        (2, 0.5),
        (3, 0.3 + 0.2 * math.sqrt(0.5)),
        (4, 0.3),
        (5, 0.3 - 0.2 * math.sqrt(0.5)),
        (6, 0.1),
        (60, 0.1),
    ],
)
def test_the_rate_ramps_and_follows_half_a_cosine(epoch, rate):
    assert COSINE(epoch) == pytest.approx(rate, abs=1e-12)


def test_the_peak_and_the_end_of_the_cosine_are_exact():
    odd = CosineWarmup(0.0, 0.0123, 0.00045, rampup_epochs=3, epochs=20)
    assert (odd(3), odd(20), odd(21)) == (0.0123, 0.00045, 0.00045)
    assert CosineWarmup(0.0, 0.5, 0.1, rampup_epochs=0, epochs=4)(0) == 0.5


def fastai_cycle(pos, pct_start, start, middle, end):
    """fastai's combined_cos and SchedCos, written out; pos is the fraction of the training done."""
    if pos < pct_start:
        start, end, pos = start, middle, pos / pct_start
    else:
        start, end, pos = middle, end, (pos - pct_start) / (1 - pct_start)
    return start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2


@pytest.mark.parametrize("epochs", [1, 5, 8])
def test_one_cycle_is_fastais(epochs):
    cycle = OneCycle(max_lr=0.002, epochs=epochs)
    for step in range(40):
        pos = step / 40
        rate = fastai_cycle(pos, 0.25, 0.002 / 25, 0.002, 0.002 / 1e5)
        assert cycle(pos * epochs) == pytest.approx(rate, rel=1e-9)


def test_one_cycle_has_its_literal_values():
    rates = [CYCLE(epoch) for epoch in (0, 1, 2, 5, 8, 9)]
    assert rates == pytest.approx([0.2, 0.6, 1.0, 0.500005, 1e-5, 1e-5], abs=1e-12)


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: type(schedule).__name__)
def test_a_schedule_takes_one_epoch_from_0_and_nothing_else(schedule):
    # Keras calls schedule(epoch, rate) first; only a TypeError makes it try schedule(epoch).
    with pytest.raises(TypeError):
        schedule(0, 0.001)
    for epoch in (-1, -0.001, math.nan, math.inf):
        with pytest.raises(ValueError, match="the first epoch is 0"):
            schedule(epoch)


@pytest.mark.parametrize(
    ("schedule", "changed", "message"),
    [
        (SHORT, {"start_lr": -0.1}, "start_lr is -0.1; it must be a finite number, 0 or more"),
        (SHORT, {"start_lr": 0.6}, "start_lr is 0.6, above max_lr 0.5. Raise max_lr"),
        (SHORT, {"min_lr": 0.7}, "min_lr is 0.7, above max_lr 0.5. Raise max_lr"),
        (SHORT, {"rampup_epochs": -3}, "rampup_epochs is -3; it must be a finite number"),
        (SHORT, {"exp_decay": 0}, "exp_decay is 0; it must be above 0"),
        (SHORT, {"exp_decay": 1.1}, "exp_decay is 1.1; it must be above 0"),
        (SHORT, {"max_lr": "0.01"}, "max_lr is '0.01'; it must be a finite number"),
        (SHORT, {"max_lr": math.inf}, "max_lr is inf; it must be a finite number"),
        (SHORT, {"sustain_epochs": True}, "sustain_epochs is True"),
        (SHORT, {"sustain_epochs": None}, "sustain_epochs is None"),
        (COSINE, {"epochs": 0, "rampup_epochs": 0}, "nothing is left for the cosine."),
        (COSINE, {"rampup_epochs": 6}, "rampup_epochs is 6 of 6 epochs"),
        (COSINE, {"max_lr": 0, "start_lr": 0, "min_lr": 0}, "max_lr is 0, so nothing"),
        (CYCLE, {"epochs": 0}, "epochs is 0; a cycle needs at least 1"),
        (CYCLE, {"max_lr": 0}, "max_lr is 0, so nothing would be learned."),
        (CYCLE, {"pct_start": 0}, "pct_start is 0; it must lie between 0 and 1"),
        (CYCLE, {"pct_start": 25}, "pct_start is 25; it must lie"),
        (CYCLE, {"div": 0.5}, "div is 0.5; it must be 1 or more"),
        (STAIRS, {"factor": 0}, "factor is 0; it must be above 0"),
        (STAIRS, {"every_epochs": 0}, "every_epochs is 0; pass a whole number"),
        (STAIRS, {"every_epochs": 2.5}, "every_epochs is 2.5; pass a whole number"),
        (STAIRS, {"min_lr": 0.9}, "min_lr is 0.9, above max_lr 0.8."),
        (Constant(0.1), {"lr": 0}, "lr is 0, so nothing would be learned"),
        (OWN, {"start_lr": -1}, "start_lr is -1; it must be a finite number"),
    ],
)
def test_values_that_make_no_schedule_are_refused(schedule, changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(schedule, **changed)


def test_scaling_multiplies_the_rates_and_leaves_the_epochs():
    assert SHORT.scaled(2) == RampSustainDecay(0.2, 1.0, 0.2, 4, 2, 0.5)
    assert COSINE.scaled(2) == CosineWarmup(0.2, 1.0, 0.2, 2, 6)
    assert CYCLE.scaled(0.5) == replace(CYCLE, max_lr=0.5)
    assert STAIRS.scaled(2) == Staircase(1.6, 0.5, 3, 0.3)
    assert Constant(0.25).scaled(2) == Constant(0.5)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (NOTEBOOK, "0.001 to 0.01 over 30 epochs, then x 0.8 per epoch towards 0.0001"),
        (SHORT, "0.1 to 0.5 over 4 epochs, held for 2 epochs, then x 0.5 per epoch towards 0.1"),
        (RampSustainDecay(0, 0.5, 0.1, 0, 0, 0.5), "0.5, then x 0.5 per epoch towards 0.1"),
        (RampSustainDecay(0, 0.5, 0.1, 1, 0, 1), "0 to 0.5 over 1 epoch, then held"),
        (COSINE, "0.1 to 0.5 over 2 epochs, then a half-cosine to 0.1 at 6 epochs"),
        (replace(COSINE, rampup_epochs=0), "0.5, then a half-cosine to 0.1 at 6 epochs"),
        (CYCLE, "one cycle: 0.2 to 1 over 2 epochs, then down to 1e-05 at 8 epochs"),
        (STAIRS, "0.8, then x 0.5 every 3 epochs, never under 0.15"),
        (Staircase(0.1, 0.9, 1), "0.1, then x 0.9 every epoch"),
        (Constant(0.0004), "0.0004 throughout"),
        (as_schedule(lambda epoch, lr: lr, start_lr=0.1), "0.1, then your function every epoch"),
        (OWN, f"0.1, then {__name__}:keep_two_then_halve every epoch"),
    ],
)
def test_a_schedule_prints_as_a_phrase(schedule, text):
    assert str(schedule) == text


def test_a_step_function_is_asked_once_an_epoch_in_order_whatever_epoch_is_wanted_first():
    asked = []

    def add_epoch(epoch, lr):
        asked.append((epoch, lr))
        return lr + epoch

    schedule = OfEpochAndRate(add_epoch, 1)
    assert [schedule(epoch) for epoch in (3, 0, 1, 2.99, 3)] == [7.0, 1.0, 2.0, 4.0, 7.0]
    assert asked == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0)]


@pytest.mark.parametrize("result", [None, math.nan, math.inf, -0.1, "low", [0.1]])
def test_a_result_that_is_no_rate_is_an_error_that_names_the_epoch(result):
    schedule = OfEpochAndRate(lambda epoch, lr: result if epoch == 2 else lr, 0.5)
    assert schedule(1) == 0.5
    message = f"returned {result!r} for epoch 2 and rate 0.5; a learning rate is a finite number"
    with pytest.raises(ValueError, match=re.escape(message)):
        schedule(2)


def test_a_function_that_would_not_get_what_it_was_written_for_is_refused():
    def tutorial(epoch, start_lr=0.001, max_lr=0.01):
        return start_lr

    with pytest.raises(ValueError, match=r"second parameter .*tutorial.* not start_lr"):
        OfEpochAndRate(tutorial, 0.001)
    with pytest.raises(ValueError, match=r"pass OfEpoch\(f\)"):
        OfEpochAndRate(tutorial, 0.001)
    with pytest.raises(ValueError, match=r"cannot be called with \(epoch, lr\): too many"):
        OfEpochAndRate(lambda epoch: 0.1, 0.001)
    with pytest.raises(ValueError, match="functools.partial.* cannot be called"):
        OfEpochAndRate(functools.partial(tutorial, start_lr=0.1), 0.001)
    with pytest.raises(ValueError, match="0.1 cannot be called"):
        OfEpochAndRate(0.1, 0.001)


def falling(epoch):
    return 0.1 / (epoch + 1)


def notebook(epoch, start_lr=0.5, decay=0.5):
    return start_lr * decay**epoch


class Linear:
    def __call__(self, epoch):
        return 0.1 * epoch


class LearningRateSchedule:
    """By this name Keras's are known, and those of tf_keras."""


class Doubling(LearningRateSchedule):
    def __call__(self, step):
        return 0.1 * 2**step

    def get_config(self):
        return {"initial": 0.1, "name": None}


@pytest.mark.parametrize(
    ("given", "rates", "text"),
    [
        (Constant(0.2), [0.2, 0.2, 0.2], "0.2 throughout"),
        (0.3, [0.3, 0.3, 0.3], "0.3 throughout"),
        (falling, [0.1, 0.05, 0.1 / 3], "test_schedules:falling of the epoch"),
        (notebook, [0.5, 0.25, 0.125], "test_schedules:notebook of the epoch"),
        (functools.partial(notebook, decay=1), [0.5, 0.5, 0.5], "functools:partial of the epoch"),
        (Linear(), [0.0, 0.1, 0.2], "test_schedules:Linear of the epoch"),
        (keep_two_then_halve, [0.7, 0.7, 0.35], "test_schedules:keep_two_then_halve every epoch"),
        (Doubling(), [0.1, 0.4, 1.6], "Doubling(initial=0.1) of the step"),
    ],
)
def test_what_keras_users_have_becomes_a_schedule(given, rates, text):
    schedule = as_schedule(given, start_lr=0.7).at(2)
    assert [schedule(epoch) for epoch in range(3)] == pytest.approx(rates)
    assert text in str(schedule)


@pytest.mark.parametrize("given", ["cosine", True, None, [0.1, 0.2], {"lr": 0.1}, Doubling])
def test_what_is_no_schedule_is_refused(given):
    with pytest.raises(ValueError, match=r"schedule is .*lambda epoch.*goes into the plan"):
        as_schedule(given, start_lr=0.7)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda step: 0.1, r"a function of 'step', but it gets the epoch"),
        (lambda: 0.1, r"cannot be called with \(epoch, lr\)"),
        (lambda epoch, rate, model: 0.1, r"cannot be called with \(epoch, lr\)"),
    ],
)
def test_a_function_of_something_else_than_the_epoch_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        as_schedule(function, start_lr=0.7)


def test_a_function_that_fails_names_the_epoch():
    schedule = as_schedule(lambda epoch: [0.1, 0.2][epoch], start_lr=0.7)
    with pytest.raises(ValueError, match="your function failed for epoch 2: IndexError"):
        schedule(2)


def test_a_schedule_says_whether_its_rate_moves_within_an_epoch():
    assert [one.per_step for one in ALL] == [False, True, True, False, False, False]
