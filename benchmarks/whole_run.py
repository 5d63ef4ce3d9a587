"""From the start of the process to a finished csv: the same epochs of the same images.

    python benchmarks/whole_run.py                            # drawn flowers, tiny backbone
    python benchmarks/whole_run.py --data PHOTOS --backbone DenseNet121 --epochs 3

classic  the notebook as a script: data sets, model, fit with validation, predict, csv
ours     `flowerkit train` with the same rate, batch and epochs, the flip alone, no early stopping;
         besides, it scores macro F1 each epoch, keeps the best weights, saves the model, loads it
         again to see that it predicts the same, and checks the csv

Weights are fresh on both sides: the accuracies show only that both have learnt.
"""

import argparse
import json
import tempfile
from pathlib import Path

import harness


def measure(args: argparse.Namespace) -> dict:
    """One side, which must leave a valid csv."""
    from flowerkit.sources import find_test_ids
    from flowerkit.submission import check_submission

    data = harness.find_data(args.data)
    with tempfile.TemporaryDirectory() as out:
        run = run_classic if args.side == "classic" else run_ours
        csv, accuracy = run(args, data, Path(out))
        problems = check_submission(csv, find_test_ids(data), data.num_classes)
        if problems:
            raise SystemExit(f"the csv of {args.side} is not valid: {problems[0]}")
    return {"val_accuracy": accuracy}


def run_classic(args, data, out: Path) -> tuple[Path, float]:
    """The notebook from its first line to its csv."""
    import classic

    size, batch = data.image_size, args.batch
    train, val, test = (
        classic.list_shards(data.folder, split, size) for split in ("train", "val", "test")
    )
    model = classic.build_model(data.num_classes, size, backbone=args.backbone)
    history = classic.fit(
        model,
        classic.training_dataset(train, size, batch),
        steps=data.counts["train"] // batch,
        epochs=args.epochs,
        validation_data=classic.validation_dataset(val, size, batch),
    )
    classic.write_submission(model, test, size, batch, out / "submission.csv")
    return out / "submission.csv", history.history["val_sparse_categorical_accuracy"][-1]


def run_ours(args, data, out: Path) -> tuple[Path, float]:
    """`flowerkit train` as a user types it."""
    from flowerkit.__main__ import main

    command = (
        f"train --data {data.folder} --out {out / 'run'} --plan ramp --backbone {args.backbone} "
        f"--weights none --epochs {args.epochs} --per-replica-batch {args.batch} --patience none "
        "--schedule constant --max-lr 1e-3 --lr-reference-batch none --min-crop-area 1 "
        "--random-erasing 0"
    )
    if status := main(command.split()):
        raise SystemExit(status)
    result = json.loads((out / "run" / "result.json").read_text())
    return out / "run" / "submission.csv", result["val_accuracy"]


if __name__ == "__main__":
    harness.main(
        __doc__,
        measure,
        sides=("classic", "ours"),
        columns={
            "process_seconds": "start to csv, s",
            "process_cpu_seconds": "CPU, s",
            "val_accuracy": "val accuracy",
        },
        images=1024,
        size=96,
        backbone=("tiny", "tiny or a Keras Applications name, without weights"),
        epochs=(3, "epochs"),
        batch=(32, "images a step"),
    )
