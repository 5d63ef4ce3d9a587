"""`flowerkit convert`: its options, and what it says; what it says goes to `tell`, a line at a time."""

import argparse
from collections.abc import Callable
from pathlib import Path

from flowerkit.cli.terminal import quiet_frameworks


def add_convert_options(parser: argparse.ArgumentParser) -> None:
    """The options of `flowerkit convert`."""
    parser.add_argument(
        "photos",
        type=Path,
        metavar="PHOTOS",
        help="a folder with a sub folder for each class, or with train/, val/ and "
        "test/ that hold those",
    )
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="the folder to make; where it was interrupted, it goes on",
    )
    parser.add_argument(
        "--resize",
        choices=("crop", "pad", "squish"),
        default="crop",
        help="the square in the middle; all of it and black bars; or all of it, distorted [crop]",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="file names, classes, perhaps splits; not the class folders",
    )
    for option, kind, value, metavar, help in (
        ("--image-size", int, 224, "N", "in px"),
        ("--val-fraction", float, 0.2, "X", "of each class, to choose the best epoch by"),
        ("--test-fraction", float, 0.1, "X", "of each class, to measure the end result by"),
        ("--seed", int, 0, "N", "another one, another division"),
    ):
        parser.add_argument(
            option, type=kind, default=value, metavar=metavar, help=f"{help} [{value}]"
        )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read [one a core]")


def run_convert(
    args, echo: Callable[[str], None], progress: Callable[[str, int, int], None]
) -> int:
    """Convert, and say what became of the photos; 0, or what `convert_photos` raises."""
    with quiet_frameworks():
        import tensorflow  # noqa: F401 - the shards are written with it
    from flowerkit.photos import convert_photos

    try:
        data, conversion = convert_photos(
            args.photos,
            args.out,
            image_size=args.image_size,
            resize=args.resize,
            val_fraction=args.val_fraction,
            test_fraction=args.test_fraction,
            seed=args.seed,
            labels_csv=args.labels,
            workers=args.workers,
            progress=progress,
        )
    except KeyboardInterrupt:
        if args.out.is_dir():
            echo(f"what was read is kept in {args.out}; the same command goes on from there")
        raise
    for line in conversion.summary():
        echo(line)
    echo(
        f"wrote {data.folder}, see conversion.json there; next: flowerkit train --data {data.folder}"
    )
    return 0
