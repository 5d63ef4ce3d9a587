"""training: real runs of a tiny network, on the backend and devices of the environment."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from flowerkit.data.split import load_split
from flowerkit.data.tfrecords import find_shards, read_records, write_shards
from flowerkit.prediction.predictions import Predictions, predict
from flowerkit.sources import draw_competition
from flowerkit.submission import check_submission, write_submission
from flowerkit.training.history import COLUMNS, read_history
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.run_folder import load_run
from flowerkit.training.trainer import train

pytestmark = pytest.mark.backends


@pytest.fixture(scope="module")
def finished(drawn, accelerator, tmp_path_factory):
    """A run that did all its epochs; tests only look at it."""
    plan = make_plan(accelerator)
    return train(plan, drawn, out=tmp_path_factory.mktemp("runs") / "run", accelerator=accelerator)


def make_plan(accelerator, **changes):
    fields = {
        "backbone": "tiny",
        "weights": None,
        "epochs": 2,
        "lr_reference_batch": None,
        "per_replica_batch": 16 // accelerator.replicas,
        "rampup_epochs": 1,
        "start_lr": 1e-3,
        "max_lr": 2e-3,
    }
    return TrainingPlan(**(fields | changes))


@pytest.mark.replicas
def test_a_run_leaves_the_folder_that_was_promised(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {
        "plan.json",
        "environment.json",
        "history.csv",
        "result.json",
        "model.keras",
        "val_predictions.npz",
        "checkpoints",
    }
    assert {path.name for path in (finished.folder / "checkpoints").iterdir()} == {
        "best.weights.h5",
        "last.weights.h5",
    }
    environment = json.loads((finished.folder / "environment.json").read_text())
    assert environment["accelerator"]["backend"] == keras.config.backend()
    assert environment["data"]["counts"] == {"train": 50, "val": 18, "test": 22}
    of_classes = environment["data"]["class_counts"]
    assert {name: sum(counts) for name, counts in of_classes.items()} == {"train": 50, "val": 18}
    assert [len(counts) for counts in of_classes.values()] == [4, 4]


@pytest.mark.replicas
def test_the_planned_and_the_real_rate_are_both_recorded_and_equal(finished):
    rows = read_history(finished.folder / "history.csv")
    assert tuple(rows[0]) == COLUMNS
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["planned_lr"] for row in rows] == [0.001, 0.002]
    assert [row["learning_rate"] for row in rows] == [0.001, 0.002]


def test_the_run_says_how_it_ended(finished):
    assert str(finished).startswith(
        f"stopped at epoch 2 because the plan's epochs were done; best epoch "
        f"{finished.best['epoch']}: macro F1 "
    )
    result = json.loads((finished.folder / "result.json").read_text())
    assert result["val_f1"] == finished.best["val_f1"]
    assert result["stopped_at_epoch"] == 2


@pytest.mark.replicas
def test_the_saved_model_predicts_what_the_run_recorded(finished, drawn):
    """Also over several replicas, whose BatchNormalization statistics differ while training."""
    _, _, model = load_run(finished.folder)
    val = load_split(drawn, "val")
    # Through plain arrays: no replicas, no padding, nothing of the run's own.
    probabilities = keras.ops.convert_to_numpy(model(val.images, training=False))
    recorded = Predictions.load(finished.folder / "val_predictions.npz")
    np.testing.assert_allclose(recorded.probabilities, probabilities, atol=1e-5)
    assert recorded.ids.tolist() == val.ids.tolist()
    assert recorded.score()["val_f1"] == finished.best["val_f1"]


@pytest.mark.replicas
def test_the_csv_of_a_run_is_sound_with_a_remainder_over_the_replicas(finished, drawn, tmp_path):
    test = load_split(drawn, "test")
    predictions = predict(finished.model, test, global_batch=finished.global_batch)
    write_submission(tmp_path / "submission.csv", predictions.ids, predictions.predicted)
    assert check_submission(tmp_path / "submission.csv", test.ids, 4) == []
    alone = keras.ops.convert_to_numpy(finished.model(test.images, training=False))
    np.testing.assert_allclose(predictions.probabilities, alone, atol=1e-5)


@pytest.mark.replicas
def test_the_same_seed_gives_the_same_history_twice(finished, drawn, accelerator, tmp_path):
    again = train(finished.plan, drawn, out=tmp_path / "again", accelerator=accelerator)
    timed = ("seconds", "images_per_second")
    for row, same in zip(finished.history, again.history, strict=True):
        for name in set(COLUMNS) - set(timed):
            assert row[name] == same[name], name


def test_a_resumed_run_ends_like_the_whole_one(finished, drawn, accelerator, tmp_path):
    plan = make_plan(accelerator, epochs=1)
    train(plan, drawn, out=tmp_path / "run", accelerator=accelerator)
    resumed = train(
        finished.plan, drawn, out=tmp_path / "run", accelerator=accelerator, resume=True
    )
    assert [row["epoch"] for row in resumed.history] == [1, 2]
    for name in ("loss", "val_loss", "val_f1", "learning_rate"):
        assert resumed.history[1][name] == pytest.approx(finished.history[1][name], rel=1e-5)


def test_a_run_is_not_resumed_on_other_images(drawn, accelerator, tmp_path):
    out = tmp_path / "run"
    train(make_plan(accelerator, epochs=1), drawn, out=out, accelerator=accelerator)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    other = draw_competition(
        tmp_path / "other",
        num_classes=4,
        image_size=32,
        num_train=50,
        num_val=18,
        num_test=22,
        seed=2,
    )
    with pytest.raises(
        ValueError, match=r"began with other images: train was 50 .* in a new folder"
    ):
        train(make_plan(accelerator), other, out=out, accelerator=accelerator, resume=True)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_a_finished_run_that_is_resumed_trains_no_more(finished, drawn, accelerator):
    weights = finished.model.get_weights()
    again = train(finished.plan, drawn, out=finished.folder, accelerator=accelerator, resume=True)
    assert again.stop_reason == "the plan's epochs were done before (--epochs N goes further)"
    assert len(again.history) == 2
    for one, other in zip(weights, again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.replicas
def test_a_tpus_mixed_precision_trains_saves_and_reloads(drawn, accelerator, tmp_path):
    """On a CPU's replicas, but with the dtypes of a TPU: bfloat16 inside, a float32 softmax."""
    as_on_tpu = dataclasses.replace(accelerator, precision="mixed_bfloat16")
    run = train(
        make_plan(accelerator, epochs=1), drawn, out=tmp_path / "run", accelerator=as_on_tpu
    )
    assert run.model.get_layer("backbone").layers[1].compute_dtype == "bfloat16"
    assert run.predictions.probabilities.dtype == np.float32
    np.testing.assert_allclose(run.predictions.probabilities.sum(axis=1), 1, atol=1e-5)


class SpoilAfter(keras.callbacks.Callback):
    """From epoch `first` on, the head is sure of class 0 whatever it sees: worse than any beginning."""

    def __init__(self, first):
        super().__init__()
        self.first, self.best = first, None

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 < self.first:
            self.best = self.model.get_weights()

    def on_epoch_begin(self, epoch, logs=None):
        if epoch + 1 >= self.first:
            head = self.model.get_layer("flower_classifier").get_layer("probabilities")
            kernel, bias = head.get_weights()
            head.set_weights([np.zeros_like(kernel), 100.0 * (np.arange(len(bias)) == 0)])


@pytest.mark.replicas
def test_early_stopping_stops_and_the_best_weights_come_back(drawn, accelerator, tmp_path):
    plan = make_plan(accelerator, epochs=30, patience=2, monitor="val_loss")
    spoil = SpoilAfter(first=3)
    run = train(plan, drawn, out=tmp_path / "run", accelerator=accelerator, callbacks=[spoil])
    assert run.stop_reason == "val_loss had not improved for 2 epochs (early stopping)"
    assert run.best["epoch"] in (1, 2)
    assert run.history[-1]["epoch"] == run.best["epoch"] + 2
    if run.best["epoch"] == 2:
        for kept, best in zip(run.model.get_weights(), spoil.best, strict=True):
            np.testing.assert_array_equal(kept, best)


def test_a_loss_that_is_no_number_stops_with_the_step_and_keeps_the_last_good_weights(
    drawn, accelerator, tmp_path
):
    class Poison(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations == 4:  # epoch 2, its second step
                head = self.model.get_layer("flower_classifier").get_layer("probabilities")
                head.set_weights([np.nan * weight for weight in head.get_weights()])

    plan = make_plan(accelerator, epochs=3)
    run = train(plan, drawn, out=tmp_path / "run", accelerator=accelerator, callbacks=[Poison()])
    assert run.stop_reason == "the loss became nan in epoch 2, step 2"
    assert len(run.history) == 1
    assert all(np.isfinite(weight).all() for weight in run.model.get_weights())


def test_a_loss_that_is_never_a_number_leaves_nothing_to_keep(drawn, accelerator, tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            head = self.model.get_layer("flower_classifier").get_layer("probabilities")
            head.set_weights([np.nan * weight for weight in head.get_weights()])

    with pytest.raises(
        RuntimeError, match=r"loss became nan in epoch 1, step 1: there are no weights"
    ):
        train(
            make_plan(accelerator),
            drawn,
            out=tmp_path / "run",
            accelerator=accelerator,
            callbacks=[Poison()],
        )


def test_progress_is_told_after_every_step(drawn, accelerator, tmp_path):
    told = []
    train(
        make_plan(accelerator),
        drawn,
        out=tmp_path / "run",
        accelerator=accelerator,
        progress=lambda *step: told.append(step),
    )
    assert told == [(f"epoch {epoch}/2", step, 3) for epoch in (1, 2) for step in (1, 2, 3)]


def test_time_that_is_up_ends_training_with_a_model(drawn, accelerator, tmp_path):
    plan = make_plan(accelerator, epochs=500, max_minutes=0.3, patience=None)
    run = train(plan, drawn, out=tmp_path / "run", accelerator=accelerator)
    assert run.stop_reason in (
        "another epoch would not have fitted into the time",
        "the time was up",
    )
    assert 1 <= len(run.history) < 500
    assert (run.folder / "model.keras").is_file()


def test_a_plateau_lowers_a_constant_rate(drawn, accelerator, tmp_path):
    plan = make_plan(
        accelerator,
        epochs=4,
        schedule="constant",
        plateau_patience=1,
        patience=None,
        monitor="val_loss",
    )
    run = train(
        plan, drawn, out=tmp_path / "run", accelerator=accelerator, callbacks=[SpoilAfter(first=2)]
    )
    rates = [row["learning_rate"] for row in run.history]
    assert rates == pytest.approx([2e-3, 2e-3, 1e-3, 5e-4])


def test_tensorboard_logs_are_written_on_request(drawn, accelerator, tmp_path):
    plan = make_plan(accelerator, epochs=1, tensorboard=True)
    run = train(plan, drawn, out=tmp_path / "run", accelerator=accelerator)
    assert list((run.folder / "tensorboard").rglob("events.out.*"))


@pytest.mark.parametrize(("left_in", "rows_left"), [(1, [2]), (2, [3])])
def test_an_epoch_that_was_left_is_done_again(drawn, accelerator, tmp_path, left_in, rows_left):
    class Leave(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch + 1

        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = (self.epoch, batch) == (left_in, 1)

    plan = make_plan(accelerator, epochs=2)
    out = tmp_path / "run"
    left = train(plan, drawn, out=out, accelerator=accelerator, callbacks=[Leave()])
    # Only a first epoch is kept in part: later ones leave the best weights to whole epochs.
    assert [row["steps"] for row in left.history] == rows_left
    resumed = train(plan, drawn, out=out, accelerator=accelerator, resume=True)
    assert [(row["epoch"], row["steps"]) for row in resumed.history] == [(1, 3), (2, 3)]
    assert resumed.predictions.score()["val_f1"] == pytest.approx(resumed.best["val_f1"], rel=1e-6)


def test_a_backbone_that_does_not_exist_is_said_before_the_data_is_read(drawn, tmp_path):
    data = dataclasses.replace(drawn, files={**drawn.files, "train": ()})
    with pytest.raises(ValueError, match="'DenseNet12' is neither"):
        train(TrainingPlan(backbone="DenseNet12"), data, out=tmp_path / "run")


def test_a_run_folder_one_level_down_is_pointed_at(finished):
    with pytest.raises(FileNotFoundError, match=rf"Did you mean {finished.folder}\?"):
        load_run(finished.folder.parent)


# Refusals -----------------------------------------------------------------------------------------


def test_tensorboard_that_is_not_installed_is_said_before_training(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("flowerkit.training.trainer.importlib.util.find_spec", lambda name: None)
    plan = TrainingPlan(tensorboard=True)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard, or leave it out"):
        train(plan, drawn, out=tmp_path / "run")


def test_a_second_controller_of_the_rate_among_your_callbacks_is_refused(
    drawn, accelerator, tmp_path
):
    callbacks = [keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3)]
    with pytest.raises(
        ValueError, match=r"two controllers .*='ramp' and your LearningRateScheduler"
    ):
        train(make_plan(accelerator), drawn, out=tmp_path / "run", callbacks=callbacks)


def test_a_folder_with_a_run_is_not_overwritten(finished, drawn):
    with pytest.raises(FileExistsError, match=r"already holds a run. .* resume=True \(--resume\)"):
        train(finished.plan, drawn, out=finished.folder)


def test_resuming_nothing_says_so(finished, drawn, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to resume in .* Start without resume"):
        train(finished.plan, drawn, out=tmp_path, resume=True)


def test_one_class_only_is_refused(drawn, accelerator, tmp_path):
    records = [record for file in drawn.files["train"] for _, record in read_records(file)]
    kept = [record for record in records if record.label == 2]
    write_shards(tmp_path, "train", kept, image_size=32, shard_size=64)
    data = find_shards(tmp_path, class_names=drawn.class_names, origin="folder")
    with pytest.raises(ValueError, match=rf"one class only \('{drawn.class_names[2]}'\); there is"):
        train(make_plan(accelerator), data, out=tmp_path / "run", accelerator=accelerator)


def test_a_batch_larger_than_the_split_is_refused(drawn, accelerator, tmp_path):
    plan = make_plan(accelerator, per_replica_batch=64)
    with pytest.raises(ValueError, match=r"is larger than the train split \(50 images\)"):
        train(plan, drawn, out=tmp_path / "run", accelerator=accelerator)


def test_an_empty_val_split_is_refused(drawn, accelerator, tmp_path):
    data = dataclasses.replace(drawn, files={**drawn.files, "val": ()})
    with pytest.raises(ValueError, match="the val split of .* is empty"):
        train(make_plan(accelerator), data, out=tmp_path / "run", accelerator=accelerator)


def test_validation_out_of_the_training_split_is_refused(drawn, accelerator, tmp_path):
    data = dataclasses.replace(
        drawn,
        files={**drawn.files, "val": drawn.files["train"]},
        counts={**drawn.counts, "val": 50},
    )
    with pytest.raises(ValueError, match="train and val share 50 ids"):
        train(make_plan(accelerator), data, out=tmp_path / "run", accelerator=accelerator)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder .* Run `flowerkit train`"):
        load_run(tmp_path)
