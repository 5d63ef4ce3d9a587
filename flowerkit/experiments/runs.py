"""A study -> a run folder for each plan and seed; finished runs are not trained again."""

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowerkit.accelerator import Accelerator, connect
from flowerkit.console import Progress, shows_progress
from flowerkit.data import FlowerData
from flowerkit.experiments.comparison import Comparison, compare_runs
from flowerkit.experiments.studies import find_study, spread_over_seeds
from flowerkit.files import check_room
from flowerkit.training import RunFolder, TrainingPlan, TrainingResult, describe_difference, train

_log = logging.getLogger("flowerkit")


@shows_progress
def run_study(
    study: str | Mapping[str, TrainingPlan],
    data: FlowerData,
    out: str | os.PathLike,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int | None = None,
    accelerator: Accelerator | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Train every plan of `study` with every seed into out/NAME-seedK, and compare the runs.

    `study` is a name in `STUDIES`, or plans of your own by name. `epochs` replaces theirs. Runs that
    are finished stay as they are, interrupted ones continue. `progress(label, done, total)` is called
    after every step. Raises ValueError for an unknown study, or a run in `out` with a different plan
    or data; RuntimeError when interrupted; else as `train` does.
    """
    plans = find_study(study) if isinstance(study, str) else study
    planned = spread_over_seeds(plans, tuple(seeds), epochs)
    out = Path(out)
    _check_out(out, plans)
    check_room(out)
    finished = {
        name: _is_finished(RunFolder(out / name), plan, data) for name, plan in planned.items()
    }
    accelerator = accelerator or connect()
    for number, (name, plan) in enumerate(planned.items(), 1):
        _log.info(f"{name} ({number} of {len(planned)}){': finished before' * finished[name]}")
        if finished[name]:
            continue
        train_or_continue(data, plan, RunFolder(out / name), accelerator, progress)
    return compare_runs([out / name for name in planned])


def train_or_continue(
    data: FlowerData,
    plan: TrainingPlan,
    folder: RunFolder,
    accelerator: Accelerator,
    progress: Progress | None,
) -> TrainingResult:
    """One of the runs in a folder of several. Raises RuntimeError when interrupted."""
    result = train(
        data,
        plan,
        out=folder.path,
        accelerator=accelerator,
        # A run that ended before its first epoch has no row to continue from.
        resume=folder.history_file.is_file(),
        progress=progress,
    )
    if result.summary.interrupted:
        raise RuntimeError(
            f"interrupted in {folder.path.name} after epoch {len(result.history)}. The same call or "
            f"command with out={shlex.quote(str(folder.path.parent))} continues from there."
        )
    _log.info(f"{result.summary}")
    return result


def list_differing(before: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """The fields of `plan` that were others before, with both values."""
    return [
        f"{name} {before.get(name)} and {value}"
        for name, value in plan.items()
        if before.get(name) != value
    ]


def _check_out(out: Path, plans: Mapping[str, TrainingPlan]) -> None:
    """Refuse (ValueError) a folder of another study, whose table would be replaced by this study's."""
    names = [file.parent.name for file in sorted(out.glob("*/plan.json"))]
    if names and not any(name.startswith(f"{plan}-seed") for name in names for plan in plans):
        raise ValueError(
            f"{out} holds runs of another study, such as {names[0]}. Pass another out (--out)."
        )


def _is_finished(folder: RunFolder, plan: TrainingPlan, data: FlowerData) -> bool:
    """Whether the folder holds this run to its end. Raises ValueError for a different plan or data."""
    if not folder.plan_file.is_file():
        return False
    before = folder.fitted().asked(folder.plan())
    if differing := list_differing(before.to_dict(), plan.to_dict()):
        raise ValueError(
            f"{folder} holds a run of another plan: {', '.join(differing)}. Pass another out (--out), "
            f"or remove it."
        )
    trained_on = folder.environment().data
    remedy = "Pass another out (--out), or the data of that run."
    if trained_on.class_names != tuple(data.class_names):
        difference = describe_difference(trained_on.class_names, tuple(data.class_names))
        raise ValueError(f"{folder} was trained on different classes ({difference}). {remedy}")
    images = [{**source.counts, "px": source.image_size} for source in (trained_on, data)]
    if images[0] != images[1]:
        raise ValueError(
            f"{folder} was trained on different images ({images[0]} and {images[1]}). {remedy}"
        )
    return folder.result_file.is_file() and not folder.result().interrupted
