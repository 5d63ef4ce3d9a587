"""The pushed notebook runs where only it arrives: its first cell alone, and all of it as on Kaggle."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from bundled import ROOT, build, find_held, read_cell
from packaging.requirements import Requirement

from flowerkit.kaggle.bundle import SOURCE, TENSORFLOW_CPU, build_bundle
from flowerkit.sources import competition
from flowerkit.sources.finder import find_data, find_test_ids
from flowerkit.sources.synthetic import draw_competition
from flowerkit.submission import check_submission

# The cell ------------------------------------------------------------------------------------

CELL = """
import pathlib, sys
exec(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
print(sorted(name for name in ("keras", "numpy") if name in sys.modules))
"""


def run_cell(source, folder, *, before=""):
    """The cell in an interpreter that has the standard library alone; nothing can be downloaded."""
    (folder / "cell.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-I", "-S", "-c", before + CELL, str(folder / "cell.py")]
    environ = {"TMPDIR": str(folder), "PATH": os.environ["PATH"]}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)


@pytest.fixture(scope="module")
def cell():
    return read_cell(build_bundle(notebook=ROOT / SOURCE, package=ROOT / "flowerkit"))


def test_the_cell_unpacks_the_package_and_says_so(cell, tmp_path):
    done = run_cell(cell, tmp_path)
    said, loaded = done.stdout.splitlines()
    (folder,) = tmp_path.glob("flowerkit-*")
    assert said.startswith("flowerkit 0.1.0 comes from this notebook (sha256 ")
    assert said.endswith(f", unpacked into {folder})")
    assert loaded == "[]"
    held = {path.name for path in (folder / "flowerkit").iterdir()} - {"__pycache__"}
    assert held == find_held(ROOT) > {"__init__.py", "training.py", "LICENSE"}


def test_the_cell_leaves_an_installed_flowerkit_alone(cell, tmp_path):
    (tmp_path / "site/flowerkit").mkdir(parents=True)
    (tmp_path / "site/flowerkit/__init__.py").write_text('__version__ = "7"', encoding="utf-8")
    done = run_cell(
        cell, tmp_path, before=f"import sys; sys.path.append({str(tmp_path / 'site')!r})"
    )
    said = (
        f"flowerkit 7 is installed here ({tmp_path}/site/flowerkit/__init__.py); the 0.1.0 in this"
    )
    assert done.stdout.splitlines()[0] == f"{said} notebook stays packed"
    assert list(tmp_path.glob("flowerkit-*")) == []


def test_a_mere_folder_of_that_name_is_no_flowerkit(cell, tmp_path):
    (tmp_path / "site/flowerkit").mkdir(parents=True)
    done = run_cell(
        cell, tmp_path, before=f"import sys; sys.path.append({str(tmp_path / 'site')!r})"
    )
    assert done.stdout.startswith("flowerkit 0.1.0 comes from this notebook"), done.stderr


@pytest.mark.parametrize("damage", [("/Td6W", "/Td6X"), ("/Td6W", "/Td6"), ("/Td6W", "/T=d6W")])
def test_the_cell_refuses_a_package_whose_sha256_is_another(cell, tmp_path, damage):
    done = run_cell(cell.replace(*damage, 1), tmp_path)
    assert "RuntimeError: the package in this cell is damaged: its sha256 is not " in done.stderr
    assert "Make the notebook anew with `flowerkit bundle`" in done.stderr
    assert list(tmp_path.glob("flowerkit-*")) == []


PRETEND_COLAB = """
import subprocess, sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
subprocess.run = lambda command, check: print(command[1:], check)
"""


def test_on_colab_without_tensorflow_the_cell_says_so_and_installs_it(cell, tmp_path):
    said = run_cell(cell, tmp_path, before=PRETEND_COLAB).stdout.splitlines()
    assert said[0].startswith("no TensorFlow here, as on Colab's TPU: installing tensorflow-cpu")
    assert said[1] == f"['-m', 'pip', 'install', '--quiet', '{TENSORFLOW_CPU}'] True"
    assert said[2].startswith("flowerkit 0.1.0 comes from this notebook")


def test_what_is_installed_on_colab_has_the_bounds_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {Requirement(text).name: Requirement(text) for text in project["dependencies"]}
    assert Requirement(TENSORFLOW_CPU).specifier == bounds["tensorflow"].specifier


# The whole of it, as Kaggle would ------------------------------------------------------------------

RUN_ALL = """
import json, sys
sys.path.append(sys.argv[1])
import importlib.util
assert importlib.util.find_spec("flowerkit") is None
cells = json.load(open(sys.argv[2], encoding="utf-8"))["cells"]
for cell in cells:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"))
print(flowerkit.__file__)
"""
SMALL_PLAN = {
    "backbone": "tiny",
    "weights": None,
    "epochs": 1,
    "per_replica_batch": 16,
    "lr_reference_batch": None,
    "rampup_epochs": 0,
}


@pytest.fixture
def third_party(tmp_path):
    """A folder to import from that holds what is installed here, but for flowerkit."""
    folder = tmp_path / "third-party"
    folder.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(place).iterdir():
            if "flowerkit" not in path.name and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return folder


def test_the_bundle_runs_as_on_kaggle_to_a_sound_submission(third_party, tmp_path):
    kaggle = tmp_path / "kaggle"
    working, temporary = kaggle / "working", tmp_path / "tmp"
    mount = kaggle / "input/competitions" / competition.SLUG
    for folder in (working, temporary, tmp_path / "home"):
        folder.mkdir(parents=True)
    draw_competition(
        mount, num_classes=104, image_size=32, num_train=120, num_val=104, num_test=110
    )
    (mount / "classes.json").unlink()  # the competition has none
    (tmp_path / "small.json").write_text(json.dumps(SMALL_PLAN), encoding="utf-8")
    (tmp_path / "bundle.ipynb").write_text(build(ROOT), encoding="utf-8")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(temporary),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "FLOWERKIT_KAGGLE_ROOT": str(kaggle),
        "MPLBACKEND": "agg",
        "FLOWERKIT_PLAN": str(tmp_path / "small.json"),
    }
    environ |= {name: value for name, value in os.environ.items() if name == "KERAS_BACKEND"}
    command = [sys.executable, "-I", "-S", "-c", RUN_ALL, str(third_party)]
    done = subprocess.run(
        [*command, str(tmp_path / "bundle.ipynb")],
        cwd=working,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

    said = done.stdout.splitlines()
    assert said[0].startswith("flowerkit 0.1.0 comes from this notebook")
    assert said[1].startswith("CPU: 1 replica, ")
    assert said[2].startswith("competition flowers: 104 classes, 32 px")
    assert "110 test images, 0 problems in the csv" in said
    assert Path(said[-1]).is_relative_to(temporary)

    assert {path.name for path in working.iterdir()} == {
        "petals-1",
        "report.html",
        "submission.csv",
    }
    assert {path.name for path in (working / "petals-1").iterdir()} == {
        "plan.json",
        "environment.json",
        "history.csv",
        "result.json",
        "model.keras",
        "val_predictions.npz",
        "checkpoints",
        "curves.png",
        "rates.png",
        "confusion.png",
        "mistakes.png",
        "report.html",
    }
    plan = json.loads((working / "petals-1/plan.json").read_text(encoding="utf-8"))
    assert plan["max_minutes"] == 480
    ids = find_test_ids(find_data(mount))
    assert check_submission(working / "submission.csv", ids, 104) == []
