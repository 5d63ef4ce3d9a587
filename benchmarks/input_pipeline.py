"""Images a second that reach the device as training batches, and the memory that takes.

    python benchmarks/input_pipeline.py                  # drawn flowers, about a minute
    python benchmarks/input_pipeline.py --data PHOTOS    # shards of photos: a better test

classic         decoded, cast to float32 and flipped image by image, every epoch
classic-cached  the same with .cache() after the cast
ours            decoded once; uint8 batches with the parameters of their augmentation, which
                the compiled step applies (train_step.py measures that)

The first epoch counts from the opening of the files; imports are in no figure.
"""

import argparse
from time import perf_counter

import harness


def measure(args: argparse.Namespace) -> dict:
    """Images a second in the first epoch, and in those after it, for at least --seconds."""
    import flowerkit

    accelerator = flowerkit.connect()
    data = harness.find_data(args.data)
    steps = data.counts["train"] // args.batch
    if steps == 0:
        raise SystemExit(f"{data.counts['train']} images make no batch of {args.batch}")
    start = perf_counter()
    batches = deliver(open_batches(args, data), accelerator.backend)
    for _ in range(steps):
        next(batches)
    first = perf_counter() - start
    start, epochs = perf_counter(), 0
    while epochs == 0 or perf_counter() - start < args.seconds:
        for _ in range(steps):
            next(batches)
        epochs += 1
    steady = (perf_counter() - start) / epochs
    return {
        "steady_images_per_second": steps * args.batch / steady,
        "first_images_per_second": steps * args.batch / first,
    }


def open_batches(args, data):
    """The training batches of one side."""
    if args.side != "ours":
        import classic

        files = classic.list_shards(data.folder, "train", data.image_size)
        cached = args.side == "classic-cached"
        return classic.training_dataset(files, data.image_size, args.batch, cached=cached)
    from flowerkit.data import load_split
    from flowerkit.pipeline import train_batches

    split = load_split(data, "train")
    batches = train_batches(split, global_batch=args.batch, seed=0, num_classes=data.num_classes)
    return batches.for_keras()


def deliver(batches, backend: str):
    """Yield once for every batch that is on the device."""
    if backend == "jax":
        import jax

        batches = batches.as_numpy_iterator() if hasattr(batches, "as_numpy_iterator") else batches
        for batch in batches:
            jax.block_until_ready(jax.device_put(batch))
            yield
    else:
        for _ in batches:
            yield


if __name__ == "__main__":
    harness.main(
        __doc__,
        measure,
        sides=("classic", "classic-cached", "ours"),
        columns={
            "steady_images_per_second": "later epochs, images/s",
            "first_images_per_second": "first epoch, images/s",
        },
        images=1024,
        size=224,
        batch=(128, "global batch"),
        seconds=(2.0, "measured after the first epoch"),
    )
