"""An epoch of the head on features beside an epoch of the frozen network with its forward pass.

    python benchmarks/features.py                              # drawn flowers, tiny backbone
    python benchmarks/features.py --backbone DenseNet121 --size 224 --images 512

frozen    the notes' way: the base is not trainable, images are float32 in memory, plain `fit` with
          its validation data
images    flowerkit's frozen epochs on images (feature_views=0)
maps      flowerkit on features of the notebook's head, which begins with the feature map
pooled    flowerkit on features of the head that begins with average pooling
Every side validates each epoch. flowerkit besides scores macro F1 and writes history.csv, the best and
the last weights and the val predictions; its seconds hold all of that. The first epoch, which
compiles, is in no figure. Weights are fresh: rates do not depend on what they are.
"""

import argparse
import tempfile
import time
from pathlib import Path

import flowers
import pairs

SIDES = ("frozen", "images", "maps", "pooled")
EPOCH = "epoch_seconds"


class Clock:
    """When each epoch ended; as a Keras callback, made where keras is imported."""

    @staticmethod
    def make(keras):
        """(callback, list of (seconds on the clock, seconds of the processor))."""
        ends = []

        class Note(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                ends.append((time.perf_counter(), time.process_time()))

        return Note(), ends


def measure(args: argparse.Namespace) -> dict:
    """One side, in this process."""
    import keras

    clock, ends = Clock.make(keras)
    start = time.perf_counter()
    fit = fit_plainly if args.side == "frozen" else fit_ours
    epochs = args.epochs if args.side in ("frozen", "images") else 10 * args.epochs
    extra = fit(args, clock, epochs)
    seconds, of_processor = (
        (last - first) / (len(ends) - 1) for first, last in zip(ends[0], ends[-1], strict=True)
    )
    return extra | {
        EPOCH: seconds,
        "epoch_cpu_seconds": of_processor,
        "first_epoch_seconds": ends[0][0] - start,
    }


def fit_plainly(args, clock, epochs: int) -> dict:
    """The notebooks' model with its base frozen, on images that are decoded and cast already."""
    import classic
    import numpy as np

    from flowerkit.data.split import load_split

    data = flowers.find(args.data)
    splits = [load_split(data, name) for name in ("train", "val")]
    (x, y), val = ((np.asarray(one.images, "float32") / 255, one.labels) for one in splits)
    model = classic.build_model(data.num_classes, data.image_size, backbone=args.backbone)
    model.layers[0].trainable = False
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        x,
        y,
        batch_size=args.batch,
        epochs=epochs,
        validation_data=val,
        callbacks=[clock],
        verbose=0,
    )
    return {"features_seconds": 0.0}


def fit_ours(args, clock, epochs: int) -> dict:
    """`train` with frozen epochs alone, on features or on images."""
    import flowerkit
    from flowerkit.training.trainer import train

    data = flowers.find(args.data)
    plan = flowerkit.TrainingPlan(
        backbone=args.backbone,
        weights=None,
        head="pooled" if args.side == "pooled" else "notebook",
        epochs=0,
        freeze_epochs=epochs,
        feature_views=int(args.side != "images"),
        flip=False,
        schedule="constant",
        freeze_lr=1e-3,
        lr_reference_batch=None,
        patience=None,
        per_replica_batch=args.batch,
    )
    seen = {}

    def note(what, done, total):
        if what.startswith("features"):
            seen.setdefault("start", time.perf_counter())
            seen["end"] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        train(plan, data, out=Path(folder) / "run", callbacks=[clock], progress=note)
    return {"features_seconds": seen.get("end", 0.0) - seen.get("start", 0.0)}


def tell(samples) -> str:
    """A row a side."""
    base = next(iter(samples))
    rows = [
        [
            side,
            pairs.median(of_side, EPOCH),
            pairs.tell_ratio(pairs.ratio(samples, EPOCH, base, side)),
            f"{100 * pairs.spread(of_side, EPOCH):.0f} %",
            pairs.median(of_side, "epoch_cpu_seconds"),
            pairs.median(of_side, "features_seconds"),
            pairs.median(of_side, "first_epoch_seconds"),
            pairs.median(of_side, "peak_mib"),
        ]
        for side, of_side in samples.items()
    ]
    head = [
        "side",
        "an epoch, s",
        f"{base} /",
        "spread",
        "CPU s",
        "features, s",
        "first epoch, s",
        "peak MiB",
    ]
    return pairs.format_table(head, rows)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs.add_common(parser, rounds=2)
    flowers.add_options(parser, images=256, size=64)
    parser.add_argument(
        "--backbone",
        default="tiny",
        metavar="NAME",
        help="tiny or a Keras Applications name, without weights [tiny]",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=3,
        metavar="N",
        help="on images; on features ten times as many [3]",
    )
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="images a step [32]")
    parser.add_argument(
        "--backend",
        choices=("tensorflow", "jax"),
        default="tensorflow",
        help="of Keras, on all sides [tensorflow]",
    )
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=SIDES,
        default=SIDES,
        metavar="SIDE",
        help=f"which to run [{', '.join(SIDES)}]",
    )
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs must be 2 or more: the first is not counted")
    return args


def main() -> None:
    """Run the sides, or be one."""
    args = read_options()
    if args.side:
        pairs.end_child(measure(args))
    machine = pairs.describe_machine()
    with pairs.working_folder(args.work) as work:
        folder = flowers.prepare(args, work)
        commands = {
            side: pairs.side_command(__file__, side, ["--data", folder]) for side in args.sides
        }
        samples = pairs.run_rounds(
            commands, rounds=args.rounds, environ={"KERAS_BACKEND": args.backend}
        )
        print(tell(samples))
        print(
            f"{args.backbone}, batches of {args.batch}, {args.backend}; "
            f"data: {flowers.describe(args, folder)}"
        )
    print(pairs.tell_machine(machine))
    pairs.finish(args, samples, machine)


if __name__ == "__main__":
    main()
