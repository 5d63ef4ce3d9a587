"""From the start of the process to a finished csv: the same epochs of the same images, both sides.

    python benchmarks/whole_run.py                            # drawn flowers, tiny backbone
    python benchmarks/whole_run.py --data PHOTOS --backbone DenseNet121 --epochs 3

classic: the notebook as a script: data sets, model, fit with validation, predict, csv.
ours:    `flowerkit train` with the same rate, batch and epochs, the flip alone, no early stopping;
         besides, it scores macro F1 each epoch, keeps the best weights, saves the model, reloads it
         to see that it predicts the same, and checks the csv.
Weights are fresh on both sides, so the accuracies say only that both have learnt.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

import flowers
import pairs

SIDES = ("classic", "ours")


def run_classic(args: argparse.Namespace, out: Path) -> dict:
    """The notebook from its first line to its csv."""
    import classic

    data = flowers.find(args.data)
    size, batch = data.image_size, args.batch
    files = {
        split: classic.list_shards(data.folder, split, size) for split in ("train", "val", "test")
    }
    model = classic.build_model(data.num_classes, size, backbone=args.backbone)
    history = classic.fit(
        model,
        classic.training_dataset(files["train"], size, batch),
        steps=classic.steps_per_epoch(data.counts["train"], batch),
        epochs=args.epochs,
        rate=args.rate,
        validation_data=classic.validation_dataset(files["val"], size, batch),
    )
    classic.write_submission(model, files["test"], size, batch, out / "submission.csv")
    return {"val_accuracy": history.history["val_sparse_categorical_accuracy"][-1]}


def run_ours(args: argparse.Namespace, out: Path) -> dict:
    """`flowerkit train`, as one would type it."""
    from flowerkit.__main__ import main as run_command

    words = {
        "--data": args.data,
        "--out": out / "run",
        "--backbone": args.backbone,
        "--weights": "none",
        "--epochs": args.epochs,
        "--per-replica-batch": args.batch,
        "--patience": "none",
        "--schedule": "constant",
        "--max-lr": args.rate,
        "--lr-reference-batch": "none",
        "--min-crop-area": 1,
        "--random-erasing": 0,
    }
    status = run_command(["train", *(str(word) for pair in words.items() for word in pair)])
    if status:
        raise SystemExit(status)
    return {"val_accuracy": json.loads((out / "run" / "result.json").read_text())["val_accuracy"]}


def measure(args: argparse.Namespace) -> dict:
    """One side, in this process; it must leave a csv that is sound."""
    from flowerkit.sources.finder import find_test_ids
    from flowerkit.submission import check_submission

    with tempfile.TemporaryDirectory() as folder:
        result = {"classic": run_classic, "ours": run_ours}[args.side](args, Path(folder))
        csv = next(Path(folder).rglob("submission.csv"))
        data = flowers.find(args.data)
        problems = check_submission(csv, find_test_ids(data), data.num_classes)
    if problems:
        raise SystemExit(f"the {args.side} csv is not sound: {problems[0]}")
    return result


def tell(samples) -> str:
    """A row a side; the ratio is that of wall clocks."""
    base = next(iter(samples))
    rows = [
        [
            side,
            pairs.median(of_side, "process_seconds"),
            pairs.tell_ratio(pairs.ratio(samples, "process_seconds", base, side)),
            f"{100 * pairs.spread(of_side, 'process_seconds'):.0f} %",
            pairs.median(of_side, "process_cpu_seconds"),
            pairs.median(of_side, "peak_mib"),
            pairs.median(of_side, "val_accuracy"),
        ]
        for side, of_side in samples.items()
    ]
    head = ["side", "start to csv, s", "faster", "spread", "CPU s", "peak MiB", "val accuracy"]
    return pairs.format_table(head, rows)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs.add_common(parser, rounds=2)
    flowers.add_options(parser, images=1024, size=96)
    parser.add_argument(
        "--backbone",
        default="tiny",
        metavar="NAME",
        help="tiny or a Keras Applications name, without weights [tiny]",
    )
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="epochs [3]")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="images a step [32]")
    parser.add_argument(
        "--rate", type=float, default=1e-3, metavar="X", help="learning rate, constant [0.001]"
    )
    parser.add_argument(
        "--backend",
        choices=("tensorflow", "jax"),
        default="tensorflow",
        help="of Keras, on both sides [tensorflow]",
    )
    return parser.parse_args()


def main() -> None:
    """Run the sides, or be one."""
    args = read_options()
    if args.side:
        with contextlib.redirect_stdout(sys.stderr):
            result = measure(args)
        print(json.dumps(result))  # and out by the common road: its end belongs to the wall clock
        return
    machine = pairs.describe_machine()
    with pairs.working_folder(args.work) as work:
        folder = flowers.prepare(args, work)
        commands = {side: pairs.side_command(__file__, side, ["--data", folder]) for side in SIDES}
        samples = pairs.run_rounds(
            commands, rounds=args.rounds, environ={"KERAS_BACKEND": args.backend}
        )
        print(tell(samples))
        print(
            f"{args.backbone}, {args.epochs} epochs, batches of {args.batch}, {args.backend}; "
            f"data: {flowers.describe(args, folder)}"
        )
    print(pairs.tell_machine(machine))
    pairs.finish(args, samples, machine)


if __name__ == "__main__":
    main()
