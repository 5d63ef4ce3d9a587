import re
import typing

import pytest

from flowerkit.cli.options import build_parser
from flowerkit.training.plan import COMPETITION, PLANS, TrainingPlan

FIELDS = typing.get_type_hints(TrainingPlan)


def refuse(capsys, *words):
    """What is printed about words that are wrong usage: one sentence, exit status 2."""
    with pytest.raises(SystemExit) as exit_info:
        build_parser().parse_args(words)
    assert exit_info.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err.rstrip("\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "flowerkit: the following arguments are required: COMMAND. `flowerkit --help` lists"),
        ("tran", "invalid choice: 'tran'"),
        ("tran", "Did you mean 'train'? `flowerkit --help` lists all."),
        ("chekc a.csv", "Did you mean 'check'?"),
        (
            "train --epocs 3",
            "flowerkit train: unrecognized arguments: --epocs 3. Did you mean "
            "'--epochs'? `flowerkit train --help` lists all.",
        ),
        ("train --epocs=3", "unrecognized arguments: --epocs=3. Did you mean '--epochs'?"),
        ("train --no-flp", "Did you mean '--no-flip'?"),
        ("train --plam smoke", "Did you mean '--plan'?"),
        ("predict r --data d --out c --on-corupt skip", "Did you mean '--on-corrupt'?"),
        ("train --require tpuu", "Did you mean 'tpu'?"),
        ("predict r --data d --out c --on-corrupt skipp", "Did you mean 'skip'?"),
        ("train --epoch 3", "unrecognized arguments: --epoch 3. Did you mean '--epochs'?"),
        ("train --epochs", "flowerkit train: argument --epochs: expected one argument."),
        ("train --epochs three", "argument --epochs: invalid int value: 'three'."),
        ("train --max-lr high", "argument --max-lr: invalid float value: 'high'."),
        ("draw --classes 4", "flowerkit draw: the following arguments are required: FOLDER."),
        ("check a.csv", "flowerkit check: the following arguments are required: --data."),
        ("predict", "flowerkit predict: the following arguments are required: RUN, --out, --data."),
        (
            "predict r --data d --out c --per-replica-batch 0",
            "argument --per-replica-batch: must be a whole number from 1. Received: '0'.",
        ),
    ],
)
def test_wrong_usage_is_one_sentence_with_the_nearest_word(capsys, words, message):
    assert message in refuse(capsys, *words.split())


def test_a_word_like_no_other_gets_no_suggestion(capsys):
    assert "Did you mean" not in refuse(capsys, "train", "--xyzzy")
    assert "unrecognized arguments: ''." in refuse(capsys, "check", "a.csv", "--data", "d", "")
    assert "invalid choice: " in refuse(capsys, "it's")


# For fields that are off by default, and that 7 is no value of.
GIVEN = {
    "dropout": 0.5,
    "backbone_lr_factor": 0.1,
    "class_weights": "balanced",
    "unfreeze_from": "block5",
}


def test_unfreeze_from_takes_a_number_or_a_name():
    for text, read in (("0.5", 0.5), ("conv5_block", "conv5_block"), ("none", None)):
        args = build_parser().parse_args(["train", "--unfreeze-from", text])
        assert args.unfreeze_from == read


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_plan_is_an_option_of_train(field):
    value = getattr(COMPETITION, field)
    option = "--" + field.replace("_", "-")
    if FIELDS[field] is bool:
        for words, switched in (([option], True), ([option.replace("--", "--no-")], False)):
            assert getattr(build_parser().parse_args(["train", *words]), field) is switched
    else:
        given = GIVEN.get(field, 7) if value is None else value
        read = getattr(build_parser().parse_args(["train", option, str(given)]), field)
        assert read == given
        TrainingPlan(**{**COMPETITION.to_dict(), "schedule": "constant", field: read})


@pytest.mark.parametrize("field", [name for name, hint in FIELDS.items() if "None" in str(hint)])
def test_none_switches_a_field_off(field):
    option = "--" + field.replace("_", "-")
    assert getattr(build_parser().parse_args(["train", option, "none"]), field) is None


def test_none_is_no_number_of_epochs(capsys):
    assert "invalid int value: 'none'" in refuse(capsys, "train", "--epochs", "none")


def test_a_field_that_is_not_given_is_no_attribute():
    given = vars(build_parser().parse_args(["train", "--epochs", "3"]))
    assert {name for name in given if name in FIELDS} == {"epochs"}


def test_the_help_of_train_explains_every_field_and_names_the_plans(capsys):
    with pytest.raises(SystemExit) as exit_info:
        build_parser().parse_args(["train", "--help"])
    assert exit_info.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert ", ".join(PLANS) in text
    assert "--max-lr X learning rate at its top, and the constant one [0.0004]" in text
    assert "--patience N epochs after the ramp without a better one" in text
    assert "--flip, --no-flip mirror half of the training images left to right [on]" in text


@pytest.mark.parametrize("words", ["--debug check a.csv --data d", "check a.csv --data d --debug"])
def test_debug_stands_before_or_after_the_command(words):
    assert build_parser().parse_args(words.split()).debug
    assert not build_parser().parse_args(["check", "a.csv", "--data", "d"]).debug


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as exit_info:
        build_parser().parse_args(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == "flowerkit 0.1.0\n"
