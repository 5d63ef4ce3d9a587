import csv
import io

import pytest
from compared import leave

from flowerkit.experiments.compare import compare_runs
from flowerkit.experiments.tables import describe_shared, tabulate, to_csv, to_markdown


@pytest.fixture
def three(tmp_path):
    """One experiment of two seeds, one of one."""
    return compare_runs(
        [
            leave(tmp_path / "net-seed0", wrong=range(12), f1=0.9),
            leave(tmp_path / "net-seed1", wrong=range(24), f1=0.8, seed=1),
            leave(tmp_path / "a|b", wrong=range(60), dropout=0.5, plateau_patience=None),
        ]
    )


def test_the_table_has_figures_first_and_then_what_differs(three):
    header, rows = tabulate(three)
    assert header == [
        "experiment",
        "n",
        "val macro F1",
        "val accuracy",
        "val loss",
        "training accuracy",
        "best epoch",
        "epochs done",
        "minutes",
        "parameters",
        "dropout",
    ]
    assert rows == [
        [
            "net",
            "2",
            "0.850 ± 0.071",
            "0.500 ± 0.000",
            "1.100 ± 0.000",
            "0.500",
            "2",
            "2",
            "0.1",
            "-",
            "none",
        ],
        ["a|b", "1", "0.500", "0.500", "1.100", "0.500", "2", "2", "0.1", "-", "0.5"],
    ]


def test_epochs_of_several_seeds_are_a_range(tmp_path):
    folders = [leave(tmp_path / f"net-seed{seed}", seed=seed) for seed in (0, 1)]
    history = folders[1] / "history.csv"
    history.write_text("\n".join(history.read_text().splitlines()[:2]) + "\n")
    header, ((*cells,),) = tabulate(compare_runs(folders))
    row = dict(zip(header, cells, strict=True))
    assert (row["best epoch"], row["epochs done"]) == ("1-2", "1-2")


def test_what_is_alike_is_told_once_without_the_defaults(three):
    data, device, (name, plan) = describe_shared(three)
    assert data == ("data", "drawn, 3 classes, 32 px, 1,440 to train, 120 to validate")
    assert device == ("device", "cpu x 8, jax, float32")
    assert name == "plan"
    assert plan.startswith("backbone=tiny, weights=none, input_size=64, epochs=12, ")
    assert plan.endswith(", every other field its default")
    assert "dropout" not in plan
    assert "momentum" not in plan


def test_markdown_is_a_table_with_its_statements(three):
    lines = to_markdown(three).splitlines()
    assert lines[0].startswith("| experiment | n | val macro F1 |")
    assert set(lines[1]) <= set("| :-")
    assert lines[3].startswith(r"| a\|b | 1 | 0.500 |")
    assert {line.count(" | ") for line in lines[:4]} == {10}
    assert lines[5].startswith("- a|b is ")
    assert lines[7] == "Alike in all:"
    assert lines[-1].startswith("Best epochs")


def test_a_single_run_has_nothing_but_its_row(tmp_path):
    assert len(to_markdown(compare_runs([leave(tmp_path / "only")])).splitlines()) == 3


def test_csv_holds_numbers_in_full(three):
    first, second = csv.DictReader(io.StringIO(to_csv(three)))
    assert (first["experiment"], first["n"], first["seeds"]) == ("net", "2", "0 1")
    assert (first["val_f1"], first["val_f1_sd"]) == ("0.85", "0.07071068")
    assert (second["val_f1"], second["val_f1_sd"], second["parameters"]) == ("0.5", "", "")
    assert (first["dropout"], second["dropout"]) == ("none", "0.5")
