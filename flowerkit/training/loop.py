"""One phase of training: all that watches it, in the one right order, and the fit itself."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras

from flowerkit.accelerator import Accelerator
from flowerkit.data.split import Split
from flowerkit.models.classifier import split_classifier
from flowerkit.pipeline.batches import feature_batches, steps_per_epoch, train_batches
from flowerkit.prediction.predictions import Predictions, predict
from flowerkit.schedules import rates_per_step
from flowerkit.training import async_steps as steps
from flowerkit.training import callbacks as own
from flowerkit.training.features import Features, check_features, compute_features, predict_features
from flowerkit.training.optimizers import averaged_weights
from flowerkit.training.phases import Phase
from flowerkit.training.plan import TrainingPlan


def check_execution(plan: TrainingPlan, accelerator: Accelerator, num_steps: int) -> None:
    """Refuse a steps_per_execution that would go past an epoch's end, or that is not safe here."""
    several = plan.steps_per_execution
    if num_steps % several:
        raise ValueError(
            f"steps_per_execution={several} must divide the steps of an epoch ({num_steps}): Keras "
            f"would go on past its end. Pass a divisor of {num_steps}, or 1."
        )
    if several > 1 and accelerator.strategy and accelerator.replicas > 1:
        raise ValueError(  # it ran in one probe and crashed in another
            f"steps_per_execution={several} is not safe over several replicas of TensorFlow "
            f"({accelerator.replicas} here). Leave it at 1."
        )


@dataclass(frozen=True, eq=False)
class Run:
    """What all phases of one run share. `rows`, those of history.csv so far, grow.

    `until` is (deadline on `time.monotonic()`'s clock, batches of val, batches of test) of a run whose
    time is limited, or None.
    """

    plan: TrainingPlan
    accelerator: Accelerator
    classifier: keras.Model
    train: Split
    val: Split
    out: Path
    rows: list[dict]
    until: tuple[float, int, int] | None = None

    @property
    def global_batch(self) -> int:
        """Images per step, over all replicas."""
        return self.plan.per_replica_batch * self.accelerator.replicas

    @property
    def num_steps(self) -> int:
        """Training steps in an epoch."""
        return steps_per_epoch(len(self.train), self.global_batch)


@dataclass(frozen=True, eq=False)
class Feed:
    """What a phase learns from and is judged by: images and the classifier, or features and its head.

    `open` gives train and val, when they are first asked for: a phase that was finished before, in a
    run that is resumed, needs no features.
    """

    model: keras.Model
    open: Callable[[], tuple[Split | Features, Split | Features]]

    @cached_property
    def sources(self) -> tuple[Split | Features, Split | Features]:
        """(train, val)."""
        return self.open()

    def predict_val(self, global_batch: int) -> Predictions:
        """The predictions of val, with the weights as they are now."""
        val = self.sources[1]
        answer = predict_features if isinstance(val, Features) else predict
        return answer(self.model, val, global_batch=global_batch)

    def batch_seconds(self, global_batch: int) -> float:
        """What a batch took the whole network, where computing features told; else 0."""
        val = self.sources[1]
        return getattr(val, "seconds", 0.0) * global_batch / len(val)


class Watchers:
    """The run's own callbacks for one phase, in the one order in which they are right."""

    def __init__(self, run: Run, phase: Phase, feed: Feed):
        plan, rows = run.plan, run.rows
        self.phase, self.rows = phase, rows
        self.start = sum(row["phase"] < phase.number for row in rows)
        self.num_epochs = self.start + phase.epochs
        self.stopper = stopper = steps.Stopper(run.num_steps)
        self.hooks = steps.StepHooks(run.num_steps, steps_per_execution=plan.steps_per_execution)
        self.validate = own.Validate(
            lambda: feed.predict_val(run.global_batch),
            stopper,
            averaged_weights if plan.ema is not None else None,
        )
        self.checkpoint = own.Checkpoint(
            run.out / "checkpoints",
            run.classifier,
            feed.model,
            rows,
            plan.monitor,
            self.validate,
            run.num_steps,
            plan.checkpoint_every,
        )
        self.interrupt = own.CatchInterrupt(stopper)
        self.fast = own.FastMath(plan.cpu_bfloat16 and run.accelerator.strategy is None)
        patient = self.start + phase.first_patient_epoch
        self.early_stop = own.EarlyStop(
            rows, phase.number, plan.monitor, plan.patience, patient, stopper
        )
        self.callbacks = [*self._watch_epochs(run), *self._control(run, feed)]

    def _watch_epochs(self, run: Run) -> list[keras.callbacks.Callback]:
        planned = _find_planned_rate(self.phase, self.start, run.num_steps)
        record = own.Record(
            run.out / "history.csv",
            self.rows,
            self.phase.number,
            planned,
            run.global_batch,
            self.stopper,
            self.hooks,
        )
        return [
            self.hooks,
            self.stopper,
            self.interrupt,
            self.fast,
            own.SeedLayers(run.plan.seed),
            steps.WatchLoss(self.stopper),
            own.JoinReplicas(),
            self.validate,
            record,
            self.checkpoint,
            own.Tell(
                self.rows, run.plan.freeze_epochs + run.plan.epochs, run.plan.monitor, run.num_steps
            ),
            self.early_stop,
        ]

    def _control(self, run: Run, feed: Feed) -> Iterator[keras.callbacks.Callback]:
        plan, phase = run.plan, self.phase
        if phase.schedule is None:
            yield own.Plateau(
                self.rows,
                phase.number,
                phase.first_lr,
                plan.monitor,
                factor=plan.plateau_factor,
                patience=plan.plateau_patience,
                cooldown=plan.plateau_cooldown,
            )
        elif not phase.schedule.per_step:  # else the optimizer looks it up, step by step
            yield own.FixRate(phase.schedule, self.start)
        if run.until is not None:
            seconds = feed.batch_seconds(run.global_batch)
            yield steps.WatchClock(*run.until, self.validate, self.stopper, seconds)
        if plan.tensorboard:
            yield keras.callbacks.TensorBoard(str(run.out / "tensorboard"))

    def finished_before(self) -> bool:
        """Whether the phase of the run that is resumed had already come to its end."""
        num_rows = len(self.early_stop.rows_of_phase())
        if num_rows and self.early_stop.is_due():
            self.stopper.reason = "it had stopped early before"
        elif num_rows >= self.phase.epochs:
            self.stopper.reason = "the plan's epochs were done before (--epochs N goes further)"
        return self.stopper.reason is not None

    def ended_run(self) -> bool:
        """Whether no other phase may follow: time is up, Ctrl-C, or one of your callbacks said so."""
        left = self.stopper.reason is None and len(self.rows) < self.num_epochs
        return self.stopper.ends_run or left


def _find_planned_rate(phase: Phase, start: int, num_steps: int):
    """What `Record` sets beside the real rate: (epoch, steps done in it) -> rate, or None."""
    schedule = phase.schedule
    if schedule is None:
        return None
    if not schedule.per_step:
        return lambda epoch, done: schedule(epoch - start)
    rates = rates_per_step(schedule, epochs=phase.epochs, steps_per_epoch=num_steps)
    # The optimizer tells the rate of the step that comes next.
    return lambda epoch, done: rates[min((epoch - start) * num_steps + done, len(rates) - 1)]


def open_batches(
    plan: TrainingPlan,
    accelerator: Accelerator,
    source: Split | Features,
    *,
    num_classes: int,
    first_epoch: int = 0,
) -> Iterable:
    """Endless training batches, as the model of `compile_for_training` takes them."""
    how = {
        "global_batch": plan.per_replica_batch * accelerator.replicas,
        "seed": plan.seed,
        "first_epoch": first_epoch,
    }
    if isinstance(source, Features):
        return feature_batches(source.arrays, source.labels, **how)
    augmentation = plan.augmentation()
    return train_batches(
        source,
        augmentation=augmentation,
        one_hot=num_classes if augmentation.mixes else None,
        **how,
    )


def extract_features(
    plan: TrainingPlan,
    accelerator: Accelerator,
    body: keras.Model,
    split: Split,
    *,
    views: int,
    what: str,
    progress: Callable[[str, int, int], None] | None = None,
) -> Features:
    """The features of `split` as `plan` has them: its views, seed, batches and places to keep them."""
    return compute_features(
        body,
        split,
        global_batch=plan.per_replica_batch * accelerator.replicas,
        views=views,
        augmentation=plan.view_augmentation(),
        seed=plan.seed,
        keep=plan.keep,
        what=what,
        progress=progress,
    )


def open_feed(
    run: Run,
    phase: Phase,
    features: tuple[Features, Features] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Feed:
    """What `phase` learns from; `features`: those of train and val, if they are there already.

    Call it within the accelerator's scope. Raises ValueError for features of another model or data.
    """
    if not phase.views:
        return Feed(run.classifier, lambda: (run.train, run.val))
    body, head = split_classifier(run.classifier)
    if features is not None:
        for of_split, split in zip(features, (run.train, run.val), strict=True):
            check_features(of_split, body, split)
        if len(features[0].arrays) != phase.views:
            raise ValueError(
                f"the features of train hold {len(features[0].arrays)} views of each image, the plan "
                f"wants {phase.views}. Compute so many, or pass feature_views={len(features[0].arrays)}."
            )
        return Feed(head, lambda: features)

    def extract():
        how = {"body": body, "progress": progress}
        plan, accelerator = run.plan, run.accelerator
        train = extract_features(
            plan, accelerator, split=run.train, views=phase.views, what="train", **how
        )
        return train, extract_features(plan, accelerator, split=run.val, views=1, what="val", **how)

    return Feed(head, extract)


def fit(
    model: keras.Model,
    run: Run,
    feed: Feed,
    watchers: Watchers,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Train `model` (of `compile_for_training`) until the phase's epochs are done or it is stopped."""
    first_epoch = len(run.rows)
    batches = open_batches(
        run.plan,
        run.accelerator,
        feed.sources[0],
        num_classes=run.classifier.output_shape[-1],
        first_epoch=first_epoch,
    )
    callbacks = [*watchers.callbacks, *callbacks]
    watchers.hooks.listen(callbacks)
    try:
        model.fit(
            batches,
            epochs=watchers.num_epochs,
            initial_epoch=first_epoch,
            callbacks=callbacks,
            steps_per_epoch=watchers.hooks.steps,
            verbose=0,
            shuffle=False,
        )
    finally:
        for one in (watchers.interrupt, watchers.hooks, watchers.fast):
            one.release()
