"""What a plan leaves "auto" and only measuring can tell: the size, the rate and the epochs.

Before the first step `build_in_time` decides what the model sees; when the head has learned,
`fit_network` measures the step that trains the network, runs the range test with it and divides the
time. `check_memory` looks whether a step fits; where one did not, `OutOfMemory` names what does.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from flowerkit.accelerator import Accelerator, free_memory_bytes, hosts, wait_for_programs
from flowerkit.data import RAM_FRACTION, FlowerData
from flowerkit.files import check_room
from flowerkit.models import activation_bytes, fixed_input_size, split_classifier, stream_outputs
from flowerkit.pipeline import steps_per_epoch
from flowerkit.text import format_bytes, format_epochs, format_seconds, pluralize
from flowerkit.training.callbacks import StepListener
from flowerkit.training.lr_finder import (
    FEWEST_STEPS,
    find_rate,
    is_flat,
    scale_of_rates,
    spread_rates,
    sweep,
    unchanged,
)
from flowerkit.training.phases import Phase, fit_steps
from flowerkit.training.plan import EPOCHS, FEWEST_STEPS_A_PHASE, SIZES_PX, TrainingPlan, longer
from flowerkit.training.step import FEWEST_AVERAGED, STATISTICS_IMAGES, RunContext, TrainStep

_log = logging.getLogger("flowerkit")

SMALLEST_BATCH = 8
TRAINING_OVER_PREDICTING = 3.0  # the time of a training step over that of predicting its images
HEAD_SHARE = 0.5  # of the time, at most, for the features that the head learns from
FLIP_SHARE = 1 / 3  # with those of mirrored images
SMALL_SHARE = 0.5  # of the network's time, for the epochs on smaller images
FEWEST_SMALL_EPOCHS = 4  # fewer do not make up for the head that learned from small images
RANGE_TEST_SHARE = 0.05
RANGE_TEST_STEPS = 100
RANGE_TEST_RATES = 1e-6, 1.0  # as lr_find
PACE_STEPS = 4
FEWEST_STEPS_TO_FIT = 10
_PICTURES_BYTES = 16 * 2**20
_SMALLER_INPUT = "a smaller input_size (--input-size)"
MOST_IN_TIME = 3  # times the epochs without a limit, where the time is long


def build_in_time(run: RunContext) -> None:
    """Build the classifier of the next epoch, in a size that the time allows.

    With a time limit and a head that is to learn, the classifier's body is timed on a few batches.
    Where the run may choose, it begins on smaller images where the time is for few epochs of large ones
    and for some of small ones, or else input_size becomes smaller where the features of all images
    would take more than half of the time; freeze_flip becomes False where with those of mirrored images
    they would take more than a third. Raises ValueError where the time is too short for the features
    and the csv.
    """
    run.build(is_small=run.begins_small)
    if not (run.clock.is_limited and run.learns_head):
        return
    size, was_small = run.plan.input_size, run.is_small
    _time_body(run)
    _choose_small(run)
    _choose_views(run)
    if (run.plan.input_size, run.begins_small) != (size, was_small):
        run.build(is_small=run.begins_small)
    head_seconds = run.clock.image_seconds * _count_shown(run)
    left = run.clock.left() - head_seconds
    if left < 0:
        found = f"the features that the head learns from take about {format_seconds(head_seconds)}"
        raise NotEnoughTime(_too_short(run, -left, found))


class NotEnoughTime(ValueError):
    """A time limit that leaves nothing to train in."""


@dataclass(frozen=True)
class Pace:
    """How long runs of a plan take, as far as it is known before one: see `measure_pace`.

    The network sees `input_size` px (None: as stored) and predicts an image in `image_seconds`; building
    and compiling take `once_seconds`. The head learns from features of `views` of each image.
    """

    input_size: int | None
    image_seconds: float
    once_seconds: float
    views: int = 1

    def seconds(self, counts: Mapping[str, int], epochs: float) -> float:
        """What a run on splits with so many images takes: features, `epochs` of the network, the csv."""
        once = self.views * counts["train"] + counts["val"] + 1.3 * counts["test"]
        return self.once_seconds + self.image_seconds * (once + epochs * _count_an_epoch(counts))

    def epochs(self, counts: Mapping[str, int], seconds: float) -> float:
        """How many epochs of the network fit into `seconds`."""
        left = seconds - self.seconds(counts, 0)
        return max(0.0, left) / (self.image_seconds * _count_an_epoch(counts))


def _count_an_epoch(counts: Mapping[str, int]) -> float:
    """An epoch and its validation, of raw and averaged weights, in images predicted."""
    scored = counts["val"] + min(STATISTICS_IMAGES, counts["train"])
    return TRAINING_OVER_PREDICTING * counts["train"] + 2 * scored


def measure_pace(
    plan: TrainingPlan, data: FlowerData, accelerator: Accelerator, seconds: float
) -> Pace:
    """Build the network of `plan` and time it on a few batches, for a run on `data` in `seconds`.

    Where its input size is "auto", it is the one that `seconds` allow.
    """
    # A plan with a limit, as a run's is; `clock.at` has the real one, which may have passed.
    run = RunContext(data, replace(plan, max_minutes=1.0), accelerator)
    run.settle()
    run.build()
    clock = run.clock
    clock.num_test = data.counts["test"]
    _time_body(run)
    clock.at = hosts.now() + seconds
    _choose_views(run)
    # Compiled are both phases' steps, and predictions and statistics of each.
    compiling = (2 + 2 * TRAINING_OVER_PREDICTING) * clock.compile_seconds
    once_seconds = 5 + 3 * clock.build_seconds + compiling
    return Pace(run.plan.input_size, clock.image_seconds, once_seconds, run.plan.num_views)


def _time_body(run: RunContext) -> None:
    size, rows = run.data.image_size, hosts.own_rows(run.part_batch)
    batch = np.zeros((rows.stop - rows.start, size, size, 3), "uint8")
    times = [hosts.now()]
    for _ in stream_outputs(split_classifier(run.classifier)[0], [batch] * 5, name="the backbone"):
        times.append(hosts.now())
    first, *others = np.diff(times)
    steady = float(min(others))
    run.clock.compile_seconds = max(0.0, float(first) - steady)
    run.clock.image_seconds = steady / run.part_batch


def _count_shown(run: RunContext) -> int:
    """Of how many images the features are computed."""
    return run.plan.num_views * run.data.counts["train"] + run.data.counts["val"]


def _choose_small(run: RunContext) -> None:
    """Begin on smaller images where not all epochs of large ones fit, and some of small ones do."""
    if run.plan.small_epochs != "auto":
        return
    ratio, left = run.smaller_pixels, run.clock.left()

    def count(pixels: float) -> float:
        """How many epochs of images with so many of the pixels fit, after the head's features."""
        seconds = pixels * run.clock.image_seconds
        return max(0.0, left / seconds - _count_shown(run)) / _count_an_epoch(run.data.counts)

    large, small = count(1), float(f"{SMALL_SHARE * count(ratio):.2g}")
    px, size = run.plan.small_px(run.data.image_size), run.plan.input_size or run.data.image_size
    if large >= MOST_IN_TIME * EPOCHS:
        run.choose("small_epochs", 0, f"0: {large:.0f} epochs of {size} px fit into the time")
    elif small < FEWEST_SMALL_EPOCHS:
        run.choose("small_epochs", 0, f"0: {small:g} of {px} px, in half of the time, are too few")
    else:
        reason = f"{small:g}, of images of {px} px: only {large:.1f} of {size} px fit into the time"
        run.choose("small_epochs", small, reason)
        run.clock.resize(ratio)


def _choose_views(run: RunContext) -> None:
    """Choose the size and the views for features that take no more than their share of the time."""
    clock, size, full = run.clock, run.plan.input_size, run.clock.image_seconds
    num_images = run.data.counts["train"] + run.data.counts["val"]
    is_open = "input_size" in run.chosen and not fixed_input_size(run.plan.backbone)
    is_open = is_open and not run.begins_small
    for smaller in [each for each in SIZES_PX if is_open and each < (size or 0)]:
        if clock.image_seconds * num_images <= HEAD_SHARE * clock.left():
            break
        clock.image_seconds = full * (smaller / size) ** 2
        run.choose(
            "input_size",
            smaller,
            f"{smaller}: at {size} px the features of {num_images:,} images would take "
            f"{format_seconds(full * num_images)} of the {format_seconds(clock.left())} that are left",
        )
    seconds = clock.image_seconds * _count_shown(run)
    if (
        "freeze_flip" in run.chosen
        and run.plan.num_views > 1
        and seconds > FLIP_SHARE * clock.left()
    ):
        run.choose(
            "freeze_flip",
            False,
            f"False: with those of mirrored images the features would take {format_seconds(seconds)} "
            f"of the {format_seconds(clock.left())} that are left",
        )


# When the head has learned ---------------------------------------------------------------------------


def has_time_for_batch(run: RunContext) -> bool:
    """Whether `shrink_batch` will surely keep the batch, when the head has learned from its features."""
    clock = run.clock
    step_seconds = TRAINING_OVER_PREDICTING * clock.image_seconds * run.global_batch
    left = clock.left() - clock.image_seconds * _count_shown(run)
    return left >= 2 * FEWEST_STEPS_A_PHASE * step_seconds


def shrink_batch(run: RunContext) -> None:
    """Choose smaller batches where the time is for few steps of the network only."""
    clock, batch, replicas = run.clock, run.plan.batch, run.accelerator.replicas
    if not (clock.is_limited and clock.image_seconds) or run.plan.accumulate > 1:
        return
    num_shown = max(0.0, clock.left()) / (TRAINING_OVER_PREDICTING * clock.image_seconds)
    while (
        num_shown < FEWEST_STEPS_A_PHASE * batch * replicas
        and batch * replicas > SMALLEST_BATCH
        and batch % (4 if run.plan.augmentation().mixes else 2) == 0
    ):
        batch //= 2
    if batch < run.plan.batch:
        run.choose(
            "per_replica_batch",
            batch,
            f"{batch}, of the network: {format_epochs(round(num_shown / len(run.train), 1))} fit into "
            f"the time, and smaller batches make more steps of them",
        )
        run.num_steps = steps_per_epoch(len(run.train), run.global_batch)
        run.steps.clear()  # of other batches


def fit_network(run: RunContext, step: TrainStep, phase: Phase) -> Phase | None:
    """Choose rate and epochs of the network, as measured: the phase with them.

    None where the time leaves none for it. Weights come back as they were.
    """
    plan, clock = run.plan, run.clock
    field = "small_epochs" if phase.is_small else "epochs"
    epochs = most = getattr(plan, field)
    is_open = epochs == "auto" or (clock.is_limited and field in run.fitted.reasons)
    if is_open:
        epochs = longer(replace(plan, epochs="auto").network_epochs, run.num_steps)
        most = MOST_IN_TIME * epochs if clock.is_limited else epochs
        reason = f"{epochs:g}: without a time limit (--max-minutes)"
    step_seconds, rate = 1.0, None
    with unchanged(step.model):
        if clock.is_limited:
            step_seconds = _find_pace(run, step)
        if plan.max_lr == "auto" and run.schedule is None:
            num_steps = most * run.num_steps
            if clock.is_limited:
                num_steps = min(num_steps, clock.left() / step_seconds)
            rate = hosts.broadcast(_search_rate(run, step, num_steps))
    step.hooks.planned = None  # the rate, too, is what it was
    if clock.is_limited:
        epochs, reason = _fit_epochs(run, step_seconds, most)
        if not is_open:
            in_time = reason.replace(":", " epochs;", 1)
            run.chosen["max_minutes"] = f"{plan.max_minutes:g}: time for {in_time}"
    if epochs is None:
        if is_open:
            run.chosen[field] = reason
        return None
    if is_open:
        run.choose(field, epochs, reason)
    if rate:
        run.choose("max_lr", *rate)
    whole = run.phases()[phase.number - 1]
    whole = replace(whole, first_epoch=phase.first_epoch, most_epochs=max(most, whole.end))
    if epochs < whole.end:
        num_steps = round(epochs * run.num_steps)
        whole = whole.fitted(num_steps, run.num_steps, from_epoch=phase.first_epoch)
    return whole


def _find_pace(run: RunContext, step: TrainStep) -> float:
    """Seconds of a training step, compiled."""
    watch = _StepWatch()
    wait_for_programs()
    step.train(lambda epoch, done: 0.0, [watch], steps=PACE_STEPS)
    seconds = (watch.times[-1] - watch.times[1]) / (PACE_STEPS - 2)
    if not run.clock.image_seconds:
        compiling = step.program.seconds if step.program else step.hooks.first_step_seconds
        run.clock.compile_seconds = hosts.broadcast(compiling) / TRAINING_OVER_PREDICTING
        run.clock.image_seconds = seconds / run.global_batch / TRAINING_OVER_PREDICTING
    return max(seconds, 1e-6)


class _StepWatch(StepListener):
    def on_train_begin(self, logs=None):
        self.times = []

    def on_step(self, done, logs):
        float(logs["loss"])  # waits for the step
        self.times.append(hosts.now())


def _search_rate(run: RunContext, step: TrainStep, num_steps: float) -> tuple[float, str]:
    """(max_lr for the plan, why): the valley of a range test where it is below the plan's own rate.

    Of few steps a valley is good to a factor of two or three. Too low a rate costs little; one too high
    spoils what the backbone has learned, which a short run has no time to mend. The plan's own is for
    Adam; for SGD the valley alone tells.
    """
    own = float(f"{run.plan.highest_lr:.3g}")
    reason = f"{own:g}: the plan's own; "
    affordable = min(RANGE_TEST_STEPS, int(RANGE_TEST_SHARE * num_steps))
    if affordable < FEWEST_STEPS:
        return own, f"{reason}a range test has no time ({affordable} of {FEWEST_STEPS} steps)"
    start = time.monotonic()
    rates = spread_rates(*RANGE_TEST_RATES, affordable)
    # The loss of a head that has learned rises with whatever moves it, long before a rate is too high.
    split_classifier(run.classifier)[1].set_weights(run.fresh_head)
    reader = sweep(step, rates)
    seconds = time.monotonic() - start
    try:
        rate, fall = find_rate(reader, rates)
    except ValueError as error:
        return own, f"{reason}the range test shows no valley ({error})"
    if is_flat(fall, affordable):
        return own, f"{reason}in the range test the loss fell by {fall:.1%} only"
    rate = float(f"{rate / scale_of_rates(run.plan, run.global_batch):.3g}")
    found = f"{pluralize(len(reader.losses), 'step')} in {format_seconds(seconds)}"
    if rate > own and run.plan.optimizer != "sgd":
        return own, f"{reason}the valley of a range test is higher ({rate:g}, {found})"
    return rate, f"{rate:g}: the valley of a range test, {found}"


def _fit_epochs(run: RunContext, step_seconds: float, most: float) -> tuple[float | None, str]:
    """(epochs that fit into the time, why); None where there is no time, and a head to keep."""
    clock, plan = run.clock, run.plan
    left = clock.left()
    # Averaged weights are scored, too, as soon as there are enough steps to average over.
    averages = plan.ema is not None and left / step_seconds * (1 - plan.ema) >= FEWEST_AVERAGED
    val_seconds = (1 + averages) * clock.image_seconds * clock.num_val + 2 * clock.compile_seconds
    clock.val_seconds = val_seconds
    steps = fit_steps(
        left,
        step_seconds=step_seconds,
        epoch_seconds=val_seconds,
        steps_an_epoch=run.num_steps,
        most=math.ceil(most * run.num_steps),
    )
    found = (
        f"a step takes {format_seconds(step_seconds)}, a validation {format_seconds(val_seconds)}, "
        + (f"{format_seconds(left)} are left" if left > 0 else "no time is left")
    )
    if steps < min(FEWEST_STEPS_TO_FIT, most * run.num_steps) and run.history:
        return None, f"0: the head alone; {found}"
    if steps < 1:
        raise NotEnoughTime(_too_short(run, val_seconds + step_seconds - left, found))
    fitted = float(f"{steps / run.num_steps:.6g}")
    fitted = fitted if fitted < most else most
    return fitted, f"{fitted:.2f}: {found}"


def _too_short(run: RunContext, missing_seconds: float, found: str) -> str:
    minutes, finish = run.plan.max_minutes, run.clock.finish_seconds
    gone = 60 * minutes - run.clock.at + hosts.now()
    least = math.ceil(10 * (minutes + 1.1 * missing_seconds / 60)) / 10
    return (
        f"max_minutes={minutes:g} is too short for this machine: {format_seconds(gone)} are gone, "
        f"{found}, and what comes after takes {format_seconds(finish)}. Pass max_minutes={least:g} "
        f"(--max-minutes {least:g}) or more, or {_SMALLER_INPUT}."
    )


# The memory -----------------------------------------------------------------------------------------


class OutOfMemory(RuntimeError):
    """A device had too little memory for a step of `plan`; `parts`: an `accumulate` of less, if any."""

    def __init__(self, plan: TrainingPlan, accelerator: Accelerator):
        batch, self.parts = plan.batch, next(_list_parts(plan, 2 * plan.accumulate), None)
        images = pluralize(batch // plan.accumulate, "image")
        self.fault = (
            f"the {accelerator.kind.upper()} has too little memory for {images} at a time on each "
            f"replica"
        )
        remedy = _SMALLER_INPUT
        if self.parts:
            finds = "halve_on_oom=True (--halve-on-oom), which finds such parts, "
            size = batch // self.parts
            remedy = (
                f"{_name_parts(plan, self.parts)}, {finds * (accelerator.hosts == 1)}"
                f"or per_replica_batch={size} (--per-replica-batch {size})"
            )
        super().__init__(f"{self.fault}. Pass {remedy}.")


def check_memory(run: RunContext) -> None:
    """Warn where the network's step needs more than is free, with the parts that would fit.

    Raises OSError where the disk has no room for the files of the run.
    """
    plan, accelerator = run.plan, run.accelerator
    slots = (1 if plan.optimizer == "sgd" else 2) + (plan.ema is not None)
    weights = 4 * run.classifier.count_params()
    # The best and the last state, the last with its slots, each beside the one before; the model.
    check_room(run.folder.path, weights * (2 + 3 * (1 + slots) + 1) + _PICTURES_BYTES)
    decoded = _count_decoded(run) if accelerator.kind == "cpu" else 0
    free = _free_bytes(accelerator, decoded)
    if free is None or not plan.epochs:
        return
    fixed = weights * (2 + slots + (plan.accumulate > 1))  # gradients, and their sum, too
    each = activation_bytes(run.classifier, precision=accelerator.precision)
    each = int(each / (run.smaller_pixels if run.is_small else 1))  # of the images that come later

    def needed(parts: int) -> int:
        return fixed + plan.batch // parts * each

    if needed(plan.accumulate) <= free:
        return
    line = (
        f"a step needs about {format_bytes(needed(plan.accumulate))} on each replica "
        f"({format_bytes(fixed)} of weights, {pluralize(plan.batch // plan.accumulate, 'image')} of "
        f"{format_bytes(each)}); {format_bytes(free)} are free"
    )
    if decoded:
        line += f" beside {format_bytes(decoded)} of decoded images"
    parts = next((n for n in _list_parts(plan, 1 + plan.accumulate) if needed(n) <= free), None)
    remedy = _name_parts(plan, parts) if parts else _SMALLER_INPUT
    _log.warning(f"{line}: it may end out of memory; pass {remedy}")


def _count_decoded(run: RunContext) -> int:
    num_bytes = 3 * run.data.image_size**2 * (run.data.counts["train"] + run.data.counts["val"])
    fits = num_bytes <= RAM_FRACTION * free_memory_bytes()
    return num_bytes if run.plan.cache == "ram" or (run.plan.cache == "auto" and fits) else 0


def _free_bytes(accelerator: Accelerator, reserved: int) -> int | None:
    """Bytes free for each replica, on a CPU its share of the machine's; None where no library tells."""
    if accelerator.kind == "cpu":
        num_here = accelerator.replicas // accelerator.hosts
        return max(0, free_memory_bytes() - reserved) // num_here
    if accelerator.backend != "jax":
        return None
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else limit - stats.get("bytes_in_use", 0)


def _list_parts(plan: TrainingPlan, least: int) -> Iterator[int]:
    """In how many parts, `least` or more, the images of a step can be divided: whole pairs if mixed."""
    num = plan.batch // (2 if plan.augmentation().mixes else 1)
    return (parts for parts in range(least, num + 1) if num % parts == 0)


def _name_parts(plan: TrainingPlan, parts: int) -> str:
    size = plan.batch // parts
    images = pluralize(size, "image")
    return f"accumulate={parts} (--accumulate {parts}), for the same steps with {images} at a time"
