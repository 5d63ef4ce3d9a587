"""A trained run, exported: one file or folder that holds the model, its classes and its contract."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from flowerkit.deploy.card import ModelCard, check_names, read_run_card
from flowerkit.deploy.conversion import convert
from flowerkit.deploy.formats import Format, check_libraries, find_format
from flowerkit.deploy.keras_file import read_keras_card, read_precisions, rewrite_keras
from flowerkit.deploy.runtimes import open_runtime, run_keras
from flowerkit.files import replacing
from flowerkit.models.classifier import load_model, save_classifier

NUM_CHECKED = 6


@dataclass(frozen=True)
class Export:
    """What was exported: where, its size, and how far it is from the run's model.

    `difference` is the largest one of probabilities on `NUM_CHECKED` pictures. `num_bytes` counts all
    files of a folder.
    """

    path: Path
    format: str
    card: ModelCard
    num_bytes: int
    difference: float
    was_mixed: bool = False

    def __str__(self) -> str:
        mixed = "; trained in mixed precision, exported in float32" if self.was_mixed else ""
        return (
            f"{self.path}: {self.format}, {self.num_bytes / 1e6:,.1f} MB, "
            f"{len(self.card.class_names)} classes, {self.card.image_size} px, probabilities within "
            f"{self.difference:.1g} of the run's{mixed}"
        )


def export_model(
    source: "str | os.PathLike | keras.Model",
    out: str | os.PathLike | None = None,
    format: str = "onnx",
    *,
    class_names: Sequence[str] | None = None,
    fit: str | None = None,
    tolerance: float = 1e-4,
) -> Export:
    """Export a run (its folder, or a TrainingResult), a `.keras` file, or a Keras model.

    `format`: "keras" (a file that Keras 3.10 to 3.15 load, without flowerkit too), "savedmodel",
    "onnx" or "litert". `out`: the file, or for "savedmodel" the folder; None: in the run folder, see
    `export_formats.FORMATS`. An older export there is replaced once the new one is whole and checked.
    `class_names` and `fit` ("crop", "pad" or "squish") say what the source does not: a run knows both.

    Every export takes float32 pixels 0..255 (n, size, size, 3) and gives probabilities (n, classes).
    A model of mixed precision is exported in float32, and compared with itself in float32; as "keras"
    it stays as it is.

    Raises FileNotFoundError if there is no model, ValueError for a damaged one, one without class
    names, or another format, FileExistsError when `out` is something else, RuntimeError when a
    library is missing or does not fit, and when the export's probabilities differ by more than
    `tolerance`.
    """
    kind = find_format(format)
    with tempfile.TemporaryDirectory() as folder:
        saved, run = _find_saved(source, Path(folder))
        model = load_model(saved)
        card = _settle_card(saved, run, model, class_names, fit)
        target = _settle_target(out, run, kind)
        check_libraries(kind, to_write=True)
        was_mixed = kind.name != "keras" and read_precisions(saved) > {"float32"}
        plain = Path(folder) / "plain.keras"
        rewrite_keras(saved, plain, card=card, float32=was_mixed)
        expected = _answer(load_model(plain) if was_mixed else model)
        with _replacing(target, kind) as temporary:
            _write(plain, temporary, kind, card)
            difference = _check(temporary, target, expected, tolerance)
    return Export(target, kind.name, card, _count_bytes(target), difference, was_mixed)


def _find_saved(source, folder: Path) -> tuple[Path, Path | None]:
    """The `.keras` file of `source`, and the run folder that it belongs to, if any."""
    source = getattr(source, "folder", source)  # a TrainingResult
    if isinstance(source, keras.Model):
        save_classifier(source, folder / "model.keras")
        return folder / "model.keras", None
    path = Path(source)
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no model {file}. Pass a run of `flowerkit train`.")
    if file.suffix != ".keras":
        raise ValueError(
            f"{file} is an export already. Pass the run or the .keras file it is from."
        )
    return file, file.parent


def _settle_card(saved: Path, run: Path | None, model, class_names, fit) -> ModelCard:
    card = read_keras_card(saved) or (read_run_card(run) if run else None)
    changes = {"fit": fit} if fit else {}
    if class_names is not None:
        changes["class_names"] = check_names(class_names, where="the export")
    size, num_classes = model.input_shape[1], model.output_shape[-1]
    if card is None and class_names is None:
        raise ValueError(
            f"{saved} does not say what its {num_classes} classes are called. Pass its run folder, or "
            f"class_names=[...] in the order of its outputs."
        )
    known = vars(card) if card else {}
    card = ModelCard(**known | {"image_size": size} | changes)
    if len(card.class_names) != num_classes:
        raise ValueError(
            f"{len(card.class_names)} class names for a model of {num_classes} outputs. Pass one for "
            f"each, in order."
        )
    return card


def _settle_target(out: str | os.PathLike | None, run: Path | None, kind: Format) -> Path:
    if out is None:
        if run is None:
            raise ValueError("out is needed for a model that is in no run folder.")
        out = run / kind.file
    out, suffix = Path(out), Path(kind.file).suffix
    if out.suffix != suffix and not kind.is_folder:
        raise ValueError(f"{out}: an export of the format {kind.name!r} ends in {suffix}.")
    ours = not out.exists() or (out / "saved_model.pb").is_file()
    if (kind.is_folder and not ours) or (not kind.is_folder and out.is_dir()):
        raise FileExistsError(f"{out} is there and no older export. Pass another --out.")
    return out


def _write(plain: Path, target: Path, kind: Format, card: ModelCard) -> None:
    if kind.name == "keras":
        shutil.copyfile(plain, target)
    else:
        convert(plain, target, kind.name, card)


def _pictures(size: int) -> np.ndarray:
    """(NUM_CHECKED, size, size, 3) float32, whole numbers 0..255: spots of colour, some with noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    pictures = []
    for _ in range(NUM_CHECKED):
        x, y, width = rng.uniform(0.2, 0.8, 3)
        spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (0.3 * width) ** 2)[..., None]
        plain = spot * rng.uniform(0, 255, 3) + (1 - spot) * rng.uniform(0, 255, 3)
        pictures.append(plain + rng.normal(0, rng.uniform(0, 30), plain.shape))
    return np.clip(np.round(pictures), 0, 255).astype("float32")


def _answer(model: keras.Model) -> np.ndarray:
    return run_keras(model, _pictures(model.input_shape[1]))


def _check(export: Path, target: Path, expected: np.ndarray, tolerance: float) -> float:
    runtime = open_runtime(export)
    found = runtime.run(_pictures(runtime.input_shape[0]))
    difference = float(np.abs(found - expected).max())
    if not difference <= tolerance:  # nan is not, either
        raise RuntimeError(
            f"{target} would predict otherwise than the run: probabilities differ by "
            f"{difference:.2g} (tolerance {tolerance:g}), so it was not kept. Export it as another "
            f"format, and report the backbone."
        )
    return difference


@contextlib.contextmanager
def _replacing(target: Path, kind: Format) -> Iterator[Path]:
    """`files.replacing`, for folders too."""
    if not kind.is_folder:
        with replacing(target) as temporary:
            yield temporary
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as beside:
        temporary = Path(beside) / "new"
        yield temporary
        if target.exists():
            os.replace(target, Path(beside) / "old")
        os.replace(temporary, target)


def _count_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
