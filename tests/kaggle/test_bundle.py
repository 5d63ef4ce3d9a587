"""The pushed notebook: same files, same bytes; and stale is seen."""

import json
import os
import shutil

import nbformat
import pytest
from bundled import ROOT, build, find_held, read_cell

import flowerkit
from flowerkit.kaggle.bundle import BUNDLE, SOURCE, build_bundle, check_bundle
from flowerkit.kaggle.metadata import write_bundle

COMMITTED = ROOT / BUNDLE


@pytest.fixture(scope="module")
def fresh_checkout(tmp_path_factory):
    """A copy of what a bundle is made of, with a fresh bundle; packing it takes a second."""
    root = tmp_path_factory.mktemp("fresh") / "checkout"
    shutil.copytree(ROOT / "flowerkit", root / "flowerkit", ignore=shutil.ignore_patterns("__*__"))
    shutil.copy(ROOT / "flowerkit/__init__.py", root / "flowerkit")
    shutil.copy(ROOT / "LICENSE", root)
    (root / SOURCE).parent.mkdir()
    shutil.copy(ROOT / SOURCE, root / SOURCE)
    write_bundle(root)
    return root


@pytest.fixture
def checkout(fresh_checkout, tmp_path):
    """A checkout of the test's own."""
    return shutil.copytree(fresh_checkout, tmp_path / "checkout")


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


LEFT_AT_HOME = {
    "__main__.py",
    "options.py",
    "bundle.py",
    "kernel.py",
    "kaggle_client.py",
    "doctor.py",
}


def test_all_that_python_is_offered_goes_along_and_the_command_line_stays_at_home():
    held = find_held(ROOT)
    assert {f"{room}.py" for room in flowerkit._HOME.values()} | {"__init__.py", "LICENSE"} <= held
    assert {"plots.py", "report.py"} <= held  # what notebook 01 imports
    assert not LEFT_AT_HOME & held


def test_what_the_notebook_imports_besides_goes_along(checkout):
    source = json.loads((checkout / SOURCE).read_text(encoding="utf-8"))
    assert "doctor.py" not in find_held(checkout)
    source["cells"][2]["source"] = ["%pip list\n", "from flowerkit import doctor\n"]
    (checkout / SOURCE).write_text(json.dumps(source), encoding="utf-8")
    write_bundle(checkout)
    assert "doctor.py" in find_held(checkout)


def test_a_change_of_a_file_that_goes_along_makes_the_bundle_stale(checkout):
    assert problems(checkout) == []
    held = find_held(checkout)
    for path in sorted((checkout / "flowerkit").glob("*.py"))[::16]:
        before = path.read_text(encoding="utf-8")
        path.write_text(before + "# changed\n", encoding="utf-8")
        stale = f"{BUNDLE} is stale: flowerkit/{path.name} changed since. Run `flowerkit bundle`."
        assert problems(checkout) == [stale] * (path.name in held)
        path.write_text(before, encoding="utf-8")


def test_a_new_a_lost_and_a_changed_file_make_the_bundle_stale(checkout):
    (checkout / "flowerkit/augment.py").unlink()
    (checkout / "flowerkit/zinnia.py").write_text("", encoding="utf-8")
    with (checkout / "flowerkit/files.py").open("a", encoding="utf-8") as file:
        file.write("import flowerkit.zinnia\n")
    (checkout / "LICENSE").write_text("all yours", encoding="utf-8")
    assert problems(checkout) == [
        f"{BUNDLE} is stale: flowerkit/LICENSE and 3 more changed since. Run `flowerkit bundle`."
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
    [
        (None, "there is no "),
        ("{", "is not JSON"),
        ("[]", "must hold a notebook, not []"),
        ('{"cells": [{}]}', "has no list of cells"),
    ],
)
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
