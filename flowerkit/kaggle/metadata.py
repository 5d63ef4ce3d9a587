"""kernel-metadata.json, which describes the pushed notebook to Kaggle, and the lint before a push.

The client pushes a title that does not fit its id, a leftover image pin or a missing machine shape
without an error, and the run gets another name or a CPU. The rules are those of `kaggle` 2.2.5.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flowerkit.files import read_json, write_json
from flowerkit.kaggle.bundle import BUNDLE, build_bundle, check_bundle
from flowerkit.kaggle.client import split_address
from flowerkit.sources import SLUG

METADATA = "kernel-metadata.json"
PLACEHOLDER = "INSERT_OWNER_HERE"
TITLE = "Petals to the Metal flowerkit"
# The machines in kaggle-cli's docs/kernels.md, September 2026; the first is the usual one, and some
# are for few people. Kaggle takes any other name and gives another machine.
_GPUS = "TeslaT4 TeslaT4Highmem L4 L4X1 TeslaA100 H100 RtxPro6000"
MACHINE_SHAPES = {
    "tpu": ("TpuV5E8", "TpuV6E8"),
    "gpu": tuple(f"Nvidia{name}" for name in _GPUS.split()),
    "cpu": ("",),
}

_DATASET = r"(?!datasets?/)[\w-]+/[\w-]+(/\d+)?"
# Of each kind of source its form; `kaggle kernels pull` writes some with a part more in front.
SOURCES = {
    "competition_sources": (r"[\w-]+", "NAME"),
    "dataset_sources": (_DATASET, "OWNER/NAME"),
    "kernel_sources": (_DATASET.replace("datasets?", "(code|kernels?)"), "OWNER/NAME"),
    "model_sources": (r"[\w-]+(/[\w.-]+){3}/\d+", "OWNER/MODEL/FRAMEWORK/VARIATION/VERSION"),
}
_KINDS = {str: "text", list: "list"}
_FILL_IN = "run `flowerkit bundle --owner OWNER`, with your Kaggle user name."
_RENEW = f"Delete {METADATA} if it is there, then {_FILL_IN}"


@dataclass(frozen=True)
class KernelMetadata:
    """The values of kernel-metadata.json; names that flowerkit does not know are kept."""

    values: dict[str, Any]

    @classmethod
    def build(cls, owner: str = PLACEHOLDER) -> Self:
        """For a run of the competition on a TPU.

        It sets no docker_image: with one, a push for a TPU runs on a CPU and reports success.

        >>> KernelMetadata.build("someone").kernel
        'someone/petals-to-the-metal-flowerkit'
        """
        return cls(
            {
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
        )

    @classmethod
    def load(cls, root: str | os.PathLike) -> Self:
        """From the checkout `root`. Raises FileNotFoundError, or ValueError for a damaged file."""
        values = read_json(Path(root, METADATA), remedy=_RENEW)
        for name, usual in cls.build().values.items():
            kind = type(usual)
            value = values.get(name, usual)
            if kind is not bool and not isinstance(value, kind):
                problem = f"must be a {_KINDS[kind]}, not {json.dumps(value)}"
                raise ValueError(f"{name} in {METADATA} {problem}. {_RENEW}")
        return cls(values)

    def save(self, root: str | os.PathLike) -> None:
        write_json(Path(root, METADATA), self.values)

    @property
    def kernel(self) -> str:
        """OWNER/NAME of the notebook."""
        return str(self.values.get("id", ""))

    @property
    def device(self) -> str:
        """The requested device: "tpu", "gpu" or "cpu"."""
        if self.is_on("enable_tpu"):
            return "tpu"
        return "gpu" if self.is_on("enable_gpu") else "cpu"

    def is_on(self, name: str, default: bool = False) -> bool:
        """A switch as the client reads it: it also takes "true", which `kaggle kernels init` writes."""
        return str(self.values.get(name, default)).lower() == "true"

    def with_owner(self, owner: str) -> Self:
        """With the Kaggle user name `owner` in the id. Raises ValueError if that is no user name."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", owner) or owner == PLACEHOLDER:
            raise ValueError(
                f"owner {owner!r} is no Kaggle user name. Your profile page shows it after "
                "kaggle.com/: letters, digits and hyphens."
            )
        slug = self.kernel.partition("/")[2] or slugify(TITLE)
        return type(self)(self.values | {"id": f"{owner}/{slug}"})

    def with_data_set(self, name: str) -> Self:
        """With a data set attached: OWNER/NAME or its address. Raises ValueError for another form."""
        parts, has_host = split_address(name, "datasets")
        if (len(parts) != 2 and not has_host) or not parts:
            raise ValueError(
                f"{name!r} is no data set OWNER/NAME: pass what its page shows after "
                "kaggle.com/datasets/."
            )
        attached = list(self.values.get("dataset_sources") or [])
        return type(self)(self.values | {"dataset_sources": [*attached, "/".join(parts[:2])]})


def slugify(title: str) -> str:
    """The name that Kaggle derives from a title in plain letters.

    >>> slugify("Petals to the Metal: 104 flowers!")
    'petals-to-the-metal-104-flowers'
    """
    return "-".join(re.findall("[a-z0-9]+", title.lower()))


def write_bundle(root: str | os.PathLike, *, owner: str | None = None) -> tuple[Path, Path]:
    """Write the notebook to push and its metadata into the checkout `root`; returns both paths.

    Existing metadata keeps its values; `owner` goes into its id. Raises as `build_bundle`, `with_owner`
    and `KernelMetadata.load` do.
    """
    root = Path(root)
    bundle = build_bundle(root)
    metadata = KernelMetadata.load(root) if (root / METADATA).exists() else KernelMetadata.build()
    if owner is not None:
        metadata = metadata.with_owner(owner)
    write_json(root / BUNDLE, bundle, indent=1)
    metadata.save(root)
    return root / BUNDLE, root / METADATA


# Lint ---------------------------------------------------------------------------------------------


def lint(
    root: str | os.PathLike,
    *,
    owner_known: bool = False,
    require: str | None = None,
    data_sets: Sequence[str] = (),
) -> list[str]:
    """Everything that would make a push from `root` fail or run wrong, in sentences; [] if nothing.

    With `owner_known` the push fills in a missing owner. `require` ("tpu", "gpu", "cpu") is the device
    that the metadata must request, and `data_sets` are attached by the push.
    """
    problems = check_bundle(root)
    try:
        metadata = KernelMetadata.load(root)
    except (FileNotFoundError, ValueError) as error:
        return [str(error), *problems]
    for name in data_sets:
        metadata = metadata.with_data_set(name)
    return [
        *_check_identity(metadata, owner_known),
        *_check_settings(metadata),
        *_check_device(metadata, require),
        *problems,
    ]


def _check_identity(metadata: KernelMetadata, owner_known: bool) -> Iterator[str]:
    kernel, title = metadata.kernel, str(metadata.values.get("title", ""))
    if not re.fullmatch(r"[\w-]+/[\w-]+", kernel):
        yield f"id {kernel!r} is not OWNER/NAME. {_RENEW}"
        return
    named, name = kernel.split("/")
    if named == PLACEHOLDER and not owner_known:
        yield (
            f"the owner in id {kernel!r} is not filled in. `flowerkit push` takes it from your "
            f"credentials; for the plain client, {_FILL_IN}"
        )
    if not (5 <= len(title) <= 50 and title.isascii()):
        yield (
            f"title {title!r} has {len(title)} characters. Write 5 to 50 letters from a to z, digits "
            "and blanks; kaggle.com can change the title afterwards."
        )
    elif slugify(title) != name.lower():
        yield (
            f"title {title!r} becomes {slugify(title)!r}, but the id names {name!r}, so Kaggle would "
            f'make another kernel. Write "id": "{named}/{slugify(title)}", or another title.'
        )


def _check_settings(metadata: KernelMetadata) -> Iterator[str]:
    # The client itself refuses values of the wrong type.
    for name in ("code_file", "language", "kernel_type"):
        if metadata.values.get(name) != (required := KernelMetadata.build().values[name]):
            yield f'{_format(metadata, name)}. Write "{name}": "{required}".'
    if "id_no" in metadata.values:
        yield f"{METADATA} has id_no, which replaces the id. Remove id_no."
    if SLUG not in (metadata.values.get("competition_sources") or ()):
        yield (
            f"competition_sources lacks {SLUG!r}, so the run finds no data. "
            f'Write "competition_sources": ["{SLUG}"].'
        )
    for kind, (pattern, form) in SOURCES.items():
        for source in metadata.values.get(kind) or ():
            if not re.fullmatch(pattern, str(source)):
                yield (
                    f"{kind} in {METADATA} has {source!r}, which Kaggle does not take. Write "
                    f'"{form}", as at the end of its address.'
                )
    offline = not metadata.is_on("enable_internet", True)
    if offline and not any(metadata.values.get(kind) for kind in list(SOURCES)[1:]):
        yield (
            "enable_internet is off, and no attached source can hold the pretrained weights. "
            'Write "enable_internet": true, or pass --weights-dataset OWNER/NAME to `flowerkit push`.'
        )


def _check_device(metadata: KernelMetadata, require: str | None) -> Iterator[str]:
    device, shapes = metadata.device, MACHINE_SHAPES[metadata.device]
    if require not in (None, device):
        yield (
            f"{METADATA} requests a {device.upper()}, --require a {require.upper()}. Write "
            f"{_format_request(require)}, or pass --require {device}."
        )
    elif str(metadata.values.get("machine_shape") or "") not in shapes:
        other = f"; or, for an accelerator, {_format_request('tpu')}" if device == "cpu" else ""
        yield (
            f"{_format(metadata, 'machine_shape')}, but for a {device.upper()} Kaggle has "
            f"{', '.join(shapes) or 'none'}, and a run with another name gets another machine. Write "
            f'"machine_shape": "{shapes[0]}"{other}.'
        )
    for name in ("docker_image", "docker_image_pinning_type"):
        if device == "tpu" and metadata.values.get(name):
            yield (
                f"{name} is set in {METADATA}: with a pinned image a TPU run gets a CPU and still "
                f"reports success. Remove {name}."
            )


def _format(metadata: KernelMetadata, name: str) -> str:
    value = json.dumps(metadata.values[name]) if name in metadata.values else "missing"
    return f"{name} is {value} in {METADATA}"


def _format_request(device: str) -> str:
    """How the metadata requests a device."""
    switches = (f'"enable_{kind}": {json.dumps(kind == device)}' for kind in ("tpu", "gpu"))
    return ", ".join([*switches, f'"machine_shape": "{MACHINE_SHAPES[device][0]}"'])
