"""doctor --compile-for: the steps of a plan compiled for a TPU that is not here, and what they need."""

import os
import time
from dataclasses import replace
from pathlib import Path

from flowerkit.accelerator import choose_backend, connect, find_topology
from flowerkit.cli.options import find_changes, read_plan
from flowerkit.cli.terminal import Echo
from flowerkit.text import format_bytes, format_seconds, pluralize

_COMPETITION = {"train": 12_753, "val": 3_712, "test": 7_382}


def compile_for(args, echo: Echo) -> int:
    """Compile each program of a run and print a line of it; 1 if one does not compile."""
    plan = read_plan(args.plan, find_changes(args))
    topology = find_topology(args.compile_for)
    here = _connect_jax()
    num, chip = len(topology.devices), topology.chip
    precision = "bfloat16" if args.precision == "auto" else args.precision
    there = replace(here, kind="tpu", replicas=num, precision=precision)
    from flowerkit.training import list_programs, settle

    data = _describe_data(args.data, plan.image_size)
    plan, _ = settle(
        plan, num_train=data.counts["train"], stored_px=data.image_size, kind="tpu", replicas=num
    )
    echo(
        f"{topology.name}: {pluralize(num, 'device')} of {chip.memory_bytes / 1e9:.0f} GB, "
        f"{pluralize(plan.batch, 'image')} each, "
        f"{precision}; {plan.backbone}, {plan.input_size or data.image_size} px, "
        f"{data.num_classes} classes"
    )
    failed = False
    # Random weights: the values make no difference, and downloading them takes time.
    for name, *program, donates in list_programs(replace(plan, weights=None), data, there):
        start = time.monotonic()
        try:
            cost = topology.compile(*program, donates=donates)
        except Exception as error:  # XLA's, of many kinds
            failed = True
            echo(f"{name}: does not compile: {str(error).strip().splitlines()[0]}")
            continue
        seconds = cost.seconds_on(chip)
        largest = cost.largest_batch_on(chip, plan.batch)
        echo(
            f"{name}: compiles, in {format_seconds(time.monotonic() - start)}; on each "
            f"device and in each call"
        )
        echo(
            f"    {cost.flops / 1e9:,.1f} GFLOP, {cost.bytes_moved / 1e9:,.2f} GB moved, "
            f"{format_bytes(cost.memory_bytes)} of memory"
        )
        echo(
            f"    estimates: at least {1e3 * seconds:.2g} ms, so up to "
            f"{num * plan.batch / seconds:,.0f} images/s in all; about {largest:,} images a device fit"
        )
    return int(failed)


def _connect_jax():
    """JAX on this machine's CPU, whatever the usual backend is."""
    os.environ["KERAS_BACKEND"] = "jax"
    choose_backend()  # takes the user's choice, and refuses it where it is not installed
    accelerator = connect("cpu")
    if accelerator.backend != "jax":
        raise RuntimeError(
            f"this process runs on {accelerator.backend}, and TPUs are compiled for by JAX. "
            f"Run `flowerkit doctor --compile-for` in a process of its own."
        )
    return accelerator


def _describe_data(source: str, image_size: int | None):
    """What the steps depend on of the data; of the competition's, where none are named."""
    from flowerkit.data import FlowerData
    from flowerkit.sources import CLASS_NAMES, find_data

    if source != "auto":
        return find_data(source, image_size=image_size)
    return FlowerData(Path(), {}, _COMPETITION, CLASS_NAMES, image_size or 224, "competition")
