"""Real runs of a small dense network, made once: two plans, two seeds, an epoch each."""

import os
import shutil
import signal
from dataclasses import replace

import pytest

from flowerkit.experiments import run_study
from flowerkit.training import RunFolder


@pytest.fixture(scope="module")
def plans(dense_plan):
    return {"plain": dense_plan, "dropout": replace(dense_plan, dropout=0.5)}


@pytest.fixture(scope="module")
def studied(plans, drawn, accelerator, tmp_path_factory):
    """The folder of the study, the comparison, and the calls of progress."""
    out, calls = tmp_path_factory.mktemp("study"), []
    comparison = run_study(
        plans,
        drawn,
        out,
        seeds=(0, 1),
        accelerator=accelerator,
        progress=lambda *call: calls.append(call),
    )
    return out, comparison, calls


def test_every_plan_is_trained_with_every_seed_and_compared(studied):
    out, comparison, calls = studied
    names = ["dropout-seed0", "dropout-seed1", "plain-seed0", "plain-seed1"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert {(one.name, len(one.runs)) for one in comparison.experiments} == {
        ("plain", 2),
        ("dropout", 2),
    }
    assert comparison.differing == ("dropout",)
    assert len(comparison.statements) == 1
    for run in comparison.runs:
        assert run.history.best["val_f1"] == pytest.approx(run.result.val_f1, rel=1e-6)
        # 3,072 pixels, twice 64 units, 4 classes.
        assert run.num_parameters == 3072 * 64 + 64 + 65 * 64 + 65 * 4
    assert calls


def test_what_is_finished_is_not_trained_again(studied, plans, drawn, accelerator):
    out, first, _ = studied
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = run_study(plans, drawn, out, seeds=(0, 1), accelerator=accelerator)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
    assert again.statements == first.statements


def test_another_plan_in_its_place_is_refused(studied, plans, drawn, accelerator):
    out = studied[0]
    with pytest.raises(ValueError, match=r"plain-seed0 holds .* epochs 1 and 2\. .*--out"):
        run_study(plans, drawn, out, seeds=(0,), epochs=2, accelerator=accelerator)
    other = {"dropout": replace(plans["dropout"], max_lr=1e-3, dropout=0.1)}
    with pytest.raises(ValueError, match="dropout 0.5 and 0.1, max_lr .* and 0.001"):
        run_study(other, drawn, out, seeds=(0,), accelerator=accelerator)


def test_another_study_in_its_folder_is_refused(studied, plans, drawn, accelerator):
    other = {"wide": plans["plain"]}
    with pytest.raises(ValueError, match="another study, such as dropout-seed0.*--out"):
        run_study(other, drawn, studied[0], seeds=(0,), accelerator=accelerator)


def test_other_data_are_refused(studied, plans, drawn, accelerator):
    out = studied[0]
    fewer = replace(drawn, counts={**drawn.counts, "val": 0})
    with pytest.raises(ValueError, match="plain-seed0 .* different images .*'val': 18.*'val': 0"):
        run_study(plans, fewer, out, seeds=(0,), accelerator=accelerator)
    renamed = replace(drawn, class_names=("oak", *drawn.class_names[1:]))
    with pytest.raises(ValueError, match=r"different classes \(class 0 is '.*' and 'oak'\)"):
        run_study(plans, renamed, out, seeds=(0,), accelerator=accelerator)


def test_an_interrupted_run_continues(studied, plans, drawn, accelerator, tmp_path):
    """Interrupted after its last epoch: the epoch is there, the end is not."""
    shutil.copytree(studied[0] / "plain-seed0", tmp_path / "plain-seed0")
    run = RunFolder(tmp_path / "plain-seed0")
    run.write_result(replace(run.result(), interrupted=True, stop_reason="it was interrupted"))
    study = {"plain": plans["plain"]}
    comparison = run_study(study, drawn, tmp_path, seeds=(0,), accelerator=accelerator)
    assert run.result().stop_reason.startswith("the plan's epochs were done")
    assert comparison.notes == comparison.statements == ()
    assert len(run.history()) == 1


def test_ctrl_c_ends_the_study_with_the_remedy(plans, drawn, accelerator, tmp_path):
    def interrupt(label, done, total):
        os.kill(os.getpid(), signal.SIGINT)

    study = {"plain": replace(plans["plain"], epochs=3)}
    with pytest.raises(RuntimeError, match="interrupted"):
        run_study(study, drawn, tmp_path, seeds=(0, 1), accelerator=accelerator, progress=interrupt)
    assert not (tmp_path / "plain-seed1").exists()


def test_an_unknown_study_is_refused_before_anything_is_trained(drawn, tmp_path):
    with pytest.raises(ValueError, match="there are regularisation, pooling, learning-rates"):
        run_study("rates", drawn, tmp_path)
    assert list(tmp_path.iterdir()) == []
