"""The folder of a run: what is refused before it begins, and one codec for each of its files."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from flowerkit.accelerator import Accelerator, versions
from flowerkit.data import FlowerData
from flowerkit.files import read_dataclass, read_json, replacing, write_dataclass, write_json
from flowerkit.photos import load_conversion
from flowerkit.schedules import Schedule
from flowerkit.training.history import History
from flowerkit.training.phases import Phase
from flowerkit.training.plan import TrainingPlan, change_plan

_REMEDY = "Restore the file, or train again in a new folder"


@dataclass(frozen=True)
class TrainedOn:
    """The data of a run, as environment.json records it.

    `folder` holds the shards; `photos` is the folder of photos that they were made from and `resize` is
    how those became squares, if there is one; `class_counts` are the images of each class in train and
    val; `images` describes the images of each split by count, size and a key
    (`features.describe_data`).
    """

    folder: str
    origin: str
    photos: str | None
    resize: str | None
    image_size: int
    counts: dict[str, int]
    class_names: tuple[str, ...]
    class_counts: dict[str, tuple[int, ...]]
    images: dict[str, str]


@dataclass(frozen=True)
class Device:
    """The accelerator of a run, see `Accelerator`."""

    kind: str
    backend: str
    replicas: int
    precision: str
    reason: str


@dataclass(frozen=True)
class Environment:
    """environment.json: where a run was trained, with what, and on which data.

    `schedule` describes a learning-rate schedule given in Python, which replaced the plan's.
    """

    accelerator: Device
    data: TrainedOn
    schedule: str | None = None
    python: str = field(default_factory=platform.python_version)
    machine: str = field(default_factory=platform.platform)
    versions: dict[str, str | None] = field(default_factory=versions)

    @classmethod
    def of(
        cls,
        data: FlowerData,
        accelerator: Accelerator,
        schedule: Schedule | None,
        *,
        class_counts: Mapping[str, list[int]],
        images: Mapping[str, str],
    ) -> "Environment":
        """The environment of this process, for a run on `data`."""
        conversion = load_conversion(data.folder)
        trained_on = TrainedOn(
            folder=str(data.folder.resolve()),
            origin=data.origin,
            photos=conversion.source if conversion else None,
            resize=conversion.resize if conversion else None,
            image_size=data.image_size,
            counts=dict(data.counts),
            class_names=tuple(data.class_names),
            class_counts={split: tuple(counts) for split, counts in class_counts.items()},
            images=dict(images),
        )
        device = Device(
            **{field.name: getattr(accelerator, field.name) for field in fields(Device)}
        )
        return cls(device, trained_on, schedule and str(schedule))


@dataclass(frozen=True)
class Rest:
    """What is left of a phase, as the time was last divided; see the fields of `Phase`."""

    number: int
    first_epoch: int
    epochs: int
    steps: int
    start: float
    end: float
    first_patient_epoch: float | None


@dataclass(frozen=True)
class Fitted:
    """How a run chose what its plan left open, in plan.json beside the plan.

    `reasons` by field, with what was measured ("max_minutes": how a given number of epochs was fitted
    into the time); `rest`: the present phase since the last fitting.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    rest: Rest | None = None

    def asked(self, plan: TrainingPlan) -> TrainingPlan:
        """`plan` as it was asked for, with "auto" where the run has chosen."""
        chosen = set(self.reasons) - {"max_minutes"}
        return replace(plan, **dict.fromkeys(chosen, "auto"))

    def with_rest(self, phase: Phase | None, reasons: dict[str, str]) -> "Fitted":
        """With what is left of `phase` and more reasons."""
        values = {each.name: getattr(phase, each.name) for each in fields(Rest)} if phase else None
        return Fitted(self.reasons | reasons, values and Rest(**values))

    def restore(self, phase: Phase) -> Phase:
        """`phase` as it was fitted, unless the plan has been given another length since."""
        rest = self.rest
        if rest is None or (rest.number, rest.end) != (phase.number, phase.end):
            return phase
        return replace(phase, **vars(rest))

    def is_part(self, row: Mapping[str, float]) -> bool:
        """Whether the time cut the epoch of a row of the history short."""
        rest = self.rest
        fits = rest and rest.number == row["phase"] and row["epoch"] > rest.first_epoch
        return bool(fits and row["steps"] < rest.steps)


@dataclass(frozen=True)
class _PlanFile:
    """What plan.json holds besides the fields of the plan."""

    fitted: Fitted = field(default_factory=Fitted)


@dataclass(frozen=True)
class RunResult:
    """result.json: how a run ended.

    `best_weights` are "raw" or "averaged". The test scores are None without known test labels.
    """

    stopped_at_epoch: int
    stop_reason: str
    interrupted: bool
    best_epoch: int
    best_weights: str
    val_f1: float
    val_accuracy: float
    val_loss: float
    seconds_per_epoch: float
    images_per_second: float
    first_step_seconds: float | None = None
    test_f1: float | None = None
    test_accuracy: float | None = None
    test_images: int | None = None

    def __str__(self) -> str:
        return (
            f"stopped at epoch {self.stopped_at_epoch} because {self.stop_reason}; best epoch "
            f"{self.best_epoch} ({self.best_weights} weights): macro F1 {self.val_f1:.4f} on val, "
            f"accuracy {self.val_accuracy:.4f}; {self.seconds_per_epoch:.1f} s an epoch, "
            f"{self.images_per_second:,.0f} images/s"
        )


class RunFolder:
    """The files of a run, each with the one function that reads it.

    Every reading method raises FileNotFoundError where the file is missing and ValueError, naming the
    file, where it is damaged. Reading loads no framework, except for `model` and `val_predictions`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.plan_file = self.path / "plan.json"
        self.environment_file = self.path / "environment.json"
        self.history_file = self.path / "history.csv"
        self.result_file = self.path / "result.json"
        self.model_file = self.path / "model.keras"
        self.val_predictions_file = self.path / "val_predictions.npz"
        self.submission_file = self.path / "submission.csv"
        self.report_file = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints"
        self.best_weights = self.checkpoints / "best.weights.h5"
        self.last_weights = self.checkpoints / "last.weights.h5"

    def __str__(self) -> str:
        return str(self.path)

    # Beginning ------------------------------------------------------------------------------------

    @classmethod
    def start(cls, path: str | os.PathLike) -> "RunFolder":
        """A folder for a new run. Raises FileExistsError where a run is already."""
        folder = cls(path)
        if folder.history_file.exists():
            raise FileExistsError(
                f"{folder} already holds a run. Pass another folder, or resume=True (--resume) to "
                f"continue it."
            )
        return folder

    @classmethod
    def resume(cls, path: str | os.PathLike, schedule: Schedule | None = None) -> "RunFolder":
        """The folder of a run that continues, with the `schedule` that it began with.

        Raises FileNotFoundError where there is no run, and ValueError for another schedule.
        """
        folder = cls(path)
        if not folder.plan_file.exists():
            raise FileNotFoundError(
                f"no run to resume in {folder} (no plan.json). Start without resume."
            )
        before = folder.environment().schedule
        if before != (schedule and str(schedule)):
            raise ValueError(
                f"the learning rate of the run in {folder} followed {before or 'its plan'}, and would "
                f"now follow {schedule or 'its plan'}. Pass the same again: train(..., resume=True, "
                f"schedule={'YOURS' if before else None})."
            )
        return folder

    def complete(self, plan: TrainingPlan) -> TrainingPlan:
        """`plan` with what this run has chosen for the fields that it leaves "auto"."""
        before = self.plan().to_dict()
        left_open = [name for name, value in plan.to_dict().items() if value == "auto"]
        return replace(plan, **{name: before[name] for name in left_open})

    def with_its_precision(self, accelerator: Accelerator) -> Accelerator:
        """`accelerator` with the precision that the run began with: its weights go with no other."""
        return replace(accelerator, precision=self.environment().accelerator.precision)

    def with_its_backbone(self, plan: TrainingPlan) -> TrainingPlan:
        """`plan` with a backbone that is a model kept in a file of the run, whose path it then names."""
        if not plan.has_own_backbone:
            return plan
        with replacing(self.path / "backbone.keras") as temporary:
            plan.backbone.save(temporary)
        return replace(plan, backbone=str((self.path / "backbone.keras").resolve()))

    def write_start(self, plan: TrainingPlan, fitted: Fitted, environment: Environment) -> None:
        """Write plan.json and environment.json before training.

        Raises ValueError where a run that is resumed began with other images.
        """
        if self.environment_file.is_file():
            self._check_images(environment.data.images)
        self.write_plan(plan, fitted)
        write_dataclass(self.environment_file, environment)

    def write_plan(self, plan: TrainingPlan, fitted: Fitted) -> None:
        """Write plan.json: the plan as far as it is decided, and how that was found."""
        write_json(self.plan_file, plan.to_dict() | {"fitted": asdict(fitted)})

    def _check_images(self, images: Mapping[str, str]) -> None:
        before = self.environment().data.images
        for split, description in before.items():
            if images.get(split) != description and self.history_file.exists():
                raise ValueError(
                    f"the run in {self} began with other images: {split} was {description} and is now "
                    f"{images.get(split)}. Resume it with its own data, or train in a new folder."
                )

    # Reading --------------------------------------------------------------------------------------

    def plan(self) -> TrainingPlan:
        """The plan of the run. Raises FileNotFoundError for a folder that is no run."""
        if not self.plan_file.is_file():
            near = next(iter(sorted(self.path.glob("*/plan.json"))), None)
            remedy = f"Did you mean {near.parent}?" if near else "Run `flowerkit train`."
            raise FileNotFoundError(f"{self} is no run folder (no plan.json). {remedy}")
        values = read_json(self.plan_file, remedy=_REMEDY)
        values.pop("fitted", None)
        return change_plan(TrainingPlan(), values, where=str(self.plan_file))

    def fitted(self) -> Fitted:
        """How the run chose what its plan left open."""
        return read_dataclass(self.plan_file, _PlanFile, remedy=_REMEDY).fitted

    def environment(self) -> Environment:
        """The device and the data of the run."""
        return read_dataclass(self.environment_file, Environment, remedy=_REMEDY)

    def history(self) -> History:
        """The epochs so far; an empty history before the first."""
        return History.load(self.history_file, self.plan().monitor)

    def result(self) -> RunResult:
        """How the run ended. Raises FileNotFoundError while it has not."""
        if not self.result_file.is_file():
            raise FileNotFoundError(
                f"{self} is not finished (no result.json). Continue it: flowerkit train --resume "
                f"--out {self}"
            )
        return read_dataclass(self.result_file, RunResult, remedy=_REMEDY)

    def write_result(self, result: RunResult) -> None:
        """Write result.json."""
        write_dataclass(self.result_file, result)

    def model(self):
        """The classifier with the best weights, a `keras.Model`, not compiled."""
        from flowerkit.models import load_model

        return load_model(self.model_file)

    def val_predictions(self):
        """The `Predictions` of val at the best epoch."""
        from flowerkit.prediction import Predictions

        return Predictions.load(self.val_predictions_file)


def find_goes_on(plan: TrainingPlan, class_names: Sequence[str]) -> TrainingPlan | None:
    """The plan of the run that `plan.weights` names, if its head goes on with these classes."""
    if plan.weights in (None, "imagenet") or not os.path.isdir(plan.weights):
        return None
    run = RunFolder(plan.weights)
    if not run.environment_file.is_file():
        return None
    before = run.plan()
    same_head = (before.head, before.binary) == (plan.head, plan.binary)
    if plan.head == "flatten":  # its weights fit one size of the map
        same_head &= before.input_size == plan.input_size
    same_classes = run.environment().data.class_names == tuple(class_names)
    return before if same_head and same_classes else None


def describe_difference(first: tuple[str, ...], second: tuple[str, ...]) -> str:
    """Where two lists of class names differ, for an error: "class 3 is 'iris' and 'rose'"."""
    if len(first) != len(second):
        return f"{len(first)} and {len(second)}"
    number = next(k for k, (one, two) in enumerate(zip(first, second, strict=True)) if one != two)
    return f"class {number} is {first[number]!r} and {second[number]!r}"
