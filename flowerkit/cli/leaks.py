"""`flowerkit check-data`: its options, and what it says; what it says goes to `tell`, line by line."""

import argparse
from collections.abc import Callable
from pathlib import Path

from flowerkit.cli.terminal import quiet_frameworks

_SHOWN = 20


def add_check_data_options(parser: argparse.ArgumentParser) -> None:
    """The options of `flowerkit check-data`."""
    parser.add_argument(
        "data", metavar="DIR", help="a folder that holds tfrecords-jpeg-SxS/, or auto, or drawn"
    )
    parser.add_argument(
        "--external", metavar="DIR2", help="another such folder, which would be trained on as well"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="in px, where there are several"
    )
    parser.add_argument(
        "--no-near", action="store_true", help="compare ids and bytes only, which decodes nothing"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write all pairs to FOLDER/pairs.csv, the first to pairs.png",
    )


def run_check_data(
    args, echo: Callable[[str], None], progress: Callable[[str, int, int], None]
) -> int:
    """Check, and say what was found: 0 if no picture stands on two sides, 1 if there are problems."""
    with quiet_frameworks():
        import tensorflow  # noqa: F401 - the shards are read with it
    from flowerkit.data import find_leaks
    from flowerkit.sources import find_data

    data = find_data(args.data, image_size=args.image_size)
    external = find_data(args.external, image_size=_fit_size(args, data)) if args.external else None
    report = find_leaks(data, external=external, near=not args.no_near, progress=progress)
    echo(f"checked {data}")
    if external:
        echo(f"and {external}")
    for line in report.notes:
        echo(line)
    if args.out:
        _write(args.out, report, echo)
    for line in report.problems[:_SHOWN]:
        echo(f"problem: {line}")
    more = len(report.problems) - _SHOWN
    if more > 0:
        echo(f"and {more:,} problems more" + ("" if args.out else "; --out FOLDER writes them all"))
    if not report.problems:
        compared = "ids and bytes" if args.no_near else "ids, bytes and looks"
        echo(f"no picture stands on two sides, by {compared}")
    return int(bool(report.problems))


def _fit_size(args, data) -> int | None:
    """The external set's own size, unless it has that of the data, whose bytes can be compared."""
    from flowerkit.data import find_sizes

    return data.image_size if data.image_size in find_sizes(args.external) else None


def _write(folder: Path, report, echo: Callable[[str], None]) -> None:
    from flowerkit.data import draw_pairs, write_pairs

    folder.mkdir(parents=True, exist_ok=True)
    write_pairs(folder / "pairs.csv", report)
    echo(f"wrote {folder / 'pairs.csv'} ({len(report.pairs):,} pairs)")
    if num := draw_pairs(folder / "pairs.png", report.sorted_pairs()):
        echo(f"wrote {folder / 'pairs.png'} ({num} of them, problems first)")
