"""Learning rates as plain functions of the epoch: frozen, validated, printable. Pure Python.

The first epoch is 0, as Keras counts it, and fractions are allowed, so that the same schedule can
be asked every epoch or every step. A schedule takes exactly one argument: Keras's
`LearningRateScheduler` first tries `schedule(epoch, current_rate)`, and a schedule with a second
parameter would silently train at another rate than it plots.
"""

import math
from dataclasses import asdict, dataclass, fields
from numbers import Real


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

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.max_lr == 0:
            raise ValueError("max_lr is 0, so nothing would be learned. Give a positive rate.")
        for name in ("start_lr", "min_lr"):
            if getattr(self, name) > self.max_lr:
                raise ValueError(
                    f"{name} is {getattr(self, name):g}, above max_lr {self.max_lr:g}. "
                    "Raise max_lr, or use Constant for a rate that never moves."
                )
        if not 0 < self.exp_decay <= 1:
            raise ValueError(
                f"exp_decay is {self.exp_decay:g}; it is the factor kept per epoch, so it must be "
                "above 0 and at most 1 (1: no decay)."
            )

    def __call__(self, epoch: float, /) -> float:
        """The rate at `epoch`, 0 being the first. Raises ValueError before 0."""
        _check_epoch(epoch)
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
        parts = [f"{self.max_lr:g}"]
        if self.rampup_epochs:
            parts = [f"{self.start_lr:g} to {self.max_lr:g} over {_epochs(self.rampup_epochs)}"]
        if self.exp_decay == 1:
            return f"{parts[0]}, then held"
        if self.sustain_epochs:
            parts.append(f"held for {_epochs(self.sustain_epochs)}")
        parts.append(f"then x {self.exp_decay:g} per epoch towards {self.min_lr:g}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Constant:
    """The same rate at every epoch. Raises ValueError unless `lr` is above 0.

    >>> Constant(0.0004)(12.5)
    0.0004
    """

    lr: float

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.lr == 0:
            raise ValueError("lr is 0, so nothing would be learned. Give a positive rate.")

    def __call__(self, epoch: float, /) -> float:
        """`lr`. Raises ValueError before epoch 0."""
        _check_epoch(epoch)
        return float(self.lr)

    def scaled(self, factor: float) -> "Constant":
        """The rate multiplied by `factor`."""
        return Constant(self.lr * factor)

    def __str__(self) -> str:
        return f"{self.lr:g} throughout"


Schedule = RampSustainDecay | Constant


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


def _check_numbers(schedule: Schedule) -> None:
    for field in fields(schedule):
        value = getattr(schedule, field.name)
        # bool is a number to Python; in a plan file it is a slip.
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(
                f"{field.name} is {value!r} ({type(value).__name__}); it must be a finite number."
            )
        if value < 0:
            raise ValueError(f"{field.name} is {value:g}; it must be 0 or more.")


def _check_epoch(epoch: float) -> None:
    if not epoch >= 0:  # written so that NaN fails too
        raise ValueError(f"epoch is {epoch!r}; the first epoch is 0.")


def _epochs(count: float) -> str:
    return f"{count:g} epoch" if count == 1 else f"{count:g} epochs"


# The competition's tutorial as printed. In fewer than 30 epochs it never leaves the ramp.
NOTEBOOK = RampSustainDecay(
    start_lr=0.001, max_lr=0.01, min_lr=0.0001, rampup_epochs=30, sustain_epochs=0, exp_decay=0.8
)

# A peak that fine-tuning bears at global batch 128, reached early enough to decay within 20 epochs.
COMPETITION = RampSustainDecay(
    start_lr=1e-5, max_lr=4e-4, min_lr=1e-5, rampup_epochs=4, sustain_epochs=0, exp_decay=0.8
)
