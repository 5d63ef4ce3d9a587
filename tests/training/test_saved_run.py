import numpy as np
import pytest

from flowerkit.prediction import Predictions
from flowerkit.training import RunFolder, SavedRun


def test_a_run_is_read_whole(finished_run):
    run = SavedRun.load(finished_run.folder)
    assert (run.name, run.class_names) == ("petals", tuple(run.environment.data.class_names))
    assert run.plan == finished_run.plan
    assert run.result == finished_run.summary
    assert run.history.best["epoch"] == finished_run.history.best["epoch"]
    assert run.predicted.tolist() == finished_run.predictions.predicted.tolist()
    assert run.global_batch == finished_run.global_batch == 16
    assert run.confusion.sum() == len(run.labels) == 18
    assert run.num_parameters == finished_run.model.count_params()


def test_mistakes_come_worst_first(make_run, tmp_path):
    run = SavedRun.load(make_run(tmp_path / "run", labels=(1, 2, 0, 0), predicted=(0, 0, 0, 1)))
    # What is left of 1 after 0.7 and 0.2 is worse than the 0.2 of the class after the prediction.
    assert run.worst_mistakes.tolist() == [1, 3, 0]
    assert run.confusion.tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_a_folder_without_a_finished_run_is_an_error(run_copy, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no plan\.json.*Did you mean {run_copy}\?"):
        SavedRun.load(tmp_path)
    (run_copy / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"--resume --out {run_copy}"):
        SavedRun.load(run_copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda all: Predictions(all.ids, all.probabilities, None),
        lambda all: Predictions(all.ids, all.probabilities[:, :2], all.labels),
        lambda all: Predictions(all.ids[:0], all.probabilities[:0], all.labels[:0]),
    ],
)
def test_predictions_that_cannot_be_scored_name_the_file(run_copy, change):
    file = RunFolder(run_copy).val_predictions_file
    change(Predictions.load(file)).save(file)
    with pytest.raises(ValueError, match=rf"{file} must hold labels and .* Train again"):
        SavedRun.load(run_copy)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_a_history_without_the_last_epochs_is_damaged(run_copy, num_rows):
    file = RunFolder(run_copy).history_file
    file.write_text("\n".join(file.read_text().splitlines()[: 1 + num_rows]) + "\n")
    with pytest.raises(ValueError, match=f"{file} is damaged: it has {num_rows} epochs? .* had 2"):
        SavedRun.load(run_copy)


def test_a_history_without_the_score_of_the_best_epoch_is_damaged(run_copy):
    folder = RunFolder(run_copy)
    history, best = folder.history(), folder.result().best_epoch
    history[best - 1][folder.plan().monitor] = float("nan")
    history.save()
    with pytest.raises(
        ValueError, match=rf"history\.csv is damaged: epoch {best}, the best one, has"
    ):
        SavedRun.load(run_copy)


def test_a_damaged_model_names_the_file(run_copy):
    (run_copy / "model.keras").write_bytes(np.zeros(9, "uint8"))
    with pytest.raises(ValueError, match=r"model\.keras is damaged or missing"):
        _ = SavedRun.load(run_copy).num_parameters
