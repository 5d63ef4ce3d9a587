"""`flowerkit convert-beam`: its options, and what it says; what it says goes to `tell`."""

import argparse
from collections.abc import Callable

from flowerkit.cli.photos import add_convert_options
from flowerkit.cli.terminal import quiet_frameworks


def add_convert_beam_options(parser: argparse.ArgumentParser) -> None:
    """The options of `flowerkit convert`, and any of Beam and its runner."""
    add_convert_options(parser)
    parser.add_argument(
        "--beam-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="one of Beam's or of its runner's, any number of times, such as "
        "--beam-option=--runner=FlinkRunner; without a runner: all here",
    )


def run_convert_beam(
    args, echo: Callable[[str], None], progress: Callable[[str, int, int], None]
) -> int:
    """Convert by a pipeline, and say what became of the photos; 0, or what it raises.

    The runner shows its own progress, so `progress` is not called.
    """
    with quiet_frameworks():
        import tensorflow  # noqa: F401 - the shards are written with it
    from flowerkit.photos import convert_with_beam

    data, conversion = convert_with_beam(
        args.photos,
        args.out,
        image_size=args.image_size,
        resize=args.resize,
        val_fraction=args.val_fraction,
        test_fraction=args.test_fraction,
        seed=args.seed,
        labels_csv=args.labels,
        beam_options=args.beam_option,
    )
    for line in conversion.summary():
        echo(line)
    echo(
        f"wrote {data.folder}, see conversion.json there; next: flowerkit train --data {data.folder}"
    )
    return 0
