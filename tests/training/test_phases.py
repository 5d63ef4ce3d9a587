"""phases: which layers learn when, how fast, and where patience starts. Pure Python."""

from dataclasses import replace

import pytest

from flowerkit.schedules import Constant, OfEpochAndRate, OneCycle, RampSustainDecay
from flowerkit.training.phases import find_phase, plan_phases, warn_about_rates
from flowerkit.training.plan import TrainingPlan


def test_a_plan_without_frozen_epochs_is_one_phase_that_follows_its_schedule():
    (phase,) = plan_phases(TrainingPlan(epochs=7, lr_reference_batch=None), global_batch=128)
    assert (phase.number, phase.is_frozen, phase.epochs) == (1, False, 7)
    assert isinstance(phase.schedule, RampSustainDecay)
    assert phase.first_lr == phase.schedule(0) == 1e-5
    assert phase.first_patient_epoch == 4


def test_frozen_epochs_come_first_at_a_rate_of_their_own():
    plan = TrainingPlan(epochs=5, freeze_epochs=2, freeze_lr=1e-3, lr_reference_batch=None)
    frozen, main = plan_phases(plan, global_batch=128)
    assert (frozen.number, frozen.is_frozen, frozen.epochs) == (1, True, 2)
    assert frozen.schedule == Constant(1e-3)
    assert frozen.first_patient_epoch == 0
    assert (main.number, main.is_frozen, main.epochs) == (2, False, 5)
    assert str(frozen) == "phase 1, the head alone, on features: 0.001 throughout"


def test_scaled_rates_and_a_ramp_that_takes_all_epochs_are_explained():
    def explain(global_batch=128, **changes):
        plan = TrainingPlan(epochs=5, rampup_epochs=4, **changes)
        phases = plan_phases(plan, global_batch=global_batch)
        return warn_about_rates(plan, phases[-1], global_batch=global_batch)

    assert explain() == explain(lr_reference_batch=None, global_batch=8) == []
    (line,) = explain(global_batch=8)
    assert "from batches of 128" in line
    assert "to 8" in line
    plan = TrainingPlan(epochs=4, rampup_epochs=4)
    (line,) = warn_about_rates(plan, plan_phases(plan, global_batch=128)[0], global_batch=128)
    assert "ramp of 4 epochs" in line
    assert "--rampup-epochs" in line


def test_one_cycle_has_fastais_shape_in_each_phase_and_no_patience():
    plan = TrainingPlan(
        epochs=6,
        freeze_epochs=1,
        schedule="one-cycle",
        freeze_lr=2e-3,
        max_lr=1e-3,
        lr_reference_batch=None,
    )
    frozen, main = plan_phases(plan, global_batch=64)
    assert frozen.schedule == OneCycle(2e-3, 1, 0.99)
    assert main.schedule == OneCycle(1e-3, 6, 0.3, 5.0)
    assert (frozen.first_patient_epoch, main.first_patient_epoch) == (1, 6)
    alone = TrainingPlan(epochs=6, schedule="one-cycle", max_lr=1e-3, lr_reference_batch=None)
    assert plan_phases(alone, global_batch=64)[0].schedule == OneCycle(1e-3, 6)


def test_without_other_epochs_the_frozen_ones_are_the_whole_run():
    plan = TrainingPlan(epochs=0, freeze_epochs=6, freeze_lr=1e-3, lr_reference_batch=None)
    (phase,) = plan_phases(plan, global_batch=64)
    assert (phase.number, phase.is_frozen, phase.epochs) == (1, True, 6)
    assert phase.schedule(4) == 1e-3
    assert phase.first_patient_epoch == 4
    assert str(phase).startswith("phase 1, the head alone, on features: 1e-05 to 0.001 over 4")
    plateau = replace(plan, schedule="constant", plateau_patience=1)
    (phase,) = plan_phases(plateau, global_batch=64)
    assert (phase.schedule, phase.first_lr) == (None, 1e-3)
    assert str(phase) == "phase 1, the head alone, on features: 0.001 until a plateau"


def test_a_schedule_of_your_own_serves_the_last_phase():
    plan = TrainingPlan(schedule="constant", freeze_epochs=1, epochs=4)
    own = OfEpochAndRate(lambda epoch, lr: lr / 2, 1e-2)
    frozen, main = plan_phases(plan, global_batch=64, schedule=own)
    assert main.schedule is own
    assert main.first_lr == 5e-3
    assert isinstance(frozen.schedule, Constant)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schedule": "one-cycle"}, "the plan's schedule='one-cycle', and your"),
        (
            {"schedule": "constant", "plateau_patience": 2},
            "the plan's plateau_patience=2, and your",
        ),
    ],
)
def test_two_controllers_are_refused(changes, named):
    own = OfEpochAndRate(lambda epoch, lr: lr / 2, 1e-2)
    with pytest.raises(ValueError, match=f"two controllers of the learning rate: {named}"):
        plan_phases(TrainingPlan(**changes), global_batch=64, schedule=own)


def test_a_phase_is_found_by_name_whether_the_plan_has_it_or_not():
    plan = TrainingPlan(epochs=3)
    assert find_phase(plan, "frozen", global_batch=8).is_frozen
    assert find_phase(plan, None, global_batch=8).is_frozen is False
    probe = TrainingPlan(epochs=0, freeze_epochs=5)
    assert find_phase(probe, None, global_batch=8).is_frozen
    assert find_phase(probe, "whole", global_batch=8).epochs == 5
    with pytest.raises(ValueError, match="Received: phase='frozn'. Did you mean 'frozen'"):
        find_phase(plan, "frozn", global_batch=8)


def test_a_plateau_has_no_schedule_but_a_first_rate():
    plan = TrainingPlan(
        schedule="constant",
        plateau_patience=2,
        max_lr=1e-3,
        freeze_epochs=1,
        lr_reference_batch=None,
    )
    frozen, main = plan_phases(plan, global_batch=64)
    assert main.schedule is None
    assert main.first_lr == 1e-3
    assert str(main) == "phase 2, the network: 0.001 until a plateau"
    assert frozen.schedule == Constant(1e-3)


def test_rates_of_every_phase_are_scaled_for_the_batch_and_sgds_by_the_ratio_itself():
    plan = TrainingPlan(freeze_epochs=1, freeze_lr=1e-3, lr_reference_batch=128)
    assert plan_phases(plan, global_batch=512)[0].first_lr == pytest.approx(2e-3)
    sgd = TrainingPlan(freeze_epochs=1, freeze_lr=1e-3, lr_reference_batch=128, optimizer="sgd")
    assert plan_phases(sgd, global_batch=512)[0].first_lr == pytest.approx(4e-3)
