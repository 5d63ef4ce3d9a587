"""The folder of a run: refused, begun, read back."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from flowerkit.accelerator import Accelerator, versions
from flowerkit.data.tfrecords import FlowerData
from flowerkit.files import read_json, write_json
from flowerkit.models.classifier import load_model
from flowerkit.photos import load_conversion
from flowerkit.schedules import Schedule
from flowerkit.training.history import read_history
from flowerkit.training.plan import TrainingPlan, change_plan


def check_folder(out: Path, resume: bool, schedule: Schedule | None = None) -> None:
    """Refuse to write over a run (FileExistsError) or to resume none (FileNotFoundError).

    Raises ValueError for a run that is resumed by another schedule of your own than it began with.
    """
    if (out / "history.csv").exists() and not resume:
        raise FileExistsError(
            f"{out} already holds a run. Pass another folder, or resume=True (--resume) to go on."
        )
    if resume and not (out / "plan.json").exists():
        raise FileNotFoundError(f"no run to resume in {out} (no plan.json). Start without resume.")
    if resume and (out / "environment.json").is_file():
        began = read_json(out / "environment.json").get("schedule")
        if began != (schedule and str(schedule)):
            raise ValueError(
                f"the rate of the run in {out} followed {began or 'its plan'}, and would now follow "
                f"{schedule or 'its plan'}. Pass the same again: train(..., resume=True, "
                f"schedule={'YOURS' if began else None})."
            )


def check_images(out: Path, images: Mapping[str, str]) -> None:
    """Refuse (ValueError) to resume a run on other images than it began with; see `write_start`."""
    file = out / "environment.json"
    known = read_json(file)["data"].get("images") if file.is_file() else None
    differs = [name for name in images if known and known.get(name) != images[name]]
    if differs:
        name = differs[0]
        raise ValueError(
            f"the run in {out} began with other images: {name} was {known.get(name)} and is now "
            f"{images[name]}. Resume it with its own data, or train on this in a new folder."
        )


def write_start(
    out: Path,
    plan: TrainingPlan,
    data: FlowerData,
    accelerator: Accelerator,
    schedule: Schedule | None = None,
    *,
    class_counts: Mapping[str, Sequence[int]] | None = None,
    images: Mapping[str, str] | None = None,
) -> None:
    """Write plan.json and environment.json: what is about to be trained, on what, with what.

    `class_counts`: how many images each class has, in each split that is known. `images`: what
    `features.describe_data` says of the splits; a run that is resumed with others is refused.
    """
    conversion = load_conversion(data.folder)
    write_json(out / "plan.json", plan.to_dict())
    write_json(
        out / "environment.json",
        {
            "accelerator": accelerator.to_dict(),
            "schedule": schedule and str(schedule),  # of your own, over the plan's
            "python": platform.python_version(),
            "machine": platform.platform(),
            "versions": versions(),
            "data": {
                "folder": str(data.folder.resolve()),
                "origin": data.origin,
                "photos": conversion.source if conversion else None,
                "resize": conversion.resize if conversion else None,
                "image_size": data.image_size,
                "counts": dict(data.counts),
                "class_names": list(data.class_names),
                "class_counts": dict(class_counts or {}),
                "images": dict(images or {}),
            },
        },
    )


def read_whole_epochs(out: Path, steps: int) -> list[dict[str, float]]:
    """The history without an epoch that the time cut off: it is done again."""
    return [row for row in read_history(out / "history.csv") if row["steps"] == steps]


def load_run(folder: str | os.PathLike) -> tuple[TrainingPlan, dict, keras.Model]:
    """The plan, the environment and the model of a run folder.

    Raises FileNotFoundError if it is none, ValueError if a file in it is damaged.
    """
    plan, environment = read_run(folder)
    return plan, environment, load_model(folder)


def read_run(folder: str | os.PathLike) -> tuple[TrainingPlan, dict]:
    """The plan and the environment of a run folder, without its model."""
    folder = Path(folder)
    plan_file = folder / "plan.json"
    if not plan_file.is_file():
        near = next((path.parent for path in sorted(folder.glob("*/plan.json"))), None)
        hint = f"Did you mean {near}?" if near else "Run `flowerkit train`."
        raise FileNotFoundError(f"{folder} is no run folder (no plan.json). {hint}")
    plan = change_plan(
        TrainingPlan(), json.loads(plan_file.read_text(encoding="utf-8")), where=str(plan_file)
    )
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    return plan, environment


def describe_difference(known: list[str], held: tuple[str, ...]) -> str:
    """Where two lists of class names part, for an error: "class 3 is 'iris' and 'rose'"."""
    if len(known) != len(held):
        return f"{len(known)} and {len(held)}"
    number = next(k for k, pair in enumerate(zip(known, held, strict=True)) if len(set(pair)) == 2)
    return f"class {number} is {known[number]!r} and {held[number]!r}"
