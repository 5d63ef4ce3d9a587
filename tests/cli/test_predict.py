"""Runs are made without training: a fresh network, its true val predictions, and a run's files."""

import argparse
import json
import re
import shutil

import keras
import numpy as np
import pytest

from flowerkit.cli.predict import add_predict_options, run_predict
from flowerkit.data import load_split, read_records, write_shards
from flowerkit.models.classifier import build_classifier, save_classifier
from flowerkit.prediction.blending import blend, find_weights
from flowerkit.prediction.predictions import Predictions, predict
from flowerkit.sources import find_data
from flowerkit.submission import write_submission
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.run_folder import write_start

pytestmark = pytest.mark.backends


def leave_run(folder, data, accelerator, *, seed, plan=None):
    keras.utils.set_random_seed(seed)
    with accelerator.scope():
        model = build_classifier(
            data.num_classes, image_size=data.image_size, backbone="tiny", weights=None
        )
    write_start(folder, plan or TrainingPlan(backbone="tiny", weights=None), data, accelerator)
    save_classifier(model, folder / "model.keras")
    answers = predict(model, load_split(data, "val"), global_batch=16)
    answers.save(folder / "val_predictions.npz")
    return model


@pytest.fixture(scope="module")
def two_sizes(drawn, tmp_path_factory):
    """The drawn flowers at 32 px and, the same ids and labels, at 24 px."""
    import dataclasses
    import io

    from PIL import Image

    def shrink(record):
        small = io.BytesIO()
        Image.open(io.BytesIO(record.image)).resize((24, 24)).save(small, "JPEG")
        return dataclasses.replace(record, image=small.getvalue())

    folder = tmp_path_factory.mktemp("sizes") / "flowers"
    shutil.copytree(drawn.folder, folder)
    for split, files in drawn.files.items():
        records = [shrink(record) for file in files for _, record in read_records(file)]
        write_shards(folder, split, records, image_size=24, shard_size=64)
    return folder


@pytest.fixture(scope="module")
def runs(two_sizes, accelerator, tmp_path_factory):
    """a and b at 32 px, b trained with crops, and c at 24 px; and their models."""
    folder = tmp_path_factory.mktemp("runs")
    cropped = TrainingPlan(backbone="tiny", weights=None, min_crop_area=0.5)
    models = {}
    for seed, (name, size, plan) in enumerate(
        (("a", 32, None), ("b", 32, cropped), ("c", 24, None))
    ):
        data = find_data(two_sizes, image_size=size)
        models[name] = leave_run(folder / name, data, accelerator, seed=seed, plan=plan)
    return folder, models


@pytest.fixture
def command(two_sizes, accelerator):
    """Runs predict; returns its status and the lines that it told."""

    def run(*words, data=two_sizes):
        parser = argparse.ArgumentParser()
        add_predict_options(parser)
        args = parser.parse_args([*map(str, words), "--per-replica-batch", "2"])
        args.data, args.require = str(data), None
        told = []
        return run_predict(args, told.append, lambda *_: None), told

    return run


def answers_of(model, data, accelerator, **options):
    batch = 2 * accelerator.replicas
    return predict(model, load_split(data, "test"), global_batch=batch, **options)


def test_one_run_writes_what_its_model_answers(runs, two_sizes, command, accelerator, tmp_path):
    folder, models = runs
    csv = tmp_path / "s.csv"
    status, told = command(folder / "a", "--out", csv)
    assert status == 0
    assert told == [str(accelerator), f"{csv}: 22 rows, every id once, labels in 0..3: sound"]
    by_hand = answers_of(models["a"], find_data(two_sizes, image_size=32), accelerator)
    write_submission(tmp_path / "by hand.csv", by_hand.ids, by_hand.predicted)
    assert csv.read_bytes() == (tmp_path / "by hand.csv").read_bytes()


@pytest.mark.replicas
def test_runs_of_other_sizes_blend_by_the_weights_found_on_val(
    runs, two_sizes, command, accelerator, tmp_path
):
    folder, models = runs
    names = ["a", "c", "b"]
    csv, npz = tmp_path / "s.csv", tmp_path / "p.npz"
    status, told = command(*(folder / name for name in names), "--out", csv, "--probabilities", npz)
    assert status == 0
    vals = [Predictions.load(folder / name / "val_predictions.npz") for name in names]
    found = find_weights(vals)
    assert told[1:-2] == found.describe([str(folder / name) for name in names])
    assert (
        told[1]
        == "weights found on 9 val images; macro F1 on the other 9 (so few that chance decides much):"
    )
    assert told[-2:] == [f"wrote {npz}", f"{csv}: 22 rows, every id once, labels in 0..3: sound"]
    by_hand = [
        answers_of(models[name], find_data(two_sizes, image_size=size), accelerator)
        for name, size in zip(names, (32, 24, 32), strict=True)
    ]
    expected = blend(by_hand, found.weights)
    written = Predictions.load(npz)
    assert written.ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(written.probabilities, expected.probabilities, atol=1e-6)


def test_views_are_cropped_as_in_the_run_s_training(
    runs, two_sizes, command, accelerator, tmp_path
):
    folder, models = runs
    data = find_data(two_sizes, image_size=32)
    for name, area in (("a", 0.9), ("b", 0.5)):
        npz = tmp_path / f"{name}.npz"
        words = ["--tta", "3", "--out", tmp_path / f"{name}.csv", "--probabilities", npz]
        assert command(folder / name, *words)[0] == 0
        expected = answers_of(models[name], data, accelerator, tta=3, min_crop_area=area)
        written = Predictions.load(npz).probabilities
        np.testing.assert_allclose(written, expected.probabilities, atol=1e-6)
        plain = answers_of(models[name], data, accelerator).probabilities
        assert np.abs(written - plain).max() > 1e-5


def test_progress_is_told_by_run(runs, two_sizes, tmp_path):
    told = []
    args = argparse.Namespace(
        runs=[runs[0] / "a", runs[0] / "b"],
        data=str(two_sizes),
        out=tmp_path / "s.csv",
        probabilities=None,
        overwrite=False,
        tta=2,
        per_replica_batch=16,
        on_corrupt="raise",
        require=None,
    )
    run_predict(args, lambda line: None, lambda *what: told.append(what))
    last = {what: (done, total) for what, done, total in told}
    assert last == {str(runs[0] / "a"): (44, 44), str(runs[0] / "b"): (44, 44)}


def test_a_file_that_is_there_is_replaced_only_on_request(runs, command, tmp_path):
    csv, npz = tmp_path / "s.csv", tmp_path / "p.npz"
    csv.write_text("mine")
    message = f"{csv} is there already. Name another file, or pass --overwrite to replace it."
    with pytest.raises(FileExistsError, match=re.escape(message)):
        command(runs[0] / "a", "--out", csv)
    assert csv.read_text() == "mine"
    assert command(runs[0] / "a", "--out", csv, "--overwrite")[0] == 0
    assert csv.read_text().startswith("id,label\n")
    npz.write_text("mine")
    with pytest.raises(FileExistsError, match=re.escape(f"{npz} is there already")):
        command(runs[0] / "a", "--out", tmp_path / "new.csv", "--probabilities", npz)
    assert not (tmp_path / "new.csv").exists()


def test_outputs_that_cannot_be_written_are_refused(runs, command, tmp_path):
    with pytest.raises(
        ValueError, match=r"is a folder\. Pass --out a file, such as submission\.csv"
    ):
        command(runs[0] / "a", "--out", tmp_path)
    message = r"--probabilities writes an npz file\. Received: p\.csv\. Let it end in \.npz"
    with pytest.raises(ValueError, match=message):
        command(runs[0] / "a", "--out", tmp_path / "s.csv", "--probabilities", "p.csv")


def copy_run(run, to):
    return shutil.copytree(run, to)


def test_a_run_of_other_classes_is_refused(runs, command, two_sizes, tmp_path):
    other = copy_run(runs[0] / "b", tmp_path / "other")
    environment = json.loads((other / "environment.json").read_text())
    environment["data"]["class_names"][1] = "rose"
    (other / "environment.json").write_text(json.dumps(environment))
    message = (
        f"{re.escape(str(other))} knows other classes than {re.escape(str(two_sizes))} holds "
        r"\(class 1 is 'rose' and '.*'\)\. Pass the data it was trained for, or train on this\."
    )
    with pytest.raises(ValueError, match=message):
        command(runs[0] / "a", other, "--out", tmp_path / "s.csv")


def test_a_run_of_a_size_that_is_not_there_is_refused(runs, command, drawn, tmp_path):
    message = (
        f"{runs[0] / 'c'} was trained on folder images of 24 px with 4 classes; {drawn.folder} "
        f"holds 32 px. Pass the data it was trained for."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        command(runs[0] / "a", runs[0] / "c", "--out", tmp_path / "s.csv", data=drawn.folder)


def test_runs_that_were_validated_on_other_images_are_refused(runs, command, tmp_path):
    other = copy_run(runs[0] / "b", tmp_path / "other")
    val = Predictions.load(other / "val_predictions.npz")
    ids = np.array(["stranger", *val.ids[1:]])
    Predictions(ids, val.probabilities, val.labels).save(other / "val_predictions.npz")
    files = f"{other}/val_predictions.npz and {runs[0]}/a/val_predictions.npz"
    message = (
        f"{files} answer for other images: only the one has 1 ('stranger'), only the other 1 ("
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        command(runs[0] / "a", other, "--out", tmp_path / "s.csv")


def test_sizes_that_hold_other_test_images_are_refused(runs, command, two_sizes, tmp_path):
    data = shutil.copytree(two_sizes, tmp_path / "data")
    test = next(data.glob("tfrecords-jpeg-24x24/test"))
    (file,) = test.iterdir()
    records = [record for _, record in read_records(file)][:-1]
    shutil.rmtree(test)
    write_shards(data, "test", records, image_size=24, shard_size=64)
    (data / "sample_submission.csv").unlink()
    message = (
        f"{runs[0] / 'c'} and {runs[0] / 'a'} answer for other images: only the one has none, only "
        f"the other 1 ("
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        command(runs[0] / "a", runs[0] / "c", "--out", tmp_path / "s.csv", data=data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plan.json", "is no run folder (no plan.json)"),
        ("val_predictions.npz", "no predictions "),
        ("model.keras", "no model "),
    ],
)
def test_a_run_that_lacks_a_file_is_refused_before_anything_is_predicted(
    runs, command, tmp_path, name, message
):
    other = copy_run(runs[0] / "b", tmp_path / "other")
    (other / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        command(runs[0] / "a", other, "--out", tmp_path / "s.csv")
