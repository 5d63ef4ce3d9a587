"""Photos converted a second, beside what the decoder alone reaches in as many processes.

    python benchmarks/convert.py                # photos of 12 megapixels, a few minutes
    python benchmarks/convert.py --width 1600

decode       Pillow decodes each JPEG at a half, a quarter or an eighth where ours does so
decode-full  Pillow decodes each JPEG whole
ours         the whole conversion: list, decode, resize, write JPEGs, find copies, assign to splits,
             write shards

Processes start inside the clock on every side; imports are in no figure, but in the CPU seconds. The
photos are drawn flowers, enlarged, with a sensor's noise: about 2 bits a pixel, as phones write them.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import harness

JPEG_QUALITY = 88
SPARE_SCALE = 1.5  # a JPEG is decoded at this many times the wanted size or more


def draw_photos(args: argparse.Namespace, folder: Path) -> Path:
    """The photos, drawn by a process of its own."""
    harness.run_child(harness.side_command("draw", folder))
    return folder


def measure(args: argparse.Namespace) -> dict:
    """Photos a second of one side; "draw" draws them."""
    numbers = list(range(args.photos))
    if args.side == "draw":
        chunks = [numbers[start :: args.workers] for start in range(args.workers)]
        run_in_processes(draw_some, [(args.data, args.width, chunk) for chunk in chunks])
        return {}
    seconds = convert_all(args) if args.side == "ours" else decode_all(args)
    return {"photos_per_second": args.photos / seconds}


def convert_all(args) -> float:
    """Seconds of the whole conversion."""
    from flowerkit import convert_photos

    with tempfile.TemporaryDirectory() as out:
        start = perf_counter()
        convert_photos(args.data, out, image_size=args.image_size, workers=args.workers)
        return perf_counter() - start


def decode_all(args) -> float:
    """Seconds of the decoder alone."""
    spare_px = SPARE_SCALE * args.image_size if args.side == "decode" else None
    paths = sorted(map(str, args.data.rglob("*.jpg")))
    chunks = [paths[at : at + 8] for at in range(0, len(paths), 8)]
    start = perf_counter()
    run_in_processes(decode_some, [(chunk, spare_px) for chunk in chunks], args.workers)
    return perf_counter() - start


def run_in_processes(function, arguments: list[tuple], workers: int | None = None) -> None:
    """Call `function` with each tuple of arguments, in processes that start as ours do."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or len(arguments), mp_context=context) as pool:
        for future in [pool.submit(function, *values) for values in arguments]:
            future.result()


def draw_some(folder: Path, width: int, numbers: list[int]) -> None:
    """Draw photos of `width` x 3/4 `width` px, each another one."""
    import numpy as np
    from PIL import Image

    from flowerkit.sources import draw_flower

    height = width * 3 // 4
    # The noise of each photo is cut from another place of a larger field.
    field = np.random.default_rng(7).normal(0, 5, (height + 64, width + 64, 3)).astype("int16")
    for number in numbers:
        label = number % harness.NUM_CLASSES
        flower = Image.fromarray(draw_flower(8 * label, size=96, seed=number))
        large = np.asarray(flower.resize((width, height), Image.Resampling.BICUBIC), "int16")
        top, left = number % 64, number // 64 % 64
        noisy = large + field[top : top + height, left : left + width]
        path = folder / f"class{label}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(noisy, 0, 255).astype("uint8")).save(path, quality=JPEG_QUALITY)


def decode_some(paths: list[str], spare_px: float | None) -> None:
    """Decode photos one after the other; at most down to `spare_px` of the shorter side."""
    from PIL import Image

    for path in paths:
        with Image.open(path) as image:
            if spare_px:
                scale = spare_px / min(image.size)
                image.draft(None, tuple(max(1, int(side * scale)) for side in image.size))
            image.load()


if __name__ == "__main__":
    harness.main(
        __doc__,
        measure,
        sides=("decode", "decode-full", "ours"),
        columns={"photos_per_second": "photos/s", "process_cpu_seconds": "CPU, s"},
        prepare=draw_photos,
        width=(4032, "of the photos in px; their height is three quarters of it"),
        photos=(120, "number of photos"),
        image_size=(224, "px made of them"),
        workers=(2, "processes"),
    )
