"""convert and check-data."""

import argparse
from pathlib import Path

from flowerkit.cli.options import add_number, add_path, add_photo_options, open_data, read_labels
from flowerkit.cli.terminal import Echo, Progress
from flowerkit.files import check_writable, make_folder
from flowerkit.text import pluralize

_SHOWN_PROBLEMS = 20


def add_convert_options(parser: argparse.ArgumentParser) -> None:
    photos = (
        "a folder with a sub folder for each class, or with train/, val/ and test/ of those; photos "
        "that cannot be read are named and left out"
    )
    add_path(parser, "photos", "PHOTOS", photos, takes=["photos"])
    out = "the folder to make; after an interruption it continues"
    add_path(parser, "out", "OUT", out, takes=["data", "new"])
    parser.add_argument(
        "--resize",
        choices=("crop", "pad", "squish"),
        default="crop",
        help="the square in the middle; all of it with black bars; or all of it, distorted [crop]",
    )
    add_photo_options(parser)
    add_number(parser, "--image-size", 224, "in px", int)
    add_number(parser, "--val-fraction", 0.2, "of each class, to choose the best epoch", float)
    add_number(parser, "--test-fraction", 0.1, "of each class, to measure the final result", float)
    add_number(parser, "--seed", 0, "another seed assigns other photos to the splits", int)
    add_number(parser, "--workers", None, "processes [the number of cores]")
    parser.add_argument(
        "--beam",
        action="append",
        nargs="?",
        const="",
        metavar="OPTION",
        help="convert with Apache Beam, for folders that one machine cannot hold; repeat it for each "
        "option of Beam and its runner: --beam=--runner=FlinkRunner [all on this machine]",
    )


def run_convert(args, echo: Echo, progress: Progress) -> int:
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
            **read_labels(args),
            label_pattern=args.label_pattern,
            train=args.train,
            val=args.val,
            test=args.test,
            workers=args.workers,
            progress=progress,
            beam_options=None if args.beam is None else list(filter(None, args.beam)),
        )
    except KeyboardInterrupt:
        if args.out.is_dir():
            echo(f"{args.out} keeps what was read; the same command continues")
        raise
    for line in conversion.summary():
        echo(line)
    folder = data.folder
    echo(f"wrote {folder}, see conversion.json there; next: flowerkit train --data {folder}")
    return 0


def add_check_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DIR", help="a folder that holds tfrecords-jpeg-SxS/, or auto, or drawn"
    ).takes = ("data", "photos")
    parser.add_argument(
        "--external", metavar="DIR2", help="another such folder, to be trained on as well"
    )
    add_photo_options(parser)
    add_number(parser, "--image-size", None, "in px, where there are several")
    parser.add_argument(
        "--no-near", action="store_true", help="compare ids and bytes only, which decodes nothing"
    )
    add_path(parser, "--out", "FOLDER", "write all pairs to pairs.csv, the first to pairs.png")


def run_check_data(args, echo: Echo, progress: Progress) -> int:
    from flowerkit.data import find_leaks, find_sizes
    from flowerkit.sources import find_data

    if args.out:
        check_writable(args.out)
    data, external = open_data(args, image_size=args.image_size), None
    if args.external:  # bytes can be compared at the same size only
        is_same = data.image_size in find_sizes(args.external)
        external = find_data(args.external, image_size=data.image_size if is_same else None)
    report = find_leaks(data, external=external, near=not args.no_near, progress=progress)
    echo(f"checked {data}")
    if external:
        echo(f"and {external}")
    for line in report.notes:
        echo(line)
    if args.no_near:
        echo("not looked for: copies that were saved anew, resized, mirrored, turned or cropped")
    else:
        echo(
            "not found: copies cropped by more than about 5 % of a side, or turned by other than 90°"
        )
    if args.out:
        _write_pairs(args.out, report, echo)
    for line in report.problems[:_SHOWN_PROBLEMS]:
        echo(f"problem: {line}")
    more = len(report.problems) - _SHOWN_PROBLEMS
    if more > 0:
        echo(f"and {pluralize(more, 'problem')} more (--out FOLDER writes all)")
    if not report.problems:
        compared = "ids and bytes" if args.no_near else "ids, bytes and similarity"
        echo(f"no picture is in two splits, by {compared}")
    return int(bool(report.problems))


def _write_pairs(folder: Path, report, echo: Echo) -> None:
    from flowerkit.data import draw_pairs, write_pairs

    make_folder(folder)
    write_pairs(folder / "pairs.csv", report)
    echo(f"wrote {folder / 'pairs.csv'} ({pluralize(len(report.pairs), 'pair')})")
    if num := draw_pairs(folder / "pairs.png", report.sorted_pairs()):
        echo(f"wrote {folder / 'pairs.png'} ({num} of them, problems first)")
