"""A trained classifier in use: photos in, names and probabilities out."""

import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowerkit import metrics
from flowerkit.console import Progress
from flowerkit.data import decode_jpeg
from flowerkit.deploy.card import ACCEPT, EVERYTHING, check_similar
from flowerkit.deploy.formats import LoadedModel, detect_format
from flowerkit.deploy.run_photos import KnownPhoto, SimilarPhotos
from flowerkit.files import near_path
from flowerkit.photos import SUFFIXES, UnreadablePhoto, read_photo, walk_photos
from flowerkit.training import RunFolder

_NUM_READERS = 4
PROBABILITY_ERROR = 1e-3  # of the sum of a row, and below 0
NONE_OF_THESE = "none of these classes"

_log = logging.getLogger("flowerkit")


@dataclass(frozen=True, eq=False)
class Prediction:
    """The result for one photo: its path, or "photo 1" and so on for images and arrays.

    `probabilities`: (number of classes,) float64, sum 1, calibrated by the card's temperature; None if
    the photo cannot be read, for the reason `problem`. `is_known`: whether the classifier is as certain
    as of most photos of val. `similar`: the training photos nearest to it, if they were asked for.
    """

    source: str
    class_names: tuple[str, ...]
    probabilities: np.ndarray | None
    problem: str | None = None
    is_known: bool = True
    similar: tuple[KnownPhoto, ...] = ()

    @property
    def classes(self) -> list[tuple[str, float]]:
        """(name, probability) of all classes, the most probable first; ties in the classes' order.

        Raises ValueError for a photo that could not be read.
        """
        if self.probabilities is None:
            raise ValueError(f"{self.source}: {self.problem}")
        order = np.argsort(-self.probabilities, kind="stable")
        return [(self.class_names[i], float(self.probabilities[i])) for i in order]

    @property
    def name(self) -> str:
        """The most probable class, or `NONE_OF_THESE` where `is_known` is false."""
        return self.classes[0][0] if self.is_known else NONE_OF_THESE

    def describe(self, top: int = 3) -> str:
        """One line: the source and the `top` most probable classes, or the problem.

        >>> probabilities = np.array([0.125, 0.875])
        >>> Prediction("a.jpg", ("iris", "rose"), probabilities).describe()
        'a.jpg: rose 87.5 %, iris 12.5 %'
        >>> Prediction("a.jpg", ("iris", "rose"), probabilities, is_known=False).describe(1)
        'a.jpg: none of these classes (most like rose 87.5 %)'
        """
        if self.probabilities is None:
            return f"{self.source}: {self.problem}"
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.classes[:top])
        text = shares if self.is_known else f"{NONE_OF_THESE} (most like {shares})"
        return f"{self.source}: {text}"

    __str__ = describe


@dataclass(frozen=True, eq=False)
class Classifier(LoadedModel):
    """A model with all that its use needs; `load_classifier` opens one."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.card.class_names

    @property
    def run_folder(self) -> RunFolder:
        """Where the run of this model would be: its folder, or that of its file."""
        return RunFolder(self.path if self.path.is_dir() else self.path.parent)

    def find_similar_photos(self, progress: Progress | None = None) -> SimilarPhotos:
        """The run's training photos with their features, which the first call computes.

        Raises what `SimilarPhotos` raises, and ValueError for a format that gives no features.
        """
        if self.model is None:
            raise ValueError(
                f"{self.path} gives no features to compare photos by. Pass the run's folder."
            )
        if "similar_photos" not in vars(self):
            vars(self)["similar_photos"] = SimilarPhotos(self.run_folder, self.model, progress)
        return vars(self)["similar_photos"]

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """What `run` gives, if it is probabilities. Raises ValueError, with the remedy, if not."""
        rows = np.asarray(self.run(pixels))
        sums = rows.sum(axis=-1, dtype="float64")
        # nan is neither
        is_right = (rows >= -PROBABILITY_ERROR).all(axis=-1) & (abs(sums - 1) <= PROBABILITY_ERROR)
        if is_right.all():
            return rows
        wrong, total = rows[~is_right][0], sums[~is_right][0]
        shown = ", ".join(f"{value:.4g}" for value in wrong[:4])
        if len(wrong) > 4:
            shown += ", ..."
        raise ValueError(
            f"{self.path} does not give probabilities: a row of its output is [{shown}] with the sum "
            f"{total:.4g}. A classifier ends in a softmax: for logits, save keras.Model(model.inputs, "
            f"keras.layers.Softmax()(model.outputs[0])); several sigmoids name no single class."
        )

    def __str__(self) -> str:
        score = "" if self.card.val_f1 is None else f", macro F1 {self.card.val_f1:.4f} on val"
        if self.card.threshold() == EVERYTHING:
            score += f"; no photo is of {NONE_OF_THESE}, for which 19 val photos are needed"
        return (
            f"{self.path} ({self.format}): {len(self.class_names)} classes, "
            f"{self.card.image_size} px, resize {self.card.resize!r}{score}"
        )

    def predict(
        self,
        photos: Any,
        *,
        accept: float = ACCEPT,
        similar: int = 0,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """One prediction a photo, in order; for a folder, of all photos in it, sorted by path.

        `photos`: a path, a folder, a Pillow image, an array, or a list of these. An array is
        (height, width), (height, width, 3 or 4) or a batch (n, height, width, 3 or 4), numbers 0..255.
        Photos become squares as in `flowerkit convert`; an image of the model's size stays as it is.
        A file that cannot be read gets a prediction with its problem. `accept`: the fraction of val that
        is of a known class, see `ModelCard.threshold`; the larger, the fewer photos are of none.
        `similar`: how many of the nearest training photos each prediction has, see `SimilarPhotos`.

        Raises FileNotFoundError for a missing path, ValueError for a folder without photos, an array
        that is not an image, `accept` outside 0..1 and `similar` below 0; with `similar` also as
        `find_similar_photos`.
        """
        threshold = self.card.threshold(accept)
        check_similar(similar)
        inputs = _flatten(photos)
        names = [
            str(photo) if isinstance(photo, Path) else f"photo {number}"
            for number, photo in enumerate(inputs, 1)
        ]
        # One shape for all batches: another would be compiled again.
        size = max(1, min(batch_size, len(inputs)))
        predictions: list[Prediction] = []
        with ThreadPoolExecutor(_NUM_READERS) as readers:
            for start in range(0, len(inputs), size):
                rows = slice(start, start + size)
                squares = list(readers.map(self._read, inputs[rows]))
                found = self._predict_batch(names[rows], squares, size, threshold)
                if similar:
                    self._add_similar(found, squares, similar, progress)
                predictions += found
                if progress:
                    progress("classifying", len(predictions), len(inputs))
        return predictions

    def prepare(self, photo: Any) -> np.ndarray:
        """The model's input (size, size, 3) uint8 for a photo: a path, an image or an array.

        Raises as `read_photo`; ValueError for an array that is not an image.
        """
        if isinstance(photo, np.ndarray):
            (photo,) = _to_images(photo)
        size = self.card.image_size
        is_ready = isinstance(photo, Image.Image) and photo.size == (size, size)
        if is_ready and photo.mode == "RGB" and not photo.getexif():
            return np.asarray(photo)
        # By way of a JPEG, as the photos that the model was trained on.
        return decode_jpeg(read_photo(photo, size, self.card.resize).jpeg)

    def _read(self, photo: Any) -> np.ndarray | str:
        """The model's input for a photo, or why there is none."""
        try:
            return self.prepare(photo)
        except UnreadablePhoto as error:
            return str(error)
        except OSError as error:
            return f"does not open ({error.strerror or error})"

    def _predict_batch(
        self, names: list[str], squares: list[np.ndarray | str], size: int, threshold: float
    ) -> list[Prediction]:
        pixels = np.zeros((size, self.card.image_size, self.card.image_size, 3), "float32")
        for row, square in enumerate(squares):
            pixels[row] = 0 if isinstance(square, str) else square
        given = self.probabilities(pixels)[: len(names)]
        known = metrics.certainty(given) >= threshold
        calibrated = metrics.apply_temperature(given, self.card.temperature)
        return [
            Prediction(name, self.class_names, None, square)
            if isinstance(square, str)
            else Prediction(name, self.class_names, row, is_known=bool(is_known))
            for name, square, row, is_known in zip(names, squares, calibrated, known, strict=True)
        ]

    def _add_similar(self, predictions: list[Prediction], squares, num: int, progress) -> None:
        readable = [row for row, prediction in enumerate(predictions) if not prediction.problem]
        if readable:
            photos = self.find_similar_photos(progress)
            found = photos.find(np.stack([squares[row] for row in readable]), num)
            for row, similar in zip(readable, found, strict=True):
                predictions[row] = replace(predictions[row], similar=tuple(similar))


def load_classifier(path: str | os.PathLike) -> Classifier:
    """Open a run folder, a `.keras`, `.onnx` or `.tflite` file, or a SavedModel folder.

    Only the library of that format is needed: an ONNX file is used without TensorFlow.

    Raises FileNotFoundError if there is no model, ValueError for a damaged one or one that is no
    classifier of flowerkit, and RuntimeError, with the line for pip, if the library is missing.
    """
    return Classifier(**vars(detect_format(path).open(Path(path))))


# Photos -------------------------------------------------------------------------------------------


def _flatten(photos: Any) -> list[Path | Image.Image]:
    """Every photo: paths as they are, those of a folder sorted, arrays as images."""
    if isinstance(photos, str | os.PathLike):
        return list_files(Path(photos))
    if isinstance(photos, np.ndarray):
        return _to_images(photos)
    if isinstance(photos, Image.Image):
        return [photos]
    if not isinstance(photos, Iterable):
        raise ValueError(
            f"photos must be a path, a folder, a Pillow image, an array or a list of these. Received: "
            f"{type(photos).__name__}"
        )
    return [photo for item in photos for photo in _flatten(item)]


def list_files(path: Path) -> list[Path]:
    """The photo `path`, or those in and under that folder. Raises OSError or ValueError for none."""
    if not path.exists():
        raise FileNotFoundError(f"no photo {path}.{near_path(path)}".removesuffix("."))
    if not path.is_dir():
        return [path]
    walk = walk_photos(path)
    for note in walk.describe():
        _log.warning(note)
    if not (photos := [path / name for name in walk.paths]):
        raise ValueError(f"no photos in {path}. Photos end in {', '.join(SUFFIXES)}.")
    return photos


def _to_images(array: np.ndarray) -> list[Image.Image]:
    """The images of an array; raises ValueError if it is none of numbers 0..255."""
    channels = array.shape[-1] if array.ndim in (3, 4) else 3
    if array.ndim not in (2, 3, 4) or channels not in (1, 3, 4) or 0 in array.shape[-3:]:
        raise ValueError(
            f"an array of shape {array.shape} is not an image. Pass (height, width), (height, width, 3) "
            f"or (n, height, width, 3)."
        )
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if array.dtype.kind not in "uif" or not (low >= 0 and high <= 255):  # nan is neither
        raise ValueError(f"pixels are {array.dtype} from {low} to {high}; pass numbers 0..255.")
    if array.dtype.kind == "f" and 0 < high <= 1:
        raise ValueError(f"pixels go up to {high:g} only; pass 0..255, not 0..1 (times 255).")
    pixels = np.round(array).astype("uint8")
    batch = pixels if pixels.ndim == 4 else pixels[None]
    if batch.shape[3:] == (1,):
        batch = batch[..., 0]
    return list(map(Image.fromarray, batch))
