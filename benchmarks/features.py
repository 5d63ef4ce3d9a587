"""An epoch of the head on features beside an epoch of the frozen network with its forward pass.

    python benchmarks/features.py                              # drawn flowers, tiny backbone
    python benchmarks/features.py --backbone DenseNet121 --size 224 --images 512 --epochs 2

frozen  the notebooks' way: the base is not trainable, images are float32 in memory, plain `fit`
maps    on features of the notebook's head, which begins with the feature map
pooled  on features of the head that begins with average pooling

Every side validates each epoch; flowerkit besides scores macro F1 and writes history, checkpoints
and val predictions. The first epoch, which compiles, is in no figure. Weights are fresh: the times
do not depend on them.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import harness


def measure(args: argparse.Namespace) -> dict:
    """Seconds an epoch, and of what came before the first epoch's end."""
    import keras

    if args.epochs < 2:
        raise SystemExit("--epochs must be 2 or more: the first is not counted")
    ends = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(perf_counter())
    )
    start = perf_counter()
    fit = fit_frozen if args.side == "frozen" else fit_ours
    fit(args, harness.find_data(args.data), clock)
    return {
        "epoch_seconds": (ends[-1] - ends[0]) / (len(ends) - 1),
        "until_first_epoch": ends[0] - start,
    }


def fit_frozen(args, data, clock) -> None:
    """The notebooks' model with its base frozen, on images that are decoded and cast already."""
    import classic
    import numpy as np

    import flowerkit

    train, val = (flowerkit.load_split(data, split) for split in ("train", "val"))
    model = classic.build_model(data.num_classes, data.image_size, backbone=args.backbone)
    model.layers[0].trainable = False
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        np.asarray(train.images, "float32") / 255,
        train.labels,
        validation_data=(np.asarray(val.images, "float32") / 255, val.labels),
        batch_size=args.batch,
        epochs=args.epochs,
        callbacks=[clock],
        verbose=0,
    )


def fit_ours(args, data, clock) -> None:
    """`train` with frozen epochs alone; ten times as many, because on features they take moments."""
    import flowerkit

    plan = replace(
        flowerkit.load_plan("ramp"),
        backbone=args.backbone,
        weights=None,
        head="pooled" if args.side == "pooled" else "notebook",
        epochs=0,
        freeze_epochs=args.epochs * 10,
        schedule="constant",
        freeze_lr=1e-3,
        lr_reference_batch=None,
        patience=None,
        per_replica_batch=args.batch,
    )
    with tempfile.TemporaryDirectory() as folder:
        flowerkit.train(data, plan, out=Path(folder, "run"), callbacks=[clock])


if __name__ == "__main__":
    harness.main(
        __doc__,
        measure,
        sides=("frozen", "maps", "pooled"),
        columns={
            "epoch_seconds": "an epoch, s",
            "until_first_epoch": "until its first ended, s",
            "process_cpu_seconds": "CPU, s",
        },
        images=256,
        size=64,
        backbone=("tiny", "tiny or a Keras Applications name, without weights"),
        epochs=(3, "on images; ten times as many on features"),
        batch=(32, "images a step"),
    )
