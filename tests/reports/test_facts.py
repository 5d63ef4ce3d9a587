import json

import pytest
from run_pages import leave_run

from flowerkit.reports.facts import read_facts


def test_a_run_folder_is_read_whole(tmp_path):
    run = read_facts(leave_run(tmp_path / "petals"))
    assert run.name == "petals"
    assert run.class_names == ["daisy", "rose", "lily"]
    assert (run.best["epoch"], run.best["val_f1"]) == (2, 0.6)
    assert run.result["first_step_seconds"] == 7.31
    assert run.global_batch == 256
    assert run.predicted.tolist() == [0, 2, 2]
    assert run.confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


def test_mistakes_come_worst_first(tmp_path):
    folder = leave_run(tmp_path, labels=(1, 2, 0, 0), predicted=(0, 0, 0, 1))
    # What is left of 1 after 0.7 and 0.2 is worse than the 0.2 of the class after the guess.
    assert read_facts(folder).worst_mistakes == [1, 3, 0]


def test_a_run_without_result_has_an_empty_one(tmp_path):
    (leave_run(tmp_path) / "result.json").unlink()
    assert read_facts(tmp_path).result == {}


def test_an_older_run_without_an_accelerator_counts_one_replica(tmp_path):
    leave_run(tmp_path)
    environment = {"data": {"class_names": ["daisy", "rose", "lily"]}}
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    assert read_facts(tmp_path).global_batch == 32


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run folder \(no plan.json\)"):
        read_facts(tmp_path)


def test_a_run_without_predictions_is_an_error(tmp_path):
    (leave_run(tmp_path) / "val_predictions.npz").unlink()
    with pytest.raises(FileNotFoundError, match="no predictions .*val_predictions.npz"):
        read_facts(tmp_path)


def test_a_run_without_a_whole_epoch_is_an_error(tmp_path):
    (leave_run(tmp_path) / "history.csv").unlink()
    with pytest.raises(ValueError, match="history.csv has no epoch with a val_f1.*whole epoch"):
        read_facts(tmp_path)
