"""What the tests of comparisons share: run folders without training, whose answers are chosen."""

import json
from dataclasses import replace

import numpy as np
from run_pages import leave_run

from flowerkit.training.history import read_history, write_history
from flowerkit.training.plan import SMOKE

LABELS = tuple(np.tile([0, 1, 2], 40).tolist())


def leave(folder, *, wrong=(), labels=LABELS, f1=None, environment=None, names=None, **changes):
    """A run of SMOKE with some fields changed; `wrong` are the places guessed wrong."""
    predicted = tuple((label + (place in wrong)) % 3 for place, label in enumerate(labels))
    names = {} if names is None else {"names": names}
    leave_run(folder, labels=labels, predicted=predicted, **names)
    (folder / "plan.json").write_text(json.dumps(replace(SMOKE, **changes).to_dict()))
    rows = read_history(folder / "history.csv")
    rows[1]["val_f1"] = 1 - len(wrong) / len(labels) if f1 is None else f1
    rows[0]["val_f1"] = rows[1]["val_f1"] / 2
    write_history(folder / "history.csv", rows)
    if environment:
        known = json.loads((folder / "environment.json").read_text())
        for part, values in environment.items():
            known[part] |= values
        (folder / "environment.json").write_text(json.dumps(known))
    return folder
