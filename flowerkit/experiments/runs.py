"""A study -> runs, one a plan and seed, each in its folder; what is there already is not done again."""

import contextlib
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from flowerkit.accelerator import Accelerator, connect
from flowerkit.data import FlowerData
from flowerkit.experiments.compare import Comparison, compare_runs
from flowerkit.experiments.compared import was_interrupted
from flowerkit.experiments.studies import find_study, spread_over_seeds
from flowerkit.files import read_json
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.run_folder import describe_difference, read_run
from flowerkit.training.trainer import train

_log = logging.getLogger("flowerkit")


def run_study(
    study: str | Mapping[str, TrainingPlan],
    data: FlowerData,
    out: str | os.PathLike,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int | None = None,
    accelerator: Accelerator | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Train every plan of `study` with every seed into out/NAME-seedK, and compare the runs.

    `study` is a name of `studies.STUDIES`, or plans of your own by name. `epochs` replaces theirs.
    A run that is finished in its folder is taken as it is, one that was cut short goes on, so that the
    same call after an interruption ends the study. `progress(what, done, total)` is called after every
    step. Raises ValueError for an unknown study, or a run in `out` that is of another plan or other
    data; RuntimeError when interrupted; else as `train` does.
    """
    plans = find_study(study) if isinstance(study, str) else study
    planned = spread_over_seeds(plans, tuple(seeds), epochs)
    out = Path(out)
    _check_out(out, plans)
    finished = {name: _check_run(out / name, plan, data) for name, plan in planned.items()}
    accelerator = accelerator or connect()
    with _advising_once():
        for number, (name, plan) in enumerate(planned.items(), 1):
            if finished[name]:
                _log.info(f"{name} ({number} of {len(planned)}): finished before")
                continue
            _log.info(f"{name} ({number} of {len(planned)})")
            _train_one(plan, data, out / name, accelerator, progress)
    return compare_runs([out / name for name in planned])


@contextlib.contextmanager
def _advising_once() -> Iterator[None]:
    """Of advice that every run would give alike, as on its steps, only the first is shown."""
    said = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_repeated = record.levelno >= logging.WARNING and text in said
        said.add(text)
        return not is_repeated

    _log.addFilter(is_new)
    try:
        yield
    finally:
        _log.removeFilter(is_new)


def _check_out(out: Path, plans: Mapping[str, TrainingPlan]) -> None:
    """Refuse (ValueError) a folder of another study, whose table would be replaced by this one's."""
    there = [file.parent.name for file in sorted(out.glob("*/plan.json"))]
    if there and not any(name.startswith(f"{plan}-seed") for name in there for plan in plans):
        raise ValueError(
            f"{out} holds runs of another study, such as {there[0]}. Pass another out (--out)."
        )


def _train_one(plan, data, folder: Path, accelerator: Accelerator, progress) -> None:
    # A run that was killed before its first epoch left no row to go on from.
    resume = (folder / "history.csv").is_file()
    run = train(plan, data, out=folder, accelerator=accelerator, resume=resume, progress=progress)
    if run.interrupted:
        raise RuntimeError(
            f"interrupted in {folder.name} after epoch {run.history[-1]['epoch']}. The same call or "
            f"command with out={shlex.quote(str(folder.parent))} goes on from there."
        )
    _log.info(f"{run}")


def _check_run(folder: Path, plan: TrainingPlan, data: FlowerData) -> bool:
    """Whether `folder` holds this run, finished; False if it is not there yet or was cut short."""
    if not (folder / "plan.json").is_file():
        return False
    known, environment = read_run(folder)
    differs = [
        f"{name} {getattr(known, name)} and {value}"
        for name, value in plan.to_dict().items()
        if getattr(known, name) != value
    ]
    if differs:
        raise ValueError(
            f"{folder} holds a run of another plan: {', '.join(differs)}. Pass another out (--out), or "
            f"remove it."
        )
    _check_data(folder, environment["data"], data)
    result = folder / "result.json"
    return result.is_file() and not was_interrupted(read_json(result))


def _check_data(folder: Path, known: Mapping, data: FlowerData) -> None:
    remedy = "Pass another out (--out), or the data of that run."
    if list(known["class_names"]) != list(data.class_names):
        parts = describe_difference(known["class_names"], tuple(data.class_names))
        raise ValueError(f"{folder} was trained on other classes ({parts}). {remedy}")
    before, now = (
        {**known["counts"], "px": known["image_size"]},
        {**data.counts, "px": data.image_size},
    )
    if before != now:
        raise ValueError(f"{folder} was trained on other images ({before} and {now}). {remedy}")
