"""The phases of a run: the head alone, then more of the network. Pure Python."""

from dataclasses import dataclass, replace

from flowerkit.schedules import Schedule
from flowerkit.text import did_you_mean, format_epochs
from flowerkit.training.plan import TrainingPlan


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one set of layers that learn, one optimizer and one schedule.

    `number` counts from 1 and stands in history.csv. `schedule` takes the epoch within the phase; None:
    the rate is constant until a plateau lowers it. `first_patient_epoch`, also within the phase, is
    where patience starts. `views`: how many views' features it learns from; 0: from images.
    """

    number: int
    is_frozen: bool
    epochs: int
    first_lr: float
    schedule: Schedule | None
    first_patient_epoch: int
    views: int = 0

    def __str__(self) -> str:
        what = "the head alone" if self.is_frozen else "the network"
        if self.views:
            what += " on features" + (f" of {self.views} views" if self.views > 1 else "")
        return (
            f"phase {self.number}, {what}: {self.schedule or f'{self.first_lr:g} until a plateau'}"
        )


def find_phases(
    plan: TrainingPlan, *, global_batch: int, schedule: Schedule | None = None
) -> list[Phase]:
    """The phases of `plan` in order: with `freeze_epochs` and `epochs` there are two, else one.

    `schedule`: your own, used as it stands for the last phase. Raises ValueError where the plan has
    another controller of the rate.
    """
    _check_own_schedule(plan, schedule)
    phases = []
    if plan.freeze_epochs and plan.epochs:
        frozen = plan.frozen_schedule_for(global_batch=global_batch)
        # A cycle is worth its end; at a constant rate there is nothing to wait for.
        patient = plan.freeze_epochs if plan.schedule == "one-cycle" else 0
        phases.append(
            Phase(1, True, plan.freeze_epochs, frozen(0), frozen, patient, plan.num_feature_views)
        )
    planned = schedule or plan.schedule_for(global_batch=global_batch)
    is_frozen = not plan.epochs
    last = Phase(
        len(phases) + 1,
        is_frozen,
        plan.epochs or plan.freeze_epochs,
        planned(0),
        planned if plan.plateau_patience is None else None,
        plan.first_patient_epoch,
        plan.num_feature_views if is_frozen else 0,
    )
    return [*phases, last]


def explain_rates(plan: TrainingPlan, phase: Phase, *, global_batch: int) -> list[str]:
    """What one would wonder at in the rates of a run: that they are scaled, or never reach their height.

    `phase` is the last one.
    """
    lines = []
    if plan.lr_reference_batch not in (None, global_batch):
        lines.append(
            f"rates are the plan's for batches of {plan.lr_reference_batch:,}, scaled to these"
        )
    ramp = getattr(phase.schedule, "rampup_epochs", 0)
    if ramp >= phase.epochs:
        lines.append(
            f"the ramp of {format_epochs(ramp)} leaves the rate no time at its height in "
            f"{format_epochs(phase.epochs)}: a smaller rampup_epochs (--rampup-epochs), or more epochs"
        )
    return lines


def find_phase(plan: TrainingPlan, name: str | None, *, global_batch: int) -> Phase:
    """The phase "frozen" (the head alone) or "whole" (the network) of `plan`; None: its first.

    A plan without such a phase is taken to have an epoch of it. Raises ValueError for another name.
    """
    if name not in (None, "frozen", "whole"):
        raise ValueError(
            f"phase must be 'frozen', 'whole' or None. Received: phase={name!r}."
            f"{did_you_mean(str(name), ('frozen', 'whole'))}"
        )
    if name == "frozen":
        plan = replace(plan, freeze_epochs=plan.freeze_epochs or 1)
    elif name == "whole":
        plan = replace(plan, epochs=plan.epochs or plan.freeze_epochs)
    return find_phases(plan, global_batch=global_batch)[-1 if name == "whole" else 0]


def _check_own_schedule(plan: TrainingPlan, schedule: Schedule | None) -> None:
    if schedule is None:
        return
    others = []
    if plan.schedule != "constant":
        others.append(f"schedule={plan.schedule!r}")
    if plan.plateau_patience is not None:
        others.append(f"plateau_patience={plan.plateau_patience}")
    if others:
        raise ValueError(
            f"two controllers of the learning rate: the plan's {' and '.join(others)}, and your "
            f"schedule ({schedule}). Beside a schedule of your own the plan has schedule='constant' "
            f"and plateau_patience=None."
        )
