import math
import re
from dataclasses import asdict, replace

import pytest

from flowerkit.cycles import CosineWarmup, OneCycle, momenta_per_step, rates_per_step
from flowerkit.schedules import RampSustainDecay, Staircase

COSINE = CosineWarmup(start_lr=0.1, max_lr=0.5, min_lr=0.1, rampup_epochs=2, epochs=6)
CYCLE = OneCycle(max_lr=1.0, epochs=8, pct_start=0.25, div=5, div_final=100)


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


def test_a_cosine_prints_scales_and_goes_into_a_file():
    assert str(COSINE) == "0.1 to 0.5 over 2 epochs, then a half-cosine to 0.1 at 6 epochs"
    assert str(replace(COSINE, rampup_epochs=0)) == "0.5, then a half-cosine to 0.1 at 6 epochs"
    assert COSINE.scaled(2) == CosineWarmup(0.2, 1.0, 0.2, 2, 6)
    assert CosineWarmup(**asdict(COSINE)) == COSINE


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0, "rampup_epochs": 0}, "epochs is 0; a cosine needs at least one epoch"),
        ({"rampup_epochs": 6}, "rampup_epochs is 6 of 6 epochs: nothing is left for the cosine."),
        ({"min_lr": 0.6}, "min_lr is 0.6, above max_lr 0.5."),
        ({"start_lr": 0.6}, "start_lr is 0.6, above max_lr 0.5."),
        ({"max_lr": 0, "start_lr": 0, "min_lr": 0}, "max_lr is 0, so nothing would be learned."),
        ({"epochs": None}, "epochs is None (NoneType); it must be a finite number."),
    ],
)
def test_values_that_make_no_cosine_are_refused(changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(COSINE, **changed)


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
        momentum = fastai_cycle(pos, 0.25, 0.95, 0.85, 0.95)
        assert cycle.momentum(pos * epochs) == pytest.approx(momentum, rel=1e-9)


def test_one_cycle_has_its_literal_values():
    rates = [CYCLE(epoch) for epoch in (0, 1, 2, 5, 8, 9)]
    assert rates == pytest.approx([0.2, 0.6, 1.0, 0.505, 0.01, 0.01], abs=1e-12)
    momenta = [CYCLE.momentum(epoch) for epoch in (0, 1, 2, 5, 8, 9)]
    assert momenta == pytest.approx([0.95, 0.9, 0.85, 0.9, 0.95, 0.95], abs=1e-12)


def test_one_cycle_prints_scales_and_goes_into_a_file():
    assert str(CYCLE) == "one cycle: 0.2 to 1 over 2 epochs, then down to 0.01 at 8 epochs"
    assert CYCLE.scaled(0.5) == replace(CYCLE, max_lr=0.5)
    assert OneCycle(**asdict(CYCLE)) == CYCLE


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs is 0; one cycle needs at least one epoch to run through."),
        ({"max_lr": 0}, "max_lr is 0, so nothing would be learned."),
        ({"pct_start": 0}, "pct_start is 0; it is the fraction of the epochs"),
        ({"pct_start": 25}, "pct_start is 25; it is the fraction of the epochs"),
        ({"div": 0}, "div is 0; max_lr is divided by it"),
        ({"div_final": 0.5}, "div_final is 0.5; max_lr is divided by it"),
        ({"max_momentum": 1}, "max_momentum 1 to min_momentum 0.85 and back"),
        ({"min_momentum": 0.96}, "max_momentum 0.95 to min_momentum 0.96 and back"),
    ],
)
def test_values_that_make_no_cycle_are_refused(changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(CYCLE, **changed)


@pytest.mark.parametrize("epoch", [-1, float("nan"), float("inf")])
def test_an_epoch_before_the_first_is_refused(epoch):
    for ask in (COSINE, CYCLE, CYCLE.momentum):
        with pytest.raises(ValueError, match="the first epoch is 0"):
            ask(epoch)


def test_a_second_argument_is_refused_so_that_keras_cannot_put_the_current_rate_in():
    for ask in (COSINE, CYCLE, CYCLE.momentum):
        with pytest.raises(TypeError):
            ask(0, 0.001)


def test_a_schedule_that_moves_within_the_epoch_gives_each_step_its_own_rate():
    assert COSINE.per_step
    assert CYCLE.per_step
    rates = rates_per_step(COSINE, epochs=1, steps_per_epoch=4)
    assert rates == pytest.approx([0.1, 0.15, 0.2, 0.25])
    assert len(rates_per_step(CYCLE, epochs=8, steps_per_epoch=5)) == 40
    assert rates_per_step(CYCLE, epochs=8, steps_per_epoch=5)[10] == 1.0
    assert momenta_per_step(CYCLE, epochs=8, steps_per_epoch=5)[10] == 0.85


def test_a_schedule_of_whole_epochs_keeps_its_rate_through_the_epoch():
    ramp = RampSustainDecay(0.1, 0.5, 0.1, 4, 2, 0.5)
    assert rates_per_step(ramp, epochs=2, steps_per_epoch=3) == [0.1, 0.1, 0.1, 0.2, 0.2, 0.2]
    stairs = Staircase(0.8, 0.5, every_epochs=1)
    assert rates_per_step(stairs, epochs=2, steps_per_epoch=2) == [0.8, 0.8, 0.4, 0.4]


@pytest.mark.parametrize(
    ("epochs", "steps", "message"),
    [(0, 5, "epochs is 0; without a step"), (5, 0, "steps_per_epoch is 0; without a step")],
)
def test_no_steps_have_no_rates(epochs, steps, message):
    for plan_steps in (rates_per_step, momenta_per_step):
        with pytest.raises(ValueError, match=message):
            plan_steps(CYCLE, epochs=epochs, steps_per_epoch=steps)
