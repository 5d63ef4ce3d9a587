"""Optimizers: which variables decay, which learn more slowly, and the average of the weights.

Keras's own Adam and SGD, with a factor for each variable's rate. Build them, like the model, inside
`Accelerator.scope()`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras


class _WithLRFactors:
    """An optimizer whose rate is multiplied by a factor for each variable it is built with, in order."""

    def __init__(self, *args, lr_factors: Sequence[float] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        # A tuple: Keras tracks lists for variables.
        self.lr_factors = None if lr_factors is None else tuple(lr_factors)

    def update_step(self, gradient, variable, learning_rate):
        """Move `variable` at its own rate: a factor of the gradient would not change Adam's steps."""
        if self.lr_factors is not None:
            learning_rate = learning_rate * self.lr_factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate)

    def finalize_variable_values(self, var_list) -> None:
        """Nothing. Keras's would put the averages in place of the raw weights when `fit` ends."""

    def get_config(self) -> dict:
        """What it was made with: a training model that a callback of yours saves is loaded with it."""
        return super().get_config() | {"lr_factors": self.lr_factors}


@keras.saving.register_keras_serializable("flowerkit")
class Adam(_WithLRFactors, keras.optimizers.Adam):
    """Keras's Adam; with `weight_decay` it is AdamW, as Keras's own is."""


@keras.saving.register_keras_serializable("flowerkit")
class SGD(_WithLRFactors, keras.optimizers.SGD):
    """Keras's SGD with momentum."""


def build_optimizer(
    name: str,
    model: keras.Model,
    *,
    weight_decay: float | None = None,
    ema: float | None = None,
    lr_factor: Callable[[keras.Variable], float] | None = None,
) -> keras.Optimizer:
    """The optimizer `name` (of `plan.OPTIMIZERS`), built for the variables of `model` that learn now.

    Its rate is a variable, which `TrainStep.train` sets before each step.
    `weight_decay` (adamw, sgd): each step takes rate * weight_decay of a weight off it, apart from the
    gradient (Loshchilov and Hutter 2017, arXiv:1711.05101), but never off biases, the parameters of
    normalisation layers and other vectors (He et al. 2018, arXiv:1812.01187).
    `ema`: keep an exponential average of the weights that retains this part of itself each step (0.999).
    `lr_factor(variable)`: what the rate of a variable is multiplied by.

    Freezing or unfreezing layers needs a new optimizer.
    """
    kind, options = (SGD, {"momentum": 0.9}) if name == "sgd" else (Adam, {})
    variables = model.trainable_variables
    optimizer = kind(
        weight_decay=weight_decay,
        use_ema=ema is not None,
        ema_momentum=0.99 if ema is None else ema,
        lr_factors=lr_factor and [lr_factor(each) for each in variables],
        **options,
    )
    if weight_decay is not None:
        # Biases by name too: those of attention are matrices.
        spared = [v for v in variables if len(v.shape) < 2 or v.name == "bias"]
        optimizer.exclude_from_weight_decay(var_list=spared)
    optimizer.build(variables)  # slots made before `fit` do not cost a second trace of the step
    return optimizer


@contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """The averages of `build_optimizer(..., ema=)` in place of the raw weights, which then come back.

    Inside, evaluate, predict or save: `model` has the averaged weights. What is not trained, such as
    BatchNormalization's statistics, stays. For use between epochs or outside `fit`.
    """
    # Keras wraps it where float16 needs a loss scale.
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    variables = optimizer._trainable_variables
    # Through the host: on JAX the next step reuses the memory of a variable's present value.
    raw = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
    averages = [
        keras.ops.convert_to_numpy(each) for each in optimizer._model_variables_moving_average
    ]
    try:
        _assign(variables, averages)
        yield
    finally:
        _assign(variables, raw)


def _assign(variables, values) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def copies_of(variable: keras.Variable) -> Sequence:
    """What the replicas of tf.distribute hold; elsewhere the variable, which is one."""
    values = getattr(variable.value, "values", ())
    return values if len(values) > 1 else [variable]
