"""phases: which layers learn when, how fast, and where patience starts. Pure Python."""

import pytest

from flowerkit.cycles import OneCycle
from flowerkit.phases import find_phases
from flowerkit.plan import TrainingPlan
from flowerkit.schedules import Constant, RampSustainDecay


def test_a_plan_without_frozen_epochs_is_one_phase_that_follows_its_schedule():
    (phase,) = find_phases(TrainingPlan(epochs=7, rates_at_batch=None), global_batch=128)
    assert (phase.number, phase.is_frozen, phase.epochs) == (1, False, 7)
    assert isinstance(phase.schedule, RampSustainDecay)
    assert phase.first_lr == phase.schedule(0) == 1e-5
    assert phase.first_patient_epoch == 4


def test_frozen_epochs_come_first_at_a_rate_of_their_own():
    plan = TrainingPlan(epochs=5, frozen_epochs=2, frozen_lr=1e-3, rates_at_batch=None)
    frozen, main = find_phases(plan, global_batch=128)
    assert (frozen.number, frozen.is_frozen, frozen.epochs) == (1, True, 2)
    assert frozen.schedule == Constant(1e-3)
    assert frozen.first_patient_epoch == 0
    assert (main.number, main.is_frozen, main.epochs) == (2, False, 5)
    assert str(frozen) == "phase 1, the head alone: 0.001 throughout"


def test_one_cycle_has_fastais_shape_in_each_phase_and_no_patience():
    plan = TrainingPlan(
        epochs=6, frozen_epochs=1, schedule="one-cycle", frozen_lr=2e-3, max_lr=1e-3,
        rates_at_batch=None,
    )  # fmt: skip
    frozen, main = find_phases(plan, global_batch=64)
    assert frozen.schedule == OneCycle(2e-3, 1, 0.99)
    assert main.schedule == OneCycle(1e-3, 6, 0.3, 5.0)
    assert (frozen.first_patient_epoch, main.first_patient_epoch) == (1, 6)
    alone = TrainingPlan(epochs=6, schedule="one-cycle", max_lr=1e-3, rates_at_batch=None)
    assert find_phases(alone, global_batch=64)[0].schedule == OneCycle(1e-3, 6)


def test_a_plateau_has_no_schedule_but_a_first_rate():
    plan = TrainingPlan(
        schedule="constant", plateau_patience=2, max_lr=1e-3, frozen_epochs=1, rates_at_batch=None
    )
    frozen, main = find_phases(plan, global_batch=64)
    assert main.schedule is None
    assert main.first_lr == 1e-3
    assert str(main) == "phase 2, the network: 0.001 until a plateau"
    assert frozen.schedule == Constant(1e-3)


def test_rates_of_every_phase_are_scaled_for_the_batch_and_sgds_by_the_ratio_itself():
    plan = TrainingPlan(frozen_epochs=1, frozen_lr=1e-3, rates_at_batch=128)
    assert find_phases(plan, global_batch=512)[0].first_lr == pytest.approx(2e-3)
    sgd = TrainingPlan(frozen_epochs=1, frozen_lr=1e-3, rates_at_batch=128, optimizer="sgd")
    assert find_phases(sgd, global_batch=512)[0].first_lr == pytest.approx(4e-3)
