"""kernel-metadata.json and the lint: every rule breaks alone, and each problem names its remedy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowerkit.kaggle.bundle import BUNDLE, SOURCE
from flowerkit.kaggle.metadata import METADATA, KernelMetadata, lint, write_bundle
from flowerkit.sources import SLUG

ROOT = Path(__file__).parents[2]
NAME = "petals-to-the-metal-flowerkit"


@pytest.fixture
def ready(checkout):
    """The small checkout, ready to push: its owner is filled in."""
    write_bundle(checkout, owner="someone")
    return checkout


def change(root, **changes):
    """Other values in kernel-metadata.json; None takes a name out."""
    values = KernelMetadata.load(root).values | changes
    kept = {name: value for name, value in values.items() if value is not None}
    KernelMetadata(kept).save(root)


# Metadata -----------------------------------------------------------------------------------------


def test_the_committed_metadata_requests_todays_tpu_pins_no_image_and_lacks_only_an_owner():
    assert KernelMetadata.load(ROOT) == KernelMetadata.build()
    values = KernelMetadata.build().values
    assert values["id"] == f"INSERT_OWNER_HERE/{NAME}"
    assert values["code_file"] == "notebooks/kaggle/petals.ipynb"
    assert (values["enable_tpu"], values["machine_shape"]) == (True, "TpuV5E8")
    assert values["competition_sources"] == ["tpu-getting-started"]
    assert not [name for name in values if name.startswith("docker")]


def test_an_owner_takes_the_place_of_another():
    assert KernelMetadata.build().with_owner("a-name_1").kernel == f"a-name_1/{NAME}"
    old = KernelMetadata({"id": "old/my-slug", "title": "kept"})
    assert old.with_owner("new").values == {"id": "new/my-slug", "title": "kept"}


@pytest.mark.parametrize("owner", ["", "a b", "me/too", "me@mail.org", "-me", "INSERT_OWNER_HERE"])
def test_what_cannot_be_a_user_name_is_no_owner(ready, owner):
    before = (ready / METADATA).read_bytes()
    with pytest.raises(ValueError, match="is no Kaggle user name.*kaggle.com/"):
        write_bundle(ready, owner=owner)
    assert (ready / METADATA).read_bytes() == before


def test_a_new_bundle_keeps_the_values_of_the_metadata(ready):
    change(ready, dataset_sources=["someone/weights"], is_private=False, keywords=["tpu"])
    before = KernelMetadata.load(ready)
    write_bundle(ready)
    assert KernelMetadata.load(ready) == before


@pytest.mark.parametrize(("text", "fact"), [("{", "is not JSON"), ("[1]", r"not \[1\]")])
def test_damaged_metadata_is_a_problem_and_is_not_overwritten(ready, text, fact):
    (ready / METADATA).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{fact}.*Delete {METADATA} .*run `flowerkit bundle"):
        write_bundle(ready)
    assert (ready / METADATA).read_text(encoding="utf-8") == text
    assert "`flowerkit bundle --owner OWNER`" in lint(ready)[0]


def test_a_bundle_is_written_without_a_framework_or_the_client():
    heavy = "{'tensorflow', 'keras', 'jax', 'numpy', 'kaggle', 'requests'} & set(sys.modules)"
    code = (
        f"import sys; import flowerkit.cli.kaggle; import flowerkit.kaggle.results; print({heavy})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"set()\n"


# Lint ---------------------------------------------------------------------------------------------


def test_a_fresh_bundle_with_an_owner_has_no_problem(ready):
    assert lint(ready) == []


def test_a_missing_owner_is_a_problem_unless_the_credentials_fill_it_in(checkout):
    (problem,) = lint(checkout)
    assert "INSERT_OWNER_HERE" in problem
    assert "`flowerkit bundle --owner OWNER`" in problem
    assert lint(checkout, owner_known=True) == []


@pytest.mark.parametrize(
    ("changes", "fact", "remedy"),
    [
        ({"id": None}, "id '' is not OWNER/NAME", "--owner OWNER"),
        ({"id": "someone"}, "id 'someone'", "--owner OWNER"),
        ({"id_no": 7}, "id_no, which replaces the id", "Remove id_no"),
        ({"title": "Rose"}, "title 'Rose' has 4 characters", "5 to 50"),
        ({"title": "Rose" * 13}, "has 52 characters", "5 to 50"),
        ({"title": "꽃 분류하기"}, "title '꽃 분류하기'", "letters from a to z"),
        ({"title": "Petals: TPU"}, "becomes 'petals-tpu'", '"id": "someone/petals-tpu"'),
        ({"code_file": SOURCE}, f'code_file is "{SOURCE}"', f'"code_file": "{BUNDLE}"'),
        ({"language": "r"}, 'language is "r"', '"language": "python"'),
        ({"kernel_type": "script"}, 'kernel_type is "script"', '"kernel_type": "notebook"'),
        ({"enable_tpu": False}, "for a CPU", '"enable_tpu": true'),
        ({"machine_shape": None}, "machine_shape is missing", '"machine_shape": "TpuV5E8"'),
        ({"machine_shape": "TpuV38"}, '"TpuV38"', '"machine_shape": "TpuV5E8"'),
        ({"docker_image": "gcr.io/x"}, "gets a CPU", "Remove docker_image."),
        ({"docker_image_pinning_type": "original"}, "gets a CPU", "Remove docker_image_pinning"),
        ({"competition_sources": ["digit"]}, f"lacks '{SLUG}'", f'["{SLUG}"]'),
        ({"enable_internet": False}, "pretrained weights", '"enable_internet": true'),
        ({"dataset_sources": ["weights"]}, "has 'weights'", '"OWNER/NAME"'),
        (
            {"dataset_sources": ["datasets/flora/weights"]},
            "has 'datasets/flora/weights'",
            "OWNER/NAME",
        ),
        ({"dataset_sources": [None]}, "dataset_sources in", '"OWNER/NAME"'),
        (
            {"dataset_sources": ["flora/weights", "https://kaggle.com/x/y"]},
            "has 'https",
            "OWNER/NAME",
        ),
        ({"kernel_sources": ["code/flora/petals"]}, "has 'code/flora/petals'", '"OWNER/NAME"'),
        ({"model_sources": ["google/x/keras/y"]}, "has 'google/x/keras/y'", "/VARIATION/VERSION"),
        ({"competition_sources": [SLUG, "c/digit"]}, "has 'c/digit'", '"NAME"'),
    ],
)
def test_metadata_that_would_fail_or_run_wrong_is_named_with_its_remedy(
    ready, changes, fact, remedy
):
    change(ready, **changes)
    (problem,) = lint(ready)
    assert fact in problem
    assert remedy in problem


def test_switches_are_read_as_the_client_reads_them(ready):
    change(ready, enable_tpu="true", enable_gpu="false", enable_internet="true")
    assert lint(ready) == []
    change(ready, enable_internet="false")
    assert "enable_internet is off" in lint(ready)[0]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("competition_sources", None, "list"),
        ("dataset_sources", "x", "list"),
        ("title", 3, "text"),
        ("id", ["a/b"], "text"),
        ("code_file", {}, "text"),
    ],
)
def test_a_value_of_another_type_is_named_with_the_remedy(ready, name, value, kind):
    KernelMetadata(KernelMetadata.load(ready).values | {name: value}).save(ready)
    (problem,) = lint(ready)
    assert problem.startswith(
        f"{name} in {METADATA} must be a {kind}, not {json.dumps(value)}. Del"
    )


GPU = {"enable_tpu": False, "enable_gpu": True, "machine_shape": "NvidiaTeslaT4"}
CPU = {"enable_tpu": False, "enable_gpu": False, "machine_shape": ""}
BARE = {"enable_tpu": None, "enable_gpu": None, "machine_shape": None}


@pytest.mark.parametrize(
    ("changes", "device"), [({}, "tpu"), (GPU, "gpu"), (CPU, "cpu"), (BARE, "cpu")]
)
def test_each_device_may_be_requested_unless_another_is_required(ready, changes, device):
    pin = None if device == "tpu" else "v170"  # which sends only a TPU run to another device
    change(ready, **changes, docker_image=pin)
    assert KernelMetadata.load(ready).device == device
    assert lint(ready, require=device) == []
    other = "gpu" if device == "tpu" else "tpu"
    (problem,) = lint(ready, require=other)
    assert f'"enable_{other}": true' in problem
    assert problem.endswith(f", or pass --require {device}.")


@pytest.mark.parametrize("shape", [None, "", "NvidiaTeslaP100", "T4", "TpuV5E8"])
def test_a_gpu_that_kaggle_does_not_have_is_a_problem(ready, shape):
    change(ready, **GPU | {"machine_shape": shape})
    (problem,) = lint(ready)
    assert f"machine_shape is {'missing' if shape is None else json.dumps(shape)}" in problem
    assert '"machine_shape": "NvidiaTeslaT4"' in problem


def test_without_internet_attached_weights_will_do(ready):
    sources = {"dataset_sources": ["flora/weights", "flora/weights/2"]}
    sources |= {"kernel_sources": ["flora/petals"], "model_sources": ["google/x.5/keras/y_1/1"]}
    for kind, names in sources.items():
        change(ready, enable_internet=False, **{key: [] for key in sources} | {kind: names})
        assert lint(ready) == []


def test_every_problem_is_listed_at_once(ready):
    change(ready, title="Rose", machine_shape="TpuV38", docker_image="x")
    (ready / "flowerkit/__init__.py").write_text("", encoding="utf-8")
    title, shape, image, stale = lint(ready)
    assert (title.split()[0], shape.split()[0], image.split()[0]) == (
        "title",
        "machine_shape",
        "docker_image",
    )
    assert "stale" in stale
    (ready / METADATA).unlink()
    assert lint(ready)[0].startswith(f"there is no {ready / METADATA}. ")
