"""run_folder: the files of a run, what is refused, and what a damaged file says."""

import dataclasses
import json

import keras
import pytest

from flowerkit.sources import draw_competition
from flowerkit.training.history import COLUMNS
from flowerkit.training.phases import plan_phases
from flowerkit.training.plan import TrainingPlan, load_plan, settle
from flowerkit.training.run_folder import Fitted, RunFolder
from flowerkit.training.trainer import train


def test_a_run_leaves_the_promised_files_and_each_is_read_back(finished_run):
    folder = RunFolder(finished_run.folder)
    assert {path.name for path in folder.path.iterdir()} == {
        "plan.json",
        "environment.json",
        "history.csv",
        "result.json",
        "model.keras",
        "val_predictions.npz",
        "checkpoints",
    }
    best, last = finished_run.summary.best_epoch, finished_run.summary.stopped_at_epoch
    for kind, epoch in (("best", best), ("predictions", best), ("last", last)):
        assert folder.find_epoch(kind, epoch)
    assert folder.plan() == finished_run.plan
    assert folder.result() == finished_run.summary
    assert tuple(folder.history()[0]) == COLUMNS
    environment = folder.environment()
    assert environment.accelerator.backend == keras.config.backend()
    assert environment.data.counts == {"train": 50, "val": 18, "test": 22}
    counts = environment.data.class_counts
    assert {name: sum(of_classes) for name, of_classes in counts.items()} == {
        "train": 50,
        "val": 18,
    }
    assert [len(of_classes) for of_classes in counts.values()] == [4, 4]


# What a run chose ----------------------------------------------------------------------------------


@pytest.fixture
def chosen(tmp_path):
    """(folder, plan, fitted, phase): a default plan that was settled, and its network fitted."""
    plan, reasons = settle(TrainingPlan(), num_train=640, stored_px=224, kind="cpu", replicas=1)
    plan = dataclasses.replace(plan, epochs=2.2, max_lr=4e-4)
    phase = plan_phases(plan, global_batch=32, steps_an_epoch=20)[-1]
    rest = phase.fitted(22, 20, from_epoch=11)
    reasons |= {"epochs": "2.20: as measured", "max_minutes": "7", "max_lr": "0.0004: the valley"}
    folder, fitted = RunFolder(tmp_path / "run"), Fitted().with_rest(rest, reasons)
    folder.write_plan(plan, fitted)
    return folder, plan, fitted, phase


def test_the_plan_file_says_what_was_chosen_and_why(chosen):
    folder, plan, fitted, _ = chosen
    assert folder.plan() == plan == load_plan(folder.plan_file)
    assert folder.fitted() == fitted
    values = json.loads(folder.plan_file.read_text())
    assert values["fitted"]["reasons"]["max_lr"] == "0.0004: the valley"
    assert (values["epochs"], values["input_size"]) == (2.2, 224)


def test_a_plan_as_it_was_asked_for_has_auto_where_the_run_has_chosen(chosen):
    _, plan, fitted, _ = chosen
    assert fitted.asked(plan) == TrainingPlan()
    assert Fitted().asked(plan) == plan


def test_a_run_that_is_resumed_keeps_what_it_has_chosen(chosen):
    folder, plan, *_ = chosen
    assert folder.complete(TrainingPlan(max_minutes=5.0)) == dataclasses.replace(
        plan, max_minutes=5.0
    )
    assert folder.complete(TrainingPlan(epochs=4)).epochs == 4


def test_what_is_left_of_a_phase_is_restored_unless_the_plan_has_another_length(chosen):
    folder, _, _, phase = chosen
    rest = folder.fitted().restore(phase, 11)
    assert (rest.first_epoch, rest.epochs, rest.steps) == (11, 2, 11)
    assert (rest.start, rest.end) == (phase.position(11), 2.2)
    longer = dataclasses.replace(phase, end=5.0)
    assert folder.fitted().restore(longer, 11) == longer
    assert folder.fitted().restore(phase, 10) == phase  # the epoch before it is done again
    head = dataclasses.replace(phase, number=1)
    assert folder.fitted().restore(head, 11) == head
    assert Fitted().restore(phase, 11) == phase


def test_a_plan_file_of_a_run_without_reasons_says_that_nothing_was_chosen(run_copy):
    folder = RunFolder(run_copy)
    values = json.loads(folder.plan_file.read_text())
    del values["fitted"], values["checksum"]
    folder.plan_file.write_text(json.dumps(values))
    assert folder.fitted() == Fitted()


@pytest.mark.parametrize("name", ["plan.json", "environment.json", "result.json"])
@pytest.mark.parametrize("spoil", ["cut", "list", "number"])
def test_a_damaged_file_is_named_with_a_remedy(run_copy, name, spoil):
    file, folder = run_copy / name, RunFolder(run_copy)
    values = json.loads(file.read_text())
    first = next(iter(values))
    file.write_text(
        {"cut": file.read_text()[:-20], "list": "[]", "number": json.dumps(values | {first: 0.5})}[
            spoil
        ]
    )
    read = {"plan": folder.plan, "environment": folder.environment, "result": folder.result}
    with pytest.raises(ValueError, match=str(file)):
        read[file.stem]()


@pytest.mark.parametrize(("name", "key"), [("environment.json", "data"), ("result.json", "val_f1")])
def test_a_missing_key_is_named_with_its_file(run_copy, name, key):
    file, folder = run_copy / name, RunFolder(run_copy)
    values = json.loads(file.read_text())
    del values[key]
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=rf"{file} lacks {key}"):
        folder.environment() if name == "environment.json" else folder.result()


@pytest.mark.parametrize("name", ["environment.json", "model.keras", "val_predictions.npz"])
def test_a_missing_file_is_named(run_copy, name):
    (run_copy / name).unlink()
    folder = RunFolder(run_copy)
    read = {
        "environment.json": folder.environment,
        "model.keras": folder.model,
        "val_predictions.npz": folder.val_predictions,
    }
    with pytest.raises(FileNotFoundError, match=str(run_copy / name)):
        read[name]()


def test_a_run_without_a_result_is_not_finished(run_copy):
    (run_copy / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"--resume --out {run_copy}"):
        RunFolder(run_copy).result()


def test_a_run_folder_one_level_down_is_suggested(run_copy, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"Did you mean {run_copy}\?"):
        RunFolder(run_copy.parent).plan()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="Run `flowerkit train`"):
        RunFolder(tmp_path / "empty").plan()


def test_a_folder_with_a_run_is_not_overwritten(run_copy):
    with pytest.raises(FileExistsError, match=r"resume=True \(--resume\)"):
        RunFolder.start(run_copy)


def test_resuming_nothing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to resume in"):
        RunFolder.resume(tmp_path)


def test_a_run_is_not_resumed_on_other_images(run_copy, quick_plan, accelerator, tmp_path):
    before = {file: file.read_bytes() for file in run_copy.rglob("*") if file.is_file()}
    other = draw_competition(
        tmp_path / "other",
        num_classes=4,
        image_size=32,
        num_train=50,
        num_val=18,
        num_test=22,
        seed=2,
    )
    with pytest.raises(ValueError, match=r"began with other images: train was 50 .* a new folder"):
        train(other, quick_plan, out=run_copy, accelerator=accelerator, resume=True)
    assert {file: file.read_bytes() for file in run_copy.rglob("*") if file.is_file()} == before
