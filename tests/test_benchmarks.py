"""The harness of the benchmarks: its arithmetic and its processes; the scripts as imports and --help."""

import doctest
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowerkit
from flowerkit.data import read_records

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import harness  # noqa: E402 - the scripts are no package

# Options that make a run small, and the keys of the first column of its table.
SCRIPTS = {
    "input_pipeline": ("--images 32 --size 32 --batch 8 --seconds 0", "steady_images_per_second"),
    "train_step": ("--batch 8 --epochs 2 --images 16 --size 32", "images_per_second"),
    "first_step": ("--images 16 --size 32", "fit_to_step_seconds"),
    "features": ("--images 16 --size 32 --batch 8 --epochs 2", "epoch_seconds"),
    "whole_run": ("--images 16 --size 32 --batch 8 --epochs 1", "process_seconds"),
    "convert": ("--width 64 --photos 25 --workers 1 --image-size 32", "photos_per_second"),
}

every_script = pytest.mark.parametrize("name", SCRIPTS)


def python(code):
    return [sys.executable, "-c", code]


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(harness)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_table_has_medians_and_the_median_of_the_ratios_of_each_round():
    seconds = {"classic": [4.0, 2.0, 9.0], "ours": [1.0, 0.5, 0.75]}
    samples = {
        side: [{"x_seconds": value, "score": None, "peak_mib": 900} for value in values]
        for side, values in seconds.items()
    }
    table = harness.format_samples(samples, {"x_seconds": "x, s", "score": "score"})
    rows = [line.split() for line in table.splitlines()]
    assert rows[0] == ["side", "x,", "s", "x", "classic", "score", "spread", "peak", "MiB"]
    assert rows[1] == ["classic", "4", "1x", "-", "175", "%", "900"]
    assert rows[2] == ["ours", "0.75", "4x", "-", "67", "%", "900"]  # of 4, 4 and 12


def test_each_side_runs_once_a_round_in_turned_order_with_an_empty_cache(capfd):
    code = (
        "import json, os; cache = os.environ['FLOWERKIT_CACHE']\n"
        "print(json.dumps({'files': os.listdir(cache), 'backend': os.environ['KERAS_BACKEND']}))\n"
        "open(os.path.join(cache, 'left'), 'w')"
    )
    commands = {side: python(code) for side in "ab"}
    samples = harness.run_rounds(commands, rounds=2, environ={"KERAS_BACKEND": "jax"})
    order = [line.split()[-2] for line in capfd.readouterr().err.splitlines()]
    assert order == ["a", "b", "b", "a"]
    every = samples["a"] + samples["b"]
    assert [(sample["files"], sample["backend"]) for sample in every] == [([], "jax")] * 4
    assert all(sample["process_seconds"] > 0 and sample["peak_mib"] > 1 for sample in every)


def test_a_side_that_fails_ends_the_benchmark_with_its_error():
    with pytest.raises(SystemExit, match=r"(?s)ended with 1:.*ValueError: no flowers"):
        harness.run_child(python("raise ValueError('no flowers')"))


@pytest.mark.parametrize("name", [*SCRIPTS, "beside_fastai"])
def test_a_script_imports_no_framework_and_explains_itself(name):
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import {name}; "
        "assert not {'keras', 'tensorflow', 'jax', 'numpy'} & set(sys.modules)"
    )
    subprocess.run(python(code), check=True)
    script = [sys.executable, FOLDER / f"{name}.py", "--help"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert f"python benchmarks/{name}.py" in done.stdout
    assert importlib.import_module(name).__doc__.splitlines()[0] in done.stdout


def test_fastai_gets_the_photos_of_the_shards_byte_by_byte(tmp_path):
    import beside_fastai

    data = flowerkit.draw_competition(
        tmp_path / "data", num_classes=3, image_size=32, num_train=9, num_val=6, num_test=3
    )
    beside_fastai.export_photos(tmp_path / "data", tmp_path / "photos")
    for split, count in (("train", 9), ("val", 6)):
        records = [record for file in data.files[split] for _, record in read_records(file)]
        expected = {f"{split}/{each.label:03d}/{each.id}.jpg": each.image for each in records}
        files = (tmp_path / "photos" / split).glob("*/*")
        found = {str(file.relative_to(tmp_path / "photos")): file.read_bytes() for file in files}
        assert len(records) == count
        assert found == expected


@pytest.mark.slow
@every_script
def test_a_script_prints_its_table_and_the_machine(name, tmp_path):
    options, key = SCRIPTS[name]
    out = tmp_path / "samples.json"
    command = [sys.executable, FOLDER / f"{name}.py", "--rounds", "1", *options.split()]
    done = subprocess.run([*command, "--json", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert all(sample[key] > 0 for [sample] in record["samples"].values())
    for line, side in zip(done.stdout.splitlines()[1:], record["samples"], strict=False):
        assert line.startswith(side)
    assert record["machine"]["versions"] in done.stdout


@pytest.mark.slow
def test_the_script_for_a_gpu_writes_a_line_for_each_part_as_it_is_done(tmp_path):
    small = {"BACKBONE": "tiny", "SIZE": "32", "BATCH": "8", "IMAGES": "32", "EPOCHS": "2"}
    command = ["bash", FOLDER / "on_a_gpu.sh", tmp_path / "results"]
    python = {"PYTHON": sys.executable, "BUDGET": "2000"}
    subprocess.run(command, env=os.environ | small | python, check=True)
    lines = (tmp_path / "results" / "results.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")][2:]
    steps = [f"{side}-{kind}" for kind in ("bfloat16", "float32") for side in ("ours", "keras-fit")]
    assert [row[0] for row in rows[:6]] == [*steps[:2], "csv-cold", "csv-warm", *steps[2:]]
    for name, seconds, result in rows[:6]:
        assert float(seconds) > 0
        assert result.endswith("csv valid" if name.startswith("csv") else " images/s")
    assert lines[-1].endswith(f"is in {tmp_path}/results")


@pytest.mark.slow
def test_the_script_for_a_gpu_says_what_failed_and_what_had_no_time(tmp_path):
    environ = {"PYTHON": sys.executable, "BUDGET": "1"}
    command = ["bash", FOLDER / "on_a_gpu.sh", tmp_path]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert "| draw | - | no time was left |" in done.stdout
