import json
import math

import numpy as np
import pytest
from run_pages import leave_run

from flowerkit.experiments.compared import FIGURES, read_compared, was_interrupted
from flowerkit.prediction.predictions import Predictions


@pytest.fixture
def run_folder(tmp_path):
    return leave_run(tmp_path / "run")


def test_a_run_is_read_with_its_figures(run_folder):
    (run,) = read_compared([run_folder])
    figures = {name: figure(run) for name, figure in FIGURES.items()}
    assert math.isnan(figures.pop("parameters"))  # there is no model.keras
    assert figures == {
        "val_f1": 0.6,
        "val_accuracy": 0.5,
        "val_loss": 1.1,
        "accuracy": 0.5,
        "best_epoch": 2,
        "epochs_done": 2,
        "minutes": pytest.approx(4 / 60),
    }


def test_its_setting_is_the_plan_but_the_seed_and_device_and_data(run_folder):
    (run,) = read_compared([run_folder])
    assert run.setting["backbone"] == "tiny"
    assert "seed" not in run.setting
    assert run.setting["device"] == "cpu x 8, jax, float32"
    assert run.setting["data"] == "drawn, 3 classes, 32 px, 1,440 to train, 3 to validate"


def test_a_schedule_of_your_own_stands_for_the_plans(run_folder):
    environment = json.loads((run_folder / "environment.json").read_text())
    assert read_compared([run_folder])[0].setting["schedule"] == "ramp"
    environment["schedule"] = "mine, by epoch and rate"
    (run_folder / "environment.json").write_text(json.dumps(environment))
    assert read_compared([run_folder])[0].setting["schedule"] == "mine, by epoch and rate"


def test_rows_are_ordered_by_id(run_folder):
    answers = Predictions.load(run_folder / "val_predictions.npz")
    mixed = [2, 0, 1]
    Predictions(answers.ids[mixed], answers.probabilities[mixed], answers.labels[mixed]).save(
        run_folder / "val_predictions.npz"
    )
    (run,) = read_compared([run_folder])
    assert run.ids.tolist() == ["id0", "id1", "id2"]
    assert run.order.tolist() == [1, 2, 0]


def test_no_folder_is_an_error():
    with pytest.raises(ValueError, match="nothing to compare: pass one run folder or more"):
        read_compared([])


def test_the_same_folder_twice_is_an_error(run_folder):
    other = leave_run(run_folder.parent / "other")
    with pytest.raises(ValueError, match=r"/other/\.\./run is given twice\. Pass each run once"):
        read_compared([run_folder, other, other / ".." / "run"])


def test_a_folder_that_holds_no_run_is_an_error(run_folder):
    with pytest.raises(FileNotFoundError, match=r"is no run folder .* Did you mean .*/run\?"):
        read_compared([run_folder.parent])


def test_a_run_that_is_not_finished_is_an_error(run_folder):
    (run_folder / "result.json").unlink()
    with pytest.raises(ValueError, match=r"/run is not finished .* --resume --out .*/run`"):
        read_compared([run_folder])


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("plan.json", "{", "Expecting property name"),
        ("plan.json", '{"epochs": "many"}', "epochs must be int"),
        ("environment.json", "{}", "it lacks 'data'"),
        ("environment.json", "[]", "list indices must be"),
        ("history.csv", "epoch,val_f1\none,0.5\n", "could not convert string to float: 'one'"),
        ("history.csv", "a,b\n1,2\n", "it lacks 'epoch'"),
        ("history.csv", "epoch,val_f1\n1,\n", "no epoch with a val_f1"),
        ("history.csv", "epoch,val_f1\n1,0.5\n", "it lacks 'seconds'"),
        ("result.json", "[1]", r"must hold a JSON object"),
        ("val_predictions.npz", "no zip", "holds no predictions of flowerkit"),
    ],
)
def test_a_damaged_file_names_the_folder(run_folder, file, content, said):
    (run_folder / file).write_text(content)
    with pytest.raises(ValueError, match=rf"/run is damaged: .*{said}.*\. Leave it out, or train"):
        read_compared([run_folder])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: Predictions(p.ids, p.probabilities, None), "val_predictions.npz has no labels"),
        (lambda p: Predictions(p.ids, p.probabilities[:, :2], p.labels), r"\(3, 2\) for 3 classes"),
        (lambda p: Predictions(p.ids, p.probabilities * np.nan, p.labels), "hold NaN"),
        (lambda p: Predictions(p.ids[:0], p.probabilities[:0], p.labels[:0]), "hold no figures"),
    ],
)
def test_answers_that_cannot_be_scored_name_the_folder(run_folder, change, said):
    file = run_folder / "val_predictions.npz"
    change(Predictions.load(file)).save(file)
    with pytest.raises(ValueError, match=rf"/run is damaged: .*{said}"):
        read_compared([run_folder])


def test_predictions_that_are_missing_are_named(run_folder):
    (run_folder / "val_predictions.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no predictions .*/run/val_predictions.npz"):
        read_compared([run_folder])


def test_weights_are_counted_without_keras_and_generators_are_none(run_folder):
    import keras

    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )
    model.save(run_folder / "model.keras")
    (run,) = read_compared([run_folder])
    assert run.num_parameters == model.count_params() == 4 * 3 + 3 + 4 * 3


def test_a_damaged_model_has_no_count(run_folder):
    (run_folder / "model.keras").write_text("no zip")
    (run,) = read_compared([run_folder])
    assert math.isnan(run.num_parameters)


def test_an_interrupted_run_is_known_by_its_reason(run_folder):
    assert was_interrupted({"stop_reason": "it was interrupted (Ctrl-C)"})
    assert not was_interrupted(json.loads((run_folder / "result.json").read_text()))
    assert not was_interrupted({})
