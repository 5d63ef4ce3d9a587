"""The head of a report: what was run on what, and the headline figures. Draws nothing."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields

from flowerkit import metrics as evaluation
from flowerkit.pipeline import Augmentation
from flowerkit.reports.facts import SavedRun
from flowerkit.reports.html import Html, element, facts, figures, fold, table
from flowerkit.text import format_epochs
from flowerkit.training.phases import Phase, find_phases
from flowerkit.training.plan import TrainingPlan

# Told with the optimizer where they are on.
REFINEMENTS = (
    "weight_decay",
    "clip_norm",
    "ema",
    "label_smoothing",
    "focal_gamma",
    "class_weights",
)


def describe_run(run: SavedRun) -> Html:
    """What was trained on what, and the headline figures."""
    data, plan = run.environment["data"], run.plan
    pairs = [
        ("Data", f"{_origin(data)}, {len(run.class_names):,} classes"),
        ("Images", _describe_images(data, plan)),
        ("Network", _describe_network(plan)),
        ("Batches", _describe_batches(run)),
        *_describe_phases(run),
        ("Optimizer", _describe_optimizer(plan)),
        ("Augmentation", _describe_augmentation(plan.augmentation())),
        ("Stops", _describe_patience(plan)),
        ("Seed", str(plan.seed)),
    ]
    return element(
        "section",
        element("h1", f"Training report: {run.name}"),
        figures(_headlines(run)),
        element("p", _describe_end(run)),
        facts(pairs),
        fold("The whole plan", _plan_table(plan)),
    )


def format_seconds(seconds: float | None) -> str:
    """A duration as one says it.

    >>> [format_seconds(seconds) for seconds in (0.0421, 5.31, 42.4, 200, 5040, None)]
    ['0.04 s', '5.3 s', '42 s', '3 min 20 s', '1 h 24 min', 'not recorded']
    """
    if seconds is None or not math.isfinite(seconds):
        return "not recorded"
    if seconds < 90:
        return f"{seconds:.{0 if seconds >= 10 else 1 if seconds >= 1 else 2}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _headlines(run: SavedRun) -> list[tuple[str, str, str]]:
    done, seconds, rate, first = (
        run.rows[-1]["epoch"],
        *map(run.result.get, ("seconds_per_epoch", "images_per_second", "first_step_seconds")),
    )
    num_images, monitor = len(run.labels), run.plan.monitor
    cards = [
        (
            "Macro F1",
            f"{evaluation.macro_f1(run.labels, run.predicted):.3f}",
            "on validation images",
        ),
        (
            "Accuracy",
            f"{evaluation.accuracy(run.labels, run.predicted):.1%}",
            f"of {num_images:,} validation images",
        ),
        *_test_card(run.result),
        ("Best epoch", f"{run.best['epoch']}", f"of {done} done, by {monitor}"),
    ]
    if seconds:
        cards.append(("An epoch", format_seconds(seconds), f"{rate:,.0f} images/s" if rate else ""))
    if first:
        cards.append(("First step", format_seconds(first), "compiling included"))
    return cards


def _test_card(result: Mapping) -> list[tuple[str, str, str]]:
    """The score that no choice was made by, where the test images' labels are known."""
    if "test_f1" not in result:
        return []
    return [("F1 on test", f"{result['test_f1']:.3f}", f"on {result['test_images']:,} test images")]


def _describe_end(run: SavedRun) -> str:
    epochs = run.rows[-1]["epoch"]
    most = sum(phase.epochs for phase in _find_phases(run))
    reason = run.result.get("stop_reason")
    because = f", because {reason}" if reason else "; why was not recorded"
    return f"Stopped after epoch {epochs} of at most {most}{because}."


def _origin(data: Mapping) -> str:
    kinds = {"competition": "the competition's", "drawn": "drawn flowers", "folder": "a folder"}
    origin = kinds.get(data.get("origin"), "not recorded")
    folder = _stem(data.get("photos") or data.get("folder", ""))
    return f"{folder} ({origin})" if folder else origin


def _stem(path: str) -> str:
    """The last part of a path of any system, without the suffix of a model file."""
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2].removesuffix(".keras")


def _describe_images(data: Mapping, plan: TrainingPlan) -> str:
    counts, stored = data.get("counts", {}), data.get("image_size")
    parts = [f"{name} {number:,}" for name, number in counts.items()] or ["numbers not recorded"]
    parts.append(f"{stored} px" if stored else "size not recorded")
    if plan.input_size and plan.input_size != stored:
        parts.append(f"seen by the network at {plan.input_size} px")
    return ", ".join(parts)


def _describe_network(plan: TrainingPlan) -> str:
    start = f"from {plan.weights} weights" if plan.weights else "from random weights"
    dropout = "" if plan.dropout is None else f", dropout {plan.dropout:g}"
    return f"{_stem(plan.backbone)} {start}, head “{plan.head}”{dropout}"


def _describe_batches(run: SavedRun) -> str:
    batch, each = run.global_batch, run.plan.per_replica_batch
    parts = f" ({batch // each} replicas with {each} each)" if batch != each else ""
    return f"{batch:,} images a step{parts}"


def _describe_phases(run: SavedRun) -> list[tuple[str, str]]:
    """The learning rate; of each phase, where there are two."""
    phases = _find_phases(run)
    rates = [str(phase.schedule or f"{phase.first_lr:g} until a plateau") for phase in phases]
    if len(phases) == 1:
        return [("Learning rate", rates[0])]
    said = [
        f"{format_epochs(phase.epochs)}, {'the head alone' if phase.is_frozen else 'the network'}: {rate}"
        for phase, rate in zip(phases, rates, strict=True)
    ]
    return [(f"Phase {phase.number}", text) for phase, text in zip(phases, said, strict=True)]


def _find_phases(run: SavedRun) -> list[Phase]:
    return find_phases(run.plan, global_batch=run.global_batch)


def _describe_optimizer(plan: TrainingPlan) -> str:
    values = {name: getattr(plan, name) for name in REFINEMENTS}
    extras = [f"{name.replace('_', ' ')} {value}" for name, value in values.items() if value]
    return ", ".join([plan.optimizer, *extras])


def _describe_augmentation(augmentation: Augmentation) -> str:
    off = Augmentation(flip=False)
    changes = [
        field.name.replace("_", " ") + ("" if value is True else f" {value:g}")
        for field in fields(augmentation)
        if (value := getattr(augmentation, field.name)) != getattr(off, field.name)
    ]
    return ", ".join(changes) or "none"


def _describe_patience(plan: TrainingPlan) -> str:
    if plan.patience is None:
        return f"never early; the best epoch by {plan.monitor} is kept"
    return f"after {format_epochs(plan.patience)} without a better {plan.monitor}; the best is kept"


def _plan_table(plan: TrainingPlan) -> Html:
    rows = [
        (
            element("code", name),
            element("code", value if isinstance(value, str) else json.dumps(value)),
        )
        for name, value in plan.to_dict().items()
    ]
    return table(("field", "value"), rows, what="the whole plan", class_="plan")
