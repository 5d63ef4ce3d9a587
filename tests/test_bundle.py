"""The pushed notebook: same files, same bytes; stale is seen; and it runs where only it arrives."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

from flowerkit import competition
from flowerkit.bundle import BUNDLE, SOURCE, TENSORFLOW_CPU, build_bundle, check_bundle
from flowerkit.kernel import write_bundle
from flowerkit.sources import find_data, find_test_ids
from flowerkit.submission import check_submission
from flowerkit.synthetic import draw_competition

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / BUNDLE


@pytest.fixture
def checkout(tmp_path):
    """A copy of what a bundle is made of, with a fresh bundle."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "flowerkit", root / "flowerkit", ignore=shutil.ignore_patterns("__*__"))
    shutil.copy(ROOT / "flowerkit/__init__.py", root / "flowerkit")
    shutil.copy(ROOT / "LICENSE", root)
    (root / SOURCE).parent.mkdir()
    shutil.copy(ROOT / SOURCE, root / SOURCE)
    write_bundle(root)
    return root


def build(root):
    return json.dumps(build_bundle(notebook=root / SOURCE, package=root / "flowerkit"))


def read_cell(bundle):
    """The source of the cell that holds the package."""
    return next("".join(cell["source"]) for cell in bundle["cells"] if cell["id"] == "package")


def problems(root):
    return [str(problem) for problem in check_bundle(root)]


def test_the_same_files_give_the_same_bytes_whatever_their_dates_and_permissions(checkout):
    first = build(checkout)
    for number, path in enumerate(sorted(checkout.rglob("*.py"))):
        os.utime(path, (10**9 + number, 10**9 + number))
        path.chmod(0o700)
    (checkout / "flowerkit/__pycache__").mkdir()
    (checkout / "flowerkit/__pycache__/plan.cpython-311.pyc").write_bytes(b"\0")
    assert build(checkout) == first


def test_line_ends_that_git_changed_on_windows_change_nothing(checkout):
    first = build(checkout)
    path = checkout / "flowerkit/plan.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert build(checkout) == first


def test_the_bundle_is_notebook_01_stripped_with_two_cells_more(checkout):
    bundle = build_bundle(notebook=checkout / SOURCE, package=checkout / "flowerkit")
    nbformat.validate(nbformat.from_dict(bundle))
    source = json.loads((checkout / SOURCE).read_text(encoding="utf-8"))
    ids = [cell["id"] for cell in source["cells"]]
    assert [cell["id"] for cell in bundle["cells"]] == [ids[0], "package-why", "package", *ids[1:]]
    assert [c["source"] for c in bundle["cells"][3:]] == [c["source"] for c in source["cells"][1:]]
    code = [cell for cell in bundle["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["execution_count"] or cell["outputs"]] == []
    assert bundle["metadata"] == source["metadata"]
    assert max(map(len, read_cell(bundle).splitlines())) <= 110


def test_the_committed_bundle_is_in_step_and_under_300_kb():
    assert problems(ROOT) == []
    sent = json.loads(COMMITTED.read_text(encoding="utf-8"))
    for cell in sent["cells"]:
        cell["source"] = "".join(cell["source"])
    assert len(json.dumps(sent)) < 300_000  # what the client sends
    assert COMMITTED.stat().st_size < 300_000


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "flowerkit").glob("*.py")))
def test_a_change_of_any_file_makes_the_bundle_stale(checkout, name):
    assert problems(checkout) == []
    with (checkout / "flowerkit" / name).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert problems(checkout) == [
        f"{BUNDLE} is stale: flowerkit/{name} changed since. Run `flowerkit bundle`."
    ]


def test_a_new_a_lost_and_a_changed_file_make_the_bundle_stale(checkout):
    (checkout / "flowerkit/augment.py").unlink()
    (checkout / "flowerkit/zinnia.py").write_text("", encoding="utf-8")
    (checkout / "LICENSE").write_text("all yours", encoding="utf-8")
    assert problems(checkout) == [
        f"{BUNDLE} is stale: flowerkit/LICENSE and 2 more changed since. Run `flowerkit bundle`."
    ]
    write_bundle(checkout)
    assert problems(checkout) == []


def test_a_change_of_notebook_01_makes_the_bundle_stale_and_its_outputs_do_not(checkout):
    source = json.loads((checkout / SOURCE).read_text(encoding="utf-8"))
    source["cells"][2]["execution_count"] = 5
    (checkout / SOURCE).write_text(json.dumps(source), encoding="utf-8")
    assert problems(checkout) == []
    source["cells"][0]["source"] = ["# Another title"]
    (checkout / SOURCE).write_text(json.dumps(source), encoding="utf-8")
    stale = (
        f"{BUNDLE} is stale: {SOURCE} changed since, or its own cells did. Run `flowerkit bundle`."
    )
    assert problems(checkout) == [stale]


def test_an_edit_of_the_bundle_itself_is_seen(checkout):
    text = (checkout / BUNDLE).read_text(encoding="utf-8")
    (checkout / BUNDLE).write_text(text.replace("spec.origin:", "True:"), encoding="utf-8")
    assert [problem for problem in problems(checkout) if "its own cells" in problem]
    (checkout / BUNDLE).write_text(text.replace("/Td6W", "AAAAB", 1), encoding="utf-8")
    assert len(problems(checkout)) == 1
    (checkout / BUNDLE).write_text(text.replace("PACKAGE = ", "PARCEL = "), encoding="utf-8")
    assert problems(checkout) == [
        f"{BUNDLE} holds no package that can be unpacked. Run `flowerkit bundle`."
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [(None, "there is no "), ("{", "is not JSON"), ("[]", "must hold a notebook, not []"),
     ('{"cells": [{}]}', "has no list of cells")],
)  # fmt: skip
def test_a_bundle_that_is_missing_or_no_notebook_is_named(checkout, text, what):
    (checkout / BUNDLE).unlink()
    if text is not None:
        (checkout / BUNDLE).write_text(text, encoding="utf-8")
    (problem,) = problems(checkout)
    assert what in problem
    assert problem.endswith("Run `flowerkit bundle`.")


@pytest.mark.parametrize(("text", "what"), [(None, "there is no "), ("{", "is not JSON")])
def test_a_notebook_01_that_is_missing_or_damaged_is_not_mended_by_a_new_bundle(
    checkout, text, what
):
    (checkout / SOURCE).unlink()
    if text is not None:
        (checkout / SOURCE).write_text(text, encoding="utf-8")
    (problem,) = problems(checkout)
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        write_bundle(checkout)
    for told in (problem, str(caught.value)):
        assert what in told
        assert str(checkout / SOURCE) in told
        assert told.endswith("Mend it, or get it back with git.")


def test_a_folder_that_is_no_checkout_is_named(tmp_path):
    for ask in (write_bundle, check_bundle):
        with pytest.raises(FileNotFoundError) as caught:
            ask(tmp_path)
        assert str(caught.value) == (
            f"{tmp_path} is no checkout of flowerkit: it has no flowerkit/__init__.py. Go to the "
            "checkout, or pass --root FOLDER."
        )


# Its first cell ------------------------------------------------------------------------------------

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
    assert held == {path.name for path in (ROOT / "flowerkit").glob("*.py")} | {"LICENSE"}


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
    "backbone": "tiny", "weights": None, "epochs": 1, "per_replica_batch": 16,
    "rates_at_batch": None, "rampup_epochs": 0,
}  # fmt: skip


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
        "PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "TMPDIR": str(temporary),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch", "FLOWERKIT_KAGGLE_ROOT": str(kaggle), "MPLBACKEND": "agg",
        "FLOWERKIT_PLAN": str(tmp_path / "small.json"),
    }  # fmt: skip
    environ |= {name: value for name, value in os.environ.items() if name == "KERAS_BACKEND"}
    command = [sys.executable, "-I", "-S", "-c", RUN_ALL, str(third_party)]
    done = subprocess.run([*command, str(tmp_path / "bundle.ipynb")], cwd=working, env=environ,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr

    said = done.stdout.splitlines()
    assert said[0].startswith("flowerkit 0.1.0 comes from this notebook")
    assert said[1].startswith("CPU: 1 replica, ")
    assert said[2].startswith("competition flowers: 104 classes, 32 px")
    assert "110 test images, 0 problems in the csv" in said
    assert Path(said[-1]).is_relative_to(temporary)

    assert {path.name for path in working.iterdir()} == {
        "petals-1", "report.html", "submission.csv",
    }  # fmt: skip
    assert {path.name for path in (working / "petals-1").iterdir()} == {
        "plan.json", "environment.json", "history.csv", "result.json", "model.keras",
        "val_predictions.npz", "checkpoints", "curves.png", "rates.png", "confusion.png",
        "mistakes.png", "report.html",
    }  # fmt: skip
    plan = json.loads((working / "petals-1/plan.json").read_text(encoding="utf-8"))
    assert plan["max_minutes"] == 480
    ids = find_test_ids(find_data(mount))
    assert check_submission(working / "submission.csv", ids, 104) == []
