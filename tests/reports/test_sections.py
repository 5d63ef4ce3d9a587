import dataclasses
import json

import numpy as np
import pytest
from run_pages import NAMES, Page, leave_run, read

from flowerkit.reports.facts import read_facts
from flowerkit.reports.html import Picture
from flowerkit.reports.sections import (
    describe_calibration,
    describe_classes,
    describe_confusion,
    describe_data,
    describe_environment,
    describe_mistakes,
    describe_submission,
    describe_training,
    find_class_counts,
)

PICTURE = Picture(b"png", "png", 1500, 900, "a picture")


@pytest.fixture
def run(tmp_path):
    return read_facts(leave_run(tmp_path / "run"))


def many_classes(folder, num_classes):
    """Class k has two images; of the first twenty classes, the second is taken for the next class."""
    labels = [k for k in range(num_classes) for _ in range(2)]
    predicted = [
        (k + place) % num_classes if k < 20 else k for k in range(num_classes) for place in (0, 1)
    ]
    names = [f"kind {k}" for k in range(num_classes)]
    return read_facts(leave_run(folder, names=names, labels=labels, predicted=predicted))


def record_counts(run, counts):
    data = run.environment["data"] | {"class_counts": {"train": counts}}
    return dataclasses.replace(run, environment={**run.environment, "data": data})


def test_the_data_are_told_by_split_with_the_rarest_classes(run):
    made = describe_data(record_counts(run, [700, 20, 720]), PICTURE)
    assert "train images 1,440 of 3 classes, 20 to 720 of each (median 700)" in read(made)
    assert "Fewest in train rose: 20, daisy: 700, lily: 720" in read(made)
    assert len(Page(made).images) == 1
    assert "boxes" in read(describe_data(run, PICTURE, ["장미"]))


def test_an_older_run_tells_of_val_alone(run):
    assert {name: list(one) for name, one in find_class_counts(run).items()} == {"val": [1, 1, 1]}
    text = read(describe_data(run, PICTURE))
    assert "val images 3 of 3 classes, 1 to 1 of each (median 1)" in text
    assert "train" not in text
    for damaged in ([1, 2], [0, 0, 0]):
        assert list(find_class_counts(record_counts(run, damaged))) == ["val"]


def test_the_phases_stand_in_the_numbers_where_there_are_several(run):
    assert "phase" not in read(describe_training(run, []))
    rows = [row | {"phase": float(k)} for k, row in enumerate(run.rows, start=1)]
    run = dataclasses.replace(run, rows=rows, best=rows[1])
    text = read(describe_training(run, []))
    assert "epoch phase loss" in text
    assert "2 (best) 2 1.000 1.100" in text


def test_a_loss_that_validation_does_not_have_is_said(run):
    assert "The training loss is" not in read(describe_training(run, []))
    plan = dataclasses.replace(run.plan, label_smoothing=0.1, mixup=0.2)
    text = read(describe_training(dataclasses.replace(run, plan=plan), []))
    assert (
        "The training loss is with label smoothing and mixup, that of validation without." in text
    )


def test_the_best_epoch_is_marked_in_the_numbers(run):
    made = describe_training(run, [PICTURE] * 3)
    assert len(Page(made).images) == 3
    text = read(made)
    assert "1 1.000 1.100 0.500 0.500 0.400 1.00e-03 1.00e-03 2.0 50" in text
    assert "2 (best) 1.000 1.100 0.500 0.500 0.600" in text


def test_the_most_confused_pairs_are_a_list(run):
    text = read(describe_confusion(run, PICTURE))
    assert "1 of 3 validation images were taken for another class." in text
    assert "rose taken for lily: 1 of 1 (100%)" in text
    assert "boxes" not in text


def test_names_that_a_picture_could_not_show_are_told(run):
    text = read(describe_confusion(run, PICTURE, undrawable=["장미"]))
    assert "1 name has boxes for letters: no font of the machine that drew it has them." in text


def test_few_classes_stand_in_one_table_worst_first(run):
    text = read(describe_classes(run))
    assert "rose 0.00 0.00 0.00 1 lily 0.67 0.50 1.00 1 daisy 1.00 1.00 1.00 1" in text
    assert "All" not in text


def test_many_classes_are_folded_below_the_worst_ten(tmp_path):
    text = read(describe_classes(many_classes(tmp_path / "run", 104)))
    worst, everything = text.split("All 104 classes")
    assert worst.count("kind") == 10
    assert everything.count("kind") == 104


def test_classes_without_images_are_counted(tmp_path):
    folder = leave_run(tmp_path, names=[*NAMES, "iris", "lotus"])
    assert "2 of 5 classes have none, and so no row." in read(describe_classes(read_facts(folder)))


def test_a_mistake_shows_what_was_guessed_and_what_it_is(run):
    made = describe_mistakes(run, [(1, PICTURE)], None)
    text = read(made)
    assert "The 1 of 1 that gave the true class least, worst first." in text
    assert "✗ guessed lily 70% ✓ is rose 10% id1" in text
    assert [attrs["alt"] for attrs in Page(made).images] == ["a picture"]


def test_where_the_model_looked_stands_beside_the_mistake(run):
    light = Picture(b"png", "jpeg", 192, 192, "where it looked")
    made = describe_mistakes(run, [(1, PICTURE)], None, maps=[light])
    assert [attrs["alt"] for attrs in Page(made).images] == ["a picture", "where it looked"]
    assert "Beside each: light is what spoke for the guess" in read(made)
    without = read(describe_mistakes(run, [(1, PICTURE)], None, note="No map: too small."))
    assert "No map: too small." in without
    assert "Beside each" not in without


def test_how_sure_the_model_is_is_said_in_words(run):
    """0.7 for every guess, and two of three are right."""
    text = read(describe_calibration(run, PICTURE))
    assert "a guess is given 70.0% and 66.7% of them are right: less than promised." in text
    assert "Over 15 bins of probability the two are 0.033 apart" in text


def test_tiny_probabilities_are_not_called_nothing(run):
    predictions = dataclasses.replace(
        run.predictions, probabilities=np.array([[1, 0, 0], [0.001, 0, 0.999], [0, 0.001, 0.999]])
    )
    run = dataclasses.replace(run, predictions=predictions)
    assert "is rose 0%" in read(describe_mistakes(run, [(1, PICTURE)], None))
    predictions.labels[1] = 0
    assert "is daisy <1%" in read(describe_mistakes(run, [(1, PICTURE)], None))


def test_without_photos_the_sheet_stands_in(run):
    assert len(Page(describe_mistakes(run, [], PICTURE)).images) == 1
    text = read(describe_mistakes(run, [], None))
    assert "1 in all. Their pictures were not at hand when this was written." in text


def test_a_run_without_mistakes_says_so(tmp_path):
    run = read_facts(leave_run(tmp_path, predicted=(0, 1, 2)))
    assert "There are none in the validation images." in read(describe_mistakes(run, [], PICTURE))
    assert "0 of 3 validation images were taken" in read(describe_confusion(run, PICTURE))


def test_a_submission_is_sound_well_formed_or_not_to_be_submitted(run, tmp_path):
    csv = tmp_path / "submission.csv"

    def judge(problems=None):
        return read(describe_submission(run, csv, problems)).removeprefix("submission.csv ")

    assert judge() == "The run folder holds no such file."
    csv.write_text("id,label\na,0\nb,2\n")
    assert judge([]) == "✓ Sound: 2 rows, labels in 0..2, every id of the test set once."
    assert judge() == (
        "✓ Well formed: 2 rows, labels in 0..2, each id once. Only its form was looked at here; "
        "whether these are the ids of the test set, flowerkit check submission.csv --data DATA "
        "tells."
    )
    wrong = ["line 3: id 'b' is not in the test set"]
    assert judge(wrong) == f"✗ 1 problem: do not submit it. {wrong[0]}"
    csv.write_text("id,label\na,0\nb,3\n")
    assert judge() == "✗ 1 problem: do not submit it. line 3: label 3 is outside 0..2"


@pytest.mark.parametrize("problems", [None, []])
def test_a_submission_that_cannot_be_read_is_a_problem_whoever_looked(run, tmp_path, problems):
    csv = tmp_path / "submission.csv"
    csv.write_text("id,label\na,0\na,1\n")
    text = read(describe_submission(run, csv, problems))
    assert "✗ 1 problem: do not submit it." in text
    assert "id 'a' appears twice (first on line 2)" in text


def test_many_problems_of_a_submission_are_folded(run, tmp_path):
    (tmp_path / "submission.csv").write_text("id,label\na,0\n")
    problems = [f"line {k}: <b>" for k in range(2, 24)]
    text = read(describe_submission(run, tmp_path / "submission.csv", problems))
    assert text.startswith("submission.csv ✗ 22 problems: do not submit it. line 2: <b> line 3:")
    assert "line 21: <b> and 2 more line 22: <b>" in text


def test_the_environment_tells_device_and_versions(run):
    text = read(describe_environment(run, "0.1.0"))
    assert "Device CPU: no TPU or GPU is attached Backend jax Replicas 8, float32" in text
    assert "keras 3.15.0 libtpu not installed python 3.12.1" in text
    assert text.endswith("Written by flowerkit 0.1.0.")


def test_an_older_run_that_recorded_less_is_described_all_the_same(tmp_path):
    leave_run(tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps({"data": {"class_names": NAMES}}))
    run = read_facts(tmp_path)
    assert "Device not recorded" in read(describe_environment(run, "0.1.0"))
