"""The harness: each side of a benchmark in a fresh process, the sides in turn, medians and ratios.

Whatever slows the machine for a while slows both sides. This module imports nothing heavy, because
on Linux the peak memory of a child starts at that of its parent.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout that holds this file is what is measured

NUM_CLASSES = 5
_SHOWN_ERROR_LINES = 12


def main(
    doc: str,
    measure: Callable[[argparse.Namespace], dict],
    *,
    sides: Sequence[str],
    columns: Mapping[str, str],
    images: int = 0,
    size: int = 0,
    prepare: Callable[[argparse.Namespace, Path], Path | None] | None = None,
    **options: tuple[object, str],
) -> None:
    """Run `measure(args)` in fresh processes, `args.side` being one of `sides`, and print a table.

    The first side is the peer. `columns` maps the keys of the measured dict to headings: "x_seconds"
    and "x_per_second" get a column with the ratio to the peer, above 1 where a side is faster. With
    `images` there is a data set in `args.data`: `images` drawn flowers of `size` px, or --data;
    `prepare(args, folder)` makes other data, once. `options` are the benchmark's own:
    name=(default, help).
    """
    args = build_parser(doc, sides, images, size, options).parse_args()
    if args.side:
        end_side(measure(args))
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="flowerkit-benchmark-") as folder:
        data = draw_data(args, Path(folder)) if images else None
        data = prepare(args, Path(folder)) if prepare else data
        samples = run_rounds(
            {side: side_command(side, data) for side in args.sides},
            rounds=args.rounds,
            environ={"KERAS_BACKEND": args.backend},
        )
        print(format_samples(samples, columns))
        print(", ".join(f"{name} {value}" for name, value in _options_of(args).items()))
        if images:
            print(_describe_data(args, data))
    print("\n".join(machine.values()))
    if args.json:
        record = {"machine": machine, "options": _options_of(args), "samples": samples}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


def build_parser(doc, sides, images, size, options) -> argparse.ArgumentParser:
    """The options that every benchmark has, and its own."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = {
        "rounds": (3, "fresh processes of each side"),
        "backend": ("tensorflow", "Keras's, on all sides"),
    }
    drawn = {
        "images": (images, "drawn training images"),
        "size": (size, "side of the images in px"),
    }
    for name, (default, text) in (shared | (drawn if images else {}) | options).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            default=default,
            metavar="X",
            help=f"{text} [{default}]",
        )
    parser.add_argument(
        "--sides", nargs="+", choices=sides, default=sides, metavar="SIDE", help=", ".join(sides)
    )
    text = (
        "a folder that holds tfrecords-jpeg-SxS/ [drawn flowers]" if images else argparse.SUPPRESS
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there, too")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser


def _options_of(args) -> dict:
    hidden = ("side", "sides", "json", "data")
    return {name: value for name, value in vars(args).items() if name not in hidden}


# Processes ----------------------------------------------------------------------------------------


def side_command(side: str, data: Path | None = None) -> list[str]:
    """This benchmark with the same options, as one side of itself."""
    extra = ["--data", str(data)] if data else []
    return [sys.executable, *sys.argv, *extra, "--side", side]


def end_side(result: dict) -> None:
    """End this process with its JSON; ending a framework takes seconds that are in no figure."""
    print(json.dumps(result), flush=True)
    os._exit(0)


def run_rounds(
    commands: Mapping[str, Sequence[str]], *, rounds: int, environ: Mapping[str, str]
) -> dict[str, list[dict]]:
    """Every side once a round, each round in the reverse order of the one before."""
    samples = {side: [] for side in commands}
    for number in range(rounds):
        for side in list(commands)[:: -1 if number % 2 else 1]:
            print(f"round {number + 1} of {rounds}: {side} ...", file=sys.stderr, flush=True)
            samples[side].append(run_child(commands[side], environ))
    return samples


def run_child(command: Sequence[str], environ: Mapping[str, str] = {}) -> dict:
    """Run `command`: the JSON of its last line, and what the process took.

    Added are `process_seconds` (wall clock), `process_cpu_seconds` (user and system, with ended
    helpers) and `peak_mib`. Raises SystemExit with the end of its stderr if it fails.
    """
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        tempfile.TemporaryDirectory(prefix="flowerkit-cache-") as cache,
    ):
        own = {"FLOWERKIT_CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "agg"}
        start = perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | own | environ)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        seconds = perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        printed, errors = _read_lines(out), _read_lines(err)
    if child.returncode != 0:
        last = "\n".join(errors[-_SHOWN_ERROR_LINES:])
        raise SystemExit(f"{' '.join(command)}\nended with {child.returncode}:\n{last}")
    return json.loads(printed[-1]) | {
        "process_seconds": seconds,
        "process_cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }


def _read_lines(file) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="replace").strip().splitlines()


# Figures ------------------------------------------------------------------------------------------


def median(samples: Sequence[dict], key: str) -> float | None:
    """The median of `key` over the rounds; None where it is not known."""
    values = [sample[key] for sample in samples]
    return None if None in values else statistics.median(values)


def spread(samples: Sequence[dict], key: str) -> float:
    """How far the rounds lie apart: (largest - smallest) / median.

    >>> spread([{"x_seconds": 3}, {"x_seconds": 9}, {"x_seconds": 4}], "x_seconds")
    1.5
    """
    values = [sample[key] for sample in samples]
    return (max(values) - min(values)) / statistics.median(values)


def speedup(samples: Mapping[str, list[dict]], key: str, side: str, peer: str) -> float:
    """How many times as fast as the peer: the median over the rounds of each round's own ratio.

    >>> samples = {"classic": [{"x_seconds": 9}, {"x_seconds": 8}],
    ...            "ours": [{"x_seconds": 3}, {"x_seconds": 4}]}
    >>> speedup(samples, "x_seconds", "ours", "classic")
    2.5
    """
    faster, slower = (side, peer) if key.endswith("_per_second") else (peer, side)
    rounds = zip(samples[faster], samples[slower], strict=True)
    return statistics.median(first[key] / second[key] for first, second in rounds)


def format_samples(samples: Mapping[str, list[dict]], columns: Mapping[str, str]) -> str:
    """A row a side, its speed-ups over the first; the spread is that of the first column."""
    peer, main_key = next(iter(samples)), next(iter(columns))
    head = ["side"]
    for key, heading in columns.items():
        head += [heading, f"x {peer}"] if key.endswith(("_second", "_seconds")) else [heading]
    rows = [[*head, "spread", "peak MiB"]]
    for side, of_side in samples.items():
        row = [side]
        for key in columns:
            row.append(format_number(median(of_side, key)))
            if key.endswith(("_second", "_seconds")):
                row.append(f"{format_number(speedup(samples, key, side, peer))}x")
        spread_percent = 100 * spread(of_side, main_key)
        rows.append([*row, f"{spread_percent:.0f} %", format_number(median(of_side, "peak_mib"))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]))
    return "\n".join(lines)


def format_number(value: float | None) -> str:
    """A number with three figures or more.

    >>> [format_number(value) for value in (0.01234, 1.234, 12.0, 1234.5, None)]
    ['0.0123', '1.23', '12', '1,234', '-']
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


# Data and machine ---------------------------------------------------------------------------------


def find_data(folder: Path):
    """The FlowerData of a folder."""
    import flowerkit

    return flowerkit.find_data(folder)


def draw_data(args, folder: Path) -> Path:
    """--data, or flowers drawn by a process of its own, so that this one stays small."""
    if args.data:
        return args.data
    code = (
        "import sys, flowerkit; folder, *numbers = sys.argv[1:]; "
        "images, size, classes, rest = map(int, numbers); "
        "flowerkit.draw_competition(folder, num_classes=classes, image_size=size, "
        "num_train=images, num_val=rest, num_test=rest); print('{}')"
    )
    rest = max(NUM_CLASSES, args.images // 4)
    numbers = [args.images, args.size, NUM_CLASSES, rest]
    paths = {"PYTHONPATH": str(ROOT)}
    run_child([sys.executable, "-c", code, str(folder / "drawn"), *map(str, numbers)], paths)
    return folder / "drawn"


def _describe_data(args, folder: Path) -> str:
    data = find_data(folder)
    num_bytes = sum(file.stat().st_size for file in data.files["train"])
    kib = num_bytes / data.counts["train"] / 1024
    note = args.data or "drawn flowers; JPEGs of photos (--data) are larger and decode more slowly"
    return f"{data.counts['train']:,} images of {data.image_size} px, {kib:.1f} KiB each ({note})"


def describe_machine() -> dict[str, str]:
    """Processor, versions and date, and a warning if the machine is busy; imports no framework."""
    from flowerkit.accelerator.machine import num_cores, versions

    names = ("tensorflow", "keras", "jax", "numpy")
    known = {name: version for name, version in versions().items() if version and name in names}
    machine = {
        "processor": f"{_read_processor()}, {num_cores()} cores",
        "versions": ", ".join(
            [f"python {platform.python_version()}", *map(" ".join, known.items())]
        ),
        "date": datetime.date.today().isoformat(),
    }
    load = os.getloadavg()[0]
    if load > 0.5:
        machine["load"] = f"the machine was busy before (load {load:.1f}): do not trust the ratios"
    return machine


def _read_processor() -> str:
    with contextlib.suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
