"""Seconds and memory until a command answers: flowerkit's light ones beside the frameworks' imports.

    python benchmarks/imports.py

The first line is Python alone. fastai is measured where it is installed.
"""

import argparse
import importlib.util
import resource
import sys

import flowers
import pairs

BASE = "import tensorflow"


def list_commands(csv, folder) -> dict[str, list]:
    """What is run, by the name it has in the table."""
    flowerkit = [sys.executable, "-m", "flowerkit"]
    commands = {
        "python alone": [sys.executable, "-c", "pass"],
        "import flowerkit": [sys.executable, "-c", "import flowerkit"],
        "flowerkit --help": [*flowerkit, "--help"],
        "flowerkit check": [*flowerkit, "check", str(csv), "--data", str(folder)],
    }
    for name, module in (
        ("tensorflow", "tensorflow"),
        ("keras", "keras"),
        ("jax", "jax"),
        ("fastai", "fastai.vision.all"),
    ):
        if importlib.util.find_spec(name):
            commands[f"import {name}"] = [sys.executable, "-c", f"import {module}"]
        else:
            print(f"{name} is not installed, and is left out", file=sys.stderr)
    return commands


def choose(commands: dict, names) -> dict:
    """The commands of these names; SystemExit for one that is not there."""
    for name in names or ():
        if name not in commands:
            raise SystemExit(f"no command {name!r}; there are {', '.join(commands)}")
    return {name: commands[name] for name in names or commands}


def tell(samples) -> str:
    """A row a command; the ratio is that of wall clocks to TensorFlow's import."""
    rows = []
    for name, of_one in samples.items():
        seconds = pairs.median(of_one, "process_seconds")
        rows.append([name, seconds, pairs.median(of_one, "process_cpu_seconds")])
        known = BASE in samples
        rows[-1].append(
            pairs.tell_ratio(pairs.ratio(samples, "process_seconds", name, BASE)) if known else "-"
        )
        rows[-1] += [pairs.median(of_one, "peak_mib")]
        rows[-1] += [f"{100 * pairs.spread(of_one, 'process_seconds'):.0f} %"]
    head = ["command", "seconds", "CPU seconds", f"/ {BASE}", "peak MiB", "spread"]
    return pairs.format_table(head, rows)


def main() -> None:
    """Run the commands by turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pairs.add_common(parser, rounds=5)
    flowers.add_options(parser, images=1244, size=16)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="some of the commands, by their names in the table [all]",
    )
    args = parser.parse_args()
    machine = pairs.describe_machine()
    with pairs.working_folder(args.work) as work:
        folder = flowers.prepare(args, work)
        csv = folder / "sample_submission.csv"
        commands = choose(list_commands(csv, folder), args.only)
        pairs.run_rounds(commands, rounds=1, tell=lambda text: None)  # files into the page cache
        samples = pairs.run_rounds(commands, rounds=args.rounds)
        num_rows = len(csv.read_text().splitlines()) - 1
    print(tell(samples))
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"`check` read a csv of {num_rows:,} rows; every process was started before, once")
    print(f"no peak is seen below {floor:.0f} MiB, the one of the process that starts the others")
    print(pairs.tell_machine(machine))
    pairs.finish(args, samples, machine)


if __name__ == "__main__":
    main()
