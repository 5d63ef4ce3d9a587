"""The phases of a run: the head alone, then more of the network. Pure Python."""

from dataclasses import dataclass, replace

from flowerkit.schedules import Schedule
from flowerkit.text import did_you_mean, format_epochs
from flowerkit.training.plan import TrainingPlan


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one set of layers that learn, one optimizer and one schedule.

    `number` counts from 1, as in history.csv. `schedule` takes the epoch within the phase; None: the
    rate is constant until a plateau halves it. `first_patient_epoch`, also within the phase, is where
    the patience of early stopping starts.
    """

    number: int
    is_frozen: bool
    epochs: int
    first_lr: float
    schedule: Schedule | None
    first_patient_epoch: int

    def __str__(self) -> str:
        part = "the head alone, on features" if self.is_frozen else "the network"
        return (
            f"phase {self.number}, {part}: {self.schedule or f'{self.first_lr:g} until a plateau'}"
        )


def plan_phases(
    plan: TrainingPlan, *, global_batch: int, schedule: Schedule | None = None
) -> list[Phase]:
    """The phases of `plan` in order: with `freeze_epochs` and `epochs` there are two, else one.

    `schedule`: given in Python, used as it is for the last phase. Raises ValueError where the plan has
    another controller of the rate.
    """
    _check_own_schedule(plan, schedule)
    phases = []
    if plan.freeze_epochs and plan.epochs:
        of_head = plan.freeze_schedule_for(global_batch=global_batch)
        # A cycle is worth its end; at a constant rate there is nothing to wait for.
        patient = plan.freeze_epochs if plan.schedule == "one-cycle" else 0
        phases.append(Phase(1, True, plan.freeze_epochs, of_head(0), of_head, patient))
    planned = schedule or plan.schedule_for(global_batch=global_batch)
    is_frozen = not plan.epochs
    num_epochs = plan.epochs or plan.freeze_epochs
    last = Phase(
        number=len(phases) + 1,
        is_frozen=is_frozen,
        epochs=num_epochs,
        first_lr=planned(0),
        schedule=planned if plan.plateau_patience is None else None,
        first_patient_epoch=_first_patient_epoch(plan, num_epochs),
    )
    return [*phases, last]


def _first_patient_epoch(plan: TrainingPlan, num_epochs: int) -> int:
    """Where patience starts: nothing is stopped while the rate climbs, and a cycle is worth its end."""
    if plan.schedule == "one-cycle":
        return num_epochs
    return int(plan.rampup_epochs) if plan.schedule in ("ramp", "cosine") else 0


def warn_about_rates(plan: TrainingPlan, phase: Phase, *, global_batch: int) -> list[str]:
    """Warnings about the learning-rate settings of the last phase: scaled rates, a ramp too long."""
    lines = []
    if plan.lr_reference_batch not in (None, global_batch):
        lines.append(
            f"learning rates are scaled from batches of {plan.lr_reference_batch:,} (the plan's "
            f"lr_reference_batch) to {global_batch:,}"
        )
    ramp = getattr(phase.schedule, "rampup_epochs", 0)
    if ramp >= phase.epochs:
        lines.append(
            f"the ramp of {format_epochs(ramp)} leaves no time at the highest rate in "
            f"{format_epochs(phase.epochs)}: pass a smaller rampup_epochs (--rampup-epochs), or more "
            f"epochs"
        )
    return lines


def find_phase(plan: TrainingPlan, name: str | None, *, global_batch: int) -> Phase:
    """The phase "frozen" (the head alone) or "whole" (the network) of `plan`; None: its first.

    A plan without such a phase is given an epoch of it. Raises ValueError for another name.
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
    return plan_phases(plan, global_batch=global_batch)[-1 if name == "whole" else 0]


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
            f"schedule ({schedule}). With a schedule of your own the plan needs schedule='constant' and "
            f"plateau_patience=None."
        )
