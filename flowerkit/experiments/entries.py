"""The networks of a contest: which of them fit into the time, by measuring each before the first run."""

import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowerkit.accelerator import Accelerator
from flowerkit.experiments.folds import Folds
from flowerkit.models import check_network, list_backbones
from flowerkit.text import format_epochs, format_seconds, pluralize
from flowerkit.training import Pace, TrainingPlan, measure_pace

# What joins a pretrained network of Keras Applications where the time is long: of other families, whose
# mistakes are others.
MORE_BACKBONES = ("EfficientNetV2S", "ConvNeXtSmall")
END_SECONDS = 15  # for the blend and the page

_MARGIN = 1.1  # what was measured on a few batches is soon a little more

_log = logging.getLogger("flowerkit")


@dataclass(frozen=True)
class Entry:
    """A network of a contest, and how long its runs take."""

    name: str
    pace: Pace


def list_plans(plan: TrainingPlan, backbones: Sequence[str] | None) -> dict[str, TrainingPlan]:
    """The plan of each network by its name; `backbones` are NAME or NAME@PX, None: see MORE_BACKBONES.

    Raises ValueError for none, for the same twice, and what `check_network` raises.
    """
    if backbones is None:
        own = plan.backbone.lower()
        more = [name for name in MORE_BACKBONES if name.lower() != own]
        is_application = own in {row["name"].lower() for row in list_backbones()}
        backbones = [plan.backbone, *more * (is_application and plan.weights == "imagenet")]
    elif isinstance(backbones, str):
        backbones = [backbones]
    plans, folders = {}, set()
    for given in map(os.fspath, backbones):
        match = re.fullmatch(r"(.+)@(\d+)", given)
        text, size = (match[1], int(match[2])) if match else (given, plan.input_size)
        name = _name_folders(text) + (f"-{size}" if match else "")
        if name.lower() in folders:
            raise ValueError(
                f"backbones must differ, also in the names of their folders, and {given} would have "
                f"those of another, {name}. Received: {', '.join(map(str, backbones))}. Leave it out, "
                f"or rename its file."
            )
        folders.add(name.lower())
        plans[name] = replace(plan, backbone=text, input_size=size, max_minutes=None)
        check_network(text, plan.weights, None if size == "auto" else size)
    if not plans:
        raise ValueError("a contest needs one backbone or more. Received: none")
    return plans


def _name_folders(backbone: str) -> str:
    """How the folders of a network's runs begin: of a file with its name, of others with all of it."""
    if backbone.endswith(".keras"):
        return Path(backbone).stem
    return re.sub(r"[^\w.-]+", "-", backbone)


def choose_entries(
    plans: Mapping[str, TrainingPlan],
    folds: Folds,
    accelerator: Accelerator,
    deadline: float,
    *,
    must_build: bool,
) -> tuple[Entry, ...]:
    """The networks that fit into the time, each timed on a few batches; what fits is logged.

    Without `must_build` one that cannot be built, but for the first, is left out. Raises ValueError
    where not even the first one's folds fit.
    """
    data, count = folds.without(0), folds.count
    entries: list[Entry] = []
    for name, plan in plans.items():
        share = (deadline - time.monotonic() - END_SECONDS) / (count + count / (count - 1))
        try:
            entry = Entry(name, measure_pace(plan, data, accelerator, share))
        except (OSError, RuntimeError, ValueError) as error:  # weights that are not here
            if must_build or not entries:
                raise
            _log.warning(f"{name} is left out: {error}")
            continue
        seconds = deadline - time.monotonic() - END_SECONDS
        if not entries:
            _check_time(entry, folds, seconds)
        elif (epochs := _count_epochs([*entries, entry], folds, seconds)) < plan.network_epochs:
            _log.info(
                f"{name} is left out: with it each run would have {format_epochs(round(epochs, 1))} of "
                f"the network instead of {plan.network_epochs:g}"
            )
            continue
        entries.append(entry)
    full = min(plans[entry.name].network_epochs for entry in entries)
    _tell_what_fits(entries, folds, deadline - time.monotonic() - END_SECONDS, full)
    return tuple(entries)


def _check_time(entry: Entry, folds: Folds, seconds: float) -> None:
    """Refuse a time that is too short for features, compiling and csv of every run."""
    needed = _MARGIN * _sum_seconds([entry], folds, 0)
    if needed > seconds:
        missing = math.ceil((needed - seconds) / 6) / 10
        a_run = format_seconds(entry.pace.seconds(folds.without(0).counts, 0))
        raise ValueError(
            f"max_minutes is {missing:g} too few for {folds.count} folds of {entry.name} and a run on "
            f"everything: each takes about {a_run} before its network learns at all. Add at least "
            f"{missing:g} (--max-minutes), or pass fewer folds (--folds)."
        )


def _sum_seconds(entries: Sequence[Entry], folds: Folds, epochs: float) -> float:
    """What all runs of `entries` take, with so many epochs each; the last run is the slowest one's."""
    fold, everything = folds.without(0).counts, folds.together().counts
    last = max(entry.pace.seconds(everything, epochs) for entry in entries)
    return last + sum(folds.count * entry.pace.seconds(fold, epochs) for entry in entries)


def _count_epochs(entries: Sequence[Entry], folds: Folds, seconds: float) -> float:
    """How many epochs of its network each run has where all together take `seconds`."""
    once = _sum_seconds(entries, folds, 0)
    return max(0.0, seconds / _MARGIN - once) / (_sum_seconds(entries, folds, 1) - once)


def _tell_what_fits(
    entries: Sequence[Entry], folds: Folds, seconds: float, full_epochs: float
) -> None:
    epochs = _count_epochs(entries, folds, seconds)
    _log.info(
        f"into {format_seconds(seconds)} fit, as measured on a few batches, runs with about "
        f"{format_epochs(round(epochs, 1))} of the network each:"
    )
    counts = folds.without(0).counts
    for entry in entries:
        _log.info(
            f"  {entry.name} at {entry.pace.input_size or folds.data.image_size} px: {folds.count} "
            f"folds of {pluralize(counts['train'], 'image')}, about "
            f"{format_seconds(entry.pace.seconds(counts, epochs))} each"
        )
    _log.info(f"  the winner once more on all {len(folds.ids):,} images; then the blend")
    if epochs < full_epochs:
        # Blends of runs of 2 and 5 minutes were behind one run of 5 and 10: docs/measured.md.
        _log.warning(
            f"without a time limit each would have {full_epochs:g}: in so short a time one run of "
            f"`flowerkit train` is better than a blend of short ones"
        )
