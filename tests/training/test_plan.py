import dataclasses
import json
import re

import pytest

from flowerkit.schedules import OneCycle
from flowerkit.text import did_you_mean
from flowerkit.training.plan import (
    COMPETITION,
    NOTEBOOK,
    PLANS,
    SMOKE,
    TrainingPlan,
    change_plan,
    load_plan,
)

RATES = ("start_lr", "max_lr", "min_lr", "rampup_epochs", "sustain_epochs", "exp_decay")


def test_the_notebooks_plan_has_the_notebooks_values():
    assert [getattr(NOTEBOOK, name) for name in RATES] == [0.001, 0.01, 0.0001, 30, 0, 0.8]
    assert (NOTEBOOK.backbone, NOTEBOOK.head, NOTEBOOK.dropout) == ("DenseNet121", "notebook", 0.2)
    assert NOTEBOOK.patience == 3
    assert NOTEBOOK.lr_reference_batch is None  # the rates are used as they stand
    assert NOTEBOOK.schedule_for(global_batch=128)(30) == pytest.approx(0.01)


def test_the_competitions_plan_peaks_at_4e4_for_a_global_batch_of_128_after_four_epochs():
    assert [getattr(COMPETITION, name) for name in RATES] == [1e-5, 4e-4, 1e-5, 4, 0, 0.8]
    planned = COMPETITION.schedule_for(global_batch=128)
    assert [planned(epoch) for epoch in (0, 2, 4, 5)] == pytest.approx(
        [1e-5, 2.05e-4, 4e-4, 3.22e-4]
    )


def test_rates_are_scaled_by_the_square_root_of_the_batch():
    assert COMPETITION.schedule_for(global_batch=512)(4) == pytest.approx(8e-4)
    assert COMPETITION.schedule_for(global_batch=32)(4) == pytest.approx(2e-4)
    assert NOTEBOOK.schedule_for(global_batch=512)(30) == pytest.approx(0.01)


def test_a_constant_schedule_stays_at_max_lr():
    plan = TrainingPlan(
        schedule="constant", max_lr=0.003, lr_reference_batch=None, plateau_patience=2
    )
    assert [plan.schedule_for(global_batch=8)(epoch) for epoch in (0, 50)] == [0.003, 0.003]


def test_a_staircase_keeps_each_stair_for_its_sustain_epochs():
    plan = TrainingPlan(
        schedule="staircase", max_lr=0.01, min_lr=0, exp_decay=0.5, sustain_epochs=3, start_lr=0
    )
    planned = plan.schedule_for(global_batch=128)
    assert [planned(epoch) for epoch in (0, 2, 3, 6)] == pytest.approx([0.01, 0.01, 0.005, 0.0025])
    for epochs in (0, 1.5):
        with pytest.raises(ValueError, match=r"--sustain-epochs 10\). Received: "):
            dataclasses.replace(plan, sustain_epochs=epochs)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_survives_json(name, tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(PLANS[name].to_dict()))
    assert load_plan(file) == PLANS[name] == load_plan(name)


def test_a_plan_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        COMPETITION.epochs = 3


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs must be 1 or more. Received: epochs=0"),
        ("epochs", -1, "epochs must be 0 or more. Received: epochs=-1"),
        ("weight_decay", 0.1, "adam with weight_decay=0.1 is adamw"),
        ("weight_decay", -0.1, "weight_decay must be in 0 <= weight_decay < 1"),
        ("ema", 1.0, "ema must be in 0 <= ema < 1"),
        ("optimizer", "adamw", "--weight-decay 0.01"),
        ("optimizer", "lamb", "optimizer must be one of adam, adamw, sgd. Received"),
        ("cache", "disk", "cache must be one of auto, ram, none. Received: cache='disk'"),
        ("freeze_epochs", -1, "freeze_epochs must be 0 or more. Received: freeze_epochs=-1"),
        ("binary", 1, "binary must be bool. Received: binary=1"),
        ("epochs", "3", "epochs must be int. Received: epochs='3'"),
        ("epochs", True, "epochs must be int. Received: epochs=True"),
        ("epochs", 2.0, "epochs must be int. Received: epochs=2.0"),
        ("flip", 1, "flip must be bool. Received: flip=1"),
        ("patience", 0, "patience must be 1 or more. Received: patience=0"),
        ("patience", 1.5, "patience must be int or null. Received: patience=1.5"),
        ("per_replica_batch", -8, "per_replica_batch must be 1 or more"),
        ("dropout", 1.0, "dropout must be in 0 <= dropout < 1. Received: dropout=1.0"),
        ("dropout", float("nan"), "dropout must be in 0 <= dropout < 1"),
        ("head", "poled", "Received: head='poled'. Did you mean 'pooled'?"),
        ("schedule", "cosin", "Received: schedule='cosin'. Did you mean 'cosine'?"),
        ("on_corrupt", "skipp", "Received: on_corrupt='skipp'. Did you mean 'skip'?"),
        ("max_minutes", 0.0, "max_minutes must be above 0. Received: 0.0"),
        ("max_minutes", float("nan"), "max_minutes must be above 0. Received: nan"),
        ("seed", -1, "seed must be in 0 <= seed < 2**32. Received: seed=-1"),
        ("seed", 2**32, "seed must be in 0 <= seed < 2**32. Received: seed=4294967296"),
        (
            "monitor",
            "val_f2",
            "monitor 'val_f2' is not logged by this run; it logs loss, accuracy, val_loss, "
            "val_accuracy, val_f1. Did you mean 'val_f1'?",
        ),
    ],
)
def test_a_value_that_cannot_be_right_is_refused(field, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainingPlan(**{field: value})


def test_an_int_serves_as_a_float():
    assert TrainingPlan(max_minutes=20, dropout=0).max_minutes == 20


def test_rates_out_of_order_are_refused_with_the_plan():
    with pytest.raises(ValueError, match="max_lr"):
        TrainingPlan(start_lr=0.1)


def test_two_controllers_of_the_rate_are_refused():
    with pytest.raises(
        ValueError, match=r"two controllers .* schedule='ramp' .*plateau_patience=2"
    ):
        TrainingPlan(plateau_patience=2)


def test_the_head_alone_follows_the_schedule_up_to_its_own_rate():
    plan = TrainingPlan(
        epochs=0, freeze_epochs=8, freeze_lr=1e-2, schedule="one-cycle", lr_reference_batch=None
    )
    assert plan.schedule_for(global_batch=8) == OneCycle(1e-2, 8)
    assert plan.freeze_schedule_for(global_batch=8) == OneCycle(1e-2, 8)
    with pytest.raises(ValueError, match=r"start_lr is 0.1, above max_lr 0.01"):
        dataclasses.replace(plan, schedule="ramp", start_lr=0.1)


def test_suggest_names_the_nearest_or_nothing():
    assert did_you_mean("epocs", ["epochs", "seed"]) == " Did you mean 'epochs'?"
    assert did_you_mean("epocs", ["dropout", "seed"]) == ""


def test_fields_that_a_file_leaves_out_keep_their_defaults(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"epochs": 7, "weights": null}')
    assert load_plan(file) == TrainingPlan(epochs=7, weights=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{epochs: 7}", "mine.json is not JSON: "),
        ("[7]", "mine.json must hold a JSON object of plan fields, not [7]"),
        ('{"epoch": 7}', "mine.json has an unknown field 'epoch'. Did you mean 'epochs'?"),
        ('{"epochs": "seven"}', "mine.json: epochs must be int. Received: epochs='seven'"),
    ],
)
def test_a_plan_file_that_cannot_be_right_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_plan(file)


def test_a_plan_that_is_not_there_is_an_error_with_the_nearest_name():
    message = (
        "no plan 'competiton': neither one of notebook, competition, smoke nor a file. "
        "Did you mean 'competition'?"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        load_plan("competiton")


def test_changing_a_plan_says_where_the_fault_stood():
    assert change_plan(SMOKE, {"epochs": 3}).epochs == 3
    assert SMOKE.epochs == 12
    with pytest.raises(ValueError, match="the options: epochs must be 1 or more"):
        change_plan(SMOKE, {"epochs": 0}, where="the options")
    with pytest.raises(ValueError, match="the plan has an unknown field 'lr'"):
        change_plan(SMOKE, {"lr": 0.1})
