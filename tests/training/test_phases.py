"""phases: which layers learn when, how fast and for how long, and what the time allows. Pure Python."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from flowerkit.accelerator import hosts
from flowerkit.schedules import Constant, OfEpochAndRate, OneCycle, RampSustainDecay
from flowerkit.training.history import History
from flowerkit.training.phases import (
    Clock,
    Phase,
    find_phase,
    fit_steps,
    plan_phases,
    warn_about_schedule,
)
from flowerkit.training.plan import RAMP, TrainingPlan

# Rates as they are, whatever the batch.
AS_GIVEN = replace(RAMP, lr_reference_batch=None)


def test_a_plan_without_frozen_epochs_is_one_phase_that_follows_its_schedule():
    (phase,) = plan_phases(replace(AS_GIVEN, epochs=7), global_batch=128)
    assert (phase.number, phase.is_frozen, phase.epochs) == (1, False, 7)
    assert isinstance(phase.schedule, RampSustainDecay)
    assert phase.first_lr == phase.schedule(0) == 1e-5
    assert phase.first_patient_epoch == 4


def test_frozen_epochs_come_first_at_a_rate_of_their_own():
    plan = replace(AS_GIVEN, epochs=5, freeze_epochs=2, freeze_lr=1e-3)
    frozen, main = plan_phases(plan, global_batch=128)
    assert (frozen.number, frozen.is_frozen, frozen.epochs) == (1, True, 2)
    assert frozen.schedule == Constant(1e-3)
    assert frozen.first_patient_epoch == 0
    assert (main.number, main.is_frozen, main.epochs) == (2, False, 5)
    assert str(frozen) == "phase 1, the head alone, on features: 0.001 throughout"


def test_the_default_is_a_cycle_of_the_head_and_then_one_of_the_network():
    head, network = plan_phases(TrainingPlan(), global_batch=32)
    assert (head.is_frozen, network.is_frozen) == (True, False)
    assert (head.epochs, network.epochs) == (20, 12)
    assert head.schedule == OneCycle(3e-3, 20)
    assert network.schedule == OneCycle(7e-4, 12, 0.3, 5.0)
    assert (head.first_patient_epoch, network.first_patient_epoch) == (None, None)


def test_small_images_come_between_with_a_cycle_of_their_own():
    plan = TrainingPlan(freeze_epochs=4, small_epochs=6, epochs=2.5)
    head, small, large = plan_phases(plan, global_batch=32, steps_an_epoch=10)
    assert [each.number for each in (head, small, large)] == [1, 2, 3]
    assert [each.is_frozen for each in (head, small, large)] == [True, False, False]
    assert [each.is_small for each in (head, small, large)] == [True, True, False]
    assert (small.epochs, small.schedule) == (6, OneCycle(7e-4, 6, 0.3, 5.0))
    assert (large.epochs, large.schedule) == (3, OneCycle(0.3 * 7e-4, 2.5, 0.3, 5.0))
    assert str(small).startswith("phase 2, the network, on smaller images: one cycle: ")
    small, large = plan_phases(replace(plan, freeze_epochs=0), global_batch=32)
    assert (small.number, small.is_small, large.number, large.is_small) == (1, True, 2, False)


def test_scaled_rates_and_a_ramp_that_takes_all_epochs_are_explained():
    def explain(global_batch=128, **changes):
        plan = replace(RAMP, epochs=5, rampup_epochs=4, **changes)
        phases = plan_phases(plan, global_batch=global_batch)
        return warn_about_schedule(plan, phases[-1], global_batch=global_batch)

    assert explain() == explain(lr_reference_batch=None, global_batch=8) == []
    (line,) = explain(global_batch=8)
    assert "from batches of 128" in line
    assert "to 8" in line
    plan = replace(RAMP, epochs=4, rampup_epochs=4)
    (line,) = warn_about_schedule(plan, plan_phases(plan, global_batch=128)[0], global_batch=128)
    assert "ramp of 4 epochs" in line
    assert "--rampup-epochs" in line


def test_a_patience_that_a_cycle_does_not_use_is_told():
    def explain(**changes):
        plan = replace(AS_GIVEN, lr_reference_batch=None, epochs=6, **changes)
        return warn_about_schedule(plan, plan_phases(plan, global_batch=32)[-1], global_batch=32)

    assert explain(schedule="one-cycle") == explain(schedule="one-cycle", patience=None) == []
    assert explain(schedule="constant", patience=2) == []
    (line,) = explain(schedule="one-cycle", patience=2)
    assert line.startswith("patience=2 (--patience) is not used")
    assert "--schedule constant" in line


def test_one_cycle_has_fastais_shape_in_each_phase_and_no_patience():
    plan = replace(
        AS_GIVEN, epochs=6, freeze_epochs=1, schedule="one-cycle", freeze_lr=2e-3, max_lr=1e-3
    )
    frozen, main = plan_phases(plan, global_batch=64)
    assert frozen.schedule == OneCycle(2e-3, 1)
    assert main.schedule == OneCycle(1e-3, 6, 0.3, 5.0)
    assert (frozen.first_patient_epoch, main.first_patient_epoch) == (None, None)
    alone = replace(AS_GIVEN, epochs=6, schedule="one-cycle", max_lr=1e-3)
    assert plan_phases(alone, global_batch=64)[0].schedule == OneCycle(1e-3, 6)


def test_without_other_epochs_the_frozen_ones_are_the_whole_run():
    plan = replace(AS_GIVEN, epochs=0, freeze_epochs=6, freeze_lr=1e-3)
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
    plan = replace(RAMP, schedule="constant", freeze_epochs=1, epochs=4)
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
    plan = replace(RAMP, epochs=3)
    assert find_phase(plan, "frozen", global_batch=8).is_frozen
    assert find_phase(plan, None, global_batch=8).is_frozen is False
    probe = TrainingPlan(epochs=0, freeze_epochs=5)
    assert find_phase(probe, None, global_batch=8).is_frozen
    assert find_phase(probe, "whole", global_batch=8).epochs == 5
    resizing = TrainingPlan(freeze_epochs=1, small_epochs=2, epochs=3)
    assert find_phase(resizing, "whole", global_batch=8).is_small  # of which max_lr is the rate
    with pytest.raises(ValueError, match="Received: phase='frozn'. Did you mean 'frozen'"):
        find_phase(plan, "frozn", global_batch=8)


def test_a_plateau_has_no_schedule_but_a_first_rate():
    plan = replace(AS_GIVEN, schedule="constant", plateau_patience=2, max_lr=1e-3, freeze_epochs=1)
    frozen, main = plan_phases(plan, global_batch=64)
    assert main.schedule is None
    assert main.first_lr == main.rate(3, 2) == 1e-3
    assert str(main) == "phase 2, the network: 0.001 until a plateau"
    assert frozen.schedule == Constant(1e-3)


def test_rates_of_every_phase_are_scaled_for_the_batch_and_sgds_by_the_ratio_itself():
    plan = replace(RAMP, freeze_epochs=1, freeze_lr=1e-3, lr_reference_batch=128)
    assert plan_phases(plan, global_batch=512)[0].first_lr == pytest.approx(2e-3)
    sgd = replace(plan, optimizer="sgd")
    assert plan_phases(sgd, global_batch=512)[0].first_lr == pytest.approx(4e-3)


# Epochs, steps and rates ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "epochs", "steps"),
    [(3, 3, 40), (2.5, 3, 33), (0.5, 1, 20), (2.1, 3, 28), (0.001, 1, 1)],
)
def test_a_part_of_an_epoch_is_trained_in_equal_epochs(length, epochs, steps):
    plan = replace(AS_GIVEN, epochs=length, schedule="one-cycle", max_lr=1e-2)
    (phase,) = plan_phases(plan, global_batch=8, steps_an_epoch=40)
    assert (phase.epochs, phase.steps) == (epochs, steps)
    assert (phase.start, phase.end, phase.most_epochs) == (0, length, length)


class Falling:
    """1.0 at epoch 0, and a tenth less each epoch."""

    per_step = True

    def __call__(self, epoch):
        return 1.0 - 0.1 * epoch


def phase_of(*, epochs=4, steps=10, end=4.0, schedule=None, **options):
    return Phase(
        1, False, epochs, steps, 1.0, schedule or Falling(), end=end, most_epochs=12, **options
    )


def test_an_epoch_of_training_is_an_epoch_of_the_schedule():
    phase = phase_of()
    assert [phase.position(*place) for place in ((0, 0), (0, 5), (1, 0), (4, 0))] == [0, 0.5, 1, 4]
    assert phase.rate(0) == 1.0
    assert phase.rate(2, 5) == pytest.approx(0.75)


def test_epochs_count_through_all_phases():
    phase = phase_of(first_epoch=20)
    assert phase.position(20) == 0
    assert phase.rate(22, 5) == pytest.approx(0.75)


def test_a_schedule_by_the_epoch_keeps_its_rate_within_one():
    plan = replace(AS_GIVEN, epochs=5, rampup_epochs=2, start_lr=0.1, max_lr=0.3)
    (phase,) = plan_phases(plan, global_batch=8, steps_an_epoch=10)
    assert [phase.rate(0, done) for done in (0, 9)] == [0.1, 0.1]
    assert [phase.rate(epoch, 7) for epoch in (1, 2)] == pytest.approx([0.2, 0.3])


def test_a_phase_is_fitted_into_fewer_steps_with_its_whole_schedule():
    one = phase_of().fitted(15, 10, from_epoch=0)
    assert (one.epochs, one.steps) == (1, 15)  # one validation, and some images twice
    fitted = phase_of().fitted(17, 10, from_epoch=0)
    assert (fitted.epochs, fitted.steps) == (2, 8)
    assert (fitted.start, fitted.end, fitted.most_epochs) == (0, 4, 12)
    assert [fitted.position(*place) for place in ((0, 0), (1, 0), (2, 0))] == [0, 2, 4]
    assert fitted.rate(1, 0) == pytest.approx(0.8)
    assert fitted.position(0, 8) == fitted.position(1)


def test_what_is_left_of_a_phase_goes_on_where_its_schedule_has_come_to():
    phase = phase_of(first_epoch=3)
    longer = phase.fitted(60, 10, from_epoch=5)  # 2 of 4 epochs are done; 6 are put in their place
    assert (longer.first_epoch, longer.epochs, longer.steps) == (5, 6, 10)
    assert (longer.start, longer.end) == (2, 4)
    assert [longer.position(epoch) for epoch in (5, 8, 11)] == [2, 3, 4]
    assert longer.rate(5) == phase.rate(5)
    shorter = longer.fitted(4, 10, from_epoch=8)
    assert (shorter.first_epoch, shorter.epochs, shorter.steps) == (8, 1, 4)
    assert (shorter.start, shorter.end) == (3, 4)
    assert shorter.position(8, 2) == 3.5


def test_a_phase_has_at_least_a_step():
    fitted = phase_of().fitted(0, 10, from_epoch=1)
    assert (fitted.epochs, fitted.steps) == (1, 1)


def test_patience_waits_for_as_much_of_the_schedule_as_before():
    assert phase_of(first_patient_epoch=2).fitted(20, 10, from_epoch=0).first_patient_epoch == 1
    assert (
        phase_of(first_patient_epoch=None).fitted(20, 10, from_epoch=0).first_patient_epoch is None
    )
    assert phase_of().fitted(20, 10, from_epoch=0).first_patient_epoch == 0


def test_patience_that_has_begun_stays_and_only_what_is_ahead_is_moved():
    ramp = replace(phase_of(first_patient_epoch=2), epochs=20, end=20)
    assert ramp.fitted(450, 10, from_epoch=5, num_done=5).first_patient_epoch == 2
    assert ramp.fitted(380, 10, from_epoch=1, num_done=1).first_patient_epoch == 3  # 1 of 19, of 38


def refitted(phase, seconds, *, from_epoch=1, step_seconds=1.0):
    """After an epoch of 10 steps, with a validation of 5 s."""
    rows = [{"epoch": k + 1, "phase": 1, "steps": 10.0} for k in range(from_epoch)]
    return phase.refitted(
        seconds,
        History("val_f1", rows),
        step_seconds=step_seconds,
        epoch_seconds=5.0,
        steps_an_epoch=10,
    )


def test_a_phase_that_fills_the_time_well_stays_as_it_is():
    phase = phase_of()  # 3 epochs of 15 s are left
    assert refitted(phase, 45) is phase
    assert refitted(phase, 49.9) is phase
    full = replace(phase, most_epochs=4)
    assert refitted(full, 1e6) is full  # all its epochs


def test_a_phase_that_does_not_is_fitted_anew():
    rest = refitted(phase_of(), 44.9)
    assert (rest.first_epoch, rest.epochs, rest.steps, rest.start) == (1, 3, 9, 1)
    rest = refitted(phase_of(), 60)
    assert (rest.first_epoch, rest.epochs, rest.steps, rest.start) == (1, 4, 10, 1)
    rest = refitted(phase_of(), 1e6)
    assert rest.epochs == 11  # 12 at most, and one is done
    rest = refitted(phase_of(), 14, from_epoch=3)
    assert (rest.first_epoch, rest.epochs, rest.steps, rest.start) == (3, 1, 9, 3)


@pytest.mark.parametrize("seconds", [5.9, 0.0, -3600.0])
def test_a_phase_for_which_there_is_no_time_ends(seconds):
    assert refitted(phase_of(), seconds) is None


# The time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "most", "steps"),
    [
        (100, 1000, 85),  # three epochs of at most 40 steps, each with 5 s of validation
        (100, 50, 50),
        (45, 1000, 40),
        (55, 1000, 50),  # as one epoch, that shows ten images again
        (65, 1000, 60),
        (70, 1000, 60),  # two epochs' validations leave as many
        (75, 1000, 65),
        (6, 1000, 1),
        (5, 1000, 0),
        (0, 1000, 0),
        (-50, 1000, 0),
    ],
)
def test_steps_fit_into_the_time_with_a_validation_for_each_epoch(seconds, most, steps):
    found = fit_steps(seconds, step_seconds=1, epoch_seconds=5, steps_an_epoch=40, most=most)
    assert found == steps


def test_the_clock_keeps_time_for_the_csv_and_the_report(monkeypatch):
    now = SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(hosts, "time", now)
    clock = Clock(at=1100.0, num_val=50, num_test=100)
    assert clock.is_limited
    assert clock.left() == 95  # 5 s for saving and the report
    clock.build_seconds, clock.compile_seconds = 2.0, 3.0
    assert clock.left() == 85  # the model is built and compiled again
    clock.image_seconds = 0.1
    assert clock.left() == pytest.approx(72)  # 100 test images, and 3 s more
    now.monotonic = lambda: 5000.0
    assert clock.left() == pytest.approx(-3928)


def test_a_validation_takes_as_long_as_the_last_and_the_first_as_its_images_and_compiling():
    clock = Clock(num_val=50, image_seconds=0.1, compile_seconds=3.0)
    assert clock.validation_seconds == 11
    clock.val_seconds = 4.0
    assert clock.validation_seconds == 4


def test_without_a_limit_there_is_no_end():
    assert not Clock().is_limited
    assert Clock().left() == math.inf
