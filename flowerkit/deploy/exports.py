"""A trained run becomes one file or folder that holds the model, its classes and its contract."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowerkit.deploy.card import ModelCard
from flowerkit.deploy.classifier import load_classifier
from flowerkit.deploy.formats import FORMATS, Format, detect_format
from flowerkit.deploy.keras_file import rewrite_keras
from flowerkit.files import check_room, writing_to
from flowerkit.text import did_you_mean

NUM_CHECKED = 6
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Export:
    """An export; `difference` is the largest to the run's probabilities on `NUM_CHECKED` images."""

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
    source: str | os.PathLike, out: str | os.PathLike | None = None, format: str = "onnx"
) -> Export:
    """Export a run (its folder, or a TrainingResult) or a `.keras` file.

    `format`: "keras" (a file that Keras 3.10 to 3.15 load, also without flowerkit), "savedmodel",
    "onnx" or "litert". `out`: the file, or the folder for "savedmodel"; None: beside the model, see
    `FORMATS`. An older export there is replaced once the new one is whole and checked.

    Every export maps float32 pixels 0..255 (n, size, size, 3) to probabilities (n, classes). A model
    of mixed precision is exported in float32, and compared with itself in float32; as "keras" it stays
    as it is.

    Raises what `load_classifier` raises; ValueError for another format and for a model that does not
    give probabilities, FileExistsError if `out` is something else, RuntimeError if the probabilities
    differ by more than `TOLERANCE`.
    """
    if format not in FORMATS:
        raise ValueError(
            f"format must be one of {', '.join(FORMATS)}. Received: format={format!r}."
            f"{did_you_mean(format, FORMATS)}"
        )
    kind = FORMATS[format]
    path = Path(getattr(source, "folder", source))  # a TrainingResult has one
    if detect_format(path) is not FORMATS["keras"]:
        raise ValueError(f"{path} is an export already. Pass its run folder or .keras file.")
    saved = path / "model.keras" if path.is_dir() else path
    target = _check_target(Path(out) if out else saved.parent / kind.file, kind)
    kind.check_libraries(to_write=True)
    check_room(target.parent, 4 * saved.stat().st_size)
    original = load_classifier(saved)
    card = original.card
    images = _draw_images(card.image_size)
    expected = original.probabilities(images)  # refuses what gives none, before it is converted
    with (
        writing_to(target.parent),
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder,
    ):
        portable, written = Path(folder) / "portable.keras", Path(folder) / kind.file
        was_mixed = rewrite_keras(saved, portable, card=card, float32=kind.name != "keras")
        _convert(portable, written, kind)
        if was_mixed:
            expected = load_classifier(portable).probabilities(images)
        difference = float(np.abs(load_classifier(written).run(images) - expected).max())
        if not difference <= TOLERANCE:  # also if it is nan
            raise RuntimeError(
                f"{target} would not predict as the run does: probabilities differ by "
                f"{difference:.2g} (tolerance {TOLERANCE:g}), so it was not kept. Export it as another "
                f"format, and report the backbone."
            )
        if target.is_dir():
            target.rename(Path(folder) / "older")
        written.replace(target)
    files = target.rglob("*") if kind.is_folder else [target]
    num_bytes = sum(file.stat().st_size for file in files if file.is_file())
    return Export(target, kind.name, card, num_bytes, difference, was_mixed)


def _check_target(out: Path, kind: Format) -> Path:
    suffix = Path(kind.file).suffix
    if out.suffix != suffix and not kind.is_folder:
        raise ValueError(f"{out}: an export in the format {kind.name!r} ends in {suffix}.")
    is_older = (out / "saved_model.pb").is_file() if kind.is_folder else out.is_file()
    if out.exists() and not is_older:
        raise FileExistsError(
            f"{out} exists and is not an older export. Pass another --out (out=)."
        )
    return out


def _draw_images(size: int) -> np.ndarray:
    """(NUM_CHECKED, size, size, 3) float32, whole numbers 0..255: patches of colour, with noise.

    The first is dark: bright pixels can drive several sigmoids to what one softmax gives.
    """
    rng = np.random.default_rng(0)
    patch = np.arange(size) * 4 // size
    images = rng.uniform(0, 255, (NUM_CHECKED, 4, 4, 3))[:, patch][:, :, patch]
    images += rng.normal(0, 20, images.shape)
    images[0] /= 100
    return np.clip(np.round(images), 0, 255).astype("float32")


def _convert(source: Path, target: Path, kind: Format) -> None:
    """Convert the `.keras` file `source`; on JAX in a process that runs Keras on TensorFlow."""
    import keras

    try:
        if "tensorflow" in kind.writers and keras.backend.backend() != "tensorflow":
            _convert_in_child(source, target, kind)
        else:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NumPy's, about Keras's calls of tf2onnx
                kind.convert(source, target)
    except Exception as error:  # each converter has its own
        reason = str(getattr(error, "stderr", error)).strip() or type(error).__name__
        raise RuntimeError(
            f"the model does not convert to {kind.name!r}: {reason.splitlines()[-1]}. Export it as "
            f"another format."
        ) from error


def _convert_in_child(source: Path, target: Path, kind: Format) -> None:
    import keras

    code = (
        "import contextlib, importlib, pathlib, sys\nfrom flowerkit.deploy import FORMATS\n"
        "for name in sys.argv[4:]:\n"
        "    with contextlib.suppress(ImportError): importlib.import_module(name)\n"
        "FORMATS[sys.argv[1]].convert(*map(pathlib.Path, sys.argv[2:4]))"
    )
    # Where the layers of the user's own are registered; those of KerasHub are found by the file.
    owners = {each.__module__ for each in keras.saving.get_custom_objects().values()}
    owners = sorted(name for name in owners if not name.startswith("keras_hub."))
    # The accelerator belongs to this process; the conversion needs none.
    settings = {
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "FLOWERKIT_VIRTUAL_CPUS": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-c", code, kind.name, str(source), str(target), *owners]
    subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
