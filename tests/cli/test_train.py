"""train, contest, study, compare and models as they are typed."""

import logging
import re
import shlex
import signal

import pytest

from flowerkit.cli.parser import parse
from flowerkit.cli.train import _read_new, find_free_folder
from flowerkit.data import load_split
from flowerkit.training import RunFolder, TrainingPlan


@pytest.mark.backends
def test_train_leaves_a_checked_csv_and_predict_writes_the_same(
    flowerkit, drawn, plan_file, quick_plan, accelerator, tmp_path
):
    run = tmp_path / "run 1"
    words = ["train", "--plan", plan_file, "--data", drawn.folder, "--out", run, "--epochs", "1"]
    status, out, _ = flowerkit(*words)
    assert status == 0
    assert out[0] == str(accelerator)
    assert any(line.startswith("stopped at epoch 1 because the plan's epochs") for line in out)
    assert f"{run}/submission.csv: 22 rows, every id once, labels in 0..3: valid" in out
    assert RunFolder(run).plan().epochs == 1
    assert {"model.keras", "submission.csv", "curves.png", "confusion.png", "report.html"} <= {
        file.name for file in run.iterdir()
    }
    assert RunFolder(run).result().test_f1 is None  # the competition's test labels are unknown

    csv = tmp_path / "again.csv"
    batch = ["--per-replica-batch", quick_plan.per_replica_batch]
    assert flowerkit("predict", run, "--data", drawn.folder, "--out", csv, *batch)[0] == 0
    assert csv.read_bytes() == (run / "submission.csv").read_bytes()

    status, _, err = flowerkit(*words)
    assert status == 1
    assert f"{run} already holds a run. Pass another folder, or --resume" in err


def test_with_photos_the_labels_of_test_are_known_and_so_is_the_score(
    flowerkit, plan_file, tmp_path
):
    photos, data, run = tmp_path / "photos", tmp_path / "data", tmp_path / "run"
    words = ("--photos", 20, "--classes", 3, "--image-size", 32)
    assert flowerkit("draw", photos, *words)[0] == 0
    assert flowerkit("convert", photos, data, "--image-size", 32, "--workers", 1)[0] == 0
    status, out, _ = flowerkit("train", "--data", data, "--plan", plan_file, "--out", run)
    assert status == 0
    result = RunFolder(run).result()
    score = f"macro F1 {result.test_f1:.4f}, accuracy {result.test_accuracy:.4f} (6 images)"
    assert any(score in line for line in out)
    assert result.test_images == 6
    csv = run / "predictions.csv"
    assert f"{csv}: 6 photos, every one once, with names of classes: valid" in out
    header, *rows = csv.read_text().splitlines()
    assert header == "photo,predicted,probability,label"
    assert all(row.split("/")[0] == row.split(",")[3] for row in rows)  # photos lie by class
    assert not (run / "submission.csv").exists()
    assert flowerkit("check", csv, "--data", data)[1][1].endswith(score)
    csv.write_text(csv.read_text().replace(rows[0], rows[1]))
    assert flowerkit("check", csv, "--data", data)[0] == 1
    assert flowerkit("report", run, "--data", data)[0] == 0
    assert "predictions.csv: 2 problems" in (run / "report.html").read_text(encoding="utf-8")
    batch = ("--per-replica-batch", 2)
    assert flowerkit("predict", run, "--data", data, "--out", tmp_path / "p.csv", *batch)[0] == 0
    assert rows[0] in (tmp_path / "p.csv").read_text()
    assert "F1 on test" in (run / "report.html").read_text(encoding="utf-8")


def test_in_several_tasks_a_command_other_than_train_is_refused(flowerkit, drawn, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "1")
    status, _, err = flowerkit("lr-find", "--data", drawn.folder)
    assert (status, "2 processes" in err, "srun --ntasks=1" in err) == (1, True, True)


def test_a_host_that_cannot_be_is_wrong_usage(flowerkit):
    status, _, err = flowerkit(
        "train", "--coordinator", "10.0.0.1:9000", "--num-hosts", 2, "--host", 2
    )
    assert (status, "--host I" in err) == (2, True)


def test_a_run_keeps_the_labels_that_were_decided_and_refuses_others(
    flowerkit, drawn, plan_file, tmp_path
):
    train = load_split(drawn, "train")
    names = [drawn.class_names[label] for label in train.labels]
    rows = [f"{id},,{name},leave out" for id, name in zip(train.ids, names, strict=True)]
    for file, row in (("a.csv", rows[0]), ("b.csv", rows[1])):
        (tmp_path / file).write_text(f"id,file,given,new\n{row}\n", encoding="utf-8")
    run, out = tmp_path / "run", ("--out", tmp_path / "run")
    data = ("--data", drawn.folder, "--labels", tmp_path / "a.csv")
    assert flowerkit("train", *data, "--plan", plan_file, "--epochs", 1, *out)[0] == 0
    trained_on = RunFolder(run).environment().data
    assert trained_on.relabelled == {str(train.ids[0]): None}
    assert sum(trained_on.class_counts["train"]) == 49
    resume = ("train", "--resume", *out, "--epochs", 2)
    status, _, err = flowerkit(*resume, "--labels", tmp_path / "b.csv")
    assert (status, "began with other images" in err) == (1, True)
    assert flowerkit(*resume)[0] == 0

    status, lines, _ = flowerkit("clean", run, "--csv-only", "--top", 3)
    assert status == 0
    assert lines[-1] == (
        f"next: flowerkit train --data {drawn.folder} --labels {run / 'decisions.csv'}"
    )
    text = (run / "decisions.csv").read_text(encoding="utf-8").splitlines()
    assert len(text) == 4
    status, _, err = flowerkit("clean", run, "--csv-only")
    assert (status, "there already" in err, "--out" in err) == (1, True, True)


class _CtrlC(logging.Handler):
    """Presses Ctrl-C when the first epoch is logged."""

    def emit(self, record):
        if record.getMessage().startswith("epoch 1/"):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_the_best_weights_and_the_printed_command_continues(
    flowerkit, drawn, plan_file, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "flowerkit")
    run, ctrl_c = tmp_path / "a run", _CtrlC()
    logging.getLogger("flowerkit").addHandler(ctrl_c)
    try:
        words = ("--plan", plan_file, "--data", drawn.folder, "--out", run)
        status, out, _ = flowerkit("train", *words)
    finally:
        logging.getLogger("flowerkit").removeHandler(ctrl_c)
    assert status == 1
    assert any("stopped at epoch 1 because it was interrupted" in line for line in out)
    assert not (run / "submission.csv").exists()
    resume = shlex.split(out[-1])
    assert resume == ["flowerkit", "train", "--resume", "--out", str(run)]
    status, out, _ = flowerkit(*resume[1:])
    assert status == 0
    assert any("stopped at epoch 2 because the plan's epochs were done" in line for line in out)
    assert (run / "submission.csv").exists()


def test_a_loss_that_is_not_a_number_leaves_the_csv_of_the_epoch_before_and_exits_with_1(
    flowerkit, drawn, plan_file, tmp_path
):
    words = ("--plan", plan_file, "--data", drawn.folder, "--out", tmp_path / "run")
    status, out, _ = flowerkit("train", *words, "--max-lr", "1e38")  # from epoch 2 on
    assert status == 1
    assert (
        f"{tmp_path / 'run'}/submission.csv: 22 rows, every id once, labels in 0..3: valid" in out
    )
    assert RunFolder(tmp_path / "run").result().best_epoch == 1
    assert "because the loss became nan in epoch 2" in out[-1]
    assert out[-1].endswith("csv and report are those of epoch 1")


def test_lr_find_leaves_its_rates_and_their_curve(flowerkit, drawn, plan_file, tmp_path):
    words = (
        "--plan",
        plan_file,
        "--data",
        drawn.folder,
        "--steps",
        20,
        "--out",
        tmp_path / "found",
    )
    status, out, _ = flowerkit("lr-find", *words)
    assert status == 0
    assert any("steps of 16 images" in line for line in out)
    files = sorted(path.name for path in (tmp_path / "found").iterdir())
    assert files == ["lr_finder.json", "lr_finder.png"]
    assert re.match(
        r"recommended: max_lr [\d.e-]+(, the plan's own, because .*)?: flowerkit", out[-1]
    )
    command = shlex.split(out[-1].partition("flowerkit ")[2])
    assert command[:5] == ["train", "--plan", str(plan_file), "--data", str(drawn.folder)]
    assert command[5] == "--max-lr"
    assert f"max_lr {float(command[6]):.2g}" in out[-1]

    found = (tmp_path / "found" / "lr_finder.json").read_bytes()
    status, out, err = flowerkit("lr-find", *words)
    assert (status, out) == (1, [])
    assert f"{tmp_path / 'found'}/lr_finder.json already exists. Pass another folder (--out)" in err
    assert (tmp_path / "found" / "lr_finder.json").read_bytes() == found


def test_a_run_without_a_folder_gets_the_next_free_one_named_after_its_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    find_free_folder("runs", "mine").mkdir(parents=True)
    plan, source, out, labels = _read_new(parse(["train", "--plan", "mine.json", "--epochs", "3"]))
    assert (plan, source, str(out)) == (TrainingPlan(epochs=3), "auto", "runs/mine-2")
    assert labels is None


def test_compare_prints_the_table_and_writes_only_into_a_folder_that_is_named(
    flowerkit, finished_run, tmp_path
):
    status, out, _ = flowerkit("compare", finished_run.folder)
    assert status == 0
    assert out[0].startswith("| experiment | n | val macro F1 |")
    status, written, _ = flowerkit("compare", finished_run.folder, "--out", tmp_path / "c")
    kinds = ("html", "md", "csv", "png")
    assert written[-4:] == [f"wrote {tmp_path / 'c' / 'compare'}.{kind}" for kind in kinds]
    assert (tmp_path / "c" / "compare.md").read_text().rstrip().splitlines() == out


def test_contest_tells_what_each_step_brought_and_leaves_a_checked_csv(
    flowerkit, drawn, plan_file, tmp_path
):
    out = tmp_path / "c"
    words = ["--data", drawn.folder, "--out", out, "--plan", plan_file, "--epochs", 1]
    words += ["--folds", 2, "--backbones", "dense-small", "--head", "plain"]
    words += ["--max-minutes", 60]
    status, lines, err = flowerkit("contest", *words)
    assert status == 0, err
    assert any(line.startswith("out of fold: dense-small: macro F1 0.") for line in lines)
    assert lines[-2:] == [
        f"wrote {out / 'contest.html'}",
        f"{out / 'submission.csv'}: 22 rows, every id once, labels in 0..3: valid",
    ]
    page = (out / "contest.html").read_text(encoding="utf-8")
    assert "No labels of test are known here" in page
    assert "dense-small-fold1, dense-small-fold2, dense-small-all" in page
    fold = out / "dense-small-fold1"
    before = RunFolder(fold).environment().data
    assert flowerkit("train", "--resume", "--out", fold, "--epochs", 2)[0] == 0
    assert len(RunFolder(fold).history()) == 2
    assert RunFolder(fold).environment().data == before


def test_study_trains_and_compares(flowerkit, drawn, tmp_path, monkeypatch):
    """The command itself, with a study of one small plan."""
    from flowerkit.experiments import studies

    plan = studies.REGULARISATION["dense-small"]
    monkeypatch.setitem(studies.STUDIES, "regularisation", {"dense-small": plan})
    words = ("--data", drawn.folder, "--out", tmp_path, "--seeds", 2, "--epochs", 1)
    status, out, _ = flowerkit("study", "regularisation", *words)
    assert status == 0
    assert out[2] == f"1 plan, 2 seeds each, into {tmp_path}"
    assert any(line.startswith("| dense-small | 2 | ") for line in out)
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {"dense-small-seed0", "dense-small-seed1"}


def test_models_lists_the_backbones(flowerkit):
    status, out, _ = flowerkit("models")
    assert status == 0
    assert out[0].split() == ["backbone", "parameters", "px", "weights", "licence"]
    assert any(line.startswith("DenseNet121 ") for line in out)
