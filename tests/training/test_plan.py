import dataclasses
import functools
import json
import math
import re

import numpy as np
import pytest

from flowerkit.schedules import OneCycle
from flowerkit.text import did_you_mean
from flowerkit.training.plan import (
    FINE_TUNE,
    NOTEBOOK,
    PLANS,
    RAMP,
    SMOKE,
    TrainingPlan,
    change_plan,
    load_plan,
    longer,
    name_plan,
    settle,
)

RATES = ("start_lr", "max_lr", "min_lr", "rampup_epochs", "sustain_epochs", "exp_decay")


def test_the_notebooks_plan_has_the_notebooks_values():
    assert [getattr(NOTEBOOK, name) for name in RATES] == [0.001, 0.01, 0.0001, 30, 0, 0.8]
    assert (NOTEBOOK.backbone, NOTEBOOK.head, NOTEBOOK.dropout) == ("DenseNet121", "notebook", 0.2)
    assert NOTEBOOK.patience == 3
    assert NOTEBOOK.lr_reference_batch is None  # the rates are used as they stand
    assert NOTEBOOK.schedule_for(global_batch=128)(30) == pytest.approx(0.01)


def test_the_ramp_peaks_at_4e4_for_a_global_batch_of_128_after_four_epochs():
    assert [getattr(RAMP, name) for name in RATES] == [1e-5, 4e-4, 1e-5, 4, 0, 0.8]
    planned = RAMP.schedule_for(global_batch=128)
    assert [planned(epoch) for epoch in (0, 2, 4, 5)] == pytest.approx(
        [1e-5, 2.05e-4, 4e-4, 3.22e-4]
    )


def test_rates_are_scaled_by_the_square_root_of_the_batch():
    assert RAMP.schedule_for(global_batch=512)(4) == pytest.approx(8e-4)
    assert RAMP.schedule_for(global_batch=32)(4) == pytest.approx(2e-4)
    assert NOTEBOOK.schedule_for(global_batch=512)(30) == pytest.approx(0.01)


def test_a_constant_schedule_stays_at_max_lr():
    plan = TrainingPlan(
        schedule="constant", max_lr=0.003, lr_reference_batch=None, plateau_patience=2
    )
    assert [plan.schedule_for(global_batch=8)(epoch) for epoch in (0, 50)] == [0.003, 0.003]


def test_a_staircase_keeps_each_stair_for_its_sustain_epochs():
    plan = dataclasses.replace(
        RAMP, schedule="staircase", max_lr=0.01, min_lr=0, exp_decay=0.5, sustain_epochs=3
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
        RAMP.epochs = 3


def test_the_default_is_the_plan_fine_tune_and_runs_are_named_after_their_plan():
    assert TrainingPlan() == FINE_TUNE == load_plan("fine-tune")
    assert list(PLANS) == ["fine-tune", "ramp", "notebook", "smoke"]
    names = [name_plan(plan) for plan in (TrainingPlan(), RAMP, TrainingPlan(epochs=3))]
    assert names == ["fine-tune", "ramp", "run"]


def test_where_a_field_is_auto_there_is_a_number_to_count_with():
    assert (FINE_TUNE.epochs, FINE_TUNE.max_lr, FINE_TUNE.freeze_epochs) == ("auto",) * 3
    assert (FINE_TUNE.network_epochs, FINE_TUNE.head_epochs) == (12, 20)
    assert (FINE_TUNE.batch, FINE_TUNE.highest_lr) == (32, 7e-4)
    scratch = TrainingPlan(weights=None)
    assert (scratch.network_epochs, scratch.head_epochs) == (40, 0)
    given = TrainingPlan(epochs=2.5, freeze_epochs=3, per_replica_batch=8, max_lr=0.01)
    assert (given.network_epochs, given.head_epochs) == (2.5, 3)
    assert (given.batch, given.highest_lr) == (8, 0.01)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", -1, "epochs must be 0 or more. Received: epochs=-1"),
        ("weight_decay", 0.1, "adam with weight_decay=0.1 is adamw"),
        ("weight_decay", -0.1, "weight_decay must be in 0 <= weight_decay < 1"),
        ("ema", 1.0, "ema must be in 0 <= ema < 1"),
        ("optimizer", "adamw", "--weight-decay 0.01"),
        ("optimizer", "lamb", "optimizer must be one of adam, adamw, sgd. Received"),
        ("optimizer", object(), "of adam, adamw, sgd. Received: optimizer=<object"),
        ("optimizer", object(), "Its rate is max_lr, its decay weight_decay."),
        ("schedule", print, "goes into train(..., schedule=)"),
        (
            "class_weights",
            {0: 1.0, 1: 5.0},
            "None, balanced. Received: class_weights={0: 1.0, 1: 5.0}",
        ),
        ("class_weights", np.ones(3), "'balanced' gives each class the weight 1 / its number"),
        ("class_weights", "auto", "class_weights must be one of None, balanced. Received"),
        ("cache", None, "cache must be one of auto, ram, none. Received: cache=None"),
        ("cache", "disk", "cache must be one of auto, ram, none. Received: cache='disk'"),
        ("freeze_epochs", -1, "freeze_epochs must be 0 or more. Received: freeze_epochs=-1"),
        ("binary", 1, "binary must be bool. Received: binary=1"),
        ("epochs", "3", "epochs must be float or 'auto'. Received: epochs='3'"),
        ("epochs", True, "epochs must be float or 'auto'. Received: epochs=True"),
        ("epochs", float("nan"), "epochs must be a finite number. Received: epochs=nan"),
        ("epochs", "Auto", "epochs must be float or 'auto'. Received: epochs='Auto'"),
        ("freeze_epochs", 2.5, "freeze_epochs must be int or 'auto'. Received"),
        ("input_size", 2.5, "input_size must be int or 'auto' or None. Received"),
        ("backbone_lr_factor", 0.0, "backbone_lr_factor"),
        ("schedule", "cosine", "pass max_lr=4e-4 (--max-lr 4e-4), or schedule='one-cycle'"),
        ("flip", 1, "flip must be bool. Received: flip=1"),
        ("patience", 0, "patience must be 1 or more. Received: patience=0"),
        ("patience", 1.5, "patience must be int or None. Received: patience=1.5"),
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
            "val_accuracy, val_f1, epoch. Did you mean 'val_f1'?",
        ),
    ],
)
def test_a_value_that_cannot_be_right_is_refused(field, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainingPlan(**{field: value})


@pytest.mark.parametrize("without_head", [{"freeze_epochs": 0}, {"weights": None}])
def test_a_plan_in_which_nothing_is_trained_is_refused(without_head):
    with pytest.raises(ValueError, match="epochs must be 1 or more. Received: epochs=0"):
        TrainingPlan(epochs=0, **without_head)
    assert TrainingPlan(epochs=0).head_epochs == 20  # a linear probe


def test_numbers_of_numpy_are_numbers_and_can_be_written():
    plan = TrainingPlan(
        epochs=np.int64(3), max_lr=np.float32(0.5), flip=np.bool_(False), seed=np.array(7)
    )
    assert plan == TrainingPlan(epochs=3, max_lr=0.5, flip=False, seed=7)
    assert json.loads(json.dumps(plan.to_dict()))["epochs"] == 3
    with pytest.raises(ValueError, match=r"freeze_epochs must be int or 'auto'. Received"):
        TrainingPlan(freeze_epochs=np.float64(2.5))


def test_an_int_serves_as_a_float():
    assert TrainingPlan(max_minutes=20, dropout=0).max_minutes == 20


def test_rates_out_of_order_are_refused_with_the_plan():
    with pytest.raises(ValueError, match="max_lr"):
        dataclasses.replace(RAMP, start_lr=0.1)


@pytest.mark.parametrize("schedule", ["one-cycle", "ramp"])
def test_two_controllers_of_the_rate_are_refused(schedule):
    with pytest.raises(
        ValueError, match=rf"two controllers .* schedule='{schedule}' .*plateau_patience=2"
    ):
        dataclasses.replace(RAMP, schedule=schedule, plateau_patience=2)


def test_the_head_alone_follows_the_schedule_up_to_its_own_rate():
    plan = TrainingPlan(
        epochs=0, freeze_epochs=8, freeze_lr=1e-2, schedule="one-cycle", lr_reference_batch=None
    )
    assert plan.schedule_for(global_batch=8) == OneCycle(1e-2, 8)
    assert plan.freeze_schedule_for(global_batch=8) == OneCycle(1e-2, 8)
    with pytest.raises(ValueError, match=r"start_lr is 0.1, above max_lr 0.01"):
        dataclasses.replace(plan, schedule="ramp", max_lr=0.2, start_lr=0.1)


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
        (
            '{"epochs": "seven"}',
            "mine.json: epochs must be float or 'auto'. Received: epochs='seven'",
        ),
    ],
)
def test_a_plan_file_that_cannot_be_right_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "mine.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_plan(file)


def test_a_plan_that_is_not_there_is_an_error_with_the_nearest_name():
    message = (
        "no plan 'finetune': neither one of fine-tune, ramp, notebook, smoke nor a file. "
        "Did you mean 'fine-tune'?"
    )
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        load_plan("finetune")


def test_changing_a_plan_says_where_the_fault_stood():
    assert change_plan(SMOKE, {"epochs": 3}).epochs == 3
    assert SMOKE.epochs == 12
    with pytest.raises(ValueError, match="the options: epochs must be 1 or more"):
        change_plan(SMOKE, {"epochs": 0}, where="the options")
    with pytest.raises(ValueError, match="the plan has an unknown field 'lr'"):
        change_plan(SMOKE, {"lr": 0.1})


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"epochs": -1, "dropout": 2.0, "flip": False}, ["epochs must be", "dropout must be in"]),
        ({"optimizer": "adamw", "weight_decay": 1.0}, ["weight_decay must be in"]),
        ({"optimizer": "adamw", "weight_decay": None}, ["adamw without a weight_decay"]),
        ({"schedule": "constant", "small_epochs": 3.0}, ["small_epochs need a cycle of their own"]),
    ],
)
def test_all_faults_of_changes_are_named_but_none_that_another_change_mends(changes, faults):
    with pytest.raises(ValueError) as caught:
        change_plan(FINE_TUNE, changes)
    named = str(caught.value).removeprefix("the plan: ").split("; ")
    assert len(named) == len(faults)
    assert all(any(fault in each for each in named) for fault in faults)
    assert ".;" not in str(caught.value)


# What "auto" is --------------------------------------------------------------------------------------


def settle_on(plan=FINE_TUNE, *, num_train=12753, stored_px=224, kind="cpu", replicas=1, **options):
    return settle(
        plan, num_train=num_train, stored_px=stored_px, kind=kind, replicas=replicas, **options
    )


@pytest.mark.parametrize(
    ("kind", "replicas", "num_train", "batch"),
    [
        ("cpu", 1, 12753, 32),
        ("gpu", 1, 12753, 64),
        ("gpu", 2, 12753, 32),
        ("tpu", 8, 12753, 16),  # 128 images a step
        ("tpu", 1, 12753, 128),
        # A small set: halved until an epoch has 20 steps, down to 8 images a step.
        ("cpu", 1, 639, 16),
        ("cpu", 1, 640, 32),
        ("tpu", 8, 1040, 4),
        ("cpu", 1, 20, 8),  # two classes of 10 photos
        ("tpu", 8, 50000, 16),  # 5,000 classes of 10 photos
        ("tpu", 8, 20, 1),
        # Fewer images than a batch: all of them, at least one on each replica.
        ("cpu", 1, 5, 5),
        ("gpu", 4, 6, 1),
    ],
)
def test_the_batch_goes_with_the_device_and_the_number_of_images(kind, replicas, num_train, batch):
    plan, reasons = settle_on(kind=kind, replicas=replicas, num_train=num_train)
    assert plan.per_replica_batch == plan.batch == batch
    assert reasons["per_replica_batch"].startswith(f"{batch}: on {replicas} x {kind.upper()}, for ")
    assert f"{num_train:,} training images" in reasons["per_replica_batch"]


def test_a_pretrained_backbone_learns_after_its_head_with_frozen_norms():
    plan, reasons = settle_on()
    assert (plan.freeze_epochs, plan.freeze_norms, plan.backbone_lr_factor) == (20, True, 0.2)
    assert (plan.epochs, plan.max_lr) == ("auto", "auto")  # these are measured
    assert set(reasons) == {
        "per_replica_batch",
        "freeze_epochs",
        "freeze_flip",
        "freeze_norms",
        "backbone_lr_factor",
        "input_size",
        "small_epochs",
    }
    assert reasons["freeze_norms"] == "True: a pretrained backbone"
    assert settle_on(plan) == (plan, {})


def test_without_weights_all_learns_from_the_start_at_the_stored_size():
    plan, reasons = settle_on(TrainingPlan(weights=None), stored_px=64)
    assert (plan.freeze_epochs, plan.freeze_norms, plan.backbone_lr_factor) == (0, False, None)
    assert plan.input_size is None
    assert reasons["input_size"].startswith("None: as stored; a backbone without weights")


@pytest.mark.parametrize(
    ("stored_px", "kind", "is_timed", "size"),
    [
        (64, "cpu", False, 160),
        (64, "cpu", True, 224),  # the time will tell
        (64, "gpu", False, 224),
        (64, "tpu", False, 224),
        (160, "cpu", False, 224),
        (512, "cpu", False, 224),
    ],
)
def test_a_pretrained_backbone_sees_the_size_that_is_worth_its_time(
    stored_px, kind, is_timed, size
):
    plan, reasons = settle_on(stored_px=stored_px, kind=kind, is_timed=is_timed)
    assert plan.input_size == size
    assert reasons["input_size"].startswith(f"{size}: ")
    assert str(stored_px) in reasons["input_size"]


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({}, {}, None),
        ({}, {"is_timed": False}, "0: without a time limit"),
        ({}, {"stored_px": 160}, "0: images of 128 px would lose what those of 160 px show"),
        ({"input_size": 32}, {"stored_px": 32}, "0: images of 32 px are small"),
        ({"epochs": 3}, {}, "0: the epochs are given"),
        ({"weights": None, "input_size": 224}, {}, "0: the head does not learn first"),
        ({"schedule": "constant"}, {}, "0: the schedule is constant"),
        ({"head": "flatten"}, {}, "0: the network does not take images of 128 px, too"),
        (
            {"backbone": "Xception", "input_size": 128},
            {},
            "0: the network does not take images of 64 px, too",
        ),
        ({"small_epochs": 3, "epochs": 3}, {"stored_px": 512}, None),
    ],
)
def test_the_time_decides_about_small_images_where_they_lose_nothing(changes, options, reason):
    given = dataclasses.replace(FINE_TUNE, **changes)
    plan, reasons = settle_on(given, **{"stored_px": 64, "is_timed": True} | options)
    assert reasons.get("small_epochs") == reason
    assert plan.small_epochs == (given.small_epochs if reason is None else 0)


@pytest.mark.parametrize(
    ("size", "stored_px", "small"),
    [(224, 64, 128), (None, 224, 128), (160, 64, 96), (299, 64, 160), (64, 64, 32), (32, 32, 32)],
)
def test_small_images_have_four_sevenths_of_the_size_in_whole_blocks(size, stored_px, small):
    assert TrainingPlan(input_size=size).small_px(stored_px) == small


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "constant"}, "pass schedule='one-cycle' (--schedule one-cycle)"),
        ({"head": "flatten"}, "pass head='pooled'"),
        ({"epochs": 0, "freeze_epochs": 2}, "pass epochs=2 (--epochs 2)"),
        ({"small_epochs": -1}, "small_epochs must be 0 or more"),
        ({"small_epochs": math.nan}, "small_epochs must be a finite number"),
    ],
)
def test_small_images_that_cannot_come_first_are_refused_with_what_would_do(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainingPlan(**{"small_epochs": 2, "epochs": 3} | changes)


@pytest.mark.parametrize(
    ("backbone", "size", "small"),
    [("Xception", 96, 64), ("dense-small", 64, 32), ("Dense-Large-bn", 64, 32)],
)
def test_a_network_whose_weights_do_not_fit_small_images_is_refused_with_what_would_do(
    backbone, size, small
):
    plan = TrainingPlan(backbone=backbone, weights=None, input_size=size, small_epochs=2, epochs=3)
    with pytest.raises(ValueError, match=rf"{small} px, too.*{backbone} does not.*-epochs 0"):
        settle_on(plan, stored_px=64)
    assert settle_on(dataclasses.replace(plan, backbone="tiny"), stored_px=64)


def test_what_is_given_is_kept_and_not_explained():
    given = TrainingPlan(
        per_replica_batch=7,
        freeze_epochs=2,
        freeze_flip=False,
        freeze_norms=False,
        backbone_lr_factor=None,
        input_size=None,
        small_epochs=0,
    )
    for kind in ("cpu", "tpu"):
        assert settle_on(given, kind=kind, stored_px=64) == (given, {})
    assert settle_on(RAMP) == (RAMP, {})


def test_a_small_set_is_shown_more_often():
    assert [longer(20, steps) for steps in (398, 15, 10, 2, 0)] == [20, 20, 25, 100, 100]
    assert longer(120, 2) == 120
    # 100 photos: 12 steps of 8 an epoch.
    assert settle_on(num_train=100)[0].freeze_epochs == 21
    # 20 photos: 2 steps an epoch, and 100 epochs at most.
    assert settle_on(num_train=20)[0].freeze_epochs == 100
    assert settle_on(TrainingPlan(freeze_epochs=3), num_train=20)[0].freeze_epochs == 3


def test_fewer_images_than_replicas_are_refused():
    with pytest.raises(
        ValueError, match=r"5 training images are too few for 8 replicas.*--require"
    ):
        settle_on(kind="tpu", replicas=8, num_train=5)


@pytest.mark.parametrize(
    ("plan", "options", "batch"),
    [
        (RAMP, {"num_train": 15}, 8),
        (RAMP, {"num_train": 5}, 5),
        (RAMP, {"num_train": 100, "kind": "tpu", "replicas": 8}, 1),
        (dataclasses.replace(RAMP, per_replica_batch=64, mixup=0.2), {"num_train": 7}, 6),
    ],
)
def test_a_batch_larger_than_the_photos_is_refused_with_one_that_would_do(plan, options, batch):
    with pytest.raises(ValueError, match=rf"{options['num_train']} to train on.*-batch {batch}\)"):
        settle_on(plan, **options)
    smaller = dataclasses.replace(plan, per_replica_batch=batch)
    assert settle_on(smaller, **options)[0].per_replica_batch == batch


@pytest.mark.parametrize("num_train", [3, 30])
def test_the_plan_that_proves_a_machine_has_a_batch_for_few_photos(num_train):
    assert settle_on(SMOKE, num_train=num_train)[0].per_replica_batch == min(8, num_train)
    assert settle_on(SMOKE, num_train=1440)[0].per_replica_batch == 32


def test_images_that_are_mixed_are_settled_in_pairs():
    mixing = TrainingPlan(mixup=0.2)
    assert settle_on(mixing, kind="tpu", replicas=8, num_train=20)[0].per_replica_batch == 2
    assert settle_on(mixing, num_train=5)[0].per_replica_batch == 4


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"batch_size": 8}, "Did you mean 'per_replica_batch'?"),
        ({"lr": 1e-3}, "Did you mean 'max_lr'?"),
        ({"epocs": 3}, "Did you mean 'epochs'?"),
        ({"pretrained": False}, "weights=None trains from scratch."),
        ({"early_stopping": True}, "Early stopping is patience=5, so many epochs"),
        ({"xyzzy": 1}, "has no argument 'xyzzy'."),
    ],
)
def test_a_field_by_the_name_of_another_tool_leads_to_the_right_one(values, hint):
    for make in (TrainingPlan, functools.partial(dataclasses.replace, TrainingPlan())):
        with pytest.raises(TypeError, match=re.escape(hint)):
            make(**values)
    if "argument" not in hint:
        with pytest.raises(ValueError, match=re.escape(hint)):
            change_plan(TrainingPlan(), values, where="plan.json")


def test_all_that_is_wrong_is_named():
    with pytest.raises(
        TypeError, match=r"no argument 'lr'.* TrainingPlan\(\) has no argument 'epocs'"
    ):
        TrainingPlan(lr=1, epocs=3)
    for values in ({"lr": 1, "epocs": 3}, {"seed": -1, "epochs": 3, "max_minutes": 0}):
        first, *_, last = values
        with pytest.raises(ValueError, match=f"{first}.*{last}"):
            change_plan(TrainingPlan(), values)
    with pytest.raises(ValueError, match=r"^the plan: accumulate must divide [^;]*$"):
        change_plan(TrainingPlan(), {"per_replica_batch": 8, "accumulate": 3})


def test_a_named_plan_takes_changes(tmp_path):
    assert load_plan("smoke", epochs=4) == dataclasses.replace(load_plan("smoke"), epochs=4)
    (tmp_path / "mine.json").write_text('{"epochs": 3, "seed": 7}', encoding="utf-8")
    assert load_plan(tmp_path / "mine.json", seed=8) == TrainingPlan(epochs=3, seed=8)
    with pytest.raises(ValueError, match="'epoch'.*'epochs'"):
        load_plan("smoke", epoch=4)


def test_a_lower_rate_takes_the_plans_own_ends_along():
    smoke = load_plan("smoke")
    rate = smoke.start_lr / 2
    lower = load_plan("smoke", max_lr=rate)
    assert lower.max_lr == rate
    assert lower.start_lr == pytest.approx(smoke.start_lr * rate / smoke.max_lr, rel=0.01)
    with pytest.raises(ValueError, match="start_lr is 0.1, above max_lr 0.01"):
        load_plan("smoke", max_lr=0.01, start_lr=0.1)
    assert load_plan("fine-tune", max_lr=1e-6).start_lr < 1e-6  # of max_lr="auto"
