"""The rules of the house, read off its own source."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import flowerkit
from flowerkit.cli.options import build_parser

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flowerkit"

# Lowest first: a room imports only from rooms before it. Imports inside functions count too.
ROOMS = [
    "files",
    "wording",
    "option_kinds",
    "terminal",
    "model_card",
    "keras_file",
    "fingerprints",
    "submission",
    "evaluation",
    "schedules",
    "augmentation",
    "plan",
    "studies",
    "phases",
    "history",
    "records",
    "tfrecords",
    "competition",
    "backbones",
    "networks",
    "heads",
    "models",
    "attention_maps",
    "machine",
    "detection",
    "accelerator",
    "connecting",
    "draws",
    "augment_host",
    "augment",
    "decode_cache",
    "shard_reader",
    "decoded_images",
    "decoding",
    "leaks",
    "leak_sheet",
    "device_images",
    "batch_memory",
    "numpy_calls",
    "pipeline",
    "previews",
    "painting",
    "synthetic",
    "bundle",
    "kernel",
    "photo_reader",
    "photo_labels",
    "photo_listing",
    "photo_splits",
    "photo_cache",
    "photo_report",
    "photo_division",
    "photo_folder",
    "photos",
    "beam_conversion",
    "sources",
    "doctor",
    "prediction",
    "blending",
    "features",
    "submitting",
    "steps",
    "callbacks",
    "losses",
    "optimization",
    "compiling",
    "run_folder",
    "fitting",
    "lr_search",
    "training",
    "report_page",
    "fonts",
    "plots_rates",
    "plots_images",
    "plots_classes",
    "plots_compare",
    "plots",
    "run_facts",
    "compared_runs",
    "compare",
    "compare_tables",
    "study_runs",
    "report_plan",
    "report_sections",
    "plots_report",
    "compare_page",
    "report",
    "export_formats",
    "runtimes",
    "conversion",
    "exports",
    "photo_sources",
    "classifier",
    "serving",
    "kaggle_client",
    "push",
    "kaggle_results",
    "kaggle_commands",
    "photo_commands",
    "beam_commands",
    "leak_commands",
    "report_commands",
    "study_commands",
    "predict_commands",
    "model_commands",
    "plan_options",
    "options",
    "__main__",
]
WITHOUT_FRAMEWORK = [
    "files",
    "wording",
    "option_kinds",
    "terminal",
    "model_card",
    "keras_file",
    "fingerprints",
    "submission",
    "evaluation",
    "schedules",
    "augmentation",
    "plan",
    "studies",
    "phases",
    "history",
    "records",
    "tfrecords",
    "competition",
    "backbones",
    "machine",
    "detection",
    "accelerator",
    "connecting",
    "draws",
    "augment_host",
    "decode_cache",
    "batch_memory",
    "painting",
    "synthetic",
    "bundle",
    "kernel",
    "photo_reader",
    "photo_labels",
    "photo_listing",
    "photo_splits",
    "photo_cache",
    "photo_report",
    "photo_division",
    "photo_folder",
    "photos",
    "beam_conversion",
    "sources",
    "doctor",
    "submitting",
    "report_page",
    "export_formats",
    "runtimes",
    "conversion",
    "photo_sources",
    "classifier",
    "serving",
    "kaggle_client",
    "push",
    "kaggle_results",
    "kaggle_commands",
    "photo_commands",
    "beam_commands",
    "leak_commands",
    "report_commands",
    "study_commands",
    "predict_commands",
    "model_commands",
    "plan_options",
    "options",
    "__main__",
]
HEAVY = ("tensorflow", "keras", "jax", "torch", "matplotlib", "sklearn")
MAX_LINES = 350


def parse(name):
    return ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))


def find_imported_rooms(name):
    """The rooms that `name` imports, wherever the import stands; relative ones are refused."""
    rooms = set()
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}.py, line {node.lineno}: write from flowerkit..."
            modules = [node.module]
            if node.module == "flowerkit":
                modules = [f"flowerkit.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {module.split(".")[1] for module in modules if module.startswith("flowerkit.")}
    return rooms


def test_every_room_has_its_place_in_the_order():
    assert len(set(ROOMS)) == len(ROOMS)
    assert set(ROOMS) | {"__init__"} == {file.stem for file in PACKAGE.glob("*.py")}
    assert not [path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]  # flat


@pytest.mark.parametrize("name", ROOMS)
def test_imports_point_down(name):
    allowed = {*ROOMS[: ROOMS.index(name)], "__version__"}
    assert find_imported_rooms(name) <= allowed


def test_the_imports_are_really_seen():
    """The rule above would hold for any code if it saw none."""
    assert {"plan", "training", "report", "sources", "submitting"} <= find_imported_rooms(
        "__main__"
    )
    assert "backbones" in find_imported_rooms("doctor")  # inside a function
    assert "accelerator" in find_imported_rooms("__init__")  # from flowerkit import ...
    assert "synthetic" in find_imported_rooms("sources")


def test_only_the_report_and_the_notebooks_draw():
    assert [name for name in ROOMS if "plots" in find_imported_rooms(name)] == ["report"]


def test_light_rooms_load_no_framework():
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module('flowerkit.{name}')\n"
        f"print('{name}', *(name for name in {HEAVY} if name in sys.modules))\n"
        for name in WITHOUT_FRAMEWORK
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == WITHOUT_FRAMEWORK
    assert done.stderr == ""


def test_the_package_alone_loads_nothing_and_every_public_name_arrives():
    code = (
        "import sys, flowerkit\n"
        f"print(*(name for name in (*{HEAVY}, 'numpy') if name in sys.modules))\n"
        "space = {}\n"
        "exec('from flowerkit import *', space)\n"
        "print(sorted(set(space) - {'__builtins__'}) == sorted(flowerkit.__all__))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "True"]


def test_all_is_what_imports():
    assert dir(flowerkit) == sorted(flowerkit.__all__)
    for name in flowerkit.__all__:
        assert getattr(flowerkit, name) is not None
    with pytest.raises(AttributeError, match="module 'flowerkit' has no attribute 'trian'"):
        flowerkit.trian  # noqa: B018


def find_names_used(name):
    """Called or raised names with their lines: print, sys.exit, SystemExit ..."""
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}", node.lineno


@pytest.mark.parametrize("name", [room for room in ROOMS if room not in ("__main__", "terminal")])
def test_only_the_command_line_prints_or_exits(name):
    forbidden = {
        "print",
        "exit",
        "quit",
        "SystemExit",
        "sys.exit",
        "os._exit",
        "sys.stdout",
        "sys.stderr",
    }
    assert [(word, line) for word, line in find_names_used(name) if word in forbidden] == []


def test_the_command_line_does_print_and_exit():
    assert {"print", "sys.exit"} <= {word for word, _ in find_names_used("__main__")}


@pytest.mark.parametrize("name", ["__init__", *ROOMS])
def test_the_library_asserts_nothing(name):
    """`python -O` drops asserts, and their errors name no remedy."""
    lines = [node.lineno for node in ast.walk(parse(name)) if isinstance(node, ast.Assert)]
    assert lines == []


@pytest.mark.parametrize("name", ["__init__", *ROOMS])
def test_public_names_have_docstrings(name):
    tree = parse(name)
    defined = (ast.FunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, defined) and node.name[0] != "_"]
    if name == "__main__":  # its commands are described to the user, by --help
        public = [node for node in public if not node.name.startswith("run_")]
    assert ast.get_docstring(tree)
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def find_python_files():
    folders = ("flowerkit", "tests", "benchmarks", "notebooks")
    return [file for folder in folders for file in (ROOT / folder).rglob("*.py")]


def test_no_file_is_over_350_lines():
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in find_python_files()
    }
    assert len(lengths) > 2 * len(ROOMS) - 5
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_requirements_hold_every_dependency_with_the_same_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [Requirement(line) for line in lines if line.strip() and line[0] != "#"]
    bounds = {requirement.name: requirement.specifier for requirement in listed}
    assert len(bounds) == len(listed)  # none twice
    wanted = [Requirement(text) for text in project["dependencies"]]
    assert "tensorflow" in {requirement.name for requirement in wanted}
    for requirement in wanted:
        assert bounds.get(requirement.name) == requirement.specifier, requirement.name


def find_commands(text):
    """The flowerkit commands of the ```sh blocks, words split as a shell does."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if _is_command(line)]
    return [words[3 if words[0] == "python" else 1 :] for words in commands]


def _is_command(line):
    return line.startswith(("flowerkit ", "python -m flowerkit "))


def test_commands_are_found_in_sh_blocks_only():
    text = (
        "flowerkit no\n```sh\npip install .\nflowerkit check a.csv \\\n  --data 'my d'  # mine\n"
        "python -m flowerkit demo\n```\n```python\nflowerkit no\n```\n"
    )
    assert find_commands(text) == [["check", "a.csv", "--data", "my d"], ["demo"]]


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_the_readmes_commands_parse(name):
    commands = find_commands((ROOT / name).read_text(encoding="utf-8"))
    assert commands, f"{name} shows no command in a ```sh block"
    for words in commands:
        if not {"--help", "--version"} & set(words):  # these end the program at once
            build_parser().parse_args(words)


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_the_readmes_python_uses_names_that_exist(name):
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL
    )
    assert blocks
    used = set(re.findall(r"flowerkit\.(\w+)", "".join(blocks)))
    assert {"connect", "train"} <= used <= set(flowerkit.__all__)
    for block in blocks:
        ast.parse(block)
