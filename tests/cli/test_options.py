import re
import typing

import pytest

from flowerkit.cli.options import find_changes, read_plan
from flowerkit.cli.parser import parse
from flowerkit.training.plan import FINE_TUNE, PLANS, TrainingPlan

FIELDS = typing.get_type_hints(TrainingPlan)
# For fields that are off by default, and for which 7 is no value.
GIVEN = {
    "dropout": 0.5,
    "backbone_lr_factor": 0.1,
    "weight_decay": 0.1,
    "ema": 0.9,
    "class_weights": "balanced",
    "unfreeze_from": "block5",
}


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_plan_is_an_option_of_train(field):
    value = getattr(FINE_TUNE, field)
    option = "--" + field.replace("_", "-")
    if FIELDS[field] is bool or field in ("freeze_norms", "freeze_flip"):
        for words, switched in (([option], True), ([option.replace("--", "--no-")], False)):
            assert getattr(parse(["train", *words]), field) is switched
    else:
        given = GIVEN.get(field, 7) if value is None else value
        read = getattr(parse(["train", option, str(given)]), field)
        assert read == given
        if value == "auto" and field != "cache":
            assert getattr(parse(["train", option, "8"]), field) == 8
    if "None" in str(FIELDS[field]):
        assert getattr(parse(["train", option, "none"]), field) is None


def test_unfreeze_from_takes_a_number_or_a_name():
    for text, read in (("0.5", 0.5), ("conv5_block", "conv5_block")):
        assert parse(["train", "--unfreeze-from", text]).unfreeze_from == read


def test_only_fields_that_are_given_change_the_plan():
    assert find_changes(parse(["train", "--epochs", "3", "--plan", "smoke"])) == {"epochs": 3}


def test_the_help_of_train_explains_every_field_and_names_the_plans(flowerkit):
    status, out, _ = flowerkit("train", "--help")
    assert status == 0
    text = re.sub(r"\s+", " ", " ".join(out))
    assert ", ".join(PLANS) in text
    assert re.search(r"--max-lr X [^\[]*\[auto\]", text)
    assert re.search(r"--flip, --no-flip [^\[]*\[on\]", text)
    assert re.search(r"--freeze-epochs N [^\[]*\[auto\]", text)
    assert re.search(r"--dropout X [^\[]*\[0\.2\]", text)
    assert re.search(r"--patience N [^\[]*\[\d+\]", text)


def test_a_run_that_goes_on_keeps_its_network_unless_the_options_say_another(finished_run):
    weights = {"weights": str(finished_run.folder)}
    plan = read_plan(None, weights | {"epochs": 3})
    assert (plan.backbone, plan.head, plan.epochs) == ("tiny", "notebook", 3)
    assert plan.weights == str(finished_run.folder)
    assert read_plan(None, weights | {"head": "plain"}).head == "plain"
