"""A run that is killed, or whose disk fills, at any moment goes on as if nothing had happened."""

import errno
import itertools
import os
import shutil

import numpy as np
import pytest

from flowerkit.training.run_folder import RunFolder
from flowerkit.training.trainer import train

# A frozen and a whole phase, averaged weights, and an epoch that is not the best after one that is.
PHASES = {"freeze_epochs": 2, "freeze_lr": 2e-2, "epochs": 2, "ema": 0.5, "patience": None}
TIMES = ("seconds", "images_per_second")


class Killed(BaseException):
    """Nothing catches it, as nothing catches kill -9."""


@pytest.fixture(scope="module")
def train_phases(quick_plan, drawn, accelerator, tmp_path_factory):
    """train_phases(name): that run, resumed where there is one to resume."""
    from dataclasses import replace

    parent, plan = tmp_path_factory.mktemp("runs"), replace(quick_plan, **PHASES)

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
