"""An option for every field of a TrainingPlan: its words, and how its text is read."""

import argparse
import contextlib
import types
import typing

from flowerkit.training.plan import COMPETITION, TrainingPlan

_PLAN_HELP = {
    "backbone": "a Keras Applications name, tiny, or a .keras file",
    "weights": "imagenet, a weights file, or none",
    "head": "notebook (as in the competition's), pooled (the usual one), plain, concat or flatten",
    "dropout": "the fraction of the features left out while training",
    "binary": "tell two classes apart by one sigmoid",
    "image_size": "which of the stored sizes, in px (none: 224 if it is there, or the only one)",
    "input_size": "what the backbone sees, in px; images are resized (none: as stored)",
    "epochs": "the most epochs to train (0: the frozen ones are all)",
    "freeze_epochs": "epochs before them in which the head alone learns",
    "freeze_lr": "learning rate of those (none: max_lr)",
    "feature_views": "from features of so many views of an image, computed once (0: from images; none: 1 "
    "where nothing is augmented)",
    "unfreeze_from": "then learn from this layer or stage on, or this last part of them (none: all)",
    "freeze_norms": "the backbone's normalisation neither learns nor updates",
    "backbone_lr_factor": "rate of the backbone's first layer over the head's (none: the same)",
    "per_replica_batch": "images a step on each replica (a chip, a GPU)",
    "schedule": "ramp (up, hold, decay), cosine, staircase, one-cycle or constant",
    "start_lr": "learning rate at the start of the ramp",
    "max_lr": "learning rate at its top, and the constant one",
    "min_lr": "learning rate that the decay ends at",
    "rampup_epochs": "epochs from start_lr to max_lr",
    "sustain_epochs": "epochs at max_lr",
    "exp_decay": "factor an epoch after that",
    "stair_epochs": "epochs between two stairs of exp_decay",
    "lr_reference_batch": "the global batch the rates are meant for (none: use them as they stand)",
    "plateau_patience": "epochs without a better one until a constant rate falls (none: never)",
    "plateau_factor": "by this factor",
    "plateau_cooldown": "epochs after a fall that do not count towards the next",
    "optimizer": "adam, adamw, sgd or lamb",
    "weight_decay": "of each weight, in the rate's units (adamw, sgd, lamb; none: off)",
    "momentum": "of sgd, or beta_1 of the others",
    "clip_norm": "the longest the gradient may be (none: off)",
    "ema": "keep an average of the weights, this part of it each step (none: off)",
    "label_smoothing": "the part of each label that is spread over all classes",
    "focal_gamma": "of the focal loss (none: off)",
    "class_weights": "balanced, or none",
    "monitor": "what decides which epoch is best: val_f1, val_accuracy, val_loss ...",
    "patience": "epochs after the ramp without a better one until training stops (none: never)",
    "steps_per_execution": "steps that TensorFlow runs between two looks by Python",
    "flip": "mirror half of the training images",
    "min_crop_area": "keep a random part of each, from this fraction of its area up (1: all of it)",
    "max_shift": "shift by up to this fraction of the side",
    "max_zoom": "zoom in or out by up to this factor (1: not)",
    "max_rotation_degrees": "turn by up to so much, either way",
    "max_shear_degrees": "shear by up to so much, either way",
    "max_brightness": "brighter or darker by up to this fraction of the range",
    "max_contrast": "more or less contrast by up to this fraction",
    "random_erasing": "how often a grey rectangle hides a part (0..1)",
    "mixup": "alpha of mixup (0: off)",
    "cutmix": "alpha of cutmix (0: off)",
    "augment_on": "device, host (the input's threads) or auto (the host, if the device is a CPU)",
    "checkpoint_every": "keep the weights of every so many epochs, beside best and last (none: not)",
    "keep": "decoded images stay in ram, on disk, in none, on the device, or auto: ram, disk or none",
    "seed": "of weights, order, flips and dropout",
    "max_minutes": "end in time to predict and write (none: no limit)",
    "on_corrupt": "raise or skip, at a bad record",
    "tensorboard": "write logs for TensorBoard",
    "cpu_bfloat16": "train in bfloat16 on a CPU that has it",
}


def add_plan_fields(parser: argparse.ArgumentParser) -> None:
    """An option for every field of a TrainingPlan; one that is not given is no attribute."""
    group = parser.add_argument_group(
        "plan fields", "They go over what the plan says; in brackets the competition plan's values."
    )
    for name, hint in typing.get_type_hints(TrainingPlan).items():
        option, value = "--" + name.replace("_", "-"), getattr(COMPETITION, name)
        shared = {"help": f"{_PLAN_HELP[name]} [{_spell(value)}]", "default": argparse.SUPPRESS}
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if kinds == (bool,):
            group.add_argument(option, action=argparse.BooleanOptionalAction, **shared)
        else:
            kind = next(kind for kind in kinds if kind is not types.NoneType)
            read = _reader(kind, optional=types.NoneType in kinds, or_number=float in kinds)
            metavar = {str: "NAME", int: "N", float: "X"}[kind]
            group.add_argument(option, type=read, metavar=metavar, **shared)


def _spell(value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    return str(value)


def _reader(kind: type, *, optional: bool, or_number: bool):
    def read(text: str):
        if optional and text.lower() == "none":
            return None
        if or_number:  # of a name or a number
            with contextlib.suppress(ValueError):
                return float(text)
        return kind(text)

    read.__name__ = kind.__name__  # argparse says "invalid int value" with it
    return read
