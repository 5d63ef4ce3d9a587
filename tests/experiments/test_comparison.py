import math
import re

import numpy as np
import pytest

from flowerkit.experiments import compare_runs
from flowerkit.prediction import Predictions
from flowerkit.training import RunFolder

LABELS = tuple(np.tile([0, 1, 2], 40).tolist())


@pytest.fixture
def leave(make_run, tmp_path):
    """Writes a run with 120 validation images; `wrong` are the rows that are predicted wrong."""

    def leave(name, *, wrong=(), labels=LABELS, f1=None, **changes):
        predicted = [(label + (row in wrong)) % 3 for row, label in enumerate(labels)]
        f1 = 1 - len(wrong) / len(labels) if f1 is None else f1
        return make_run(tmp_path / name, labels=labels, predicted=predicted, f1=f1, **changes)

    return leave


def change_predictions(folder, change):
    file = RunFolder(folder).val_predictions_file
    change(Predictions.load(file)).save(file)


def test_a_single_run_is_an_experiment_without_statements(leave):
    found = compare_runs([leave("only")])
    assert [experiment.name for experiment in found.experiments] == ["only"]
    assert found.differing == found.statements == found.notes == ()
    assert math.isnan(found.experiments[0].spread("val_f1"))


def test_experiments_are_listed_best_first_with_their_figures(leave):
    folders = [
        leave(name, wrong=range(n), dropout=n / 100)
        for name, n in (("middle", 8), ("best", 2), ("last", 30))
    ]
    found = compare_runs(folders)
    assert [experiment.name for experiment in found.experiments] == ["best", "middle", "last"]
    best = found.experiments[0]
    assert best.mean("val_f1") == pytest.approx(1 - 2 / 120)
    assert best.mean("best_epoch") == best.mean("epochs_done") == 2
    assert best.mean("minutes") == pytest.approx(4 / 60)
    assert best.mean("parameters") > 1000
    assert [statement.split(" is ")[0] for statement in found.statements] == ["middle", "last"]
    assert all("behind best" in statement for statement in found.statements)


def test_fields_that_differ_are_named_and_the_others_shared(leave):
    device = {"kind": "cpu", "replicas": 8, "backend": "jax", "precision": "float32"}
    found = compare_runs(
        [leave("a", device=device), leave("b", device=device, max_lr=1e-2, dropout=0.5)]
    )
    assert found.differing == ("dropout", "max_lr")
    assert found.shared["backbone"] == "tiny"
    assert found.shared["device"] == "cpu x 8, jax, float32"
    assert found.shared["data"] == "drawn, 3 classes, 32 px, 1,440 to train, 120 to validate"
    assert not {"dropout", "max_lr", "seed"} & set(found.shared)


def test_a_schedule_given_in_python_replaces_the_plans(leave):
    found = compare_runs([leave("a"), leave("b", schedule="mine, by epoch and rate")])
    assert found.differing == ("schedule",)
    values = {experiment.setting["schedule"] for experiment in found.experiments}
    assert values == {"ramp", "mine, by epoch and rate"}


def test_runs_that_differ_in_the_seed_alone_are_one_experiment(leave):
    folders = [
        leave(f"net-seed{seed}", seed=seed, f1=f1) for seed, f1 in ((0, 0.5), (1, 0.6), (2, 0.7))
    ]
    found = compare_runs(folders)
    (experiment,) = found.experiments
    assert experiment.name == "net"
    assert experiment.values("val_f1").tolist() == [0.5, 0.6, 0.7]
    assert experiment.mean("val_f1") == pytest.approx(0.6)
    assert experiment.spread("val_f1") == pytest.approx(0.1)  # of n - 1
    assert (len(found.runs), found.statements) == (3, ())


@pytest.mark.parametrize("end", ["interrupted", "failed"])
def test_the_same_seed_twice_and_a_run_that_ended_early_are_noted(leave, end):
    folder = leave("a", seed=3)
    result = {end: True, "stopped_at_epoch": 1, "stop_reason": "of something"}
    cut_short = leave("b", seed=3, result=result)
    notes = compare_runs([folder, cut_short]).notes
    assert notes[0] == f"{cut_short} ended after epoch 1 of 2 epochs, because of something."
    assert "a and 1 more has runs of the same seed (3, 3)" in notes[1]


def test_the_device_and_the_data_separate_experiments_like_a_field(leave):
    found = compare_runs(
        [
            leave("a", seed=0),
            leave("b", seed=1, device={"kind": "gpu"}),
            leave("c", seed=2, data={"counts": {"train": 700, "val": 120, "test": 3}}),
        ]
    )
    assert len(found.experiments) == 3
    assert found.differing == ("device", "data")
    assert "They ran on different devices: their minutes cannot be compared." in found.notes


def test_folders_of_the_same_name_are_named_with_their_path(leave):
    found = compare_runs([leave("x/run"), leave("y/run", dropout=0.4)])
    assert {experiment.name for experiment in found.experiments} == {"x/run", "y/run"}


def test_no_folder_and_the_same_folder_twice_are_errors(leave, tmp_path):
    with pytest.raises(ValueError, match="nothing to compare: pass one run folder or more"):
        compare_runs([])
    folder = leave("run")
    with pytest.raises(ValueError, match=r"/x/\.\./run is given twice\. Pass each run once"):
        compare_runs([folder, tmp_path / "x" / ".." / "run"])


# Chance -------------------------------------------------------------------------------------------


def test_a_difference_inside_the_noise_has_no_winner(leave):
    found = compare_runs([leave("a", wrong=(0, 1)), leave("b", wrong=(5, 6, 7), dropout=0.5)])
    (statement,) = found.statements
    assert statement.startswith("b is 0.008 of macro F1 behind a, which is inside the noise (95 % ")
    assert statement.endswith("): no winner.")
    assert "2,000 paired bootstrap samples" in found.notes[0]
    assert found.notes[-1].endswith("so all figures are a little too good.")


def test_a_difference_that_is_more_than_noise_is_called_so(leave):
    found = compare_runs([leave("a", wrong=(0,)), leave("b", wrong=range(60), dropout=0.5)])
    (statement,) = found.statements
    assert statement.startswith("b is 0.492 of macro F1 behind a, which is more than noise (95 % ")
    assert re.search(r"interval 0\.[34]\d\d to 0\.[56]\d\d\)\.$", statement)


def test_images_are_paired_by_id_and_not_by_row(leave):
    """Both are wrong at the same images, which b has in another order."""
    wrong = range(0, 60, 2)
    folders = [leave("a", wrong=wrong), leave("b", wrong=wrong, dropout=0.5)]
    mixed = np.random.default_rng(0).permutation(len(LABELS))
    change_predictions(
        folders[1],
        lambda all: Predictions(all.ids[mixed], all.probabilities[mixed], all.labels[mixed]),
    )
    assert "0.000 of macro F1 behind a" in compare_runs(folders).statements[0]
    assert "(95 % interval 0.000 to 0.000)" in compare_runs(folders).statements[0]


def test_seeds_that_scatter_make_noise_of_a_clear_difference(leave):
    wrong = {"a": (range(1), range(30), range(2)), "b": (range(31), range(60, 90), range(40))}
    folders = [
        leave(f"{name}-seed{seed}", wrong=rows, seed=seed, dropout=ord(name) / 200)
        for name, sets in wrong.items()
        for seed, rows in enumerate(sets)
    ]
    together = compare_runs(folders)
    assert "inside the noise" in together.statements[0]
    assert "pooled over the two experiments" in " ".join(together.notes)
    alone = compare_runs([folders[0], folders[3]])
    assert "more than noise" in alone.statements[0]
    assert "the effect of another seed is not in the interval" in " ".join(alone.notes)


# What cannot be compared --------------------------------------------------------------------------


def test_each_set_of_validation_images_has_a_best_experiment(leave):
    found = compare_runs(
        [
            leave("a"),
            leave("a2", wrong=range(10), dropout=0.5),
            leave("b", labels=LABELS[:90], wrong=(1,)),
            leave("b2", labels=LABELS[:90], wrong=range(9), dropout=0.5),
        ]
    )
    first, second, third = found.statements
    assert first == (
        "b and a cannot be compared: they were validated on different images (90 and 120, 90 of them in "
        "both)."
    )
    assert "behind a," in second
    assert "behind b," in third
    assert [leader.name for leader in found.leaders] == ["a", "b"]


@pytest.mark.parametrize("is_best", [True, False])
def test_other_classes_are_not_compared(leave, is_best):
    names = ["daisy", "iris", "lily"]
    found = compare_runs(
        [leave("a", wrong=(1,)), leave("b", wrong=range(2 * (not is_best)), names=names)]
    )
    assert re.search(
        r"different classes \(class 1 is '(iris|rose)' and '(iris|rose)'\)", *found.statements
    )


def test_other_labels_and_repeated_ids_are_not_compared(leave):
    folders = [leave("a"), leave("b", wrong=(1,), dropout=0.5)]

    def relabel(all):
        return Predictions(
            all.ids, all.probabilities, np.r_[[2, 2], all.labels[2:]].astype("int32")
        )

    change_predictions(folders[1], relabel)
    assert (
        "2 of their validation images have different labels" in compare_runs(folders).statements[0]
    )
    for folder in folders:
        change_predictions(
            folder,
            lambda all: Predictions(
                np.r_[all.ids[1:2], all.ids[1:]], all.probabilities, all.labels
            ),
        )
    assert "a: 1 id more than once" in compare_runs(folders).statements[0]
