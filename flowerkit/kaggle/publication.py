"""Publish on Kaggle: a run as a Kaggle Model with its card, or weights as a data set for runs offline.

Licences and limits are those of kaggle-api's docs (models_metadata.md, datasets_metadata.md), September
2026.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flowerkit import __version__, metrics
from flowerkit.console import quiet_frameworks
from flowerkit.files import check_room
from flowerkit.kaggle.client import Client, KaggleError, split_address
from flowerkit.kaggle.metadata import slugify
from flowerkit.models import find_cached_weights, is_weights_of, list_backbones, weights_folder
from flowerkit.text import did_you_mean, format_bytes, pluralize, readable
from flowerkit.training import RunFolder, SavedRun, TrainingPlan, judge

FRAMEWORK = "keras/default"  # framework and variation of the published model
NUM_STATUS_POLLS = 15
_NOTE = f"flowerkit {__version__}"
_SIGNATURES = {".h5": b"\x89HDF\r\n\x1a\n", ".keras": b"PK\x03\x04"}
_DATA = {"competition": "Petals to the Metal", "drawn": "drawn flowers", "folder": "own photos"}

# As a model and a data set have it; Kaggle's page of what is published offers others.
LICENCES = {
    "apache-2.0": ("Apache 2.0", "apache-2.0"),
    "mit": ("MIT", None),
    "gpl-3.0": ("GPL 3", "GPL-3.0"),
    "cc0-1.0": ("CC0: Public Domain", "CC0-1.0"),
    "cc-by-4.0": ("Attribution 4.0 International (CC BY 4.0)", "CC-BY-4.0"),
    "cc-by-sa-4.0": ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
    "cc-by-nc-4.0": ("Attribution-NonCommercial 4.0 International (CC BY-NC 4.0)", "CC-BY-NC-4.0"),
    "cc-by-nc-sa-4.0": ("CC BY-NC-SA 4.0", "CC-BY-NC-SA-4.0"),
    "other": (None, "other"),
}
_KINDS = ("model", "dataset")

Found = TypeVar("Found")


@dataclass(frozen=True)
class Publication:
    """Where something is published, and how: `kind` is "model" or "dataset".

    `name`: OWNER/NAME, or the address of what is there already. `licence`: one of LICENCES. `public`:
    others see it; what is there already keeps who sees it. Raises ValueError for values that Kaggle does
    not take.
    """

    kind: str
    name: str
    licence: str | None
    public: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind must be 'model' or 'dataset'. Received: kind={self.kind!r}")
        parts, has_host = split_address(str(self.name), f"{self.kind}s")
        name = "/".join(parts[:2]).lower()
        slug = name.partition("/")[2]
        is_name = has_host or len(parts) == 2
        if not is_name or not 6 <= len(slug) <= 50 or slug != slugify(slug):
            raise ValueError(
                f"{self.name!r} is no OWNER/NAME to publish as: OWNER is your Kaggle user name, NAME "
                "has 6 to 50 letters from a to z, digits and single hyphens, such as petals-flowerkit."
            )
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "licence", _find_licence(self.kind, self.licence))

    @property
    def title(self) -> str:
        return self.name.partition("/")[2].replace("-", " ").capitalize()

    @property
    def url(self) -> str:
        return f"https://www.kaggle.com/{self.kind}s/{self.name}"


def _find_licence(kind: str, licence: str | None) -> str:
    """The licence as Kaggle spells it."""
    names = {name: of[_KINDS.index(kind)] for name, of in LICENCES.items()}
    wanted = re.sub(r"[^a-z0-9.]+", "-", str(licence or "").lower()).strip("-")
    if found := names.get(wanted):
        return found
    known = [name for name in names if names[name]]
    received = f"{licence!r} is none of a {kind} here" if wanted else "none is given"
    raise ValueError(
        f"a licence is needed, and {received}.{did_you_mean(wanted, known)} Pass --licence with one of: "
        f"{', '.join(known)}."
    )


def publish(client: Client, source: str | Path, target: Publication) -> None:
    """Publish `source` as `target` says; where that is there already, as its new version.

    A model: `source` is the folder of a finished run, exported as a `.keras` file that needs no
    flowerkit, with its classes (classes.json) and its card (README.md). A data set: `source` is a file
    of weights (.h5, .keras), or a run, whose pretrained weights are published. Raises, before anything
    is sent, FileNotFoundError and ValueError for a source that cannot be published; then KaggleError.
    """
    make = _make_model if target.kind == "model" else _make_data_set
    with tempfile.TemporaryDirectory(prefix="flowerkit-publish-") as folder:
        make(client, Path(source), target, Path(folder))


# A run becomes a model ----------------------------------------------------------------------------

_CARD = """\
# {title}

It names {num} classes on photos. {scores}

| | |
|---|---|
{rows}

## How to load it

```python
import kagglehub, keras{hub}

folder = kagglehub.model_download("{handle}")
model = keras.saving.load_model(f"{{folder}}/classifier.keras")
probabilities = model.predict(pixels)  # (n, {size}, {size}, 3) float32, RGB 0..255
```

Photos became squares by: {resize}. classes.json has the names of the columns, in order. With flowerkit,
`load_classifier(file).predict(photo)` also says which photos show none of these classes.

## Classes

| class | F1 on val | images in val |
|---|---|---|
{classes}
"""


def _make_model(client: Client, source: Path, target: Publication, folder: Path) -> None:
    run, api, handle = RunFolder(source), client.api, f"{target.name}/{FRAMEWORK}"
    card = describe_run(run, target)  # refuses what is not finished

    def find_model():
        return _find(client, target, lambda: api.model_get(target.name))

    def find_version() -> int:
        found = _find(client, target, lambda: api.model_instance_get(handle))
        return found.version_number if found else 0

    def send():
        if before:
            return api.model_instance_version_create(handle, str(folder), _NOTE, quiet=True)
        return api.model_instance_create(str(folder), quiet=True)

    old = find_model()
    before = find_version() if old else 0
    client.echo(f"exporting {run}")
    with quiet_frameworks():
        from flowerkit.deploy import export_model

        export_model(run.path, folder / "classifier.keras", "keras")
    (folder / "README.md").write_text(card, encoding="utf-8")
    _write(folder / "classes.json", run.environment().data.class_names)
    (owner, slug), (framework, variation) = target.name.split("/"), FRAMEWORK.split("/")
    page = {"ownerSlug": owner, "slug": slug, "description": card}
    if not old:
        page |= {"title": target.title, "isPrivate": not target.public}
    _write(folder / "model-metadata.json", page)
    instance = {"ownerSlug": owner, "modelSlug": slug, "instanceSlug": variation}
    instance |= {"framework": framework, "licenseName": target.licence}
    _write(folder / "model-instance-metadata.json", instance)
    if not old:
        _send(client, target, lambda: api.model_create_new(str(folder)), find_model)
    _report_upload(client, folder)
    _send(client, target, send, lambda: find_version() > before or None)
    if old and handle in old.description:  # a card like this, with the figures of an older version
        _send(client, target, lambda: api.model_update(str(folder)))
    _report_end(client, target, before)
    client.echo(f'load it with: kagglehub.model_download("{handle}"), see its README.md')
    client.echo(f'in a kernel-metadata.json: "model_sources": ["{handle}/{before + 1}"]')


def describe_run(run: RunFolder, target: Publication) -> str:
    """The card of a run in Markdown, without a path of this machine.

    Raises FileNotFoundError for a run that is not finished.
    """
    plan, result, environment = run.plan().to_dict(), run.result(), run.environment()
    data, device = environment.data, environment.accelerator
    scores, reports = "Its score on images that it has not seen was not measured.", {}
    if result.val_f1 is not None:
        saved = SavedRun.load(run.path)
        scores = f"{judge(saved).headline} (95 % interval). Accuracy {result.val_accuracy:.4f}."
        for row in metrics.class_report(saved.labels, saved.predicted, saved.class_names):
            reports[row["name"]] = f"{row['f1']:.2f} | {row['support']:,}"
    if result.test_f1 is not None:
        images = pluralize(result.test_images, "test image")
        scores += f" macro F1 {result.test_f1:.4f} on {images}."
    usual, backbone = TrainingPlan().to_dict(), plan.pop("backbone")
    plan["weights"] = _last_part(plan["weights"] or "none")
    if environment.schedule:
        plan["schedule"] = "given in Python"
    counts = ", ".join(f"{split} {count:,}" for split, count in data.counts.items())
    versions = {"flowerkit": __version__} | environment.versions
    used = ["flowerkit", "python", "keras", "tensorflow", "jax", "numpy"]
    rows = {
        "licence": target.licence,
        "backbone": _last_part(backbone),
        "data": f"{_DATA[data.origin]}: {counts}; {data.image_size} px",
        "plan": ", ".join(f"{k} {v}" for k, v in plan.items() if v != usual.get(k)),
        "training": f"{result.stopped_at_epoch} epochs, the best is {result.best_epoch}; it stopped "
        f"because {result.stop_reason}",
        "device": f"{device.kind} x {device.replicas}, {device.backend}, {device.precision}",
        "versions": ", ".join(f"{name} {versions[name]}" for name in used if versions.get(name)),
    }
    text = _CARD.format(
        title=target.title,
        num=len(data.class_names),
        scores=scores,
        rows=_tabulate(rows),
        hub=", keras_hub" if backbone.startswith("hub:") else "",
        handle=f"{target.name}/{FRAMEWORK}",
        size=data.image_size,
        resize=data.resize or "crop",
        classes=_tabulate({name: reports.get(name, "- | 0") for name in data.class_names}),
    )
    return readable(text)


def _last_part(name: str) -> str:
    """A path of any system without its folders; names and addresses as they are."""
    return name if "://" in name else re.split(r"[\\/]", name)[-1]


def _tabulate(rows: dict[str, str]) -> str:
    names = (" ".join(name.split()).replace("|", r"\|") for name in rows)
    cells = zip(names, rows.values(), strict=True)
    return "\n".join(f"| {name} | {' '.join(cell.split())} |" for name, cell in cells)


# Weights become a data set ------------------------------------------------------------------------


def _make_data_set(client: Client, source: Path, target: Publication, folder: Path) -> None:
    files, api = find_weights_files(source), client.api

    def find(**options) -> str | None:
        return _find(client, target, lambda: api.dataset_status(target.name, **options))

    def find_version() -> int:
        found = find(format="json(current_version_number)")
        return json.loads(found)["current_version_number"] if found else 0

    def send():
        if before:
            return api.dataset_create_version(str(folder), _NOTE, quiet=True)
        return api.dataset_create_new(str(folder), public=target.public, quiet=True)

    before = find_version()
    check_room(folder, sum(file.stat().st_size for file in files))
    for file in files:
        shutil.copyfile(file, folder / file.name)
    values = {"id": target.name, "title": target.title, "licenses": [{"name": target.licence}]}
    text = {"description": _describe_weights(files, target)}
    _write(folder / "dataset-metadata.json", values | text)
    _report_upload(client, folder)
    _send(client, target, send, lambda: find_version() > before or None)
    for _ in range(NUM_STATUS_POLLS):  # no notebook can attach it earlier
        if (status := find()) in ("ready", "failed", "deleted"):
            break
        time.sleep(client.poll_seconds)
    if status != "ready":
        raise KaggleError(f"{target.name} is on Kaggle but not ready ({status}). See {target.url}.")
    _report_end(client, target, before)
    client.echo(f"next: flowerkit push --weights-dataset {target.name}")
    if not _find_backbone(files[0]):
        client.echo("then pass its path in /kaggle/input as backbone= or weights= in the notebook")


def find_weights_files(source: Path) -> list[Path]:
    """The pretrained weights with which a run began, or the file of weights `source` itself.

    Of a backbone of Keras Applications they are in Keras's cache. Raises FileNotFoundError where they
    are gone, ValueError where there are none or `source` is no whole file of weights.
    """
    files = [source]
    if source.is_dir():
        plan = RunFolder(source).plan()
        if plan.backbone.endswith(".keras"):
            files = [Path(plan.backbone)]
        elif plan.weights != "imagenet" or plan.backbone.startswith("hub:"):
            raise ValueError(
                f"{source} has no ImageNet weights to publish: its network was {plan.backbone}, its "
                f"weights {plan.weights or 'random'}. Pass a file of weights (.h5, .keras); what hub: "
                "names are Kaggle Models already, to be attached."
            )
        elif not (files := find_cached_weights(plan.backbone)):
            raise FileNotFoundError(
                f"no weights of {plan.backbone} in {weights_folder()}. `flowerkit train` puts them "
                "there where there is internet; or pass their file."
            )
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no file of weights {file}. Pass one (.h5, .keras), or a run.")
        signature = _SIGNATURES.get(file.suffix)
        with file.open("rb") as opened:
            is_whole = signature and opened.read(len(signature)) == signature
        if not is_whole:
            raise ValueError(
                f"{file} is no whole file of weights. Pass one ending in .h5 or .keras."
            )
    return files


def _find_backbone(file: Path) -> dict[str, str] | None:
    """The backbone of Keras Applications that looks for a file of this name."""
    return next((row for row in list_backbones() if is_weights_of(file.name, row["name"])), None)


def _describe_weights(files: list[Path], target: Publication) -> str:
    text = f"Weights for image classifiers, for notebooks without internet. Licence: {target.licence}.\n"
    for file in files:
        text += f"\n- `{file.name}`, {format_bytes(file.stat().st_size)}"
        if row := _find_backbone(file):
            text += f": {row['name']}, ImageNet ({row['licence']}); flowerkit finds it by this name"
    return readable(text)


# Shared -------------------------------------------------------------------------------------------


def _find(client: Client, target: Publication, get: Callable[[], Found]) -> Found | None:
    """What `get()` returns; None where Kaggle has it not. Of another user, 403 is a refusal."""
    is_own = target.name.partition("/")[0] == (client.username or "").lower()
    missing = (403, 404) if is_own else (404,)
    remedies = _remedies(client, target)
    return client.find(f"looking for {target.name}", get, missing=missing, remedies=remedies)


def _send(client: Client, target: Publication, send: Callable, find_result=None) -> None:
    """Send what changes something on Kaggle, once. Raises KaggleError, also where it is not taken."""
    response = client.call(
        f"publishing {target.name}",
        send,
        find_result=find_result,
        suspects="the name, the title and the licence",
        remedies=_remedies(client, target),
    )
    if error := getattr(response, "error", None):
        raise KaggleError(
            f"Kaggle did not take {target.name}: {client.scrub(error).rstrip('.')}. Correct that and "
            "publish again."
        )


def _remedies(client: Client, target: Publication) -> dict[int, str]:
    user, slug = client.username, target.name.partition("/")[2]
    return {
        403: f"You are signed in as {user}: publish as {user}/{slug}, or for an organisation that lets "
        "you; Kaggle may ask for a verified phone, see kaggle.com/settings",
        404: f"Check the name: {target.url} must be yours",
        409: "The name is taken: pass another one",
    }


def _write(file: Path, values) -> None:
    """JSON in ASCII: the client reads it in the encoding of the machine."""
    file.write_text(json.dumps(values, indent=2), encoding="ascii")


def _report_upload(client: Client, folder: Path) -> None:
    files = [file for file in sorted(folder.iterdir()) if not file.name.endswith("-metadata.json")]
    size = sum(file.stat().st_size for file in files)
    client.echo(f"uploading {', '.join(file.name for file in files)} ({format_bytes(size)})")


def _report_end(client: Client, target: Publication, before: int) -> None:
    seen = "public" if target.public else "private"
    if before:
        seen = "seen by those who saw it before"
    client.echo(f"published {target.name}, version {before + 1}, {seen}: {target.url}")
