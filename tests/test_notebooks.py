"""The rules of the notebooks.

To run them: `pytest --nbval-lax --nbval-current-env notebooks/0*.ipynb`.
"""

import ast
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAIN = "01_petals_to_the_metal"
ALLOWED_IMPORTS = {"flowerkit", "dataclasses", "logging", "pathlib", "shutil"}
LESSONS = ["02_transfer_learning", "03_regularisation_and_lr", "04_your_own_photos"]
LARGEST_BYTES = 600_000
COMPARED = ["nbval-check-output"]  # the tag of cells whose text is the same on every machine

# Times, memory and paths from the root differ between runs and machines.
UNSTABLE = re.compile(r"\d ?(ms|s|min|[KMG]iB|images/s)\b|(?<![\w.])(~?/|\w:\\)\w")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def syntax_nodes(path):
    # Parsed as plain Python, which has neither !commands nor %magics: both fail without a word.
    return [node for cell in code_cells(path) for node in ast.walk(ast.parse(cell.source))]


def test_the_main_story_and_the_lessons_are_there():
    assert [path.stem for path in NOTEBOOKS] == [MAIN, *LESSONS]


@each_notebook
def test_a_notebook_is_at_most_18_code_cells_of_at_most_8_lines(path):
    cells = code_cells(path)
    assert 1 <= len(cells) <= 18
    lines = {cell.id: len(list(filter(None, cell.source.splitlines()))) for cell in cells}
    assert {name: count for name, count in lines.items() if count > 8} == {}


@each_notebook
def test_a_notebook_defines_nothing_and_is_plain_python(path):
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert [node.name for node in syntax_nodes(path) if isinstance(node, definitions)] == []


@each_notebook
def test_a_notebook_imports_flowerkit_and_little_else(path):
    nodes = syntax_nodes(path)
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= ALLOWED_IMPORTS


@each_notebook
def test_every_code_cell_is_introduced_in_words(path):
    cells = nbformat.read(path, 4).cells
    kinds = [cell.cell_type for cell in cells]
    assert kinds[0] == "markdown"
    assert ("code", "code") not in set(itertools.pairwise(kinds))
    opening = cells[0].source
    for phrase in ("What it does", "How to start it", "Where it runs", "How long it takes"):
        assert f"**{phrase}.**" in opening
    assert "`jupyter lab`" in opening
    assert "`ModuleNotFoundError: No module named 'flowerkit'`" in opening


@each_notebook
def test_a_notebook_is_stored_as_it_ran_with_a_picture_below_each_plot(path):
    """By `python notebooks/store.py`."""
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        pictures = [out for out in cell.outputs if out.output_type == "display_data"]
        assert len(pictures) >= ("plots.plot_" in cell.source), cell.id
        assert all(out.data["image/png"] for out in pictures), cell.id
    assert path.stat().st_size < LARGEST_BYTES


@each_notebook
def test_the_stored_text_is_quiet_and_names_no_path_and_no_time(path):
    for cell in code_cells(path):
        for out in cell.outputs:
            if out.output_type == "display_data":
                assert set(out.data) == {"image/png", "text/plain"}
                continue
            # Warnings, errors and what frameworks say arrive on stderr.
            assert (out.output_type, out.name) == ("stream", "stdout"), cell.id
            assert cell.metadata.get("tags") or not UNSTABLE.search(out.text), cell.id


def test_each_notebook_has_text_that_nbval_compares():
    compared = {
        path.stem: [cell.id for cell in code_cells(path) if cell.metadata.get("tags") == COMPARED]
        for path in NOTEBOOKS
    }
    assert compared == {
        MAIN: ["plan", "check"],
        LESSONS[0]: ["plan"],
        LESSONS[1]: ["regularisation-plans"],
        LESSONS[2]: ["names"],
    }


@each_notebook
def test_a_notebook_runs_on_any_python3_kernel_and_carries_no_image_pin(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    # A kaggle block can pin an image, and a pinned image sends a TPU session to a CPU.
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert all(cell.metadata in ({}, {"tags": COMPARED}) for cell in notebook.cells)


# On Kaggle -----------------------------------------------------------------------------------------

ON_KAGGLE = """
import json, pathlib, sys
from flowerkit.sources import competition
competition.MOUNTS = (pathlib.Path(sys.argv[1]),)
for cell in json.loads(sys.argv[2]):
    exec(cell)
print(data.origin, plan == replace(flowerkit.load_plan("fine-tune"), max_minutes=480), folder)
"""


def run_on_kaggle(mount):
    cells = {cell.id: cell.source for cell in code_cells(FOLDER / f"{MAIN}.ipynb")}
    sources = json.dumps([cells[name] for name in ("set-up", "data", "plan")])
    command = [sys.executable, "-c", ON_KAGGLE, str(mount), sources]
    environ = os.environ | {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "MPLBACKEND": "agg"}
    return subprocess.run(command, env=environ, capture_output=True, text=True)


def test_on_kaggle_the_main_story_takes_the_competition_and_its_plan(drawn):
    done = run_on_kaggle(drawn.folder)
    assert done.stdout.splitlines()[-1] == "competition True /kaggle/working/petals-1", done.stderr


def test_on_kaggle_without_the_competition_the_main_story_stops_and_draws_nothing(tmp_path):
    done = run_on_kaggle(tmp_path / "nothing")
    assert done.returncode == 1
    assert "FileNotFoundError: no competition data (looked in" in done.stderr
    assert "Add Input" in done.stderr


# A contest -----------------------------------------------------------------------------------------

AS_A_CONTEST = """
import json, sys
from flowerkit.sources import finder
finder.DRAWN_CLASSES, finder.DRAWN_SIZE_PX = 3, 32
finder.DRAWN_COUNTS = {"num_train": 80, "num_val": 20, "num_test": 15}
for cell in json.loads(sys.argv[1]):
    exec(cell.replace('plan_name = "fine-tune"', 'plan_name = "contest"'))
print(contest.folder == folder, contest.problems + problems)
"""


@pytest.mark.slow
def test_the_main_story_runs_as_a_contest_and_submits_its_blend(tmp_path):
    sources = json.dumps([cell.source for cell in code_cells(FOLDER / f"{MAIN}.ipynb")])
    command = [sys.executable, "-c", AS_A_CONTEST, sources]
    environ = os.environ | {"MPLBACKEND": "agg", "FLOWERKIT_CACHE": str(tmp_path)}
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True []"
    blend, copy = tmp_path / "runs/petals-1/submission.csv", tmp_path / "runs/submission.csv"
    assert blend.read_bytes() == copy.read_bytes()
    assert (tmp_path / "runs/report.html").is_file()
