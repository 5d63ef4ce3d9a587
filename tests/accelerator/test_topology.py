"""topology: which TPUs are known, what a program needs there, and all that we train compiled for one."""

import dataclasses
import importlib.util

import keras
import pytest

from flowerkit.accelerator import find_topology, topology
from flowerkit.accelerator.topology import CHIPS, Cost
from flowerkit.training import list_programs
from flowerkit.training.plan import HEADS, OPTIMIZERS

EVERY_AUGMENTATION = {
    "flip": True,
    "vertical_flip": True,
    "max_rotation_degrees": 10.0,
    "max_zoom": 1.1,
    "max_lighting": 0.2,
    "max_warp": 0.1,
    "min_crop_area": 0.6,
    "random_erasing": 0.2,
    "mixup": 0.2,
    "cutmix": 0.2,
}


@pytest.mark.parametrize(("name", "expected"), [("v7:2x2", "v6e"), ("v5:2x4", "v5e:2x4"), ("", "")])
def test_a_generation_that_is_not_known_is_refused_with_those_that_are(name, expected):
    with pytest.raises(ValueError, match="is no topology that is known here: write v3, ") as error:
        find_topology(name)
    assert expected in str(error.value)


def test_without_libtpu_what_to_install_is_said(monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        RuntimeError, match=r"v5e:2x4 needs libtpu, .*pip install 'libtpu==0\.0\.\d"
    ):
        find_topology("v5e:2x4")


def test_the_slower_of_arithmetic_and_memory_decides_the_time_and_the_rest_of_the_memory_the_batch():
    cost = Cost(flops=197e12, bytes_moved=819e8, memory_bytes=3e9, kept_bytes=1e9)
    assert cost.seconds_on(CHIPS["v5e"]) == 1.0
    assert dataclasses.replace(cost, bytes_moved=1638e9).seconds_on(CHIPS["v5e"]) == 2.0
    assert cost.largest_batch_on(CHIPS["v5e"], batch=64) == 480  # 15 GB of the 2 GB that 64 need
    assert (
        dataclasses.replace(cost, kept_bytes=20e9, memory_bytes=22e9).largest_batch_on(
            CHIPS["v5e"], batch=64
        )
        == 0
    )


# For eight chips, with libtpu -----------------------------------------------------------------------


def for_tpu(test):
    """Slow, and only where JAX and libtpu are."""
    marks = pytest.mark
    has_libtpu = keras.backend.backend() == "jax" and importlib.util.find_spec("libtpu")
    return marks.slow(marks.backends(marks.skipif(not has_libtpu, reason="no libtpu")(test)))


CHOICES = [
    *({"head": head} for head in HEADS),
    *({"optimizer": name, "weight_decay": None if name == "adam" else 0.01} for name in OPTIMIZERS),
]


@pytest.fixture(scope="module")
def eight():
    return find_topology("v5e:2x4")


@pytest.fixture(scope="module")
def compile_plan(quick_plan, drawn, accelerator, eight):
    """Compiles in mixed bfloat16 with every augmentation: {name: Cost} of those that are named."""
    there = dataclasses.replace(accelerator, kind="tpu", replicas=8, precision="bfloat16")

    def compile_plan(names, **changes):
        plan = dataclasses.replace(
            quick_plan, per_replica_batch=16, ema=0.9, **EVERY_AUGMENTATION, **changes
        )
        return {
            name: eight.compile(*program, donates=donates)
            for name, *program, donates in list_programs(plan, drawn, there)
            if name in names
        }

    return compile_plan


@for_tpu
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: str(next(iter(choice.values()))))
def test_the_networks_step_compiles_for_eight_chips(compile_plan, choice):
    cost = compile_plan(["the network's step"], **choice)["the network's step"]
    assert 1e9 < cost.flops < 1e11
    assert cost.kept_bytes < cost.memory_bytes < 1e9


@pytest.mark.backends
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="traced by JAX")
def test_the_programs_are_those_of_both_sizes_where_small_images_come_first(
    quick_plan, drawn, accelerator
):
    resizing = {"freeze_epochs": 1, "small_epochs": 2, "schedule": "one-cycle", "input_size": 64}
    plan = dataclasses.replace(quick_plan, **resizing)
    names = [name for name, *_ in list_programs(plan, drawn, accelerator)]
    part = ", smaller images"
    predicting = ["predicting, body", "predicting, head"]
    assert names == [
        *(name + part for name in ("the head's step", "the network's step", *predicting)),
        *("the network's step", *predicting),
    ]


@for_tpu
def test_so_do_the_heads_step_and_both_parts_of_a_prediction(compile_plan):
    names = ["the head's step", "predicting, body", "predicting, head"]
    costs = compile_plan(names, freeze_epochs=1, epochs=0)
    assert list(costs) == names
    assert costs["predicting, body"].flops > 10 * costs["the head's step"].flops


@for_tpu
@pytest.mark.parametrize(("name", "devices"), [("v5e:1x1", 1), ("v6e:2x4", 8), ("v4:2x2x1", 8)])
def test_a_slice_of_one_chip_is_known_too_and_old_chips_are_two_devices(name, devices):
    assert len(find_topology(name).devices) == devices


@for_tpu
def test_a_shape_that_no_slice_has_is_refused():
    with pytest.raises(ValueError, match="libtpu knows no topology 'v5e:3x7'"):
        find_topology("v5e:3x7")
