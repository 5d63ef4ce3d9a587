"""run_folder: the files of a run, what is refused, and what a damaged file says."""

import dataclasses
import errno
import itertools
import json
import os
import shutil

import keras
import numpy as np
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
    folder, fitted = RunFolder(tmp_path / "run"), Fitted(reasons).with_rest(rest)
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
    assert (rest.first_epoch, rest.epochs, rest.steps) == (11, 1, 22)
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


@pytest.mark.parametrize(
    ("name", "key"), [("environment.json", "data"), ("result.json", "best_epoch")]
)
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


# Kills and damage ----------------------------------------------------------------------------------

# A frozen and a whole phase, averaged weights, and an epoch that is not the best after one that is.
PHASES = {"freeze_epochs": 2, "freeze_lr": 2e-2, "epochs": 2, "ema": 0.5, "patience": None}
TIMES = ("seconds", "images_per_second")


class Killed(BaseException):
    """Nothing catches it, as nothing catches kill -9."""


@pytest.fixture(scope="module")
def train_phases(quick_plan, drawn, accelerator, tmp_path_factory):
    """train_phases(name): that run, resumed where there is one to resume."""
    parent, plan = tmp_path_factory.mktemp("runs"), dataclasses.replace(quick_plan, **PHASES)

    def train_or_resume(name):
        out = parent / name
        resume = (out / "plan.json").exists()
        return train(drawn, plan, out=out, accelerator=accelerator, resume=resume)

    train_or_resume.parent = parent
    return train_or_resume


@pytest.fixture(scope="module")
def whole(train_phases):
    """The run that nothing has stopped."""
    return train_phases("whole")


def assert_same(result, whole):
    """The same epochs, weights and predictions, in memory and in the folder."""
    # A SIGTERM for the tests (`timeout 600 pytest`) ends the run that is under way, and not the tests.
    assert not result.summary.interrupted, result.summary.stop_reason
    for row, other in zip(result.history, whole.history, strict=True):
        assert {k: v for k, v in row.items() if k not in TIMES} == pytest.approx(
            {k: v for k, v in other.items() if k not in TIMES}, rel=1e-5, nan_ok=True
        )
    folder = RunFolder(result.folder)
    assert folder.result().best_epoch == whole.summary.best_epoch
    assert folder.result().best_weights == whole.summary.best_weights
    for model in (result.model, folder.model()):
        for one, other in zip(model.get_weights(), whole.model.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(
        folder.val_predictions().probabilities, whole.predictions.probabilities, atol=1e-5
    )


def interrupt(monkeypatch, number, error):
    """Raise `error` in place of the `number`-th rename of a file; returns the names before it."""
    names, rename = [], os.replace

    def count(source, target):
        if len(names) == number:
            names.append(None)
            raise error
        names.append(os.path.basename(target))
        rename(source, target)

    monkeypatch.setattr(os, "replace", count)
    return names


@pytest.mark.slow
@pytest.mark.backends
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_run_that_ends_before_any_of_its_files_is_written_ends_like_the_whole(
    train_phases, whole, monkeypatch, error
):
    kind = type(error).__name__
    for number in itertools.count():
        with monkeypatch.context() as patch:
            names = interrupt(patch, number, error)
            try:
                train_phases(f"{kind}-{number}")
            except type(error):
                pass
        if None not in names:
            break
        resumed = train_phases(f"{kind}-{number}")
        assert_same(resumed, whole)
        shutil.rmtree(resumed.folder)
    assert number > 15  # of each epoch the states and the row, the plan and its reasons, the model


@pytest.fixture
def broken(whole, train_phases, request):
    """The whole run before its end: its last epoch's row, its model and its result are missing."""
    folder = train_phases.parent / request.node.name
    shutil.copytree(whole.folder, folder)
    return RunFolder(folder)


def flip(file):
    """Change one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file):
    """Keep the first two thirds."""
    file.write_bytes(file.read_bytes()[: os.path.getsize(file) * 2 // 3])


@pytest.mark.parametrize("spoil", [flip, cut])
def test_a_damaged_state_is_not_used_and_the_epoch_is_done_again(
    broken, train_phases, whole, caplog, spoil
):
    file = broken.find_epoch("last", 4)
    spoil(file)
    resumed = train_phases(broken.path.name)
    assert f"{file} is damaged" in caplog.text
    assert "epoch 4 is done again" in caplog.text
    assert_same(resumed, whole)
    assert broken.find_epoch("last", 4)


@pytest.mark.parametrize("kind", ["best", "predictions"])
def test_damaged_best_weights_give_way_to_the_next_best_that_are_whole(
    broken, train_phases, whole, caplog, kind
):
    best = whole.summary.best_epoch
    flip(broken.find_epoch(kind, best))
    resumed = train_phases(broken.path.name)
    assert f"of epoch {best}, are damaged or missing" in caplog.text
    assert resumed.summary.best_epoch == broken.result().best_epoch < best
    kept = {row["epoch"]: row["val_f1"] for row in whole.history}[resumed.summary.best_epoch]
    assert resumed.predictions.score()["val_f1"] == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize("spoil", [flip, cut])
@pytest.mark.parametrize("name", ["history.csv", "plan.json", "environment.json"])
def test_a_damaged_table_or_plan_is_used_nowhere(broken, train_phases, whole, spoil, name, caplog):
    file = broken.path / name
    spoil(file)
    resumed, refused = None, ""
    try:
        resumed = train_phases(broken.path.name)
    except ValueError as error:
        refused = str(error)
    assert str(file) in refused + caplog.text
    if resumed:  # by the rows before the damage, and the state of the last of them
        assert_same(resumed, whole)


def test_a_second_run_in_the_same_folder_is_refused(broken, train_phases):
    pytest.importorskip("fcntl")
    with (
        broken.locked(),
        pytest.raises(FileExistsError, match=rf"process {os.getpid()} on .* is training into"),
    ):
        train_phases(broken.path.name)


@pytest.mark.parametrize(("replicas", "per_replica"), [(8, 2), (1, 16), (4, 4)])
def test_on_other_replicas_a_run_goes_on_with_the_same_batches(
    finished_run, accelerator, replicas, per_replica, caplog
):
    caplog.set_level("INFO", "flowerkit")
    other = dataclasses.replace(accelerator, replicas=replicas)
    folder = RunFolder(finished_run.folder)
    assert folder.continue_with(folder.plan(), other).per_replica_batch == per_replica
    said = f"replicas {accelerator.replicas} -> {replicas}; a batch stays 16 images"
    assert (said in caplog.text) == (replicas != accelerator.replicas)


def test_batches_that_the_replicas_cannot_share_are_refused(finished_run, accelerator):
    folder = RunFolder(finished_run.folder)
    with pytest.raises(ValueError, match="16 images, which 3 replicas.*on 1, 2 of them"):
        folder.continue_with(folder.plan(), dataclasses.replace(accelerator, replicas=3))
    with pytest.raises(ValueError, match="per_replica_batch is 5, but.*16 images"):
        folder.continue_with(dataclasses.replace(folder.plan(), per_replica_batch=5), accelerator)


@pytest.mark.parametrize("name", ["backbone", "weights"])
def test_a_backbone_and_weights_are_found_in_or_beside_a_run_that_was_moved(run_copy, name):
    folder = RunFolder(run_copy)
    folder.write_plan(
        dataclasses.replace(folder.plan(), **{name: "/gone/net.keras"}), folder.fitted()
    )
    with pytest.raises(FileNotFoundError, match=rf"the {name} of .* Put net.keras into {run_copy}"):
        folder.complete(folder.plan())
    for place in (run_copy.parent, run_copy):
        (place / "net.keras").touch()
        assert getattr(folder.plan(), name) == str(place / "net.keras")
        asked = dataclasses.replace(folder.plan(), **{name: "/gone/net.keras"})
        assert getattr(folder.complete(asked), name) == str(place / "net.keras")
