"""The learning-rate range test: a short training whose rate climbs from far too low to far too high.

Smith, "Cyclical Learning Rates for Training Neural Networks", 2015 (arXiv:1506.01186); smoothed, ended
and read as fastai's `lr_find` does it, whose default suggestion, the valley, is the one made here.
"""

import functools
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import keras
import numpy as np

from flowerkit.accelerator import Accelerator, connect
from flowerkit.console import Progress, shows_progress
from flowerkit.data import FlowerData, check_is_data, load_split
from flowerkit.pipeline import epoch_permutation, steps_per_epoch
from flowerkit.text import format_seconds, pluralize
from flowerkit.training.callbacks import STEPS_AHEAD, ReseedDropout, StepListener
from flowerkit.training.optimizers import copies_of
from flowerkit.training.phases import find_phase
from flowerkit.training.plan import FINE_TUNE, TrainingPlan
from flowerkit.training.step import RunContext, TrainStep

_log = logging.getLogger("flowerkit")

SMOOTHING = 0.98  # fastai's of 100 steps, as are the next three; of fewer steps, less
DIVERGED = 4.0  # times the lowest smoothed loss so far
SKIPPED_START = 0.1  # of the steps: their averages are of too few
SKIPPED_END = 0.05  # of the steps: of a network that is spoilt already
FEWEST_STEPS = 20
FEWEST_POINTS = 5  # left between start and end, to read a suggestion off
SMALL_FALL = 0.03  # of 100 steps; fewer are smoothed less, and fall more by chance


@dataclass(frozen=True, eq=False)
class LRFinderResult:
    """What a range test found, step by step; all arrays (n,) float64, n at most the steps asked for.

    `rates` are those that the optimizer used, `losses` each batch's own, `smoothed` is what is read.
    `suggestion`: a rate for steps of `global_batch` images. `field` names the plan's rate that it is
    for, which the plan multiplies by `scale` at this batch. `seconds` counts compiling too.
    `is_flat`: chance may have made the loss fall as it did, so the suggestion says little.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float
    stop_reason: str
    global_batch: int
    field: str
    scale: float
    seconds: float
    is_flat: bool = False

    def for_plan(self) -> dict[str, float]:
        """The suggestion as a change of the plan: {"max_lr": rate}, or "freeze_lr" for the head."""
        return {self.field: float(f"{self.suggestion / self.scale:.3g}")}

    def to_dict(self) -> dict:
        """Every field in plain values, ready for JSON, and the change of the plan."""
        arrays = {name: getattr(self, name).tolist() for name in ("rates", "losses", "smoothed")}
        return vars(self) | arrays | {"for_plan": self.for_plan()}

    def __str__(self) -> str:
        rate = self.for_plan()[self.field]
        scaled = "" if self.scale == 1 else f" (at this batch {self.suggestion:.2g})"
        return (
            f"{pluralize(len(self.rates), 'step')} of {pluralize(self.global_batch, 'image')}, "
            f"{format_seconds(self.seconds)}; "
            f"{self.stop_reason}; suggestion: {self.field} {rate:.2g}{scaled}"
        )


@shows_progress
def lr_find(
    data: FlowerData,
    plan: TrainingPlan = FINE_TUNE,
    *,
    accelerator: Accelerator | None = None,
    phase: str | None = None,
    min_lr: float = 1e-6,
    max_lr: float = 1.0,
    num_steps: int = 100,
    progress: Progress | None = None,
) -> LRFinderResult:
    """Train `num_steps` steps as `plan` would, at rates that grow from `min_lr` to `max_lr`.

    It ends early when the smoothed loss is 4 times its lowest, or not a number. `phase`: "frozen" (the
    head alone, on features) or "whole" (the network); None: the plan's first. The model is a fresh one
    of the plan. `progress(description, done, total)` is called after every step. A wider range has
    fewer steps where it matters.

    Raises ValueError for an unknown phase, rates out of order, too few steps, a loss that is not a
    number from the start, and a loss that diverges before there is anything to read.
    """
    check_is_data(data)
    start, rates = time.perf_counter(), spread_rates(min_lr, max_lr, num_steps)
    # The time limit of a run shapes what is measured in it; here nothing is.
    run = RunContext(
        data, replace(plan, max_minutes=None), accelerator or connect(), progress=progress
    )
    run.settle()
    plan, global_batch = run.plan, run.global_batch
    is_frozen = find_phase(plan, phase, global_batch=global_batch).is_frozen
    run.build(is_small=plan.has_small)  # as the network, or its head, learns first
    order = None if is_frozen else functools.partial(epoch_permutation, seed=plan.seed, epoch=0)
    run.train = load_split(data, "train", on_corrupt=plan.on_corrupt, cache=plan.cache, order=order)
    run.num_steps = steps_per_epoch(len(run.train), global_batch)
    _log.info(
        f"range test: {pluralize(num_steps, 'step')} of {pluralize(global_batch, 'image')}, "
        f"rates {min_lr:g} to {max_lr:g}"
    )
    with run.accelerator.scope():
        step = TrainStep.for_phase(run, is_frozen)
    reader = sweep(step, rates)
    suggestion, fall = find_rate(reader, rates)
    if is_flat(fall, num_steps):
        _log.warning(
            f"the loss fell by {max(0.0, fall):.1%} only, so the suggestion says little. Pass more "
            f"steps (num_steps, --steps) or other rates (min_lr, max_lr)."
        )
    return LRFinderResult(
        rates=np.array(rates[: len(reader.losses)]),
        losses=np.array(reader.losses),
        smoothed=reader.smoothed,
        suggestion=suggestion,
        stop_reason=reader.stop_reason,
        global_batch=global_batch,
        field="freeze_lr" if is_frozen else "max_lr",
        scale=scale_of_rates(plan, global_batch),
        seconds=time.perf_counter() - start,
        is_flat=is_flat(fall, num_steps),
    )


def scale_of_rates(plan: TrainingPlan, global_batch: int) -> float:
    """What becomes of a rate of 1 in the plan at this batch."""
    at_one = replace(
        plan, epochs=1, small_epochs=0, schedule="constant", max_lr=1.0, plateau_patience=None
    )
    return at_one.schedule_for(global_batch=global_batch)(0)


def spread_rates(min_lr: float, max_lr: float, num_steps: int) -> list[float]:
    """`num_steps` rates from `min_lr` to `max_lr`, each the same factor above the one before.

    >>> spread_rates(0.001, 10, 21)[:6:5]
    [0.001, 0.01]
    """
    if not 0 < min_lr < max_lr < math.inf:
        raise ValueError(
            f"the rates must climb from above 0. Received: min_lr={min_lr:g}, max_lr={max_lr:g}"
        )
    if num_steps < FEWEST_STEPS:
        raise ValueError(
            f"num_steps (--steps) is {num_steps}; a curve that can be read needs {FEWEST_STEPS} or more."
        )
    growth = math.log(max_lr / min_lr) / (num_steps - 1)
    return [float(f"{min_lr * math.exp(growth * step):.9g}") for step in range(num_steps)]


def smooth_losses(losses: Sequence[float], beta: float) -> np.ndarray:
    """The exponential moving average, corrected for its start at 0 (as Adam's): (n,) float64.

    >>> smooth_losses([4.0, 2.0, 1.0], beta=0.5).round(4).tolist()
    [4.0, 2.6667, 1.7143]
    """
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = beta * average + (1 - beta) * loss
        smoothed.append(average / (1 - beta**count))
    return np.array(smoothed, "float64")


def find_rate(reader: "_LossReader", rates: Sequence[float]) -> tuple[float, float]:
    """(the rate half way down the valley, the fall of the loss as a fraction) of a range test.

    Raises ValueError where there are too few losses to read.
    """
    num_steps, smoothed, rates = len(rates), reader.smoothed, np.array(rates)
    if not len(smoothed):
        raise ValueError(
            f"the loss is {reader.not_finite} at the very first step, before any rate could matter. "
            f"Look for weights that are not numbers, or a precision that overflows."
        )
    end = len(smoothed) - max(1, int(SKIPPED_END * num_steps))
    kept = slice(int(SKIPPED_START * num_steps), end)
    if len(smoothed[kept]) < FEWEST_POINTS:
        raise ValueError(
            f"{reader.stop_reason}, after {len(smoothed)} of {num_steps} steps: too few to read a rate "
            f"off. Pass a lower min_lr (--min-rate; it was {rates[0]:g})."
        )
    fall = 1 - smoothed[kept].min() / smoothed[kept][0]
    return find_valley(rates[kept], smoothed[kept]), fall


def is_flat(fall: float, num_steps: int) -> bool:
    """Whether chance may have made the loss fall by this fraction in a test of `num_steps`.

    >>> is_flat(0.04, 100), is_flat(0.04, 20)
    (False, True)
    """
    return bool(fall < SMALL_FALL * math.sqrt(100 / num_steps))


def find_valley(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """The rate half way down the longest valley of the losses; both arrays (n,).

    fastai's "valley", which is ESRI's: the longest run of losses, not all neighbours, of which each is
    below the one before. It is taken to begin as many steps before its end as it has losses.
    """
    lengths = np.ones(len(smoothed), int)
    for place in range(1, len(smoothed)):
        higher = lengths[:place][smoothed[:place] > smoothed[place]]
        lengths[place] = 1 + higher.max(initial=0)
    end = int(lengths.argmax())
    third = lengths[end] / 3
    return float(rates[max(0, end - lengths[end] + int(third) + int(third / 2))])


@contextmanager
def unchanged(model: keras.Model) -> Iterator[None]:
    """Put back all that a compiled `model` holds when the block ends, to the bit, after an error too.

    Weights, statistics, the optimizer and the state of dropout, on each replica of TensorFlow its own.
    The values wait on the host: on JAX the next step reuses the memory of a variable's present one.
    """
    kept = [
        (copy, np.array(keras.ops.convert_to_numpy(copy)))
        for variable in (*model.variables, *model.optimizer.variables)
        for copy in copies_of(variable)
    ]
    try:
        yield
    finally:
        for copy, value in kept:
            copy.assign(value)


def sweep(step: TrainStep, rates: Sequence[float]) -> "_LossReader":
    """Train a step at each of `rates` and read the losses."""
    # A step is long on a CPU; elsewhere the host must not wait for the last one.
    lag = 1 if step.run.accelerator.kind == "cpu" else STEPS_AHEAD
    reader = _LossReader(rates, lag, step.run.progress)
    step.train(
        lambda epoch, done: rates[min(done, len(rates) - 1)],
        [ReseedDropout(step.run.plan.seed), reader],
        steps=len(rates),
    )
    return reader


class _LossReader(StepListener):
    """Each batch's own loss, out of Keras's running means, `lag` steps late; stops when it diverges.

    Batches are equally long, so the mean of k, times k, less the mean of k - 1, times k - 1, is the
    k-th loss. In float32 that is good to about 1e-5, and asks the device for nothing it does not log.
    """

    def __init__(self, rates: Sequence[float], lag: int, progress: Progress | None):
        super().__init__()
        self.rates, self.lag, self.progress = rates, lag, progress
        self.waiting = deque()
        self.losses: list[float] = []
        self.total = 0.0
        self.stop_reason = "the highest rate was reached"
        self.stopped = False
        self.not_finite: float | None = None

    @property
    def smoothed(self) -> np.ndarray:
        """The losses so far, smoothed over the same part of the test whatever its steps: (n,)."""
        return smooth_losses(self.losses, 1 - 100 * (1 - SMOOTHING) / max(20, len(self.rates)))

    def on_step(self, done, logs):
        self.waiting.append(logs["loss"])
        if len(self.waiting) > self.lag:
            self._read(self.waiting.popleft())
        if self.progress:
            self.progress("range test", done, len(self.rates))

    def on_epoch_end(self, epoch, logs=None):
        while self.waiting:
            self._read(self.waiting.popleft())

    def _read(self, mean) -> None:
        if self.stopped:
            return  # a step that had begun when training had to stop
        total = float(mean) * (len(self.losses) + 1)
        loss, self.total = total - self.total, total
        rate = self.rates[len(self.losses)]
        if not math.isfinite(loss):
            self.not_finite = float(mean)
            return self._stop(f"the loss became {self.not_finite} at a rate of {rate:.2g}")
        self.losses.append(loss)
        smoothed = self.smoothed
        if smoothed[-1] > DIVERGED * smoothed.min():
            self._stop(f"the loss diverged at a rate of {rate:.2g}")

    def _stop(self, reason: str) -> None:
        self.stopped, self.stop_reason = True, reason
        self.trained.stop_training = True
