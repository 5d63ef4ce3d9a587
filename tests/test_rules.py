"""The rules of the house, by folder, read off its own source."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import flowerkit

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flowerkit"

# Lowest first: nothing imports from what comes after it. Imports inside functions count too.
ORDER = [
    "text",
    "console",
    "synonyms",
    "lazy",
    "files",
    "schedules",
    "metrics",
    "submission",
    "accelerator",
    "data",
    "photos",
    "sources",
    "pipeline",
    "models",
    "prediction",
    "training",
    "plots",
    "reports",
    "experiments",
    "deploy",
    "kaggle",
    "cli",
    "__main__",
]
FOLDERS = [name for name in ORDER if (PACKAGE / name).is_dir()]
# Importing the face of these, and every command's `--help`, loads none of HEAVY.
HEAVY = ("tensorflow", "keras", "jax", "torch", "matplotlib", "sklearn", "numpy", "PIL")
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """training/plan.py -> training.plan"""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def find_imports(path):
    """(its folder or root module, the module) of everything imported from flowerkit."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: write from flowerkit..."
            names = [node.module]
            if node.module == "flowerkit":
                names = [f"flowerkit.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("flowerkit.") and name != "flowerkit.__version__":
                yield name.split(".")[1], name


def test_every_folder_and_root_module_has_its_place_in_the_order():
    here = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    here |= {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert here == set(ORDER)


def test_imports_point_down():
    upward = [
        f"{name_of(path)} imports {module}"
        for path in MODULES
        if path != PACKAGE / "__init__.py"
        for place, module in find_imports(path)
        if ORDER.index(place) > ORDER.index(name_of(path).split(".")[0])
    ]
    assert upward == []


def test_others_import_from_a_folders_face():
    inside = [
        f"{name_of(path)} imports {module}"
        for path in MODULES
        for place, module in find_imports(path)
        if place in FOLDERS and module.count(".") > 1 and name_of(path).split(".")[0] != place
    ]
    assert inside == []


def test_the_imports_are_really_seen():
    """The rules above would hold for any code if they saw none."""
    places = {place for place, _ in find_imports(PACKAGE / "training" / "trainer.py")}
    assert {"accelerator", "data", "pipeline", "training"} <= places


@pytest.mark.parametrize("name", FOLDERS)
def test_a_face_says_what_lives_in_the_folder_and_what_others_use(name):
    folder = importlib.import_module(f"flowerkit.{name}")
    modules = {path.stem for path in (PACKAGE / name).glob("*.py")} - {"__init__"}
    assert len(modules) <= 15
    missing = [module for module in sorted(modules) if module not in folder.__doc__]
    assert missing == []
    for exported in folder.__all__:
        assert getattr(folder, exported) is not None
    assert not modules & set(folder.__all__)  # no module bears the name of what its folder exports


def test_faces_and_the_package_load_nothing_heavy_and_every_public_name_arrives():
    code = (
        "import importlib, sys, flowerkit\n"
        f"for name in {FOLDERS}: importlib.import_module('flowerkit.' + name)\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules))\n"
        "space = {}\n"
        "exec('from flowerkit import *', space)\n"
        "print(sorted(set(space) - {'__builtins__'}) == sorted(flowerkit.__all__))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "True"]
    with pytest.raises(AttributeError, match=r"no attribute 'fit'\. Did you mean 'train'\?"):
        _ = flowerkit.fit
    with pytest.raises(AttributeError, match="module 'flowerkit' has no attribute 'trian'"):
        flowerkit.trian  # noqa: B018


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["check", "no.csv", "--data", "x"]]
)
def test_help_and_wrong_usage_load_no_framework(words):
    code = (
        "import sys\nfrom flowerkit.__main__ import main\n"
        f"try: main({words})\nexcept SystemExit: pass\n"
        f"print(*(name for name in {HEAVY[:5]} if name in sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == ""


def find_frameworks(path):
    """Every framework that a module imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            roots = {name.split(".")[0] for name in names if name}
            yield from roots & {"tensorflow", "keras", "jax", "torch"}


@pytest.mark.parametrize("folder", ["data", "photos", "sources"])
def test_data_is_found_read_and_written_without_a_framework(folder):
    """On the jax backend TensorFlow need not be installed; imports inside functions count too."""
    paths = [path for path in MODULES if name_of(path).split(".")[0] == folder]
    assert {(name_of(path), name) for path in paths for name in find_frameworks(path)} == set()


def test_tensorflow_is_imported_by_the_few_modules_that_need_it():
    importing = {name_of(path) for path in MODULES if "tensorflow" in find_frameworks(path)}
    backend = {"accelerator.device", "models.accumulation", "models.cam", "pipeline.tensorflow"}
    assert importing == backend | {"deploy.formats"}  # exports are written with it


def test_only_pages_and_commands_draw():
    drawing = {
        name_of(path).split(".")[0]
        for path in MODULES
        for place, _ in find_imports(path)
        if place == "plots"
    }
    assert drawing <= {"plots", "reports", "experiments", "cli"}


def test_names_reach_a_csv_by_the_one_function_that_makes_them_harmless():
    """Submissions hold ids that `to_id` or the test split gave."""
    writing = {name_of(path) for path in MODULES if "csv.writer" in path.read_text("utf-8")}
    assert writing == {"text"}


FORBIDDEN = (
    "print",
    "exit",
    "quit",
    "SystemExit",
    "sys.exit",
    "os._exit",
    "sys.stdout",
    "sys.stderr",
)


def find_faults(path):
    """What no module of the library may have, with lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    place = name_of(path).split(".")[0]
    if not ast.get_docstring(tree):
        yield 1, "no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
            documented = ast.get_docstring(node) or (
                place == "cli" and node.name[:4] in ("add_", "run_")
            )
            if not documented:
                yield node.lineno, f"{node.name} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):  # `python -O` drops it, and its error names no remedy
            yield node.lineno, "assert"
        if place in ("cli", "__main__", "console"):
            continue
        used = (
            node.func
            if isinstance(node, ast.Call)
            else node
            if isinstance(node, ast.Attribute)
            else None
        )
        if used is not None and ast.unparse(used) in FORBIDDEN:
            yield node.lineno, ast.unparse(used)


@pytest.mark.parametrize("name", ORDER)
def test_modules_are_documented_and_neither_assert_nor_print(name):
    paths = [path for path in MODULES if name_of(path).split(".")[0] == name]
    assert [(name_of(path), *fault) for path in paths for fault in find_faults(path)] == []


def test_tests_mirror_the_package():
    tests = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert tests == set(FOLDERS)
    known = {path.relative_to(PACKAGE).with_name(f"test_{path.name}") for path in MODULES}
    here = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").glob("*/test_*.py")}
    assert sorted(map(str, here - known - {Path("cli/test_main.py")})) == []


def test_requirements_hold_every_dependency_with_the_same_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [Requirement(line) for line in lines if line.strip() and line[0] != "#"]
    bounds = {requirement.name: requirement.specifier for requirement in listed}
    assert len(bounds) == len(listed)  # none twice
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    assert not {"tensorflow", "jax"} & {requirement.name for requirement in wanted}  # one is enough
    wanted += [Requirement(text) for text in (*extras["tensorflow"], *extras["jax"])]
    for requirement in wanted:
        assert bounds.get(requirement.name) == requirement.specifier, requirement.name
