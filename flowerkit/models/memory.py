"""How much memory a training step needs for each image: an estimate from the layers, without a step."""

import math

import keras

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
    """How many numbers all layers give for an image, which is as large as `images` are."""
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs)  # clone_model takes no call_function there
    count = 0

    def call(layer, *args, **kwargs):
        nonlocal count
        outputs = layer(*args, **kwargs)
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            count += _count_values(layer, *keras.tree.flatten(args))
        else:
            shapes = [each.shape[1:] for each in keras.tree.flatten(outputs)]
            count += sum(math.prod(size or 1 for size in shape) for shape in shapes)
        return outputs

    # The graph is walked as a call walks it, with the sizes of this call; nothing is cloned.
    inputs = keras.tree.pack_sequence_as(model.input, images) if images else None
    keras.models.clone_model(
        model, input_tensors=inputs, clone_function=lambda layer: layer, call_function=call
    )
    return count
