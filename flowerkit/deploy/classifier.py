"""A trained classifier, used: photos in, names and probabilities out."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowerkit.deploy.card import ModelCard, check_names
from flowerkit.deploy.inputs import list_sources, to_bytes, to_image
from flowerkit.deploy.runtimes import Runtime, open_runtime
from flowerkit.photos.reader import UnreadablePhoto, read_photo

_READERS = 4


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a classifier says of one photo.

    `source`: its path, or "photo 1" and so on for pictures and arrays. `probabilities` (number of
    classes,) float64, their sum 1; None where `problem` says why the photo cannot be read.
    """

    source: str
    class_names: tuple[str, ...]
    probabilities: np.ndarray | None
    problem: str | None = None

    @property
    def classes(self) -> list[tuple[str, float]]:
        """(name, probability) of all classes, the most probable first; of equals the first class.

        Raises ValueError for a photo that could not be read.
        """
        if self.probabilities is None:
            raise ValueError(f"{self.source}: {self.problem}")
        order = np.argsort(-self.probabilities, kind="stable")
        return [(self.class_names[i], float(self.probabilities[i])) for i in order]

    @property
    def name(self) -> str:
        """The most probable class."""
        return self.classes[0][0]

    def describe(self, top: int = 3) -> str:
        """One line: the source and the `top` most probable classes, or what is wrong.

        >>> Answer("a.jpg", ("iris", "rose"), np.array([0.125, 0.875])).describe()
        'a.jpg: rose 87.5 %, iris 12.5 %'
        """
        if self.probabilities is None:
            return f"{self.source}: {self.problem}"
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.classes[:top])
        return f"{self.source}: {shares}"

    __str__ = describe


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model with all that is needed to use it; `Classifier.load` makes one.

    `card` holds the class names and how photos are made into its input; `runtime.model` is Keras's
    model, where it is one.
    """

    path: Path
    card: ModelCard
    runtime: Runtime

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        class_names: Sequence[str] | None = None,
        fit: str | None = None,
    ) -> "Classifier":
        """Open a run folder, or a `.keras`, `.onnx`, `.tflite` file or SavedModel folder.

        `class_names` and `fit` are for a model that flowerkit did not export, or go over what it says.
        Only the library of that format is needed: an ONNX file is used without TensorFlow.

        Raises FileNotFoundError if there is no model, ValueError for a damaged one, one of another
        kind, or one without class names, and RuntimeError, with the line for pip, when the library
        is missing.
        """
        runtime = open_runtime(path)
        card = _settle_card(runtime, Path(path), class_names)
        return cls(Path(path), replace(card, fit=fit) if fit else card, runtime)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of `probabilities`."""
        return self.card.class_names

    @property
    def image_size(self) -> int:
        """The side, in px, of the squares that the model takes."""
        return self.card.image_size

    @property
    def model(self) -> Any:
        """The Keras model; None for the other formats."""
        return self.runtime.model

    def __str__(self) -> str:
        score = "" if self.card.val_f1 is None else f", macro F1 {self.card.val_f1:.4f} on val"
        return (
            f"{self.path} ({self.runtime.format}): {len(self.class_names)} classes, "
            f"{self.image_size} px, fit {self.card.fit!r}{score}"
        )

    def predict(
        self,
        photos: Any,
        *,
        batch_size: int = 32,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> list[Prediction]:
        """One answer a photo, in order; of a folder, all photos in it, sorted by path.

        `photos`: a path, a folder, a Pillow image, an array, or a list of these. An array is
        (height, width), (height, width, 3 or 4) or a batch of those, of numbers 0..255. Photos are
        made into squares as `flowerkit convert` does; a picture that has the model's size already
        is taken as it is. A file that cannot be read is answered with its problem.

        Raises FileNotFoundError for a path that is not there; ValueError for a folder without photos
        and an array that is no picture.
        """
        sources = list(list_sources(photos))
        predictions: list[Prediction] = []
        # The same shape always: a batch of another size would be compiled anew.
        size = min(batch_size, len(sources))
        with ThreadPoolExecutor(_READERS) as readers:
            for start in range(0, len(sources), max(1, size)):
                rows = sources[start : start + size]
                squares = list(readers.map(self._read, [photo for _, photo in rows]))
                names = [name for name, _ in rows]
                predictions += self._answer(names, squares, size)
                if progress:
                    progress("classifying", len(predictions), len(sources))
        return predictions

    def predict_pixels(self, pixels: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
        """(n, classes) float32 of squares (n, size, size, 3), numbers 0..255, for those who have them.

        Raises ValueError for another shape.
        """
        wanted = (self.image_size, self.image_size, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != wanted:
            raise ValueError(
                f"pixels must be (n, {wanted[0]}, {wanted[0]}, 3), not {pixels.shape}."
            )
        size = min(batch_size, len(pixels))
        starts = range(0, len(pixels), max(1, size))
        batches = [self._run(np.asarray(pixels[i : i + size]), size) for i in starts]
        return np.concatenate([np.zeros((0, len(self.class_names)), "float32"), *batches])

    def prepare(self, photo: Any) -> np.ndarray:
        """The square (size, size, 3) uint8 that the model sees of a photo: path, image or array.

        Raises UnreadablePhoto, a ValueError, for a file that is no picture; OSError if it does not
        open.
        """
        if isinstance(photo, np.ndarray):
            photo = to_image(photo)
        if isinstance(photo, Image.Image):
            if photo.size == (self.image_size, self.image_size) and photo.mode == "RGB":
                return np.asarray(photo)
            photo = to_bytes(photo)
        square = read_photo(photo, self.image_size, self.card.fit).jpeg
        # By way of a JPEG, for so did the photos that the model was trained on.
        with Image.open(io.BytesIO(square)) as image:
            return np.asarray(image.convert("RGB"))

    def find_attention(self, photo: Any, class_name: str | None = None) -> np.ndarray:
        """Where in a photo it looks for a class (None: the most probable): (size, size) in 0..1.

        Raises ValueError for a class that it does not know, a network without a feature map, and a
        format other than Keras's.
        """
        if self.model is None:
            raise ValueError(
                f"{self.path} is {self.runtime.format}, which gives no gradients to see by. Load the "
                f"run or its .keras file."
            )
        if class_name is not None and class_name not in self.class_names:
            raise ValueError(f"{class_name!r} is none of the {len(self.class_names)} classes.")
        chosen = None if class_name is None else np.array([self.class_names.index(class_name)])
        return self._attention(self.prepare(photo)[None], chosen)[0]

    @cached_property
    def _attention(self) -> Callable:
        from flowerkit.models.cam import build_attention

        return build_attention(self.model, batch_size=1)

    def _read(self, photo: Any) -> np.ndarray | str:
        """The square, or why there is none."""
        try:
            return self.prepare(photo)
        except UnreadablePhoto as error:
            return str(error)
        except OSError as error:
            return f"does not open ({error.strerror or error})"

    def _answer(self, names: list[str], squares: list, size: int) -> Iterator[Prediction]:
        """Answers in order, with a batch of the squares that could be read."""
        readable = [square for square in squares if not isinstance(square, str)]
        found = iter(self._run(np.stack(readable), size) if readable else ())
        for name, square in zip(names, squares, strict=True):
            if isinstance(square, str):
                yield Prediction(name, self.class_names, None, square)
                continue
            probabilities = next(found).astype("float64")
            yield Prediction(name, self.class_names, probabilities / probabilities.sum())

    def _run(self, pixels: np.ndarray, size: int) -> np.ndarray:
        missing = size - len(pixels)
        padded = np.pad(pixels, [(0, missing), (0, 0), (0, 0), (0, 0)]).astype("float32")
        return self.runtime.run(padded)[: len(pixels)]


def load_classifier(path: str | os.PathLike, **options) -> Classifier:
    """A run folder or an export, ready to name photos: `Classifier.load`, which says more."""
    return Classifier.load(path, **options)


def _settle_card(runtime: Runtime, path: Path, class_names) -> ModelCard:
    names = runtime.card.class_names if runtime.card else None
    if class_names is not None:
        names = check_names(class_names, where="the model")
    if names is None:
        raise ValueError(
            f"{path} does not say what its {runtime.num_classes} classes are called: flowerkit did not "
            f"export it. Pass class_names=[...] in the order of its outputs."
        )
    if len(names) != runtime.num_classes:
        raise ValueError(
            f"{path} has {runtime.num_classes} outputs and {len(names)} class names. Pass "
            f"class_names=[...], one for each."
        )
    size = runtime.input_shape[0]
    if tuple(runtime.input_shape) != (size, size, 3) or not isinstance(size, int):
        raise ValueError(
            f"{path} takes input of shape {tuple(runtime.input_shape)}, not squares of RGB pixels "
            f"(size, size, 3). It is no classifier of flowerkit."
        )
    if runtime.card is None:
        return ModelCard(names, size, version="unknown")
    return replace(runtime.card, class_names=names, image_size=size)
