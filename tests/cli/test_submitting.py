import dataclasses
import shutil

import pytest

from flowerkit.cli.submitting import find_score, predict_and_submit, report_problems, submit
from flowerkit.data import load_split
from flowerkit.prediction.predictions import predict
from flowerkit.sources import find_test_ids
from flowerkit.submission import write_submission

pytestmark = pytest.mark.backends


@pytest.fixture
def told():
    return []


@pytest.fixture(scope="module")
def model(accelerator):
    from flowerkit.models.classifier import build_classifier

    with accelerator.scope():
        return build_classifier(4, image_size=32, backbone="tiny", weights=None)


def test_a_csv_of_predictions_is_written_and_told_sound(drawn, model, told, tmp_path):
    csv = tmp_path / "s.csv"
    assert predict_and_submit(model, drawn, csv, told.append, global_batch=16) == []
    assert told == [f"{csv}: 22 rows, every id once, labels in 0..3: sound"]
    answers = predict(model, load_split(drawn, "test"), global_batch=16)
    other = tmp_path / "other.csv"
    assert submit(answers, drawn, other, told.append) == []
    assert other.read_bytes() == csv.read_bytes()


def test_problems_are_told_a_line_each_and_answered(drawn, told, tmp_path):
    csv = tmp_path / "s.csv"
    csv.touch()
    problems = report_problems(csv, drawn, told.append)
    assert len(problems) == 1
    assert told == [f"{csv}: 1 problem", f"  {problems[0]}"]


def test_of_many_problems_the_first_fifty_are_told(drawn, told, tmp_path):
    csv = tmp_path / "s.csv"
    sample = (drawn.folder / "sample_submission.csv").read_text().splitlines()[1:]
    ids = [line.split(",")[0] for line in sample]
    write_submission(csv, ids + [f"stranger{k}" for k in range(60)], [0] * 82)
    assert len(report_problems(csv, drawn, told.append)) == 61  # and their number
    assert told[0] == f"{csv}: 61 problems"
    assert told[1] == "  line 24: id 'stranger0' is not in the test set"
    assert len(told) == 52
    assert told[-1] == "  ... and 11 more"


def test_where_the_test_labels_are_known_the_score_is_told(drawn, told, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    ids = find_test_ids(drawn)
    data = dataclasses.replace(drawn, folder=folder)
    shutil.copy(drawn.folder / "sample_submission.csv", folder)
    write_submission(tmp_path / "s.csv", ids, [0] * 11 + [1] * 11)
    write_submission(folder / "test_labels.csv", ids[:21], [0] * 11 + [1] * 5 + [2] * 5)
    assert find_score(tmp_path / "s.csv", drawn) == {}  # as in the competition
    assert report_problems(tmp_path / "s.csv", data, told.append) == []
    # F1: 1 for class 0, 2/3 for class 1, 0 for class 2; the last image has no known label.
    assert told[1:] == [
        "on test, whose labels are known: macro F1 0.5556, accuracy 0.7619 (21 images)"
    ]
