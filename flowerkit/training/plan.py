"""What to train and how: one frozen, validated, JSON-able value, and the three plans that ship."""

import math
import os
import types
import typing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from flowerkit import schedules
from flowerkit.files import read_json
from flowerkit.pipeline import Augmentation, check_between, setting
from flowerkit.text import did_you_mean

# What a run logs every epoch, with the direction that is better.
MONITORS = {
    "loss": "min",
    "accuracy": "max",
    "val_loss": "min",
    "val_accuracy": "max",
    "val_f1": "max",
}
SCHEDULES = ("ramp", "cosine", "staircase", "one-cycle", "constant")
OPTIMIZERS = ("adam", "adamw", "sgd")
HEADS = ("notebook", "pooled", "plain", "concat", "flatten")
_CHOICES = {
    "head": HEADS,
    "schedule": SCHEDULES,
    "optimizer": OPTIMIZERS,
    "class_weights": (None, "balanced"),
    "cache": ("auto", "ram", "none"),
    "on_corrupt": ("raise", "skip"),
}
_LEAST = {
    "epochs": 0,
    "freeze_epochs": 0,
    "per_replica_batch": 1,
    "image_size": 1,
    "input_size": 1,
    "patience": 1,
    "plateau_patience": 1,
    "lr_reference_batch": 1,
}


@dataclass(frozen=True)
class TrainingPlan:
    """Every choice of a training run. Raises ValueError for one that cannot be right.

    A run has up to two phases. In `freeze_epochs` the head alone learns, from the backbone's features of
    the images as they are (`compute_features`), at a constant `freeze_lr`, or along one cycle where the
    schedule is "one-cycle"; with epochs=0 that is all (a linear probe), and the schedule is the head's,
    with freeze_lr as its highest rate. In the `epochs` after them the layers
    that `unfreeze_from` and `freeze_norms` choose learn too (`models.choose_trainable`).

    The schedules: "ramp" (start_lr to max_lr over rampup_epochs, sustain_epochs at max_lr, then the part
    above min_lr times exp_decay each epoch), "cosine" (the same ramp, then half a cosine to min_lr),
    "staircase" (max_lr, times exp_decay after every sustain_epochs), "one-cycle" (`schedules.OneCycle`)
    and "constant" (max_lr, halved on each plateau of plateau_patience epochs). At another global batch
    than lr_reference_batch, rates are scaled by the square root of the ratio, with sgd by the ratio.

    With `ema` the averaged weights are validated and kept (`optimizers.averaged_weights`).

    >>> TrainingPlan(epochs=3).schedule_for(global_batch=32)(4)
    0.0002
    """

    backbone: str = setting("DenseNet121", "a Keras Applications name, tiny, or a .keras file")
    weights: str | None = setting("imagenet", "imagenet, a weights file, or none")
    head: str = setting(
        "notebook",
        "notebook (as in the competition's), pooled (the usual head), plain, concat or flatten",
    )
    dropout: float | None = setting(None, "fraction of the features that training drops")
    binary: bool = setting(False, "tell two classes apart by one sigmoid")
    image_size: int | None = setting(
        None, "which of the stored sizes, in px (none: 224 if it is there, or the only size)"
    )
    input_size: int | None = setting(
        None, "what the backbone sees, in px; images are resized (none: as stored)"
    )
    epochs: int = setting(20, "the most epochs to train after the frozen ones (0: none)")
    freeze_epochs: int = setting(0, "epochs before them in which the head alone learns")
    freeze_lr: float | None = setting(None, "learning rate of those (none: max_lr)")
    unfreeze_from: str | float | None = setting(
        None, "then learn from this layer or stage on, or this last part of them (none: all)"
    )
    freeze_norms: bool = setting(False, "the backbone's normalisation neither learns nor updates")
    backbone_lr_factor: float | None = setting(
        None, "rate of the backbone's first layer over the head's (none: the same)"
    )
    per_replica_batch: int = setting(16, "images a step on each replica (a chip, a GPU)")
    schedule: str = setting(
        "ramp", "ramp (up, hold, decay), cosine, staircase, one-cycle or constant"
    )
    start_lr: float = setting(
        schedules.COMPETITION.start_lr, "learning rate at the start of the ramp"
    )
    max_lr: float = setting(
        schedules.COMPETITION.max_lr, "the highest learning rate, and the constant one"
    )
    min_lr: float = setting(schedules.COMPETITION.min_lr, "learning rate that the decay ends at")
    rampup_epochs: float = setting(
        schedules.COMPETITION.rampup_epochs, "epochs from start_lr to max_lr"
    )
    sustain_epochs: float = setting(
        schedules.COMPETITION.sustain_epochs, "epochs at max_lr; of a staircase, on each stair"
    )
    exp_decay: float = setting(
        schedules.COMPETITION.exp_decay, "factor an epoch after that; of a staircase, a stair"
    )
    lr_reference_batch: int | None = setting(
        128, "the global batch the rates are meant for (none: use them as given)"
    )
    plateau_patience: int | None = setting(
        None, "epochs without improvement until a constant rate is halved (none: never)"
    )
    optimizer: str = setting("adam", "adam, adamw or sgd")
    weight_decay: float | None = setting(
        None, "of each weight, in the rate's units (adamw, sgd; none: off)"
    )
    ema: float | None = setting(
        None, "validate and keep averaged weights that retain this part each step (none: off)"
    )
    label_smoothing: float = setting(0.0, "part of each label that is spread over all classes")
    class_weights: str | None = setting(None, "balanced, or none")
    monitor: str = setting(
        "val_f1", "what decides which epoch is best: val_f1, val_accuracy, val_loss ..."
    )
    patience: int | None = setting(
        3, "epochs without improvement after the ramp until training stops (none: never)"
    )
    flip: bool = True
    vertical_flip: bool = False
    max_rotation_degrees: float = 0.0
    max_zoom: float = 1.0
    max_lighting: float = 0.0
    max_warp: float = 0.0
    min_crop_area: float = 1.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    cache: str = setting(
        "auto",
        "decoded images stay in ram, or are decoded each epoch (none); auto: ram if they fit",
    )
    seed: int = setting(0, "of weights, order, augmentation and dropout")
    max_minutes: float | None = setting(None, "end in time to predict and write (none: no limit)")
    on_corrupt: str = setting("raise", "raise or skip, at a bad record")
    tensorboard: bool = setting(False, "write logs for TensorBoard")

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            _check_type(name, getattr(self, name), hint)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be {least} or more. Received: {name}={value}")
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        if self.backbone_lr_factor is not None:
            check_between("backbone_lr_factor", self.backbone_lr_factor, 1e-6, 1)
        for name in ("label_smoothing", "dropout", "weight_decay", "ema"):
            _check_fraction(name, getattr(self, name))
        if self.max_minutes is not None and not self.max_minutes > 0:  # nan is not, either
            raise ValueError(f"max_minutes must be above 0. Received: {self.max_minutes}")
        if not 0 <= self.seed < 2**32:  # NumPy takes no other
            raise ValueError(f"seed must be in 0 <= seed < 2**32. Received: seed={self.seed}")
        self._check_epochs()
        self._check_monitor()
        self._check_optimizer()
        self._check_rate_controllers()
        for schedule in (self.schedule_for, *[self.freeze_schedule_for] * bool(self.freeze_epochs)):
            schedule(global_batch=self.lr_reference_batch or 1)  # refuses rates out of order
        if self.augmentation().mixes and self.per_replica_batch % 2:
            raise ValueError(
                f"mixup and cutmix pair neighbours: per_replica_batch must be even. "
                f"Received: {self.per_replica_batch}"
            )

    def _check_epochs(self) -> None:
        if not (self.epochs or self.freeze_epochs):
            raise ValueError(
                f"epochs must be 1 or more. Received: epochs={self.epochs} (0 trains the head alone, "
                f"for freeze_epochs={self.freeze_epochs})"
            )

    def _check_monitor(self) -> None:
        if self.monitor not in MONITORS:
            raise ValueError(
                f"monitor {self.monitor!r} is not logged by this run; it logs "
                f"{', '.join(MONITORS)}.{did_you_mean(self.monitor, MONITORS)}"
            )

    def _check_optimizer(self) -> None:
        if self.optimizer == "adam" and self.weight_decay is not None:
            raise ValueError(
                f"adam with weight_decay={self.weight_decay:g} is adamw: pass optimizer='adamw' "
                f"(--optimizer adamw), or weight_decay=None."
            )
        if self.optimizer == "adamw" and self.weight_decay is None:
            raise ValueError(
                "adamw without a weight_decay is adam: pass weight_decay=0.01 (--weight-decay 0.01), "
                "or optimizer='adam'."
            )

    def _check_rate_controllers(self) -> None:
        if self.schedule != "constant" and self.plateau_patience is not None:
            raise ValueError(
                f"two controllers of the learning rate: schedule={self.schedule!r} sets it every "
                f"epoch, so plateau_patience={self.plateau_patience} would have no effect. Pass "
                f"schedule='constant' with the plateau, or plateau_patience=None."
            )

    def schedule_for(self, *, global_batch: int) -> schedules.Schedule:
        """The learning rate by epoch (0 is the first after the frozen ones) for such a batch.

        Without such epochs it is that of the frozen ones.
        """
        if not self.epochs:
            alone = replace(
                self, epochs=self.freeze_epochs, freeze_epochs=0, max_lr=self._highest_freeze_lr
            )
            return alone.schedule_for(global_batch=global_batch)
        return self._scaled(self._planned(), global_batch)

    def freeze_schedule_for(self, *, global_batch: int) -> schedules.Schedule:
        """The learning rate of the frozen epochs, by epoch."""
        if not self.epochs:
            return self.schedule_for(global_batch=global_batch)
        rate = self._highest_freeze_lr
        if self.schedule == "one-cycle":  # as fastai's fine_tune: up nearly to the end
            return self._scaled(schedules.OneCycle(rate, self.freeze_epochs, 0.99), global_batch)
        return self._scaled(schedules.Constant(rate), global_batch)

    @property
    def _highest_freeze_lr(self) -> float:
        return self.max_lr if self.freeze_lr is None else self.freeze_lr

    def _planned(self) -> schedules.Schedule:
        ramp = (self.start_lr, self.max_lr, self.min_lr, self.rampup_epochs)
        if self.schedule == "ramp":
            return schedules.RampSustainDecay(*ramp, self.sustain_epochs, self.exp_decay)
        if self.schedule == "cosine":
            return schedules.CosineWarmup(*ramp, self.epochs)
        if self.schedule == "staircase":
            if self.sustain_epochs < 1 or self.sustain_epochs != int(self.sustain_epochs):
                raise ValueError(
                    f"a staircase keeps each stair for a whole number of sustain_epochs, 1 or more: "
                    f"pass sustain_epochs=10 (--sustain-epochs 10). Received: {self.sustain_epochs:g}"
                )
            return schedules.Staircase(
                self.max_lr, self.exp_decay, self.sustain_epochs, self.min_lr
            )
        if self.schedule == "one-cycle":  # fastai's figures, for fine_tune and for fit_one_cycle
            shape = (0.3, 5.0) if self.freeze_epochs else (0.25, 25.0)
            return schedules.OneCycle(self.max_lr, self.epochs, *shape)
        return schedules.Constant(self.max_lr)

    def _scaled(self, planned: schedules.Schedule, global_batch: int) -> schedules.Schedule:
        if self.lr_reference_batch is None:
            return planned
        ratio = global_batch / self.lr_reference_batch
        # Square root for Adam and RMSprop: Malladi et al. 2022, arXiv:2205.10287.
        return planned.scaled(ratio if self.optimizer == "sgd" else math.sqrt(ratio))

    def augmentation(self) -> Augmentation:
        """The changes to training images."""
        return Augmentation(
            **{field.name: getattr(self, field.name) for field in fields(Augmentation)}
        )

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


def _check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(str, choices))}. Received: {name}={value!r}."
            f"{did_you_mean(value, filter(None, choices))}"
        )


def _check_fraction(name: str, value: float | None) -> None:
    if value is not None and not 0 <= value < 1:
        raise ValueError(f"{name} must be in 0 <= {name} < 1. Received: {name}={value}")


# The notebook as learners copy it. Its ramp is longer than most sessions, so the rate that it plots
# as a peak is rarely reached; its patience starts after the ramp.
NOTEBOOK = TrainingPlan(
    epochs=50, dropout=0.2, lr_reference_batch=None, **asdict(schedules.NOTEBOOK)
)
# Fine-tuning after the evidence: a peak of 4e-4 at global batch 128 after four epochs; light geometry
# and random-erasing help in short runs, where colour and mixing only slow the fit.
COMPETITION = TrainingPlan(epochs=20, min_crop_area=0.6, random_erasing=0.25)
# A small network for any CPU: proves a machine and an installation in a minute or two.
SMOKE = TrainingPlan(
    backbone="tiny",
    weights=None,
    input_size=64,
    epochs=12,
    per_replica_batch=32,
    lr_reference_batch=None,
    start_lr=1e-3,
    max_lr=3e-3,
    min_lr=1e-4,
    rampup_epochs=2,
    exp_decay=0.75,
    patience=4,
)
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
            f"{did_you_mean(str(path), PLANS)}"
        )
    values = read_json(path, what="a JSON object of plan fields")
    return change_plan(TrainingPlan(), values, where=str(path))


def change_plan(plan: TrainingPlan, changes: dict, *, where: str = "the plan") -> TrainingPlan:
    """`plan` with other values for the named fields. Raises ValueError, naming `where` they stood."""
    known = [field.name for field in fields(TrainingPlan)]
    for name in changes:
        if name not in known:
            raise ValueError(f"{where} has an unknown field {name!r}.{did_you_mean(name, known)}")
    try:
        return replace(plan, **changes)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
