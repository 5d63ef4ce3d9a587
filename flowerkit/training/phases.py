"""The phases of a run, the head alone and then more of the network, and their time. Pure Python."""

import math
from dataclasses import dataclass, replace

from flowerkit.accelerator import hosts
from flowerkit.schedules import Schedule
from flowerkit.text import did_you_mean, format_epochs
from flowerkit.training.history import History
from flowerkit.training.plan import TrainingPlan


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one set of layers that learn, one optimizer and one schedule.

    `number` counts from 1, as in history.csv. What is left of the phase are `epochs` of `steps` steps
    each, from the run's `first_epoch` (from 0) on; in them the schedule goes on from its epoch `start`
    to `end`. Without a time limit an epoch of training is an epoch of the schedule. `is_small`: on the
    smaller images of the plan's small_epochs. `schedule` None:
    the rate is constant until a plateau halves it. `most_epochs`: so often all images are shown at most,
    where the time allows more. Until `first_patient_epoch` of the phase early stopping has no patience;
    None: in all of it, as a cycle is worth its end alone.
    """

    number: int
    is_frozen: bool
    epochs: int
    steps: int
    first_lr: float
    schedule: Schedule | None
    end: float
    most_epochs: float
    start: float = 0.0
    first_epoch: int = 0
    first_patient_epoch: float | None = 0
    is_small: bool = False

    def __str__(self) -> str:
        part = "the head alone, on features" if self.is_frozen else "the network"
        part += ", on smaller images" * (self.is_small and not self.is_frozen)
        return (
            f"phase {self.number}, {part}: {self.schedule or f'{self.first_lr:g} until a plateau'}"
        )

    def position(self, epoch: int, done: int = 0) -> float:
        """The schedule's epoch after `done` steps of the run's `epoch`."""
        epochs_of_schedule = (self.end - self.start) / self.epochs
        return self.start + epochs_of_schedule * (epoch - self.first_epoch + done / self.steps)

    def rate(self, epoch: int, done: int = 0) -> float:
        """The planned rate of the step after `done` steps of the run's `epoch`."""
        if self.schedule is None:
            return self.first_lr
        return self.schedule(self.position(epoch, done if self.schedule.per_step else 0))

    def fitted(
        self, num_steps: int, steps_an_epoch: int, *, from_epoch: int, num_done: int = 0
    ) -> "Phase":
        """What is left of the schedule at the run's `from_epoch`, in `num_steps` steps.

        They are divided into equal epochs, see `fit_steps`. `num_done` epochs of the phase
        came before them; where patience has not begun by then, it waits for as much of the schedule as
        before.
        """
        epochs = _divide(num_steps / steps_an_epoch)
        patient = self.first_patient_epoch
        if patient is not None and patient > num_done:
            left = self.first_epoch + self.epochs - from_epoch
            patient = num_done + (patient - num_done) * epochs / left
        return replace(
            self,
            epochs=epochs,
            steps=max(1, num_steps // epochs),
            start=self.position(from_epoch),
            first_epoch=from_epoch,
            first_patient_epoch=patient,
        )

    def refitted(
        self,
        seconds: float,
        history: History,
        *,
        step_seconds: float,
        epoch_seconds: float,
        steps_an_epoch: int,
    ) -> "Phase | None":
        """What is left for `seconds` after the run's `history`.

        The phase itself where it fills the time well or has all its epochs; None where nothing fits.
        """
        rows, from_epoch = history.of_phase(self.number), len(history)
        num_left = self.first_epoch + self.epochs - from_epoch
        planned = num_left * (self.steps * step_seconds + epoch_seconds)
        if 0.9 * seconds < planned <= seconds:
            return self
        steps = fit_steps(
            seconds,
            step_seconds=step_seconds,
            epoch_seconds=epoch_seconds,
            steps_an_epoch=steps_an_epoch,
            most=round(self.most_epochs * steps_an_epoch) - sum(int(row["steps"]) for row in rows),
        )
        if steps < 1:
            return None
        if steps == num_left * self.steps:
            return self
        return self.fitted(steps, steps_an_epoch, from_epoch=from_epoch, num_done=len(rows))


def plan_phases(
    plan: TrainingPlan,
    *,
    global_batch: int,
    steps_an_epoch: int = 1,
    schedule: Schedule | None = None,
) -> list[Phase]:
    """The phases of `plan` in order: of `freeze_epochs`, `small_epochs` and `epochs` those that it has.

    `steps_an_epoch` show all images once. `schedule`: given in Python, used as it is for the last
    phase. Raises ValueError where the plan has another controller of the rate, or the schedule gives no
    rate for an epoch.
    """
    if schedule is not None:
        schedule = schedule.at(steps_an_epoch)
        _check_own_schedule(plan, schedule)
    phases = []
    # Nothing is stopped while the rate climbs, and a cycle is worth its end.
    patient = None if plan.schedule == "one-cycle" else 0
    if plan.head_epochs and plan.epochs:
        of_head = plan.freeze_schedule_for(global_batch=global_batch)
        phases.append(_phase(1, True, plan.head_epochs, steps_an_epoch, of_head, patient))
    if plan.has_small:
        of_small = plan.small_schedule_for(global_batch=global_batch)
        number = len(phases) + 1
        phases.append(_phase(number, False, plan.small_epochs, steps_an_epoch, of_small, patient))
        phases = [replace(each, is_small=True) for each in phases]
    planned = schedule or plan.schedule_for(global_batch=global_batch)
    last = _phase(
        number=len(phases) + 1,
        is_frozen=not plan.epochs,
        length=plan.network_epochs or plan.head_epochs,
        steps_an_epoch=steps_an_epoch,
        schedule=planned,
        patient=int(plan.rampup_epochs) if plan.schedule in ("ramp", "cosine") else patient,
    )
    if plan.plateau_patience is not None:
        last = replace(last, schedule=None)
    return [*phases, last]


def _phase(number, is_frozen, length: float, steps_an_epoch: int, schedule, patient) -> Phase:
    epochs = _divide(length)
    steps = max(1, round(length * steps_an_epoch / epochs))
    return Phase(
        number,
        is_frozen,
        epochs,
        steps,
        first_lr=schedule(0),
        schedule=schedule,
        end=length,
        most_epochs=length,
        first_patient_epoch=patient,
    )


def _divide(length: float) -> int:
    """How many epochs show the images `length` times."""
    return 1 if length <= LONGEST_EPOCH else math.ceil(length)


def warn_about_schedule(plan: TrainingPlan, phase: Phase, *, global_batch: int) -> list[str]:
    """Warnings about settings of the last phase: an unused patience, scaled rates, a ramp too long."""
    lines = []
    if plan.schedule == "one-cycle" and plan.patience not in (None, TrainingPlan.patience):
        lines.append(
            f"patience={plan.patience} (--patience) is not used: a one-cycle schedule ends as planned, "
            f"and its best epoch is kept. Early stopping needs schedule='constant' (--schedule "
            f"constant) or load_plan('ramp') (--plan ramp)"
        )
    if plan.lr_reference_batch not in (None, global_batch):
        lines.append(
            f"learning rates are scaled from batches of {plan.lr_reference_batch:,} (the plan's "
            f"lr_reference_batch) to {global_batch:,}"
        )
    ramp = getattr(phase.schedule, "rampup_epochs", 0)
    if ramp >= phase.end:
        lines.append(
            f"the ramp of {format_epochs(ramp)} leaves no time at the highest rate in "
            f"{format_epochs(phase.end)}: pass a smaller rampup_epochs (--rampup-epochs), or more "
            f"epochs"
        )
    return lines


def find_phase(plan: TrainingPlan, name: str | None, *, global_batch: int) -> Phase:
    """The phase "frozen" (the head alone) or "whole" (the network) of `plan`; None: its first.

    With small_epochs the network's is that of smaller images. A plan without such a phase is given an
    epoch of it. Raises ValueError for another name.
    """
    if name not in (None, "frozen", "whole"):
        raise ValueError(
            f"phase must be 'frozen', 'whole' or None. Received: phase={name!r}."
            f"{did_you_mean(str(name), ('frozen', 'whole'))}"
        )
    if name == "frozen":
        plan = replace(plan, freeze_epochs=plan.head_epochs or 1)
    elif name == "whole":
        plan = replace(plan, epochs=plan.network_epochs or plan.head_epochs)
    phases = plan_phases(plan, global_batch=global_batch)
    return next(each for each in phases if name != "whole" or not each.is_frozen)


def _check_own_schedule(plan: TrainingPlan, schedule: Schedule) -> None:
    others = []
    if plan.schedule != "constant":
        others.append(f"schedule={plan.schedule!r}")
    if plan.plateau_patience is not None:
        others.append(f"plateau_patience={plan.plateau_patience}")
    if others:
        raise ValueError(
            f"two controllers of the learning rate: the plan's {' and '.join(others)}, and your "
            f"schedule ({schedule}). With a schedule of your own call train with a plan that has "
            f"schedule='constant' and plateau_patience=None."
        )
    for epoch in range(math.ceil(plan.network_epochs or plan.head_epochs)):
        schedule(epoch)


# The time ------------------------------------------------------------------------------------------

LONGEST_EPOCH = 1.5  # of the images; the time of a second validation is better spent on training


@dataclass
class Clock:
    """When a run must be done, and how long its parts take, as far as they have been measured.

    `at` is a `hosts.now()`, infinite without a limit; `kept_seconds` before it are for the phases after
    the present one. `build_seconds` of the classifier,
    `compile_seconds` of a forward pass, `image_seconds` of the classifier for an image. A validation
    takes `val_seconds` where one was measured, and else as long as its `num_val` images (those of which
    statistics are computed included). The epochs before a run was resumed took `earlier_seconds`.
    """

    at: float = math.inf
    kept_seconds: float = 0.0
    num_val: int = 0
    num_test: int = 0
    val_seconds: float = 0.0
    build_seconds: float = 0.0
    compile_seconds: float = 0.0
    image_seconds: float = 0.0
    earlier_seconds: float = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether there is a time limit."""
        return self.at < math.inf

    @property
    def finish_seconds(self) -> float:
        """What comes after training: saving, the test split, the report.

        The test split with a margin, because a late csv is worth nothing.
        """
        once = 5 + 2 * self.build_seconds + 2 * self.compile_seconds
        return once + 1.3 * self.image_seconds * self.num_test

    @property
    def validation_seconds(self) -> float:
        """What a validation takes; the first compiles."""
        return self.val_seconds or self.image_seconds * self.num_val + 2 * self.compile_seconds

    def left(self) -> float:
        """Seconds left for the present phase."""
        return self.at - hosts.now() - self.finish_seconds - self.kept_seconds

    def keep(self, share: float) -> None:
        """Keep this share of what is left for the phases after the present one."""
        self.kept_seconds = 0.0
        self.kept_seconds = share * max(0.0, self.left()) if self.is_limited else 0.0

    def resize(self, ratio: float) -> None:
        """An image of the next phase has `ratio` times the pixels: all that was measured is another."""
        self.image_seconds *= ratio
        self.val_seconds = 0.0


def fit_steps(
    seconds: float, *, step_seconds: float, epoch_seconds: float, steps_an_epoch: int, most: int
) -> int:
    """How many steps fit into `seconds`, when each epoch takes `epoch_seconds` besides; at most `most`.

    Parts of epochs are used; all in one, where they show the images at most LONGEST_EPOCH times.

    >>> fit_steps(100, step_seconds=1, epoch_seconds=5, steps_an_epoch=40, most=1000)
    85
    >>> fit_steps(60, step_seconds=1, epoch_seconds=8, steps_an_epoch=40, most=1000)
    52
    """
    whole = int(seconds / (steps_an_epoch * step_seconds + epoch_seconds))

    def count(epochs: int) -> int:
        in_time = int((seconds - epochs * epoch_seconds) / step_seconds)
        longest = LONGEST_EPOCH if epochs == 1 else epochs
        return min(in_time, int(longest * steps_an_epoch))

    return max(0, min(most, max(count(max(1, whole)), count(whole + 1))))
