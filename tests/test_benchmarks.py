"""The harness's arithmetic on literal values, and every benchmark to its table, made small."""

import argparse
import doctest
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import flowers  # noqa: E402 - the scripts are no package
import input_pipeline  # noqa: E402
import pairs  # noqa: E402
import train_step  # noqa: E402

SECONDS = {"classic": [4.0, 2.0, 9.0], "ours": [1.0, 0.5, 0.75]}
SAMPLES = {side: [{"seconds": one} for one in values] for side, values in SECONDS.items()}
# Enough to reach the table; sides of the same code, and what compiles for long, are left out.
SCRIPTS = {
    "input_pipeline": "--batch 8 --epochs 1 --seconds 0 --sides classic ours-host ours-resident",
    "augmentation": "--batch 8 --seconds 0.05 --stretches 1 --sides classic ours-host --cases flip all",
    "train_step": "--size 16 --batch 4 --steps 2 --epochs 2 --sides keras-fit ours ours-resident",
    "first_step": "--batch 8 --backbones tiny",
    "features": "--images 32 --size 32 --batch 8 --epochs 2 --sides frozen pooled",
    "whole_run": "--batch 16 --epochs 1",
    "convert": "--sizes 64x48 --photos 12 --workers 1",
    "imports": "--only python~alone import~flowerkit flowerkit~check",
}
WITHOUT_DATA = ("train_step", "convert")


# pairs --------------------------------------------------------------------------------------------


def test_medians_ratios_and_spreads_are_those_of_the_rounds():
    assert pairs.median(SAMPLES["classic"], "seconds") == 4.0
    assert pairs.median(SAMPLES["ours"], "seconds") == 0.75
    assert pairs.ratio(SAMPLES, "seconds", "classic", "ours") == 4  # of 4, 4 and 12
    assert pairs.ratio(SAMPLES, "seconds", "ours", "classic") == 0.25
    assert pairs.spread(SAMPLES["classic"], "seconds") == 1.75  # (9 - 2) / 4


@pytest.mark.parametrize("module", [pairs, train_step])
def test_the_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def python(code):
    return [sys.executable, "-c", code]


def test_every_side_runs_once_a_round_and_the_order_turns():
    told = []
    commands = {side: python(f"print('noise'); print('{{\"of\": \"{side}\"}}')") for side in "ab"}
    samples = pairs.run_rounds(commands, rounds=3, tell=told.append)
    assert [line.split()[-2] for line in told] == ["a", "b", "b", "a", "a", "b"]
    assert [sample["of"] for sample in samples["a"]] == ["a", "a", "a"]


def test_a_childs_peak_memory_and_seconds_are_its_own():
    fat = python("import time; pages = b'x' * (300 << 20); time.sleep(0.3)")
    samples = pairs.run_rounds(
        {"fat": fat, "lean": python("pass")}, rounds=1, tell=lambda text: None
    )
    fat, lean = samples["fat"][0], samples["lean"][0]
    # Not lean against a figure: pytest, which starts it here, is the floor of what it shows.
    assert fat["peak_mib"] > 300
    # One thread that slept 0.3 s: however slow the machine, its processor had less than the clock.
    assert fat["process_seconds"] > fat["process_cpu_seconds"] + 0.25
    assert lean["process_seconds"] > 0


def test_children_find_an_empty_cache_and_the_callers_words():
    code = (
        "import json, os; cache = os.environ['FLOWERKIT_CACHE']\n"
        "print(json.dumps({'cache': cache, 'was': os.listdir(cache), 'word': os.environ['WORD']}))\n"
        "open(os.path.join(cache, 'left'), 'w')"
    )
    samples = pairs.run_rounds(
        {"a": python(code), "b": python(code)},
        rounds=2,
        environ={"WORD": "all"},
        environs={"b": {"WORD": "one"}},
        tell=lambda text: None,
    )
    every = samples["a"] + samples["b"]
    assert [sample["was"] for sample in every] == [[], [], [], []]
    assert [sample["word"] for sample in every] == ["all", "all", "one", "one"]
    assert not any(Path(sample["cache"]).exists() for sample in every)


def test_a_side_that_fails_ends_the_benchmark_with_its_error():
    with pytest.raises(SystemExit, match=r"(?s)ended with 1:.*ValueError: no flowers"):
        pairs.run_child(python("raise ValueError('no flowers')"))


def test_the_machine_is_described_and_its_load_told():
    machine = pairs.describe_machine()
    assert machine["cores"] >= 1
    assert machine["versions"]["keras"]
    assert "busy (load 3.0): trust no ratio" in pairs.tell_machine(machine | {"load": 3.0})
    assert "busy" not in pairs.tell_machine(machine | {"load": 0.1})


# data ---------------------------------------------------------------------------------------------


def test_a_data_folder_is_made_over_to_another_number_and_size(drawn, tmp_path):
    flowers.make_over(drawn, tmp_path / "grown", 70, 16)
    grown = flowers.find(tmp_path / "grown")
    assert (grown.image_size, grown.num_classes) == (16, 4)
    assert dict(grown.counts) == {"train": 70, "val": 17, "test": 17}  # train repeats its 50
    rows = (tmp_path / "grown" / "sample_submission.csv").read_text().splitlines()
    assert len(set(rows)) == 18

    from flowerkit.data.split import load_split

    split = load_split(grown, "train")
    assert len(set(split.ids)) == 70
    assert np.array_equal(split.images[0], split.images[50])


def test_the_growth_table_grows_one_thing_at_a_time():
    args = argparse.Namespace(
        growth_images=[1, 4],
        growth_sizes=[64, 224],
        growth_replicas=[1, 8],
        size=None,
        drawn_size=224,
        backend="tensorflow",
    )
    assert input_pipeline.list_growth(args) == [
        (1, 224, 1, "tensorflow"),
        (4, 224, 1, "tensorflow"),
        (1, 64, 1, "tensorflow"),
        (1, 224, 8, "tensorflow"),
        (1, 224, 1, "jax"),
        (1, 224, 8, "jax"),
    ]


def test_the_growth_table_shows_ratios_to_the_classic_pipeline():
    rates = {"classic": 10.0, "ours": 300.0, "ours-host": 60.0}
    samples = {
        side: [{input_pipeline.FIRST: rate / 2, input_pipeline.STEADY: rate, "peak_mib": 900}]
        for side, rate in rates.items()
    }
    point = {"images": 1024, "size": 64, "replicas": 1, "backend": "jax", "samples": samples}
    row = input_pipeline.tell_growth([point]).splitlines()[1]
    assert row.split() == [
        "1,024",
        "x",
        "64",
        "px",
        "1",
        "jax",
        "5",
        "30x",
        "6x",
        "10",
        "30x",
        "6x",
        *["900"] * 3,
    ]


# the scripts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(drawn, tmp_path_factory):
    """Every script's (output, JSON), two at a time: nothing here is about how fast they are."""
    folder = tmp_path_factory.mktemp("benchmarks")

    def run(name):
        out = folder / f"{name}.json"
        words = [word.replace("~", " ") for word in SCRIPTS[name].split()]
        data = [] if name in WITHOUT_DATA else ["--data", str(drawn.folder)]
        command = [sys.executable, FOLDER / f"{name}.py", *data, "--rounds", "1", *words]
        done = subprocess.run([*command, "--json", out], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout, json.loads(out.read_text())

    with ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(run, name) for name in SCRIPTS}
        yield lambda name: futures[name].result()


@pytest.mark.parametrize(
    ("name", "head", "sides"),
    [
        ("input_pipeline", "first epoch, images/s", ["classic", "ours-host", "ours-resident"]),
        ("augmentation", "flip, ms", ["classic", "ours-host"]),
        ("train_step", "images/s", ["keras fit", "ours", "ours resident"]),
        ("first_step", "fit to step, s", ["tiny, classic", "tiny, ours"]),
        ("features", "an epoch, s", ["frozen", "pooled"]),
        ("whole_run", "start to csv, s", ["classic", "ours"]),
        ("convert", "ours / decode", ["64x48"]),
        ("imports", "seconds", ["python alone", "import flowerkit", "flowerkit check"]),
    ],
)
def test_a_benchmark_prints_its_table_and_the_machine(runs, name, head, sides):
    lines = runs(name)[0].splitlines()
    assert head in lines[0]
    assert "peak MiB" in lines[0]
    assert [
        line.startswith(side) for side, line in zip(sides, lines[1 : len(sides) + 1], strict=True)
    ] == [True] * len(sides)
    assert any(line.startswith("python 3.") for line in lines)
    assert set(runs(name)[1]) == {"machine", "options", "samples"}


def test_the_drawn_data_is_told_apart_from_photos(runs, drawn):
    assert "50 images of 32 px" in runs("whole_run")[0]
    assert str(drawn.folder) in runs("whole_run")[0]
    options = argparse.Namespace(data=None)
    assert "smaller than photos'" in flowers.describe(options, drawn.folder)


def test_the_plain_fit_of_the_train_step_needs_no_tensorflow(runs):
    samples = runs("train_step")[1]["samples"]
    assert samples["keras-fit"][0]["tensorflow"] is False
    assert samples["flops_per_image"] > 1e6


def test_every_script_explains_itself():
    for name in SCRIPTS:
        done = subprocess.run(
            [sys.executable, FOLDER / f"{name}.py", "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0
        assert f"python benchmarks/{name}.py" in done.stdout
