"""memory: what training needs, by the layers alone; and a device that has too little."""

import dataclasses
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from flowerkit.models import build_classifier
from flowerkit.training import memory, step
from flowerkit.training.memory import OutOfMemory, activation_bytes, check_memory
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.run_folder import RunFolder
from flowerkit.training.trainer import train


@pytest.mark.parametrize("size", [8, None])
def test_what_all_layers_give_is_counted_once_also_where_a_network_takes_any_size(
    accelerator, size
):
    inner_inputs = keras.Input((size, size, 4))
    inner = keras.Model(inner_inputs, keras.layers.ReLU()(keras.layers.ReLU()(inner_inputs)))
    pixels = keras.Input((8, 8, 3))
    features = inner(keras.layers.Conv2D(4, 3, padding="same")(pixels))
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(features))
    model = keras.Model(pixels, outputs)
    assert activation_bytes(model, precision="float32") == 1.5 * 4 * (256 + 2 * 256 + 4 + 2)


def test_a_larger_input_needs_more_and_half_the_precision_half(accelerator):
    def measure(size, precision="float32"):
        model = build_classifier(4, image_size=size, backbone="tiny", weights=None)
        return activation_bytes(model, precision=precision)

    assert measure(64) == pytest.approx(4 * measure(32), rel=0.05)
    assert measure(32, "bfloat16") < 0.51 * measure(32)


def test_what_a_step_needs_beside_what_is_free_is_said_before_training(
    drawn, accelerator, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", "flowerkit")
    plan = TrainingPlan(
        backbone="tiny", weights=None, optimizer="sgd", ema=None, per_replica_batch=32, cache="ram"
    )
    model = build_classifier(4, image_size=32, backbone="tiny", weights=None)
    weights, each = 4 * model.count_params(), activation_bytes(model, precision="float32")
    decoded = 3 * 32 * 32 * (50 + 18)

    def check(images, copies=3, **changes):
        caplog.clear()
        free = decoded + accelerator.replicas * (copies * weights + images * each + 8)
        monkeypatch.setattr(memory, "free_memory_bytes", lambda: free)
        check_memory(dataclasses.replace(plan, **changes), model, drawn, accelerator, tmp_path)
        return caplog.text

    assert re.search(r"INFO .* a step needs about .* 32 images of .* of decoded images", check(32))
    warning = r"WARNING .* it may end out of memory; pass"
    assert re.search(rf"{warning} accumulate=2 \(--accumulate 2\), .* with 16 images", check(31))
    assert re.search(rf"{warning} accumulate=8 \(--accumulate 8\)", check(4, copies=4))
    assert re.search(rf"{warning} accumulate=16 .* with 2 images", check(3, mixup=0.4))
    assert re.search(rf"{warning} a smaller input_size \(--input-size\)", check(0))
    assert "WARNING" not in check(8, copies=4, accumulate=4)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(OSError, match=r"no room .* are needed, .* are free"):
        check(32)


OutOfMemoryOfTensorFlow = type("ResourceExhaustedError", (Exception,), {})

# A device with too little ----------------------------------------------------------------------------


class Exhausted(keras.callbacks.Callback):
    """The device's memory is full in every step that gets more than so many images at a time."""

    def __init__(self, most, epoch=0):
        super().__init__()
        self.most, self.from_epoch = most, epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        size = 16 // getattr(self.model, "parts", 1)
        if size > self.most and self.epoch >= self.from_epoch:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes")


@pytest.fixture
def run(quick_plan, drawn, accelerator, tmp_path):
    def train_plan(name, callbacks=(), resume=False, **changes):
        plan = dataclasses.replace(quick_plan, **changes)
        return train(
            drawn,
            plan,
            out=tmp_path / name,
            accelerator=accelerator,
            callbacks=callbacks,
            resume=resume,
        )

    return train_plan


def rows_of(result, *names):
    return [[row[name] for name in names] for row in result.history]


@pytest.mark.backends
@pytest.mark.replicas
@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "freeze_epochs": 1}])
def test_a_step_in_parts_is_the_step_of_all_its_images(run, changes):
    """Rates, order, mixing and averaged weights too; a network without norms and dropout shows it."""
    common = {"backbone": "dense-small", "head": "plain", "dropout": 0.0, "ema": 0.5, "mixup": 0.4}
    common |= {"per_replica_batch": 4} | changes
    whole, parts = run("whole", **common), run("parts", **common, accumulate=2)
    assert parts.global_batch == whole.global_batch
    names = ("loss", "accuracy", "val_loss", "learning_rate", "steps", "averaged")
    np.testing.assert_allclose(rows_of(parts, *names), rows_of(whole, *names), rtol=1e-4)
    for weights in zip(parts.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_allclose(*weights, atol=1e-5)


@pytest.mark.backends
@pytest.mark.replicas
def test_a_device_with_too_little_memory_gets_the_same_steps_in_parts_and_keeps_them(run, caplog):
    """From the third epoch on: two are kept, and a resume goes on in the parts."""
    caplog.set_level("INFO", "flowerkit")
    result = run("run", [Exhausted(8, epoch=2)], halve_on_oom=True, epochs=3)
    assert (result.global_batch, result.plan.accumulate) == (16, 2)
    assert rows_of(result, "epoch", "steps") == [[1, 3], [2, 3], [3, 3]]
    assert "going on in 2 parts a step" in caplog.text
    assert "resuming after epoch 2" in caplog.text
    assert RunFolder(result.folder).plan().accumulate == 2
    longer = run("run", [Exhausted(8)], resume=True, epochs=4)
    assert (len(longer.history), longer.plan.accumulate) == (4, 2)


@pytest.mark.backends
def test_memory_that_is_too_little_in_validation_is_met_by_parts_too(run, monkeypatch):
    predict, sizes = step.predict, []

    def predict_few(*arguments, global_batch, **options):
        sizes.append(global_batch)
        if global_batch > 8:
            raise OutOfMemoryOfTensorFlow("OOM when allocating tensor")
        return predict(*arguments, global_batch=global_batch, **options)

    monkeypatch.setattr(step, "predict", predict_few)
    result = run("run", halve_on_oom=True, epochs=1)
    assert (sizes, result.plan.accumulate) == ([16, 8], 2)


@pytest.mark.backends
def test_the_parts_that_fit_are_named_and_the_folder_stays_free(run, quick_plan):
    size = quick_plan.per_replica_batch
    message = rf"for {size} images at a time .* accumulate=2 \(--accumulate 2\), .*--halve-on-oom"
    with pytest.raises(OutOfMemory, match=rf"{message}.*--per-replica-batch {size // 2}\)"):
        run("run", [Exhausted(8)])
    assert run("run", accumulate=2, epochs=1).plan.accumulate == 2


def test_where_no_part_is_left_a_smaller_input_is_the_remedy(run, quick_plan):
    with pytest.raises(OutOfMemory, match=r"for 1 images at a time .* \(--input-size\)\.$"):
        run("run", [Exhausted(0)], halve_on_oom=True, accumulate=quick_plan.per_replica_batch)
