"""What Kaggle is told about the pushed notebook, and what is wrong with it before it is pushed.

The client reports little: a title that does not fit its id, a leftover image pin or a missing
machine shape is pushed without a word, and the run lands on a CPU or nowhere. `lint` reads both files
as Kaggle will. The rules were read from `kaggle` 2.2.4 and 2.2.5 (kernels_push) and issue 1197 of its
repository.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from flowerkit.files import read_json, write_json, write_text
from flowerkit.kaggle.bundle import (
    BUNDLE,
    SOURCE,
    Problem,
    build_bundle,
    check_bundle,
    read_notebook,
)
from flowerkit.sources.competition import SLUG

METADATA = "kernel-metadata.json"
PLACEHOLDER = "INSERT_OWNER_HERE"
TITLE = "Petals to the Metal flowerkit"
# The names of machines in kaggle-cli's docs/kernels.md, September 2026; the first is the usual one,
# and some are for few people. Any other name is taken without a word, and another machine given.
MACHINE_SHAPES = {
    "tpu": ("TpuV5E8", "TpuV6E8"),
    "gpu": (
        "NvidiaTeslaT4",
        "NvidiaTeslaT4Highmem",
        "NvidiaL4",
        "NvidiaL4X1",
        "NvidiaTeslaA100",
        "NvidiaH100",
        "NvidiaRtxPro6000",
    ),
    "cpu": ("",),
}
MIN_TITLE_CHARS = 5
MAX_BYTES = 1_000_000

_FILL_IN = "run `flowerkit bundle --owner OWNER`, with your Kaggle user name."
_ANEW = f"Delete {METADATA}, then {_FILL_IN}"


def build_metadata(owner: str = PLACEHOLDER) -> dict:
    """What kernel-metadata.json holds for a run of the competition on a TPU.

    No docker_image: with one, a push for a TPU lands on a CPU and ends green.

    >>> build_metadata("someone")["id"]
    'someone/petals-to-the-metal-flowerkit'
    """
    return {
        "id": f"{owner}/{slugify(TITLE)}",
        "title": TITLE,
        "code_file": BUNDLE,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": False,
        "enable_tpu": True,
        "enable_internet": True,
        "machine_shape": MACHINE_SHAPES["tpu"][0],
        "competition_sources": [SLUG],
        "dataset_sources": [],
        "kernel_sources": [],
        "model_sources": [],
    }


def slugify(title: str) -> str:
    """The id that Kaggle makes of a title in plain letters.

    >>> slugify("Petals to the Metal: 104 flowers!")
    'petals-to-the-metal-104-flowers'
    """
    return "-".join(re.findall("[a-z0-9]+", title.lower()))


def read_metadata(root: str | os.PathLike) -> dict:
    """kernel-metadata.json at `root`. Raises FileNotFoundError, or ValueError where it is no object."""
    return read_json(Path(root, METADATA))


def find_device(metadata: dict) -> str:
    """The device that the metadata asks for: "tpu", "gpu" or "cpu".

    >>> find_device(build_metadata())
    'tpu'
    """
    if _is_on(metadata, "enable_tpu"):
        return "tpu"
    return "gpu" if _is_on(metadata, "enable_gpu") else "cpu"


def fill_owner(metadata: dict, owner: str) -> dict:
    """The metadata with `owner`, a Kaggle user name, in its id. Raises ValueError if it can be none."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", owner) or owner == PLACEHOLDER:
        raise ValueError(
            f"owner {owner!r} is no Kaggle user name. It is what follows kaggle.com/ on your "
            "profile page: letters, digits and hyphens."
        )
    slug = str(metadata.get("id", "")).partition("/")[2] or slugify(TITLE)
    return metadata | {"id": f"{owner}/{slug}"}


def write_bundle(root: str | os.PathLike, *, owner: str | None = None) -> tuple[Path, Path]:
    """Write the notebook to push and its metadata into the checkout at `root`; returns both paths.

    Metadata that is there keeps what it says; `owner`, a Kaggle user name, goes into its id. Raises
    FileNotFoundError where `root` is no checkout, ValueError for an owner that cannot be one, or
    metadata that cannot be read.
    """
    root = Path(root)
    bundle = build_bundle(notebook=root / SOURCE, package=root / "flowerkit")
    try:
        metadata = read_metadata(root) if (root / METADATA).exists() else build_metadata()
    except ValueError as error:
        raise ValueError(f"{error}. {_ANEW}") from error
    if owner is not None:
        metadata = fill_owner(metadata, owner)
    write_text(root / BUNDLE, json.dumps(bundle, indent=1, ensure_ascii=False) + "\n")
    write_json(root / METADATA, metadata)
    return root / BUNDLE, root / METADATA


# Lint ---------------------------------------------------------------------------------------------


def lint(
    root: str | os.PathLike, *, owner: str | None = None, require: str | None = None
) -> list[Problem]:
    """Everything that would make a push from `root` fail or land wrong; [] if nothing would.

    `owner` is who pushes, if known: it stands in for one that is not filled in, and a kernel of
    somebody else is a problem. `require` is the device that is wanted ("tpu", "gpu", "cpu"); without
    it any that the metadata asks for will do. Raises FileNotFoundError where `root` is no checkout.
    """
    bundle_problems = check_bundle(root)
    try:
        metadata = read_metadata(root)
    except FileNotFoundError as error:
        return [Problem(str(error), f"To write it, {_FILL_IN}"), *bundle_problems]
    except ValueError as error:
        return [Problem(str(error), _ANEW), *bundle_problems]
    return [
        *_check_identity(metadata, owner),
        *_check_settings(metadata),
        *_check_device(metadata, require),
        *_check_sources(metadata),
        *_check_notebook(Path(root)),
        *bundle_problems,
    ]


def _check_identity(metadata: dict, owner: str | None) -> Iterator[Problem]:
    kernel, title = str(metadata.get("id", "")), str(metadata.get("title", ""))
    if "id_no" in metadata:
        yield Problem(f"{METADATA} has id_no, which goes over the id", "Remove id_no.")
    if not re.fullmatch(r"[\w-]+/[\w-]+", kernel):
        yield Problem(f"id {kernel!r} is not OWNER/SLUG", _ANEW)
        return
    named, slug = kernel.split("/")
    if named == PLACEHOLDER and owner is None:
        yield Problem(
            f"the owner in id {kernel!r} is not filled in",
            f"`flowerkit push` takes it from your credentials; for the plain client, {_FILL_IN}",
        )
    elif named != PLACEHOLDER and owner is not None and named.lower() != owner.lower():
        yield Problem(
            f"id {kernel!r} is not yours: these credentials are {owner}'s",
            f"Run `flowerkit bundle --owner {owner}`, or use the credentials of {named}.",
        )
    yield from _check_title(title, named, slug)


def _check_title(title: str, owner: str, slug: str) -> Iterator[Problem]:
    if len(title) < MIN_TITLE_CHARS:
        yield Problem(
            f"title {title!r} has {len(title)} characters", f"Give it {MIN_TITLE_CHARS} or more."
        )
    elif not title.isascii():
        yield Problem(
            f"title {title!r} has letters that Kaggle spells in its own way in the id, so it may make "
            f"another kernel than {slug!r}",
            "Use the letters a to z and digits; the title can be changed on kaggle.com afterwards.",
        )
    elif slugify(title) != slug.lower():
        yield Problem(
            f"title {title!r} becomes {slugify(title)!r}, the id says {slug!r}; Kaggle would make "
            "another kernel than it names",
            f'Write "id": "{owner}/{slugify(title)}", or another title.',
        )


# What must stand in the metadata, and why.
_SETTINGS = {
    "code_file": (BUNDLE, "another file does not hold the package"),
    "language": ("python", "the client refuses others or runs them in another image"),
    "kernel_type": ("notebook", "a script cannot be read as a notebook"),
}
_SWITCHES = ("enable_tpu", "enable_gpu", "enable_internet", "is_private")


def _check_settings(metadata: dict) -> Iterator[Problem]:
    for name, (wanted, why) in _SETTINGS.items():
        if metadata.get(name) != wanted:
            yield Problem(f"{_spell(metadata, name)}: {why}", f'Write "{name}": "{wanted}".')
    for name in _SWITCHES:
        if str(metadata.get(name, True)).lower() not in ("true", "false"):
            yield Problem(
                f"{_spell(metadata, name)}: the client takes nothing but true and false",
                f'Write "{name}": true, or false.',
            )


def _is_on(metadata: dict, name: str, default: bool = False) -> bool:
    """A switch as the client reads it, which also takes "true"; `kaggle kernels init` writes that."""
    return str(metadata.get(name, default)).lower() == "true"


def _spell(metadata: dict, name: str) -> str:
    found = json.dumps(metadata[name]) if name in metadata else "missing"
    return f"{name} is {found} in {METADATA}"


_WHY_SHAPE = {
    "tpu": "without it the run does not get the TPU",
    "gpu": "unless it names a GPU that Kaggle has, another is given without a word",
    "cpu": "it asks for an accelerator, enable_tpu and enable_gpu do not",
}


def _check_device(metadata: dict, require: str | None) -> Iterator[Problem]:
    if _is_on(metadata, "enable_tpu") and _is_on(metadata, "enable_gpu"):
        yield Problem(
            f"enable_tpu and enable_gpu are both true in {METADATA}: a session has one accelerator",
            "Write false for one of them.",
        )
        return
    device = find_device(metadata)
    usual = MACHINE_SHAPES[device][0]
    if require not in (None, device):
        yield Problem(
            f"{METADATA} asks for a {device.upper()}, --require for a {require.upper()}",
            f"Write {_spell_device(require)}, or pass --require {device}.",
        )
    elif str(metadata.get("machine_shape") or "") not in MACHINE_SHAPES[device]:
        remedy = f'Write "machine_shape": "{usual}"'
        if device == "cpu":
            remedy += f"; or, for an accelerator, {_spell_device('tpu')}"
        yield Problem(f"{_spell(metadata, 'machine_shape')}: {_WHY_SHAPE[device]}", f"{remedy}.")
    if device == "tpu":
        yield from _check_pin(metadata)


def _spell_device(device: str) -> str:
    """How the metadata asks for a device."""
    switches = (f'"enable_{kind}": {json.dumps(kind == device)}' for kind in ("tpu", "gpu"))
    return ", ".join([*switches, f'"machine_shape": "{MACHINE_SHAPES[device][0]}"'])


def _check_pin(metadata: dict) -> Iterator[Problem]:
    for name in ("docker_image", "docker_image_pinning_type"):
        if metadata.get(name):
            yield Problem(
                f"{name} is set in {METADATA}: a pinned image sends a TPU run to a CPU, and it ends "
                "green all the same",
                f"Remove {name}.",
            )


_SOURCES = ("competition_sources", "dataset_sources", "kernel_sources", "model_sources")


def _check_sources(metadata: dict) -> Iterator[Problem]:
    lists = {name: metadata.get(name, []) for name in _SOURCES}
    wrong = [name for name, found in lists.items() if not isinstance(found, list)]
    for name in wrong:
        yield Problem(f"{name} is {json.dumps(lists[name])}, not a list", f'Write "{name}": [...].')
    if wrong:
        return
    if SLUG not in lists["competition_sources"]:
        yield Problem(
            f"competition_sources lacks {SLUG!r}, so the run finds no data",
            f'Write "competition_sources": ["{SLUG}"].',
        )
    attached = lists["dataset_sources"] or lists["kernel_sources"] or lists["model_sources"]
    if not _is_on(metadata, "enable_internet", True) and not attached:
        yield Problem(
            "enable_internet is off and nothing is attached that could hold the pretrained weights",
            'Write "enable_internet": true, or attach the weights under dataset_sources.',
        )


def _check_notebook(root: Path) -> Iterator[Problem]:
    try:
        notebook = read_notebook(root / BUNDLE)
    except (FileNotFoundError, ValueError):
        return  # check_bundle says so
    metadata = notebook.get("metadata", {})
    remedy = f"Clear it in {SOURCE} and run `flowerkit bundle`."
    if (metadata.get("kernelspec") or {}).get("name") != "python3":
        yield Problem(
            f"{BUNDLE} has no kernelspec python3, without which Kaggle may run it as another language",
            f'Write "kernelspec": {{"name": "python3", ...}} into {SOURCE} and run `flowerkit bundle`.',
        )
    if "kaggle" in metadata:
        yield Problem(
            f"{BUNDLE} has a metadata.kaggle block, which pins an image and an accelerator", remedy
        )
    executed = [cell for cell in notebook["cells"] if cell.get("execution_count") is not None]
    if executed:
        noun = "cell" if len(executed) == 1 else "cells"
        yield Problem(
            f"{BUNDLE} has execution counts in {len(executed)} {noun}", "Run `flowerkit bundle`."
        )
    size = len(json.dumps(notebook))  # what the client sends
    if size > MAX_BYTES:
        yield Problem(
            f"{BUNDLE} has {size:,} bytes, over the {MAX_BYTES:,} that Kaggle is sent",
            "Move what is large out of the package or the notebook.",
        )
