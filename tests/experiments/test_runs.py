"""Real runs of a small dense network, made once: two plans, two seeds, an epoch each."""

import json
from dataclasses import replace

import pytest

from flowerkit.experiments.runs import run_study
from flowerkit.training.history import read_history
from flowerkit.training.plan import TrainingPlan

pytestmark = pytest.mark.backends


@pytest.fixture(scope="module")
def plans(accelerator):
    plain = TrainingPlan(
        backbone="dense-small",
        weights=None,
        head="plain",
        dropout=0.0,
        epochs=1,
        patience=None,
        per_replica_batch=16 // accelerator.replicas,
        lr_reference_batch=None,
        schedule="constant",
        flip=False,
    )
    return {"plain": plain, "dropout": replace(plain, dropout=0.5)}


@pytest.fixture(scope="module")
def studied(plans, drawn, accelerator, tmp_path_factory):
    """The folder of the study, what was compared, and what progress said."""
    out, said = tmp_path_factory.mktemp("study"), []
    comparison = run_study(
        plans,
        drawn,
        out,
        seeds=(0, 1),
        accelerator=accelerator,
        progress=lambda *all: said.append(all),
    )
    return out, comparison, said


def test_every_plan_is_trained_with_every_seed(studied):
    out, comparison, said = studied
    folders = ["dropout-seed0", "dropout-seed1", "plain-seed0", "plain-seed1"]
    assert sorted(path.name for path in out.iterdir()) == folders
    assert all((out / name / "result.json").is_file() for name in folders)
    assert {(one.name, len(one.runs)) for one in comparison.experiments} == {
        ("plain", 2),
        ("dropout", 2),
    }
    assert said


def test_the_comparison_is_of_real_runs(studied):
    comparison = studied[1]
    assert comparison.differing == ("dropout",)
    assert len(comparison.statements) == 1
    for experiment in comparison.experiments:
        for run, f1, minutes in zip(
            experiment.runs, experiment.values("val_f1"), experiment.values("minutes"), strict=True
        ):
            (row,) = read_history(run.folder / "history.csv")
            assert (f1, minutes) == (row["val_f1"], row["seconds"] / 60)
        # 3,072 pixels, twice 64 units, 4 classes.
        assert experiment.values("parameters").tolist() == [3072 * 64 + 64 + 65 * 64 + 65 * 4] * 2


def test_what_is_finished_is_not_trained_again(studied, plans, drawn, accelerator):
    out, first, _ = studied
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = run_study(plans, drawn, out, seeds=(0, 1), accelerator=accelerator)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    assert again.statements == first.statements


def test_another_plan_in_its_place_is_refused(studied, plans, drawn, accelerator):
    out = studied[0]
    with pytest.raises(
        ValueError, match=r"plain-seed0 holds a run of another plan: epochs 1 and 2\. "
    ):
        run_study(plans, drawn, out, seeds=(0,), epochs=2, accelerator=accelerator)
    other = {"dropout": replace(plans["dropout"], max_lr=1e-3, dropout=0.1)}
    with pytest.raises(ValueError, match="dropout 0.5 and 0.1, max_lr .* and 0.001"):
        run_study(other, drawn, out, seeds=(0,), accelerator=accelerator)


def test_another_study_in_its_folder_is_refused(studied, plans, drawn, accelerator):
    other = {"wide": plans["plain"]}
    with pytest.raises(ValueError, match="holds runs of another study, such as dropout-seed0"):
        run_study(other, drawn, studied[0], seeds=(0,), accelerator=accelerator)


def test_what_all_runs_advise_alike_is_said_once(drawn, accelerator, plans, tmp_path, caplog):
    caplog.set_level("INFO", "flowerkit")
    one = {"plain": plans["plain"]}
    run_study(one, drawn, tmp_path, seeds=(0, 1), accelerator=accelerator)
    assert sum("so few steps an epoch" in line for line in caplog.messages) == 1
    assert sum(" steps an epoch, " in line for line in caplog.messages) == 2  # no advice
    assert sum("plain-seed" in line for line in caplog.messages) == 2


def test_other_data_are_refused(studied, plans, drawn, accelerator):
    out = studied[0]
    fewer = replace(drawn, counts={**drawn.counts, "val": 0})
    with pytest.raises(
        ValueError, match="plain-seed0 was trained on other images .*'val': 18.*'val': 0"
    ):
        run_study(plans, fewer, out, seeds=(0,), accelerator=accelerator)
    renamed = replace(drawn, class_names=("oak", *drawn.class_names[1:]))
    with pytest.raises(ValueError, match=r"trained on other classes \(class 0 is '.*' and 'oak'\)"):
        run_study(plans, renamed, out, seeds=(0,), accelerator=accelerator)


def test_a_run_that_was_cut_short_goes_on(studied, plans, drawn, accelerator, tmp_path):
    """Interrupted while it said goodbye: the epoch is there, the figures are not."""
    out = studied[0]
    shown = out / "plain-seed0"
    (tmp_path / "plain-seed0").mkdir()
    for path in shown.rglob("*"):
        target = tmp_path / "plain-seed0" / path.relative_to(shown)
        target.mkdir(exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    result = tmp_path / "plain-seed0" / "result.json"
    said = json.loads(result.read_text()) | {"stop_reason": "it was interrupted (Ctrl-C)"}
    result.write_text(json.dumps(said))
    one = {"plain": plans["plain"]}
    comparison = run_study(one, drawn, tmp_path, seeds=(0,), accelerator=accelerator)
    assert json.loads(result.read_text())["stop_reason"].startswith("the plan's epochs were done")
    assert comparison.notes == comparison.statements == ()
    assert len(read_history(tmp_path / "plain-seed0" / "history.csv")) == 1


def test_ctrl_c_ends_the_study_and_says_how_to_go_on(plans, drawn, accelerator, tmp_path):
    import os
    import signal

    def interrupt(what, done, total):
        os.kill(os.getpid(), signal.SIGINT)

    one = {"plain": replace(plans["plain"], epochs=3)}
    with pytest.raises(RuntimeError, match="interrupted"):
        run_study(one, drawn, tmp_path, seeds=(0, 1), accelerator=accelerator, progress=interrupt)
    assert not (tmp_path / "plain-seed1").exists()


def test_an_unknown_study_is_refused_before_anything_is_trained(drawn, tmp_path):
    with pytest.raises(
        ValueError, match="no study 'rates'; there are regularisation, pooling, learning-rates"
    ):
        run_study("rates", drawn, tmp_path)
    assert list(tmp_path.iterdir()) == []
