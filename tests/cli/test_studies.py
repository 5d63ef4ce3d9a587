import argparse

import pytest
from compared import leave

from flowerkit.cli.studies import (
    add_compare_options,
    add_study_options,
    run_compare,
    run_study_command,
)


def parse(add_options, *words):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args([str(word) for word in words])


def test_compare_prints_the_table_and_writes_nothing(tmp_path):
    runs = [leave(tmp_path / "a"), leave(tmp_path / "b", wrong=(0, 1), dropout=0.5)]
    before, said = sorted(tmp_path.rglob("*")), []
    assert run_compare(parse(add_compare_options, *runs), said.append, None) == 0
    assert said[0].startswith("| experiment | n | val macro F1 |")
    assert "- b is 0.017 of macro F1 behind a" in said[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_compare_writes_into_a_folder_that_is_named(tmp_path):
    args = parse(add_compare_options, leave(tmp_path / "a"), "--out", tmp_path / "out")
    said = []
    assert run_compare(args, said.append, None) == 0
    kinds = ("html", "md", "csv", "png")
    assert said[1:] == [f"wrote {tmp_path / 'out' / 'compare'}.{kind}" for kind in kinds]
    assert (tmp_path / "out" / "compare.md").read_text().rstrip() == said[0]


def test_study_has_few_options():
    args = parse(add_study_options, "learning-rates")
    assert vars(args) == {"study": "learning-rates", "out": None, "seeds": 3, "epochs": None}


@pytest.mark.parametrize("words", [["rates"], ["regularisation", "--seeds", "0"], []])
def test_wrong_usage_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        parse(add_study_options, *words)
    assert "error" in capsys.readouterr().err


def test_study_trains_and_compares(drawn, tmp_path, monkeypatch):
    """The command itself, with a study of one small plan."""
    from flowerkit.experiments import studies

    plan = studies.REGULARISATION["dense-small"]
    monkeypatch.setitem(studies.STUDIES, "regularisation", {"dense-small": plan})
    words = ["regularisation", "--out", tmp_path, "--seeds", "2", "--epochs", "1"]
    args = parse(add_study_options, *words)
    args.data, args.require = str(drawn.folder), None
    said = []
    assert run_study_command(args, said.append, None) == 0
    assert said[2] == f"1 plans, 2 seeds each, into {tmp_path}"
    assert said[3].splitlines()[2].startswith("| dense-small | 2 | ")
    assert said[4] == f"wrote {tmp_path / 'compare.html'}"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "dense-small-seed0",
        "dense-small-seed1",
    ]
