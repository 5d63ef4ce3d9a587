"""Photos converted a second, beside what the decoder alone reaches in as many processes.

    python benchmarks/convert.py                               # three sizes of photos, some minutes
    python benchmarks/convert.py --sizes 4032x3024 --photos 60 # of a phone
    python benchmarks/convert.py --growth                      # memory at 1,000, 5,000 and 10,000

decode-full  Pillow opens each JPEG and decodes it whole
decode       the same, decoded at a half, a quarter or an eighth where ours does so: the decoder alone
ours         the whole conversion: listed, decoded, resized, written as JPEG, looked at for copies,
             divided, and written as shards
Processes are started inside the clock on every side; TensorFlow's import is in no figure. The ratios
by processor seconds hold on a machine that others use, too. The photos
are drawn flowers, each of its own, enlarged, with a sensor's noise: about 2 bits a pixel, as phones
write them.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import pairs

SIDES = ("decode-full", "decode", "ours")
RATE, CPU_RATE = "photos_per_second", "photos_per_cpu_second"
CLASSES = 5


# Drawing ------------------------------------------------------------------------------------------


def draw_photos(args: argparse.Namespace) -> dict:
    """Draw the photos of one size, in as many processes as the sides have."""
    numbers = [range(start, args.photos, args.workers) for start in range(args.workers)]
    with open_pool(args.workers) as pool:
        list(pool.map(draw_some, [args.work] * len(numbers), numbers, [args.size] * len(numbers)))
    return {}


def draw_some(folder: Path, numbers, size: tuple[int, int]) -> None:
    """Draw some of the photos, number by number."""
    import numpy as np
    from PIL import Image

    from flowerkit.sources.synthetic import draw_flower

    width, height = size
    # Noise of a sensor is fine and everywhere; cut from a larger field, it is another each time.
    field = np.random.default_rng(7).normal(0, 5, (height + 64, width + 64, 3)).astype("int16")
    for number in numbers:
        flower = Image.fromarray(draw_flower(8 * (number % CLASSES), size=96, seed=number))
        large = np.asarray(flower.resize(size, Image.Resampling.BICUBIC), "int16")
        top, left = number % 64, number // 64 % 64
        noisy = large + field[top : top + height, left : left + width]
        place = folder / f"class{number % CLASSES}" / f"{number:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(noisy, 0, 255).astype("uint8")).save(place, quality=88)


# The sides ----------------------------------------------------------------------------------------


class Clock:
    """The time that photos take, on the wall and in processor seconds of this and ended helpers."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), self._read_cpu()

    @staticmethod
    def _read_cpu() -> float:
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(sum(resource.getrusage(one)[:2]) for one in who)

    def stop(self, photos: int) -> dict:
        """Photos a second, by either clock."""
        wall, cpu = time.perf_counter() - self.wall, self._read_cpu() - self.cpu
        return {RATE: photos / wall, CPU_RATE: photos / cpu}


def open_pool(workers: int):
    """Processes started as ours are."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def decode_some(paths: list[str], spared_px: float | None) -> int:
    """Decode photos one after the other, leaving so many px of the shorter side if that is given."""
    from PIL import Image

    for path in paths:
        with Image.open(path) as image:
            if spared_px:  # as `photo_reader` asks for the square in the middle
                scale = spared_px / min(image.size)
                image.draft(None, tuple(max(1, int(side * scale)) for side in image.size))
            image.load()
    return len(paths)


def decode_all(args: argparse.Namespace, spared_px: float | None) -> dict:
    """Decode the photos, some at a time, in processes."""
    paths = sorted(map(str, args.work.rglob("*.jpg")))
    chunks = [paths[at : at + 8] for at in range(0, len(paths), 8)]
    clock = Clock()
    with open_pool(args.workers) as pool:
        done = sum(pool.map(decode_some, chunks, [spared_px] * len(chunks)))
    return clock.stop(done)


def convert_all(args: argparse.Namespace, progress=None) -> dict:
    """The whole conversion."""
    import tempfile

    import tensorflow  # noqa: F401 - in no figure

    from flowerkit.photos.conversion import convert_photos

    with tempfile.TemporaryDirectory(dir=args.work.parent) as out:
        clock = Clock()
        _, conversion = convert_photos(
            args.work, out, image_size=args.image_size, workers=args.workers, progress=progress
        )
        return clock.stop(conversion.num_photos)


def watch_memory(args: argparse.Namespace) -> dict:
    """The whole conversion, with the memory of this process and its helpers at some counts."""
    import psutil

    marks, me = {}, psutil.Process()

    def look(what: str, done: int, total: int) -> None:
        if what == "photos" and (done in args.growth_marks or done == total):
            helpers = [child.memory_info().rss for child in me.children(recursive=True)]
            marks[done] = [me.memory_info().rss / 2**20, sum(helpers) / 2**20]

    return convert_all(args, look) | {"marks": marks}


def be_side(args: argparse.Namespace) -> dict:
    """One side, in this process."""
    from flowerkit.photos.reader import SPARE_SCALE

    sides = {
        "draw": lambda: draw_photos(args),
        "decode-full": lambda: decode_all(args, None),
        "decode": lambda: decode_all(args, SPARE_SCALE * args.image_size),
        "ours": lambda: convert_all(args),
        "memory": lambda: watch_memory(args),
    }
    return sides[args.side]()


# Around them --------------------------------------------------------------------------------------


def run_size(args, work: Path, size: tuple[int, int], sides) -> dict:
    """Draw photos of one size, unless they are there, and run the sides on them."""
    folder = work / f"{size[0]}x{size[1]}-{args.photos}"
    extra = ["--work", folder, "--size", f"{size[0]}x{size[1]}"]
    if not folder.is_dir():
        print(f"drawing {args.photos} photos of {size[0]}x{size[1]}", file=sys.stderr, flush=True)
        pairs.run_child(pairs.side_command(__file__, "draw", extra))
    commands = {side: pairs.side_command(__file__, side, extra) for side in sides}
    return pairs.run_rounds(commands, rounds=args.rounds)


def tell_sizes(table: dict[str, dict]) -> str:
    """A row a size: the rates, and ours over each decoder's."""
    rows = []
    for size, samples in table.items():
        rates = [pairs.median(samples[side], RATE) for side in SIDES]
        ratios = [
            f"{100 * pairs.ratio(samples, key, 'ours', side):.0f} %"
            for key in (RATE, CPU_RATE)
            for side in SIDES[:2]
        ]
        spread = f"{100 * pairs.spread(samples['ours'], RATE):.0f} %"
        rows.append([size, *rates, *ratios, spread, pairs.median(samples["ours"], "peak_mib")])
    head = [
        "photos",
        *(f"{side}/s" for side in SIDES),
        "ours / full",
        "ours / decode",
        "CPU: / full",
        "/ decode",
        "spread",
    ]
    return pairs.format_table([*head, "peak MiB"], rows)


def tell_memory(samples: list[dict]) -> str:
    """A row a count: the memory of the process that writes, and of those that read."""
    marks = [mark for sample in samples for mark in sample["marks"].items()]
    rows = [[f"{int(done):,} photos", *memory] for done, memory in marks]
    table = pairs.format_table(["read", "this process, MiB", "helpers, MiB"], rows)
    return f"{table}\npeak of this process {pairs.median(samples, 'peak_mib'):,.0f} MiB"


def read_size(text: str) -> tuple[int, int]:
    """A size as it is typed.

    >>> read_size("4032x3024")
    (4032, 3024)
    """
    width, _, height = text.partition("x")
    return int(width), int(height)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs.add_common(parser, rounds=3)
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=read_size,
        metavar="WxH",
        default=[(4032, 3024), (1600, 1200), (500, 375)],
        help="of the photos, in px [4032x3024 1600x1200 500x375]",
    )
    parser.add_argument("--photos", type=int, default=400, metavar="N", help="of each size [400]")
    parser.add_argument(
        "--image-size", type=int, default=224, metavar="N", help="made of them [224]"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes [2]")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep the photos there")
    parser.add_argument("--growth", action="store_true", help="memory as the photos grow in number")
    parser.add_argument(
        "--growth-marks",
        nargs="+",
        type=int,
        default=[1000, 5000, 10000],
        metavar="N",
        help="look at these counts [1000 5000 10000]",
    )
    parser.add_argument("--size", type=read_size, help=argparse.SUPPRESS)  # what a child is told
    return parser.parse_args()


def main() -> None:
    """Run the sides, or be one."""
    args = read_options()
    if args.side:
        pairs.end_child(be_side(args))
    machine = pairs.describe_machine()
    with pairs.working_folder(args.work) as work:
        if args.growth:
            args.photos = max(args.growth_marks)
            sys.argv += ["--photos", str(args.photos)]
            samples = run_size(args, work, args.sizes[-1], ["memory"])
            print(tell_memory(samples["memory"]))
        else:
            samples = {}
            for size in args.sizes:
                samples[f"{size[0]}x{size[1]}"] = run_size(args, work, size, SIDES)
            print(tell_sizes(samples))
    print(pairs.tell_machine(machine))
    pairs.finish(args, samples, machine)


if __name__ == "__main__":
    main()
