"""Optimizers: which variables decay, which move slower, clipped and averaged alike on every device.

Keras's own Adam, SGD and Lamb, with what Keras leaves open or gets wrong settled once for both
backends. Build them, like the model, inside `Accelerator.scope()`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import keras
import numpy as np
from keras import ops

from flowerkit.text import did_you_mean
from flowerkit.training.plan import OPTIMIZERS

NORMS = tuple(
    getattr(keras.layers, f"{kind}Normalization")
    for kind in ("Batch", "Layer", "Group", "RMS")
    if hasattr(keras.layers, f"{kind}Normalization")
)


@keras.saving.register_keras_serializable("flowerkit")
class TableRate(keras.optimizers.schedules.LearningRateSchedule):
    """A rate for every step, looked up inside the compiled step by the optimizer's count of steps.

    `rates` are the values of steps 0, 1, ... (`schedules.rates_per_step`); after the last it stays.
    A batch callback that sets `optimizer.learning_rate` instead works on JAX only if it reaches the
    optimizer through its own `self.model`, which takes the whole state out of the training loop and
    back each time; through any other reference what it sets is lost. A resumed run goes on where it
    was, because the count is in the checkpoint. Raises ValueError for no rates, and rates that are
    negative or no numbers.
    """

    def __init__(self, rates: Sequence[float]):
        self.rates = [float(rate) for rate in rates]
        if not self.rates:
            raise ValueError("a table of rates needs at least one rate; this one is empty.")
        for step, rate in enumerate(self.rates):
            if not 0 <= rate < float("inf"):
                raise ValueError(f"rate of step {step} is {rate}; it must be finite, 0 or more.")
        self._table = np.asarray(self.rates, "float32")

    def __call__(self, step):
        """The rate of step `step`, a scalar tensor of integers, as a float32 scalar tensor."""
        return ops.take(self._table, ops.clip(ops.cast(step, "int32"), 0, len(self.rates) - 1))

    def get_config(self) -> dict:
        """The rates, for `from_config`."""
        return {"rates": self.rates}


class _ByVariable:
    """What the optimizers below do otherwise than Keras's.

    `multipliers` and `decayed` have a value for each variable the optimizer is built with, in order:
    its rate is multiplied (the decay with it), and it decays or not. `momenta` has a momentum for
    each step.
    """

    def __init__(self, *args, multipliers=None, decayed=None, momenta=None, **kwargs):
        super().__init__(*args, **kwargs)
        # Tuples and plain numbers: Keras tracks lists for variables.
        self.multipliers = None if multipliers is None else tuple(multipliers)
        self.decayed = None if decayed is None else tuple(decayed)
        self.momenta = None if momenta is None else tuple(momenta)
        self._momentum_at = None if momenta is None else TableRate(momenta)

    def build(self, variables) -> None:
        """Make the slots. Raises ValueError for other variables than the optimizer was made for."""
        for values in (self.multipliers, self.decayed):
            if values is not None and len(values) != len(variables):
                raise ValueError(
                    f"the optimizer was made for {len(values)} variables, and is to be built with "
                    f"{len(variables)}. Build another after (un)freezing layers."
                )
        super().build(variables)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if self._momentum_at is not None:  # travels with the rate: looked up once, not by variable
            learning_rate = (learning_rate, self._momentum_at(self._iterations))
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient, variable, learning_rate):
        """Decay `variable` if it does, and move it at its own rate."""
        momentum = None
        if self._momentum_at is not None:
            learning_rate, momentum = learning_rate
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype)
        if self.multipliers is not None:
            # Not the gradient: Adam's and Lamb's steps do not depend on its size.
            rate = rate * self.multipliers[index]
        if self.weight_decay is not None and (self.decayed is None or self.decayed[index]):
            self.assign_sub(variable, ops.multiply(variable, rate * self.weight_decay))
        if momentum is None:
            super().update_step(gradient, variable, rate)
        else:
            self._update_with_momentum(gradient, variable, rate, ops.cast(momentum, variable.dtype))

    def _update_with_momentum(self, gradient, variable, rate, momentum):
        fixed = self.beta_1
        self.beta_1 = momentum
        try:
            super().update_step(gradient, variable, rate)
        finally:
            self.beta_1 = fixed

    def _apply_weight_decay(self, variables):
        """Nothing: `update_step` does it, where a variable's own rate is known."""

    def _clip_gradients(self, grads):
        return grads if self._has_tf_replicas() else super()._clip_gradients(grads)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """TensorFlow's sum over the replicas, and only then the clipping.

        Keras clips what each replica has, an n-th of the gradient: with 8 replicas a limit of 0.01 let
        steps of 0.024 through, and of another direction than on one device.
        """
        pairs = super()._all_reduce_sum_gradients(grads_and_vars)
        if not pairs or not self._has_tf_replicas():
            return pairs
        grads, variables = zip(*pairs, strict=True)
        return list(zip(super()._clip_gradients(list(grads)), variables, strict=True))

    def _has_tf_replicas(self) -> bool:
        strategy = getattr(self, "_distribution_strategy", None)
        return strategy is not None and strategy.num_replicas_in_sync > 1

    def finalize_variable_values(self, var_list) -> None:
        """Nothing. Keras's would put the averages in place of the raw weights when `fit` ends."""

    def get_config(self) -> dict:
        """What Keras's optimizer was made with, and the values for each variable and step."""
        own = {name: getattr(self, name) for name in ("multipliers", "decayed", "momenta")}
        return super().get_config() | own


@keras.saving.register_keras_serializable("flowerkit")
class Adam(_ByVariable, keras.optimizers.Adam):
    """Keras's Adam; with `weight_decay` it is AdamW, as Keras's own is."""


@keras.saving.register_keras_serializable("flowerkit")
class Lamb(_ByVariable, keras.optimizers.Lamb):
    """Keras's Lamb: Adam whose step is as long as the variable, times the rate."""


@keras.saving.register_keras_serializable("flowerkit")
class SGD(_ByVariable, keras.optimizers.SGD):
    """Keras's SGD with momentum."""

    def _update_with_momentum(self, gradient, variable, rate, momentum):
        # Keras asks `if self.momentum != 0`, which a value inside a compiled step cannot answer.
        velocity = self.momentums[self._get_variable_index(variable)]
        step = ops.multiply(ops.cast(gradient, variable.dtype), rate)
        self.assign(velocity, ops.subtract(ops.multiply(velocity, momentum), step))
        self.assign_add(variable, velocity)


def build_optimizer(
    name: str,
    learning_rate: float | TableRate,
    model: keras.Model,
    *,
    weight_decay: float | None = None,
    momentum: float | TableRate = 0.9,
    clip_norm: float | None = None,
    ema: float | None = None,
    multipliers: Mapping[str, float] | None = None,
) -> keras.Optimizer:
    """The optimizer `name` (of OPTIMIZERS), built for those variables of `model` that now learn.

    `learning_rate`: a number, or a `TableRate` with one for each step.
    `weight_decay` (adamw, sgd, lamb): each step takes rate * weight_decay of a weight off it, apart
    from the gradient (Loshchilov and Hutter 2017, arXiv:1711.05101); never off biases, the
    parameters of normalisation layers and other vectors (`find_undecayed`).
    `momentum`: SGD's, or Adam's and Lamb's beta_1; one for each step as a `TableRate`.
    `clip_norm`: the longest that the whole gradient may be; the same with any number of replicas.
    `ema`: keep an exponential average of the weights, of which each step keeps this part (0.999);
    see `averaged_weights`.
    `multipliers`: variable path -> factor of its rate; others keep theirs.

    Raises ValueError for an unknown name or path, values out of range, adam with a decay and adamw
    without one. Freezing or unfreezing layers needs another optimizer.
    """
    _check_name(name, weight_decay)
    _check_ranges(momentum, clip_norm, ema, weight_decay)
    variables = model.trainable_variables
    options = {
        "learning_rate": learning_rate if callable(learning_rate) else float(learning_rate),
        "weight_decay": weight_decay,
        "global_clipnorm": clip_norm,
        "use_ema": ema is not None,
    }
    if ema is not None:
        options["ema_momentum"] = ema
    if multipliers is not None:
        options["multipliers"] = _order_multipliers(multipliers, variables)
    if weight_decay is not None:
        undecayed = {id(variable) for variable in find_undecayed(model)}
        options["decayed"] = [id(variable) not in undecayed for variable in variables]
    if isinstance(momentum, TableRate):
        options["momenta"], momentum = momentum.rates, 0.9
    kind = {"adam": Adam, "adamw": Adam, "sgd": SGD, "lamb": Lamb}[name]
    optimizer = kind(**options, **{"momentum" if kind is SGD else "beta_1": float(momentum)})
    # Made before `fit`, slots do not cost a second trace of the training step.
    optimizer.build(variables)
    return optimizer


def find_undecayed(model: keras.Model) -> list[keras.Variable]:
    """The trainable variables that weight decay leaves alone, nested models included.

    They are found by kind: what a normalisation layer owns, a layer's bias, and vectors (every
    other gain, such as ConvNeXt's layer scale). Decaying them does not regularise, it only shrinks
    outputs; see He et al., "Bag of Tricks", 2018 (arXiv:1812.01187).
    """
    found = {id(variable) for variable in model.trainable_variables if len(variable.shape) < 2}
    for layer in model._flatten_layers():
        if isinstance(layer, NORMS):
            found |= {id(variable) for variable in layer.trainable_variables}
        found.add(id(getattr(layer, "bias", None)))  # of attention's layers it is a matrix
    return [variable for variable in model.trainable_variables if id(variable) in found]


@contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """The averages of `build_optimizer(..., ema=)` in place of the raw weights, which then come back.

    Inside, evaluate, predict or save: `model` is the averaged one. For use between epochs or
    outside `fit`. What is not trained, such as BatchNormalization's statistics, is an average of
    its own already and stays. Raises ValueError if no average is kept.
    """
    optimizer = model.optimizer
    if not getattr(optimizer, "use_ema", False) or not optimizer.built:
        raise ValueError("no average of the weights is kept; train with ema=0.999 (or so).")
    variables = optimizer._trainable_variables
    # Through the host: on JAX the next step reuses the memory of a variable's present value.
    raw = [ops.convert_to_numpy(variable).copy() for variable in variables]
    averages = [ops.convert_to_numpy(one) for one in optimizer._model_variables_moving_average]
    try:
        _assign(variables, averages)
        yield
    finally:
        _assign(variables, raw)


def _assign(variables, values) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _check_name(name: str, weight_decay: float | None) -> None:
    if name not in OPTIMIZERS:
        raise ValueError(
            f"optimizer must be one of {', '.join(OPTIMIZERS)}. Received: {name!r}"
            f"{did_you_mean(name, OPTIMIZERS)}"
        )
    if name == "adam" and weight_decay is not None:
        raise ValueError(
            f"adam with weight_decay={weight_decay:g} is adamw: say optimizer='adamw', or "
            "weight_decay=None."
        )
    if name == "adamw" and weight_decay is None:
        raise ValueError(
            "adamw without a weight_decay is adam: give one (0.01 is usual), or say optimizer='adam'."
        )


def _check_ranges(momentum, clip_norm, ema, weight_decay) -> None:
    if not isinstance(momentum, TableRate) and not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum:g}; it must be 0 or more, and below 1.")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(
            f"ema is {ema:g}; the part kept by each step lies between 0 and 1 (0.999)."
        )
    if clip_norm is not None and not 0 < clip_norm < float("inf"):
        raise ValueError(f"clip_norm is {clip_norm:g}; a longest gradient is above 0. None: off.")
    if weight_decay is not None and not 0 <= weight_decay < 1:
        raise ValueError(f"weight_decay is {weight_decay:g}; it must be 0 or more, and below 1.")


def _order_multipliers(multipliers: Mapping[str, float], variables) -> list[float]:
    paths = [variable.path for variable in variables]
    for path, factor in multipliers.items():
        if path not in paths:
            raise ValueError(
                f"{path!r} is no trainable variable of the model, so its rate cannot be multiplied."
                f"{did_you_mean(path, paths)}"
            )
        if not 0 <= factor < float("inf"):
            raise ValueError(f"the multiplier of {path!r} is {factor:g}; it must be 0 or more.")
    return [float(multipliers.get(path, 1.0)) for path in paths]
