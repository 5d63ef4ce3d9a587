from dataclasses import replace

import pytest

from flowerkit.experiments.studies import (
    LEARNING_RATES,
    POOLING,
    REGULARISATION,
    STUDIES,
    find_study,
    spread_over_seeds,
)
from flowerkit.pipeline import Augmentation


def find_differing(plans):
    """The fields in which plans differ."""
    values = [plan.to_dict() for plan in plans]
    return {name for name in values[0] if any(one[name] != values[0][name] for one in values)}


def test_the_studies_hold_the_notes_networks():
    assert list(REGULARISATION) == [
        "dense-small",
        "dense-large",
        "dense-large-dropout",
        "dense-large-bn",
        "dense-large-bn-dropout",
    ]
    assert list(POOLING) == ["gap", "flatten", "flatten-dropout"]


@pytest.mark.parametrize(
    ("name", "other", "field"),
    [
        ("dense-small", "dense-large", "backbone"),
        ("dense-large-dropout", "dense-large", "dropout"),
        ("dense-large-bn", "dense-large", "backbone"),
        ("dense-large-bn-dropout", "dense-large-bn", "dropout"),
        ("flatten-dropout", "flatten", "dropout"),
        ("flatten", "gap", "head"),
    ],
)
def test_neighbours_differ_in_the_one_thing_studied(name, other, field):
    plans = REGULARISATION | POOLING
    assert find_differing([plans[name], plans[other]]) == {field}


def test_every_schedule_is_studied_and_nothing_but_the_rate_differs():
    schedules = {plan.schedule for plan in LEARNING_RATES.values()}
    assert schedules == {"constant", "staircase", "ramp", "cosine", "one-cycle"}
    assert LEARNING_RATES["plateau"].plateau_patience == 1
    of_rates = {
        "schedule",
        "max_lr",
        "plateau_patience",
        "sustain_epochs",
        "exp_decay",
        "rampup_epochs",
    }
    assert find_differing(LEARNING_RATES.values()) == of_rates


def test_all_schedules_go_up_to_the_same_rate():
    for name, plan in LEARNING_RATES.items():
        rates = [plan.schedule_for(global_batch=32)(epoch / 4) for epoch in range(4 * plan.epochs)]
        highest = {"constant-low": 3e-4, "constant-high": 3e-2}.get(name, 3e-3)
        assert max(rates) == pytest.approx(highest, rel=0.02), name


def test_no_plan_stops_early_or_changes_images():
    for plans in STUDIES.values():
        for plan in plans.values():
            assert (plan.patience, plan.weights, plan.input_size) == (None, None, 32)
            assert plan.augmentation() == Augmentation(flip=False)
            assert plan.epochs <= 15


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(
        ValueError, match="no study 'regularization'; .* Did you mean 'regularisation'"
    ):
        find_study("regularization")


def test_seeds_make_runs_the_first_seed_first():
    plans = {"a": LEARNING_RATES["ramp"], "b": LEARNING_RATES["cosine"]}
    planned = spread_over_seeds(plans, (0, 7))
    assert list(planned) == ["a-seed0", "b-seed0", "a-seed7", "b-seed7"]
    assert planned["b-seed7"] == replace(plans["b"], seed=7)
    assert planned["a-seed0"] == plans["a"]


def test_fewer_epochs_shorten_ramps_and_stairs_too():
    plans = spread_over_seeds(LEARNING_RATES, (0,), epochs=6)
    assert (plans["cosine-seed0"].epochs, plans["cosine-seed0"].rampup_epochs) == (6, 1)
    assert plans["staircase-seed0"].sustain_epochs == 2  # 1.5 rounded
    assert plans["constant-seed0"].schedule_for(global_batch=32)(5) == 3e-3


@pytest.mark.parametrize("name", STUDIES)
def test_a_single_epoch_is_possible(name):
    assert {plan.epochs for plan in spread_over_seeds(STUDIES[name], (0,), 1).values()} == {1}


@pytest.mark.parametrize(
    ("plans", "seeds", "said"),
    [
        ({}, (0,), "at least one plan"),
        ({"a": LEARNING_RATES["ramp"]}, (), r"Received: seeds=\(\)"),
        ({"a": LEARNING_RATES["ramp"]}, (1, 1), r"all different. Received: seeds=\(1, 1\)"),
    ],
)
def test_nothing_to_do_is_refused(plans, seeds, said):
    with pytest.raises(ValueError, match=said):
        spread_over_seeds(plans, seeds)
