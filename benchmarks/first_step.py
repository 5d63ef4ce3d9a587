"""Seconds until the first training step is finished: tracing and compiling, hardly any arithmetic.

    python benchmarks/first_step.py
    python benchmarks/first_step.py --backend jax --backbone DenseNet121

"fit to step" counts from the call of Keras's `fit` to the end of its first step, "start to step"
from the start of the process: imports, data and the making of the model besides.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import harness


def measure(args: argparse.Namespace) -> dict:
    """One side; the process ends inside `fit`, after its first step."""
    import keras

    callback = end_at_first_step(keras)
    data = harness.find_data(args.data)
    if args.side == "classic":
        import classic

        model = classic.build_model(data.num_classes, data.image_size, backbone=args.backbone)
        files = classic.list_shards(data.folder, "train", data.image_size)
        dataset = classic.training_dataset(files, data.image_size, args.batch)
        steps = data.counts["train"] // args.batch
        classic.fit(model, dataset, steps=steps, epochs=1, callbacks=[callback])
    else:
        import flowerkit

        plan = replace(
            flowerkit.load_plan("ramp"),
            backbone=args.backbone,
            weights=None,
            epochs=1,
            per_replica_batch=args.batch,
            min_crop_area=1.0,
            random_erasing=0.0,
        )
        with tempfile.TemporaryDirectory() as out:
            flowerkit.train(data, plan, out=Path(out, "run"), callbacks=[callback])
    raise SystemExit("training ended without a first step")


def end_at_first_step(keras):
    """A callback that ends this process; the call of `fit` is noted."""
    fit, called = keras.Model.fit, []

    def noted_fit(self, *args, **options):
        called.append(perf_counter())
        return fit(self, *args, **options)

    class EndAtFirstStep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            harness.end_side({"fit_to_step_seconds": perf_counter() - called[0]})

    keras.Model.fit = noted_fit
    return EndAtFirstStep()


if __name__ == "__main__":
    harness.main(
        __doc__,
        measure,
        sides=("classic", "ours"),
        columns={
            "fit_to_step_seconds": "fit to step, s",
            "process_seconds": "start to step, s",
            "process_cpu_seconds": "CPU, s",
        },
        images=64,
        size=96,
        backbone=("tiny", "tiny or a Keras Applications name, without weights"),
        batch=(8, "images a step"),
    )
