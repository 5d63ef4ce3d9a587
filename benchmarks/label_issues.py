"""How many labels that were flipped on purpose `flowerkit clean` lists first, and what cleaning brings.

    python benchmarks/label_issues.py DATA BACKBONE OUT [--seeds 3] [--share 0.05]

For each seed a share of the training labels is flipped to another class at random, a head is trained
on features of the backbone, and its labels are reviewed as `flowerkit clean` does. A person who looks
at the first labels of the list, as many as were flipped, then corrects those that are wrong; a head is
trained again. A line a seed: the share of the flipped labels among those first ones, and macro F1 on
val with the true, the flipped and the corrected labels.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from flowerkit.accelerator import connect
from flowerkit.data import load_split
from flowerkit.deploy import LabelReview
from flowerkit.photos import relabel
from flowerkit.sources import find_data
from flowerkit.training import FINE_TUNE, RunFolder, train

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
for name in ("data", "backbone", "out"):
    parser.add_argument(name, type=Path)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--share", type=float, default=0.05)
args = parser.parse_args()

data, accelerator = find_data(args.data), connect()
split = load_split(data, "train", cache="none")
truth = dict(zip(split.ids.tolist(), split.labels.tolist(), strict=True))
classes = np.unique(split.labels)
rows = []


def score(of, name, seed):
    plan = replace(FINE_TUNE, backbone=str(args.backbone), epochs=0, seed=seed)
    return train(of, plan, out=args.out / f"{name}-{seed}", accelerator=accelerator).summary.val_f1


for seed in range(args.seeds):
    rng = np.random.default_rng(seed)
    flips = {}
    for id in rng.choice(list(truth), round(args.share * len(truth)), replace=False).tolist():
        flips[id] = int(rng.choice(classes[classes != truth[id]]))
    noisy = score(relabel(data, flips), "flipped", seed)
    review = LabelReview(
        RunFolder(args.out / f"flipped-{seed}"), args.out / f"{seed}.csv", accelerator=accelerator
    )
    first = [each.id for each in review.doubts if each.split == "train"][: len(flips)]
    left = {id: label for id, label in flips.items() if id not in first}
    corrected = score(relabel(data, left), "corrected", seed)
    rows.append((1 - len(left) / len(flips), score(data, "true", seed), noisy, corrected))
    print(
        f"seed {seed}: {rows[-1][0]:.1%} of {len(flips)} flipped labels are among the first "
        f"{len(first)}; about {review.num_issues} wrong by its estimate; macro F1 on val "
        f"{rows[-1][1]:.4f} true, {noisy:.4f} flipped, {corrected:.4f} corrected",
        flush=True,
    )
means = np.mean(rows, axis=0)
print("mean: {:.1%} found; {:.4f} true, {:.4f} flipped, {:.4f} corrected".format(*means))
