"""How well a classifier tells photos of classes that it has never seen, by several scores.

    python benchmarks/none_of_these.py --data petals103-64 --backbone lite0.keras --minutes 20
    python benchmarks/none_of_these.py --data petals103-64 --backbone lite0.keras --frozen

Some classes of a data set are left out of training and validation. A run on the others (--frozen: its
head alone) sees val of all. AUROC: how often a photo of a class that was learned has a higher score
than one of a class that was left out; false accepts: the fraction of the latter that is above the score
at which 95 % of the others are accepted. Energy, cosine and Mahalanobis need more than the
probabilities that an export gives. `certainty` is what flowerkit uses.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import harness  # noqa: F401 - the checkout that holds it is what is measured
import numpy as np


def main() -> None:
    """Train on the classes that are left, and print the table of scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a folder that holds tfrecords-jpeg-SxS/")
    parser.add_argument("--backbone", default="tiny", help="as in `flowerkit train` [tiny]")
    parser.add_argument("--held-out", type=int, default=20, help="classes left out [20]")
    parser.add_argument("--seed", type=int, default=0, help="chooses them [0]")
    parser.add_argument("--size", type=int, default=224, help="px that the backbone sees [224]")
    parser.add_argument("--minutes", type=float, default=20, help="of training [20]")
    parser.add_argument("--frozen", action="store_true", help="the head alone, 10 epochs")
    parser.add_argument("--run", type=Path, help="the run's folder, used as it is if it is there")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory(prefix="flowerkit-none-") as folder:
        kept, left_out = divide(args, Path(folder))
        run = args.run or Path(folder) / "run"
        if not (run / "result.json").is_file():
            train(args, kept, run)
        print_scores(run, kept, left_out)


def divide(args, folder: Path):
    """The data of the classes that stay, their labels counted anew, and of those left out."""
    import flowerkit
    from flowerkit.data import Record, choose_shard_size, find_shards, read_records, write_shards

    data = flowerkit.find_data(args.data)
    records = {
        split: [record for file in data.files[split] for _, record in read_records(file)]
        for split in ("train", "val")
    }
    classes = np.unique([record.label for record in records["train"]])
    chosen = np.random.default_rng(args.seed).choice(classes, args.held_out, replace=False)
    parts = []
    for name, labels in (("kept", np.setdiff1d(classes, chosen)), ("left_out", np.sort(chosen))):
        numbers = {label: number for number, label in enumerate(labels.tolist())}
        for split, of_split in records.items():
            ours = [
                Record(record.image, record.id, numbers[record.label])
                for record in of_split
                if record.label in numbers
            ]
            size = choose_shard_size(len(ours))
            write_shards(folder / name, split, ours, image_size=data.image_size, shard_size=size)
        names = [data.class_names[label] for label in labels]
        parts.append(find_shards(folder / name, class_names=names, origin="folder"))
    return parts


def train(args, data, out: Path) -> None:
    """The default plan on the classes that stay."""
    import flowerkit

    plan = replace(
        flowerkit.load_plan("fine-tune"),
        backbone=args.backbone,
        weights=None if args.backbone == "tiny" else "imagenet",
        input_size=args.size,
    )
    if args.frozen:
        plan = replace(plan, freeze_epochs=10, epochs=0)
    else:
        plan = replace(plan, max_minutes=args.minutes)
    flowerkit.train(data, plan, out=out)


def print_scores(run: Path, kept, left_out) -> None:
    """A line for each score, the best AUROC first."""
    import keras
    from sklearn.metrics import roc_auc_score

    import flowerkit
    from flowerkit.models import load_model, split_classifier
    from flowerkit.prediction import compute_features

    body, head = split_classifier(load_model(run))
    _, *before, dense = head.layers
    kernel, bias = map(keras.ops.convert_to_numpy, dense.weights)

    def features_of(data, split):
        loaded = flowerkit.load_split(data, split)
        return compute_features(body, loaded, global_batch=32, name=split)

    learned, known, unknown = (
        features_of(data, split)
        for data, split in ((kept, "train"), (kept, "val"), (left_out, "val"))
    )

    def logits_of(features):
        given = features.array
        for layer in before:
            given = layer(given)
        return keras.ops.convert_to_numpy(given).astype("float64") @ kernel + bias

    scores = list_scores(learned, known, logits_of)
    rows = []
    for name, score in scores.items():
        inside, outside = score(known), score(unknown)
        is_known = np.repeat([1, 0], [len(inside), len(outside)])
        auroc = roc_auc_score(is_known, np.concatenate([inside, outside]))
        accepted = (outside >= np.quantile(inside, 0.05)).mean()
        rows.append((auroc, f"{name:28} {auroc:.4f}  {accepted:.3f}"))
    accuracy = (logits_of(known).argmax(axis=1) == known.labels).mean()
    print(
        f"{kept.num_classes} classes learned, {left_out.num_classes} left out; val: {len(known):,}"
    )
    print(f"and {len(unknown):,} images; accuracy on the first {accuracy:.4f}")
    print(f"{'score':28} AUROC   false accepts")
    print(*(text for _, text in sorted(rows, reverse=True)), sep="\n")


def list_scores(learned, known, logits_of) -> dict[str, Callable]:
    """Functions from `Features` to a score, high for a class that was learned."""
    from flowerkit.metrics import apply_temperature, certainty, fit_temperature

    def softmax(features, temperature=1.0):
        powers = np.exp(logits_of(features) - logits_of(features).max(axis=1, keepdims=True))
        return apply_temperature(powers / powers.sum(axis=1, keepdims=True), temperature)

    def unit(features):
        return features.array / np.linalg.norm(features.array, axis=1, keepdims=True)

    temperature = fit_temperature(known.labels, softmax(known))
    classes = np.unique(learned.labels)
    means = np.stack([learned.array[learned.labels == label].mean(axis=0) for label in classes])
    within = distance_to(means, learned.array - means[np.searchsorted(classes, learned.labels)])
    overall = learned.array.mean(axis=0)
    around = distance_to(overall[None], learned.array - overall)
    return {
        "maximum of softmax": lambda x: softmax(x).max(axis=1),
        "maximum, with temperature": lambda x: softmax(x, temperature).max(axis=1),
        "entropy": lambda x: (softmax(x) * np.log(softmax(x) + 1e-30)).sum(axis=1),
        "certainty (GEN)": lambda x: certainty(softmax(x)),
        "energy": lambda x: np.logaddexp.reduce(logits_of(x), axis=1),
        "cosine to the 10th nearest": lambda x: np.sort(unit(x) @ unit(learned).T, axis=1)[:, -10],
        "relative Mahalanobis": lambda x: around(x.array).min(axis=1) - within(x.array).min(axis=1),
    }


def distance_to(means: np.ndarray, residuals: np.ndarray) -> Callable:
    """The squared Mahalanobis distances of rows to `means`; the covariance is half a sphere's."""
    covariance = np.cov(residuals.T)
    sphere = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    whiten = np.linalg.cholesky(np.linalg.inv((covariance + sphere) / 2))

    def distances(rows):
        ours, theirs = rows @ whiten, means @ whiten
        squares = (ours**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1)
        return squares - 2 * ours @ theirs.T

    return distances


if __name__ == "__main__":
    main()
