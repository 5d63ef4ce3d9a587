"""Seconds until the first training step is finished: tracing and compiling, hardly any arithmetic.

    python benchmarks/first_step.py                                  # DenseNet121 and tiny
    python benchmarks/first_step.py --backend jax --backbones tiny

"fit to step" counts from the call of Keras's `fit` to the end of its first step, "start to step"
from the start of the process: imports, data and the making of the model besides. "ours again", with
jax, finds what the first run compiled in the compilation cache.
"""

import argparse
import tempfile
import time
from pathlib import Path

import flowers
import pairs

SIDES = ("classic", "ours", "ours-again")


def clock_first_step(callback_class, fit_class) -> tuple:
    """(callback, times): the process ends with the first step, so nothing else is waited for."""
    times = {}
    fit = fit_class.fit

    def clocked_fit(self, *args, **options):
        times["fit"] = time.perf_counter()
        return fit(self, *args, **options)

    fit_class.fit = clocked_fit

    class EndAtFirstStep(callback_class):
        """Called by flowerkit's own steps, or by Keras after the first batch, whichever is there."""

        def on_step(self, done, logs):
            float(logs["loss"])
            pairs.end_child({"fit_to_step_seconds": time.perf_counter() - times["fit"]})

        def on_train_batch_end(self, batch, logs=None):
            self.on_step(1, logs)

    return EndAtFirstStep()


def measure(args: argparse.Namespace) -> None:
    """One side, in this process, which does not come back."""
    import keras

    callback = clock_first_step(keras.callbacks.Callback, keras.Model)
    data = flowers.find(args.data)
    if args.side == "classic":
        import classic

        size = data.image_size
        files = classic.list_shards(data.folder, "train", size)
        model = classic.build_model(data.num_classes, size, backbone=args.backbone)
        dataset = classic.training_dataset(files, size, args.batch)
        steps = classic.steps_per_epoch(data.counts["train"], args.batch)
        classic.fit(model, dataset, steps=steps, epochs=1, callbacks=[callback])
    else:
        import flowerkit

        plan = flowerkit.TrainingPlan(
            backbone=args.backbone, weights=None, epochs=1, per_replica_batch=args.batch
        )
        with tempfile.TemporaryDirectory() as out:
            flowerkit.train(plan, data, out=Path(out, "run"), callbacks=[callback])
    raise SystemExit("training ended without a first step")


def tell(samples) -> str:
    """A row a backbone and side."""
    rows = []
    for backbone, of_backbone in samples.items():
        for side, of_side in of_backbone.items():
            rows.append([f"{backbone}, {side.replace('-', ' ')}"])
            for key in ("fit_to_step_seconds", "process_seconds"):
                rows[-1].append(pairs.median(of_side, key))
                rows[-1].append(pairs.tell_ratio(pairs.ratio(of_backbone, key, "classic", side)))
            rows[-1].append(f"{100 * pairs.spread(of_side, 'fit_to_step_seconds'):.0f} %")
            rows[-1].append(pairs.median(of_side, "process_cpu_seconds"))
            rows[-1].append(pairs.median(of_side, "peak_mib"))
    head = [
        "side",
        "fit to step, s",
        "faster",
        "start to step, s",
        "faster",
        "spread",
        "CPU s",
        "peak MiB",
    ]
    return pairs.format_table(head, rows)


def run(args, folder: Path, backbone: str, cache: Path):
    """All sides with one backbone."""
    sides = SIDES if args.backend == "jax" else SIDES[:2]
    commands = {
        side: pairs.side_command(__file__, side, ["--data", folder, "--backbone", backbone])
        for side in sides
    }
    environ = {"KERAS_BACKEND": args.backend}
    again = environ | {"FLOWERKIT_CACHE": str(cache)}
    if "ours-again" in commands:
        pairs.run_child(commands["ours-again"], environ=again)  # fills the cache
    return pairs.run_rounds(
        commands, rounds=args.rounds, environ=environ, environs={"ours-again": again}
    )


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs.add_common(parser, rounds=1)
    flowers.add_options(parser, images=64, size=96)
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=["tiny", "DenseNet121"],
        metavar="NAME",
        help="tiny or Keras Applications names [tiny DenseNet121]",
    )
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images a step [8]")
    parser.add_argument(
        "--backend",
        choices=("tensorflow", "jax"),
        default="tensorflow",
        help="of Keras, on both sides [tensorflow]",
    )
    parser.add_argument("--backbone", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the sides, or be one."""
    args = read_options()
    if args.side:
        measure(args)
    machine = pairs.describe_machine()
    with pairs.working_folder(args.work) as work:
        folder = flowers.prepare(args, work)
        samples = {
            backbone: run(args, folder, backbone, work / f"compiled-{backbone}")
            for backbone in args.backbones
        }
        print(tell(samples))
        print(f"batches of {args.batch}, {args.backend}; data: {flowers.describe(args, folder)}")
    print(pairs.tell_machine(machine))
    pairs.finish(args, samples, machine)


if __name__ == "__main__":
    main()
