import csv
import io

import pytest

from flowerkit.experiments import compare_runs, to_markdown
from flowerkit.experiments.tables import describe_shared, tabulate_figures, to_csv
from flowerkit.training import RunFolder


@pytest.fixture
def three(make_run, tmp_path):
    """One experiment of two seeds, one of one."""
    return compare_runs(
        [
            make_run(tmp_path / "net-seed0", f1=0.9),
            make_run(tmp_path / "net-seed1", f1=0.8, seed=1),
            make_run(tmp_path / "a|b", f1=0.5, dropout=0.5, patience=None),
        ]
    )


def test_the_table_has_a_row_for_each_experiment(three):
    header, rows = tabulate_figures(three)
    first, second = (dict(zip(header, row, strict=True)) for row in rows)
    assert (first["experiment"], first["n"]) == ("net", "2")
    assert (first["val macro F1"], first["val loss"]) == ("0.850 ± 0.071", "1.100 ± 0.000")
    assert (first["training accuracy"], first["best epoch"], first["minutes"]) == (
        "0.500",
        "2",
        "0.1",
    )
    assert (second["experiment"], second["n"], second["val macro F1"]) == ("a|b", "1", "0.500")
    assert first["parameters"] == second["parameters"] == f"{three.runs[0].num_parameters:,}"


def test_epochs_of_several_seeds_are_a_range(make_run, tmp_path):
    ends = {"stopped_at_epoch": 1, "best_epoch": 1}
    folders = [
        make_run(tmp_path / f"net-seed{seed}", seed=seed, result=result)
        for seed, result in enumerate(({}, ends))
    ]
    history = RunFolder(folders[1]).history_file
    history.write_text("\n".join(history.read_text().splitlines()[:2]) + "\n")
    header, (cells,) = tabulate_figures(compare_runs(folders))
    row = dict(zip(header, cells, strict=True))
    assert (row["best epoch"], row["epochs done"]) == ("1-2", "1-2")


def test_what_is_shared_leaves_out_the_defaults(three):
    (data, _), (device, _), (plan, text) = describe_shared(three)
    assert (data, device, plan) == ("data", "device", "plan")
    assert text.startswith("backbone=tiny, weights=none, ")
    assert ", epochs=2, " in text
    assert text.endswith(", every other field its default")
    assert "dropout" not in text
    assert "optimizer" not in text


def test_markdown_is_a_table_with_its_statements(three):
    lines = to_markdown(three).splitlines()
    assert lines[0].startswith("| experiment | n | val macro F1 |")
    assert lines[0].endswith("| dropout | patience |")
    assert set(lines[1]) <= set("| :-")
    assert lines[3].startswith(r"| a\|b | 1 | 0.500 |")
    assert lines[3].endswith("| 0.5 | none |")
    assert len({line.count(" | ") for line in lines[:4]}) == 1
    assert lines[5].startswith("- a|b is ")
    assert lines[7] == "In common:"
    assert lines[-1].startswith("The best epochs")


def test_a_single_run_has_nothing_but_its_row(make_run, tmp_path):
    assert len(to_markdown(compare_runs([make_run(tmp_path / "only")])).splitlines()) == 3


def test_csv_holds_numbers_in_full(three):
    first, second = csv.DictReader(io.StringIO(to_csv(three)))
    assert (first["experiment"], first["n"], first["seeds"]) == ("net", "2", "0 1")
    assert float(first["val_f1"]) == pytest.approx(0.85)
    assert float(first["val_f1_sd"]) == pytest.approx(0.0707106781)
    assert (second["val_f1"], second["val_f1_sd"]) == ("0.5", "")
    assert first["parameters"] == str(three.runs[0].num_parameters)
    assert (first["patience"], second["patience"]) == ("3", "none")
