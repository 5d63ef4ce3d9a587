"""TPUs that are not here: programs compiled for them by libtpu, and what those would need there."""

import contextlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flowerkit.text import did_you_mean


@dataclass(frozen=True)
class Chip:
    """What a chip has for each of JAX's devices: memory, its bandwidth, and its peak in bfloat16."""

    memory_bytes: float
    bytes_per_second: float
    flops_per_second: float


# From cloud.google.com/tpu/docs. A chip of v3 and v4 is two devices of libtpu, and has twice its row.
CHIPS = {
    "v3": Chip(16e9, 450e9, 61.5e12),
    "v4": Chip(16e9, 614e9, 137.5e12),
    "v5e": Chip(16e9, 819e9, 197e12),
    "v5p": Chip(95e9, 2765e9, 459e12),
    "v6e": Chip(32e9, 1640e9, 918e12),
}
# What libtpu would ask a cloud's metadata server for, where no TPU is attached.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclass(frozen=True)
class Cost:
    """What a program does in one call, on each device, by the compiler's estimates.

    Of `memory_bytes`, the most that it needs at once, `kept_bytes` do not depend on the batch.
    """

    flops: float
    bytes_moved: float
    memory_bytes: float
    kept_bytes: float

    def seconds_on(self, chip: Chip) -> float:
        """An estimate: what arithmetic or memory takes at least, whichever is more."""
        return max(self.flops / chip.flops_per_second, self.bytes_moved / chip.bytes_per_second)

    def largest_batch_on(self, chip: Chip, batch: int) -> int:
        """How many images of a device fit, where `batch` need this: an estimate, in proportion."""
        each = (self.memory_bytes - self.kept_bytes) / batch
        return max(0, int((chip.memory_bytes - self.kept_bytes) / each))


@dataclass(frozen=True)
class Topology:
    """Devices to compile for, such as the eight of "v5e:2x4"."""

    name: str
    chip: Chip
    devices: list = field(repr=False)

    def compile(
        self, function: Callable, kept: Any, divided: Any, *, donates: bool = False
    ) -> Cost:
        """Compile `function(kept, divided)` and say what it needs.

        `kept` is on every device, in what it returns, too, if it `donates` its memory to that; rows of
        `divided` are shared out. Both are trees of what has a shape and a dtype. Raises what XLA does,
        RuntimeError where the memory of a device is too small.
        """
        import jax

        mesh = jax.sharding.Mesh(self.devices, ("batch",))
        copied, shared = (
            jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
            for axes in ((), ("batch",))
        )

        def describe(tree, sharding):
            def spec(each):
                return jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=sharding)

            return jax.tree.map(spec, tree)

        options = {"donate_argnums": (0,), "out_shardings": (None, copied)} if donates else {}
        jitted = jax.jit(function, **options)
        traced = jitted.trace(describe(kept, copied), describe(divided, shared))
        lowered = traced.lower(lowering_platforms=("tpu",))
        with _without_cache():
            compiled = lowered.compile()
        costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
        costs = costs[0] if isinstance(costs, list) else costs
        return Cost(
            flops=costs.get("flops", 0.0),
            bytes_moved=costs.get("bytes accessed", 0.0),
            memory_bytes=memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.generated_code_size_in_bytes,
            kept_bytes=sum(each.size * each.dtype.itemsize for each in jax.tree.leaves(kept)),
        )


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """JAX keeps such an executable, and then cannot read it where the device is not."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    def switch(is_on: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", is_on)
        compilation_cache.reset_cache()  # it looks once whether it is on

    was_on = jax.config.jax_enable_compilation_cache
    switch(False)
    try:
        yield
    finally:
        switch(was_on)


def find_topology(name: str) -> Topology:
    """The topology `name`, GENERATION:SHAPE, as libtpu knows it.

    Raises ValueError for a name that it does not know, RuntimeError without libtpu.
    """
    generation, _, shape = name.partition(":")
    if generation not in CHIPS:
        raise ValueError(
            f"{name!r} is no topology that is known here: write {', '.join(CHIPS)} and a shape, such as "
            f"v5e:2x4 (eight chips).{did_you_mean(generation, CHIPS)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        needed = (
            each.partition(";")[0].strip() for each in importlib.metadata.requires("jax") or ()
        )
        fitting = next((each for each in needed if each.startswith("libtpu")), "libtpu")
        raise RuntimeError(f"compiling for {name} needs libtpu, not a TPU: pip install {fitting!r}")
    for variable, value in _ALONE.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    # A host has four chips, but for one alone.
    bounds = {"chips_per_host_bounds": (1, 1, 1)} if set(shape.split("x")) == {"1"} else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **bounds)
    except Exception as error:  # libtpu's own, of several kinds
        raise ValueError(
            f"libtpu knows no topology {name!r} ({str(error).splitlines()[0]}). Write the shape of a "
            f"slice, such as v5e:2x4 (eight chips)."
        ) from error
    return Topology(name, CHIPS[generation], list(found.devices))
