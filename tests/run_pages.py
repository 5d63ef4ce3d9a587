"""What the tests of the report share: a run folder without training, and a strict reader of HTML."""

import json
from html.parser import HTMLParser

import numpy as np

from flowerkit.prediction.predictions import Predictions
from flowerkit.training.history import write_history
from flowerkit.training.plan import SMOKE

NAMES = ["daisy", "rose", "lily"]
VOID = {"br", "img", "link", "meta"}
INLINE = {"b", "bdi"}


def leave_run(folder, *, names=NAMES, labels=(0, 1, 2), predicted=(0, 2, 2)):
    """What a run of two epochs leaves for the report; every guess gets 0.7, the next class 0.2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(SMOKE.to_dict()))
    data = {
        "folder": "/data/flowers",
        "origin": "drawn",
        "image_size": 32,
        "class_names": list(names),
        "counts": {"train": 1440, "val": len(labels), "test": 3},
    }
    device = {"kind": "cpu", "backend": "jax", "replicas": 8, "precision": "float32"}
    environment = {"data": data, "accelerator": device | {"reason": "no TPU or GPU is attached"}}
    environment |= {"python": "3.12.1", "versions": {"keras": "3.15.0", "libtpu": None}}
    (folder / "environment.json").write_text(json.dumps(environment))
    row = {
        "loss": 1.0,
        "accuracy": 0.5,
        "val_loss": 1.1,
        "val_accuracy": 0.5,
        "val_f1": 0.4,
        "planned_lr": 1e-3,
        "learning_rate": 1e-3,
        "seconds": 2.0,
        "images_per_second": 50.0,
        "steps": 45,
    }
    write_history(folder / "history.csv", [{"epoch": 1, **row}, {"epoch": 2, **row, "val_f1": 0.6}])
    result = {
        "stop_reason": "the plan's epochs were done",
        "seconds_per_epoch": 200.0,
        "images_per_second": 1234.5,
        "first_step_seconds": 7.31,
    }
    (folder / "result.json").write_text(json.dumps(result))
    probabilities = np.full((len(labels), len(names)), 0.1 / max(len(names) - 2, 1), "float32")
    for place, guess in enumerate(predicted):
        probabilities[place, guess] = 0.7
        probabilities[place, (guess + 1) % len(names)] = 0.2
    ids = np.array([f"id{place}" for place in range(len(labels))])
    Predictions(ids, probabilities, np.array(labels, "int32")).save(folder / "val_predictions.npz")
    return folder


class Page(HTMLParser):
    """A page read strictly: `problems` are tags that do not match and addresses that lead out."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.problems, self.tags, self.images = [], [], [], []
        self.words = ""
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.words += "" if tag in INLINE else " "
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        for name in ("src", "href", "srcset", "action"):
            if not (attrs.get(name) or "data:").startswith("data:"):
                self.problems.append(f"<{tag}> leads to {attrs[name]}")
        if tag in ("script", "iframe", "object"):
            self.problems.append(f"<{tag}>")

    def handle_endtag(self, tag):
        self.words += "" if tag in INLINE else " "
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> does not close what is open")

    def handle_data(self, data):
        if "style" not in self.open:
            self.words += data

    @property
    def text(self):
        """All that is to be read, one blank between parts; <b> and <bdi> part nothing."""
        return " ".join(self.words.split())


def read(made):
    """The text of a part that is well formed."""
    found = Page(made)
    assert found.problems == []
    return found.text
