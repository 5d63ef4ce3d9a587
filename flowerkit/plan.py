"""What to train and how: one frozen, validated, JSON-able value, and the three plans that ship."""

import difflib
import json
import os
import types
import typing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from flowerkit import schedules

# What a run logs every epoch, with the direction that is better.
MONITORS = {
    "loss": "min",
    "accuracy": "max",
    "val_loss": "min",
    "val_accuracy": "max",
    "val_f1": "max",
}
HEADS = ("notebook", "pooled")
_AT_LEAST_ONE = ("epochs", "per_replica_batch", "image_size", "input_size", "patience",
                 "plateau_patience", "rates_at_batch")  # fmt: skip


@dataclass(frozen=True)
class TrainingPlan:
    """Every choice of a training run. Raises ValueError for one that cannot be right.

    backbone, weights, head, dropout, input_size: see `models.build_classifier`.
    image_size: which of the stored sizes to read, in px; None: 224 if it is there, else the only one.
    epochs: the most epochs to train. per_replica_batch: images per step on each replica.
    schedule: "ramp" (start_lr -> max_lr over rampup_epochs, sustain_epochs, then exp_decay an epoch
    towards min_lr) or "constant" (max_lr). plateau_patience: epochs without progress after which a
    constant rate is multiplied by plateau_factor; None: never.
    rates_at_batch: the global batch that the rates are meant for; at another one they are scaled by
    the square root of the ratio (`schedules.scale_for_batch`). None: used as they stand.
    monitor: what decides which epoch is best. patience: epochs without a better one, counted from
    the end of the ramp, after which training stops; None: it never stops early.
    flip: mirror half of the training images, drawn anew each epoch.
    seed: weights, order, augmentation, dropout. max_minutes: end in time to predict and write.
    on_corrupt: "raise" or "skip" bad records. tensorboard: write logs for it.

    >>> TrainingPlan(epochs=3).schedule_for(global_batch=32)(4)
    0.0002
    """

    backbone: str = "DenseNet121"
    weights: str | None = "imagenet"
    head: str = "notebook"
    dropout: float = 0.2
    image_size: int | None = None
    input_size: int | None = None
    epochs: int = 20
    per_replica_batch: int = 16
    schedule: str = "ramp"
    start_lr: float = schedules.COMPETITION.start_lr
    max_lr: float = schedules.COMPETITION.max_lr
    min_lr: float = schedules.COMPETITION.min_lr
    rampup_epochs: float = schedules.COMPETITION.rampup_epochs
    sustain_epochs: float = schedules.COMPETITION.sustain_epochs
    exp_decay: float = schedules.COMPETITION.exp_decay
    rates_at_batch: int | None = 128
    plateau_patience: int | None = None
    plateau_factor: float = 0.5
    monitor: str = "val_f1"
    patience: int | None = 3
    flip: bool = True
    seed: int = 0
    max_minutes: float | None = None
    on_corrupt: str = "raise"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            _check_type(name, getattr(self, name), hint)
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more. Received: {name}={value}")
        _check_choice("head", self.head, HEADS)
        _check_choice("schedule", self.schedule, ("ramp", "constant"))
        _check_choice("on_corrupt", self.on_corrupt, ("raise", "skip"))
        _check_fraction("dropout", self.dropout)
        _check_fraction("plateau_factor", self.plateau_factor)
        if self.max_minutes is not None and not self.max_minutes > 0:  # nan is not, either
            raise ValueError(f"max_minutes must be above 0. Received: {self.max_minutes}")
        if not 0 <= self.seed < 2**32:  # NumPy takes no other
            raise ValueError(f"seed must be in 0 <= seed < 2**32. Received: seed={self.seed}")
        self._check_monitor()
        self._check_rate_controllers()
        self.schedule_for(global_batch=self.rates_at_batch or 1)  # refuses rates out of order

    def _check_monitor(self) -> None:
        if self.monitor not in MONITORS:
            raise ValueError(
                f"monitor {self.monitor!r} is not logged by this run; it logs "
                f"{', '.join(MONITORS)}.{suggest(self.monitor, MONITORS)}"
            )

    def _check_rate_controllers(self) -> None:
        if self.schedule != "constant" and self.plateau_patience is not None:
            raise ValueError(
                f"two controllers of the learning rate: schedule={self.schedule!r} sets it every "
                f"epoch, so plateau_patience={self.plateau_patience} would have no effect. Pass "
                f"schedule='constant' with the plateau, or plateau_patience=None."
            )

    def schedule_for(self, *, global_batch: int) -> schedules.Schedule:
        """The learning rate by epoch (0 is the first) for steps of `global_batch` images."""
        if self.schedule == "constant":
            planned = schedules.Constant(self.max_lr)
        else:
            names = [field.name for field in fields(schedules.RampSustainDecay)]
            planned = schedules.RampSustainDecay(**{name: getattr(self, name) for name in names})
        if self.rates_at_batch is None:
            return planned
        return planned.scaled(schedules.scale_for_batch(global_batch, self.rates_at_batch))

    @property
    def first_patient_epoch(self) -> int:
        """The epoch, from 0, at which patience starts: while the rate climbs, nothing is stopped."""
        return int(self.rampup_epochs) if self.schedule == "ramp" else 0

    def to_dict(self) -> dict:
        """Every field by name; ready for JSON."""
        return asdict(self)


def _check_type(name: str, value, hint) -> None:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    # An int serves as a float, but a bool, Python's third kind of int, is a slip.
    fits = type(value) in allowed or (float in allowed and type(value) is int)
    if not fits:
        wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
        raise ValueError(f"{name} must be {wanted}. Received: {name}={value!r}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}. Received: {name}={value!r}."
            f"{suggest(value, choices)}"
        )


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in 0 <= {name} < 1. Received: {name}={value}")


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """ " Did you mean 'x'?" with the nearest of the known names, or nothing.

    >>> suggest("val_f2", MONITORS)
    " Did you mean 'val_f1'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


# The notebook as learners copy it. Its ramp is longer than most sessions, so the rate that it plots
# as a peak is rarely reached; its patience starts after the ramp.
NOTEBOOK = TrainingPlan(epochs=50, rates_at_batch=None, **asdict(schedules.NOTEBOOK))
# Fine-tuning after the evidence: a peak of 4e-4 at global batch 128 after four epochs.
COMPETITION = TrainingPlan(epochs=20)
# A small network for any CPU: proves a machine and an installation in a minute or two.
SMOKE = TrainingPlan(
    backbone="tiny", weights=None, input_size=64, epochs=12, per_replica_batch=32, rates_at_batch=None,
    start_lr=1e-3, max_lr=3e-3, min_lr=1e-4, rampup_epochs=2, exp_decay=0.75, patience=4,
)  # fmt: skip
PLANS = {"notebook": NOTEBOOK, "competition": COMPETITION, "smoke": SMOKE}


def load_plan(name_or_file: str | os.PathLike) -> TrainingPlan:
    """A plan by name (notebook, competition, smoke) or from a JSON file of its fields.

    Fields that a file leaves out keep their defaults. Raises FileNotFoundError, or ValueError for
    text that is no JSON object, an unknown field (with the nearest name) or an ill-typed value.
    """
    if str(name_or_file) in PLANS:
        return PLANS[str(name_or_file)]
    path = Path(name_or_file)
    if not path.is_file():
        raise FileNotFoundError(
            f"no plan {str(path)!r}: neither one of {', '.join(PLANS)} nor a file."
            f"{suggest(str(path), PLANS)}"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object of plan fields, not {values!r}.")
    return change_plan(TrainingPlan(), values, where=str(path))


def change_plan(plan: TrainingPlan, changes: dict, *, where: str = "the plan") -> TrainingPlan:
    """`plan` with other values for the named fields. Raises ValueError, naming `where` they stood."""
    known = [field.name for field in fields(TrainingPlan)]
    for name in changes:
        if name not in known:
            raise ValueError(f"{where} has an unknown field {name!r}.{suggest(name, known)}")
    try:
        return replace(plan, **changes)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
