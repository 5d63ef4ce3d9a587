import shlex

import pytest

from flowerkit.cli.closing import change_command, close_training, drop_options
from flowerkit.sources import CLASS_NAMES
from flowerkit.training import SavedRun

COMMAND = ["train", "--data", "my photos", "--plan=smoke", "--epochs", "2", "--out", "runs/a"]
RIGHT = (0, 1, 2) * 20


@pytest.fixture
def close(make_run, tmp_path):
    def lines(predicted=RIGHT, problems=(), command=COMMAND, **changes):
        folder = make_run(tmp_path / "my run", labels=RIGHT, predicted=predicted, **changes)
        problems = None if problems is None else list(problems)
        return close_training(SavedRun.load(folder), problems, command)

    return lines


def test_a_changed_command_can_be_pasted_and_starts_a_new_run():
    changed = change_command(COMMAND, "--epochs 24 --per-replica-batch 16")
    assert changed == (
        "flowerkit train --data 'my photos' --plan=smoke --epochs 24 --per-replica-batch 16"
    )
    assert shlex.split(changed)[3] == "my photos"
    assert change_command(["train", "--epochs=2", "--out=x"], "--plan fine-tune") == (
        "flowerkit train --epochs=2 --plan fine-tune"
    )
    assert drop_options(["--steps", "20", "--data", "d"], ["--steps"]) == ["--data", "d"]


def test_a_good_run_is_told_how_to_use_it_first(close, tmp_path):
    lines = close(data={"origin": "drawn", "photos": None}, epochs=200)
    run = shlex.quote(str(tmp_path / "my run"))
    assert lines[0].startswith("macro F1 1.00 on val is good (chance: 0.33); on other images than")
    after = lines[lines.index("next:") + 1 :]
    assert after[0] == f"  flowerkit serve {run}"


@pytest.mark.parametrize(
    ("origin", "command", "said"),
    [
        ("drawn", ["train"], True),
        ("drawn", ["train", "--data=drawn"], False),
        ("folder", ["train"], False),
    ],
)
def test_a_score_on_drawn_flowers_that_nobody_asked_for_is_said_to_be_one(
    close, origin, command, said
):
    lines = close(data={"origin": origin, "photos": None}, command=command)
    assert any("drawn flowers" in line and "--data" in line for line in lines) == said


def test_photos_are_classified_where_they_still_are(close, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    data = {"origin": "folder", "photos": str(tmp_path / "my photos")}
    run = shlex.quote(str(tmp_path / "my run"))
    assert f"  flowerkit classify {run} 'my photos'" in close(data=data)


@pytest.mark.parametrize(
    ("out", "shown"), [(["--out", "x"], True), (["--out=x"], True), ([], False)]
)
def test_the_next_command_names_a_new_folder_where_the_last_one_did(close, tmp_path, out, shown):
    (tmp_path / "my run-1").mkdir()
    lines = close(predicted=(1, 2, 0) * 10 + RIGHT[:30], epochs=2, command=["train", *out])
    (better,) = [line for line in lines if line.startswith("  flowerkit train")]
    folder = shlex.quote(str(tmp_path / "my run-2"))
    assert better.endswith(f" --out {folder}") == ("--out" in better) == shown


def test_a_low_run_is_told_to_train_longer_first(close):
    lines = close(predicted=(1, 2, 0) * 10 + RIGHT[:30], f1=0.3, epochs=2)
    assert lines[0].startswith("macro F1 0.50 on val is low, and above chance (0.33)")
    assert "training steps in all" in lines[1]
    better, *uses = lines[lines.index("next:") + 1 :]
    assert better.startswith("  flowerkit train --data 'my photos' --plan=smoke --epochs ")
    assert "flowerkit serve" in uses[-1]


def test_a_run_at_chance_is_not_offered_for_use(close):
    lines = close(predicted=(1, 2, 0) * 20)
    assert lines[0].startswith("macro F1 0.00 on val is no better than chance (0.33)")
    assert not any("serve" in line or "classify" in line for line in lines)


@pytest.mark.parametrize(
    ("problems", "is_offered"), [([], True), (["line 2"], False), (None, False)]
)
@pytest.mark.parametrize("origin", ["competition", "folder"])
def test_only_a_valid_csv_of_the_competition_is_to_be_submitted(
    close, problems, is_offered, origin
):
    data = {"origin": origin, "photos": None}
    lines = close(problems=problems, names=CLASS_NAMES, data=data, epochs=200)
    submits = [line.startswith("  flowerkit submit ") for line in lines if "  flowerkit" in line]
    assert any(submits) == any(submits[:1]) == is_offered
    if problems:
        assert lines[-1].endswith("submission.csv has problems, listed above: do not use it")


def test_a_run_that_failed_says_why_in_its_last_line(close):
    result = {"failed": True, "stop_reason": "the loss became nan in epoch 2", "best_epoch": 1}
    lines = close(result=result, max_lr=0.003, f1=-0.6)
    assert lines[-1] == (
        "not all of the plan was trained, because the loss became nan in epoch 2: train again at a "
        "lower rate (--max-lr 0.001); csv and report are those of epoch 1"
    )
    better = "  flowerkit train --data 'my photos' --plan=smoke --epochs 2 --max-lr 0.001 --out "
    assert any(line.startswith(better) for line in lines)


def test_a_resumed_run_has_no_command_to_change(close):
    assert not any("flowerkit train" in line for line in close(command=()))
