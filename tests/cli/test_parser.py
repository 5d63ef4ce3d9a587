import importlib
import subprocess
import sys

import pytest

from flowerkit.cli.parser import COMMANDS, load_function, parse


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "flowerkit: the following arguments are required: COMMAND. `flowerkit --help` lists"),
        ("tran", "invalid choice: 'tran'"),
        ("tran", "Did you mean 'train'? `flowerkit --help` lists all."),
        (
            "train --epocs 3",
            "flowerkit train: unrecognized arguments: --epocs 3. Did you mean "
            "'--epochs'? `flowerkit train --help` lists all.",
        ),
        ("train --epocs=3", "unrecognized arguments: --epocs=3. Did you mean '--epochs'?"),
        ("train --no-flp", "Did you mean '--no-flip'?"),
        ("train --epoch 3", "unrecognized arguments: --epoch 3. Did you mean '--epochs'?"),
        ("train --require tpuu", "Did you mean 'tpu'?"),
        ("predict r --data d --out c --on-corrupt skipp", "Did you mean 'skip'?"),
        ("train --epochs", "flowerkit train: argument --epochs: expected one argument."),
        ("train --epochs three", "argument --epochs: invalid float or auto value: 'three'."),
        ("train --epochs none", "argument --epochs: invalid float or auto value: 'none'."),
        ("train --max-lr high", "argument --max-lr: invalid float or auto value: 'high'."),
        ("draw --classes 4", "flowerkit draw: the following arguments are required: FOLDER."),
        ("check a.csv", "flowerkit check: the following arguments are required: --data."),
        ("contest", "a contest needs its time: --max-minutes 480 is 8 hours."),
        ("study rates", "invalid choice: 'rates'"),
        ("study regularisation --seeds 0", "must be a whole number from 1. Received: '0'."),
    ],
)
def test_wrong_usage_is_one_sentence_with_the_nearest_word(flowerkit, words, message):
    status, out, err = flowerkit(*words.split())
    assert (status, out) == (2, [])
    assert err.count("\n") == 1
    assert message in err


def test_a_word_like_no_other_gets_no_suggestion(flowerkit):
    assert "Did you mean" not in flowerkit("train", "--xyzzy")[2]
    assert "unrecognized arguments: ''." in flowerkit("check", "a.csv", "--data", "d", "")[2]
    assert "invalid choice: " in flowerkit("it's")[2]


@pytest.mark.parametrize("words", ["--debug check a.csv --data d", "check a.csv --data d --debug"])
def test_debug_stands_before_or_after_the_command(words):
    assert parse(words.split()).debug
    assert not parse(["check", "a.csv", "--data", "d"]).debug


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_options_and_a_run(flowerkit, name):
    assert callable(load_function(name, "run_{}"))
    status, out, _ = flowerkit(name, "--help")
    assert status == 0
    assert out[0].startswith(f"usage: flowerkit {name} ")


def test_help_shows_the_groups_and_the_version_is_the_packages(flowerkit):
    status, out, _ = flowerkit("--help")
    assert status == 0
    groups = [line[:-1] for line in out if line.endswith(":") and " " not in line]
    assert groups[:6] == ["start", "data", "train", "look", "use", "kaggle"]
    assert {line.split()[0] for line in out if line.startswith("  ")} >= set(COMMANDS)
    package = importlib.import_module("flowerkit")
    assert flowerkit("--version")[1] == [f"flowerkit {package.__version__}"]


HEAVY = ("tensorflow", "keras", "jax", "torch", "matplotlib", "sklearn")
LIST_LOADED = f"""
import sys
from flowerkit.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("LOADED", *(name for name in {HEAVY} if name in sys.modules))
"""


@pytest.mark.parametrize(
    "words",
    ["--help", "train --help", "check SAMPLE --data DATA", "chek", "train --head flat", "models"],
)
def test_help_check_and_wrong_usage_load_no_framework(drawn, words):
    sample = str(drawn.folder / "sample_submission.csv")
    words = words.replace("SAMPLE", sample).replace("DATA", str(drawn.folder)).split()
    command = [sys.executable, "-c", LIST_LOADED, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"
