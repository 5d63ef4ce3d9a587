"""Every learning-rate schedule: epoch -> rate; frozen, validated, printable. Pure Python.

`as_schedule` makes one of what Keras users have: a function, a Keras schedule, a number.

The first epoch is 0, as in Keras; fractions are allowed, so that a schedule can set the rate every
epoch or every step. A schedule takes exactly one argument: Keras' `LearningRateScheduler` first
tries `schedule(epoch, current_rate)`, and a schedule with a second parameter would silently train
at another rate than it plots.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import ClassVar, Self

from flowerkit.text import format_epochs

_DIV_FINAL = 1e5  # fastai's, of a cycle's last rate
_COUNTS_OF_STEPS = ("step", "steps", "global_step", "count", "iteration", "iterations")


@dataclass(frozen=True)
class Schedule:
    """What all schedules share. Each raises ValueError for values that make no schedule.

    `per_step`: the rate moves within an epoch; otherwise it is set once, at the epoch's start.
    """

    per_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type is not Callable:
                _check_number(field.name, getattr(self, field.name))
        rates = self._rates()
        peak = "lr" if "lr" in rates else "max_lr"
        highest = rates.get(peak, math.inf)
        if highest == 0:
            raise ValueError(f"{peak} is 0, so nothing would be learned. Give a positive rate.")
        for name, rate in rates.items():
            if rate > highest:
                raise ValueError(f"{name} is {rate:g}, above {peak} {highest:g}. Raise {peak}.")

    def __call__(self, epoch: float, /) -> float:
        """The rate at `epoch`, 0 being the first. Raises ValueError before 0."""
        if not 0 <= epoch < math.inf:  # written so that NaN fails too
            raise ValueError(f"epoch is {epoch!r}; the first epoch is 0.")
        return float(self._rate(epoch))

    def scaled(self, factor: float) -> Self:
        """The same shape with every rate multiplied by `factor`."""
        return replace(self, **{name: rate * factor for name, rate in self._rates().items()})

    def at(self, steps_an_epoch: int) -> Self:
        """The schedule where so many steps are an epoch: only Keras's own count steps."""
        return self

    def _rates(self) -> dict[str, float]:
        return {name: rate for name, rate in vars(self).items() if name[-3:] in ("lr", "_lr")}


@dataclass(frozen=True)
class _Ramped(Schedule):
    """A linear ramp from `start_lr` to `max_lr` over `rampup_epochs`, and what `_after` gives."""

    start_lr: float
    max_lr: float
    min_lr: float
    rampup_epochs: float

    def _rate(self, epoch: float) -> float:
        if epoch >= self.rampup_epochs:
            return self._after(epoch - self.rampup_epochs)
        return self.start_lr + (self.max_lr - self.start_lr) * epoch / self.rampup_epochs

    def __str__(self) -> str:
        ramp = f"{self.start_lr:.3g} to {self.max_lr:.3g} over {format_epochs(self.rampup_epochs)}"
        return ramp if self.rampup_epochs else f"{self.max_lr:.3g}"


@dataclass(frozen=True)
class RampSustainDecay(_Ramped):
    """A linear ramp, a plateau and an exponential decay, with the competition notebook's names.

    `start_lr` climbs to `max_lr` over `rampup_epochs`, stays for `sustain_epochs`, and then the
    part above `min_lr` is multiplied by `exp_decay` every epoch. Durations may be fractions or 0.

    >>> schedule = RampSustainDecay(0.001, 0.01, 0.0001, 30, 0, 0.8)
    >>> [round(schedule(epoch), 6) for epoch in (0, 15, 30, 31)]
    [0.001, 0.0055, 0.01, 0.00802]
    >>> print(schedule)
    0.001 to 0.01 over 30 epochs, then x 0.8 per epoch towards 0.0001
    """

    sustain_epochs: float
    exp_decay: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_factor("exp_decay", self.exp_decay)

    def _after(self, epoch: float) -> float:
        decay = self.exp_decay ** max(0, epoch - self.sustain_epochs)
        return (self.max_lr - self.min_lr) * decay + self.min_lr

    def __str__(self) -> str:
        if self.exp_decay == 1:
            return f"{super().__str__()}, then held"
        held = f", held for {format_epochs(self.sustain_epochs)}" if self.sustain_epochs else ""
        decay = f"x {self.exp_decay:g} per epoch towards {self.min_lr:.3g}"
        return f"{super().__str__()}{held}, then {decay}"


@dataclass(frozen=True)
class CosineWarmup(_Ramped):
    """A linear ramp from `start_lr` to `max_lr`, then half a cosine down to `min_lr` at `epochs`.

    The ramp takes `rampup_epochs` of the `epochs`; after them the rate stays at `min_lr`.
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016
    (arXiv:1608.03983), without the restarts.

    >>> schedule = CosineWarmup(0.0, 0.01, 0.001, rampup_epochs=2, epochs=10)
    >>> [round(schedule(epoch), 6) for epoch in (0, 1, 2, 6, 10, 12)]
    [0.0, 0.005, 0.01, 0.0055, 0.001, 0.001]
    >>> print(schedule)
    0 to 0.01 over 2 epochs, then a half-cosine to 0.001 at 10 epochs
    """

    epochs: float
    per_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rampup_epochs >= self.epochs:
            raise ValueError(
                f"rampup_epochs is {self.rampup_epochs:g} of {format_epochs(self.epochs)}: nothing is "
                "left for the cosine. Shorten the ramp, or train longer."
            )

    def _after(self, epoch: float) -> float:
        done = min(1.0, epoch / (self.epochs - self.rampup_epochs))
        return _half_cosine(self.max_lr, self.min_lr, done)

    def __str__(self) -> str:
        end = f"{self.min_lr:.3g} at {format_epochs(self.epochs)}"
        return f"{super().__str__()}, then a half-cosine to {end}"


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One cycle over all `epochs`: half a cosine up to `max_lr`, half a cosine down to almost 0.

    The rates of fastai's `fit_one_cycle`: from max_lr / `div` to max_lr in the first `pct_start` (a
    fraction) of the epochs, then to max_lr / 100,000, where it stays. Smith and Topin,
    "Super-Convergence", 2017 (arXiv:1708.07120).

    >>> schedule = OneCycle(max_lr=0.01, epochs=8)
    >>> [round(schedule(epoch), 6) for epoch in (0, 1, 2, 5, 8)]
    [0.0004, 0.0052, 0.01, 0.005, 0.0]
    >>> print(schedule)
    one cycle: 0.0004 to 0.01 over 2 epochs, then down to 1e-07 at 8 epochs
    """

    max_lr: float
    epochs: float
    pct_start: float = 0.25
    div: float = 25.0
    per_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs == 0:
            raise ValueError("epochs is 0; a cycle needs at least 1.")
        if not 0 < self.pct_start < 1:
            raise ValueError(f"pct_start is {self.pct_start:g}; it must lie between 0 and 1.")
        if self.div < 1:
            raise ValueError(f"div is {self.div:g}; it must be 1 or more.")

    def _rate(self, epoch: float) -> float:
        done = min(1.0, epoch / self.epochs)
        if done < self.pct_start:
            return _half_cosine(self.max_lr / self.div, self.max_lr, done / self.pct_start)
        done = (done - self.pct_start) / (1 - self.pct_start)
        return _half_cosine(self.max_lr, self.max_lr / _DIV_FINAL, done)

    def __str__(self) -> str:
        climb = format_epochs(self.pct_start * self.epochs)
        return (
            f"one cycle: {self.max_lr / self.div:.3g} to {self.max_lr:.3g} over {climb}, then down to "
            f"{self.max_lr / _DIV_FINAL:.3g} at {format_epochs(self.epochs)}"
        )


@dataclass(frozen=True)
class Staircase(Schedule):
    """`max_lr`, multiplied by `factor` every `every_epochs` epochs, but never under `min_lr`.

    >>> schedule = Staircase(max_lr=0.01, factor=0.5, every_epochs=10, min_lr=0.001)
    >>> [schedule(epoch) for epoch in (0, 9, 10, 20, 100)]
    [0.01, 0.01, 0.005, 0.0025, 0.001]
    >>> print(schedule)
    0.01, then x 0.5 every 10 epochs, never under 0.001
    """

    max_lr: float
    factor: float
    every_epochs: int
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_factor("factor", self.factor)
        if self.every_epochs < 1 or self.every_epochs != int(self.every_epochs):
            raise ValueError(f"every_epochs is {self.every_epochs:g}; pass a whole number from 1.")

    def _rate(self, epoch: float) -> float:
        return max(self.min_lr, self.max_lr * self.factor ** (epoch // self.every_epochs))

    def __str__(self) -> str:
        every = format_epochs(self.every_epochs).removeprefix("1 ")
        floor = f", never under {self.min_lr:.3g}" if self.min_lr else ""
        return f"{self.max_lr:.3g}, then x {self.factor:g} every {every}{floor}"


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at every epoch.

    >>> Constant(0.0004)(12.5)
    0.0004
    """

    lr: float

    def _rate(self, epoch: float) -> float:
        return self.lr

    def __str__(self) -> str:
        return f"{self.lr:.3g} throughout"


class _Own(Schedule):
    """Your own code as a schedule. A run's files name it (module:name, a lambda
    "your function"); the code is in none of them."""

    def _call(self, moment: str, *args) -> float:
        """What the function returns. Raises ValueError for what is no rate and where it fails."""
        name = _name(self.function)
        try:
            result = self.function(*args)
        except Exception as error:
            raise ValueError(f"{name} failed for {moment}: {error!r}") from error
        try:  # a tensor of one number is a number
            number = math.nan if isinstance(result, (bool, str)) else float(result)
        except (TypeError, ValueError):
            number = math.nan
        if 0 <= number < math.inf:
            return number
        raise ValueError(
            f"{name} returned {result!r} for {moment}; a learning rate is a finite number, 0 or more."
        )


@dataclass(frozen=True)
class OfEpoch(_Own):
    """Your own function `f(epoch) -> lr` of whole epochs, 0 being the first.

    It is called once an epoch, in order, so the schedule gives the same rate whenever it is called.

    >>> schedule = OfEpoch(lambda epoch: 0.01 / (epoch + 1))
    >>> [schedule(epoch) for epoch in (0, 1, 1.5)]
    [0.01, 0.005, 0.005]
    """

    function: Callable

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()
        object.__setattr__(self, "_known", [])  # the rates of the first epochs; not a field

    def _check(self) -> None:
        first, *_ = _bind(self.function, "epoch", "lambda epoch: 1e-3 * 0.9**epoch")
        if first.name in _COUNTS_OF_STEPS:
            raise ValueError(
                f"{_name(self.function)} is a function of {first.name!r}, but it gets the epoch, 0 "
                f"being the first. Pass lambda epoch: f(epoch * STEPS), or an object of "
                f"keras.optimizers.schedules, which gets the step."
            )

    def _rate(self, epoch: float) -> float:
        while len(self._known) <= epoch:
            self._known.append(self._next(len(self._known)))
        return self._known[int(epoch)]

    def _next(self, epoch: int) -> float:
        return self._call(f"epoch {epoch}", epoch)

    def __str__(self) -> str:
        return f"{_name(self.function)} of the epoch"


@dataclass(frozen=True)
class OfEpochAndRate(OfEpoch):
    """Your own step function `f(epoch, lr) -> lr`, from the rate `start_lr` before the first epoch.

    The rates are those of Keras' LearningRateScheduler: f(0, start_lr), then f(1, ...) of it, and so
    on. The function is called once an epoch, in order.

    >>> def halve(epoch, lr):
    ...     return lr if epoch < 2 else lr / 2
    >>> schedule = OfEpochAndRate(halve, 0.01)
    >>> [schedule(epoch) for epoch in (0, 1, 2, 3.5)]
    [0.01, 0.01, 0.005, 0.0025]
    """

    start_lr: float

    def _check(self) -> None:
        _, *second = _bind(self.function, "epoch, lr", "lambda epoch, lr: lr / 2")
        if second and second[0].default is not inspect.Parameter.empty:
            # The competition's tutorial: its start_lr would be replaced by the current rate, silently.
            shown = f"{_name(self.function)}{inspect.signature(self.function)}"
            raise ValueError(
                f"the second parameter of {shown} has a default, but it gets the current rate every "
                f"epoch, not {second[0].name}. If the function is of the epoch alone, pass OfEpoch(f)."
            )

    def _next(self, epoch: int) -> float:
        rate = self._known[-1] if self._known else float(self.start_lr)
        return self._call(f"epoch {epoch} and rate {rate:g}", epoch, rate)

    def __str__(self) -> str:
        return f"{self.start_lr:.3g}, then {_name(self.function)} every epoch"


@dataclass(frozen=True)
class OfStep(_Own):
    """A schedule of Keras (`keras.optimizers.schedules`), which counts steps: `function(step) -> lr`.

    A training run fills in `steps_an_epoch`. Step 0 is the first of the phase.

    >>> schedule = OfStep(lambda step: 0.01 * 0.5 ** int(step), steps_an_epoch=4)
    >>> [schedule(epoch) for epoch in (0, 0.25, 0.5)]
    [0.01, 0.005, 0.0025]
    """

    function: Callable
    steps_an_epoch: int = 1
    per_step: ClassVar[bool] = True

    def at(self, steps_an_epoch: int) -> Self:
        return replace(self, steps_an_epoch=steps_an_epoch)

    def _rate(self, epoch: float) -> float:
        step = round(epoch * self.steps_an_epoch)
        if not _is_of_keras(self.function):
            return self._call(f"step {step}", step)
        import keras  # the schedule has loaded it

        with keras.device("cpu:0"):  # on an accelerator it would wait behind the steps
            return self._call(f"step {step}", step)

    def __str__(self) -> str:
        try:
            values = self.function.get_config().items()
        except (AttributeError, NotImplementedError):  # your own may have none
            values = ()
        listed = [f"{name}={v!r}" for name, v in values if isinstance(v, (Real, list, tuple))]
        return f"{type(self.function).__name__}({', '.join(listed)}) of the step"


def as_schedule(schedule, *, start_lr: float) -> Schedule:
    """A schedule of: a Schedule, f(epoch), f(epoch, lr), a Keras schedule (of the step), or a number.

    f(epoch, lr) gets `start_lr` before the first epoch and then its own last rate. A second parameter
    that has a default keeps it. Raises ValueError for anything else.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if _is_of_keras(schedule):
        return OfStep(schedule)
    if isinstance(schedule, Real) and not isinstance(schedule, bool):
        return Constant(float(schedule))
    if isinstance(schedule, type) or not callable(schedule):
        raise ValueError(
            f"schedule is {schedule!r}. Pass a function of the epoch, such as lambda epoch: 1e-3 * "
            f"0.9**epoch, one of (epoch, rate), or an object of keras.optimizers.schedules; a name such "
            f"as 'cosine' goes into the plan."
        )
    try:
        inspect.signature(schedule).bind(0)
    except (TypeError, ValueError):
        return OfEpochAndRate(schedule, start_lr)
    return OfEpoch(schedule)


def _half_cosine(start: float, end: float, done: float) -> float:
    left = (1 + math.cos(math.pi * done)) / 2  # exactly 1, then exactly 0: so are the ends
    return start * left + end * (1 - left)


def _check_number(name: str, value: float) -> None:
    # bool is a number to Python; in a plan file it is a slip.
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be a finite number, 0 or more.")


def _check_factor(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value:g}; it must be above 0 and at most 1 (1: no decay).")


def _name(function: Callable) -> str:
    kind = function if hasattr(function, "__qualname__") else type(function)
    is_nameless = kind.__qualname__.endswith("<lambda>")
    return "your function" if is_nameless else f"{kind.__module__}:{kind.__qualname__}"


def _is_of_keras(schedule) -> bool:
    """By the name of its class, because importing Keras here would be dear; tf_keras has the same."""
    return any(kind.__name__ == "LearningRateSchedule" for kind in type(schedule).__mro__)


def _bind(function: Callable, names: str, example: str) -> list[inspect.Parameter]:
    """The parameters of a function of `names`. Raises ValueError where it is none of them."""
    try:
        signature = inspect.signature(function)
        signature.bind(*names.split(", "))
    except (TypeError, ValueError) as error:  # some built-in functions have no signature
        raise ValueError(
            f"{function!r} cannot be called with ({names}): {error}. Pass a function such as {example}."
        ) from None
    return [*signature.parameters.values()]


# The competition's tutorial as printed. In fewer than 30 epochs it never leaves the ramp.
NOTEBOOK = RampSustainDecay(
    start_lr=0.001, max_lr=0.01, min_lr=0.0001, rampup_epochs=30, sustain_epochs=0, exp_decay=0.8
)

# A peak that suits fine-tuning at global batch 128, reached early enough to decay within 20 epochs.
RAMP = RampSustainDecay(
    start_lr=1e-5, max_lr=4e-4, min_lr=1e-5, rampup_epochs=4, sustain_epochs=0, exp_decay=0.8
)
