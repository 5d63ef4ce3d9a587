"""What to train and how: one frozen, validated, JSON-able value, and the three plans that ship."""

import os
import types
import typing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from flowerkit import schedules
from flowerkit.files import read_json
from flowerkit.pipeline.augmentation import Augmentation, check_between, setting
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
OPTIMIZERS = ("adam", "adamw", "sgd", "lamb")
HEADS = ("notebook", "pooled", "plain", "concat", "flatten")
_AT_LEAST_ONE = (
    "per_replica_batch",
    "steps_per_execution",
    "image_size",
    "input_size",
    "patience",
    "plateau_patience",
    "lr_reference_batch",
    "stair_epochs",
    "checkpoint_every",
)
_AT_LEAST_ZERO = ("freeze_epochs", "feature_views", "plateau_cooldown")


@dataclass(frozen=True)
class TrainingPlan:
    """Every choice of a training run. Raises ValueError for one that cannot be right.

    backbone, weights, head, dropout, input_size: see `models.build_classifier`.
    image_size: which of the stored sizes to read, in px; None: 224 if it is there, else the only one.
    binary: tell two classes apart by one sigmoid; see `heads.add_head`.
    epochs: the most epochs to train. per_replica_batch: images per step on each replica.
    steps_per_execution: steps that TensorFlow runs between two looks by Python (Keras's own option).
    freeze_epochs: epochs before them in which the head alone learns, at freeze_lr (None: max_lr), by a
    constant rate, or with schedule="one-cycle" by a cycle. With epochs=0 there are no others (a linear
    probe), and they follow the schedule, of which freeze_lr is then the top.
    feature_views: 0: they see images. N: they learn from the backbone's features of N views of each
    image, computed once (`features`): the image itself, then N - 1 by the plan's augmentation, mixing
    left out; epoch e has view e % N. None: one view if the plan has no augmentation at all, else 0.
    unfreeze_from, freeze_norms: what of the backbone learns afterwards, see `models.choose_trainable`.
    backbone_lr_factor: the rate of the backbone's first layer over the head's, those between evenly spaced
    by powers; None: all alike.
    schedule: "ramp" (start_lr -> max_lr over rampup_epochs, sustain_epochs, then exp_decay an epoch
    towards min_lr), "cosine" (the same ramp, then half a cosine to min_lr), "staircase" (exp_decay
    every stair_epochs), "one-cycle" (`schedules.OneCycle`) or "constant" (max_lr). plateau_patience:
    epochs without a better one (by monitor) after which a constant rate is multiplied by
    plateau_factor; the next plateau_cooldown epochs do not count. None: never.
    lr_reference_batch: the global batch that the rates are meant for; at another one they are scaled by
    the square root of the ratio (`schedules.scale_for_batch`), with sgd by the ratio itself. None:
    used as they stand.
    optimizer, weight_decay, momentum, clip_norm, ema: see `optimization.build_optimizer`. With ema the
    averaged weights are validated and kept; the raw ones stand beside them in checkpoints/.
    label_smoothing, focal_gamma, class_weights ("balanced" or None): see `losses.build_loss`.
    cpu_bfloat16: let oneDNN compute training steps in bfloat16 where the device is a CPU that has it;
    off, because depthwise convolutions (EfficientNet, MobileNet) become slower. Try it for others.
    monitor: what decides which epoch is best. patience: epochs without a better one, counted from
    the end of the ramp, after which training stops; None: it never stops early.
    flip ... cutmix: the changes to training images, see `Augmentation`.
    keep: where decoded images stay, "ram", "disk", "none" (decoded every epoch), or "auto": the first
    of these that they fit into.
    checkpoint_every: beside the best and the last weights keep those of every so many epochs, as
    checkpoints/epoch-NN.weights.h5 (1: of all; None: of none).
    seed: weights, order, augmentation, dropout. max_minutes: end in time to predict and write.
    on_corrupt: "raise" or "skip" bad records. tensorboard: write logs for it.

    >>> TrainingPlan(epochs=3).schedule_for(global_batch=32)(4)
    0.0002
    """

    backbone: str = setting("DenseNet121", "a Keras Applications name, tiny, or a .keras file")
    weights: str | None = setting("imagenet", "imagenet, a weights file, or none")
    head: str = setting(
        "notebook",
        "notebook (as in the competition's), pooled (the usual one), plain, concat or flatten",
    )
    dropout: float | None = setting(None, "the fraction of the features left out while training")
    binary: bool = setting(False, "tell two classes apart by one sigmoid")
    image_size: int | None = setting(
        None, "which of the stored sizes, in px (none: 224 if it is there, or the only one)"
    )
    input_size: int | None = setting(
        None, "what the backbone sees, in px; images are resized (none: as stored)"
    )
    epochs: int = setting(20, "the most epochs to train (0: the frozen ones are all)")
    freeze_epochs: int = setting(0, "epochs before them in which the head alone learns")
    freeze_lr: float | None = setting(None, "learning rate of those (none: max_lr)")
    feature_views: int | None = setting(
        None,
        "from features of so many views of an image, computed once (0: from images; none: 1 "
        "where nothing is augmented)",
    )
    unfreeze_from: str | float | None = setting(
        None, "then learn from this layer or stage on, or this last part of them (none: all)"
    )
    freeze_norms: bool = setting(False, "the backbone's normalisation neither learns nor updates")
    backbone_lr_factor: float | None = setting(
        None, "rate of the backbone's first layer over the head's (none: the same)"
    )
    per_replica_batch: int = setting(16, "images a step on each replica (a chip, a GPU)")
    steps_per_execution: int = setting(1, "steps that TensorFlow runs between two looks by Python")
    schedule: str = setting(
        "ramp", "ramp (up, hold, decay), cosine, staircase, one-cycle or constant"
    )
    start_lr: float = setting(
        schedules.COMPETITION.start_lr, "learning rate at the start of the ramp"
    )
    max_lr: float = setting(
        schedules.COMPETITION.max_lr, "learning rate at its top, and the constant one"
    )
    min_lr: float = setting(schedules.COMPETITION.min_lr, "learning rate that the decay ends at")
    rampup_epochs: float = setting(
        schedules.COMPETITION.rampup_epochs, "epochs from start_lr to max_lr"
    )
    sustain_epochs: float = setting(schedules.COMPETITION.sustain_epochs, "epochs at max_lr")
    exp_decay: float = setting(schedules.COMPETITION.exp_decay, "factor an epoch after that")
    stair_epochs: int = setting(10, "epochs between two stairs of exp_decay")
    lr_reference_batch: int | None = setting(
        128, "the global batch the rates are meant for (none: use them as they stand)"
    )
    plateau_patience: int | None = setting(
        None, "epochs without a better one until a constant rate falls (none: never)"
    )
    plateau_factor: float = setting(0.5, "by this factor")
    plateau_cooldown: int = setting(0, "epochs after a fall that do not count towards the next")
    optimizer: str = setting("adam", "adam, adamw, sgd or lamb")
    weight_decay: float | None = setting(
        None, "of each weight, in the rate's units (adamw, sgd, lamb; none: off)"
    )
    momentum: float = setting(0.9, "of sgd, or beta_1 of the others")
    clip_norm: float | None = setting(None, "the longest the gradient may be (none: off)")
    ema: float | None = setting(
        None, "keep an average of the weights, this part of it each step (none: off)"
    )
    label_smoothing: float = setting(0.0, "the part of each label that is spread over all classes")
    focal_gamma: float | None = setting(None, "of the focal loss (none: off)")
    class_weights: str | None = setting(None, "balanced, or none")
    monitor: str = setting(
        "val_f1", "what decides which epoch is best: val_f1, val_accuracy, val_loss ..."
    )
    patience: int | None = setting(
        3, "epochs after the ramp without a better one until training stops (none: never)"
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
    keep: str = setting(
        "auto", "decoded images stay in ram, on disk, in none, or auto: the first with room"
    )
    checkpoint_every: int | None = setting(
        None, "keep the weights of every so many epochs, beside best and last (none: not)"
    )
    seed: int = setting(0, "of weights, order, flips and dropout")
    max_minutes: float | None = setting(None, "end in time to predict and write (none: no limit)")
    on_corrupt: str = setting("raise", "raise or skip, at a bad record")
    tensorboard: bool = setting(False, "write logs for TensorBoard")
    cpu_bfloat16: bool = setting(False, "train in bfloat16 on a CPU that has it")

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            _check_type(name, getattr(self, name), hint)
        for least, names in enumerate((_AT_LEAST_ZERO, _AT_LEAST_ONE)):
            for name in names:
                value = getattr(self, name)
                if value is not None and value < least:
                    raise ValueError(f"{name} must be {least} or more. Received: {name}={value}")
        _check_choice("head", self.head, HEADS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("class_weights", self.class_weights, (None, "balanced"))
        if self.backbone_lr_factor is not None:
            check_between("backbone_lr_factor", self.backbone_lr_factor, 1e-6, 1)
        _check_fraction("label_smoothing", self.label_smoothing)
        _check_choice("on_corrupt", self.on_corrupt, ("raise", "skip"))
        _check_choice("keep", self.keep, ("auto", "ram", "disk", "none"))
        if self.augmentation().mixes and self.per_replica_batch % 2:
            raise ValueError(
                f"mixup and cutmix pair neighbours: per_replica_batch must be even. "
                f"Received: {self.per_replica_batch}"
            )
        if self.dropout is not None:
            _check_fraction("dropout", self.dropout)
        _check_fraction("plateau_factor", self.plateau_factor)
        if self.max_minutes is not None and not self.max_minutes > 0:  # nan is not, either
            raise ValueError(f"max_minutes must be above 0. Received: {self.max_minutes}")
        if not 0 <= self.seed < 2**32:  # NumPy takes no other
            raise ValueError(f"seed must be in 0 <= seed < 2**32. Received: seed={self.seed}")
        self._check_epochs()
        self._check_monitor()
        self._check_rate_controllers()
        for of_phase in (self.schedule_for, *[self.frozen_schedule_for] * bool(self.freeze_epochs)):
            of_phase(global_batch=self.lr_reference_batch or 1)  # refuses rates out of order

    def _check_epochs(self) -> None:
        if self.epochs < 0 or not (self.epochs or self.freeze_epochs):
            raise ValueError(
                f"epochs must be 1 or more. Received: epochs={self.epochs} (0 trains the head alone, "
                f"for freeze_epochs={self.freeze_epochs})"
            )
        if (self.feature_views or 0) > 1 and self.view_augmentation().is_off:
            raise ValueError(
                f"feature_views={self.feature_views}, but nothing changes an image from view to view. "
                f"Switch some augmentation on (flip, min_crop_area ...), or pass feature_views=1."
            )

    def _check_monitor(self) -> None:
        if self.monitor not in MONITORS:
            raise ValueError(
                f"monitor {self.monitor!r} is not logged by this run; it logs "
                f"{', '.join(MONITORS)}.{did_you_mean(self.monitor, MONITORS)}"
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
            return self._head_alone().schedule_for(global_batch=global_batch)
        return self._scaled(self._planned(), global_batch)

    def _head_alone(self) -> "TrainingPlan":
        """With the frozen epochs as if they were the others: for what their rates are."""
        top = self.max_lr if self.freeze_lr is None else self.freeze_lr
        return replace(self, epochs=self.freeze_epochs, freeze_epochs=0, max_lr=top)

    def frozen_schedule_for(self, *, global_batch: int) -> schedules.Schedule:
        """The learning rate of the frozen epochs, by epoch."""
        if not self.epochs:
            return self.schedule_for(global_batch=global_batch)
        rate = self.max_lr if self.freeze_lr is None else self.freeze_lr
        if self.schedule == "one-cycle":  # as fastai's fine_tune: up nearly to the end
            return self._scaled(schedules.OneCycle(rate, self.freeze_epochs, 0.99), global_batch)
        return self._scaled(schedules.Constant(rate), global_batch)

    def _planned(self) -> schedules.Schedule:
        def of_kind(kind):
            return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})

        if self.schedule == "ramp":
            return of_kind(schedules.RampSustainDecay)
        if self.schedule == "cosine":
            return of_kind(schedules.CosineWarmup)
        if self.schedule == "staircase":
            return schedules.Staircase(self.max_lr, self.exp_decay, self.stair_epochs, self.min_lr)
        if self.schedule == "one-cycle":  # fastai's figures, for fine_tune and for fit_one_cycle
            shape = (0.3, 5.0) if self.freeze_epochs else (0.25, 25.0)
            return schedules.OneCycle(self.max_lr, self.epochs, *shape)
        return schedules.Constant(self.max_lr)

    def _scaled(self, planned: schedules.Schedule, global_batch: int) -> schedules.Schedule:
        if self.lr_reference_batch is None:
            return planned
        if self.optimizer == "sgd":
            return planned.scaled(global_batch / self.lr_reference_batch)
        return planned.scaled(schedules.scale_for_batch(global_batch, self.lr_reference_batch))

    def augmentation(self) -> Augmentation:
        """The changes to training images."""
        names = [field.name for field in fields(Augmentation)]
        return Augmentation(**{name: getattr(self, name) for name in names})

    def view_augmentation(self) -> Augmentation:
        """The changes to images from view to view: all but mixing, which needs two images at once."""
        return replace(self.augmentation(), mixup=0.0, cutmix=0.0)

    @property
    def num_feature_views(self) -> int:
        """How many views' features the frozen epochs learn from; 0: from images."""
        return int(self.augmentation().is_off) if self.feature_views is None else self.feature_views

    @property
    def first_patient_epoch(self) -> int:
        """The epoch of the last phase, from 0, at which patience starts.

        While the rate climbs nothing is stopped, and a cycle is worth its end.
        """
        if self.schedule == "one-cycle":
            return self.epochs or self.freeze_epochs
        return int(self.rampup_epochs) if self.schedule in ("ramp", "cosine") else 0

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
            f"{did_you_mean(value, [one for one in choices if one])}"
        )


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
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
