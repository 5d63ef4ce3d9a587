"""Whether the score of a run is good, what held it back and what to try next: numbers in, sentences out.

The command line's last lines and the first lines of report.html say the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flowerkit import metrics
from flowerkit.synonyms import in_python
from flowerkit.text import format_epochs, format_value, join_some, percent, pluralize
from flowerkit.training.history import History
from flowerkit.training.plan import FINE_TUNE
from flowerkit.training.saved_run import SavedRun

# Of the way from chance to 1: bands of kappa (Landis and Koch, "The Measurement of Observer Agreement
# for Categorical Data", Biometrics 1977), where up to 0.4 is fair and 0.8 and more nearly perfect.
LOW, GOOD = 0.4, 0.8
HARDLY = 0.1
FEW_STEPS = 250  # of a phase; a network that began pretrained has then seen thousands of images
FEW_STEPS_AN_EPOCH = 20
SMALL_BATCH = 8
DIVERGED = 3  # times the loss of guessing all classes alike
STILL_RISING = 0.02  # in the last quarter of the epochs
OVERFITTED = 0.15  # between the accuracy on train and that on val
FEW_IMAGES_FROM_SCRATCH = 10_000
FEW_PHOTOS_A_CLASS = 20
NAMED_CLASSES = 3

_LEVELS = {
    "chance": "is no better than chance ({chance})",
    "hardly": "is hardly above chance ({chance})",
    "low": "is low, and above chance ({chance})",
    "fair": "is fair (chance: {chance})",
    "good": "is good (chance: {chance})",
}


@dataclass(frozen=True)
class Finding:
    """Something that held the score back: a `fact`, the `advice`, and what it changes in the plan.

    `name` is one of "failed", "interrupted", "diverged", "few steps", "still rising", "from scratch",
    "never predicted", "overfitted" and "few photos". `changes` are plan fields with new values, or
    {"plan": NAME}; empty where no option helps.
    """

    name: str
    fact: str
    advice: str
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> str:
        """The changes as options of `flowerkit train`: "--epochs 24"."""
        return " ".join(
            f"--{name.replace('_', '-')} {format_value(value)}"
            for name, value in self.changes.items()
        )

    @property
    def arguments(self) -> str:
        """The changes as arguments in Python: "epochs=24"."""
        values = {
            name: f"load_plan({value!r})" if name == "plan" else repr(value)
            for name, value in self.changes.items()
        }
        return ", ".join(f"{name}={value}" for name, value in values.items())

    def in_python(self) -> str:
        """The sentence for who has called `train` in Python."""
        changes = f" ({self.arguments})" if self.changes else ""
        return f"{self.fact}: {in_python(self.advice)}{changes}"

    def __str__(self) -> str:
        return f"{self.fact}: {self.advice}" + (f" ({self.options})" if self.changes else "")


@dataclass(frozen=True)
class Verdict:
    """How good a run's macro F1 on val is; all scores 0..1.

    `chance` is what guessing scores, `low` and `high` are the 95 % interval of what other images than
    these `num_images` would give. `level` is "chance", "hardly", "low", "fair" or "good". `findings`
    come most important first, `weakest` are up to three rows of `metrics.class_report` below the mean.
    """

    score: float
    chance: float
    low: float
    high: float
    num_images: int
    level: str
    findings: tuple[Finding, ...]
    weakest: tuple[dict[str, Any], ...]

    @property
    def is_good(self) -> bool:
        """Whether the level is "good"."""
        return self.level == "good"

    @property
    def headline(self) -> str:
        """The score beside chance, and its interval, in a sentence without a stop."""
        meaning = _LEVELS[self.level].format(chance=format_score(self.chance))
        return (
            f"macro F1 {format_score(self.score)} on val {meaning}; on other images than these "
            f"{self.num_images:,} it would be {format_score(self.low)} to {format_score(self.high)}"
        )

    def __str__(self) -> str:
        return "\n".join([self.headline, *map(str, self.findings)])


def judge(run: SavedRun) -> Verdict:
    """The verdict on a finished run, from its scores, its history and its plan; reads nothing."""
    labels, predicted = run.labels, run.predicted
    score, chance = metrics.macro_f1(labels, predicted), chance_f1(labels)
    low, high = metrics.bootstrap_score(labels, predicted)
    level = find_level(score, chance, low)
    rows = metrics.class_report(labels, predicted, run.class_names)
    diverged = _find_divergence(run)
    findings = (
        [diverged]
        if diverged
        else [
            _find_early_end(run),
            _find_short_training(run, level),
            _find_fresh_weights(run, level),
            _find_never_predicted(run, rows),
            _find_overfitting(run),
            _find_few_photos(run, level),
        ]
    )
    weakest = sorted((row for row in rows if row["f1"] < score), key=lambda row: row["f1"])
    return Verdict(
        score,
        chance,
        low,
        high,
        len(labels),
        level,
        tuple(filter(None, findings)),
        tuple(weakest[:NAMED_CLASSES]),
    )


def chance_f1(labels: np.ndarray) -> float:
    """The macro F1 that guessing comes to: 1 / the number of classes that occur in `labels`.

    Guesses as frequent as the classes are have a precision and a recall of each class's share p, so an
    F1 of p, and the shares' mean is 1 / classes. Guessing evenly, or the commonest class, scores less.

    >>> chance_f1(np.array([0, 0, 0, 1, 4]))
    0.3333333333333333
    """
    return 1 / len(np.unique(labels))


def find_level(score: float, chance: float, low: float) -> str:
    """ "chance", "hardly", "low", "fair" or "good"; `low` is the lower end of the score's interval.

    >>> [find_level(score, 0.2, score - 0.04) for score in (0.23, 0.27, 0.45, 0.8, 0.9)]
    ['chance', 'hardly', 'low', 'fair', 'good']
    """
    if low <= chance:
        return "chance"
    share = (score - chance) / (1 - chance) if chance < 1 else 1.0
    if share < HARDLY and score < 2 * chance:
        return "hardly"
    return "low" if share < LOW else "fair" if share < GOOD else "good"


def format_score(score: float) -> str:
    """Two digits; four where two would make a 1 of what is none.

    >>> [format_score(score) for score in (0.2, 0.9549, 0.9971, 1.0)]
    ['0.20', '0.95', '0.9971', '1.00']
    """
    return f"{score:.4f}" if 0.995 <= score < 1 else f"{score:.2f}"


# What held the score back ------------------------------------------------------------------------


def _find_early_end(run: SavedRun) -> Finding | None:
    result = run.result
    if result.failed:
        fact = f"not all of the plan was trained, because {result.stop_reason}"
        return Finding("failed", fact, "train again at a lower rate", _lower_rate(run))
    if result.interrupted:
        fact = f"it was interrupted in epoch {result.stopped_at_epoch + 1}"
        return Finding("interrupted", fact, "continue it (--resume)")
    return None


def _find_divergence(run: SavedRun) -> Finding | None:
    loss = run.history.last["loss"]
    guessing = math.log(len(run.class_names))
    if run.result.failed or not loss > DIVERGED * guessing:
        return None
    fact = (
        f"the loss ended at {loss:,.3g}, where guessing has {guessing:.2g}: the rate was too high"
    )
    return Finding(
        "diverged", fact, "train again at a lower rate, or ask lr-find", _lower_rate(run)
    )


def _lower_rate(run: SavedRun) -> dict[str, Any]:
    name = "freeze_lr" if _is_frozen(run, run.history.last) else "max_lr"
    rate = getattr(run.plan, name)
    return {name: float(f"{rate / 3:.2g}")} if isinstance(rate, float) else {}


def _find_short_training(run: SavedRun, level: str) -> Finding | None:
    plan, rows = run.plan, _last_phase(run.history)
    if run.result.failed or run.result.interrupted:
        return None
    is_frozen = _is_frozen(run, rows[-1])
    alike = [row for row in run.history if _is_frozen(run, row) == is_frozen]  # small images, too
    num_steps, longest = (how(int(row["steps"]) for row in alike) for how in (sum, max))
    longer = _train_longer(run, num_steps)
    if is_frozen and plan.epochs:
        return Finding("few steps", "the head alone learned", "train longer", longer)
    if num_steps < FEW_STEPS and (level != "good" or run.result.used_its_time):
        whose = "of the whole network" if rows[-1]["phase"] > 1 else "in all"
        fact = f"{pluralize(num_steps, 'training step')} {whose}, {longest} an epoch, are few"
        return Finding("few steps", fact, "train longer", longer)
    scores = [row["val_f1"] for row in rows if math.isfinite(row.get("val_f1", math.nan))]
    last = max(1, len(scores) // 4)
    if len(scores) < 2 or _has_stopped_early(run, rows):
        return None
    rise = max(scores[-last:]) - max(scores[:-last])
    if rise < STILL_RISING:
        return None
    span = format_epochs(last).removeprefix("1 ")
    fact = f"the score still rose in the last {span}, by {rise:.2f}"
    return Finding("still rising", fact, "train longer", longer)


def _is_frozen(run: SavedRun, row: dict) -> bool:
    """Whether an epoch trained the head alone, on features."""
    return row["phase"] == 1 and bool(run.plan.freeze_epochs)


def _last_phase(history: History) -> Sequence[dict]:
    return history.of_phase(history.last["phase"])


def _has_stopped_early(run: SavedRun, rows: History) -> bool:
    patience = run.plan.patience
    return patience is not None and rows.epochs_since_best() >= patience


def _train_longer(run: SavedRun, num_steps: int) -> dict[str, Any]:
    """Twice as long by what has ended the training: its time, early stopping or the epochs."""
    plan, rows = run.plan, _last_phase(run.history)
    changes = {}
    if run.result.used_its_time:
        changes["max_minutes"] = 2 * plan.max_minutes
    elif _has_stopped_early(run, rows):
        changes["patience"] = 2 * plan.patience
    else:
        name = "epochs" if plan.epochs else "freeze_epochs"
        needed = max(2.0, FEW_STEPS / num_steps)
        changes[name] = math.ceil(needed * max(len(rows), _number(getattr(plan, name))))
    batch = plan.per_replica_batch
    few = max(int(row["steps"]) for row in rows) < FEW_STEPS_AN_EPOCH
    if few and run.global_batch >= 2 * SMALL_BATCH and batch % 2 == 0:
        changes["per_replica_batch"] = batch // 2
    return changes


def _number(value: float | str) -> float:
    return 0.0 if isinstance(value, str) else value


def _find_fresh_weights(run: SavedRun, level: str) -> Finding | None:
    num_images = run.environment.data.counts["train"]
    if level == "good" or run.plan.weights is not None or num_images >= FEW_IMAGES_FROM_SCRATCH:
        return None
    if run.plan.has_own_backbone or run.plan.backbone.endswith(".keras"):
        return None  # its file has weights
    fact = f"the network began with random weights, and {num_images:,} images are few for that"
    changes: dict[str, Any] = {"plan": "fine-tune"}
    if run.plan.schedule == FINE_TUNE.schedule:  # it is that plan, without weights
        changes = {"backbone": FINE_TUNE.backbone, "weights": FINE_TUNE.weights}
    return Finding("from scratch", fact, "use a pretrained one", changes)


def _find_never_predicted(run: SavedRun, rows: Sequence[dict]) -> Finding | None:
    predicted = np.unique(run.predicted)
    if len(predicted) == 1 and len(rows) > 1:
        name = run.class_names[predicted[0]].strip()
        fact = f"every image is predicted as {name!r}"
        return Finding("never predicted", fact, "try a lower rate", _lower_rate(run))
    missing = sorted(set(np.unique(run.labels).tolist()) - set(predicted.tolist()))
    if not missing:
        return None
    names = join_some([run.class_names[k].strip() for k in missing], NAMED_CLASSES)
    verb = "is" if len(missing) == 1 else "are"
    fact = f"{len(missing)} of the {len(rows)} classes in val {verb} never predicted: {names}"
    counts = np.array(run.environment.data.class_counts["train"])
    rare = counts[missing].max() < np.median(counts[counts > 0]) / 2
    if rare and run.plan.class_weights is None:
        advice = "they have few photos; weigh the classes alike, or add photos"
        return Finding("never predicted", fact, advice, {"class_weights": "balanced"})
    return Finding("never predicted", fact, "add photos of them, and look at their labels")


def _find_overfitting(run: SavedRun) -> Finding | None:
    row = run.history.best
    if _is_frozen(run, row):
        return None  # features are those of the images as they are: nothing is augmented
    train, val = row["accuracy"], row["val_accuracy"]
    noise = 2 * math.sqrt(val * (1 - val) / len(run.labels))
    if train - val < max(OVERFITTED, noise):
        return None
    fact = f"overfitted: {percent(train)} of the training images are right, {percent(val)} of val's"
    return Finding(
        "overfitted", fact, "add photos, or augment them more (--min-crop-area, --mixup)"
    )


def _find_few_photos(run: SavedRun, level: str) -> Finding | None:
    counts = np.array(run.environment.data.class_counts["train"])
    median = int(np.median(counts[counts > 0]))
    if level == "good" or median >= FEW_PHOTOS_A_CLASS:
        return None
    fact = f"half of the classes have {pluralize(median, 'training photo')} or fewer"
    return Finding("few photos", fact, "more photos help most")
