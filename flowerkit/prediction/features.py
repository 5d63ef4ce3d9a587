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
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np

from flowerkit.accelerator import free_memory_bytes, hosts
from flowerkit.data import RAM_FRACTION, Split
from flowerkit.files import cache_folder, check_room, writing_to
from flowerkit.models import stream_outputs, walk_layers
from flowerkit.pipeline import eval_batches
from flowerkit.prediction.predictions import Predictions
from flowerkit.text import format_bytes, format_seconds, pluralize

_log = logging.getLogger("flowerkit")

# Part of every key: features computed in another way never meet the files of this one.
_FORMAT = 3
_DTYPE = "float32"
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
    start = time.perf_counter()
    made_from = f"{_FORMAT} {fingerprint(body)} {describe_data(split)}" + " mirrored" * mirrored
    key = sha256(made_from.encode()).hexdigest()[:16]
    shape = (len(split), *body.output_shape[1:])
    # Hosts that train together must all compute: what one of them finds, others may not.
    array, seconds = None if hosts.are_together() else _find_kept(key, shape, name), 0.0
    if array is None:
        array = _keep(
            _compute(body, split, global_batch, name, mirrored, progress), key, shape, name
        )
        seconds = time.perf_counter() - start
        _log.info(
            f"features of {name}: {pluralize(len(array), 'image')} in {format_seconds(seconds)}"
        )
    return Features(array, split.labels, split.ids, seconds)


def _compute(
    body, split: Split, global_batch: int, name: str, mirrored: bool, progress
) -> Iterator[np.ndarray]:
    """The body's outputs, batch by batch, without the padding of the last batch."""
    batches = eval_batches(split, global_batch=global_batch)
    views = (images[:, :, ::-1] if mirrored else images for images, _, _ in batches)
    done = 0
    for rows in stream_outputs(body, views, name="the backbone"):
        rows = rows[: len(split) - done]
        yield rows
        done += len(rows)
        if progress:
            progress(f"features of {name}", done, len(split))


def predict_features(head: keras.Model, features: Features, *, global_batch: int) -> Predictions:
    """The probabilities that `head` gives: what the whole model predicts for the images.

    Raises ValueError for a head that takes features of another shape.
    """
    needed, stored = tuple(head.input_shape[1:]), features.array.shape[1:]
    if needed != stored:
        raise ValueError(
            f"a head that does not fit: it takes features of {_name_shape(needed)}, these are of "
            f"{_name_shape(stored)}. Cut head and body out of the same classifier."
        )
    rows = global_batch
    if keras.backend.backend() != "jax":  # there the program that predicts images has this head
        rows *= max(1, _CHUNK_BYTES // (4 * int(np.prod(stored)) * global_batch))
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


# Keeping ------------------------------------------------------------------------------------------


def _find_kept(key: str, shape: tuple[int, ...], name: str) -> np.ndarray | None:
    """What an earlier run left, read once to see that it is whole; None: to be computed.

    The file's name ends with the CRC-32 of its rows.
    """
    for file in _folder().glob(f"{key}-*.npy"):
        try:
            array = np.load(file, mmap_mode="r")
        except (OSError, EOFError, ValueError):
            array = np.empty(0)
        if array.shape == shape and f"{_checksum(array):08x}" == file.stem[-8:]:
            _log.info(f"features of {name} are there from an earlier run: {file}")
            return np.asarray(array)
        _log.warning(f"{file} is damaged: the features of {name} are computed anew")
        file.unlink(missing_ok=True)
    return None


def _folder() -> Path:
    return hosts.scratch() if hosts.are_together() else cache_folder() / "features"


def _checksum(array: np.ndarray) -> int:
    crc = 0
    for start in range(0, len(array), 256):
        crc = zlib.crc32(np.ascontiguousarray(array[start : start + 256]), crc)
    return crc


def _keep(outputs: Iterator[np.ndarray], key: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    """All `outputs` one after the other: in a file if the disk has room, else in memory."""
    num_bytes = 4 * int(np.prod(shape, dtype="int64"))
    no_file = _check_disk(num_bytes)
    if no_file is None:
        return _write(outputs, key, shape)
    size, free = f"{format_bytes(num_bytes)} of features", free_memory_bytes()
    if num_bytes > RAM_FRACTION * free:
        raise MemoryError(
            f"{size} of {name} do not fit into {format_bytes(free)} of free memory, nor into a file: "
            f"{no_file}. A head that begins with pooling (head='pooled', --head pooled) has far smaller "
            f"ones; freeze_epochs=0 (--freeze-epochs 0) has none."
        )
    _log.info(f"{name}: {size} stay in RAM ({no_file})")
    array, done = np.empty(shape, _DTYPE), 0
    for rows in outputs:
        array[done : done + len(rows)] = rows
        done += len(rows)
    return array


def _check_disk(num_bytes: int) -> str | None:
    """Why no file of this size can be kept; None if it can."""
    try:
        check_room(_folder(), num_bytes + min(_SPARE_BYTES, num_bytes))
    except OSError as error:
        return str(error)
    return None


def _write(outputs: Iterator[np.ndarray], key: str, shape: tuple[int, ...]) -> np.ndarray:
    hidden, crc = _folder() / f".{key}-{os.getpid()}.part", 0
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    try:
        with writing_to(_folder()), hidden.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for rows in outputs:
                rows = np.ascontiguousarray(rows, "<f4")
                crc = zlib.crc32(rows, crc)
                file.write(rows)
        path = _folder() / f"{key}-{crc:08x}.npy"
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
    return np.asarray(np.load(path, mmap_mode="r"))
