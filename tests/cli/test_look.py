"""predict, check and report as they are typed."""

import dataclasses
import io
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from flowerkit.cli import look
from flowerkit.data import read_records, write_shards
from flowerkit.prediction import Predictions, blend, find_weights, predict
from flowerkit.sources import find_data, find_test_ids, write_csv
from flowerkit.submission import write_submission
from flowerkit.training import RunFolder, train

VALID = "22 rows, every id once, labels in 0..3: valid"


@pytest.fixture(scope="module")
def two_sizes(drawn, tmp_path_factory):
    """The drawn flowers at 32 px and, the same ids and labels, at 24 px."""

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
def small_run(two_sizes, quick_plan, accelerator, tmp_path_factory):
    """A run at 24 px, trained with crops."""
    plan = dataclasses.replace(quick_plan, epochs=1, min_crop_area=0.5, image_size=24)
    folder = tmp_path_factory.mktemp("small") / "small"
    data = find_data(two_sizes, image_size=24)
    return train(data, plan, out=folder, accelerator=accelerator)


@pytest.fixture
def predict_runs(flowerkit, two_sizes):
    def run(*words, data=two_sizes):
        return flowerkit("predict", *words, "--data", data, "--per-replica-batch", 2)

    return run


def predict_by_hand(run, data, **options):
    from flowerkit.data import load_split

    batch = 2 * run.accelerator.replicas
    data = find_data(data, image_size=run.model.input_shape[1])
    return predict(run.model, load_split(data, "test"), global_batch=batch, **options)


# predict ------------------------------------------------------------------------------------------


def test_runs_of_different_sizes_blend_by_the_weights_found_on_val(
    finished_run, small_run, two_sizes, predict_runs, tmp_path
):
    csv, npz = tmp_path / "s.csv", tmp_path / "p.npz"
    runs = (finished_run, small_run)
    folders = [run.folder for run in runs]
    status, out, _ = predict_runs(*folders, "--out", csv, "--probabilities", npz)
    assert status == 0
    found = find_weights([run.predictions for run in runs])
    assert out[1:-2] == found.describe([str(folder) for folder in folders])
    assert out[-2:] == [f"wrote {npz}", f"{csv}: {VALID}"]
    expected = blend([predict_by_hand(run, two_sizes) for run in runs], found.weights)
    written = Predictions.load(npz)
    assert written.ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(written.probabilities, expected.probabilities, atol=1e-6)


def test_views_are_cropped_as_in_the_training_of_the_run(
    finished_run, small_run, two_sizes, predict_runs, tmp_path
):
    for run, area in ((finished_run, 0.9), (small_run, 0.5)):
        npz = tmp_path / f"{area}.npz"
        words = ("--tta", "3", "--out", tmp_path / f"{area}.csv", "--probabilities", npz)
        assert predict_runs(run.folder, *words)[0] == 0
        expected = predict_by_hand(run, two_sizes, tta=3, min_crop_area=area)
        written = Predictions.load(npz).probabilities
        np.testing.assert_allclose(written, expected.probabilities, atol=1e-6)


def test_a_file_that_exists_is_replaced_only_on_request(finished_run, predict_runs, tmp_path):
    csv, npz = tmp_path / "s.csv", tmp_path / "p.npz"
    csv.write_text("mine")
    status, _, err = predict_runs(finished_run.folder, "--out", csv)
    assert status == 1
    assert f"{csv} already exists." in err
    assert "--overwrite" in err
    assert csv.read_text() == "mine"
    assert predict_runs(finished_run.folder, "--out", csv, "--overwrite")[0] == 0
    assert csv.read_text().startswith("id,label\n")
    npz.write_text("mine")
    words = ("--out", tmp_path / "new.csv", "--probabilities", npz)
    assert predict_runs(finished_run.folder, *words)[0] == 1
    assert not (tmp_path / "new.csv").exists()


def test_outputs_that_cannot_be_written_are_refused(finished_run, predict_runs, tmp_path):
    assert "--out a file" in predict_runs(finished_run.folder, "--out", tmp_path)[2]
    words = ("--out", tmp_path / "s.csv", "--probabilities", "p.csv")
    assert "end in .npz" in predict_runs(finished_run.folder, *words)[2]


def test_data_of_other_classes_or_another_size_is_refused(
    finished_run, small_run, drawn, predict_runs, tmp_path
):
    words = ("--out", tmp_path / "s.csv")
    err = predict_runs(finished_run.folder, small_run.folder, *words, data=drawn.folder)[2]
    assert f"{small_run.folder} was trained on folder images of 24 px with 4 classes" in err
    assert f"{drawn.folder} holds 32 px" in err
    other = shutil.copytree(drawn.folder, tmp_path / "other")
    (other / "classes.json").write_text('["rose", "white daisy", "tulip", "lily"]')
    err = predict_runs(finished_run.folder, *words, data=other)[2]
    assert re.search(r"on other classes .*class 0 is '.*' and 'rose'\).*--data", err)


def test_runs_that_were_validated_on_other_images_are_refused(
    finished_run, run_copy, predict_runs, tmp_path
):
    run = RunFolder(run_copy)
    val = run.val_predictions()
    ids = np.array(["stranger", *val.ids[1:]])
    Predictions(ids, val.probabilities, val.labels).save(run.val_predictions_file)
    err = predict_runs(finished_run.folder, run_copy, "--out", tmp_path / "s.csv")[2]
    assert f"{run_copy} and {finished_run.folder} hold different images" in err
    assert "'stranger'" in err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plan.json", "is no run folder (no plan.json)"),
        ("val_predictions.npz", "no predictions "),
        ("model.keras", "has lost its model.keras"),
    ],
)
def test_a_run_that_lacks_a_file_is_refused_before_anything_is_predicted(
    finished_run, run_copy, predict_runs, tmp_path, name, message
):
    (run_copy / name).unlink()
    status, _, err = predict_runs(finished_run.folder, run_copy, "--out", tmp_path / "s.csv")
    assert status == 1
    assert message in err


# check --------------------------------------------------------------------------------------------


def test_check_says_that_a_csv_is_valid(flowerkit, drawn, tmp_path):
    csv = tmp_path / "s.csv"
    write_submission(csv, find_test_ids(drawn), [3] * 21 + [0])
    assert flowerkit("check", csv, "--data", drawn.folder) == (0, [f"{csv}: {VALID}"], "")


def test_check_warns_of_a_valid_csv_in_which_all_rows_have_one_label(flowerkit, drawn, tmp_path):
    csv = tmp_path / "s.csv"
    write_submission(csv, find_test_ids(drawn), [3] * 22)
    status, out, _ = flowerkit("check", csv, "--data", drawn.folder)
    assert (status, out[0]) == (0, f"{csv}: {VALID}")
    assert out[1].startswith("warning: all 22 rows have the label '3'")


def test_check_lists_every_problem_and_fails(flowerkit, drawn, tmp_path):
    csv, ids = tmp_path / "s.csv", find_test_ids(drawn)
    write_submission(csv, [*ids[:-1], "foreign"], [4] + [0] * 21)
    status, out, _ = flowerkit("check", csv, "--data", drawn.folder)
    assert status == 1
    assert out == [
        f"{csv}: 3 problems",
        "  line 2: label 4 is outside 0..3",
        "  line 23: id 'foreign' is not in the test set",
        f"  1 id of the test set missing: '{ids[-1]}'",
    ]
    csv.write_text("")
    assert flowerkit("check", csv, "--data", drawn.folder)[1][0] == f"{csv}: 1 problem"


def test_of_many_problems_the_first_fifty_are_printed(drawn, tmp_path):
    csv, lines = tmp_path / "s.csv", []
    ids = [*find_test_ids(drawn), *(f"stranger{k}" for k in range(60))]
    write_submission(csv, ids, [0] * 82)
    assert len(look.report_problems(csv, drawn, lines.append)) == 61
    assert len(lines) == 52
    assert lines[-1] == "  ... and 11 more"


def test_where_the_test_labels_are_known_the_score_is_printed(drawn, tmp_path):
    folder, csv, lines = tmp_path / "photos", tmp_path / "s.csv", []
    folder.mkdir()
    ids = find_test_ids(drawn)
    data = dataclasses.replace(drawn, folder=folder)
    shutil.copy(drawn.folder / "sample_submission.csv", folder)
    write_submission(csv, ids, [0] * 11 + [1] * 11)
    write_submission(folder / "test_labels.csv", ids[:21], [0] * 11 + [1] * 5 + [2] * 5)
    assert look.report_problems(csv, data, lines.append) == []
    # F1: 1 for class 0, 2/3 for class 1, 0 for class 2; the last image has no known label.
    assert lines[1].endswith("macro F1 0.5556, accuracy 0.7619 (21 images)")


def test_a_csv_holds_the_numbers_that_name_the_classes_and_not_their_ids(drawn, tmp_path):
    csv, lines, ids = tmp_path / "s.csv", [], find_test_ids(drawn)
    data = dataclasses.replace(drawn, folder=tmp_path, class_names=("1", "2", "7", "10"))
    shutil.copy(drawn.folder / "sample_submission.csv", tmp_path)
    predictions = SimpleNamespace(ids=ids, predicted=[3] * 11 + [0] * 11)
    write_submission(tmp_path / "test_labels.csv", ids, [3] * 22, data.csv_labels)
    assert write_csv(csv, predictions, data) == []
    assert look.report_problems(csv, data, lines.append) == []
    assert {line.split(",")[1] for line in csv.read_text().splitlines()[1:]} == {"10", "1"}
    assert lines[0].endswith("labels in class names that are numbers: valid")
    assert "accuracy 0.5000 (22 images)" in lines[1]
    csv.write_text(csv.read_text().replace(",10\n", ",3\n"))
    assert len(look.report_problems(csv, data, lines.append)) == 11
    assert "label '3' is none of the classes 1, 2, ... 10" in lines[3]


# report -------------------------------------------------------------------------------------------


def test_the_pictures_of_a_report_come_from_the_data_of_the_run(flowerkit, run_copy, drawn):
    page = run_copy / "report.html"
    shutil.copy(drawn.folder / "sample_submission.csv", run_copy / "submission.csv")
    assert flowerkit("report", run_copy) == (0, [f"wrote {page}"], "")
    text = page.read_text(encoding="utf-8")
    assert "every id of the test set once" in text
    assert "data:image/jpeg" in text  # its worst mistakes


def test_without_its_data_a_report_is_written_and_what_is_missing_is_printed(
    flowerkit, run_copy, tmp_path, caplog
):
    run = RunFolder(run_copy)
    environment = run.environment()
    data = dataclasses.replace(environment.data, folder=str(tmp_path / "gone"))
    run.environment_file.unlink()
    run.write_start(run.plan(), run.fitted(), dataclasses.replace(environment, data=data))
    status, out, _ = flowerkit("report", run_copy)
    assert (status, out) == (0, [f"wrote {run_copy / 'report.html'}"])
    (warning,) = caplog.messages
    assert (
        f"without photos: the images that {run_copy} was trained on are not in {tmp_path}/gone"
        in warning
    )
    assert f"flowerkit report {run_copy} --data FOLDER" in warning


def test_data_that_is_not_the_runs_is_refused(flowerkit, run_copy, drawn, tmp_path):
    status, _, err = flowerkit("report", run_copy, "--data", tmp_path / "nowhere")
    assert status == 1
    assert "nowhere" in err
    other = shutil.copytree(drawn.folder, tmp_path / "other")
    shards = next(other.glob("tfrecords-jpeg-*"))
    shutil.rmtree(shards / "val")
    shutil.copytree(shards / "train", shards / "val")
    err = flowerkit("report", run_copy, "--data", other)[2]
    assert f"{other} holds others than the val images of {run_copy}" in err
    assert "--data" in err
