"""What a run came to, in the parts of its report: computes a little, draws nothing.

The first part, what was run, is `report_plan`'s.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flowerkit import metrics as evaluation
from flowerkit.reports.facts import SavedRun
from flowerkit.reports.html import (
    Html,
    Picture,
    bar_cell,
    element,
    facts,
    fold,
    image,
    join,
    name_of,
    scrolling,
    section,
    table,
)
from flowerkit.submission import check_submission, read_ids
from flowerkit.text import percent

LISTED_PAIRS = 10
SHOWN_CLASSES = 10  # the worst of them; all of them are folded
WIDE_PX = 1200  # a picture beyond it stands in several columns
UNFOLDED_CLASSES = 15  # up to here all are shown at once
SHOWN_PROBLEMS, MOST_PROBLEMS = 20, 500  # the second of those that are folded


def describe_data(run: SavedRun, histogram: Picture, undrawable: Sequence[str] = ()) -> Html:
    """How many images of how many classes there are, and of which few."""
    counts = find_class_counts(run)
    pairs = [(f"{split} images", _spread(of_split)) for split, of_split in counts.items()]
    if "train" in counts:
        rarest = [i for i in np.argsort(counts["train"], kind="stable") if counts["train"][i]]
        said = [
            join([name_of(run.class_names[i]), f": {counts['train'][i]:,}"]) for i in rarest[:3]
        ]
        pairs.append(("Fewest in train", join(said, ", ")))
    wide = histogram.width_px > WIDE_PX
    shown = element("figure", _fitted(histogram, *((0.7, 1) if wide else (0.48, 0.67))))
    note = _note_letters(undrawable) if undrawable else ""
    return section("The data", facts(pairs), scrolling(shown, what="images of each class"), note)


def find_class_counts(run: SavedRun) -> dict[str, np.ndarray]:
    """The images of each class, (num_classes,) int64, of train, where the run recorded it, and val."""
    recorded = run.environment["data"].get("class_counts", {}).get("train")
    num_classes = len(run.class_names)
    val = evaluation.count_classes(run.labels, num_classes)
    if recorded is None or len(recorded) != num_classes or not any(recorded):
        return {"val": val}
    return {"train": np.asarray(recorded, "int64"), "val": val}


def describe_training(run: SavedRun, curves: Sequence[Picture]) -> Html:
    """The curves, and the same in numbers."""
    plots = [element("figure", image(curve)) for curve in curves]
    return section(
        "Training",
        element("div", *plots, class_="plots"),
        _describe_losses(run),
        fold("Every epoch in numbers", _epoch_table(run)),
    )


def _describe_losses(run: SavedRun) -> Html:
    """Why the training loss may lie above that of validation without anything being wrong."""
    plan = run.plan
    kinds = {
        "label smoothing": plan.label_smoothing,
        "focal loss": plan.focal_gamma,
        "class weights": plan.class_weights,
        "mixup": plan.mixup,
        "cutmix": plan.cutmix,
    }
    if not (used := [name for name, value in kinds.items() if value]):
        return Html("")
    said = f"The training loss is with {' and '.join(used)}, that of validation without."
    return element("p", said, class_="soft")


def describe_confusion(run: SavedRun, matrix: Picture, undrawable: Sequence[str] = ()) -> Html:
    """The most frequent mistakes as a list, and all of them as a matrix.

    `undrawable` are the names whose letters the picture could not show.
    """
    counts = run.confusion
    # Ids stand for the names here: two classes may bear the same one.
    pairs = evaluation.most_confused(counts, range(len(counts)), LISTED_PAIRS)
    support = counts.sum(axis=1)
    items = [
        element(
            "li",
            name_of(run.class_names[true]),
            " taken for ",
            name_of(run.class_names[guess]),
            f": {count:,} of {support[true]:,} ({count / support[true]:.0%})",
        )
        for true, guess, count in pairs
    ]
    right, total = int(np.trace(counts)), int(counts.sum())
    summary = f"{total - right:,} of {total:,} validation images were taken for another class."
    listed = element("ol", *items) if items else ""
    shown = scrolling(element("figure", _fitted(matrix, 0.48, 0.67)), what="confusion matrix")
    note = _note_letters(undrawable) if undrawable else ""
    return section("What is taken for what", element("p", summary), listed, shown, note)


def describe_classes(run: SavedRun) -> Html:
    """Precision, recall and F1 of every class that val holds, worst F1 first."""
    report = evaluation.class_report(run.labels, run.predicted, run.class_names)
    report.sort(key=lambda row: (row["f1"], row["recall"], row["name"]))
    absent = len(run.class_names) - len(report)
    remark = f"Worst F1 first, on {len(run.labels):,} validation images."
    if absent:
        verb = "has" if absent == 1 else "have"
        remark += f" {absent:,} of {len(run.class_names):,} classes {verb} none, and so no row."
    parts = [element("p", remark, class_="soft")]
    if len(report) <= UNFOLDED_CLASSES:
        parts.append(_class_table(report))
    else:
        parts.append(_class_table(report[:SHOWN_CLASSES]))
        parts.append(fold(f"All {len(report):,} classes", _class_table(report)))
    return section("Class by class", *parts)


def describe_calibration(run: SavedRun, diagram: Picture) -> Html:
    """Whether the model knows how sure it can be."""
    found = evaluation.calibration(run.labels, run.probabilities)
    side = "less" if found.overconfidence > 0 else "more"
    words = (
        f"On average a guess is given {found.overconfidence + _accuracy(run):.1%} and "
        f"{_accuracy(run):.1%} of them are right: {side} than promised. Over {len(found.counts)} bins "
        f"of probability the two are {found.error:.3f} apart (expected calibration error)."
    )
    return section(
        "How sure it is",
        element("p", words),
        element("div", element("figure", image(diagram)), class_="plots narrow"),
    )


def describe_mistakes(
    run: SavedRun,
    photos: Sequence[tuple[int, Picture]],
    sheet: Picture | None,
    *,
    maps: Sequence[Picture] = (),
    note: str = "",
) -> Html:
    """The worst mistakes: `photos` are (row of val, its picture), `sheet` one picture of them all.

    `maps` are where the model looked, one for each of `photos` or none; `note`: why there is none.
    """
    wrong = len(run.worst_mistakes)
    if not wrong:
        return section("Worst mistakes", element("p", "There are none in the validation images."))
    if photos:
        text = f"The {len(photos):,} of {wrong:,} that gave the true class least, worst first."
        if maps:
            text += " Beside each: light is what spoke for the guess, most of all inside the line."
        paired = zip(photos, maps or [None] * len(photos), strict=True)
        cards = [_mistake(run, *photo, map_) for photo, map_ in paired]
        shown = element("div", *cards, class_="photos pairs" if maps else "photos")
    elif sheet:
        text = f"The worst of {wrong:,}, as drawn when the run ended."
        shown = scrolling(element("figure", _fitted(sheet, 0.65, 1)), what="worst mistakes")
    else:
        text = f"{wrong:,} in all. Their pictures were not at hand when this was written."
        shown = ""
    said = [element("p", line, class_="soft") for line in (text, note) if line]
    return section("Worst mistakes", *said, shown)


def describe_submission(run: SavedRun, file: Path, problems: Sequence[str] | None) -> Html:
    """What a check of submission.csv came to; `problems` are its, or None if only this looks at it."""
    verdict, problems, remark = _judge(run, file, problems)
    shown, more = problems[:SHOWN_PROBLEMS], problems[SHOWN_PROBLEMS:]
    parts = [element("p", verdict, class_="verdict")]
    if remark:
        parts.append(element("p", remark, class_="soft"))
    if shown:
        parts.append(element("ul", *(element("li", problem) for problem in shown)))
    if more:
        rest = element("ul", *(element("li", problem) for problem in more[:MOST_PROBLEMS]))
        parts.append(fold(f"and {len(more):,} more", rest))
    return section(file.name, *parts)


def describe_environment(run: SavedRun, version: str) -> Html:
    """The device and the versions, to do it again."""
    environment = run.environment
    device = environment.get("accelerator", {})
    pairs = [
        ("Device", f"{device['kind'].upper()}: {device['reason']}" if device else "not recorded"),
        ("Backend", device.get("backend", "not recorded")),
        ("Replicas", f"{device.get('replicas', 1):,}, {device.get('precision', 'float32')}"),
        ("Machine", environment.get("machine", "not recorded")),
        ("Data folder", element("code", environment["data"].get("folder", "not recorded"))),
    ]
    versions = {"python": environment.get("python")} | dict(environment.get("versions", {}))
    listed = [(name, number or "not installed") for name, number in sorted(versions.items())]
    return section(
        "Environment",
        facts(pairs),
        fold("Versions", facts(listed)),
        element("footer", f"Written by flowerkit {version}.", class_="soft"),
    )


def _epoch_table(run: SavedRun) -> Html:
    columns = {
        "loss": ".3f",
        "val_loss": ".3f",
        "accuracy": ".3f",
        "val_accuracy": ".3f",
        "val_f1": ".3f",
        "planned_lr": ".2e",
        "learning_rate": ".2e",
        "seconds": ",.1f",
        "images_per_second": ",.0f",
    }
    phases = {row.get("phase") or math.nan for row in run.rows}
    if len(set(filter(math.isfinite, phases))) > 1:
        columns = {"phase": ".0f"} | columns
    rows = [
        (
            element("b", f"{row['epoch']} (best)") if row is run.best else str(row["epoch"]),
            *(_number(row.get(name), form) for name, form in columns.items()),
        )
        for row in run.rows
    ]
    names = (name.replace("_lr", "_rate").replace("_", " ") for name in columns)
    return table(("epoch", *names), rows, what="every epoch in numbers", class_="epochs")


def _spread(counts: np.ndarray) -> str:
    present = counts[counts > 0]
    text = (
        f"{counts.sum():,} of {len(present):,} classes, {present.min():,} to {present.max():,} of "
        f"each (median {np.median(present):,.0f})"
    )
    absent = len(counts) - len(present)
    return text + (f"; none of {absent:,} classes" if absent else "")


def _accuracy(run: SavedRun) -> float:
    return evaluation.accuracy(run.labels, run.predicted)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def _judge(
    run: SavedRun, file: Path, problems: Sequence[str] | None
) -> tuple[str, Sequence[str], str | Html]:
    """The verdict on submission.csv, what is wrong with it, and what was not looked at."""
    num_classes = len(run.class_names)
    if not file.is_file():
        return "The run folder holds no such file.", problems or [], ""
    checked = problems is not None
    try:
        ids = read_ids(file)
        problems = problems if checked else check_submission(file, ids, num_classes)
    except ValueError as error:
        ids, problems = [], problems or [str(error)]
    if problems:
        noun = "problem" if len(problems) == 1 else "problems"
        return f"✗ {len(problems):,} {noun}: do not submit it.", problems, ""
    rows = f"{len(ids):,} rows, labels in 0..{num_classes - 1}"
    if checked:
        return f"✓ Sound: {rows}, every id of the test set once.", [], ""
    remark = [
        "Only its form was looked at here; whether these are the ids of the test set, ",
        element("code", f"flowerkit check {file.name} --data DATA"),
        " tells.",
    ]
    return f"✓ Well formed: {rows}, each id once.", [], join(remark)


def _fitted(picture: Picture, least: float, most: float) -> Html:
    """A picture as wide as its box, between `least` (then the box scrolls) and `most` of its px."""
    low, high = least * picture.width_px, most * picture.width_px
    style = f"width:100%;min-width:{low:.0f}px;max-width:{high:.0f}px"
    return image(picture, class_="sheet", style=style)


def _note_letters(undrawable: Sequence[str]) -> Html:
    many = len(undrawable)
    noun = f"{many:,} names have" if many > 1 else "1 name has"
    text = (
        f"In the picture, {noun} boxes for letters: no font of the machine that drew it has them."
    )
    return element("p", text, class_="soft")


def _class_table(report: Sequence[Mapping]) -> Html:
    rows = [
        (
            name_of(row["name"]),
            *(bar_cell(row[name], f"{row[name]:.2f}") for name in ("f1", "precision", "recall")),
            f"{row['support']:,}",
        )
        for row in report
    ]
    return table(("class", "F1", "precision", "recall", "images"), rows, what="class by class")


def _mistake(run: SavedRun, index: int, photo: Picture, map_: Picture | None) -> Html:
    guess, truth = run.predicted[index], run.labels[index]
    shares = run.probabilities[index]
    caption = element(
        "figcaption",
        element("span", "✗ guessed ", name_of(run.class_names[guess]), class_="wrong"),
        f"\N{NO-BREAK SPACE}{percent(shares[guess])}",
        element("br"),
        element("span", "✓ is ", name_of(run.class_names[truth]), class_="right"),
        f"\N{NO-BREAK SPACE}{percent(shares[truth])}",
        element("br"),
        element("code", run.predictions.ids[index]),
    )
    shown = [image(photo)] if map_ is None else [image(photo), image(map_)]
    return element("figure", element("div", *shown), caption)
