"""The folder of a run: what is refused before it begins, and one codec for each of its files."""

import logging
import math
import os
import platform
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowerkit.accelerator import Accelerator, versions
from flowerkit.data import FlowerData, find_shards
from flowerkit.files import (
    cache_folder,
    check_seal,
    find_marked,
    list_marked,
    locked,
    near_path,
    read_dataclass,
    read_json,
    remove_temporary,
    replacing,
    write_dataclass,
    write_sealed,
)
from flowerkit.photos import relabel
from flowerkit.schedules import Schedule
from flowerkit.submission import name_csv
from flowerkit.text import format_seconds, join_some, pluralize
from flowerkit.training.history import History
from flowerkit.training.phases import Phase
from flowerkit.training.plan import TrainingPlan, change_plan

if TYPE_CHECKING:  # it loads NumPy
    from flowerkit.data import Split

_log = logging.getLogger("flowerkit")

_REMEDY = "Restore the file, or train again in a new folder"

# In checkpoints/: what an epoch leaves.
EPOCH_FILES = {
    "last": "last-{epoch}.weights.h5",
    "best": "best-{epoch}.weights.h5",
    "predictions": "best-{epoch}.npz",
}


@dataclass(frozen=True)
class TrainedOn:
    """The data of a run, as environment.json records it.

    `folder` holds the shards; `photos` is the folder of photos that they were made from and `resize` is
    how those became squares, if there is one; `class_counts` are the images of each class in train and
    val; `images` describes each split by count, size and keys of its images, labels and ids;
    `relabelled` is that of the `FlowerData`, and so is `ids`, sorted.
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
    relabelled: dict[str, int | None] = field(default_factory=dict)
    ids: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def restore(self, data: FlowerData) -> FlowerData:
        """`data`, as they are found, with the labels and the splits of then."""
        return relabel(data, self.relabelled).divided(self.ids, self.counts)


@dataclass(frozen=True)
class Device:
    """The accelerator of a run, see `Accelerator`."""

    kind: str
    backend: str
    replicas: int
    precision: str
    reason: str
    hosts: int = 1


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
    into the time); `rest`: the present phase since the last fitting; `replicas` share a batch of the run
    since its last start.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    rest: Rest | None = None
    replicas: int | None = None

    def asked(self, plan: TrainingPlan) -> TrainingPlan:
        """`plan` as it was asked for, with "auto" where the run has chosen."""
        chosen = set(self.reasons) - {"max_minutes"}
        return replace(plan, **dict.fromkeys(chosen, "auto"))

    def without(self, names: Collection[str]) -> "Fitted":
        """Without the reasons of these fields, which are given now."""
        kept = {name: reason for name, reason in self.reasons.items() if name not in names}
        return replace(self, reasons=kept)

    def with_rest(self, phase: Phase | None) -> "Fitted":
        """With what is left of `phase`."""
        values = {each.name: getattr(phase, each.name) for each in fields(Rest)} if phase else None
        return replace(self, rest=values and Rest(**values))

    def restore(self, phase: Phase, num_epochs: int) -> Phase:
        """`phase` as it was fitted, unless the plan has been given another length since.

        `num_epochs` are done; what was fitted after them is gone with the epochs that are done again.
        """
        rest = self.rest
        if rest is None or (rest.number, rest.end) != (phase.number, phase.end):
            return phase
        if rest.first_epoch > num_epochs:
            return phase
        return replace(phase, **vars(rest))


@dataclass(frozen=True)
class _PlanFile:
    """What plan.json holds besides the fields of the plan."""

    fitted: Fitted = field(default_factory=Fitted)


TIME_USED = "its time was used"  # a stop_reason


@dataclass(frozen=True)
class RunResult:
    """result.json: how a run ended.

    `best_weights` are "raw" or "averaged". `seconds_per_epoch` and `images_per_second` are those of the
    last phase; `seconds`: from start to end of training, and of the epochs before it was resumed. The
    scores are None where there are no such images or no labels of them. `failed`: a fault ended it
    before the plan's end, such as a loss that is not a number.
    """

    stopped_at_epoch: int
    stop_reason: str
    interrupted: bool
    best_epoch: int
    best_weights: str
    seconds_per_epoch: float
    images_per_second: float
    val_f1: float | None = None
    val_accuracy: float | None = None
    val_loss: float | None = None
    first_step_seconds: float | None = None
    seconds: float | None = None
    test_f1: float | None = None
    test_accuracy: float | None = None
    test_images: int | None = None
    failed: bool = False

    def __str__(self) -> str:
        scores = "without validation"
        if self.val_f1 is not None:
            scores = f"macro F1 {self.val_f1:.4f} on val, accuracy {self.val_accuracy:.4f}"
        return (
            f"stopped at epoch {self.stopped_at_epoch} because {self.stop_reason}; best epoch "
            f"{self.best_epoch} ({self.best_weights} weights): {scores}; "
            f"{format_seconds(self.seconds_per_epoch)} an epoch, {self.images_per_second:,.0f} images/s"
        )

    @property
    def used_its_time(self) -> bool:
        """Whether a time limit decided how long it trained."""
        return self.stop_reason == TIME_USED


class RunFolder:
    """The files of a run, each with the one function that reads it.

    An epoch counts as soon as history.csv has its row, which is written after its other files:
    checkpoints/last-EPOCH, the state to resume from, and, of a best epoch, checkpoints/best-EPOCH, its
    weights and its predictions of val. Their names end with their checksum; those of the epoch before
    are kept too. result.json is written after what it tells of: while it is missing, the run is not
    finished.

    Every reading method raises FileNotFoundError where the file is missing and ValueError, naming the
    file, where it is damaged. Reading files loads no framework, except for `model` and
    `val_predictions`.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.plan_file = self.path / "plan.json"
        self.environment_file = self.path / "environment.json"
        self.history_file = self.path / "history.csv"
        self.result_file = self.path / "result.json"
        self.model_file = self.path / "model.keras"
        self.val_predictions_file = self.path / "val_predictions.npz"
        self.test_predictions_file = self.path / "test_predictions.npz"
        self.csv_files = [self.path / name_csv(is_of_photos=each) for each in (False, True)]
        self.report_file = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints"

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
        """`plan` with what this run has chosen for the fields that it leaves "auto".

        Raises FileNotFoundError for a backbone or weights that are neither where they were nor in or
        beside the run.
        """
        before, plan = self.plan().to_dict(), self._find_files(plan)
        for name, path in _list_files(plan).items():
            if not path.exists():
                raise FileNotFoundError(
                    f"the {name} of the run in {self}, {path}, is gone, and not in or beside the run. "
                    f"Put {path.name} into {self} (--out)."
                )
        if before["small_epochs"] == "auto":  # a run is older than the field
            before["small_epochs"] = 0
        left_open = [name for name, value in plan.to_dict().items() if value == "auto"]
        return replace(plan, **{name: before[name] for name in left_open})

    def _find_files(self, plan: TrainingPlan) -> TrainingPlan:
        """`plan` with the paths of what has moved together with the run."""
        found = {}
        for name, path in _list_files(plan).items():
            places = (folder / path.name for folder in (self.path, self.path.resolve().parent))
            if not path.exists() and (place := next(filter(Path.exists, places), None)):
                found[name] = str(place)
        return replace(plan, **found)

    def continue_with(self, plan: TrainingPlan, accelerator: Accelerator) -> TrainingPlan:
        """`plan` with this run's batches on another number of replicas; what has changed is logged.

        They pass the network in the parts of `plan`, or if it has none in those of the run.

        Raises ValueError where the replicas cannot share a batch.
        """
        before, own = self.environment().accelerator, self.plan().per_replica_batch
        parts = plan.accumulate if plan.accumulate > 1 else self.plan().accumulate
        global_batch = own * (self.fitted().replicas or before.replicas)
        batch, rest = divmod(global_batch, accelerator.replicas)
        if rest:
            possible = [str(n) for n in range(1, accelerator.replicas) if global_batch % n == 0]
            raise ValueError(
                f"the batches of the run in {self} have {pluralize(global_batch, 'image')}, which "
                f"{accelerator.replicas} replicas cannot share. Resume it on {join_some(possible, 9)} "
                f"of them (GPUs: CUDA_VISIBLE_DEVICES), or train in a new folder."
            )
        if plan.per_replica_batch not in (own, batch):
            raise ValueError(
                f"per_replica_batch is {plan.per_replica_batch}, but the batches of the run in {self} "
                f"have {pluralize(global_batch, 'image')}, {batch} a replica. Leave it, or "
                f"train in a new folder."
            )
        names = ("kind", "backend", "replicas", "hosts", "precision")
        pairs = ((name, getattr(before, name), getattr(accelerator, name)) for name in names)
        if changes := [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]:
            _log.info(
                f"the run goes on with another device: {join_some(changes)}; a batch stays "
                f"{pluralize(global_batch, 'image')}"
            )
        if plan.augmentation().mixes:
            parts = math.gcd(parts, max(1, batch // 2))  # of whole pairs
        return replace(plan, per_replica_batch=batch, accumulate=math.gcd(parts, batch))

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
        if self.environment_file.is_file() and self.history_file.exists():
            self._check_data(environment.data)
        write_dataclass(self.environment_file, environment)
        self.write_plan(plan, fitted)  # last: with it there is a run to resume

    def write_plan(self, plan: TrainingPlan, fitted: Fitted) -> None:
        """Write plan.json: the plan as far as it is decided, and how that was found."""
        write_sealed(self.plan_file, plan.to_dict() | {"fitted": asdict(fitted)})

    def _check_data(self, data: TrainedOn) -> None:
        before = self.environment().data
        remedy = "Resume it with its own data, or train in a new folder."
        for split, description in before.images.items():
            if data.images.get(split) != description:
                raise ValueError(
                    f"the run in {self} began with other images: {split} was {description} and is now "
                    f"{data.images.get(split)}. {remedy}"
                )
        if before.class_names != data.class_names:
            difference = describe_difference(before.class_names, data.class_names)
            raise ValueError(
                f"the run in {self} began with other names of classes ({difference}). {remedy}"
            )

    # Epochs ---------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out; what a killed one has left unfinished is removed.

        Raises FileExistsError, which names the process that has the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.path / ".lock", f"training into {self}"):
                remove_temporary(self.path)
                remove_temporary(self.checkpoints)
                yield
        finally:
            with suppress(OSError):  # unless there is something in it
                self.path.rmdir()

    def save_epoch(self, kind: str, epoch: int, save: Callable[[Path], None]) -> None:
        """Have `save` write a file of an epoch; `kind` is a key of EPOCH_FILES."""
        with replacing(self._name_epoch(kind, epoch), marked=True) as temporary:
            save(temporary)

    def find_epoch(self, kind: str, epoch: int) -> Path | None:
        """The file of an epoch; None where it is missing or, which is logged, damaged."""
        return find_marked(self._name_epoch(kind, epoch))

    def _name_epoch(self, kind: str, epoch: int | str) -> Path:
        number = epoch if epoch == "*" else f"{epoch:04d}"
        return self.checkpoints / EPOCH_FILES[kind].format(epoch=number)

    def prune(self, num_epochs: int) -> None:
        """Of each kind keep the newest two files of the first `num_epochs` epochs."""
        for kind in EPOCH_FILES:
            files = list_marked(self._name_epoch(kind, "*"))
            counted = [file for file in files if int(file.name.split("-")[1]) <= num_epochs]
            for file in set(files) - set(counted[-2:]):
                file.unlink(missing_ok=True)

    def take_up(self) -> History:
        """The history of a run that goes on, up to the newest epoch whose state is whole.

        What lies beyond is done again, which is logged; weights that are damaged are not the best.
        Raises ValueError where nothing whole is left of several epochs.
        """
        history = History.load(self.history_file, self.plan().monitor, cut=True)
        num_epochs = len(history)
        while history and not self.find_epoch("last", history.last["epoch"]):
            history.rows.pop()
        if num_epochs > 1 and not history:
            raise ValueError(
                f"{self.history_file} has {num_epochs} epochs, but {self.checkpoints} holds the whole "
                f"state of none (last-EPOCH). {_REMEDY}."
            )
        if len(history) < num_epochs:
            _log.warning(
                f"epoch {len(history) + 1} is done again: it was cut short, or its state is damaged"
            )
        elif not history:
            _log.warning("no epoch was complete: the run begins anew")
        self._find_best(history)
        return history

    def _find_best(self, history: History) -> None:
        while (best := history.best) and not (
            self.find_epoch("best", best["epoch"]) and self.find_epoch("predictions", best["epoch"])
        ):
            history.lost.add(best["epoch"])
        if history and not history.best:
            raise ValueError(
                f"{self.checkpoints} holds no whole weights of a best epoch (best-EPOCH). {_REMEDY}."
            )
        if history.lost:
            _log.warning(
                f"the best weights, of epoch {max(history.lost)}, are damaged or missing: the best that "
                f"is left is epoch {history.best['epoch']}"
            )

    def reopen(self) -> None:
        """Remove what tells of a finished run, before its model is replaced."""
        for file in (
            self.result_file,
            self.test_predictions_file,
            *self.csv_files,
            self.report_file,
        ):
            file.unlink(missing_ok=True)

    # Reading --------------------------------------------------------------------------------------

    def plan(self) -> TrainingPlan:
        """The plan of the run. Raises FileNotFoundError for a folder that is no run."""
        if not self.plan_file.is_file():
            near = next(iter(sorted(self.path.glob("*/plan.json"))), None)
            meant = f" Did you mean {near.parent}?" if near else near_path(self.path)
            meant = meant or " Run `flowerkit train`."
            raise FileNotFoundError(f"{self} is no run folder (no plan.json).{meant}")
        values = read_json(self.plan_file, remedy=_REMEDY)
        fields = {name: values[name] for name in values if name not in ("fitted", "checksum")}
        plan = change_plan(TrainingPlan(), fields, where=str(self.plan_file))
        check_seal(values, self.plan_file, remedy=f"{_REMEDY}; a run keeps its plan")
        return self._find_files(plan)

    def fitted(self) -> Fitted:
        """How the run chose what its plan left open."""
        return read_dataclass(self.plan_file, _PlanFile, remedy=_REMEDY).fitted

    def environment(self) -> Environment:
        """The device and the data of the run."""
        return read_dataclass(self.environment_file, Environment, remedy=_REMEDY)

    def csv_file(self) -> Path:
        """What it predicts for test: predictions.csv of a folder of photos, else submission.csv."""
        return self.csv_files[self.environment().data.photos is not None]

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

    def data(self, folder: str | os.PathLike | None = None) -> FlowerData:
        """The data that it was trained on, with the labels and the splits of then.

        `folder` is where their shards are now; None: where they were. Raises FileNotFoundError where
        they are gone.
        """
        trained_on = self.environment().data
        folder = trained_on.folder if folder is None else folder
        if not os.path.isdir(folder):
            remedy = ""
            if photos := trained_on.photos:
                command = f"check-data {shlex.quote(photos)}"
                if Path(folder).parent.resolve() != cache_folder().resolve():
                    command = f"convert {shlex.quote(photos)} {shlex.quote(str(folder))}"
                remedy = (
                    f": `flowerkit {command} --image-size {trained_on.image_size}`, with the options "
                    f"for labels and splits of then, makes them again"
                )
            raise FileNotFoundError(
                f"the images that {self} was trained on are not in {folder} any more. Put them back "
                f"there{remedy}."
            )
        found = find_shards(
            folder,
            image_size=trained_on.image_size,
            class_names=trained_on.class_names,
            origin=trained_on.origin,
        )
        return trained_on.restore(found)

    def split(self, name: str, data: FlowerData | None = None) -> "Split":
        """The images of a split as they were in training, in the same order; empty if it had none.

        `data` has them now; None: `self.data()`. Raises what that raises, and ValueError where it has
        other images.
        """
        from flowerkit.data import Split, load_split
        from flowerkit.prediction import describe_data

        data = self.data() if data is None else data
        if not self.environment().data.counts[name]:
            return Split.empty(data.image_size)
        split = load_split(data, name, on_corrupt=self.plan().on_corrupt, cache="none")
        if not self.environment().data.images.get(name, "").startswith(describe_data(split)):
            raise ValueError(
                f"{data.folder} holds others than the {name} images of {self}. Put those back; `report` "
                f"and `clean` take the data it was trained on from elsewhere, too (--data)."
            )
        return split


def _list_files(plan: TrainingPlan) -> dict[str, Path]:
    """The backbone and the weights of a plan, where they are files or a run."""
    paths = {"backbone": plan.backbone, "weights": plan.weights}
    return {
        name: Path(path)
        for name, path in paths.items()
        if isinstance(path, str) and path != "imagenet" and (name == "weights" or ".keras" in path)
    }


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
