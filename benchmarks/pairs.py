"""The harness: each side in a fresh process, the sides by turns, medians and their ratio.

Whatever slows the machine for a while then slows both sides. This module, and so the process that
starts the others, imports nothing heavy: on Linux a child's peak memory starts at its parent's.
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
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout that this file stands in is what is measured

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "MPLBACKEND": "agg"}
_ERROR_LINES = 12


def run_child(command: Sequence[str], *, environ: Mapping[str, str] = {}) -> dict:
    """Run `command`: the JSON of its last line of output, and what the process took.

    Added are `process_seconds` (wall clock), `process_cpu_seconds` (user and system) and `peak_mib`
    (resource usage's maxrss). Raises SystemExit with the end of its stderr when it fails.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {"PYTHONPATH": os.pathsep.join(paths)} | dict(environ)
    # Files and not pipes: a pipe that is full would stop the child while nobody reads.
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        tempfile.TemporaryDirectory(prefix="flowerkit-cache-") as cache,
    ):
        # Nothing decoded or compiled by the run before, unless the caller wants it so.
        environ = os.environ | QUIET | {"FLOWERKIT_CACHE": cache} | environ
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=err, env=environ)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = [_read(file) for file in (out, err)]
    if child.returncode != 0:
        last = "\n".join(texts[1].splitlines()[-_ERROR_LINES:])
        words = " ".join(map(str, command))
        raise SystemExit(f"{words}\nended with {child.returncode}:\n{last}")
    return _last_json(texts[0]) | {
        "process_seconds": seconds,
        "process_cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }


def _read(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _last_json(text: str) -> dict:
    """The last line as JSON; {} for a command that says something else, or nothing.

    >>> _last_json('noise\\n{"images_per_second": 3.5}\\n')
    {'images_per_second': 3.5}
    >>> _last_json("usage: flowerkit")
    {}
    """
    lines = text.strip().splitlines()
    with contextlib.suppress(ValueError):
        value = json.loads(lines[-1] if lines else "{}")
        return value if isinstance(value, dict) else {}
    return {}


def side_command(script: str, side: str, extra: Sequence[str] = ()) -> list[str]:
    """This very benchmark with the same options, as one side of itself; `extra` goes over them."""
    return [sys.executable, script, *sys.argv[1:], *map(str, extra), "--side", side]


def run_rounds(
    commands: Mapping[str, Sequence[str]],
    *,
    rounds: int,
    environ: Mapping[str, str] = {},
    environs: Mapping[str, Mapping[str, str]] = {},
    tell=lambda text: print(text, file=sys.stderr, flush=True),
) -> dict[str, list[dict]]:
    """Every side once a round, each round in the reverse order of the one before.

    `environ` is set for all sides, `environs` holds what is set for one.
    """
    samples = {side: [] for side in commands}
    for number in range(rounds):
        for side in alternate(list(commands), number):
            tell(f"round {number + 1} of {rounds}: {side} ...")
            own = dict(environ) | dict(environs.get(side, {}))
            samples[side].append(run_child(commands[side], environ=own))
    return samples


def alternate(sides: list[str], number: int) -> list[str]:
    """The order of the sides in round `number`, from 0.

    >>> alternate(["classic", "ours"], 0), alternate(["classic", "ours"], 1)
    (['classic', 'ours'], ['ours', 'classic'])
    """
    return sides[::-1] if number % 2 else sides


def median(samples: Sequence[dict], key: str) -> float:
    """The median of `key` over the rounds.

    >>> median([{"seconds": 3}, {"seconds": 9}, {"seconds": 4}], "seconds")
    4
    """
    return statistics.median(sample[key] for sample in samples)


def spread(samples: Sequence[dict], key: str) -> float:
    """How far the rounds lie apart: (largest - smallest) / median.

    >>> spread([{"seconds": 3}, {"seconds": 9}, {"seconds": 4}], "seconds")
    1.5
    """
    values = [sample[key] for sample in samples]
    return (max(values) - min(values)) / statistics.median(values)


def ratio(samples: Mapping[str, list[dict]], key: str, side: str, base: str) -> float:
    """The median over the rounds of `side` to `base`.

    Each round's own: a machine that others use changes its speed from round to round, and within one
    all sides meet nearly the same.

    >>> ratio({"classic": [{"rate": 2}, {"rate": 4}], "ours": [{"rate": 20}, {"rate": 32}]},
    ...       "rate", "ours", "classic")
    9.0
    """
    rounds = zip(samples[side], samples[base], strict=True)
    return statistics.median(of_side[key] / of_base[key] for of_side, of_base in rounds)


def tell_ratio(value: float) -> str:
    """A ratio to read.

    >>> tell_ratio(31.62), tell_ratio(0.4871), tell_ratio(0.00123)
    ('31.6x', '0.49x', '0.0012x')
    """
    return f"{value:.3g}x" if value >= 1 else f"{value:.2g}x"


def format_table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Rows as text; the first column to the left, numbers to the right.

    >>> print(format_table(["side", "images/s"], [["classic", 3600], ["ours", 108000.4]]))
    side     images/s
    classic     3,600
    ours      108,000
    """
    cells = [list(head), *([_spell(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = []
    for row in cells:
        padded = [row[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _spell(cell) -> str:
    """Numbers with three figures or more.

    >>> [_spell(value) for value in (0.01234, 1.234, 12.34, 1234.5, None)]
    ['0.0123', '1.23', '12.3', '1,234', '-']
    """
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if abs(cell) >= 100 or cell == int(cell) else f"{cell:.3g}"


def describe_machine() -> dict:
    """Processor, cores, memory and versions; read from files, no framework is imported."""
    from flowerkit.accelerator.machine import free_memory_bytes, num_cores, versions

    try:
        free_gib = free_memory_bytes() / 2**30
    except ImportError:  # psutil is not here, and the training step needs none
        free_gib = float("nan")
    return {
        "processor": _processor(),
        "cores": num_cores(),
        "free_gib": free_gib,
        "load": os.getloadavg()[0],
        "date": datetime.date.today().isoformat(),
        "versions": {name: value for name, value in versions().items() if value},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor() or platform.machine()


def tell_machine(machine: dict) -> str:
    """The machine in two lines, and a warning if it was busy before the benchmark began."""
    names = ("python", "tensorflow", "keras", "jax", "numpy")
    known = [f"{name} {machine['versions'][name]}" for name in names if name in machine["versions"]]
    busy = machine["load"] > 0.5
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['free_gib']:.1f} GiB free; "
        f"{machine['date']}\n{', '.join(known)}"
        + (f"\nthe machine was busy (load {machine['load']:.1f}): trust no ratio" if busy else "")
    )


def end_child(result: dict) -> None:
    """What a side ends with: its JSON, and no tear-down of a framework, which is in no figure."""
    print(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)


def add_common(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """The options that every benchmark has."""
    parser.add_argument(
        "--rounds",
        type=int,
        default=rounds,
        metavar="N",
        help=f"fresh processes of each side, by turns [{rounds}]",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there, too")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # what a child is told


def finish(args: argparse.Namespace, samples, machine: dict) -> None:
    """What every benchmark ends with: the JSON file, if one was asked for."""
    if args.json:
        options = {name: str(value) for name, value in vars(args).items() if name != "side"}
        record = {"machine": machine, "options": options, "samples": samples}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


@contextlib.contextmanager
def working_folder(wanted: Path | None = None) -> Iterator[Path]:
    """A folder for drawn data and runs: the wanted one, or one that goes away."""
    if wanted:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted
        return
    with tempfile.TemporaryDirectory(prefix="flowerkit-benchmark-") as folder:
        yield Path(folder)
