"""kernel-metadata.json and the lint: every rule breaks alone, and each problem names its remedy."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowerkit.kaggle.bundle import BUNDLE, SOURCE
from flowerkit.kaggle.metadata import (
    MAX_BYTES,
    METADATA,
    build_metadata,
    fill_owner,
    find_device,
    lint,
    read_metadata,
    write_bundle,
)
from flowerkit.sources.competition import SLUG

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """A small checkout, ready to push: its owner is filled in."""
    root = tmp_path / "checkout"
    (root / "flowerkit").mkdir(parents=True)
    (root / "flowerkit/__init__.py").write_text('__version__ = "0.1.0"\n', encoding="utf-8")
    (root / SOURCE).parent.mkdir()
    shutil.copy(ROOT / SOURCE, root / SOURCE)
    write_bundle(root, owner="someone")
    return root


def change_metadata(root, **changes):
    """Other values in kernel-metadata.json; None takes a name out."""
    metadata = read_metadata(root) | changes
    kept = {name: value for name, value in metadata.items() if value is not None}
    (root / METADATA).write_text(json.dumps(kept), encoding="utf-8")


def problems(root, **options):
    return [str(problem) for problem in lint(root, **options)]


# Metadata ------------------------------------------------------------------------------------------


def test_the_metadata_asks_for_todays_tpu_and_pins_no_image():
    assert build_metadata() == {
        "id": "INSERT_OWNER_HERE/petals-to-the-metal-flowerkit",
        "title": "Petals to the Metal flowerkit",
        "code_file": "notebooks/kaggle/petals.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": False,
        "enable_tpu": True,
        "enable_internet": True,
        "machine_shape": "TpuV5E8",
        "competition_sources": ["tpu-getting-started"],
        "dataset_sources": [],
        "kernel_sources": [],
        "model_sources": [],
    }


def test_the_committed_metadata_lacks_nothing_but_an_owner():
    assert read_metadata(ROOT) == build_metadata()


def test_an_owner_takes_the_place_of_another():
    assert (
        fill_owner(build_metadata(), "a-name_1")["id"] == "a-name_1/petals-to-the-metal-flowerkit"
    )
    assert fill_owner({"id": "old/my-slug", "title": "kept"}, "new") == {
        "id": "new/my-slug",
        "title": "kept",
    }


@pytest.mark.parametrize("owner", ["", "a b", "me/too", "me@mail.org", "-me", "INSERT_OWNER_HERE"])
def test_what_cannot_be_a_user_name_is_no_owner(checkout, owner):
    before = (checkout / METADATA).read_bytes()
    with pytest.raises(ValueError, match="is no Kaggle user name. It is what follows kaggle.com/"):
        write_bundle(checkout, owner=owner)
    assert (checkout / METADATA).read_bytes() == before


def test_a_new_bundle_keeps_what_the_metadata_says(checkout):
    change_metadata(checkout, dataset_sources=["someone/weights"], is_private=False)
    write_bundle(checkout)
    metadata = read_metadata(checkout)
    assert metadata["dataset_sources"] == ["someone/weights"]
    assert metadata["is_private"] is False
    assert metadata["id"] == "someone/petals-to-the-metal-flowerkit"


@pytest.mark.parametrize(
    ("text", "what"), [("{", "is not JSON: "), ("[1]", r"must hold a JSON object, not \[1\]")]
)
def test_metadata_that_cannot_be_read_is_not_written_over(checkout, text, what):
    (checkout / METADATA).write_text(text, encoding="utf-8")
    with pytest.raises(
        ValueError, match=rf"{what}.*\. Delete {METADATA}, then run `flowerkit bundle"
    ):
        write_bundle(checkout)
    assert (checkout / METADATA).read_text(encoding="utf-8") == text


def test_a_bundle_is_made_without_a_framework(checkout):
    code = (
        "import sys\n"
        "from flowerkit.kaggle.metadata import write_bundle\n"
        f"write_bundle({str(checkout)!r})\n"
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)\n"
    )
    shutil.copytree(ROOT / "flowerkit", checkout / "flowerkit", dirs_exist_ok=True)
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True).stdout.split()
    assert loaded == ["False", "False"]


# Lint ----------------------------------------------------------------------------------------------


def test_a_fresh_bundle_with_an_owner_has_no_problem(checkout):
    assert problems(checkout) == []
    assert problems(checkout, owner="Someone") == []


def test_the_owner_is_filled_in_or_known_from_who_pushes(checkout):
    change_metadata(checkout, id="INSERT_OWNER_HERE/petals-to-the-metal-flowerkit")
    assert problems(checkout) == [
        "the owner in id 'INSERT_OWNER_HERE/petals-to-the-metal-flowerkit' is not filled in. "
        "`flowerkit push` takes it from your credentials; for the plain client, run "
        "`flowerkit bundle --owner OWNER`, with your Kaggle user name."
    ]
    assert problems(checkout, owner="someone") == []


def test_a_kernel_of_somebody_else_is_not_pushed(checkout):
    assert problems(checkout, owner="other") == [
        "id 'someone/petals-to-the-metal-flowerkit' is not yours: these credentials are other's. "
        "Run `flowerkit bundle --owner other`, or use the credentials of someone."
    ]


FILL_IN = "run `flowerkit bundle --owner OWNER`, with your Kaggle user name."
NEW_METADATA = f"Delete kernel-metadata.json, then {FILL_IN}"
NOT_THE_TPU = "without it the run does not get the TPU"
PINNED = "a pinned image sends a TPU run to a CPU, and it ends green all the same"
TPU = '"enable_tpu": true, "enable_gpu": false, "machine_shape": "TpuV5E8"'


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"id": None}, f"id '' is not OWNER/SLUG. {NEW_METADATA}"),
        ({"id": "someone"}, f"id 'someone' is not OWNER/SLUG. {NEW_METADATA}"),
        ({"id_no": 7}, "kernel-metadata.json has id_no, which goes over the id. Remove id_no."),
        ({"title": "Rose"}, "title 'Rose' has 4 characters. Give it 5 or more."),
        ({"title": None}, "title '' has 0 characters. Give it 5 or more."),
        (
            {"title": "Petals: TPU"},
            "title 'Petals: TPU' becomes 'petals-tpu', the id says 'petals-to-the-metal-flowerkit'; "
            'Kaggle would make another kernel than it names. Write "id": "someone/petals-tpu", or '
            "another title.",
        ),
        (
            {"code_file": SOURCE},
            f'code_file is "{SOURCE}" in kernel-metadata.json: another file does not hold the '
            f'package. Write "code_file": "{BUNDLE}".',
        ),
        (
            {"language": "r"},
            'language is "r" in kernel-metadata.json: the client refuses others or runs them in '
            'another image. Write "language": "python".',
        ),
        (
            {"kernel_type": "script"},
            'kernel_type is "script" in kernel-metadata.json: a script cannot be read as a notebook. '
            'Write "kernel_type": "notebook".',
        ),
        (
            {"title": "꽃 분류하기"},
            "title '꽃 분류하기' has letters that Kaggle spells in its own way in the id, so it may "
            "make another kernel than 'petals-to-the-metal-flowerkit'. Use the letters a to z and digits; "
            "the title can be changed on kaggle.com afterwards.",
        ),
        (
            {"enable_tpu": False},
            'machine_shape is "TpuV5E8" in kernel-metadata.json: it asks for an accelerator, '
            'enable_tpu and enable_gpu do not. Write "machine_shape": ""; or, for an accelerator, '
            f"{TPU}.",
        ),
        (
            {"enable_gpu": True},
            "enable_tpu and enable_gpu are both true in kernel-metadata.json: a session has one "
            "accelerator. Write false for one of them.",
        ),
        (
            {"is_private": "yes"},
            'is_private is "yes" in kernel-metadata.json: the client takes nothing but true and '
            'false. Write "is_private": true, or false.',
        ),
        (
            {"machine_shape": None},
            f"machine_shape is missing in kernel-metadata.json: {NOT_THE_TPU}. "
            'Write "machine_shape": "TpuV5E8".',
        ),
        (
            {"machine_shape": "NvidiaTeslaT4"},
            f'machine_shape is "NvidiaTeslaT4" in kernel-metadata.json: {NOT_THE_TPU}. '
            'Write "machine_shape": "TpuV5E8".',
        ),
        (
            {"docker_image": "gcr.io/kaggle-images/python:latest"},
            f"docker_image is set in kernel-metadata.json: {PINNED}. Remove docker_image.",
        ),
        (
            {"docker_image_pinning_type": "original"},
            f"docker_image_pinning_type is set in kernel-metadata.json: {PINNED}. "
            "Remove docker_image_pinning_type.",
        ),
        (
            {"competition_sources": ["digit-recognizer"]},
            f"competition_sources lacks '{SLUG}', so the run finds no data. "
            f'Write "competition_sources": ["{SLUG}"].',
        ),
        (
            {"competition_sources": SLUG},
            f'competition_sources is "{SLUG}", not a list. Write "competition_sources": [...].',
        ),
        (
            {"enable_internet": False},
            "enable_internet is off and nothing is attached that could hold the pretrained weights. "
            'Write "enable_internet": true, or attach the weights under dataset_sources.',
        ),
    ],
)
def test_metadata_that_would_fail_or_land_wrong_is_named_with_its_remedy(
    checkout, changes, problem
):
    change_metadata(checkout, **changes)
    assert problems(checkout) == [problem]


def test_switches_are_read_as_the_client_reads_them(checkout):
    written = {"enable_tpu": "true", "enable_gpu": "false", "enable_internet": "true"}
    change_metadata(checkout, **written)
    assert problems(checkout) == []
    change_metadata(checkout, enable_internet="false")
    assert problems(checkout)[0].startswith("enable_internet is off and nothing is attached")


GPU = {"enable_tpu": False, "enable_gpu": True, "machine_shape": "NvidiaTeslaT4"}
CPU = {"enable_tpu": False, "enable_gpu": False, "machine_shape": ""}
BARE = {"enable_tpu": None, "enable_gpu": None, "machine_shape": None}


@pytest.mark.parametrize(
    ("changes", "device"), [({}, "tpu"), (GPU, "gpu"), (CPU, "cpu"), (BARE, "cpu")]
)
def test_each_device_may_be_asked_for_unless_another_is_required(checkout, changes, device):
    pin = None if device == "tpu" else "v170"  # which leads nothing but a TPU run astray
    change_metadata(checkout, **changes, docker_image=pin)
    assert find_device(read_metadata(checkout)) == device
    assert problems(checkout) == []
    assert problems(checkout, require=device) == []
    other = "gpu" if device == "tpu" else "tpu"
    (problem,) = problems(checkout, require=other)
    assert problem.startswith(
        f"kernel-metadata.json asks for a {device.upper()}, --require for a {other.upper()}. Write "
    )
    assert problem.endswith(f", or pass --require {device}.")
    if other == "tpu":
        assert TPU in problem


@pytest.mark.parametrize("shape", [None, "", "NvidiaTeslaP100", "T4", "TpuV5E8"])
def test_a_gpu_that_kaggle_does_not_have_is_a_problem(checkout, shape):
    change_metadata(checkout, **GPU | {"machine_shape": shape})
    found = "missing" if shape is None else json.dumps(shape)
    assert problems(checkout) == [
        f"machine_shape is {found} in kernel-metadata.json: unless it names a GPU that Kaggle has, "
        'another is given without a word. Write "machine_shape": "NvidiaTeslaT4".'
    ]


def test_without_internet_attached_weights_will_do(checkout):
    change_metadata(checkout, enable_internet=False, model_sources=["google/x/keras/y/1"])
    assert problems(checkout) == []


DAMAGED = [("{", "is not JSON: "), ("3", "must hold a JSON object, not 3")]


@pytest.mark.parametrize(("text", "what"), DAMAGED)
def test_metadata_that_is_damaged_is_the_problem(checkout, text, what):
    (checkout / METADATA).write_text(text, encoding="utf-8")
    (problem,) = problems(checkout)
    assert what in problem
    assert problem.endswith(NEW_METADATA)


def test_metadata_that_is_missing_is_the_problem(checkout):
    (checkout / METADATA).unlink()
    assert problems(checkout) == [f"there is no {checkout / METADATA}. To write it, {FILL_IN}"]


def edit_both_notebooks(root, change):
    """A slip in notebook 01 that came through into a fresh bundle."""
    notebook = json.loads((root / SOURCE).read_text(encoding="utf-8"))
    change(notebook)
    (root / SOURCE).write_text(json.dumps(notebook), encoding="utf-8")
    write_bundle(root)


CLEAR = f"Clear it in {SOURCE} and run `flowerkit bundle`."


def test_a_notebook_without_a_python_kernelspec_is_a_problem(checkout):
    edit_both_notebooks(checkout, lambda notebook: notebook["metadata"].pop("kernelspec"))
    (problem,) = problems(checkout)
    assert problem.startswith(
        f"{BUNDLE} has no kernelspec python3, without which Kaggle may run it"
    )
    edit_both_notebooks(checkout, lambda notebook: notebook["metadata"].update(kernelspec=None))
    assert problems(checkout) == [problem]


def test_a_kaggle_block_is_a_problem(checkout):
    pin = {"accelerator": "none", "dockerImageVersionId": 30000}
    edit_both_notebooks(checkout, lambda notebook: notebook["metadata"].update(kaggle=pin))
    assert problems(checkout) == [
        f"{BUNDLE} has a metadata.kaggle block, which pins an image and an accelerator. {CLEAR}"
    ]


def test_execution_counts_are_a_problem_since_the_client_sends_them(checkout):
    bundle = json.loads((checkout / BUNDLE).read_text(encoding="utf-8"))
    for cell in [cell for cell in bundle["cells"] if cell["cell_type"] == "code"][:2]:
        cell["execution_count"] = 1
    (checkout / BUNDLE).write_text(json.dumps(bundle), encoding="utf-8")
    counts, stale = problems(checkout)
    assert counts == f"{BUNDLE} has execution counts in 2 cells. Run `flowerkit bundle`."
    assert stale.startswith(f"{BUNDLE} is stale: ")


def test_a_notebook_too_large_to_send_is_a_problem(checkout):
    def swell(notebook):
        notebook["cells"][0]["source"] = "x" * MAX_BYTES

    edit_both_notebooks(checkout, swell)
    (problem,) = problems(checkout)
    assert "bytes, over the 1,000,000 that Kaggle is sent. Move what is large out" in problem


def test_a_stale_bundle_is_a_problem(checkout):
    (checkout / "flowerkit/__init__.py").write_text("", encoding="utf-8")
    assert problems(checkout) == [
        f"{BUNDLE} is stale: flowerkit/__init__.py changed since. Run `flowerkit bundle`."
    ]


def test_every_problem_is_listed_at_once(checkout):
    change_metadata(checkout, title="Rose", machine_shape="TpuV38", docker_image="x")
    (checkout / BUNDLE).unlink()
    assert [problem.split()[0] for problem in problems(checkout)] == [
        "title",
        "machine_shape",
        "docker_image",
        "there",
    ]
