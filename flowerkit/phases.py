"""The phases of a run: the head alone, then more of the network. Pure Python."""

from dataclasses import dataclass

from flowerkit.plan import TrainingPlan
from flowerkit.schedules import Schedule


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one set of layers that learn, one optimizer and one schedule.

    `number` counts from 1 and stands in history.csv. `schedule` takes the epoch within the phase; None:
    the rate is constant until a plateau lowers it. `first_patient_epoch`, also within the phase, is
    where patience starts.
    """

    number: int
    is_frozen: bool
    epochs: int
    first_lr: float
    schedule: Schedule | None
    first_patient_epoch: int

    def __str__(self) -> str:
        what = "the head alone" if self.is_frozen else "the network"
        return (
            f"phase {self.number}, {what}: {self.schedule or f'{self.first_lr:g} until a plateau'}"
        )


def find_phases(plan: TrainingPlan, *, global_batch: int) -> list[Phase]:
    """The phases of `plan` in order; one without `frozen_epochs`, else two."""
    phases = []
    if plan.frozen_epochs:
        frozen = plan.frozen_schedule_for(global_batch=global_batch)
        # A cycle is worth its end; at a constant rate there is nothing to wait for.
        patient = plan.frozen_epochs if plan.schedule == "one-cycle" else 0
        phases.append(Phase(1, True, plan.frozen_epochs, frozen(0), frozen, patient))
    planned = plan.schedule_for(global_batch=global_batch)
    schedule = planned if plan.plateau_patience is None else None
    number = len(phases) + 1
    phases.append(Phase(number, False, plan.epochs, planned(0), schedule, plan.first_patient_epoch))
    return phases
