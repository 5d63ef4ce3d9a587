import dataclasses
import json

import pytest
from run_pages import NAMES, leave_run, read

from flowerkit.reports.facts import read_facts
from flowerkit.reports.plan_section import describe_run, format_seconds


@pytest.fixture
def run(tmp_path):
    return read_facts(leave_run(tmp_path / "run"))


def change(run, **changes):
    """The run with another plan."""
    return dataclasses.replace(run, plan=dataclasses.replace(run.plan, **changes))


def test_the_score_on_test_stands_in_the_head_where_its_labels_are_known(run):
    assert "F1 on test" not in read(describe_run(run))
    known = dataclasses.replace(run, result=dict(run.result) | {"test_f1": 0.75, "test_images": 8})
    assert "F1 on test 0.750 on 8 test images" in read(describe_run(known))


def test_the_head_says_what_was_run_on_what(run):
    text = read(describe_run(run))
    assert text.startswith(
        "Training report: run Macro F1 0.556 on validation images Accuracy 66.7%"
    )
    for part in (
        "Best epoch 2 of 2 done, by val_f1",
        "An epoch 3 min 20 s 1,234 images/s",
        "First step 7.3 s compiling included",
        "Stopped after epoch 2 of at most 12, because the plan's epochs were done.",
        "Data flowers (drawn flowers), 3 classes",
        "Images train 1,440, val 3, test 3, 32 px, seen by the network at 64 px",
        "Network tiny from random weights, head “notebook”",
        "Batches 256 images a step (8 replicas with 32 each)",
        "Learning rate 0.001 to 0.003 over 2 epochs, then x 0.75 per epoch towards 0.0001",
        "Optimizer adam",
        "Augmentation flip",
        "Stops after 4 epochs without a better val_f1; the best is kept",
        "The whole plan field value backbone tiny weights null",
    ):
        assert part in text


def test_of_photos_the_folder_is_named_that_they_come_from(run):
    data = run.environment["data"] | {"origin": "folder", "photos": "/home/me/My flowers"}
    run = dataclasses.replace(run, environment=dict(run.environment) | {"data": data})
    assert "Data My flowers (a folder), 3 classes" in read(describe_run(run))


def test_figures_that_were_not_recorded_are_left_out(run):
    text = read(describe_run(dataclasses.replace(run, result={})))
    assert "An epoch" not in text
    assert "First step" not in text
    assert "Stopped after epoch 2 of at most 12; why was not recorded." in text


def test_each_phase_has_its_line(run):
    run = change(run, freeze_epochs=1, freeze_lr=0.01, epochs=9)
    text = read(describe_run(run))
    assert "Phase 1 1 epoch, the head alone: 0.01 throughout Phase 2 9 epochs, the network:" in text
    assert "epoch 2 of at most 10, because" in text


def test_what_refines_the_optimizer_is_named(run):
    run = change(run, dropout=0.25, optimizer="adamw", weight_decay=0.01, label_smoothing=0.1)
    text = read(describe_run(run))
    assert "Optimizer adamw, weight decay 0.01, label smoothing 0.1 Augmentation" in text
    assert "head “notebook”, dropout 0.25" in text


def test_every_strength_of_augmentation_that_is_on_is_named(run):
    text = read(describe_run(change(run, flip=False, min_crop_area=0.6, random_erasing=0.25)))
    assert "Augmentation min crop area 0.6, block out 0.25" in text
    assert "Augmentation none" in read(describe_run(change(run, flip=False)))


def test_patience_that_is_off_is_told(run):
    text = read(describe_run(change(run, patience=None)))
    assert "Stops never early; the best epoch by val_f1 is kept" in text


def test_an_older_run_that_recorded_less_is_described_all_the_same(tmp_path):
    leave_run(tmp_path)
    (tmp_path / "environment.json").write_text(json.dumps({"data": {"class_names": NAMES}}))
    text = read(describe_run(read_facts(tmp_path)))
    assert "Data not recorded, 3 classes Images numbers not recorded, size not recorded" in text


def test_durations_read_as_one_says_them():
    said = [format_seconds(seconds) for seconds in (0.0421, 9.96, 59.6, 90, 3599.7, float("nan"))]
    assert said == ["0.04 s", "10.0 s", "60 s", "1 min 30 s", "1 h 0 min", "not recorded"]
