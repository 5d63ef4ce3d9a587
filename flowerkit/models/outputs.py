"""What a model gives for batch after batch, and whether its saved copy gives the same.

On JAX that is a program for each shape of a batch, which all models that XLA cannot tell apart share. A
classifier runs as its body and its head there: features, validation and test need the same two.
"""

import logging
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence

import keras
import numpy as np

from flowerkit.accelerator import Program, batch_spec, hosts
from flowerkit.models.classifier import load_model, split_classifier
from flowerkit.text import format_seconds

_log = logging.getLogger("flowerkit")

# The programs of a model, by shape and dtype of the batch. They refer to no model.
_programs: weakref.WeakKeyDictionary[keras.Model, dict[tuple, Program]] = (
    weakref.WeakKeyDictionary()
)
_announced: weakref.WeakSet[keras.Model] = weakref.WeakSet()  # whose compiling was logged


def find_chain(model: keras.Model) -> Sequence[keras.Model]:
    """The models to run one after the other in place of `model`: a classifier's body and head on JAX."""
    has_parts = any(layer.name == "backbone" for layer in model.layers)
    return split_classifier(model) if _on_jax() and has_parts else (model,)


def prepare_outputs(
    models: Sequence[keras.Model],
    *,
    global_batch: int,
    dtype: str = "uint8",
    changing: Sequence[keras.Variable] = (),
) -> None:
    """Begin to compile what `stream_outputs` will run on such batches; on TensorFlow nothing."""
    if _on_jax():
        for model in models:
            shape = (global_batch, *model.input_shape[1:])
            _find_program(model, shape, dtype, _find_assigned(model, changing))
            dtype = "float32"


def stream_outputs(
    models: keras.Model | Sequence[keras.Model],
    batches: Iterable[np.ndarray],
    *,
    changing: Sequence[keras.Variable] = (),
    name: str | None = None,
) -> Iterator[np.ndarray]:
    """What a model, or several one after the other, give for each batch: (batch, ...) float32.

    The replicas divide the length of a batch; all have the same. Of hosts that train together each gives
    its own rows of a batch, and gets the outputs for all. `changing`: variables that the models
    assign when they are called; each has its new value when the batch's outputs come. Two batches at a
    time are in memory, so that the device need not wait for the host. With a `name`, what compiling
    takes is logged once for the first of the models.
    """
    models = [models] if isinstance(models, keras.Model) else models
    outputs = (_stream_with_jax if _on_jax() else _stream_with_tensorflow)(
        models, batches, changing
    )
    if name and models[0] not in _announced:
        _announced.add(models[0])
        _log.info(f"compiling {name}, which takes from seconds to some minutes")
        start = time.perf_counter()
        first = next(outputs, None)
        if first is None:
            return
        taken = format_seconds(time.perf_counter() - start)
        _log.info(f"first batch {taken}, compiling included; not again")
        yield first
    yield from outputs


def check_reload(
    model: keras.Model, path: str | os.PathLike, *, batch: int = 16, tolerance: float = 1e-4
) -> float:
    """The largest difference of probabilities between `model` and its saved copy, on random pixels.

    They are `batch` images, a multiple of the replicas. Raises RuntimeError when the difference exceeds
    `tolerance`.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *model.input_shape[1:]), "uint8")
    ours, theirs = (_predict_once(each, pixels) for each in (model, load_model(path)))
    difference = float(np.abs(ours - theirs).max())
    if not difference <= tolerance:  # NaN is not, either
        raise RuntimeError(
            f"{path} and the model it was saved from predict different probabilities, by up to "
            f"{difference:.2g} (tolerance {tolerance:g}). Do not use the file; report the backbone."
        )
    return difference


def _predict_once(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    if _on_jax():
        return next(stream_outputs(find_chain(model), [pixels]))
    # Two images without a trace, which would take longer than they do.
    return keras.ops.convert_to_numpy(model(pixels[:2], training=False))


def _on_jax() -> bool:
    return keras.backend.backend() == "jax"


def _stream_with_tensorflow(models, batches, changing) -> Iterator[np.ndarray]:
    (model,) = models
    strategy = model.distribute_strategy
    num_replicas = strategy.num_replicas_in_sync
    for batch in batches:
        if num_replicas > 1:
            parts = np.split(batch, num_replicas)
            batch = strategy.experimental_distribute_values_from_function(
                lambda context, parts=parts: parts[context.replica_id_in_sync_group]
            )
        yield np.asarray(model.predict_on_batch(batch), "float32")


def _stream_with_jax(models, batches, changing) -> Iterator[np.ndarray]:
    distribution, waiting = keras.distribution.distribution(), None
    # Weights are arguments of the programs: as constants they would be compiled in.
    values = [_values_of(model) for model in models]
    assigned = [_find_assigned(model, changing) for model in models]
    for batch in batches:
        if distribution is not None:
            layout = distribution.get_data_layout(batch.shape)
            batch = keras.distribution.distribute_tensor(batch, layout)
        for model, weights, variables in zip(models, values, assigned, strict=True):
            program = _find_program(model, batch.shape, str(batch.dtype), variables)
            batch, assignments = program(weights, batch)
            for variable, value in zip(variables, assignments, strict=True):
                variable.assign(value)
        if changing:
            yield hosts.gather(batch)
            continue
        if waiting is not None:
            yield hosts.gather(waiting)
        waiting = batch
    if waiting is not None:
        yield hosts.gather(waiting)


def forward_of(model: keras.Model, assigned: Sequence[keras.Variable] = ()) -> tuple:
    """(function, weights): function(weights, batch) gives (outputs float32, values of `assigned`).

    For JAX to trace; the values are those that the call gives the variables.
    """

    def forward(values, batch):
        mapping = list(zip(model.weights, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = keras.ops.cast(model(batch, training=False), "float32")
        return outputs, [scope.get_current_value(variable) for variable in assigned]

    forward.__name__ = model.name
    return forward, _values_of(model)


def _values_of(model: keras.Model) -> list:
    return [variable.value for variable in model.weights]


def _find_assigned(model: keras.Model, changing: Sequence) -> list[keras.Variable]:
    ids = {id(variable) for variable in changing}
    return [variable for variable in model.weights if id(variable) in ids]


def _find_program(model: keras.Model, shape: tuple, dtype: str, assigned: Sequence) -> Program:
    programs = _programs.setdefault(model, {})
    if (shape, dtype) not in programs:
        batch = batch_spec(shape, dtype)
        divided = batch.sharding and batch_spec((shape[0], *model.output_shape[1:]), "float32")
        programs[shape, dtype] = Program(
            model.name,
            *forward_of(model, assigned),
            batch,
            out_shardings=divided and (divided.sharding, None),
        )
    return programs[shape, dtype]
