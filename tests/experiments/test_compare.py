import json
import math
import re

import numpy as np
import pytest
from compared import LABELS, leave

from flowerkit.experiments.compare import compare_pair, compare_runs
from flowerkit.prediction.predictions import Predictions


def test_a_single_run_is_a_table_of_one_row_without_statements(tmp_path):
    found = compare_runs([leave(tmp_path / "only")])
    assert [one.name for one in found.experiments] == ["only"]
    assert found.differing == found.statements == found.notes == ()
    assert found.num_runs == 1


def test_experiments_stand_best_first(tmp_path):
    folders = [
        leave(tmp_path / name, wrong=range(n), dropout=n / 100)
        for name, n in (("middle", 8), ("best", 2), ("last", 30))
    ]
    found = compare_runs(folders)
    assert [one.name for one in found.experiments] == ["best", "middle", "last"]
    assert found.experiments[0].mean("val_f1") == pytest.approx(1 - 2 / 120)


def test_fields_that_differ_are_named_and_the_others_told_once(tmp_path):
    folders = [leave(tmp_path / "a"), leave(tmp_path / "b", max_lr=1e-3, dropout=0.5)]
    found = compare_runs(folders)
    assert found.differing == ("dropout", "max_lr")
    assert found.shared["backbone"] == "tiny"
    assert found.shared["device"] == "cpu x 8, jax, float32"
    assert not {"dropout", "max_lr", "seed"} & set(found.shared)


def test_runs_that_differ_in_the_seed_alone_are_one_experiment(tmp_path):
    folders = [
        leave(tmp_path / f"net-seed{seed}", seed=seed, f1=f1)
        for seed, f1 in ((0, 0.5), (1, 0.6), (2, 0.7))
    ]
    found = compare_runs(folders)
    (experiment,) = found.experiments
    assert experiment.name == "net"
    assert experiment.values("val_f1").tolist() == [0.5, 0.6, 0.7]
    assert experiment.mean("val_f1") == pytest.approx(0.6)
    assert experiment.spread("val_f1") == pytest.approx(0.1)  # of n - 1
    assert (found.num_runs, found.statements) == (3, ())


def test_one_run_has_no_spread(tmp_path):
    (experiment,) = compare_runs([leave(tmp_path / "a")]).experiments
    assert math.isnan(experiment.spread("val_f1"))


def test_the_same_seed_twice_is_told(tmp_path):
    found = compare_runs([leave(tmp_path / "a", seed=3), leave(tmp_path / "b", seed=3)])
    assert found.notes == (
        "a and 1 more holds runs of the same seed (3, 3): their spread is not that of seeds.",
    )


def test_an_interrupted_run_is_told(tmp_path):
    folder = leave(tmp_path / "a")
    (folder / "result.json").write_text(json.dumps({"stop_reason": "it was interrupted (Ctrl-C)"}))
    assert compare_runs([folder]).notes == (f"{folder} was interrupted at epoch 2 of 12.",)


def test_the_device_and_the_data_part_experiments_like_a_field(tmp_path):
    other = {"accelerator": {"backend": "tensorflow", "replicas": 1}}
    fewer = {"data": {"counts": {"train": 700, "val": 120, "test": 3}}}
    found = compare_runs(
        [
            leave(tmp_path / "a", seed=0),
            leave(tmp_path / "b", seed=1, environment=other),
            leave(tmp_path / "c", seed=2, environment=fewer),
        ]
    )
    assert len(found.experiments) == 3
    assert found.differing == ("device", "data")
    assert "They ran on different devices: their minutes cannot be compared." in found.notes


def test_folders_of_one_name_are_told_apart_by_their_path(tmp_path):
    found = compare_runs(
        [leave(tmp_path / "x" / "run"), leave(tmp_path / "y" / "run", dropout=0.4)]
    )
    assert {one.name for one in found.experiments} == {"x/run", "y/run"}


# Chance -------------------------------------------------------------------------------------------


def test_a_difference_inside_the_noise_has_no_winner(tmp_path):
    found = compare_runs(
        [leave(tmp_path / "a", wrong=(0, 1)), leave(tmp_path / "b", wrong=(5, 6, 7), dropout=0.5)]
    )
    (said,) = found.statements
    assert said.startswith(
        "b is 0.008 of macro F1 behind a, which is inside the noise (95 % interval -0.0"
    )
    assert said.endswith("): no winner.")


def test_a_difference_that_is_more_than_noise_is_told_so(tmp_path):
    found = compare_runs(
        [leave(tmp_path / "a", wrong=(0,)), leave(tmp_path / "b", wrong=range(60), dropout=0.5)]
    )
    (said,) = found.statements
    assert said.startswith("b is 0.492 of macro F1 behind a, which is more than noise (95 % ")
    assert re.search(r"interval 0\.[34]\d\d to 0\.[56]\d\d\)\.$", said)


def test_the_same_answers_are_no_difference_at_all(tmp_path):
    found = compare_runs([leave(tmp_path / "a"), leave(tmp_path / "b", dropout=0.5)])
    assert (
        "is 0.000 of macro F1 behind a, which is inside the noise (95 % interval 0.000 to 0.000)"
        in (found.statements[0])
    )


def test_every_experiment_is_held_against_the_best(tmp_path):
    folders = [leave(tmp_path / f"n{n}", wrong=range(n), dropout=n / 100) for n in (30, 0, 10)]
    found = compare_runs(folders)
    assert [said.split(" is ")[0] for said in found.statements] == ["n10", "n30"]
    assert all("behind n0" in said for said in found.statements)


def test_images_are_paired_by_id_and_not_by_row(tmp_path):
    """Both are wrong at the same images, which b has in another order."""
    folders = [
        leave(tmp_path / "a", wrong=range(0, 60, 2)),
        leave(tmp_path / "b", wrong=range(0, 60, 2), dropout=0.5),
    ]
    file = folders[1] / "val_predictions.npz"
    answers, mixed = Predictions.load(file), np.random.default_rng(0).permutation(len(LABELS))
    Predictions(answers.ids[mixed], answers.probabilities[mixed], answers.labels[mixed]).save(file)
    assert "(95 % interval 0.000 to 0.000)" in compare_runs(folders).statements[0]


def test_seeds_that_scatter_make_noise_of_a_clear_difference(tmp_path):
    wrong = {"a": (range(1), range(30), range(2)), "b": (range(31), range(60, 90), range(40))}
    folders = [
        leave(tmp_path / f"{name}-seed{seed}", wrong=places, seed=seed, dropout=ord(name) / 200)
        for name, sets in wrong.items()
        for seed, places in enumerate(sets)
    ]
    together = compare_runs(folders)
    assert "inside the noise" in together.statements[0]
    assert "pooled over the two experiments" in " ".join(together.notes)
    alone = compare_runs([folders[0], folders[3]])
    assert "more than noise" in alone.statements[0]
    assert "what another seed would have given is not in the interval" in " ".join(alone.notes)


def test_the_notes_name_the_method_and_what_flatters(tmp_path):
    notes = compare_runs([leave(tmp_path / "a"), leave(tmp_path / "b", dropout=0.5)]).notes
    assert "2,000 paired bootstrap draws" in notes[0]
    assert "Efron & Tibshirani 1993" in notes[0]
    assert notes[-1].endswith("so all figures are a little too good.")


def test_any_two_experiments_can_be_held_against_each_other(tmp_path):
    folders = [leave(tmp_path / f"n{n}", wrong=range(n), dropout=n / 100) for n in (0, 20, 21)]
    _, second, third = compare_runs(folders).experiments
    said, found = compare_pair(third, second)
    assert said.startswith("n21 is 0.008 of macro F1 behind n20, which is inside the noise")
    assert found.difference == pytest.approx(0.008, abs=0.001)
    assert compare_pair(second, third) == (said, found)


# What cannot be compared --------------------------------------------------------------------------


def test_other_validation_images_are_not_compared(tmp_path):
    found = compare_runs(
        [leave(tmp_path / "a", labels=LABELS[:90]), leave(tmp_path / "b", wrong=(1,))]
    )
    assert found.statements == (
        "b and a cannot be compared: they were validated on other images (120 and 90, 90 of them in "
        "both).",
    )
    assert len(found.experiments) == 2
    assert found.leaders == found.experiments
    assert found.notes == ()


def test_other_classes_are_not_compared(tmp_path):
    names = ["daisy", "iris", "lily"]
    found = compare_runs([leave(tmp_path / "a"), leave(tmp_path / "b", wrong=(1,), names=names)])
    assert found.statements == (
        "b and a cannot be compared: they know other classes (class 1 is 'iris' and 'rose').",
    )


def test_other_labels_and_repeated_ids_are_not_compared(tmp_path):
    folders = [leave(tmp_path / "a"), leave(tmp_path / "b", wrong=(1,), dropout=0.5)]
    file = folders[1] / "val_predictions.npz"
    answers = Predictions.load(file)
    labels = answers.labels.copy()
    labels[:2] = 2
    Predictions(answers.ids, answers.probabilities, labels).save(file)
    assert (
        "2 of their validation images are labelled otherwise" in compare_runs(folders).statements[0]
    )
    ids = answers.ids.copy()
    ids[3] = ids[4]
    Predictions(ids, answers.probabilities, answers.labels).save(file)
    assert "1 ids of b occur twice" in compare_runs(folders).statements[0]


def test_each_set_of_images_has_a_best_of_its_own(tmp_path):
    found = compare_runs(
        [
            leave(tmp_path / "a"),
            leave(tmp_path / "a2", wrong=range(10), dropout=0.5),
            leave(tmp_path / "b", labels=LABELS[:90], wrong=(1,)),
            leave(tmp_path / "b2", labels=LABELS[:90], wrong=range(9), dropout=0.5),
        ]
    )
    assert [said.split("macro F1 ")[-1][:8] for said in found.statements] == [
        "b and a ",
        "behind a",
        "behind b",
    ]
