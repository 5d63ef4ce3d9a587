"""One phase of training: all that watches it, in the one right order, and the fit itself."""

from collections.abc import Sequence
from pathlib import Path

import keras

from flowerkit import callbacks as own
from flowerkit import steps
from flowerkit.accelerator import Accelerator
from flowerkit.compiling import augments_on_host
from flowerkit.cycles import rates_per_step
from flowerkit.decoding import Split
from flowerkit.optimization import averaged_weights
from flowerkit.phases import Phase
from flowerkit.pipeline import training_batches
from flowerkit.plan import MONITORS, TrainingPlan


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


class Watchers:
    """The run's own callbacks for one phase, in the one order in which they are right.

    `rows` are those of the whole run so far, and grow. `until` is (deadline on `time.monotonic()`'s
    clock, batches of val, batches of test) of a run whose time is limited, or None.
    """

    def __init__(self, plan, phase: Phase, accelerator: Accelerator, classifier, predict_val,
                 out: Path, rows: list[dict], num_steps: int, until: tuple | None):  # fmt: skip
        self.phase, self.rows = phase, rows
        self.start = sum(row["phase"] < phase.number for row in rows)
        self.num_epochs = self.start + phase.epochs
        averaged = averaged_weights if plan.ema is not None else None
        self.stopper = stopper = steps.Stopper(num_steps)
        self.hooks = steps.StepHooks(num_steps, steps_per_execution=plan.steps_per_execution)
        self.validate = own.Validate(predict_val, stopper, averaged)
        self.checkpoint = own.Checkpoint(
            out / "checkpoints", classifier, rows, plan.monitor, self.validate, num_steps
        )
        self.interrupt = own.CatchInterrupt(stopper)
        self.fast = own.FastMath(plan.cpu_bfloat16 and accelerator.strategy is None)
        patient = self.start + phase.first_patient_epoch
        self.early_stop = own.EarlyStop(
            rows, phase.number, plan.monitor, plan.patience, patient, stopper
        )
        record = own.Record(
            out / "history.csv", rows, phase.number, _find_planned_rate(phase, self.start, num_steps),
            plan.per_replica_batch * accelerator.replicas, stopper, self.hooks,
        )  # fmt: skip
        self.callbacks = [
            self.hooks,
            stopper,
            self.interrupt,
            self.fast,
            own.SeedLayers(plan.seed),
            steps.WatchLoss(stopper),
            own.JoinReplicas(),
            self.validate,
            record,
            self.checkpoint,
            own.Tell(rows, self.num_epochs, plan.monitor, num_steps),
            self.early_stop,
        ]
        if phase.schedule is None:
            # Late: what it changes is the next epoch's rate, not the one just recorded.
            self.callbacks.append(_plateau(plan))
        elif not phase.schedule.per_step:  # else the optimizer looks it up, step by step
            self.callbacks.append(own.FixRate(phase.schedule, self.start))
        if until is not None:
            self.callbacks.append(steps.WatchClock(*until, self.validate, stopper))
        if plan.tensorboard:
            self.callbacks.append(keras.callbacks.TensorBoard(str(out / "tensorboard")))

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


def _plateau(plan: TrainingPlan) -> keras.callbacks.Callback:
    return keras.callbacks.ReduceLROnPlateau(
        plan.monitor,
        mode=MONITORS[plan.monitor],
        factor=plan.plateau_factor,
        patience=plan.plateau_patience,
    )


def fit(
    model: keras.Model, split: Split, plan: TrainingPlan, accelerator: Accelerator,
    num_classes: int, watchers: Watchers, callbacks: Sequence[keras.callbacks.Callback],
) -> None:  # fmt: skip
    """Train `model` (of `compile_for_training`) until the phase's epochs are done or it is stopped."""
    first_epoch = len(watchers.checkpoint.rows)
    batches = training_batches(
        split,
        global_batch=plan.per_replica_batch * accelerator.replicas,
        seed=plan.seed,
        augmentation=plan.augmentation(),
        on_host=augments_on_host(plan, accelerator),
        one_hot=num_classes if plan.augmentation().mixes else None,
        first_epoch=first_epoch,
    )
    callbacks = [*watchers.callbacks, *callbacks]
    watchers.hooks.listen(callbacks)
    try:
        model.fit(
            batches, epochs=watchers.num_epochs, initial_epoch=first_epoch, callbacks=callbacks,
            steps_per_epoch=watchers.hooks.steps, verbose=0, shuffle=False,
        )  # fmt: skip
    finally:
        for one in (watchers.interrupt, watchers.hooks, watchers.fast):
            one.release()
