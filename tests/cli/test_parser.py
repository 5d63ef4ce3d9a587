import importlib
import shlex
import subprocess
import sys

import pytest

from flowerkit.cli.parser import COMMANDS, load_function, parse


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--debug", "arguments are required: COMMAND. For example: `flowerkit demo`."),
        ("tran", "flowerkit: no command 'tran'"),
        ("tran", "Did you mean 'train'? `flowerkit --help` lists all."),
        (
            "train --epocs 3",
            "flowerkit train: no option --epocs. Did you mean --epochs? `flowerkit train --help` "
            "lists all.",
        ),
        ("train --epocs=3", "no option --epocs. Did you mean --epochs?"),
        ("train --no-flp", "Did you mean --no-flip?"),
        (
            "train --lr 1 --bach-size=8 --lr 2 --xyzzy",
            "train: no option --lr. `flowerkit train` takes it as --max-lr. No option --bach-size. Did "
            "you mean --per-replica-batch? No option --xyzzy. `flowerkit train --help` lists all.",
        ),
        (
            "train --epochs 3x --require cuda",
            "argument --epochs: must be a number or auto. Received: '3x'. Did you mean 3? Argument "
            "--require: invalid choice: 'cuda'",
        ),
        ("train --max-minutes 0 --seed -1", "Received: 0; --seed must be in 0 <= seed < 2**32."),
        ("train --epoch 3", "`flowerkit train` takes it as --epochs."),
        ("train --require tpuu", "Did you mean 'tpu'?"),
        ("train --require cuda", "Did you mean 'gpu'?"),
        ("train --precision fp16", "Did you mean 'float16'?"),
        ("export r --format tflite", "Did you mean 'litert'?"),
        ("train --monitor f1", "Did you mean 'val_f1'?"),
        ("predict r --data d --out c --on-corrupt skipp", "Did you mean 'skip'?"),
        ("train --epochs", "flowerkit train: argument --epochs: expected one argument."),
        ("train --epochs three", "argument --epochs: must be a number or auto. Received: 'three'."),
        ("train --epochs none", "argument --epochs: must be a number or auto. Received: 'none'."),
        ("train --max-lr high", "argument --max-lr: must be a number or auto. Received: 'high'."),
        ("train --input-size 224x224", "auto or none. Received: '224x224'. Did you mean 224?"),
        ("train --max-minutes 5m", "must be a number or none. Received: '5m'. Did you mean 5?"),
        ("train --patience never", "must be a whole number or none. Received: 'never'."),
        ("train --max-minutes 0", "train: --max-minutes must be above 0. Received: 0"),
        ("train --optimizer AdamW", "Received: --optimizer 'AdamW'. Did you mean 'adamw'?"),
        ("train data=d lr=0.1", "Did you mean --data d --max-lr 0.1?"),
        ("classify", "required: MODEL, PHOTO. For example: `flowerkit classify runs/mine photos"),
        ("classify r https://x.org/a.jpg", "Download it first: `curl -LO https://x.org/a.jpg`."),
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
    for words in (
        ("check", "a.csv", "--data", "d", ""),
        ("train", "--out="),
        ("train", "--out", ""),
    ):
        assert "an argument is empty" in flowerkit(*words)[2]
    assert 'no command "it\'s".' in flowerkit("it's")[2]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        *(
            (f"train {each} 8", "takes it as --per-replica-batch.")
            for each in ("--batch-size", "-b")
        ),
        ("train --lr 1e-3", "takes it as --max-lr."),
        ("train --output-dir x", "takes it as --out."),
        ("train --arch ResNet50", "takes it as --backbone."),
        ("train --img-size 224", "takes it as --input-size."),
        ("convert a b --imgsz 224", "takes it as --image-size."),
        ("train --valid x", "takes it as --val."),
        ("train --wd 1e-3", "takes it as --weight-decay."),
        ("predict r --data d --output o", "takes it as --out."),
        ("predict --run r", "takes it as RUN, without an option."),
        ("lr-find --max-lr 1", "takes it as --max-rate."),
        ("train --bach-size 8", "Did you mean --per-replica-batch?"),
        ("train --device cuda", "The device is found by itself"),
        ("train --pretrained", "--weights none trains from scratch"),
        ("train --early-stopping", "Early stopping is --patience 5, so many epochs"),
        ("train --num-workers 4", "Images are read by all cores"),
        ("check a.csv --device cpu", "In `flowerkit train` the device is found by itself"),
        ("train --tta 3", "--tta is an option of predict."),
        ("demo --epochs 3", "--epochs is an option of train,"),
        ("train petals", "Did you mean --data petals?"),
        ("train --data a --data b", "--data is given twice."),
        ("--data a train", "Options follow the command."),
        ("fit", "Did you mean 'train'"),
        ("eval", "Did you mean 'predict'"),
        ("infer", "Did you mean 'classify'"),
    ],
)
def test_words_of_other_tools_lead_to_the_option_or_the_way_to_do_it(flowerkit, words, hint):
    status, out, err = flowerkit(*words.split())
    assert (status, out, err.count("\n")) == (2, [], 1)
    assert hint in err


def test_the_bare_command_greets_and_help_and_version_are_commands_too(flowerkit):
    status, out, _ = flowerkit()
    assert status == 0
    assert sum(line.startswith("  flowerkit ") for line in out) == 3
    assert flowerkit("help", "check") == flowerkit("check", "--help")
    assert flowerkit("version") == flowerkit("--version")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_at_the_end_of_a_commands_help_is_a_command_line(flowerkit, name):
    example = flowerkit(name, "--help")[1][-1]
    assert parse(shlex.split(example)[1:]).command == name


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
