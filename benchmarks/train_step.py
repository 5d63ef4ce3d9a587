"""Images a second through the training step, and the share of the chip's peak: ours beside plain fit.

    python benchmarks/train_step.py                              # on a CPU: a tiny network
    python benchmarks/train_step.py --backbone DenseNet121 --size 224 --batch 128 --steps 50

It needs keras, jax and numpy only; the images are random and in memory, so nothing but the step and
the way to the device is measured.

keras fit       float32 images in, as the notebooks have them, plain `fit`
ours            uint8 images in, flip, crop and random-erasing on the device, flowerkit's step
ours, plain     the same without augmentation
ours, resident  as ours, but the images lie in the device's memory, and row numbers go in
The arithmetic of a step is what jax counts in the unoptimised program, forward and backward.
"""

import argparse
import dataclasses
import sys
import time

import pairs

SIDES = ("keras-fit", "ours", "ours-plain", "ours-resident")
RATE = "images_per_second"
NUM_CLASSES = 104
POOL = 4  # batches in memory, given out by turns

# Dense 16-bit peaks of one device in TFLOP/s, from the makers' data sheets, by a part of the name
# that jax gives it; the first that fits. T4, V100 and P100 have float16 alone.
PEAKS = (
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100", 989),
    ("A100", 312),
    ("L40S", 362),
    ("L4", 121),
    ("T4", 65),
    ("V100", 125),
    ("P100", 18.7),
    ("TPU v6", 918),
    ("TPU v5 lite", 197),
    ("TPU v5e", 197),
    ("TPU v5", 459),
    ("TPU v4", 275),
    ("TPU v3", 61.5),
    ("TPU v2", 22.5),
)


def peak_tflops(device_kind: str) -> float | None:
    """The peak of one device, None where it is not known.

    >>> peak_tflops("NVIDIA H200"), peak_tflops("TPU v5 lite"), peak_tflops("cpu")
    (989, 197, None)
    """
    return next((peak for name, peak in PEAKS if name in device_kind), None)


class Clock:
    """When each epoch ended; as a Keras callback, made where keras is imported."""

    @staticmethod
    def make(keras):
        """(callback, list of times)."""
        ends = []

        class Note(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                ends.append(time.perf_counter())  # the epoch's metrics have been fetched

        return Note(), ends


def measure(args: argparse.Namespace) -> dict:
    """One side, in this process."""
    import jax
    import keras

    import flowerkit

    accelerator = dataclasses.replace(flowerkit.connect(), precision=args.precision)
    if args.side == "flops":
        return {"flops_per_image": count_flops(args, accelerator)}
    batch = args.batch * accelerator.replicas
    clock, ends = Clock.make(keras)
    start = time.perf_counter()
    fit = fit_plainly if args.side == "keras-fit" else fit_ours
    fit(args, accelerator, batch, clock)
    seconds = (ends[-1] - ends[0]) / (args.epochs - 1)
    return {
        RATE: args.steps * batch / seconds,
        "first_epoch_seconds": ends[0] - start,
        "device": jax.devices()[0].device_kind,
        "replicas": accelerator.replicas,
        "tensorflow": "tensorflow" in sys.modules,
    }


def fit_plainly(args, accelerator, batch: int, clock) -> None:
    """The notebooks' model and `fit`, on float32 images."""
    import classic
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (batch, args.size, args.size, 3)
    images = [rng.random(shape, "float32") for _ in range(POOL)]
    labels = rng.integers(0, NUM_CLASSES, (POOL, batch), "int32")
    with accelerator.scope():
        model = classic.build_model(NUM_CLASSES, args.size, backbone=args.backbone)
    classic.fit(
        model,
        repeat(list(zip(images, labels, strict=True))),
        steps=args.steps,
        epochs=args.epochs,
        callbacks=[clock],
    )


def fit_ours(args, accelerator, batch: int, clock) -> None:
    """flowerkit's step on uint8 images and the draws of their augmentation."""
    import keras
    import numpy as np

    from flowerkit.models.classifier import build_classifier
    from flowerkit.pipeline.draws import sample_params
    from flowerkit.pipeline.resident import put_on_device
    from flowerkit.training.async_steps import StepHooks
    from flowerkit.training.plan import COMPETITION
    from flowerkit.training.step import compile_for_training

    off = {"flip": False, "min_crop_area": 1.0, "random_erasing": 0.0}
    off = off if args.side == "ours-plain" else {}
    plan = dataclasses.replace(
        COMPETITION,
        backbone=args.backbone,
        weights=None,
        augment_on="device",
        per_replica_batch=args.batch,
        **off,
    )
    rng = np.random.default_rng(0)
    shape = (POOL, batch, args.size, args.size, 3)
    images = rng.integers(0, 256, shape, "uint8")
    labels = rng.integers(0, NUM_CLASSES, (POOL, batch), "int32")
    draws = [
        sample_params(plan.augmentation(), batch, seed=0, epoch=epoch) for epoch in range(POOL)
    ]
    keras.utils.set_random_seed(0)
    with accelerator.scope():
        classifier = build_classifier(
            NUM_CLASSES, image_size=args.size, backbone=args.backbone, weights=None
        )
        table = None
        if args.side == "ours-resident":
            table = put_on_device(images.reshape(-1, *shape[2:]), accelerator)
            if table is None:
                raise SystemExit("the images do not fit: there is nothing to measure")
            images = np.arange(POOL * batch, dtype="int32").reshape(POOL, batch)
        model = compile_for_training(classifier, plan, accelerator, images=table)
    hooks = StepHooks(args.steps)
    model.fit(
        repeat([((images[i], draws[i]), labels[i]) for i in range(POOL)]),
        steps_per_epoch=args.steps,
        epochs=args.epochs,
        callbacks=[hooks, clock],
        verbose=0,
    )


def repeat(batches: list):
    """The batches by turns, for ever."""
    while True:
        yield from batches


def count_flops(args, accelerator) -> float | None:
    """Forward and backward of one image, None where jax does not say; nothing is compiled."""
    import jax
    import keras
    import numpy as np

    from flowerkit.models.classifier import build_classifier

    with accelerator.scope():
        model = build_classifier(
            NUM_CLASSES, image_size=args.size, backbone=args.backbone, weights=None
        )
    labels = np.zeros(args.batch, "int32")

    def loss_of(trained, others, images):
        outputs, others = model.stateless_call(trained, others, images, training=True)
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(labels, outputs)), others

    values = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    images = np.zeros((args.batch, args.size, args.size, 3), "float32")
    lowered = jax.jit(jax.grad(loss_of, has_aux=True)).lower(*values, images)
    costs = lowered.cost_analysis() or {}
    return costs["flops"] / args.batch if costs.get("flops") else None


def tell(samples, flops: float | None) -> str:
    """A row a side; the share is of the 16-bit peak of all devices together."""
    base = next(iter(samples))
    rows = []
    for side, of_side in samples.items():
        rate, replicas = pairs.median(of_side, RATE), of_side[0]["replicas"]
        peak = peak_tflops(of_side[0]["device"])
        tflops = rate * flops / 1e12 if flops else None
        rows.append(
            [
                side.replace("-", " "),
                rate,
                pairs.tell_ratio(pairs.ratio(samples, RATE, side, base)),
                f"{100 * pairs.spread(of_side, RATE):.0f} %",
                tflops,
                f"{100 * tflops / (peak * replicas):.1f} %" if tflops and peak else "unknown",
                pairs.median(of_side, "first_epoch_seconds"),
                pairs.median(of_side, "peak_mib"),
            ]
        )
    head = [
        "side",
        "images/s",
        f"/ {base.replace('-', ' ')}",
        "spread",
        "TFLOP/s",
        "of peak",
        "first epoch, s",
        "peak MiB",
    ]
    return pairs.format_table(head, rows)


def read_options() -> argparse.Namespace:
    """The command line; what is not given depends on the device."""
    from flowerkit.accelerator.device import collect_evidence, detect

    on_cpu = detect(collect_evidence()).kind == "cpu"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs.add_common(parser, rounds=2)
    for option, here, elsewhere, text in (
        ("--backbone", "tiny", "DenseNet121", "tiny or a Keras Applications name"),
        ("--size", 64, 224, "side of the images in px"),
        ("--batch", 16, 128, "images a step on each device"),
        ("--steps", 8, 40, "steps an epoch"),
        ("--epochs", 3, 4, "epochs, of which the first is not counted"),
        ("--precision", "float32", "mixed_bfloat16", "Keras's dtype policy"),
    ):
        value = here if on_cpu else elsewhere
        parser.add_argument(
            option,
            type=type(value),
            default=value,
            metavar="X",
            help=f"{text} [CPU: {here}, else {elsewhere}]",
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
    environ = {"KERAS_BACKEND": "jax"}
    samples = pairs.run_rounds(
        {side: pairs.side_command(__file__, side) for side in args.sides},
        rounds=args.rounds,
        environ=environ,
    )
    # Counted on the CPU: the program is the same, and no device is waited for.
    counted = pairs.run_child(
        pairs.side_command(__file__, "flops"),
        environ=environ | {"JAX_PLATFORMS": "cpu", "FLOWERKIT_VIRTUAL_CPUS": "1"},
    )
    flops = counted["flops_per_image"]
    print(tell(samples, flops))
    one = samples[args.sides[0]][0]
    gflop = f"{flops / 1e9:.2f} GFLOP an image" if flops else "jax does not count its arithmetic"
    print(
        f"{args.backbone}, {args.size} px, {args.precision}, {args.batch} images a step on each of "
        f"{one['replicas']} x {one['device']}; {gflop}"
    )
    loaded = [side for side in args.sides if samples[side][0]["tensorflow"]]
    if loaded:
        print(f"TensorFlow was imported by: {', '.join(loaded)}")
    print(pairs.tell_machine(machine))
    pairs.finish(args, {"flops_per_image": flops, **samples}, machine)


if __name__ == "__main__":
    main()
