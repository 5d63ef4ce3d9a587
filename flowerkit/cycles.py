"""Schedules that move within an epoch: a cosine with warm-up, one cycle; and their rates step by step.

Pure Python, as `schedules`, whose rules hold here too.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from flowerkit.schedules import Schedule, check_epoch, check_numbers, check_rates, format_epochs


@dataclass(frozen=True)
class CosineWarmup:
    """A linear ramp from `start_lr` to `max_lr`, then half a cosine down to `min_lr` at `epochs`.

    The ramp takes `rampup_epochs` of the `epochs`; after them the rate stays at `min_lr`.
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016
    (arXiv:1608.03983), without the restarts. Raises ValueError for rates that are negative or out
    of order, no epochs, and a ramp that leaves none for the cosine.

    >>> schedule = CosineWarmup(0.0, 0.01, 0.001, rampup_epochs=2, epochs=10)
    >>> [round(schedule(epoch), 6) for epoch in (0, 1, 2, 6, 10, 12)]
    [0.0, 0.005, 0.01, 0.0055, 0.001, 0.001]
    >>> print(schedule)
    0 to 0.01 over 2 epochs, then a half-cosine to 0.001 at 10 epochs
    """

    start_lr: float
    max_lr: float
    min_lr: float
    rampup_epochs: float
    epochs: float
    per_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers(self)
        check_rates(self, "start_lr", "min_lr")
        _check_length(self.epochs, "a cosine")
        if self.rampup_epochs >= self.epochs:
            raise ValueError(
                f"rampup_epochs is {self.rampup_epochs:g} of {format_epochs(self.epochs)}: nothing is "
                "left for the cosine. Shorten the ramp, or train longer."
            )

    def __call__(self, epoch: float, /) -> float:
        """The rate at `epoch`, 0 being the first. Raises ValueError before 0."""
        check_epoch(epoch)
        if epoch < self.rampup_epochs:
            return float(self.start_lr + (self.max_lr - self.start_lr) * epoch / self.rampup_epochs)
        done = (epoch - self.rampup_epochs) / (self.epochs - self.rampup_epochs)
        return _ease(self.max_lr, self.min_lr, min(1.0, done))

    def scaled(self, factor: float) -> "CosineWarmup":
        """The same shape with every rate multiplied by `factor`."""
        return _scale(self, factor, "start_lr", "max_lr", "min_lr")

    def __str__(self) -> str:
        parts = [f"{self.max_lr:.3g}"]
        if self.rampup_epochs:
            parts = [
                f"{self.start_lr:.3g} to {self.max_lr:.3g} over {format_epochs(self.rampup_epochs)}"
            ]
        parts.append(f"then a half-cosine to {self.min_lr:.3g} at {format_epochs(self.epochs)}")
        return ", ".join(parts)


@dataclass(frozen=True)
class OneCycle:
    """One cycle over all `epochs`: half a cosine up to `max_lr`, half a cosine down to almost 0.

    fastai's `fit_one_cycle`: from max_lr / `div` to max_lr in the first `pct_start` (a fraction) of
    the epochs, then to max_lr / `div_final`; the momentum goes the other way. After `epochs` it
    stays where it ended. Smith and Topin, "Super-Convergence", 2017 (arXiv:1708.07120); Smith, "A
    disciplined approach to neural network hyper-parameters", 2018 (arXiv:1803.09820). Raises
    ValueError for no epochs, and values that make no cycle.

    >>> schedule = OneCycle(max_lr=0.01, epochs=8)
    >>> [round(schedule(epoch), 6) for epoch in (0, 1, 2, 5, 8)]
    [0.0004, 0.0052, 0.01, 0.005, 0.0]
    >>> [round(schedule.momentum(epoch), 6) for epoch in (0, 1, 2, 5, 8)]
    [0.95, 0.9, 0.85, 0.9, 0.95]
    >>> print(schedule)
    one cycle: 0.0004 to 0.01 over 2 epochs, then down to 1e-07 at 8 epochs
    """

    max_lr: float
    epochs: float
    pct_start: float = 0.25
    div: float = 25.0
    div_final: float = 1e5
    max_momentum: float = 0.95
    min_momentum: float = 0.85
    per_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_numbers(self)
        check_rates(self)
        _check_length(self.epochs, "one cycle")
        if not 0 < self.pct_start < 1:
            raise ValueError(
                f"pct_start is {self.pct_start:g}; it is the fraction of the epochs in which the rate "
                "climbs, so it must lie between 0 and 1."
            )
        for name in ("div", "div_final"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name):g}; max_lr is divided by it, and is the highest "
                    "rate, so it must be 1 or more."
                )
        if not self.min_momentum <= self.max_momentum < 1:
            raise ValueError(
                f"the momentum goes from max_momentum {self.max_momentum:g} to min_momentum "
                f"{self.min_momentum:g} and back: the first must be below 1 and not below the second."
            )

    def __call__(self, epoch: float, /) -> float:
        """The rate at `epoch`, 0 being the first. Raises ValueError before 0."""
        low, end = self.max_lr / self.div, self.max_lr / self.div_final
        return self._follow(epoch, low, self.max_lr, end)

    def momentum(self, epoch: float, /) -> float:
        """The momentum (Adam's beta_1) at `epoch`: lowest where the rate is highest."""
        return self._follow(epoch, self.max_momentum, self.min_momentum, self.max_momentum)

    def _follow(self, epoch: float, start: float, middle: float, end: float) -> float:
        check_epoch(epoch)
        done = min(1.0, epoch / self.epochs)
        if done < self.pct_start:
            return _ease(start, middle, done / self.pct_start)
        return _ease(middle, end, (done - self.pct_start) / (1 - self.pct_start))

    def scaled(self, factor: float) -> "OneCycle":
        """The same cycle with `max_lr`, and so every rate, multiplied by `factor`."""
        return _scale(self, factor, "max_lr")

    def __str__(self) -> str:
        climb = format_epochs(self.pct_start * self.epochs)
        return (
            f"one cycle: {self.max_lr / self.div:.3g} to {self.max_lr:.3g} over {climb}, then down to "
            f"{self.max_lr / self.div_final:.3g} at {format_epochs(self.epochs)}"
        )


def rates_per_step(schedule: Schedule, *, epochs: int, steps_per_epoch: int) -> list[float]:
    """The rate of each of the epochs * steps_per_epoch steps: at step s, schedule(s / steps_per_epoch).

    A schedule that is not `per_step` keeps the rate of the epoch's start through the epoch. Raises
    ValueError unless both counts are at least 1.

    >>> from flowerkit.schedules import Staircase
    >>> rates_per_step(Staircase(0.1, 0.5, every_epochs=1), epochs=2, steps_per_epoch=3)
    [0.1, 0.1, 0.1, 0.05, 0.05, 0.05]
    """
    return [schedule(when) for when in _times(schedule.per_step, epochs, steps_per_epoch)]


def momenta_per_step(cycle: OneCycle, *, epochs: int, steps_per_epoch: int) -> list[float]:
    """The momentum of each step, as `rates_per_step` gives the rate."""
    return [cycle.momentum(when) for when in _times(cycle.per_step, epochs, steps_per_epoch)]


def _times(per_step: bool, epochs: int, steps_per_epoch: int) -> list[float]:
    for name, count in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
        if not count >= 1:
            raise ValueError(f"{name} is {count!r}; without a step there is no rate to plan.")
    steps = range(epochs * steps_per_epoch)
    return [s / steps_per_epoch if per_step else s // steps_per_epoch for s in steps]


def _ease(start: float, end: float, done: float) -> float:
    """Half a cosine from `start` (done 0) to `end` (done 1)."""
    left = (1 + math.cos(math.pi * done)) / 2  # exactly 1, then exactly 0: so are the ends
    return start * left + end * (1 - left)


def _scale(schedule, factor: float, *names: str):
    return replace(schedule, **{name: getattr(schedule, name) * factor for name in names})


def _check_length(epochs: float, what: str) -> None:
    if epochs == 0:
        raise ValueError(f"epochs is 0; {what} needs at least one epoch to run through.")
