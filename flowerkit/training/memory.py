"""What training needs of memory and disk, estimated before it; and a device that has too little."""

import logging
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from flowerkit.accelerator import Accelerator, free_memory_bytes
from flowerkit.data import RAM_FRACTION, FlowerData
from flowerkit.files import check_room
from flowerkit.text import format_bytes
from flowerkit.training.plan import TrainingPlan

_log = logging.getLogger("flowerkit")

# Of what all layers give, which is kept for the gradients. Measured on a CPU: 1.0 to 1.2 of it with
# TensorFlow, 1.5 with JAX; compiled in 16 bit for a TPU a third: XLA computes anew what is cheap.
_OVERHEAD = 1.5
_ACCELERATOR_SHARE = 0.3
_PICTURES_BYTES = 16 * 2**20
_SMALLER_INPUT = "a smaller input_size (--input-size)"


class OutOfMemory(RuntimeError):
    """A device had too little memory for a step of `plan`; `parts`: an `accumulate` of less, if any."""

    def __init__(self, plan: TrainingPlan, accelerator: Accelerator):
        batch, self.parts = plan.batch, next(_list_parts(plan, 2 * plan.accumulate), None)
        self.fault = (
            f"the {accelerator.kind.upper()} has too little memory for {batch // plan.accumulate} "
            f"images at a time on each replica"
        )
        remedy = _SMALLER_INPUT
        if self.parts:
            size = batch // self.parts
            remedy = (
                f"{_name_parts(plan, self.parts)}, halve_on_oom=True (--halve-on-oom), which finds "
                f"such parts, or per_replica_batch={size} (--per-replica-batch {size})"
            )
        super().__init__(f"{self.fault}. Pass {remedy}.")


def check_memory(
    plan: TrainingPlan,
    classifier: keras.Model,
    data: FlowerData,
    accelerator: Accelerator,
    folder: Path,
) -> None:
    """Log what the network's step needs beside what is free; a warning names the parts that would fit.

    Raises OSError where the disk of `folder` has no room for the files of the run.
    """
    slots = (1 if plan.optimizer == "sgd" else 2) + (plan.ema is not None)
    weights = 4 * classifier.count_params()
    # The best and the last state, the last with its slots, each beside the one before; the model.
    check_room(folder, weights * (2 + 3 * (1 + slots) + 1) + _PICTURES_BYTES)
    decoded = _count_decoded(plan, data) if accelerator.kind == "cpu" else 0
    free = _free_bytes(accelerator, decoded)
    if free is None or not plan.epochs:
        return
    fixed = weights * (2 + slots + (plan.accumulate > 1))  # gradients, and their sum, too
    each = activation_bytes(classifier, precision=accelerator.precision)

    def needed(parts: int) -> int:
        return fixed + plan.batch // parts * each

    line = (
        f"a step needs about {format_bytes(needed(plan.accumulate))} on each replica "
        f"({format_bytes(fixed)} of weights, {plan.batch // plan.accumulate} images of "
        f"{format_bytes(each)}); {format_bytes(free)} are free"
        + f" beside {format_bytes(decoded)} of decoded images"
        * bool(decoded)
    )
    if needed(plan.accumulate) <= free:
        _log.info(line)
        return
    parts = next((n for n in _list_parts(plan, 1 + plan.accumulate) if needed(n) <= free), None)
    remedy = _name_parts(plan, parts) if parts else _SMALLER_INPUT
    _log.warning(f"{line}: it may end out of memory; pass {remedy}")


def activation_bytes(model: keras.Model, *, precision: str) -> int:
    """About the bytes that a training step needs for each image that it has at a time."""
    num_bytes = _OVERHEAD * (4 if precision == "float32" else 2) * _count_values(model)
    is_xla = keras.backend.backend() == "jax" and precision != "float32"
    return int(num_bytes * (_ACCELERATOR_SHARE if is_xla else 1))


def _count_values(model: keras.Model, *images: keras.KerasTensor) -> int:
    """How many numbers all layers give for an image; of `images`, where the model's size is free."""
    count, last = 0, images
    known = {id(each): image for each, image in zip(model.inputs, images, strict=False)}

    def find(tensor):
        return known.get(id(tensor), tensor)

    for layer in getattr(model, "operations", model.layers):  # a resizing is no layer
        inputs, outputs = layer.input, keras.tree.flatten(layer.output)
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            count += _count_values(layer, *last)  # `input` is the layer's own, not what it is given
            last = outputs
        elif not isinstance(layer, keras.layers.InputLayer):
            if any(None in each.shape[1:] for each in outputs):
                found = layer.compute_output_spec(keras.tree.map_structure(find, inputs))
                known |= dict(zip(map(id, outputs), keras.tree.flatten(found), strict=True))
            last = [find(each) for each in outputs]
            count += sum(int(np.prod(each.shape[1:], dtype="int64")) for each in last)
    return count


def _count_decoded(plan: TrainingPlan, data: FlowerData) -> int:
    num_bytes = 3 * data.image_size**2 * (data.counts["train"] + data.counts["val"])
    fits = num_bytes <= RAM_FRACTION * free_memory_bytes()
    return num_bytes if plan.cache == "ram" or (plan.cache == "auto" and fits) else 0


def _free_bytes(accelerator: Accelerator, reserved: int) -> int | None:
    """Bytes free for each replica, on a CPU its share of the machine's; None where no library tells."""
    if accelerator.kind == "cpu":
        num_here = accelerator.replicas // accelerator.hosts
        return max(0, free_memory_bytes() - reserved) // num_here
    if accelerator.backend != "jax":
        return None
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else limit - stats.get("bytes_in_use", 0)


def _list_parts(plan: TrainingPlan, least: int) -> Iterator[int]:
    """In how many parts, `least` or more, the images of a step can be divided: whole pairs if mixed."""
    num = plan.batch // (2 if plan.augmentation().mixes else 1)
    return (parts for parts in range(least, num + 1) if num % parts == 0)


def _name_parts(plan: TrainingPlan, parts: int) -> str:
    size = plan.batch // parts
    return f"accumulate={parts} (--accumulate {parts}), for the same steps with {size} images at a time"
