"""The data of a benchmark: drawn, taken as it is, or made over to another number and size.

    python benchmarks/flowers.py OUT [--data FOLDER] [--images N] [--size S]

A process of its own, so that the one that starts the sides stays small. Drawn JPEGs are smaller than
photos and decode faster; figures about decoding belong to photos (--data).
"""

import argparse
import io
import json
import sys
from pathlib import Path

import pairs

NUM_CLASSES = 5
DRAWN = (
    "drawn flowers: their JPEGs are smaller than photos' and decode faster; pass --data for photos"
)


def add_options(parser: argparse.ArgumentParser, *, images: int, size: int) -> None:
    """--data, --images, --size and --work, for every benchmark that reads images."""
    for option, value, text in (
        ("--images", images, "training images; those of --data are repeated or cut to so many"),
        ("--size", size, "their side in px; those of --data are resized"),
    ):
        parser.add_argument(option, type=int, metavar="N", help=f"{text} [drawn: {value}]")
    parser.set_defaults(drawn_images=images, drawn_size=size)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="a folder that holds tfrecords-jpeg-SxS/ [drawn flowers]",
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="where data is drawn, and kept [a temporary folder]",
    )


def prepare(args: argparse.Namespace, work: Path, *, images: int = 0, size: int = 0) -> Path:
    """The folder to measure on, made in `work` unless --data serves as it is."""
    images, size = images or args.images, size or args.size
    if args.data and not images and not size:
        return args.data
    if not args.data:
        images, size = images or args.drawn_images, size or args.drawn_size
    out = work / "-".join(
        str(part) for part in (args.data.name if args.data else "drawn", images, size)
    )
    command = [sys.executable, __file__, out]
    for option, value in (("--data", args.data), ("--images", images), ("--size", size)):
        command += [option, value] if value else []
    if not out.exists():
        print(f"making {out.name} ...", file=sys.stderr, flush=True)
        pairs.run_child([str(word) for word in command])
    return out


def describe(args: argparse.Namespace, folder: Path) -> str:
    """One line about the data: how many, how large, and how many bytes a JPEG has."""
    data = find(folder)
    files = data.files["train"]
    kib = sum(file.stat().st_size for file in files) / max(1, data.counts["train"]) / 1024
    note = str(args.data) if args.data else DRAWN
    return f"{data.counts['train']:,} images of {data.image_size} px, {kib:.1f} KiB a JPEG ({note})"


def find(folder: Path):
    """The FlowerData of a folder."""
    from flowerkit.sources.finder import find_data

    return find_data(folder)


def draw(out: Path, images: int, size: int) -> None:
    """Drawn flowers, with a val and a test split a quarter as large."""
    from flowerkit.sources.synthetic import draw_competition

    rest = max(NUM_CLASSES, images // 4)
    draw_competition(
        out, num_classes=NUM_CLASSES, image_size=size, num_train=images, num_val=rest, num_test=rest
    )


def make_over(data, out: Path, images: int | None, size: int | None) -> None:
    """The images of `data` resized to `size`, train repeated or cut to `images`; val and test cut."""
    from flowerkit.data.tfrecords import SPLITS, write_shards
    from flowerkit.files import write_json

    size = size or data.image_size
    counts = dict(data.counts)
    if images:
        counts = {split: min(counts[split], max(NUM_CLASSES, images // 4)) for split in counts}
        counts["train"] = images
    write_json(out / "classes.json", list(data.class_names))
    ids = {}
    for split in SPLITS:
        records = _repeat(data, split, counts[split], size, ids)
        write_shards(
            out, split, records, image_size=size, shard_size=-(-max(16, counts[split]) // 16)
        )
    rows = "".join(f"{name},0\n" for name in ids["test"])
    (out / "sample_submission.csv").write_text("id,label\n" + rows)


def _repeat(data, split: str, count: int, size: int, ids: dict):
    from flowerkit.data.tfrecords import Record, read_records

    ids[split] = []
    while len(ids[split]) < count:
        for file in data.files[split]:
            for _, record in read_records(file):
                if len(ids[split]) == count:
                    return
                # New ids: a repeated image is another one to everybody who looks at ids.
                name = f"{'tvs'[('train', 'val', 'test').index(split)]}{len(ids[split]):08d}"
                ids[split].append(name)
                jpeg = _resize(record.image, data.image_size, size)
                yield Record(image=jpeg, id=name, label=record.label)


def _resize(jpeg: bytes, stored: int, size: int) -> bytes:
    if stored == size:
        return jpeg
    from PIL import Image

    image = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((size, size), Image.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92)
    return out.getvalue()


def main() -> None:
    """Make the data, once."""
    parser = argparse.ArgumentParser(description="Data for the benchmarks.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int)
    parser.add_argument("--size", type=int)
    args = parser.parse_args()
    if args.data:
        make_over(find(args.data), args.out, args.images, args.size)
    else:
        draw(args.out, args.images, args.size)
    print(json.dumps({}))


if __name__ == "__main__":
    main()
