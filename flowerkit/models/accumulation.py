"""A training step in parts: a step of many images in the memory of few.

Each part's gradients come from Keras's own step, whose optimizer is away for so long. Keras's
gradient_accumulation_steps would make each part a step for callbacks and averaged weights, and does not
work on TensorFlow's replicas.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import keras


class AccumulatingModel(keras.Model):
    """A model that trains on `parts` of a batch, one after the other, and then moves its weights once.

    The gradients of all are averaged. Norms and dropout see a part at a time. On JAX a batch is divided
    over `replicas`, and so is each part; a replica of TensorFlow has its own share already.
    """

    def __init__(self, inputs, outputs, *, parts: int, replicas: int, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self.parts, self.replicas = parts, replicas

    def train_step(self, *arguments):
        """Keras's step: on JAX (state, data) to (logs, state), on TensorFlow (data) to logs."""
        if keras.backend.backend() == "jax":
            return self._step_with_jax(super().train_step, *arguments)
        return self._step_with_tensorflow(super().train_step, *arguments)

    def _step_with_jax(self, step, state, data):
        import jax

        weights, others, slots, metrics = state

        def add(carry, part):
            others, metrics, total = carry
            with self._collecting() as found:
                logs, state = step((weights, others, slots, metrics), part)
            total = [a + b for a, b in zip(total, found.gradients, strict=True)]
            return (list(state[1]), list(state[3]), total), logs

        start = (list(others), list(metrics), [jax.numpy.zeros_like(each) for each in weights])
        parts = jax.tree.map(lambda each: self._divide(each, self.replicas), data)
        (others, metrics, total), logs = jax.lax.scan(add, start, parts)
        gradients = [each / self.parts for each in total]
        weights, slots = self.optimizer.stateless_apply(slots, gradients, weights)
        return {name: value[-1] for name, value in logs.items()}, (weights, others, slots, metrics)

    def _step_with_tensorflow(self, step, data):
        import tensorflow as tf

        parts = tf.nest.map_structure(lambda each: self._divide(each, 1), data)
        weights = self.trainable_weights

        def add(number, *total):
            with self._collecting() as found:
                step(tf.nest.map_structure(lambda each: each[number], parts))
            pairs = zip(total, found.gradients, strict=True)
            return number + 1, *(a if b is None else a + b for a, b in pairs)

        start = (tf.constant(0), *(tf.zeros(each.shape, each.dtype) for each in weights))
        _, *total = tf.while_loop(
            lambda number, *_: number < self.parts, add, start, parallel_iterations=1
        )
        gradients = [each / self.parts for each in total]
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self.get_metrics_result()

    def _divide(self, batch, replicas: int):
        """(parts, images, ...) of a batch whose replicas hold equal shares, one after the other."""
        ops, shape = keras.ops, batch.shape[1:]
        shares = ops.reshape(batch, (replicas, self.parts, -1, *shape))
        return ops.reshape(ops.moveaxis(shares, 1, 0), (self.parts, -1, *shape))

    @contextmanager
    def _collecting(self) -> Iterator["_Gradients"]:
        optimizer, self.optimizer = self.optimizer, _Gradients(self.optimizer)
        try:
            yield self.optimizer
        finally:
            self.optimizer = optimizer


class _Gradients:
    """What Keras's step gives an optimizer; weights and slots stay as they are."""

    def __init__(self, optimizer: keras.Optimizer):
        self.variables, self.scale_loss = optimizer.variables, optimizer.scale_loss
        self.gradients = None

    def apply_gradients(self, pairs) -> None:
        self.gradients = [gradient for gradient, _ in pairs]

    def stateless_apply(self, slots, gradients, weights):
        self.gradients = gradients
        return weights, slots
