"""Backbone outputs computed once: a head learns from them in seconds, as the notes' learners do it.

`models.split_classifier` cuts a classifier in two. What its body says of every image is computed in one
pass and kept, in a file that the next run finds again, and the head is trained on that. It is float32:
predictions from features are then those of the whole model to 1e-6, which float16 would spoil.
"""

import json
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import keras
import numpy as np

from flowerkit.accelerator import free_memory_bytes
from flowerkit.data import cache as decode_cache
from flowerkit.data.split import RAM_FRACTION, Split
from flowerkit.pipeline.augment_layer import Augment
from flowerkit.pipeline.augment_params import PARAMS, sample_params
from flowerkit.pipeline.augmentation import Augmentation
from flowerkit.pipeline.batches import eval_batches
from flowerkit.prediction.predictions import Predictions, split_over
from flowerkit.text import format_bytes

_log = logging.getLogger("flowerkit")

# Part of every key: features computed otherwise never meet the files of this way.
_FORMAT = 2
_DTYPE = "float32"
_KEEP_FILES = ("auto", "disk")
# Rows that one call of the head is given: enough to hide the call, few enough to be no burden.
_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Features:
    """What a body says of the images of one split; row i of every array is the same image.

    `arrays` (views, n, ...) float32: (height, width, channels) of a feature map, or (channels,) after
    pooling. View 0 is of the images as they are. `labels`, `ids`, `digests`: as in `Split`. `body`
    and `data` name and fingerprint what they were computed from, see `check_features`. `seconds`: how
    long that took; 0 where a file had them.
    """

    arrays: np.ndarray
    labels: np.ndarray | None
    ids: np.ndarray
    digests: np.ndarray
    body: str
    data: str
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.ids)


def compute_features(
    body: keras.Model,
    split: Split,
    *,
    global_batch: int,
    views: int = 1,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    keep: str = "auto",
    what: str = "images",
    progress: Callable[[str, int, int], None] | None = None,
) -> Features:
    """What `body` says of every image of `split`, in its order, in `views` views.

    View 0 is of the images as they are, view v > 0 is changed by `augmentation` as drawn for
    (seed, v), inside the compiled step. `keep`: "auto" or "disk": a
    file that the next run finds by what the body and the data are, and memory where there is no room
    for one; "ram" or "none": memory. Images are read batch by batch; `global_batch` is a multiple of
    the replicas. `progress("features of " + what, done, total)` is called after every batch.

    Raises ValueError for images of another size than the body takes, and views that would all be the
    same; MemoryError where there is no room for the features.
    """
    _check_views(body, split, views, augmentation)
    start = time.perf_counter()
    body_key, data_key = describe_body(body), describe_data(split)
    drawn = f"{augmentation} {seed}" if views > 1 else ""
    key = sha256(f"{_FORMAT} {body_key} {data_key} {views} {drawn}".encode()).hexdigest()[:16]
    shape = (views * len(split), *body.output_shape[1:])
    array, seconds = _find_kept(key, shape, what) if keep in _KEEP_FILES else None, 0.0
    if array is None:
        store = _Store.open(key, shape, keep, what)
        answers = _answer_views(body, split, global_batch, views, augmentation, seed)
        array = store.fill(answers, f"features of {what}", progress)
        seconds = time.perf_counter() - start
        _log.info(f"features of {what}: {len(array):,} of {_name_shape(shape)} in {seconds:.1f} s")
    array = array.reshape(views, len(split), *shape[1:])
    return Features(array, split.labels, split.ids, split.digests, body_key, data_key, seconds)


def check_features(features: Features, body: keras.Model, split: Split) -> None:
    """Refuse features that were not computed by `body` as it is now, or not from `split`.

    Raises ValueError that names both sides.
    """
    for what, theirs, ours in (
        ("another model", features.body, describe_body(body)),
        ("other data", features.data, describe_data(split)),
    ):
        if theirs != ours:
            raise ValueError(
                f"these features are of {what}: computed from {theirs}, wanted for {ours}. Compute "
                f"them anew with compute_features."
            )


def predict_features(head: keras.Model, features: Features, *, global_batch: int) -> Predictions:
    """The probabilities that `head` gives for view 0: what the whole model predicts for the images.

    Raises ValueError for a head that takes features of another shape.
    """
    wanted, stored = tuple(head.input_shape[1:]), features.arrays.shape[2:]
    if wanted != stored:
        raise ValueError(
            f"a head that does not fit: it takes features of {_name_shape(('', *wanted))}, these are "
            f"of {_name_shape(('', *stored))}. Cut head and body out of the same classifier."
        )
    rows = max(1, _ANSWER_BYTES // (4 * int(np.prod(stored)) * global_batch)) * global_batch
    rows = min(rows, -(-len(features) // global_batch) * global_batch)
    answers = stream_outputs(head, _padded(features.arrays[0], rows))
    probabilities = np.concatenate(list(answers))[: len(features)]
    return Predictions(features.ids, probabilities, features.labels)


def stream_outputs(model: keras.Model, batches: Iterable) -> Iterator[np.ndarray]:
    """What `model` says of each batch, (batch, ...) float32; one batch at a time is in memory.

    A batch is an array, or a tuple of them, whose length the replicas divide; all are alike.
    """
    strategy = getattr(model, "distribute_strategy", None)  # TensorFlow's alone
    replicas = strategy.num_replicas_in_sync if strategy else 1
    distribution = keras.distribution.distribution() if keras.backend.backend() == "jax" else None

    def place(array):
        if replicas > 1:
            return split_over(strategy, array)
        if distribution is not None:
            layout = distribution.get_data_layout(array.shape)
            return keras.distribution.distribute_tensor(array, layout)
        return array

    for batch in batches:
        placed = tuple(map(place, batch)) if isinstance(batch, tuple) else place(batch)
        yield np.asarray(model.predict_on_batch(placed), _DTYPE)


# Fingerprints -------------------------------------------------------------------------------------


def describe_body(body: keras.Model) -> str:
    """A sentence part that is the same for models of the same structure and weights, and no others.

    Names that Keras counts up (input_layer_3) do not matter, nor what is trainable.
    """
    config = json.dumps(_strip(body.get_config()), default=str, sort_keys=True)
    for place, name in enumerate(_find_names(body)):
        config = config.replace(json.dumps(name), f'"{place}"')
    digest = sha256(config.encode())
    for weight in body.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return f"a body of {body.count_params():,} weights (key {digest.hexdigest()[:16]})"


def _strip(node):
    """A layer's configuration without what says nothing of its outputs."""
    if isinstance(node, dict):
        dropped = ("trainable", "build_config", "seed", "rate", "registered_name", "module")
        return {key: _strip(value) for key, value in node.items() if key not in dropped}
    return [_strip(value) for value in node] if isinstance(node, list | tuple) else node


def _find_names(model: keras.Model) -> list[str]:
    """The names of the model and all in it, nested ones too, in their order."""
    names = [model.name]
    for layer in getattr(model, "operations", model.layers):  # a resizing is no layer
        names += _find_names(layer) if isinstance(layer, keras.Model) else [layer.name]
    return list(dict.fromkeys(names))


def describe_data(split: Split) -> str:
    """A sentence part that is the same for the same images in the same order, and no others."""
    head = f"{split.images.shape[1:]} ".encode()
    digest = sha256(head + np.asarray(split.digests, "<i8").tobytes()).hexdigest()[:16]
    return f"{len(split):,} images of {split.images.shape[1]} px (key {digest})"


# Keeping ------------------------------------------------------------------------------------------


def _find_kept(key: str, shape: tuple[int, ...], what: str) -> np.ndarray | None:
    """What an earlier run left in a file, read once to see that it is sound; None: to be computed."""
    cached = decode_cache.open_cached(key, shape, _DTYPE)
    if cached is None:
        return None
    pairs = zip(cached.images, cached.checksums.tolist(), strict=True)
    if any(zlib.crc32(row) != checksum for row, checksum in pairs):
        _log.warning(f"{cached.path} is damaged: the features of {what} are computed anew")
        cached.discard()
        return None
    _log.info(f"features of {what} are there from an earlier run: {cached.path}")
    return cached.images


@dataclass(frozen=True, eq=False)
class _Store:
    """Where features go as they come: `array` (n, ...) float32, of a growing file or of memory."""

    array: np.ndarray
    growing: decode_cache.GrowingFile | None

    @classmethod
    def open(cls, key: str, shape: tuple[int, ...], keep: str, what: str) -> "_Store":
        """A file if `keep` allows one and there is room, else memory. Raises MemoryError for neither."""
        num_bytes = 4 * int(np.prod(shape, dtype="int64"))
        size, no_file = f"{format_bytes(num_bytes)} of features", ""
        if keep in _KEEP_FILES:
            try:
                growing = decode_cache.grow_file(
                    key, shape, f"features of {what}, {_name_shape(shape)}", _DTYPE
                )
                _log.info(f"{what}: {size} go into {growing.path}")
                return cls(growing.images, growing)
            except OSError as error:
                no_file = f", and no file of them: {error}"
        free = free_memory_bytes()
        if num_bytes > RAM_FRACTION * free:
            raise MemoryError(
                f"{size} of {what} do not fit into {format_bytes(free)} of free memory{no_file}. A "
                f"head that begins with pooling (head='pooled') has far smaller ones; feature_views=0 "
                f"has none."
            )
        _log.info(f"{what}: {size} stay in RAM{no_file}")
        return cls(np.empty(shape, _DTYPE), None)

    def fill(self, answers: Iterator[np.ndarray], told: str, progress) -> np.ndarray:
        """The array with all `answers` one after the other; a file of them is shown to later runs."""
        done = 0
        try:
            for rows in answers:
                part = slice(done, done := done + len(rows))
                self.array[part] = rows
                if self.growing:
                    self.growing.checksums[part] = [zlib.crc32(row) for row in self.array[part]]
                if progress:
                    progress(told, done, len(self.array))
        except BaseException:
            if self.growing:
                self.growing.drop()
            raise
        self._show()
        return self.array

    def _show(self) -> None:
        if self.growing is None:
            return
        try:
            self.growing.keep()
        except OSError as error:
            _log.warning(f"the features are not kept for the next run: {error}")
            self.growing.drop()


# Computing ----------------------------------------------------------------------------------------


def _check_views(body, split: Split, views: int, augmentation: Augmentation | None) -> None:
    wanted, stored = tuple(body.input_shape[1:]), tuple(split.images.shape[1:])
    if wanted != stored:
        raise ValueError(
            f"the body takes images of {_name_shape(('', *wanted))}, the data holds "
            f"{_name_shape(('', *stored))}. Choose the stored size with image_size (--image-size)."
        )
    if views > 1 and (augmentation is None or augmentation.is_off or augmentation.mixes):
        raise ValueError(
            f"views={views} needs an augmentation that changes an image from view to view, without "
            f"mixing images. Received: {augmentation}"
        )


def _answer_views(body, split, global_batch, views, augmentation, seed):
    """The body's answers, batch by batch, view after view, without the padding of the last batch."""
    yield from _trimmed(stream_outputs(body, _image_batches(split, global_batch)), len(split))
    if views == 1:
        return
    pixels = keras.Input(body.input_shape[1:], dtype="uint8")
    params = keras.Input((len(PARAMS),), dtype="float32")
    body = keras.Model((pixels, params), body(Augment(augmentation)((pixels, params))))
    for view in range(1, views):
        drawn = sample_params(augmentation, len(split), seed=seed, epoch=view)
        pairs = zip(_image_batches(split, global_batch), _padded(drawn, global_batch), strict=True)
        yield from _trimmed(stream_outputs(body, pairs), len(split))


def _image_batches(split: Split, global_batch: int) -> Iterator[np.ndarray]:
    batches = eval_batches(split, global_batch=global_batch)
    return (images for images, _, _ in batches.as_numpy_iterator())


def _padded(array: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """`array` in pieces of `rows`, the last filled up with its last row."""
    for start in range(0, len(array), rows):
        piece = array[start : start + rows]
        missing = rows - len(piece)
        rest = [(0, missing)] + [(0, 0)] * (piece.ndim - 1)
        yield np.pad(piece, rest, mode="edge") if missing else piece


def _trimmed(answers: Iterator[np.ndarray], num_rows: int) -> Iterator[np.ndarray]:
    for rows in answers:
        yield rows[:num_rows]
        num_rows -= len(rows)


def _name_shape(shape: tuple) -> str:
    return " x ".join(map(str, shape[1:]))
