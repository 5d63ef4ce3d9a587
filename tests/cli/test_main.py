import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from flowerkit import __main__ as command_line
from flowerkit.__main__ import main
from flowerkit.cli.options import build_parser
from flowerkit.data import read_records
from flowerkit.submission import write_submission
from flowerkit.training.plan import TrainingPlan

pytestmark = pytest.mark.backends

IDS_OF_TEST = 22


@pytest.fixture
def flowerkit(capsys):
    """Runs a command in this process; returns its exit status and what it printed."""

    def run(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def ids(drawn):
    return [record.id for file in drawn.files["test"] for _, record in read_records(file)]


@pytest.fixture
def plan_file(quick_plan, tmp_path):
    file = tmp_path / "quick.json"
    file.write_text(json.dumps(quick_plan.to_dict()))
    return file


def in_a_new_process(code, **options):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


# check --------------------------------------------------------------------------------------------


def test_check_says_that_a_sound_csv_is_sound(flowerkit, drawn, ids, tmp_path):
    csv = tmp_path / "s.csv"
    write_submission(csv, ids, [3] * IDS_OF_TEST)
    status, out, err = flowerkit("check", csv, "--data", drawn.folder)
    assert (status, err) == (0, "")
    assert out == f"{csv}: 22 rows, every id once, labels in 0..3: sound\n"


def test_check_lists_every_problem_and_fails(flowerkit, drawn, ids, tmp_path):
    csv = tmp_path / "s.csv"
    write_submission(csv, [*ids[:-1], "foreign"], [4] + [0] * (IDS_OF_TEST - 1))
    status, out, err = flowerkit("check", csv, "--data", drawn.folder)
    assert (status, err) == (1, "")
    assert out.splitlines() == [
        f"{csv}: 3 problems",
        "  line 2: label 4 is outside 0..3",
        "  line 23: id 'foreign' is not in the test set",
        f"  1 id of the test set missing: '{ids[-1]}'",
    ]


def test_one_problem_is_no_problems(flowerkit, drawn, tmp_path):
    csv = tmp_path / "s.csv"
    csv.touch()
    status, out, _ = flowerkit("check", csv, "--data", drawn.folder)
    assert status == 1
    assert out.startswith(f"{csv}: 1 problem\n  the file is empty; ")


# Errors and exit statuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("check none.csv --data DATA", "no file none.csv. Check the path"),
        ("check none.csv --data nowhere", "no folder nowhere. Pass the folder"),
        ("train --data nowhere", "no folder nowhere. Pass the folder"),
        ("train --resume --out nowhere", "nowhere is no run folder"),
        ("train --plan broken.json", "broken.json is not JSON: "),
        ("predict nowhere --data DATA --out c", "nowhere is no run folder"),
        ("draw DATA --classes 4 --image-size 32", "DATA already holds tfrecords"),
        ("draw new --classes 4 --train 3", "num_train=3 pictures cannot show each of"),
    ],
)
def test_an_error_is_one_sentence_and_the_status_is_1(
    flowerkit, drawn, tmp_path, monkeypatch, words, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{epochs: 3}")
    folder = str(drawn.folder)
    status, _, err = flowerkit(*words.replace("DATA", folder).split())
    assert status == 1
    assert err.startswith("flowerkit: " + sentence.replace("DATA", folder))
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "--plan competiton",
            "no plan 'competiton': neither one of notebook, competition, smoke "
            "nor a file. Did you mean 'competition'?",
        ),
        (
            "--head notebok",
            "the options: head must be one of notebook, pooled, plain, concat, "
            "flatten. Received: head='notebok'. Did you mean 'notebook'?",
        ),
        ("--monitor val_f2", "Did you mean 'val_f1'?"),
        ("--epochs 0", "the options: epochs must be 1 or more. Received: epochs=0"),
        ("--resume", "--resume needs --out RUN, the folder of the run to go on with."),
        (
            "--resume --out r --image-size 64 --plan smoke",
            "only --epochs and --max-minutes may change. Leave out --image-size, --plan, or start",
        ),
    ],
)
def test_options_that_no_plan_can_take_are_wrong_usage(flowerkit, words, sentence):
    status, out, err = flowerkit("train", *words.split())
    assert (status, out) == (2, "")
    assert err.startswith("flowerkit train: ")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["chek"], ["check", "a.csv"], ["train", "--epocs", "3"]])
def test_words_that_are_no_command_exit_with_2(words):
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 2


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        main(["check", "a.csv", "--data", "nowhere", "--debug"])
    code = "from flowerkit.__main__ import main; main(['--debug', 'train', '--epochs', '0'])"
    done = in_a_new_process(code)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr


def test_an_error_of_many_lines_or_none_is_still_one_sentence(flowerkit, monkeypatch):
    def fail(_):
        raise error

    monkeypatch.setitem(command_line.COMMANDS, "doctor", fail)
    error = RuntimeError("the graph failed:\n  node 1\n  node 2")
    assert flowerkit("doctor") == (1, "", "flowerkit: the graph failed: (--debug shows the rest)\n")
    error = ModuleNotFoundError("No module named 'tensorflow'")
    assert "'tensorflow'. Install it; `flowerkit doctor` tells" in flowerkit("doctor")[2]
    error = MemoryError()
    assert flowerkit("doctor") == (1, "", "flowerkit: MemoryError: no more is known\n")
    error = KeyboardInterrupt()
    assert flowerkit("doctor") == (1, "", "flowerkit: interrupted\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(drawn, unbuffered):
    sample = drawn.folder / "sample_submission.csv"
    command = [sys.executable, "-m", "flowerkit", "check", sample, "--data", drawn.folder]
    environ = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    program = subprocess.Popen(command, stdout=-1, stderr=-1, env=environ)
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait() == 1
    program.stderr.close()


def test_a_device_that_is_required_and_not_there_is_refused_before_data_is_read(monkeypatch):
    monkeypatch.delenv("FLOWERKIT_VIRTUAL_CPUS", raising=False)
    code = (
        "from flowerkit.__main__ import main\n"
        "raise SystemExit(main(['train', '--require', 'tpu', '--data', 'nowhere']))"
    )
    done = in_a_new_process(code)
    assert done.returncode == 1
    assert re.fullmatch(r"flowerkit: require='tpu', but .*\n", done.stderr)


# The other commands -------------------------------------------------------------------------------


def test_draw_makes_data_that_train_can_take(flowerkit, tmp_path):
    words = "--classes 3 --image-size 16 --train 12 --val 3 --test 5 --seed 4"
    status, out, _ = flowerkit("draw", tmp_path / "d", *words.split())
    assert status == 0
    assert out == f"drawn flowers: 3 classes, 16 px, train 12, val 3, test 5 ({tmp_path / 'd'})\n"
    sample = tmp_path / "d" / "sample_submission.csv"
    assert flowerkit("check", sample, "--data", tmp_path / "d")[0] == 0


def test_train_leaves_a_checked_csv_and_predict_writes_the_same(
    flowerkit, drawn, plan_file, quick_plan, accelerator, tmp_path
):
    run = tmp_path / "run 1"
    words = ["train", "--plan", plan_file, "--data", drawn.folder, "--out", run, "--epochs", "1"]
    status, out, _ = flowerkit(*words)
    assert status == 0
    assert out.startswith(f"{accelerator}\n")
    assert "stopped at epoch 1 because the plan's epochs were done; best epoch 1: macro F1" in out
    assert f"{run}/submission.csv: 22 rows, every id once, labels in 0..3: sound\n" in out
    assert json.loads((run / "plan.json").read_text()) == quick_plan.to_dict() | {"epochs": 1}
    names = {
        "environment.json",
        "history.csv",
        "model.keras",
        "val_predictions.npz",
        "submission.csv",
        "checkpoints",
        "curves.png",
        "confusion.png",
    }
    assert names <= {file.name for file in run.iterdir()}

    csv = tmp_path / "again.csv"
    batch = ["--per-replica-batch", quick_plan.per_replica_batch]
    status, out, _ = flowerkit("predict", run, "--data", drawn.folder, "--out", csv, *batch)
    assert status == 0
    assert out.endswith(f"{csv}: 22 rows, every id once, labels in 0..3: sound\n")
    assert csv.read_bytes() == (run / "submission.csv").read_bytes()

    status, _, err = flowerkit(*words)
    assert status == 1
    assert f"{run} already holds a run. Pass another folder, or resume=True (--resume)" in err

    other = tmp_path / "other"
    flowerkit(*f"draw {other} --classes 4 --image-size 32 --train 9 --val 4 --test 4".split())
    (other / "classes.json").write_text('["white daisy", "rose", "tulip", "lily"]')
    status, _, err = flowerkit("predict", run, "--data", other, "--out", tmp_path / "c.csv")
    assert status == 1
    assert "knows other classes than" in err
    assert "(class 1 is 'cream daisy' and 'rose'). Pass the data it was trained for" in err


class _CtrlC(logging.Handler):
    """Presses Ctrl-C when the first epoch is told."""

    def emit(self, record):
        if record.getMessage().startswith("epoch 1/"):
            signal.raise_signal(signal.SIGINT)


def test_of_photos_the_labels_of_test_are_known_and_so_is_the_score(flowerkit, plan_file, tmp_path):
    photos, run = tmp_path / "photos", tmp_path / "run"
    assert flowerkit("draw", photos, "--photos", 20, "--classes", 3, "--image-size", 32)[0] == 0
    assert (
        flowerkit("convert", photos, tmp_path / "data", "--image-size", 32, "--workers", 1)[0] == 0
    )
    status, out, _ = flowerkit(
        "train", "--data", tmp_path / "data", "--plan", plan_file, "--out", run
    )
    assert status == 0
    score = json.loads((run / "result.json").read_text())
    assert (
        f"macro F1 {score['test_f1']:.4f}, accuracy {score['test_accuracy']:.4f} (6 images)" in out
    )
    assert score["test_images"] == 6
    assert "F1 on test" in (run / "report.html").read_text(encoding="utf-8")


def test_ctrl_c_keeps_the_best_weights_and_the_printed_command_goes_on(
    flowerkit, drawn, plan_file, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "flowerkit")
    run = tmp_path / "a run"
    ctrl_c = _CtrlC()
    logging.getLogger("flowerkit").addHandler(ctrl_c)
    try:
        status, out, _ = flowerkit(
            "train", "--plan", plan_file, "--data", drawn.folder, "--out", run
        )
    finally:
        logging.getLogger("flowerkit").removeHandler(ctrl_c)
    assert status == 1
    assert "stopped at epoch 1 because it was interrupted (Ctrl-C)" in out
    assert f"the best weights are in {run}/model.keras; go on with:\n" in out
    assert not (run / "submission.csv").exists()
    resume = shlex.split(out.splitlines()[-1])
    assert resume == ["flowerkit", "train", "--resume", "--out", str(run)]
    status, out, _ = flowerkit(*resume[1:])
    assert status == 0
    assert "stopped at epoch 2 because the plan's epochs were done" in out
    assert (run / "submission.csv").exists()


def test_a_run_without_a_folder_gets_the_next_free_one_named_after_its_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    (tmp_path / "runs" / "mine-1").mkdir(parents=True)
    args = build_parser().parse_args(["train", "--plan", "mine.json", "--epochs", "3"])
    plan, source, out = command_line._settle_new(args, command_line._find_changes(args))
    assert (plan, source, str(out)) == (TrainingPlan(epochs=3), "auto", "runs/mine-2")


# Lightness ----------------------------------------------------------------------------------------

HEAVY = ("tensorflow", "keras", "jax", "torch", "matplotlib", "sklearn")
TELL = f"""
import sys
from flowerkit.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("LOADED", *(name for name in {HEAVY} if name in sys.modules))
"""


@pytest.mark.parametrize("words", ["--help", "train --help", "check SAMPLE --data DATA", "chek"])
def test_help_and_check_load_no_framework(drawn, words):
    sample = str(drawn.folder / "sample_submission.csv")
    words = words.replace("SAMPLE", sample).replace("DATA", str(drawn.folder)).split()
    command = [sys.executable, "-c", TELL, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert done.stdout.splitlines()[0].startswith(
        ("usage: flowerkit", f"{sample}: 22 rows", "LOADED")
    )


def test_the_module_runs_as_a_program():
    command = [sys.executable, "-m", "flowerkit", "check", "a.csv", "--data", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("flowerkit: no folder nowhere.")
