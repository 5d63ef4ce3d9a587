"""Learning rates as plain functions of the epoch: frozen, validated, printable. Pure Python.

The first epoch is 0, as Keras counts it, and fractions are allowed, so that the same schedule can
be asked every epoch or every step. A schedule takes exactly one argument: Keras's
`LearningRateScheduler` first tries `schedule(epoch, current_rate)`, and a schedule with a second
parameter would silently train at another rate than it plots.

Here are the schedules that hold their rate through an epoch; those that move within one are in
`cycles`.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import ClassVar, Protocol


class Schedule(Protocol):
    """Any schedule, of here or of `cycles`.

    `per_step` says whether the rate is meant to move within an epoch; if not, it is set once an
    epoch, at its start.
    """

    per_step: ClassVar[bool]

    def __call__(self, epoch: float, /) -> float:
        """The rate at `epoch`, 0 being the first."""

    def scaled(self, factor: float) -> "Schedule":
        """The same shape with every rate multiplied by `factor`."""


@dataclass(frozen=True)
class RampSustainDecay:
    """A linear ramp, a plateau and an exponential decay, with the competition notebook's names.

    `start_lr` climbs to `max_lr` over `rampup_epochs`, stays for `sustain_epochs`, and then the
    part above `min_lr` is multiplied by `exp_decay` every epoch. Durations may be fractions or 0.
    Raises ValueError for rates that are negative or out of order, and for values that are no
    numbers.

    >>> schedule = RampSustainDecay(0.001, 0.01, 0.0001, 30, 0, 0.8)
    >>> [round(schedule(epoch), 6) for epoch in (0, 15, 30, 31)]
    [0.001, 0.0055, 0.01, 0.00802]
    >>> print(schedule)
    0.001 to 0.01 over 30 epochs, then x 0.8 per epoch towards 0.0001
    """

    start_lr: float
    max_lr: float
    min_lr: float
    rampup_epochs: float
    sustain_epochs: float
    exp_decay: float
    per_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_numbers(self)
        check_rates(self, "start_lr", "min_lr")
        if not 0 < self.exp_decay <= 1:
            raise ValueError(
                f"exp_decay is {self.exp_decay:g}; it is the factor kept per epoch, so it must be "
                "above 0 and at most 1 (1: no decay)."
            )

    def __call__(self, epoch: float, /) -> float:
        """The rate at `epoch`, 0 being the first. Raises ValueError before 0."""
        check_epoch(epoch)
        if epoch < self.rampup_epochs:
            return float(self.start_lr + (self.max_lr - self.start_lr) * epoch / self.rampup_epochs)
        epochs_of_decay = epoch - self.rampup_epochs - self.sustain_epochs
        if epochs_of_decay <= 0:
            return float(self.max_lr)
        return float((self.max_lr - self.min_lr) * self.exp_decay**epochs_of_decay + self.min_lr)

    def scaled(self, factor: float) -> "RampSustainDecay":
        """The same shape with every rate multiplied by `factor`."""
        rates = {name: getattr(self, name) * factor for name in ("start_lr", "max_lr", "min_lr")}
        return RampSustainDecay(**{**asdict(self), **rates})

    def __str__(self) -> str:
        parts = [f"{self.max_lr:.3g}"]
        if self.rampup_epochs:
            parts = [
                f"{self.start_lr:.3g} to {self.max_lr:.3g} over {format_epochs(self.rampup_epochs)}"
            ]
        if self.exp_decay == 1:
            return f"{parts[0]}, then held"
        if self.sustain_epochs:
            parts.append(f"held for {format_epochs(self.sustain_epochs)}")
        parts.append(f"then x {self.exp_decay:g} per epoch towards {self.min_lr:.3g}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Constant:
    """The same rate at every epoch. Raises ValueError unless `lr` is above 0.

    >>> Constant(0.0004)(12.5)
    0.0004
    """

    lr: float
    per_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.lr == 0:
            raise ValueError("lr is 0, so nothing would be learned. Give a positive rate.")

    def __call__(self, epoch: float, /) -> float:
        """`lr`. Raises ValueError before epoch 0."""
        check_epoch(epoch)
        return float(self.lr)

    def scaled(self, factor: float) -> "Constant":
        """The rate multiplied by `factor`."""
        return Constant(self.lr * factor)

    def __str__(self) -> str:
        return f"{self.lr:.3g} throughout"


@dataclass(frozen=True)
class Staircase:
    """`max_lr`, multiplied by `factor` every `every_epochs` epochs, but never under `min_lr`.

    Raises ValueError for rates that are negative or out of order, a factor outside (0, 1] and
    steps that are not a whole number of epochs.

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
    per_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_numbers(self)
        check_rates(self, "min_lr")
        if not 0 < self.factor <= 1:
            raise ValueError(
                f"factor is {self.factor:g}; the rate is multiplied by it at each stair, so it must "
                "be above 0 and at most 1 (1: no decay)."
            )
        if self.every_epochs < 1 or self.every_epochs != int(self.every_epochs):
            raise ValueError(
                f"every_epochs is {self.every_epochs:g}; a stair is a whole number of epochs, 1 or more."
            )

    def __call__(self, epoch: float, /) -> float:
        """The rate at `epoch`, 0 being the first. Raises ValueError before 0."""
        check_epoch(epoch)
        return float(max(self.min_lr, self.max_lr * self.factor ** (epoch // self.every_epochs)))

    def scaled(self, factor: float) -> "Staircase":
        """The same stairs with both rates multiplied by `factor`."""
        return replace(self, max_lr=self.max_lr * factor, min_lr=self.min_lr * factor)

    def __str__(self) -> str:
        every = "epoch" if self.every_epochs == 1 else f"{self.every_epochs:g} epochs"
        floor = f", never under {self.min_lr:.3g}" if self.min_lr else ""
        return f"{self.max_lr:.3g}, then x {self.factor:g} every {every}{floor}"


@dataclass(frozen=True, repr=False)
class OfEpochAndRate:
    """Your own step function `f(epoch, lr) -> lr`, from the rate `start_lr` before the first epoch.

    The rate of epoch k is what Keras's LearningRateScheduler would set: f(0, start_lr), of which
    f(1, ...) is taken, and so on up to f(k, ...). Each epoch is asked once, in order, and kept, so
    that the schedule gives the same rate whenever it is asked. Fractions of an epoch take the rate
    of the epoch. `factor` multiplies what comes out; the function does not see it.

    A function is not data: repr and str name it (module:name), but its code is in no plan and no
    file, and `asdict` holds the function itself.

    Raises ValueError for a function that cannot be called with (epoch, rate), and for one whose
    second parameter has a default. Asked for a rate, it raises ValueError if the function
    returned anything but a finite number of 0 or more.

    >>> def halve(epoch, lr):
    ...     return lr if epoch < 2 else lr / 2
    >>> schedule = OfEpochAndRate(halve, 0.01)
    >>> [schedule(epoch) for epoch in (0, 1, 2, 3.5)]
    [0.01, 0.01, 0.005, 0.0025]
    """

    function: Callable[[int, float], float]
    start_lr: float
    factor: float = 1.0
    per_step: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_numbers(self, "start_lr", "factor")
        _check_step_function(self.function)
        object.__setattr__(self, "_rates", [])  # what was asked for already; not a field

    def __call__(self, epoch: float, /) -> float:
        """The rate at `epoch`, 0 being the first. Raises ValueError, see above."""
        check_epoch(epoch)
        while len(self._rates) <= epoch:
            last = self._rates[-1] if self._rates else float(self.start_lr)
            self._rates.append(self._ask(len(self._rates), last))
        return self._rates[int(epoch)] * self.factor

    def _ask(self, epoch: int, rate: float) -> float:
        answer = self.function(epoch, rate)
        try:  # a tensor of one number is a number; True is none
            number = math.nan if isinstance(answer, bool | str) else float(answer)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number < math.inf:
            raise ValueError(
                f"{_name(self.function)} returned {answer!r} for epoch {epoch} and rate {rate:g}; "
                "a learning rate is a finite number, 0 or more."
            )
        return number

    def scaled(self, factor: float) -> "OfEpochAndRate":
        """The same rates multiplied by `factor`; the function goes on as before."""
        return replace(self, factor=self.factor * factor)

    def __repr__(self) -> str:
        name, factor = _name(self.function), f", factor={self.factor!r}"
        return f"OfEpochAndRate({name}, start_lr={self.start_lr!r}{factor * (self.factor != 1)})"

    def __str__(self) -> str:
        scaled = "" if self.factor == 1 else f", x {self.factor:g}"
        return f"{self.start_lr:.3g}, then as {_name(self.function)} says every epoch{scaled}"


def _name(function: Callable) -> str:
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"


def _check_step_function(function: Callable) -> None:
    if not callable(function):
        raise ValueError(f"function is {function!r}; it must be callable as f(epoch, lr).")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions tell nothing
        return
    try:
        signature.bind(0, 0.1)
    except TypeError as error:
        raise ValueError(
            f"{_name(function)}{signature} cannot be called with (epoch, lr): {error}."
        ) from None
    second = [*signature.parameters.values()][1:2]
    if second and second[0].default is not inspect.Parameter.empty:
        # The competition's tutorial: its start_lr is replaced by the current rate, silently.
        name = second[0].name
        raise ValueError(
            f"the second parameter of {_name(function)}{signature} has a default, but it gets the "
            f"current rate every epoch, whatever {name} was to be. If the function is of the epoch "
            f"alone, pass lambda epoch, lr: {getattr(function, '__name__', 'function')}(epoch)."
        )


def scale_for_batch(global_batch: int, reference_batch: int = 128) -> float:
    """The factor for a rate tuned at `reference_batch` when each step sees `global_batch` images.

    The square root of the ratio: the rule for Adam and RMSprop of Malladi et al., "On the SDEs and
    Scaling Rules for Adaptive Gradient Algorithms", 2022 (arXiv:2205.10287). The linear rule
    belongs to SGD. Raises ValueError unless both are at least 1.

    >>> scale_for_batch(512)
    2.0
    """
    for name, batch in (("global_batch", global_batch), ("reference_batch", reference_batch)):
        if not batch >= 1:
            raise ValueError(f"{name} is {batch!r}; a batch holds at least 1 image.")
    return math.sqrt(global_batch / reference_batch)


def check_numbers(schedule: Schedule, *names: str) -> None:
    """Raise ValueError unless the named fields (none: all) are finite numbers, 0 or more."""
    for name in names or [field.name for field in fields(schedule)]:
        value = getattr(schedule, name)
        # bool is a number to Python; in a plan file it is a slip.
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(
                f"{name} is {value!r} ({type(value).__name__}); it must be a finite number."
            )
        if value < 0:
            raise ValueError(f"{name} is {value:g}; it must be 0 or more.")


def check_rates(schedule: Schedule, *names: str) -> None:
    """Raise ValueError unless max_lr is above 0, and not below the named rates."""
    if schedule.max_lr == 0:
        raise ValueError("max_lr is 0, so nothing would be learned. Give a positive rate.")
    for name in names:
        if getattr(schedule, name) > schedule.max_lr:
            raise ValueError(
                f"{name} is {getattr(schedule, name):g}, above max_lr {schedule.max_lr:g}. "
                "Raise max_lr, or use Constant for a rate that never moves."
            )


def check_epoch(epoch: float) -> None:
    """Raise ValueError for an epoch before the first, which is 0."""
    if not 0 <= epoch < math.inf:  # written so that NaN fails too
        raise ValueError(f"epoch is {epoch!r}; the first epoch is 0.")


def format_epochs(count: float) -> str:
    """The number with its noun.

    >>> format_epochs(1), format_epochs(2.5)
    ('1 epoch', '2.5 epochs')
    """
    return f"{count:g} epoch" if count == 1 else f"{count:g} epochs"


# The competition's tutorial as printed. In fewer than 30 epochs it never leaves the ramp.
NOTEBOOK = RampSustainDecay(
    start_lr=0.001, max_lr=0.01, min_lr=0.0001, rampup_epochs=30, sustain_epochs=0, exp_decay=0.8
)

# A peak that fine-tuning bears at global batch 128, reached early enough to decay within 20 epochs.
COMPETITION = RampSustainDecay(
    start_lr=1e-5, max_lr=4e-4, min_lr=1e-5, rampup_epochs=4, sustain_epochs=0, exp_decay=0.8
)
