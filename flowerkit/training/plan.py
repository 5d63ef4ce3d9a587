"""What to train and how: one frozen, validated, JSON-able value, and the four plans that ship."""

import math
import os
import re
import sys
import types
import typing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from flowerkit import schedules
from flowerkit.files import read_json
from flowerkit.models import fixed_input_size, takes_sizes
from flowerkit.pipeline import Augmentation, check_between, setting
from flowerkit.synonyms import explain_arguments, explain_choice, explain_name
from flowerkit.text import did_you_mean, pluralize

# What a run logs every epoch, with the direction that is better. By "epoch" the last is the best, which
# needs no val split.
MONITORS = {
    "loss": "min",
    "accuracy": "max",
    "val_loss": "min",
    "val_accuracy": "max",
    "val_f1": "max",
    "epoch": "max",
}
SCHEDULES = ("ramp", "cosine", "staircase", "one-cycle", "constant")
OPTIMIZERS = ("adam", "adamw", "sgd")
HEADS = ("notebook", "pooled", "plain", "concat", "flatten")
_NONE = type(None)
_CHOICES = {
    "head": HEADS,
    "schedule": SCHEDULES,
    "optimizer": OPTIMIZERS,
    "class_weights": (None, "balanced"),
    "cache": ("auto", "ram", "none"),
    "on_corrupt": ("raise", "skip"),
}
# For what Keras takes and a plan, which is data, does not.
_OTHER_WAYS = {
    "schedule": " A function or an object of Keras goes into train(..., schedule=).",
    "optimizer": " Its rate is max_lr, its decay weight_decay.",
    "class_weights": " 'balanced' gives each class the weight 1 / its number of images, 1 on average.",
}
Auto = Literal["auto"]
# What "auto" is where nothing can be measured; `fitting` measures and replaces it.
HEAD_EPOCHS = 20  # on features an epoch takes a second or less
EPOCHS = 12
EPOCHS_FROM_SCRATCH = 40
MAX_LR = 7e-4  # for Adam at a batch of 32
GLOBAL_BATCH = {"cpu": 32, "gpu": 64, "tpu": 128}
FEWEST_STEPS_AN_EPOCH = 20
FEWEST_STEPS_A_PHASE = 250  # a small set is shown more often
MOST_EPOCHS = 100
SIZES_PX = (224, 192, 160, 128, 96, 64)  # most backbones of ImageNet saw the first
SLOW_SIZE_PX = 160  # on a CPU, for smaller images, without a time limit
SMALLER = 4 / 7  # of input_size, in small_epochs: 128 of 224 px; a third of the time
LAST_RATE = 0.3  # of max_lr, in the epochs after them
_LEAST = {
    "epochs": 0,
    "freeze_epochs": 0,
    "small_epochs": 0,
    "per_replica_batch": 1,
    "accumulate": 1,
    "image_size": 1,
    "input_size": 1,
    "patience": 1,
    "plateau_patience": 1,
    "lr_reference_batch": 1,
}


@dataclass(frozen=True)
class TrainingPlan:
    """Every choice of a training run. Raises ValueError for one that cannot be right.

    A run has up to three phases. In `freeze_epochs` the head alone learns, from the backbone's features
    of the images as they are (`compute_features`), at a constant `freeze_lr`, or along one cycle where
    the schedule is "one-cycle"; with epochs=0 that is all (a linear probe), and the schedule is the
    head's, with freeze_lr as its highest rate. In the `epochs` after them, which start from the best
    head, the layers that `unfreeze_from` and `freeze_norms` choose learn too
    (`models.choose_trainable`). A part of an epoch is trained too: epochs=2.5 is two and a half times
    all images.

    With `small_epochs` images are smaller at first (progressive resizing, Howard 2018): the head learns
    from images of 4/7 of input_size, in multiples of 32 px, and so does the network for so many epochs;
    then it learns in `epochs` from images of input_size, from its best, at up to 0.3 of max_lr. What
    learns from small images is scored on small ones.

    "auto" leaves a field to the run (`fitting`): size and batch to the device, the data and the time,
    max_lr to a range test, epochs to the time that is left. On a pretrained backbone the head learns
    first, for 20 epochs, from mirrored images, too; then the network learns with frozen norms, its first
    layer at a fifth of the head's rate, on small images first where the time is short. With weights=None
    all learns from the start, at one rate.

    The schedules: "one-cycle" (`schedules.OneCycle`), "ramp" (start_lr to max_lr over rampup_epochs,
    sustain_epochs at max_lr, then the part above min_lr times exp_decay each epoch), "cosine" (the same
    ramp, then half a cosine to min_lr), "staircase" (max_lr, times exp_decay after every
    sustain_epochs) and "constant" (max_lr, halved on each plateau of plateau_patience epochs). At
    another global batch than lr_reference_batch, rates are scaled by the square root of the ratio, with
    sgd by the ratio. Where `max_minutes` allows fewer epochs, the schedule is shortened to them.

    With `accumulate` the gradients of a step come from so many parts of its images, one after the other,
    and are averaged: less memory for the same steps. Norms that learn see a part at a time.

    With `ema` the averaged weights are validated and kept (`optimizers.averaged_weights`).

    `backbone` may be a `keras.Model`, too; `train` keeps it in the run's folder. With a run folder as
    `weights` the backbone of that run goes on, and so does its head where head and classes are the same;
    then "auto" has no frozen epochs and the run's max_lr. Take the other fields from the run's plan:
    replace(first.plan, weights=first.folder).

    >>> TrainingPlan(epochs=10, max_lr=1e-3).schedule_for(global_batch=32)(3)
    0.001
    """

    backbone: str = setting(
        "DenseNet121", "a Keras Applications name, hub:PRESET of KerasHub, tiny, or a .keras file"
    )
    weights: str | None = setting(
        "imagenet", "imagenet, a weights file, a run folder to go on from, or none"
    )
    head: str = setting(
        "pooled",
        "pooled (the usual head), notebook (as in the competition's), plain, concat or flatten",
    )
    dropout: float | None = setting(0.2, "fraction of the features that training drops")
    binary: bool = setting(False, "tell two classes apart by one sigmoid")
    image_size: int | None = setting(
        None, "which of the stored sizes, in px (none: 224 if it is there, or the only size)"
    )
    input_size: int | Auto | None = setting(
        "auto",
        "what the backbone sees, in px; images are resized (none: as stored; auto: 224 for a "
        "pretrained backbone, less where the time is short)",
    )
    epochs: float | Auto = setting(
        "auto",
        "epochs to train after the frozen ones, fractions too (0: none; auto: as many as max_minutes "
        f"allows, else {EPOCHS}, from scratch {EPOCHS_FROM_SCRATCH})",
    )
    freeze_epochs: int | Auto = setting(
        "auto",
        "epochs before them in which the head alone learns, on features (auto: "
        f"{HEAD_EPOCHS} on a pretrained backbone)",
    )
    small_epochs: float | Auto = setting(
        "auto",
        "epochs of the network between the two, all on smaller images until then (auto: where few "
        "large ones fit into max_minutes)",
    )
    freeze_lr: float | None = setting(3e-3, "learning rate of those (none: max_lr)")
    freeze_flip: bool | Auto = setting(
        "auto",
        "in those, features of mirrored images, too (auto: with flip, where the time allows it)",
    )
    unfreeze_from: str | float | None = setting(
        None, "then learn from this layer or stage on, or this last part of them (none: all)"
    )
    freeze_norms: bool | Auto = setting(
        "auto",
        "the backbone's normalisation neither learns nor updates (auto: if it is pretrained)",
    )
    backbone_lr_factor: float | Auto | None = setting(
        "auto",
        "rate of the backbone's first layer over the head's (none: the same; auto: 0.2 if it is "
        "pretrained)",
    )
    per_replica_batch: int | Auto = setting(
        "auto", "images a step on each replica (a chip, a GPU; auto: by device and data)"
    )
    accumulate: int = setting(
        1, "parts of these that pass the network one after the other, for the memory's sake"
    )
    halve_on_oom: bool = setting(
        False, "where a device has too little memory, go on with the same steps in more parts"
    )
    schedule: str = setting(
        "one-cycle", "one-cycle, ramp (up, hold, decay), cosine, staircase or constant"
    )
    start_lr: float = setting(schedules.RAMP.start_lr, "learning rate at the start of the ramp")
    max_lr: float | Auto = setting(
        "auto", "the highest learning rate, and the constant one (auto: a range test finds it)"
    )
    min_lr: float = setting(schedules.RAMP.min_lr, "learning rate that the decay ends at")
    rampup_epochs: float = setting(schedules.RAMP.rampup_epochs, "epochs from start_lr to max_lr")
    sustain_epochs: float = setting(
        schedules.RAMP.sustain_epochs, "epochs at max_lr; of a staircase, on each stair"
    )
    exp_decay: float = setting(
        schedules.RAMP.exp_decay, "factor an epoch after that; of a staircase, a stair"
    )
    lr_reference_batch: int | None = setting(
        32, "the global batch the rates are meant for (none: use them as given)"
    )
    plateau_patience: int | None = setting(
        None, "epochs without improvement until a constant rate is halved (none: never)"
    )
    optimizer: str = setting("adam", "adam, adamw or sgd")
    weight_decay: float | None = setting(
        None, "of each weight, in the rate's units (adamw, sgd; none: off)"
    )
    ema: float | None = setting(
        0.99, "validate and keep averaged weights that retain this part each step (none: off)"
    )
    label_smoothing: float = setting(0.1, "part of each label that is spread over all classes")
    class_weights: str | None = setting(None, "balanced, or none")
    monitor: str = setting(
        "val_f1",
        "what decides which epoch is best: val_f1, val_accuracy, val_loss ...; epoch: the last, which "
        "needs no val split",
    )
    patience: int | None = setting(
        3,
        "epochs without improvement after the ramp until training stops (none: never; a one-cycle "
        "schedule is never stopped)",
    )
    flip: bool = True
    vertical_flip: bool = False
    max_rotation_degrees: float = 0.0
    max_zoom: float = 1.0
    max_lighting: float = 0.0
    max_warp: float = 0.0
    min_crop_area: float = 0.6
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
        for name in ("backbone", "weights"):
            if isinstance(path := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(path))
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        for name, hint in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            if getattr(value, "shape", None) == () and hasattr(value, "item"):
                object.__setattr__(self, name, value.item())  # a number of NumPy, for JSON
            if name != "backbone" or not self.has_own_backbone:
                _check_type(name, getattr(self, name), hint)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value not in (None, "auto") and value < least:
                raise ValueError(f"{name} must be {least} or more. Received: {name}={value}")
        if self.backbone_lr_factor not in (None, "auto"):
            check_between("backbone_lr_factor", self.backbone_lr_factor, 1e-6, 1)
        for name in ("label_smoothing", "dropout", "weight_decay", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must be in 0 <= {name} < 1. Received: {name}={value}")
        if self.max_minutes is not None and not self.max_minutes > 0:  # nan is not, either
            raise ValueError(f"max_minutes must be above 0. Received: {self.max_minutes}")
        if not 0 <= self.seed < 2**32:  # NumPy takes no other
            raise ValueError(f"seed must be in 0 <= seed < 2**32. Received: seed={self.seed}")
        for name in ("epochs", "small_epochs"):
            value = getattr(self, name)
            if value != "auto" and not value < math.inf:  # nan is not, either
                raise ValueError(f"{name} must be a finite number. Received: {name}={value}")
        if not (self.epochs or self.freeze_epochs):
            raise ValueError(
                f"epochs must be 1 or more. Received: epochs={self.epochs}, the head alone: "
                f"then pass freeze_epochs=5 (--freeze-epochs 5), too."
            )
        if self.monitor not in MONITORS:
            raise ValueError(
                f"monitor {self.monitor!r} is not logged by this run; it logs "
                f"{', '.join(MONITORS)}.{explain_choice(self.monitor, MONITORS)}"
            )
        self._check_optimizer()
        self._check_rate_controllers()
        self._check_small()
        for schedule in (self.schedule_for, *[self.freeze_schedule_for] * bool(self.head_epochs)):
            schedule(global_batch=self.lr_reference_batch or 1)  # refuses rates out of order
        if self.per_replica_batch != "auto":
            self._check_parts()

    def _check_parts(self) -> None:
        part, rest = divmod(self.batch, self.accumulate)
        received = f"Received: per_replica_batch={self.batch}, accumulate={self.accumulate}"
        if rest:
            raise ValueError(f"accumulate must divide per_replica_batch. {received}")
        if self.augmentation().mixes and part % 2:
            raise ValueError(
                f"mixup and cutmix pair neighbours: per_replica_batch / accumulate must be even. "
                f"{received}"
            )

    def _check_small(self) -> None:
        if not self.has_small:
            return
        remedy = (
            f"or small_epochs=0 (--small-epochs 0). Received: small_epochs={self.small_epochs:g}"
        )
        if self.schedule != "one-cycle":
            raise ValueError(
                f"small_epochs need a cycle of their own: pass schedule='one-cycle' (--schedule "
                f"one-cycle), not {self.schedule!r}, {remedy}"
            )
        if self.head == "flatten":  # its weights fit one size
            raise ValueError(f"small_epochs need a head for any size: pass head='pooled', {remedy}")
        if not self.epochs:
            raise ValueError(
                f"small_epochs come before others: pass epochs=2 (--epochs 2), {remedy}"
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
        if self.max_lr == "auto" and self.schedule not in ("one-cycle", "constant"):
            raise ValueError(
                f"schedule={self.schedule!r} climbs from start_lr to max_lr, so it needs both: pass "
                f"max_lr=4e-4 (--max-lr 4e-4), or schedule='one-cycle', which finds its rate."
            )
        if self.schedule != "constant" and self.plateau_patience is not None:
            raise ValueError(
                f"two controllers of the learning rate: schedule={self.schedule!r} sets it every "
                f"epoch, so plateau_patience={self.plateau_patience} would have no effect. Pass "
                f"schedule='constant' with the plateau, or plateau_patience=None."
            )

    @property
    def has_own_backbone(self) -> bool:
        """Whether `backbone` is a keras.Model, which no file can name."""
        keras = sys.modules.get("keras")  # there is no model before it is imported
        return keras is not None and isinstance(self.backbone, keras.Model)

    @property
    def network_epochs(self) -> float:
        """How long the network learns; where that is "auto", how long it does without a time limit."""
        if self.epochs != "auto":
            return self.epochs
        return EPOCHS if self.weights else EPOCHS_FROM_SCRATCH

    @property
    def head_epochs(self) -> int:
        """How long the head learns alone; "auto" is 20 on a pretrained backbone."""
        if self.freeze_epochs != "auto":
            return self.freeze_epochs
        return HEAD_EPOCHS if self.weights else 0

    @property
    def has_small(self) -> bool:
        """Whether the run begins on smaller images."""
        return self.small_epochs != "auto" and self.small_epochs > 0

    def small_px(self, stored_px: int) -> int:
        """The size of those, where input_size None is `stored_px`."""
        return max(32, 32 * round(SMALLER * (self.input_size or stored_px) / 32))

    @property
    def num_views(self) -> int:
        """From how many views of each training image the head learns; before it is settled one."""
        return 2 if self.freeze_flip is True else 1

    @property
    def batch(self) -> int:
        """Images a step on each replica; where that is "auto", how many it is on a CPU."""
        return 32 if self.per_replica_batch == "auto" else self.per_replica_batch

    def schedule_for(self, *, global_batch: int) -> schedules.Schedule:
        """The learning rate by epoch (0 is the first of the last phase) for such a batch.

        Where only the head learns it is that of the frozen epochs. Where max_lr is "auto" it is MAX_LR
        until a range test has measured it.
        """
        if not self.epochs:
            alone = replace(
                self, epochs=self.head_epochs, freeze_epochs=0, max_lr=self._highest_freeze_lr
            )
            return alone.schedule_for(global_batch=global_batch)
        return self._scaled(self._planned(), global_batch)

    def small_schedule_for(self, *, global_batch: int) -> schedules.Schedule:
        """The learning rate of the epochs on smaller images, by epoch."""
        alone = replace(self, epochs=self.small_epochs, small_epochs=0)
        return alone.schedule_for(global_batch=global_batch)

    def freeze_schedule_for(self, *, global_batch: int) -> schedules.Schedule:
        """The learning rate of the frozen epochs, by epoch."""
        if not self.epochs:
            return self.schedule_for(global_batch=global_batch)
        rate = self._highest_freeze_lr
        if self.schedule == "one-cycle":
            return self._scaled(schedules.OneCycle(rate, self.head_epochs), global_batch)
        return self._scaled(schedules.Constant(rate), global_batch)

    @property
    def highest_lr(self) -> float:
        """max_lr; where that is "auto", MAX_LR."""
        return MAX_LR if self.max_lr == "auto" else self.max_lr

    @property
    def _highest_freeze_lr(self) -> float:
        return self.highest_lr if self.freeze_lr is None else self.freeze_lr

    def _planned(self) -> schedules.Schedule:
        epochs, max_lr = self.network_epochs, self.highest_lr * (LAST_RATE if self.has_small else 1)
        ramp = (self.start_lr, max_lr, self.min_lr, self.rampup_epochs)
        if self.schedule == "ramp":
            return schedules.RampSustainDecay(*ramp, self.sustain_epochs, self.exp_decay)
        if self.schedule == "cosine":
            return schedules.CosineWarmup(*ramp, epochs)
        if self.schedule == "staircase":
            if self.sustain_epochs < 1 or self.sustain_epochs != int(self.sustain_epochs):
                raise ValueError(
                    f"a staircase keeps each stair for a whole number of sustain_epochs, 1 or more: "
                    f"pass sustain_epochs=10 (--sustain-epochs 10). Received: {self.sustain_epochs:g}"
                )
            return schedules.Staircase(max_lr, self.exp_decay, self.sustain_epochs, self.min_lr)
        if self.schedule == "one-cycle":  # fastai's figures, for fine_tune and for fit_one_cycle
            shape = (0.3, 5.0) if self.head_epochs else (0.25, 25.0)
            return schedules.OneCycle(max_lr, epochs, *shape)
        return schedules.Constant(max_lr)

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
        """Every field by name; ready for JSON, but for a `backbone` that is a model."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


TrainingPlan.__init__ = explain_arguments()(TrainingPlan.__init__)


def check_is_plan(plan) -> None:
    """Raise ValueError for what is no `TrainingPlan`, such as the name of one."""
    if not isinstance(plan, TrainingPlan):
        name = plan if isinstance(plan, str) else "fine-tune"
        raise ValueError(
            f"plan must be a TrainingPlan, such as load_plan({name!r}) or load_plan({name!r}, epochs=5)."
            f" Received: plan={plan!r}"
        )


def _check_type(name: str, value, hint) -> None:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    allowed = typing.get_args(hint) if is_union else (hint,)
    literals = [word for kind in allowed for word in typing.get_args(kind)]
    # An int serves as a float, but a bool, Python's third kind of int, is a slip.
    fits = type(value) in allowed or (float in allowed and type(value) is int)
    if not fits and not (isinstance(value, str) and value in literals):
        names = [kind.__name__ for kind in allowed if isinstance(kind, type) and kind is not _NONE]
        names += [repr(word) for word in literals] + ["None"] * (_NONE in allowed)
        raise ValueError(f"{name} must be {' or '.join(names)}. Received: {name}={value!r:.60}")


def _check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if not isinstance(value, str | None) or value not in choices:
        hint = explain_choice(str(value), filter(None, choices))
        raise ValueError(
            f"{name} must be one of {', '.join(map(str, choices))}. Received: "
            f"{name}={value!r:.60}."
            f"{_OTHER_WAYS.get(name, '') if not isinstance(value, str) else hint}"
        )


# What "auto" is --------------------------------------------------------------------------------------


def settle(
    plan: TrainingPlan,
    *,
    num_train: int,
    stored_px: int,
    kind: str,
    replicas: int,
    is_timed: bool = False,
    before: TrainingPlan | None = None,
) -> tuple[TrainingPlan, dict[str, str]]:
    """`plan` without "auto" but for max_lr and epochs, and the reason of each choice by field.

    For `num_train` images stored at `stored_px`, on a device of a `kind` (cpu, gpu, tpu) with so many
    replicas; `is_timed`: there is a time limit, by which the size is chosen later; `before`: the plan of
    the run whose head goes on (plan.weights). Raises ValueError for fewer images than replicas, or than
    a batch.
    """
    if num_train < replicas:
        raise ValueError(
            f"{num_train} training images are too few for {replicas} replicas, which each need one. "
            f"Pass require='cpu' (--require cpu), or add images."
        )
    pretrained = plan.weights is not None
    chosen, reasons = {}, {}

    def choose(field: str, value, reason: str) -> None:
        if getattr(plan, field) == "auto" and field not in chosen:
            chosen[field], reasons[field] = value, f"{value}: {reason}"

    batch = _choose_batch(num_train, kind, replicas)
    if plan.augmentation().mixes:
        batch = max(2, batch - batch % 2)  # images are mixed in pairs
    if (given := plan.batch * replicas) > num_train and plan.per_replica_batch != "auto":
        raise ValueError(
            f"a step takes {given:,} images ({plan.batch} on each of {pluralize(replicas, 'replica')}), "
            f"and there are {num_train:,} to train on. Pass per_replica_batch={batch} "
            f"(--per-replica-batch {batch})."
        )
    device = f"{replicas} x {kind.upper()}"
    choose("per_replica_batch", batch, f"on {device}, for {num_train:,} training images")
    steps = num_train // (replicas * chosen.get("per_replica_batch", plan.batch))
    backbone = "a pretrained backbone" if pretrained else "a backbone without weights"
    if before is not None:
        choose("freeze_epochs", 0, f"the head has learned in {plan.weights}")
        if before.max_lr != "auto":
            choose("max_lr", before.max_lr, f"that of {plan.weights}")
    choose("freeze_epochs", longer(plan.head_epochs, steps) if pretrained else 0, backbone)
    if chosen.get("freeze_epochs", plan.freeze_epochs):
        choose("freeze_flip", plan.flip, "as in training" if plan.flip else "no image is flipped")
    choose("freeze_norms", pretrained, backbone)
    choose("backbone_lr_factor", 0.2 if pretrained else None, backbone)
    if plan.input_size == "auto":
        is_slow = kind == "cpu" and not is_timed
        choose("input_size", *_choose_size(plan, stored_px, is_slow=is_slow))
    settled = replace(plan, **chosen)
    if settled.has_small and not _takes_small(settled, stored_px):
        raise ValueError(
            f"small_epochs={settled.small_epochs:g} need a network that takes images of "
            f"{settled.small_px(stored_px)} px, too, which {settled.backbone} does not: pass "
            f"small_epochs=0 (--small-epochs 0), or another backbone or input_size."
        )
    if reason := _refuse_small(settled, stored_px, is_timed=is_timed):
        choose("small_epochs", 0, reason)
    return replace(plan, **chosen), reasons


def _takes_small(plan: TrainingPlan, stored_px: int) -> bool:
    return takes_sizes(plan.backbone, plan.small_px(stored_px), plan.input_size or stored_px)


def _refuse_small(plan: TrainingPlan, stored_px: int, *, is_timed: bool) -> str | None:
    """Why the time does not decide whether a run begins on smaller images; None where it does."""
    if stored_px > (small_px := plan.small_px(stored_px)):
        return f"images of {small_px} px would lose what those of {stored_px} px show"
    if small_px >= (plan.input_size or stored_px):
        return f"images of {small_px} px are small"
    if not is_timed:
        return "without a time limit"
    if plan.epochs != "auto":
        return "the epochs are given"
    if not plan.freeze_epochs:
        return "the head does not learn first"
    if plan.schedule != "one-cycle":
        return f"the schedule is {plan.schedule}"
    if plan.head == "flatten" or not _takes_small(plan, stored_px):
        return f"the network does not take images of {small_px} px, too"
    return None


def _choose_size(plan: TrainingPlan, stored_px: int, *, is_slow: bool) -> tuple[int | None, str]:
    pretrained = plan.weights is not None
    if fixed := fixed_input_size(plan.backbone, with_weights=pretrained):
        return fixed, f"{plan.backbone} takes no other"
    if not pretrained:
        return None, "as stored; a backbone without weights has no size of its own"
    if is_slow and stored_px < SLOW_SIZE_PX:
        return SLOW_SIZE_PX, f"{stored_px} px on a CPU (224 is slower and better)"
    return SIZES_PX[0], f"pretrained backbones saw 224; stored are {stored_px}"


def _choose_batch(num_train: int, kind: str, replicas: int) -> int:
    batch = GLOBAL_BATCH[kind]
    while batch > 8 and num_train < FEWEST_STEPS_AN_EPOCH * batch:
        batch //= 2
    return max(1, min(max(1, batch // replicas), num_train // replicas))


def longer(epochs: float, steps_an_epoch: int) -> float:
    """`epochs`, or as many as a small set needs for a few hundred steps."""
    needed = math.ceil(FEWEST_STEPS_A_PHASE / max(1, steps_an_epoch))
    return max(epochs, min(MOST_EPOCHS, needed))


# The plans that ship ---------------------------------------------------------------------------------

# The default, as measured on two sets of photos with three seeds: the head on features first, then one
# cycle of the whole network with frozen norms, smaller rates towards its first layer, smoothed labels,
# averaged weights and light crops.
FINE_TUNE = TrainingPlan()
# What the competition's public notebooks do: a ramp to 4e-4 at a global batch of 128 in four epochs; all
# learns from the start.
RAMP = TrainingPlan(
    head="notebook",
    dropout=None,
    input_size=None,
    epochs=20,
    freeze_epochs=0,
    small_epochs=0,
    freeze_lr=None,
    freeze_norms=False,
    backbone_lr_factor=None,
    per_replica_batch=16,
    schedule="ramp",
    lr_reference_batch=128,
    ema=None,
    label_smoothing=0.0,
    random_erasing=0.25,
    **asdict(schedules.RAMP),
)
# The notebook as learners copy it. Its ramp is longer than most sessions, so the rate that it plots
# as a peak is rarely reached; its patience starts after the ramp.
NOTEBOOK = replace(
    RAMP,
    epochs=50,
    dropout=0.2,
    lr_reference_batch=None,
    min_crop_area=1.0,
    random_erasing=0.0,
    **asdict(schedules.NOTEBOOK),
)
# A small network for any CPU: proves a machine and an installation in a minute or two.
SMOKE = replace(
    RAMP,
    backbone="tiny",
    weights=None,
    input_size=64,
    epochs=12,
    per_replica_batch="auto",
    lr_reference_batch=None,
    start_lr=1e-3,
    max_lr=3e-3,
    min_lr=1e-4,
    rampup_epochs=2,
    exp_decay=0.75,
    patience=4,
    min_crop_area=1.0,
    random_erasing=0.0,
)
PLANS = {"fine-tune": FINE_TUNE, "ramp": RAMP, "notebook": NOTEBOOK, "smoke": SMOKE}


def name_plan(plan: TrainingPlan) -> str:
    """The name of a plan that ships; else "run"."""
    return next((name for name, shipped in PLANS.items() if shipped == plan), "run")


def load_plan(name_or_file: str | os.PathLike, **changes) -> TrainingPlan:
    """A plan by name (fine-tune, ramp, notebook, smoke) or from a JSON file of its fields.

    `changes` are fields with other values: `load_plan("smoke", epochs=4)`. Fields that a file leaves out
    keep their defaults. Raises FileNotFoundError, or ValueError for
    text that is no JSON object, an unknown field (with the nearest name) or an ill-typed value.
    """
    if str(name_or_file) in PLANS:
        return change_plan(PLANS[str(name_or_file)], changes)
    path = Path(name_or_file)
    if not path.is_file():
        raise FileNotFoundError(
            f"no plan {str(path)!r}: neither one of {', '.join(PLANS)} nor a file."
            f"{did_you_mean(str(path), PLANS)}"
        )
    values = read_json(path, what="a JSON object of plan fields")
    for name in ("fitted", "checksum"):  # a run's plan.json: how its values were found
        values.pop(name, None)
    return change_plan(change_plan(TrainingPlan(), values, where=str(path)), changes)


_MOST_FAULTS = 3  # that one message names


def change_plan(plan: TrainingPlan, changes: dict, *, where: str = "the plan") -> TrainingPlan:
    """`plan` with other values for the named fields. Raises ValueError, naming `where` they stood."""
    known = [field.name for field in fields(TrainingPlan)]
    unknown = [f"{name!r}.{explain_name(name, known)}" for name in changes if name not in known]
    if unknown:
        raise ValueError(" ".join(f"{where} has an unknown field {each}" for each in unknown))
    changes = _keep_rates_in_order(plan, changes)
    try:
        return replace(plan, **changes)
    except ValueError as error:
        alone = {name: _find_fault(plan, {name: value}) for name, value in changes.items()}
        faults = [
            fault
            for name, fault in alone.items()
            if fault == str(error) or _is_own(name, fault, changes)
        ]
        if str(error) not in faults:
            faults = [str(error)]
        faults = [fault.rstrip(".") for fault in dict.fromkeys(faults)]
        raise ValueError(f"{where}: {'; '.join(faults[:_MOST_FAULTS])}") from error


def _is_own(name: str, fault: str | None, changes: dict) -> bool:
    """Whether no other change, which the fault of one alone names, could mend it."""
    return bool(fault) and not any(
        re.search(rf"\b{other}\b", fault) for other in changes if other != name
    )


def _keep_rates_in_order(plan: TrainingPlan, changes: dict) -> dict:
    """`changes`, with the plan's own start_lr and min_lr where a lower max_lr takes them along."""
    rate = changes.get("max_lr")
    if not isinstance(rate, int | float):
        return changes
    above = [name for name in ("start_lr", "min_lr") if getattr(plan, name) > rate]
    taken = {name: float(f"{getattr(plan, name) * rate / plan.highest_lr:.3g}") for name in above}
    return taken | changes


def _find_fault(plan: TrainingPlan, changes: dict) -> str | None:
    try:
        replace(plan, **changes)
    except ValueError as error:
        return str(error)
