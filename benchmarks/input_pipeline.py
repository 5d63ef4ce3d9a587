"""Images a second that reach the training step, and the memory that takes: classic beside ours.

    python benchmarks/input_pipeline.py                     # drawn flowers, about two minutes
    python benchmarks/input_pipeline.py --data PHOTOS       # shards of photos: a better test
    python benchmarks/input_pipeline.py --growth            # more images, larger ones, more replicas

classic         decoded, cast to float32 and flipped image by image, every epoch
classic cached  the same with .cache() after the cast
ours            decoded once; uint8 batches, nothing done to them
ours, host      flipped in the input's threads, scaled to float32 by a compiled function
ours, device    flipped and scaled by a compiled function: batches as an accelerator gets them
ours, resident  taken, flipped and scaled by it, from images in the device's memory (--keep device)
The first epoch counts from the opening of the files, and holds what is compiled; imports are in no
figure. In the growth table one thing grows at a time, and the others stay at their smallest.
"""

import argparse
import sys

import flowers
import pairs

SIDES = ("classic", "classic-cached", "ours", "ours-host", "ours-device", "ours-resident")
GROWTH_SIDES = ("classic", "ours", "ours-host")  # the roads that training takes on a CPU
FIRST, STEADY = "first_images_per_second", "steady_images_per_second"


def measure(args: argparse.Namespace) -> dict:
    """One side, in this process."""
    import classic
    import delivery

    import flowerkit

    accelerator = flowerkit.connect("cpu" if args.replicas == 1 else None)
    data = flowers.find(args.data)
    steps = classic.steps_per_epoch(data.counts["train"], args.batch)
    if steps == 0:
        raise SystemExit(f"{data.counts['train']} images make no batch of {args.batch}")

    def open_delivery():
        if args.side.startswith("classic"):
            files = classic.list_shards(data.folder, "train", data.image_size)
            cached = args.side == "classic-cached"
            dataset = classic.training_dataset(files, data.image_size, args.batch, cached=cached)
            return delivery.deliver(dataset, accelerator)
        import ours

        dataset, step = ours.open_training(
            data, args.side, accelerator, batch=args.batch, keep=args.keep
        )
        return delivery.deliver(dataset, accelerator, step)

    return delivery.clock_epochs(
        open_delivery, steps=steps, batch=args.batch, epochs=args.epochs, seconds=args.seconds
    )


def run(args, folder, sides, *, extra=(), replicas: int = 1, backend: str | None = None):
    """All sides on one data folder."""
    backend = backend or args.backend
    commands = {
        side: pairs.side_command(
            __file__, side, ["--data", folder, "--replicas", replicas, "--backend", backend, *extra]
        )
        for side in sides
    }
    environ = {"KERAS_BACKEND": backend, "FLOWERKIT_VIRTUAL_CPUS": ""}
    if replicas > 1:
        environ["FLOWERKIT_VIRTUAL_CPUS"] = str(replicas)
    return pairs.run_rounds(commands, rounds=args.rounds, environ=environ)


def tell_sides(samples) -> str:
    """The table: a row a side, ratios to the classic pipeline."""
    base = "classic" if "classic" in samples else next(iter(samples))
    rows = [
        [
            side,
            *_with_ratio(samples, FIRST, side, base),
            *_with_ratio(samples, STEADY, side, base),
            f"{100 * pairs.spread(of_side, STEADY):.0f} %",
            pairs.median(of_side, "peak_mib"),
        ]
        for side, of_side in samples.items()
    ]
    head = ["side", "first epoch, images/s", f"/ {base}", "steady, images/s", f"/ {base}"]
    return pairs.format_table([*head, "spread", "peak MiB"], rows)


def _with_ratio(samples, key: str, side: str, base: str) -> tuple[float, str]:
    return (
        pairs.median(samples[side], key),
        pairs.tell_ratio(pairs.ratio(samples, key, side, base)),
    )


def list_growth(args) -> list[tuple[int, int, int, str]]:
    """(images, size, replicas, backend) of every point: one thing grows, the others stay small."""
    images, sizes, replicas = args.growth_images, args.growth_sizes, args.growth_replicas
    points = [(count, args.size or args.drawn_size, 1, args.backend) for count in images]
    points += [(images[0], size, 1, args.backend) for size in sizes]
    points += [
        (images[0], args.size or args.drawn_size, number, backend)
        for backend in ("tensorflow", "jax")
        for number in replicas
    ]
    return list(dict.fromkeys(points))


def run_growth(args, work):
    """Every point of the growth table: a list of dicts."""
    table = []
    for count, size, number, backend in list_growth(args):
        folder = flowers.prepare(args, work, images=count, size=size)
        print(f"{count} images, {size} px, {number} x {backend}", file=sys.stderr, flush=True)
        samples = run(args, folder, GROWTH_SIDES, replicas=number, backend=backend)
        table.append(
            {
                "images": count,
                "size": size,
                "replicas": number,
                "backend": backend,
                "samples": samples,
            }
        )
    return table


def tell_growth(table) -> str:
    """The growth table: a row a point."""
    rows = []
    for point in table:
        samples = point["samples"]
        rows.append(
            [f"{point['images']:,} x {point['size']} px", point["replicas"], point["backend"]]
        )
        for key in (FIRST, STEADY):
            rows[-1].append(pairs.median(samples["classic"], key))
            for side in GROWTH_SIDES[1:]:
                rows[-1].append(pairs.tell_ratio(pairs.ratio(samples, key, side, "classic")))
        rows[-1] += [pairs.median(samples[side], "peak_mib") for side in GROWTH_SIDES]
    head = [
        "images",
        "replicas",
        "backend",
        "first: classic",
        "ours",
        "host",
        "steady: classic",
        "ours",
        "host",
        "MiB: classic",
        "ours",
        "host",
    ]
    return pairs.format_table(head, rows)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs.add_common(parser, rounds=3)
    flowers.add_options(parser, images=1024, size=224)
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=SIDES,
        default=SIDES,
        metavar="SIDE",
        help=f"which to run [{', '.join(SIDES)}]",
    )
    parser.add_argument("--batch", type=int, default=128, metavar="N", help="global batch [128]")
    parser.add_argument(
        "--epochs", type=int, default=2, metavar="N", help="epochs after the first, at least [2]"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, metavar="X", help="and at least so long [1]"
    )
    parser.add_argument(
        "--keep",
        choices=("auto", "ram", "disk", "none"),
        default="auto",
        help="where ours keeps decoded images [auto]",
    )
    parser.add_argument(
        "--backend",
        choices=("tensorflow", "jax"),
        default="tensorflow",
        help="who takes the batches [tensorflow]",
    )
    parser.add_argument("--growth", action="store_true", help="the growth table instead")
    for name, values in (
        ("images", [1024, 4096, 16384]),
        ("sizes", [64, 224, 512]),
        ("replicas", [1, 2, 8]),
    ):
        parser.add_argument(
            f"--growth-{name}",
            type=int,
            nargs="+",
            default=values,
            metavar="N",
            help=f"its {name} [{' '.join(map(str, values))}]",
        )
    parser.add_argument("--replicas", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run the sides, or be one."""
    args = read_options()
    if args.side:
        pairs.end_child(measure(args))
    machine = pairs.describe_machine()
    with pairs.working_folder(args.work) as work:
        if args.growth:
            samples = run_growth(args, work)
            print(tell_growth(samples))
            print(f"data: {args.data or flowers.DRAWN}")
        else:
            folder = flowers.prepare(args, work)
            samples = run(args, folder, args.sides)
            print(tell_sides(samples))
            print(f"data: {flowers.describe(args, folder)}; batches of {args.batch}")
    print(pairs.tell_machine(machine))
    pairs.finish(args, samples, machine)


if __name__ == "__main__":
    main()
