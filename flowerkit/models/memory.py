"""How much memory a training step needs for each image: an estimate from the layers, without a step."""

import keras
import numpy as np

# Of what all layers give, which is kept for the gradients. Measured on a CPU: 1.0 to 1.2 of it with
# TensorFlow, 1.5 with JAX; compiled in 16 bit for a TPU a third: XLA computes anew what is cheap.
_OVERHEAD = 1.5
_ACCELERATOR_SHARE = 0.3


def activation_bytes(model: keras.Model, *, precision: str) -> int:
    """About the bytes that a training step needs for each image that it has at a time."""
    num_bytes = _OVERHEAD * (4 if precision == "float32" else 2) * _count_values(model)
    is_xla = keras.backend.backend() == "jax" and precision != "float32"
    return int(num_bytes * (_ACCELERATOR_SHARE if is_xla else 1))


def _count_values(model: keras.Model, *images: keras.KerasTensor) -> int:
    """How many numbers all layers give for an image; of `images`, where the model's size is free.

    There what a layer gives is taken to be as large as its input if it does not tell.
    """
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
                inputs = keras.tree.map_structure(find, inputs)
                try:
                    found = keras.tree.flatten(layer.compute_output_spec(inputs))
                except Exception:  # of an operation with constants, of a layer of the user's
                    found = keras.tree.flatten(inputs)[:1] * len(outputs)
                known |= dict(zip(map(id, outputs), found, strict=True))
            last = [find(each) for each in outputs]
            count += sum(int(np.prod(each.shape[1:], dtype="int64")) for each in last)
    return count
