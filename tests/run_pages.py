"""Runs with chosen predictions, and a strict reader of pages, for tests of reports and comparisons."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

import flowerkit
from flowerkit.prediction import Predictions
from flowerkit.training import History, RunFolder

NAMES = ("daisy", "rose", "lily")
VOID = {"br", "img", "input", "link", "meta", "wbr"}
INLINE = {"b", "bdi", "wbr"}
SCRIPT = Path(flowerkit.__file__).parent / "reports" / "templates" / "page.js"


def write_run(
    like,
    folder,
    *,
    names=NAMES,
    labels=(0, 1, 2),
    predicted=(0, 2, 2),
    f1=0.6,
    device=(),
    data=(),
    schedule=None,
    result=(),
    **plan,
):
    """A finished run of two epochs, written as training writes it; what is not given is `like`'s.

    Every prediction gets 0.7, the next class 0.2. `device`, `data`, `result` and `plan` change fields.
    """
    run = RunFolder.start(folder)
    counts = {"train": 1440, "val": len(labels), "test": 3}
    trained_on = replace(
        like.environment.data,
        class_names=tuple(names),
        class_counts={"train": (1000, *range(1, len(names))), "val": ()},
        counts=counts,
        images={},  # its predictions are of no images
    )
    environment = replace(
        like.environment,
        accelerator=replace(like.environment.accelerator, **dict(device)),
        data=replace(trained_on, **dict(data)),
        schedule=schedule,
    )
    run.write_start(replace(like.plan, **plan), like.fitted, environment)
    history = History(like.plan.monitor, path=run.history_file)
    row = dict(like.history[0]) | {
        "loss": 1.0,
        "accuracy": 0.5,
        "val_loss": 1.1,
        "val_accuracy": 0.5,
    }
    for epoch in (1, 2):
        history.append(row | {"epoch": epoch, "val_f1": f1 * epoch / 2, "seconds": 2.0})
    history.save()
    run.write_result(replace(like.result, **dict(result)))
    probabilities = np.full((len(labels), len(names)), 0.1 / max(len(names) - 2, 1), "float32")
    rows = np.arange(len(labels))
    probabilities[rows, predicted] = 0.7
    probabilities[rows, (np.array(predicted) + 1) % len(names)] = 0.2
    ids = np.array([f"id{row}" for row in rows])
    Predictions(ids, probabilities, np.array(labels, "int32")).save(run.val_predictions_file)
    run.model_file.symlink_to(RunFolder(like.path).model_file)
    return run.path


class Page(HTMLParser):
    """A page read strictly: `problems` are tags that do not match, addresses that lead out and scripts
    but our own. `images` are the attributes of every photo, which have their words as "alt"; `targets`
    and `links` the ids and the addresses inside the page, `pointed` what parts of charts say.
    """

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.problems, self.tags, self.images = [], [], [], []
        self.words, self.targets, self.links, self.pointed = "", set(), set(), []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag in self.open]
        self.problems += [f"{link} leads nowhere" for link in self.links - self.targets]
        assert self.problems == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.words += "" if tag in INLINE else " "
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        if attrs.get("class") == "photo":
            self.images.append(attrs | {"alt": attrs["aria-label"]})
        if "id" in attrs:
            if attrs["id"] in self.targets:
                self.problems.append(f"id {attrs['id']} is there twice")
            self.targets.add(attrs["id"])
        for name in ("src", "href", "srcset", "action", "xlink:href"):
            address = attrs.get(name) or "data:"
            if name == "href" and address.startswith("#"):
                self.links.add(address[1:])
            elif not address.startswith("data:"):
                self.problems.append(f"<{tag}> leads to {address}")
        if tag in ("iframe", "object") or (tag == "script" and attrs):
            self.problems.append(f"<{tag}>")
        self.problems += [f"<{tag} {name}>" for name in attrs if name.startswith("on")]

    def handle_endtag(self, tag):
        self.words += "" if tag in INLINE else " "
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> does not close what is open")

    def handle_data(self, data):
        if "script" in self.open:
            if data != SCRIPT.read_text(encoding="utf-8"):
                self.problems.append(f"another script: {data}")
        elif self.open[-1:] == ["title"] and "svg" in self.open:
            self.pointed.append(data)
        elif "style" not in self.open:
            self.words += data

    @property
    def text(self):
        """All that is to be read, one blank between parts; <b> and <bdi> part nothing."""
        return " ".join(self.words.split())
