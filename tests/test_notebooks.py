"""The rules of the notebooks. Running them: `pytest --nbval --nbval-current-env notebooks/*.ipynb`."""

import ast
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAIN = "01_petals_to_the_metal"
ALLOWED_IMPORTS = {"flowerkit", "dataclasses", "logging", "os", "pathlib", "shutil", "sys"}
# Cells whose text is the same on every machine, so nbval compares it; all others are stripped. When
# it rightly changes, run the notebook, and keep the outputs of these cells alone.
STORED = {
    MAIN: {"plan", "schedule", "check"},
    "02_transfer_learning": {"plan"},
    "03_regularisation_and_lr": {"regularisation-plans"},
    "04_your_own_photos": {"photos"},
}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def syntax_nodes(path):
    # Parsed as plain Python, which has neither !commands nor %magics: both fail without a word.
    return [node for cell in code_cells(path) for node in ast.walk(ast.parse(cell.source))]


def test_the_main_story_and_the_lessons_are_there():
    assert [path.stem for path in NOTEBOOKS] == list(STORED)


@each_notebook
def test_a_notebook_is_at_most_18_code_cells_of_at_most_8_lines(path):
    cells = code_cells(path)
    assert 1 <= len(cells) <= 18
    assert {cell.id: len(cell.source.splitlines()) for cell in cells} == {
        cell.id: min(len(cell.source.splitlines()), 8) for cell in cells
    }


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
    assert all(
        phrase in opening for phrase in ("What it does", "Where it runs", "How long it takes")
    )


@each_notebook
def test_a_notebook_is_stored_stripped_but_for_text_that_is_the_same_everywhere(path):
    stored = {cell.id for cell in code_cells(path) if cell.outputs or cell.execution_count}
    assert stored == STORED.get(path.stem, set())
    for cell in code_cells(path):
        assert bool(cell.outputs) == bool(cell.execution_count), cell.id
        # Pictures and stderr differ between machines, and nbval would compare the latter.
        assert {(out.output_type, out.get("name")) for out in cell.outputs} <= {
            ("stream", "stdout")
        }


@each_notebook
def test_a_notebook_runs_on_any_python3_kernel_and_carries_no_image_pin(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    # A kaggle block can pin an image, and a pinned image sends a TPU session to a CPU.
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert all(cell.metadata == {} for cell in notebook.cells)


# On Kaggle -----------------------------------------------------------------------------------------

ON_KAGGLE = """
import json, pathlib, sys
from flowerkit.sources import competition
competition.MOUNTS = (pathlib.Path(sys.argv[1]),)
for source in json.loads(sys.argv[2]):
    exec(source)
print(data.origin, plan == replace(flowerkit.load_plan("fine-tune"), max_minutes=480), home)
"""


def run_on_kaggle(mount):
    cells = {cell.id: cell.source for cell in code_cells(FOLDER / f"{MAIN}.ipynb")}
    sources = json.dumps([cells[name] for name in ("imports", "settings", "data", "plan")])
    command = [sys.executable, "-c", ON_KAGGLE, str(mount), sources]
    environ = os.environ | {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "MPLBACKEND": "agg"}
    return subprocess.run(command, env=environ, capture_output=True, text=True)


def test_on_kaggle_the_main_story_takes_the_competition_and_its_plan(drawn):
    done = run_on_kaggle(drawn.folder)
    assert done.stdout.splitlines()[-1] == "competition True /kaggle/working", done.stderr


def test_on_kaggle_without_the_competition_the_main_story_stops_and_draws_nothing(tmp_path):
    done = run_on_kaggle(tmp_path / "nothing")
    assert done.returncode == 1
    assert "FileNotFoundError: no competition data (looked in" in done.stderr
    assert "Add Input" in done.stderr
