"""The pushed notebook: the same files give the same lines, staleness is seen, and it runs where only it
arrives.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest

import flowerkit
from flowerkit.kaggle.bundle import BUNDLE, LEFT_OUT, SOURCE, build_bundle, check_bundle, set_values
from flowerkit.kaggle.metadata import write_bundle
from flowerkit.sources import competition, draw_competition, find_data, find_test_ids
from flowerkit.submission import check_submission

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """A small checkout: a package with a folder, a template and what stays at home; freshly bundled."""
    root = tmp_path / "checkout"
    for name, text in {
        "flowerkit/__init__.py": '__version__ = "0.1.0"\n',
        "flowerkit/plots/rates.py": "LINE = 1\nCOLOUR = 2\n",
        "flowerkit/reports/templates/report.html.j2": "<h1>{{ title }}</h1>\n",
        "flowerkit/cli/kaggle.py": "",
        "flowerkit/__main__.py": "",
        "LICENSE": "Apache\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / SOURCE).parent.mkdir()
    shutil.copy(ROOT / SOURCE, root / SOURCE)
    write_bundle(root)
    return root


def read_cell(bundle):
    """The source of the cell that holds the package."""
    return next("".join(cell["source"]) for cell in bundle["cells"] if cell["id"] == "package")


def find_packed(bundle):
    """The names of the files in a bundle."""
    return set(re.findall(r'^"([^"]+)": "', read_cell(bundle), re.MULTILINE))


@pytest.fixture(scope="module")
def bundle():
    return build_bundle(ROOT)


# What it holds ------------------------------------------------------------------------------------


def test_the_bundle_is_notebook_01_stripped_with_two_more_cells(bundle):
    nbformat.validate(nbformat.from_dict(bundle))
    source = json.loads((ROOT / SOURCE).read_text(encoding="utf-8"))
    ids = [cell["id"] for cell in source["cells"]]
    assert [cell["id"] for cell in bundle["cells"]] == [ids[0], "package-why", "package", *ids[1:]]
    assert [c["source"] for c in bundle["cells"][3:]] == [c["source"] for c in source["cells"][1:]]
    code = [cell for cell in bundle["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["execution_count"] or cell["outputs"]] == []


def test_a_checkout_packs_its_modules_and_templates_and_leaves_the_command_line_at_home(checkout):
    assert find_packed(build_bundle(checkout)) == {
        "flowerkit/__init__.py",
        "flowerkit/plots/rates.py",
        "flowerkit/reports/templates/report.html.j2",
        "LICENSE",
    }


def test_what_the_bundled_modules_import_is_bundled_too(bundle):
    assert all((ROOT / "flowerkit" / name).exists() for name in LEFT_OUT)
    packed = find_packed(bundle)
    modules = {name[:-3].replace("/", ".").removesuffix(".__init__") for name in packed}
    known = {
        path.relative_to(ROOT).as_posix()[:-3].replace("/", ".").removesuffix(".__init__")
        for path in (ROOT / "flowerkit").rglob("*.py")
    }
    assert {f"flowerkit.{home}" for home in flowerkit._HOMES} - modules == set()
    for name in filter(lambda name: name.endswith(".py"), packed):
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            imported = set()
            if isinstance(node, ast.ImportFrom):
                imported = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                imported = {alias.name for alias in node.names}
            assert (imported & known) - modules == set(), name


def test_a_pushed_bundle_is_under_480_kb(bundle):
    cells = [cell | {"source": "".join(cell["source"])} for cell in bundle["cells"]]
    num_bytes = len(json.dumps(bundle | {"cells": cells}))  # what the client sends
    assert num_bytes < 480_000


def test_a_push_sets_the_plan_and_the_minutes_in_the_one_line_that_has_them(bundle):
    changed = set_values(bundle, {"plan_name": "contest", "max_minutes": 90})
    (plan,) = [cell for cell in changed["cells"] if cell["id"] == "plan"]
    assert plan["source"][:2] == ['plan_name = "contest"\n', "max_minutes = 90\n"]
    others = [cell for cell in changed["cells"] if cell["id"] != "plan"]
    assert others == [cell for cell in bundle["cells"] if cell["id"] != "plan"]
    with pytest.raises(ValueError, match=r"0 lines `plans = .*Restore that line in notebooks"):
        set_values(bundle, {"plans": 1})


# In step ------------------------------------------------------------------------------------------


def test_the_committed_bundle_is_in_step():
    assert check_bundle(ROOT) == []


def test_the_same_files_give_the_same_notebook_whatever_their_dates_and_line_ends(checkout):
    first = build_bundle(checkout)
    for path in checkout.rglob("*.py"):
        os.utime(path, (10**9, 10**9))
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))  # as git does on Windows
    (checkout / "flowerkit/__pycache__").mkdir()
    (checkout / "flowerkit/__pycache__/lazy.cpython-311.pyc").write_bytes(b"\0")
    assert build_bundle(checkout) == first


def test_a_changed_module_is_two_changed_lines(checkout):
    before = (checkout / BUNDLE).read_text(encoding="utf-8").splitlines()
    (checkout / "flowerkit/plots/rates.py").write_text("LINE = 2\n", encoding="utf-8")
    assert check_bundle(checkout) == [
        f"{BUNDLE} is stale: flowerkit/plots/rates.py changed since. Run `flowerkit bundle`."
    ]
    write_bundle(checkout)
    assert check_bundle(checkout) == []
    after = (checkout / BUNDLE).read_text(encoding="utf-8").splitlines()
    changed = [line for line, old in zip(after, before, strict=True) if line != old]
    assert len(changed) == 2  # it is the dictionary of the next
    assert "flowerkit/plots/rates.py" in changed[0]


def test_new_and_lost_files_make_the_bundle_stale_and_those_at_home_do_not(checkout):
    (checkout / "flowerkit/cli/new.py").touch()
    (checkout / "flowerkit/__main__.py").write_text("print()\n", encoding="utf-8")
    assert check_bundle(checkout) == []
    (checkout / "flowerkit/plots/rates.py").unlink()
    (checkout / "flowerkit/plots/zinnia.py").touch()
    assert "flowerkit/plots/rates.py and 1 more" in check_bundle(checkout)[0]


def test_a_change_of_notebook_01_makes_the_bundle_stale_and_its_outputs_do_not(checkout):
    source = json.loads((checkout / SOURCE).read_text(encoding="utf-8"))
    source["cells"][2]["execution_count"] = 5
    source["metadata"]["kaggle"] = {"dockerImageVersionId": 30000}  # which would pin an image
    (checkout / SOURCE).write_text(json.dumps(source), encoding="utf-8")
    assert check_bundle(checkout) == []
    source["cells"][0]["source"] = ["# Another title"]
    (checkout / SOURCE).write_text(json.dumps(source), encoding="utf-8")
    assert f"{SOURCE} or the bundle's own cells changed" in check_bundle(checkout)[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("spec.origin:", "True:", "the bundle's own cells changed"),
        ('rates.py\\": \\"c', 'rates.py\\": \\"~', "cannot be unpacked"),
        ("PACKAGE = ", "PARCEL = ", "the bundle's own cells changed"),
    ],
)
def test_an_edit_of_the_bundle_itself_is_seen(checkout, old, new, message):
    text = (checkout / BUNDLE).read_text(encoding="utf-8")
    assert old in text
    (checkout / BUNDLE).write_text(text.replace(old, new), encoding="utf-8")
    (problem,) = check_bundle(checkout)
    assert message in problem
    assert problem.endswith("Run `flowerkit bundle`.")


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (None, "there is no "),
        ("{", "is not JSON"),
        ("[]", "must hold a notebook, not []"),
        ('{"cells": 1}', "has no cells with text"),
        ('{"cells": [null]}', "has no cells with text"),
        ('{"cells": [{"cell_type": "code", "source": [1]}]}', "has no cells with text"),
        ("[" * 100_000, "is not JSON"),
    ],
)
@pytest.mark.parametrize("name", [BUNDLE, SOURCE])
def test_a_notebook_that_is_missing_or_damaged_is_named_with_its_remedy(checkout, text, fact, name):
    (checkout / name).unlink()
    if text is not None:
        (checkout / name).write_text(text, encoding="utf-8")
    if name == BUNDLE:
        (message,) = check_bundle(checkout)
    else:
        with pytest.raises((FileNotFoundError, ValueError)) as caught:
            write_bundle(checkout)
        message = str(caught.value)
    assert fact in message
    assert str(checkout / name) in message
    assert message.endswith("`flowerkit bundle`." if name == BUNDLE else "with git.")


def test_a_folder_that_is_no_checkout_is_named(tmp_path):
    for function in (write_bundle, check_bundle):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path} is no checkout .*--root FOLDER"):
            function(tmp_path)


# Its first cell -----------------------------------------------------------------------------------

RUN_CELL = """
import pathlib, sys
exec(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
print(sorted(name for name in ("keras", "numpy") if name in sys.modules))
"""


def run_cell(source, folder, *, before=""):
    """The cell in an interpreter that has the standard library alone; nothing can be downloaded."""
    (folder / "cell.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-I", "-S", "-c", before + RUN_CELL, str(folder / "cell.py")]
    environ = {"TMPDIR": str(folder), "PATH": os.environ["PATH"]}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)


def test_the_cell_unpacks_the_package_and_loads_no_framework(bundle, tmp_path):
    done = run_cell(read_cell(bundle), tmp_path)
    message, loaded = done.stdout.splitlines()
    (folder,) = tmp_path.glob("flowerkit-*")
    assert message.startswith(
        f"flowerkit {flowerkit.__version__} comes from this notebook (sha256 "
    )
    assert message.endswith(f", unpacked into {folder})")
    assert loaded == "[]"
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
    for name in find_packed(bundle) - {"LICENSE"}:
        assert files[name].read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.parametrize("init", ['__version__ = "7"', None])
def test_the_cell_leaves_an_installed_flowerkit_alone_but_not_a_mere_folder(
    checkout, tmp_path, init
):
    (tmp_path / "site/flowerkit").mkdir(parents=True)
    if init:
        (tmp_path / "site/flowerkit/__init__.py").write_text(init, encoding="utf-8")
    before = f"import sys; sys.path.append({str(tmp_path / 'site')!r})"
    message = run_cell(read_cell(build_bundle(checkout)), tmp_path, before=before).stdout
    assert message.startswith("flowerkit 7 is installed" if init else "flowerkit 0.1.0 comes from")
    assert len(list(tmp_path.glob("flowerkit-*"))) == (0 if init else 1)


@pytest.mark.parametrize("damage", ["", "c~", "c c"])
def test_the_cell_refuses_a_damaged_package(checkout, tmp_path, damage):
    cell = read_cell(build_bundle(checkout))
    broken = re.sub(r'(?<=rates.py": ")..', damage, cell)
    assert broken != cell
    done = run_cell(broken, tmp_path)
    assert "RuntimeError: the package in this cell is damaged" in done.stderr
    assert "`flowerkit bundle`" in done.stderr
    assert list(tmp_path.glob("flowerkit-*")) == []


# The whole of it, as Kaggle runs it ---------------------------------------------------------------

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
    """A folder to import from that holds what is installed here, except flowerkit."""
    folder = tmp_path / "third-party"
    folder.mkdir()
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path}
    for place in places:
        if place.endswith("site-packages"):
            for path in Path(place).iterdir():
                if "flowerkit" not in path.name and not (folder / path.name).exists():
                    (folder / path.name).symlink_to(path)
    return folder


def test_the_bundle_runs_as_on_kaggle_to_a_valid_submission(bundle, third_party, tmp_path):
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
    pushed = set_values(bundle, {"plan_name": str(tmp_path / "small.json")})
    (tmp_path / "bundle.ipynb").write_text(json.dumps(pushed), encoding="utf-8")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(temporary),
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "FLOWERKIT_KAGGLE_ROOT": str(kaggle),
        "MPLBACKEND": "agg",
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
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(temporary)
    names = {path.name for path in working.rglob("*")}
    assert {"petals-1", "report.html", "submission.csv", "plan.json", "model.keras"} <= names
    ids = find_test_ids(find_data(mount))
    assert check_submission(working / "submission.csv", ids, 104) == []
