"""demo and draw."""

import argparse

from flowerkit.cli.options import add_device, add_number, add_path
from flowerkit.cli.terminal import Echo, Progress, connect_device
from flowerkit.files import check_writable, find_free_folder


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    add_path(parser, "--out", "FOLDER", "for data/ and run/ [the next free runs/demo-N]")
    add_device(parser)


def run_demo(args, echo: Echo, progress: Progress) -> int:
    from flowerkit.cli.train import train_and_submit
    from flowerkit.sources import draw_competition
    from flowerkit.training import PLANS

    out = args.out or find_free_folder("runs", "demo")
    check_writable(out)
    accelerator = connect_device(args, echo)
    echo("drawing 2,162 flowers of 12 species")
    data = draw_competition(
        out / "data",
        num_classes=12,
        image_size=64,
        num_train=1440,
        num_val=360,
        num_test=362,
        progress=progress,
    )
    echo(str(data))
    return train_and_submit(
        PLANS["smoke"],
        data,
        out / "run",
        accelerator,
        args.started,
        echo,
        progress,
        command=["train", "--data", str(data.folder), "--plan", "smoke"],
    )


def add_draw_options(parser: argparse.ArgumentParser) -> None:
    add_path(parser, "out", "FOLDER", "the folder to make")
    add_number(parser, "--classes", 104, "species, 2 or more", int)
    add_number(parser, "--image-size", 224, "in px", int)
    add_number(parser, "--train", 3120, "images, at least one for each species", int)
    add_number(parser, "--val", 832, "images, at least one for each species", int)
    add_number(parser, "--test", 832, "images, at least one for each species", int)
    add_number(parser, "--seed", 0, "another seed draws other pictures", int)
    add_number(parser, "--photos", None, "instead of shards a folder of N photos for each species")


def run_draw(args, echo: Echo, progress: Progress) -> int:
    from flowerkit.sources import draw_competition, draw_photos

    check_writable(args.out)
    if args.photos:
        folder = draw_photos(
            args.out,
            num_classes=args.classes,
            photos_per_class=args.photos,
            image_size=args.image_size,
            seed=args.seed,
            progress=progress,
        )
        echo(f"drew {args.classes * args.photos:,} photos of {args.classes} species into {folder}")
        return 0
    data = draw_competition(
        args.out,
        num_classes=args.classes,
        image_size=args.image_size,
        num_train=args.train,
        num_val=args.val,
        num_test=args.test,
        seed=args.seed,
        progress=progress,
    )
    echo(str(data))
    return 0
