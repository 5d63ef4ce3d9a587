"""Backbone outputs computed once, so that a head learns from them in seconds.

`models.split_classifier` cuts a classifier in two. What its body gives for every image is computed
in one pass and kept in a file that the next run finds again, and the head is trained on that. They
are float32: predictions from them are then those of the whole model to 1e-6, which float16 would spoil.
"""

import json
import logging
import os
import time
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np

from flowerkit.accelerator import free_memory_bytes, hosts
from flowerkit.data import RAM_FRACTION, Split
from flowerkit.files import cache_folder, check_room, find_marked, list_marked, replacing
from flowerkit.models import stream_outputs, walk_layers
from flowerkit.prediction.predictions import Predictions, stream_split
from flowerkit.text import format_bytes, format_seconds, pluralize

_log = logging.getLogger("flowerkit")

# Part of every key: features computed in another way never meet the files of this one.
_FORMAT = 4
# Bytes of features that one call of the head is given: enough to hide the call, few enough to hold.
_CHUNK_BYTES = 64 * 2**20
_SPARE_BYTES = 2**30  # of the disk, for what else the run writes


@dataclass(frozen=True, eq=False)
class Features:
    """What a body gives for the images of one split; row i of every array is the same image.

    `array` (n, ...) float32: (height, width, channels) of a feature map, or (channels,) after pooling.
    `labels` and `ids` are those of the `Split`. `seconds`: how long computing took; 0 where a file had
    them.
    """

    array: np.ndarray
    labels: np.ndarray | None
    ids: np.ndarray
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.ids)


def compute_features(
    body: keras.Model,
    split: Split,
    *,
    global_batch: int,
    name: str = "images",
    mirrored: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Features:
    """What `body` gives for every image of `split`, in its order; with `mirrored` for its mirror image.

    Features are kept in a file in the cache folder that the next run finds by what the body and the
    data are, or in memory where the disk has no room. Images are read batch by batch; `global_batch`
    is a multiple of the replicas. `progress("features of " + name, done, total)` is called after every
    batch.

    Raises ValueError for images of another size than the body takes, and MemoryError where there is no
    room for the features.
    """
    needed, stored = tuple(body.input_shape[1:]), tuple(split.images.shape[1:])
    if needed != stored:
        raise ValueError(
            f"the body takes images of {_name_shape(needed)}, the data holds {_name_shape(stored)}. "
            f"Choose the stored size with image_size (--image-size)."
        )
    made_from = f"{_FORMAT} {fingerprint(body)} {describe_data(split)}" + " mirrored" * mirrored
    folder = hosts.scratch() if hosts.are_together() else cache_folder() / "features"
    file = folder / f"{sha256(made_from.encode()).hexdigest()[:16]}.npy"
    # Hosts that train together must all compute: what one of them finds, others may not.
    kept = None if hosts.are_together() else find_marked(file)
    if kept is not None:
        _log.info(f"features of {name} are there from an earlier run: {kept}")
        return Features(_load(kept), split.labels, split.ids)
    start, shape = time.perf_counter(), (len(split), *body.output_shape[1:])
    report = progress and (lambda done: progress(f"features of {name}", done, len(split)))
    outputs = stream_split(
        body, split, global_batch, mirrored=mirrored, name="the backbone", report=report
    )
    array = _keep(outputs, file, shape, name)
    seconds = time.perf_counter() - start
    _log.info(f"features of {name}: {pluralize(len(array), 'image')} in {format_seconds(seconds)}")
    return Features(array, split.labels, split.ids, seconds)


def predict_features(head: keras.Model, features: Features, *, global_batch: int) -> Predictions:
    """The probabilities that `head` gives: what the whole model predicts for the images."""
    rows = global_batch
    if keras.backend.backend() != "jax":  # there the program that predicts images has this head
        image_bytes = 4 * int(np.prod(features.array.shape[1:]))
        rows *= max(1, _CHUNK_BYTES // (image_bytes * global_batch))
        rows = min(rows, -(-len(features) // global_batch) * global_batch)
    outputs = stream_outputs(head, _padded(features.array, rows))
    probabilities = np.concatenate(list(outputs))[: len(features)]
    return Predictions(features.ids, probabilities, features.labels)


def _name_shape(shape: tuple) -> str:
    return " x ".join(map(str, shape))


def _padded(array: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """`array` in pieces of `rows`, of each this host's own; the last filled up with its last row."""
    for start in range(0, len(array), rows):
        piece = array[start : start + rows]
        missing = rows - len(piece)
        own = hosts.own_rows(rows)
        rest = [(0, missing)] + [(0, 0)] * (piece.ndim - 1)
        yield (np.pad(piece, rest, mode="edge") if missing else piece)[own]


# Fingerprints -------------------------------------------------------------------------------------


def fingerprint(body: keras.Model) -> str:
    """A key that is the same for models of the same structure, weights and code, and no others.

    Names that Keras counts up (input_layer_3) do not matter, nor what is trainable.
    """
    places = {name: f"#{place}" for place, name in enumerate(_find_names(body))}
    config = json.dumps(_strip(body.get_config(), places), default=str, sort_keys=True)
    digest = sha256(config.encode())
    for _, layer in walk_layers(body):  # a configuration names the class of a user's layer only
        for kind in type(layer).__mro__:
            if issubclass(kind, keras.Layer) and not kind.__module__.startswith("keras."):
                digest.update(_describe_code(vars(kind)).encode())
    for weight in body.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()


def _strip(node, places: dict[str, str], inside_keras: bool = False):
    """A layer's configuration without what says nothing of its outputs, names replaced by places."""
    if isinstance(node, dict):
        dropped = ["trainable", "build_config", "registered_name", "module"]
        # Of Keras's own layers: what they do in training only.
        dropped += ["seed", "rate"] * inside_keras
        inside_keras = str(node.get("module")).startswith("keras")
        stripped = {
            key: _strip(value, places, inside_keras)
            for key, value in node.items()
            if key not in dropped
        }
        if isinstance(node.get("name"), str) and node["name"] in places:
            stripped["name"] = places[node["name"]]
        return stripped
    if not isinstance(node, list | tuple):
        return node
    if [type(each) for each in node] == [str, int, int]:  # the output of a layer, as an input
        return [places.get(node[0], node[0]), *node[1:]]
    return [_strip(value, places) for value in node]


def _describe_code(node) -> str:
    """Functions as they are compiled, without the lines that they stand in."""
    if isinstance(node, types.CodeType):
        return f"{node.co_code} {node.co_names} {_describe_code(node.co_consts)}"
    if isinstance(node, tuple):
        return " ".join(map(_describe_code, node))
    if isinstance(node, Mapping):
        codes = ((name, getattr(value, "__code__", None)) for name, value in sorted(node.items()))
        return " ".join(f"{name} {_describe_code(code)}" for name, code in codes if code)
    return repr(node)


def _find_names(model: keras.Model) -> list[str]:
    """The names of the model and all in it, nested ones too, in their order."""
    names = [model.name]
    for layer in getattr(model, "operations", model.layers):  # a resizing is no layer
        names += _find_names(layer) if isinstance(layer, keras.Model) else [layer.name]
    return list(dict.fromkeys(names))


def describe_data(split: Split) -> str:
    """A clause that is the same for the same images in the same order, and no others."""
    head = f"{split.images.shape[1:]} ".encode()
    digest = sha256(head + np.asarray(split.digests, "<i8").tobytes()).hexdigest()[:16]
    return f"{len(split):,} images of {split.images.shape[1]} px (key {digest})"


def describe_split(split: Split) -> str:
    """`describe_data`, and the same for the same labels and ids of the images."""
    labels = [] if split.labels is None else split.labels.tolist()
    key = sha256(json.dumps([labels, split.ids.tolist()]).encode()).hexdigest()[:16]
    return f"{describe_data(split)}, labels and ids (key {key})"


# Keeping ------------------------------------------------------------------------------------------


def _keep(outputs: Iterator[np.ndarray], file: Path, shape: tuple, name: str) -> np.ndarray:
    """All `outputs` one after the other: in a file if the disk has room, else in memory."""
    num_bytes = 4 * int(np.prod(shape, dtype="int64"))
    try:
        check_room(file.parent, num_bytes + min(_SPARE_BYTES, num_bytes))
    except OSError as error:
        size = f"{format_bytes(num_bytes)} of features of {name}"
        if num_bytes > RAM_FRACTION * (free := free_memory_bytes()):
            raise MemoryError(
                f"{size} do not fit into {format_bytes(free)} of free memory, nor into a file: {error}. "
                f"A head that begins with pooling (head='pooled', --head pooled) has far smaller ones; "
                f"freeze_epochs=0 (--freeze-epochs 0) has none."
            ) from error
        _log.info(f"{size} stay in RAM ({error})")
        array, done = np.empty(shape, "float32"), 0
        for rows in outputs:
            array[done : done + len(rows)] = rows
            done += len(rows)
        return array
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with replacing(file, marked=True, flush=False) as temporary, temporary.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, header)
        for rows in outputs:
            opened.write(np.ascontiguousarray(rows, "<f4"))
    return _load(max(list_marked(file), key=os.path.getmtime))


def _load(file: Path) -> np.ndarray:
    return np.asarray(np.load(file, mmap_mode="r"))
