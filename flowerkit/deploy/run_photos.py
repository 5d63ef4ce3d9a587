"""The photos of a run's data: those of train that look like a photo, and examples from val.

They are read from where the run found them; an export does not know the place.
"""

import csv
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowerkit.console import Progress
from flowerkit.text import from_cell
from flowerkit.training import RunFolder

BATCH = 32


@dataclass(frozen=True, eq=False)
class KnownPhoto:
    """A photo of a run's data, and its likeness to another.

    `name`: its path in the folder of photos, its id where the data are no photos. `pixels` (size, size,
    3) uint8. `similarity`: the cosine of the two photos' features, -1..1; None for an example.
    """

    name: str
    class_name: str
    pixels: np.ndarray
    similarity: float | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.class_name}, {self.similarity:.2f})"


class RunPhotos:
    """A split of the data that a run was trained on, in its order, with the labels that it had.

    `folder`: where the data are now; None: where they were. Raises FileNotFoundError where the model is
    no run, and what `RunFolder.split` raises.
    """

    def __init__(self, run: RunFolder, split: str, folder: str | os.PathLike | None = None):
        if not run.environment_file.is_file():
            raise FileNotFoundError(
                f"{run} is no run folder, and an export does not know the photos that it was trained "
                f"on. Pass the run's folder."
            )
        self.data = run.data(folder)
        self.class_names = self.data.class_names
        self.split = run.split(split, self.data)
        self.paths = _read_paths(self.data.folder / "photos.csv")

    def get(self, row: int, similarity: float | None = None) -> KnownPhoto:
        """The photo of a row of the split."""
        image_id = str(self.split.ids[row])
        name = self.paths.get(image_id, image_id)
        class_name = self.class_names[self.split.labels[row]]
        return KnownPhoto(name, class_name, self.split.images[row], similarity)


def _read_paths(file: Path) -> dict[str, str]:
    """The path of each photo by its id, from a conversion; {} where the data are no photos."""
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = csv.DictReader(opened)
            return {from_cell(row["id"]): from_cell(row["path"]) for row in rows}
    except FileNotFoundError:
        return {}
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{file} is not as the conversion wrote it, with the columns id and path ({error!r}). "
            f"Convert the photos again, or remove the file: then ids stand for paths."
        ) from error


def find_examples(run: RunFolder, num: int = 6) -> list[KnownPhoto]:
    """`num` photos of val, or all if there are fewer, of as many classes as there are; always the same.

    Raises what `RunPhotos` raises.
    """
    photos = RunPhotos(run, "val")
    order = np.random.default_rng(0).permutation(len(photos.split.labels))
    seen, turns = Counter(), []
    for label in photos.split.labels[order].tolist():
        turns.append(seen[label])  # the first of every class, then the second
        seen[label] += 1
    return [photos.get(row) for row in order[np.argsort(turns, kind="stable")][:num]]


class SimilarPhotos:
    """The training photos of a run whose features are nearest to those of a photo, by their cosine.

    The features are those of the trained body, averaged over the places of a feature map; they are
    computed once, and kept in the cache folder, see `prediction.compute_features`. Raises what
    `RunPhotos` raises.
    """

    def __init__(self, run: RunFolder, model, progress: Progress | None = None):
        from flowerkit.prediction import compute_features

        self.photos = RunPhotos(run, "train")
        self.body = build_pooled_body(model)
        found = compute_features(
            self.body, self.photos.split, global_batch=BATCH, name="train", progress=progress
        )
        self.features = _normalize(found.array)

    def find(self, squares: np.ndarray, num: int) -> list[list[KnownPhoto]]:
        """For each of `squares` (n, size, size, 3), 0..255, the `num` nearest photos, nearest first."""
        from flowerkit.models import stream_outputs

        filled = np.pad(squares, [(0, -len(squares) % BATCH), (0, 0), (0, 0), (0, 0)])
        batches = np.split(filled.astype("uint8"), len(filled) // BATCH)
        wanted = np.concatenate(list(stream_outputs(self.body, batches)))[: len(squares)]
        cosines = _normalize(wanted) @ self.features.T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :num]
        return [
            [self.photos.get(row, float(of_photo[row])) for row in rows]
            for rows, of_photo in zip(order, cosines, strict=True)
        ]


def build_pooled_body(classifier):
    """The body of a classifier, with the mean over the places of a feature map: (n, channels)."""
    import keras

    from flowerkit.models import split_classifier

    body, _ = split_classifier(classifier)
    if len(body.output_shape) < 4:
        return body
    mean = keras.layers.GlobalAveragePooling2D()(body.outputs[0])
    return keras.Model(body.inputs[0], mean, name="pooled_body")


def _normalize(features: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.maximum(lengths, 1e-12)).astype("float32")
