"""arguments: in the wrong order or of the wrong kind, answered with the command that was meant."""

import pytest


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a run, photos, shards, a csv and a photo."""
    monkeypatch.chdir(tmp_path)
    for file in ("run/plan.json", "run/model.keras", "run/report.html", "run/submission.csv"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    for folder in ("photos/rose", "my data/tfrecords-jpeg-32x32", "run/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("photos/rose/1.jpg", "rose.jpg", "s.csv", "run/checkpoints/best.h5"):
        (tmp_path / file).touch()
    for folder in ("runs/a", "runs/b", "runs/compared", "runs/rates", "demo/data", "demo/run"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("a/plan.json", "a/curves.png", "b/plan.json", "compared/compare.html"):
        (tmp_path / "runs" / file).touch()
    for file in ("compared/compare.png", "rates/lr_finder.json", "rates/lr_finder.png"):
        (tmp_path / "runs" / file).touch()
    (tmp_path / "demo" / "run" / "plan.json").touch()
    (tmp_path / "demo" / "data" / "tfrecords-jpeg-32x32").mkdir()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("classify rose.jpg run", "Did you mean `flowerkit classify run rose.jpg`?"),
        ("classify photos run --top 2", "`flowerkit classify run photos --top 2`?"),
        ("classify photos rose.jpg run", "`flowerkit classify run photos rose.jpg`?"),
        ("classify rose.jpg", "Pass `flowerkit classify MODEL rose.jpg`."),
        ("check s.csv DATA", "s.csv --data 'my data'`?"),
        ("check DATA s.csv", "s.csv --data 'my data'`?"),
        ("check run --data DATA", "`flowerkit check run/submission.csv --data 'my data'`?"),
        ("check s.csv --data run", "run is a run folder, but --data must be a folder of shards or"),
        ("predict run DATA out.csv", "`flowerkit predict run --out out.csv --data 'my data'`?"),
        ("predict DATA run --out=o.csv", "`flowerkit predict run --out o.csv --data 'my data'`?"),
        ("report run/report.html", "Did you mean `flowerkit report run`?"),
        ("report run/submission.csv", "Did you mean `flowerkit report run`?"),
        ("clean run/checkpoints/best.h5", "Did you mean `flowerkit clean run`?"),
        ("compare run run/model.keras", "Did you mean `flowerkit compare run`?"),
        ("report DATA", "`flowerkit train --data 'my data'` makes a run of it."),
        (
            "predict photos --data run --out o.csv",
            "a run folder; run is a run folder, but --data must be",
        ),
        ("serve photos", "`flowerkit train --data photos` makes a run of it."),
        ("compare run photos", "`flowerkit train --data photos` makes a run of it."),
        ("serve rose.jpg", "Pass `flowerkit serve MODEL`."),
        ("compare runs/a runs/b runs/compared", "runs/compared is a comparison, but RUN must be"),
        ("compare runs/a runs/b runs/rates", "Pass `flowerkit compare runs/a runs/b`."),
        ("report runs/rates", "runs/rates is a range test, but RUN must be a run folder."),
        ("serve runs", "runs is a folder of runs, but MODEL must be a run folder or an exported"),
        ("serve runs", "Did you mean `flowerkit serve runs/a`?"),
        ("train --data runs", "runs is a folder of runs, but --data must be a folder of shards or"),
        ("compare runs/a demo", "Did you mean `flowerkit compare runs/a demo/run`?"),
        ("train --data demo", "Did you mean `flowerkit train --data demo/data`?"),
        ("train --data runs/compared", "a comparison, but --data must be a folder of shards or"),
        ("export s.csv", "s.csv is a csv, but RUN must be a run folder or an exported model"),
        ("convert new photos", "Did you mean `flowerkit convert photos new`?"),
        ("convert DATA new", "`flowerkit train --data 'my data'` makes a run of it."),
        ("check-data run", "run is a run folder, but DIR must be a folder of shards or"),
        ("train --data run", "`--resume --out run` continues the run, `--weights run` trains on"),
        ("train --data s.csv", "s.csv is a csv, but --data must be a folder of shards or a folder"),
        ("train --data s.csv", "`--data FOLDER --labels s.csv` takes labels from it."),
        ("train photos", "Did you mean --data photos?"),
        ("train run", "Did you mean --resume --out run, or --weights run?"),
    ],
)
def test_an_argument_that_stands_elsewhere_or_is_of_another_kind_is_named(
    flowerkit, place, words, answer
):
    words = [word.replace("DATA", "my data") for word in words.split()]
    status, out, err = flowerkit(*words)
    assert (status, out, err.count("\n")) == (2, [], 1)
    assert answer in err


def test_what_cannot_be_told_is_left_to_the_command(flowerkit, place):
    assert "no model nowhere" in flowerkit("classify", "nowhere", "rose.jpg")[2]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("train --data photo", "Did you mean photos?"),
        ("train --data foto", "Did you mean photos?"),
        ("train --data photos/train", "no folder photos/train. Did you mean photos?"),
        ("train --data photos --labels S.csv", "Did you mean s.csv?"),
        ("train --data DATA --weights ruun", "Did you mean run?"),
        ("report runn", "Did you mean run?"),
        ("classify run rse.jpg", "no photo rse.jpg. Did you mean rose.jpg?"),
        ("serve runn", "no model runn. Did you mean run?"),
    ],
)
def test_a_path_that_is_not_there_is_named_with_the_nearest_one(flowerkit, place, words, near):
    words = [word.replace("DATA", "my data") for word in words.split()]
    assert near in flowerkit(*words)[2]
