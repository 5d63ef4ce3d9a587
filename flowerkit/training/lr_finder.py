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
from flowerkit.data import FlowerData, Split, load_split
from flowerkit.pipeline import epoch_permutation
from flowerkit.training.callbacks import STEPS_AHEAD, ReseedDropout, StepHooks
from flowerkit.training.optimizers import copies_of
from flowerkit.training.phases import Phase, find_phase
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.step import Progress, RunContext, TrainStep, build_model

_log = logging.getLogger("flowerkit")

SMOOTHING = 0.98  # fastai's, as are the next three
DIVERGED = 4.0  # times the lowest smoothed loss so far
SKIPPED_START = 0.1  # of the steps: their averages are of too few
SKIPPED_END = 5  # steps of a network that is spoilt already
FEWEST_STEPS = 20
FEWEST_POINTS = 5  # left between start and end, to read a suggestion off
SMALL_FALL = 0.03


@dataclass(frozen=True, eq=False)
class LRFinderResult:
    """What a range test found, step by step; all arrays (n,) float64, n at most the steps asked for.

    `rates` are those that the optimizer used, `losses` each batch's own, `smoothed` is what is read.
    `suggestion`: a rate for steps of `global_batch` images. `field` names the plan's rate that it is
    for, which the plan multiplies by `scale` at this batch. `seconds` counts compiling too.
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
            f"{len(self.rates)} steps of {self.global_batch:,} images, {self.seconds:.0f} s; "
            f"{self.stop_reason}; suggestion: {self.field} {rate:.2g}{scaled}"
        )


def lr_find(
    plan: TrainingPlan,
    data: FlowerData,
    *,
    accelerator: Accelerator | None = None,
    classifier: keras.Model | None = None,
    phase: Phase | str | None = None,
    split: Split | None = None,
    min_lr: float = 1e-6,
    max_lr: float = 1.0,
    num_steps: int = 100,
    progress: Progress | None = None,
) -> LRFinderResult:
    """Train `num_steps` steps as `plan` would, at rates that grow from `min_lr` to `max_lr`.

    It ends early when the smoothed loss is 4 times its lowest, or not a number. `phase`: "frozen" (the
    head alone, on features), "whole" (the network), or a `Phase`; None: the plan's first. `classifier`:
    train this model (None: a fresh one of the plan). Its weights come back as they were, to the bit,
    after an error too. `split`: the training images where they are loaded already.
    `progress(description, done, total)` is called after every step. A wider range has fewer steps where
    it matters.

    Raises ValueError for an unknown phase, rates out of order, too few steps, a loss that is not a
    number from the start, and a loss that diverges before there is anything to read.
    """
    start, rates = time.perf_counter(), spread_rates(min_lr, max_lr, num_steps)
    accelerator = accelerator or connect()
    global_batch = plan.per_replica_batch * accelerator.replicas
    if not isinstance(phase, Phase):
        phase = find_phase(plan, phase, global_batch=global_batch)
    classifier = classifier or build_model(plan, data, accelerator)
    if split is None:
        order = functools.partial(epoch_permutation, seed=plan.seed, epoch=0)
        split = load_split(
            data,
            "train",
            on_corrupt=plan.on_corrupt,
            cache=plan.cache,
            order=None if phase.is_frozen else order,
        )
    run = RunContext(plan, accelerator, classifier, split, None, global_batch, num_steps)
    _log.info(
        f"range test: {num_steps} steps of {global_batch:,} images, rates {min_lr:g} to {max_lr:g}"
    )
    # A step is long on a CPU; elsewhere the host must not wait for the last one.
    reader = _LossReader(rates, 1 if accelerator.kind == "cpu" else STEPS_AHEAD, progress)
    with unchanged(classifier):
        with accelerator.scope():
            step = TrainStep.for_phase(run, phase, rates=rates, progress=progress)
        _sweep(step, plan.seed, reader)
    losses = np.array(reader.losses)
    smoothed = smooth_losses(losses)
    rates = np.array(rates[: len(losses)])
    # What becomes of a rate of 1 at this batch? (Of freeze_lr, where that is the only rate.)
    at_one = replace(plan, schedule="constant", max_lr=1.0, freeze_lr=None)
    return LRFinderResult(
        rates=rates,
        losses=losses,
        smoothed=smoothed,
        suggestion=_suggest(rates, smoothed, reader, num_steps, min_lr),
        stop_reason=reader.stop_reason,
        global_batch=global_batch,
        field="freeze_lr" if phase.is_frozen else "max_lr",
        scale=at_one.schedule_for(global_batch=global_batch)(0),
        seconds=time.perf_counter() - start,
    )


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


def smooth_losses(losses: Sequence[float], beta: float = SMOOTHING) -> np.ndarray:
    """The exponential moving average, corrected for its start at 0 (as Adam's): (n,) float64.

    >>> smooth_losses([4.0, 2.0, 1.0], beta=0.5).round(4).tolist()
    [4.0, 2.6667, 1.7143]
    """
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = beta * average + (1 - beta) * loss
        smoothed.append(average / (1 - beta**count))
    return np.array(smoothed, "float64")


def _suggest(rates, smoothed, reader: "_LossReader", num_steps: int, min_lr: float) -> float:
    if not len(rates):
        raise ValueError(
            f"the loss is {reader.not_finite} at the very first step, before any rate could matter. "
            f"Look for weights that are not numbers, or a precision that overflows."
        )
    kept = slice(int(SKIPPED_START * num_steps), len(smoothed) - SKIPPED_END)
    if len(rates[kept]) < FEWEST_POINTS:
        raise ValueError(
            f"{reader.stop_reason}, after {len(rates)} of {num_steps} steps: too few to read a rate "
            f"off. Pass a lower min_lr (--min-rate; it was {min_lr:g})."
        )
    fall = 1 - smoothed[kept].min() / smoothed[kept][0]
    if fall < SMALL_FALL:
        _log.warning(
            f"the loss fell by {max(0.0, fall):.1%} only, so the suggestion says little. Pass more "
            f"steps (num_steps, --steps) or other rates (min_lr, max_lr)."
        )
    return find_valley(rates[kept], smoothed[kept])


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
    """Put back all that `model` holds when the block ends, to the bit, after an error too.

    Weights, statistics and the state of dropout, on each replica of TensorFlow its own, and which
    layers are trainable. The values wait on the host: on JAX the next step reuses the memory of a
    variable's present one.
    """
    trainable = [(layer, layer.trainable) for layer in model._flatten_layers()]
    kept = [
        (copy, np.array(keras.ops.convert_to_numpy(copy)))
        for variable in model.variables
        for copy in copies_of(variable)
    ]
    try:
        yield
    finally:
        for copy, value in kept:
            copy.assign(value)
        for layer, was_trainable in trainable:  # from the whole to its parts, as it is handed down
            layer.trainable = was_trainable


def _sweep(step: TrainStep, seed: int, reader: "_LossReader") -> None:
    hooks = StepHooks(len(reader.rates))
    hooks.listen([reader])
    try:
        step.model.fit(
            step.batches(first_epoch=0).for_keras(),
            callbacks=[hooks, ReseedDropout(seed), reader],
            steps_per_epoch=hooks.steps,
            verbose=0,
            shuffle=False,
        )
    finally:
        hooks.release()


class _LossReader(keras.callbacks.Callback):
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

    def set_model(self, model):
        # Kept: on JAX, asking a callback for `self.model` inside a step takes the state of the step
        # before out of the training loop, whose memory the current step has been given.
        super().set_model(model)
        self.trained = model

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
        smoothed = smooth_losses(self.losses)
        if smoothed[-1] > DIVERGED * smoothed.min():
            self._stop(f"the loss diverged at a rate of {rate:.2g}")

    def _stop(self, reason: str) -> None:
        self.stopped, self.stop_reason = True, reason
        self.trained.stop_training = True
