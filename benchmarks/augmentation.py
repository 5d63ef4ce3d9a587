"""Milliseconds an image that augmentation costs, on one core: ours beside what others call.

    python benchmarks/augmentation.py             # 224 px, about a minute
    python benchmarks/augmentation.py --data PHOTOS --keep-threads

classic      one image at a time in tf.data: tf.image's flip, sample_distorted_bounding_box and
             resize, and the notebooks' random-erasing by tf.where; on the float32 images that they have
keras        Keras's layers mapped over batches in tf.data, on the same images: RandomFlip, RandomZoom
             (it has no random resized crop), RandomErasing
ours         augment_layer: keras.ops, compiled, uint8 in, float32 out; made for an accelerator, whose
             matrix units a CPU does not have
Of the sides in tf.data the same pipeline without augmentation is taken off.
"""

import argparse
import os
import time

import flowers
import pairs

SIDES = ("classic", "keras", "ours")
CASES = ("flip", "crop", "block", "all")


def measure(args: argparse.Namespace) -> dict:
    """One side, in this process: seconds an image for every case, in ms."""
    if not args.keep_threads and hasattr(os, "sched_setaffinity"):
        # Before any framework counts its cores.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import numpy as np

    images = read_images(args, np)
    measure_case = {"classic": in_tf_data, "keras": in_tf_data, "ours": on_device}[args.side]
    taken = {case: measure_case(args, images, case) for case in args.cases}
    if args.side in ("classic", "keras"):
        nothing = in_tf_data(args, images, None)
        # A case can be lost in the noise of a short run; a time is still no less than nothing.
        taken = {case: max(0.0, ms - nothing) for case, ms in taken.items()}
    return {f"{case}_ms": ms for case, ms in taken.items()}


def read_images(args, np):
    """(batch, size, size, 3) uint8: the first train images of the data."""
    import io

    from PIL import Image

    from flowerkit.data.tfrecords import read_records

    images = []
    for file in flowers.find(args.data).files["train"]:
        for _, record in read_records(file):
            images.append(np.asarray(Image.open(io.BytesIO(record.image)).convert("RGB")))
            if len(images) == args.batch:
                return np.stack(images)
    raise SystemExit(f"{len(images)} images make no batch of {args.batch}")


def clock(args, run_once, images_a_run: int) -> float:
    """ms an image: the best of several stretches, for what disturbs can only add."""
    run_once()  # traces, compiles, warms
    best = float("inf")
    for _ in range(args.stretches):
        start, runs = time.perf_counter(), 0
        while runs == 0 or time.perf_counter() - start < args.seconds / args.stretches:
            run_once()
            runs += 1
        best = min(best, (time.perf_counter() - start) / runs)
    return 1000 * best / images_a_run


def augmentation_of(case: str):
    """The case as a flowerkit Augmentation; "all" is the competition plan's."""
    from flowerkit.training.plan import COMPETITION, Augmentation

    return {
        "flip": Augmentation(flip=True),
        "crop": Augmentation(flip=False, min_crop_area=COMPETITION.min_crop_area),
        "block": Augmentation(flip=False, random_erasing=COMPETITION.random_erasing),
        "all": COMPETITION.augmentation(),
    }[case]


def on_device(args, images, case: str) -> float:
    """flowerkit's compiled augmentation, on whatever device Keras's backend has."""
    import keras

    import flowerkit
    from flowerkit.pipeline.augment_layer import augment
    from flowerkit.pipeline.augment_params import sample_params

    flowerkit.connect()
    augmentation, epochs = augmentation_of(case), iter(range(10**9))
    compiled = compile_function(lambda pixels, params: augment(pixels, params, augmentation))
    pixels = keras.ops.convert_to_tensor(images)

    def run_once():
        params = sample_params(augmentation, len(images), seed=0, epoch=next(epochs))
        compiled(pixels, keras.ops.convert_to_tensor(params))

    return clock(args, run_once, len(images))


def compile_function(function):
    """`function` compiled by XLA, as on an accelerator; it is through when it returns."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(function)
        return lambda *arrays: jax.block_until_ready(compiled(*arrays))
    import tensorflow as tf

    return tf.function(function, autograph=False, jit_compile=True)


def in_tf_data(args, images, case: str | None) -> float:
    """Per image (classic) or per batch (keras), mapped in tf.data; None: nothing is done."""
    import tensorflow as tf

    pixels = tf.constant(images, tf.float32) / 255.0
    dataset = tf.data.Dataset.from_tensors(pixels).repeat()
    if args.side == "classic":
        dataset = dataset.unbatch()
    if case:
        change = classic_change(tf, case, images.shape[1]) if args.side == "classic" else None
        dataset = dataset.map(change or keras_change(case), num_parallel_calls=tf.data.AUTOTUNE)
    if args.side == "classic":
        dataset = dataset.batch(len(images))
    # One endless iterator: to end an autotuned one can take seconds.
    batches = iter(dataset.prefetch(tf.data.AUTOTUNE))

    def run_once():
        for _ in range(args.repeats):
            next(batches)

    return clock(args, run_once, len(images) * args.repeats)


def classic_change(tf, case: str, size: int):
    """One image at a time, as notebooks write it."""

    def flip(image):
        return tf.image.random_flip_left_right(image)

    def crop(image):
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            (size, size, 3),
            tf.zeros((1, 0, 4)),
            min_object_covered=0.0,
            area_range=(0.6, 1.0),
            aspect_ratio_range=(4 / 5, 5 / 4),
            use_image_if_no_bounding_boxes=True,
        )
        return tf.image.resize(tf.slice(image, begin, extent), (size, size))

    def block(image):
        side = tf.cast(tf.random.uniform((), 0.14, 0.45) * size, tf.int32)
        row = tf.random.uniform((), 0, size, tf.int32)
        column = tf.random.uniform((), 0, size, tf.int32)
        places = tf.range(size)
        rows = (places >= row) & (places < row + side)
        columns = (places >= column) & (places < column + side)
        covered = (rows[:, None] & columns[None, :])[..., None]
        covered &= tf.random.uniform(()) < 0.25
        return tf.where(covered, 0.5, image)

    changes = {"flip": flip, "crop": crop, "block": block}
    return changes.get(case, lambda image: block(crop(flip(image))))


def keras_change(case: str):
    """Keras's own layers over a batch."""
    import keras

    layers = {
        "flip": keras.layers.RandomFlip("horizontal"),
        "crop": keras.layers.RandomZoom((-0.22, 0.0)),
        "block": keras.layers.RandomErasing(
            factor=0.25, scale=(0.02, 0.2), fill_value=0.5, value_range=(0, 1)
        ),
    }
    chosen = list(layers.values()) if case == "all" else [layers[case]]

    def change(images):
        for layer in chosen:
            images = layer(images, training=True)
        return images

    return change


def tell(args, samples) -> str:
    """A row a side; ratios are the classic's time over the side's."""
    base = "classic" if "classic" in samples else next(iter(samples))
    rows = []
    for side, of_side in samples.items():
        rows.append([side])
        for case in args.cases:
            key = f"{case}_ms"
            rows[-1].append(pairs.median(of_side, key))
            faster = pairs.ratio(samples, key, base, side) if pairs.median(of_side, key) else None
            rows[-1].append(pairs.tell_ratio(faster) if faster else "-")
        rows[-1].append(pairs.median(of_side, "peak_mib"))
    head = ["side"]
    for case in args.cases:
        head += [f"{case}, ms", "faster"]
    return pairs.format_table([*head, "peak MiB"], rows)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs.add_common(parser, rounds=3)
    flowers.add_options(parser, images=64, size=224)
    for name, choices in (("sides", SIDES), ("cases", CASES)):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=choices,
            default=choices,
            help=f"which to run [{', '.join(choices)}]",
            metavar="NAME",
        )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images a batch [64]")
    parser.add_argument(
        "--repeats", type=int, default=4, metavar="N", help="batches of tf.data at a time [4]"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.9, metavar="X", help="for each case of each side [0.9]"
    )
    parser.add_argument(
        "--stretches",
        type=int,
        default=3,
        metavar="N",
        help="parts of that time, of which the best counts [3]",
    )
    parser.add_argument("--keep-threads", action="store_true", help="use every core, not one")
    return parser.parse_args()


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
        samples = pairs.run_rounds(commands, rounds=args.rounds)
        print(tell(args, samples))
        cores = "every core" if args.keep_threads else "one core"
        print(f"batches of {args.batch}, {cores}; data: {flowers.describe(args, folder)}")
    print(pairs.tell_machine(machine))
    pairs.finish(args, samples, machine)


if __name__ == "__main__":
    main()
