"""The labels of a run's data in order of doubt, what a person decides on them, and the page for that.

Every photo of train and val is judged by a model that did not see its label: the body that the run
began with computes its features, and a model on those learns from the other folds. (The trained network
has seen the labels; it would believe the wrong ones that it has learned.) Decisions are a csv, see
`photos.decisions`; no photo and no shard is changed.
"""

import json
import logging
import os
import urllib.parse
from dataclasses import dataclass
from datetime import UTC, datetime
from numbers import Integral
from pathlib import Path

import numpy as np

from flowerkit.accelerator import Accelerator, connect
from flowerkit.console import Progress
from flowerkit.deploy.local_server import Reply, find_reply
from flowerkit.deploy.run_photos import BATCH, RunPhotos, build_pooled_body
from flowerkit.deploy.serving import encode
from flowerkit.experiments import make_folds
from flowerkit.files import check_room, write_text
from flowerkit.photos import LEAVE_OUT, Decision, find_left_out, read_decisions, write_decisions
from flowerkit.reports import render
from flowerkit.text import did_you_mean, format_csv, join_some, percent
from flowerkit.training import RunFolder

NUM_FOLDS = 5
LEAST_SHOWN = 0.05  # of all labels
DECISIONS = "decisions.csv"

_log = logging.getLogger("flowerkit")


@dataclass(frozen=True)
class Doubt:
    """A label and how far it is believed.

    `split` is "train" or "val", `row` the photo's place there; `file` its path in the folder of photos,
    "" where the data are no photos; `given` the name of its class, and `probability` that of it;
    `suggested` the most probable other class, with its own; `is_issue`: see `LabelIssues`.
    """

    split: str
    row: int
    id: str
    file: str
    given: str
    probability: float
    suggested: str
    suggested_probability: float
    is_issue: bool

    @property
    def name(self) -> str:
        """The file, else the id."""
        return self.file or self.id

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.split}): {self.given} {percent(self.probability)}, rather "
            f"{self.suggested} {percent(self.suggested_probability)}"
        )


class LabelReview:
    """The labels of a run's train and val photos, the most doubtful first, and decisions on them.

    `doubts` has every label that can be judged, `num_unjudged` counts the photos whose class is in one
    fold alone. `decisions` are by id; `decide` writes them to `file`, where those of an earlier session
    stay. `folder` is where the data are now, if not where they were. `progress(text, done, total)` is
    called while pictures are compared and features computed.

    Raises what `RunPhotos` raises, ValueError for a class named "leave out", for fewer pictures than two
    folds need and for a `file` of decisions on other data.
    """

    def __init__(
        self,
        run: RunFolder,
        file: str | os.PathLike,
        *,
        folder: str | os.PathLike | None = None,
        accelerator: Accelerator | None = None,
        progress: Progress | None = None,
    ):
        self.file, self.run = Path(file), run
        check_room(self.file.parent)
        self.photos = {split: RunPhotos(run, split, folder) for split in ("train", "val")}
        self.class_names = self.photos["train"].class_names
        if LEAVE_OUT in (name.strip().casefold() for name in self.class_names):
            raise ValueError(
                f"a class is called {LEAVE_OUT!r}, which in decisions means no class. Rename its folder."
            )
        self.doubts: list[Doubt] = []
        self.num_unjudged = 0
        self.decisions = read_decisions(self.file) if self.file.exists() else {}
        known = {id for photos in self.photos.values() for id in photos.split.ids.tolist()}
        left_out = find_left_out(self.photos["train"].data.folder)
        known |= {each.id for each in self.decisions.values() if each.file in left_out}
        if self.decisions and not {*known, *run.environment().data.relabelled} & {*self.decisions}:
            raise ValueError(
                f"{self.file} holds decisions on other data: none of its ids is in the data of {run}. "
                f"Pass another --out."
            )
        self._judge(accelerator or connect(), progress)

    @property
    def num_issues(self) -> int:
        """How many labels are probably wrong."""
        return sum(doubt.is_issue for doubt in self.doubts)

    def first(self, num: int | None = None) -> list[Doubt]:
        """The first `num` doubts; None: as many as are probably wrong, at least 5 % of the labels.

        Raises ValueError for a `num` below 1.
        """
        if num is not None and (not isinstance(num, Integral) or num < 1):
            raise ValueError(
                f"num={num!r} (--top {num}) must be a whole number from 1: how many labels are shown."
            )
        least = max(self.num_issues, round(LEAST_SHOWN * len(self.doubts)), 1)
        return self.doubts[: least if num is None else num]

    def decide(self, doubt: Doubt, new: str | None) -> None:
        """Write that the photo is of the class `new`, or is left out; None takes a decision back.

        Raises ValueError for a class that there is not.
        """
        if new not in (None, LEAVE_OUT, *self.class_names):
            raise ValueError(
                f"there is no class {new!r}.{did_you_mean(str(new), self.class_names)} Pass one of "
                f"{join_some(self.class_names)}; {LEAVE_OUT!r}; or None, which takes a decision back."
            )
        if new is None:
            self.decisions.pop(doubt.id, None)
        else:
            given = self.decisions.get(doubt.id, doubt).given
            now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
            self.decisions[doubt.id] = Decision(doubt.id, doubt.file, given, new, now)
        write_decisions(self.file, self.decisions.values())

    def write_list(self, file: str | os.PathLike, doubts: list[Doubt]) -> None:
        """Write doubts as a csv whose column `new` is to be filled in: then it is one of decisions."""
        rows = [
            ["id", "file", "given", "new", "decided", "probability", "suggested", "probability_2"]
        ]
        for doubt in doubts:
            suggested = doubt.suggested, f"{doubt.suggested_probability:.4f}"
            row = [
                doubt.id,
                doubt.file,
                doubt.given,
                "",
                "",
                f"{doubt.probability:.4f}",
                *suggested,
            ]
            rows.append(row)
        write_text(file, format_csv(rows))

    def _judge(self, accelerator: Accelerator, progress) -> None:
        from flowerkit.prediction import compute_features, find_label_issues, predict_out_of_fold

        data, on_corrupt = self.photos["train"].data, self.run.plan().on_corrupt
        folds = make_folds(data, NUM_FOLDS, on_corrupt=on_corrupt, rare=True, progress=progress)
        labels = folds.labels
        parts, places = [], []
        with accelerator.scope():
            body = build_pooled_body(_build_classifier(self.run, data, accelerator))
            for name, photos in self.photos.items():
                if not len(photos.split):
                    continue  # a run without validation
                found = compute_features(
                    body,
                    photos.split,
                    global_batch=BATCH * accelerator.replicas,
                    name=name,
                    progress=progress,
                )
                parts.append(found.array)
                places += [(name, row) for row in range(len(photos.split))]
        probabilities = predict_out_of_fold(
            np.concatenate(parts), labels, folds.fold_of, len(self.class_names)
        )
        judged = np.flatnonzero(probabilities[np.arange(len(labels)), labels] > 0)
        self.num_unjudged = len(labels) - len(judged)
        if not len(judged):
            raise ValueError(f"no class of {data.folder} has two different photos to compare.")
        issues = find_label_issues(labels[judged], probabilities[judged])
        for k in issues.order.tolist():
            place, other = judged[k], int(issues.suggested[k])
            split, row = places[place]
            id = str(folds.ids[place])
            doubt = Doubt(
                split=split,
                row=row,
                id=id,
                file=self.photos[split].paths.get(id, ""),
                given=self.class_names[labels[place]],
                probability=float(issues.given[k]),
                suggested=self.class_names[other],
                suggested_probability=float(probabilities[place, other]),
                is_issue=bool(issues.is_issue[k]),
            )
            self.doubts.append(doubt)


def _build_classifier(run: RunFolder, data, accelerator: Accelerator):
    """The network that the run began with; the trained one where that is not to be had."""
    from flowerkit.training import build_model

    reason = "this run began with random weights"
    if (plan := run.plan()).weights is not None:
        try:
            return build_model(plan, data, accelerator)
        except (FileNotFoundError, RuntimeError) as error:
            reason = str(error)
    _log.warning(
        f"features come from the trained network, which has seen the labels, and finds fewer of those "
        f"that are wrong in train: {reason}"
    )
    return run.model()


# The page -----------------------------------------------------------------------------------------


class ReviewPage:
    """The page of a review: calling it with (method, path, body) gives the reply, or None."""

    def __init__(self, review: LabelReview, num: int | None = None):
        self.review, self.shown = review, review.first(num)

    def __call__(self, method: str, path: str, body: bytes) -> Reply | None:
        parts = urllib.parse.urlsplit(path)
        if (method, parts.path) == ("POST", "/decide"):
            return self._decide(body)
        if method != "GET":
            return None
        number = parts.path.removeprefix("/photo/")
        if number.isdecimal() and int(number) < len(self.shown):
            doubt = self.shown[int(number)]
            image = self.review.photos[doubt.split].split.images[doubt.row]
            return Reply(encode(image), "image/jpeg")
        return find_reply(parts.path, "clean", self.render)

    def render(self) -> str:
        """The page as it stands, HTML."""
        decided = self.review.decisions
        return render(
            "clean.html.j2",
            name=self.review.run.path.resolve().name,
            file=str(self.review.file),
            doubts=self.shown,
            decided=[decided[each.id].new if each.id in decided else "" for each in self.shown],
            class_names=self.review.class_names,
            num_labels=len(self.review.doubts),
            num_issues=self.review.num_issues,
            leave_out=LEAVE_OUT,
        )

    def _decide(self, body: bytes) -> Reply:
        try:
            asked = json.loads(body)
            number, new = asked["number"], asked["new"]
            if type(number) is not int or not 0 <= number < len(self.shown):
                raise ValueError(f"there is no photo {number!r}")
            self.review.decide(self.shown[number], new)
        except (KeyError, TypeError, ValueError, OSError) as error:
            return Reply(f"This was not written: {error}".encode(), status=400)
        return Reply(b"{}", "application/json")
