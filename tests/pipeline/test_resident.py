"""device_images: training from the device's own memory is training from the host's, and in no file."""

import dataclasses
import logging
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from flowerkit.accelerator.device import Accelerator
from flowerkit.data.split import load_split
from flowerkit.pipeline import resident as device_images
from flowerkit.pipeline.resident import TakeImages, put_on_device
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.trainer import train

pytestmark = pytest.mark.backends


@pytest.fixture
def two_epochs(quick_plan, drawn, accelerator, tmp_path):
    def run(name, resume=False, **changes):
        plan = dataclasses.replace(quick_plan, **{"augment_on": "device", "flip": True, **changes})
        return train(plan, drawn, out=tmp_path / name, accelerator=accelerator, resume=resume)

    return run


@pytest.fixture
def sixteen():
    return np.random.default_rng(3).integers(0, 256, (16, 8, 8, 3), dtype="uint8")


def test_rows_become_their_images(sixteen):
    rows = np.array([3, 0, 15, 3], "int32")
    inputs = keras.Input((), dtype="int32")
    model = keras.Model(inputs, TakeImages(sixteen)(inputs))
    taken = model.predict(rows, verbose=0)
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, sixteen[rows])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flip": False, "steps_per_execution": 3},
        pytest.param({"mixup": 0.4, "min_crop_area": 0.5}, marks=pytest.mark.replicas),
    ],
)
def test_a_run_learns_what_it_learns_from_the_host(two_epochs, accelerator, caplog, changes):
    with caplog.at_level(logging.INFO, logger="flowerkit"):
        there = two_epochs("device", keep="device", **changes)
    copies = f"{accelerator.replicas} devices" if accelerator.replicas > 1 else "the device"
    assert f"train: 0.1 MiB of decoded images are in the memory of {copies} (" in caplog.text
    here = two_epochs("host", keep="ram", **changes)
    for row, other in zip(there.history, here.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
    np.testing.assert_allclose(
        there.predictions.probabilities, here.predictions.probabilities, atol=1e-3
    )


def test_it_resumes_exactly_and_no_file_holds_the_images(two_epochs, tmp_path):
    whole = two_epochs("whole", keep="device", epochs=3, schedule="constant")
    two_epochs("halves", keep="device", epochs=2, schedule="constant")
    resumed = two_epochs("halves", keep="device", epochs=3, schedule="constant", resume=True)
    assert resumed.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-5)
    two_epochs("host", keep="ram", epochs=2, schedule="constant")
    for name in ("model.keras", "checkpoints/last.weights.h5"):
        sizes = [(tmp_path / run / name).stat().st_size for run in ("whole", "host")]
        assert abs(sizes[0] - sizes[1]) < 50_000  # the images are 153,600 bytes


def test_the_head_learns_on_features_before_the_images_are_needed(two_epochs, caplog):
    with caplog.at_level(logging.INFO, logger="flowerkit"):
        run = two_epochs("run", keep="device", flip=False, freeze_epochs=1, epochs=1)
    assert [row["phase"] for row in run.history] == [1, 2]
    assert caplog.text.index("phase 2") < caplog.text.index("are in the memory of")


def test_where_there_is_no_room_batches_come_from_the_host(two_epochs, monkeypatch, caplog):
    there = two_epochs("device", keep="device")
    monkeypatch.setattr(device_images, "_free_bytes", lambda accelerator: 200_000)
    caplog.clear()
    here = two_epochs("host", keep="device")
    assert (
        "train: 0.1 MiB of decoded images do not go to the device (0.2 MiB of memory are free "
        "for each copy): every batch comes from the host" in caplog.text
    )
    assert here.history[-1]["loss"] == pytest.approx(there.history[-1]["loss"], rel=1e-4)


class ResourceExhaustedError(Exception):
    """As TensorFlow names it."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("failed to allocate memory"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
    ],
)
def test_memory_that_is_refused_is_no_end(accelerator, monkeypatch, caplog, sixteen, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(device_images, "TakeImages", refuse)
    assert put_on_device(sixteen, accelerator) is None
    assert "do not go to the device (its memory was refused)" in caplog.text


def test_another_error_is_not_taken_for_want_of_memory(accelerator, monkeypatch, sixteen):
    def fail(*args, **kwargs):
        raise RuntimeError("the device was lost")

    monkeypatch.setattr(device_images, "TakeImages", fail)
    with pytest.raises(RuntimeError, match="the device was lost"):
        put_on_device(sixteen, accelerator)


@pytest.mark.parametrize(
    ("backend", "told", "free"),
    [
        ("jax", [{"bytes_limit": 9, "bytes_in_use": 4}, {"bytes_limit": 9, "bytes_in_use": 7}], 2),
        ("jax", [{"bytes_limit": 900, "bytes_in_use": 4}], 100),
        ("jax", [None], 100),
        ("tensorflow", [], 100),
    ],
)
def test_the_fullest_accelerator_or_the_host_says_what_is_free(monkeypatch, backend, told, free):
    monkeypatch.setattr(device_images, "free_memory_bytes", lambda: 100)
    devices = [SimpleNamespace(memory_stats=lambda stats=stats: stats) for stats in told]
    monkeypatch.setattr(pytest.importorskip("jax"), "local_devices", lambda: devices)
    device = Accelerator("gpu", backend, 2, "float32", "a test")
    assert device_images._free_bytes(device) == free


@pytest.mark.parametrize("keep", ["auto", "ram", "disk", "none"])
def test_images_are_taken_from_wherever_the_host_keeps_them(drawn, accelerator, keep):
    images = load_split(drawn, "train", keep=keep).images
    with accelerator.scope():
        table = put_on_device(images, accelerator).table
    found = keras.ops.convert_to_numpy(table).reshape(images.shape)
    np.testing.assert_array_equal(found, load_split(drawn, "train", keep="ram").images[:])


def test_the_host_cannot_change_what_the_device_holds():
    with pytest.raises(ValueError, match=r"keep='device' leaves .* Pass augment_on='auto'"):
        TrainingPlan(keep="device", augment_on="host")
