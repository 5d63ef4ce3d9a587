"""fitting: the phases of a plan, its choices together, and how often anything compiles."""

import dataclasses
import logging

import keras
import numpy as np
import pytest

from flowerkit.data.split import load_split
from flowerkit.prediction.predictions import predict
from flowerkit.training.trainer import fine_tune, fit_one_cycle, train

pytestmark = pytest.mark.backends

EVERYTHING = {
    "min_crop_area": 0.5,
    "vertical_flip": True,
    "max_zoom": 1.2,
    "max_rotation_degrees": 20.0,
    "max_lighting": 0.2,
    "max_warp": 0.2,
    "random_erasing": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}


@pytest.fixture
def two_epochs(quick_plan, drawn, accelerator, tmp_path):
    def run(name, **changes):
        plan = dataclasses.replace(quick_plan, **changes)
        return train(plan, drawn, out=tmp_path / name, accelerator=accelerator)

    return run


@pytest.mark.replicas
def test_every_change_at_once_trains_and_leaves_nothing_in_the_saved_model(two_epochs):
    run = two_epochs("all", **EVERYTHING)
    assert len(run.history) == 2
    saved = keras.saving.load_model(run.folder / "model.keras", compile=False)
    kinds = {type(layer).__name__ for layer in saved._flatten_layers()}
    assert "Augment" not in kinds
    dropout = [one for one in saved.variables if "seed_generator" in one.path]
    assert len(dropout) == 1


@pytest.mark.replicas
def test_several_steps_an_execution_learn_what_single_steps_do(two_epochs, accelerator):
    if accelerator.backend == "tensorflow" and accelerator.replicas > 1:
        with pytest.raises(ValueError, match="steps_per_execution=3 is not safe over several"):
            two_epochs("several", steps_per_execution=3)
        return
    single, several = (two_epochs(str(count), steps_per_execution=count) for count in (1, 3))
    for row, other in zip(single.history, several.history, strict=True):
        assert row["steps"] == other["steps"] == 3
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_steps_that_do_not_divide_an_epoch_are_refused(two_epochs):
    with pytest.raises(ValueError, match=r"steps_per_execution=2 must divide .* \(3\)"):
        two_epochs("run", steps_per_execution=2)


class Snapshots(keras.callbacks.Callback):
    """The classifier's weights by layer after every epoch."""

    def __init__(self):
        super().__init__()
        self.taken = []

    def on_epoch_end(self, epoch, logs=None):
        classifier = self.model.get_layer("flower_classifier")
        self.taken.append(
            {
                layer.name: [np.array(one) for one in layer.get_weights()]
                for layer in classifier.layers
            }
        )


def differ(ours, others):
    return any(not np.array_equal(one, other) for one, other in zip(ours, others, strict=True))


@pytest.mark.replicas
def test_the_backbone_rests_while_the_head_learns_and_learns_afterwards(
    quick_plan, drawn, accelerator, tmp_path
):
    snapshots = Snapshots()
    plan = dataclasses.replace(quick_plan, freeze_epochs=2, freeze_lr=2e-3, epochs=1)
    run = train(plan, drawn, out=tmp_path / "run", accelerator=accelerator, callbacks=[snapshots])
    first, second, third = snapshots.taken
    assert not differ(first["backbone"], second["backbone"])
    assert differ(first["probabilities"], second["probabilities"])
    assert differ(second["backbone"], third["backbone"])
    assert [row["phase"] for row in run.history] == [1, 1, 2]
    assert [row["learning_rate"] for row in run.history] == pytest.approx([2e-3, 2e-3, 1e-3])
    assert [row["planned_lr"] for row in run.history] == pytest.approx([2e-3, 2e-3, 1e-3])


def test_fine_tune_and_fit_one_cycle_are_plans_in_one_call(
    quick_plan, drawn, accelerator, tmp_path
):
    how = {"plan": quick_plan, "accelerator": accelerator}
    tuned = fine_tune(drawn, 2, base_lr=4e-3, out=tmp_path / "tuned", **how)
    assert [row["phase"] for row in tuned.history] == [1, 2, 2]
    assert (tuned.plan.freeze_lr, tuned.plan.max_lr, tuned.plan.backbone_lr_factor) == (
        4e-3,
        2e-3,
        0.01,
    )
    gentler = fine_tune(drawn, 1, backbone_lr_factor=0.3, out=tmp_path / "gentler", **how)
    assert gentler.plan.backbone_lr_factor == 0.3
    cycle = fit_one_cycle(drawn, 2, 3e-3, out=tmp_path / "cycle", **how)
    assert [row["phase"] for row in cycle.history] == [1, 1]
    assert cycle.history[-1]["learning_rate"] < 3e-3 / 5  # six steps: the last is not quite the end
    with pytest.raises(ValueError, match="epochs must be 1 or more"):
        fit_one_cycle(drawn, 0, out=tmp_path / "none", **how)


def test_a_callback_of_yours_that_stops_a_phase_stops_the_run(
    quick_plan, drawn, accelerator, tmp_path
):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    plan = dataclasses.replace(quick_plan, freeze_epochs=2)
    run = train(plan, drawn, out=tmp_path / "run", accelerator=accelerator, callbacks=[Stop()])
    assert run.stop_reason == "one of your callbacks stopped it"
    assert [row["phase"] for row in run.history] == [1]


def test_a_frozen_phase_that_stops_early_gives_way_to_the_next(
    quick_plan, drawn, accelerator, tmp_path
):
    plan = dataclasses.replace(
        quick_plan, freeze_epochs=9, freeze_lr=1e-9, patience=1, monitor="val_accuracy", epochs=1
    )
    run = train(plan, drawn, out=tmp_path / "run", accelerator=accelerator)
    phases = [row["phase"] for row in run.history]
    assert phases[-1] == 2
    assert 2 <= phases.count(1) < 9


def test_a_run_resumed_in_its_second_phase_ends_like_the_whole_one(
    quick_plan, drawn, accelerator, tmp_path
):
    class Leave(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    plan = dataclasses.replace(quick_plan, freeze_epochs=2, epochs=3, schedule="one-cycle")
    whole = train(plan, drawn, out=tmp_path / "whole", accelerator=accelerator)
    train(plan, drawn, out=tmp_path / "parts", accelerator=accelerator, callbacks=[Leave()])
    parts = train(plan, drawn, out=tmp_path / "parts", accelerator=accelerator, resume=True)
    assert [row["phase"] for row in parts.history] == [1, 1, 2, 2, 2]
    for row, other in zip(whole.history, parts.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row["learning_rate"] == pytest.approx(row["planned_lr"], rel=1e-5)


@pytest.mark.parametrize("lost_in", [3, 22])
def test_a_loss_that_is_lost_in_a_long_epoch_ends_the_run_and_names_its_step(
    quick_plan, drawn, accelerator, tmp_path, lost_in
):
    """25 steps an epoch: more than the host runs ahead, so that the stop comes inside one."""

    class Poison(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch + 1 == lost_in and self.model.optimizer.iterations > 25:
                head = self.model.get_layer("flower_classifier").get_layer("probabilities")
                head.set_weights([np.nan * weight for weight in head.get_weights()])

    plan = dataclasses.replace(quick_plan, per_replica_batch=2, epochs=3, freeze_norms=True)
    run = train(plan, drawn, out=tmp_path / "run", accelerator=accelerator, callbacks=[Poison()])
    assert run.stop_reason == f"the loss became nan in epoch 2, step {lost_in}"
    assert len(run.history) == 1


def test_averaged_weights_are_validated_and_kept_beside_the_raw_ones(two_epochs):
    run = two_epochs("run", ema=0.5)
    kept = run.model.get_weights()
    run.model.load_weights(run.folder / "checkpoints" / "best_raw.weights.h5")
    assert differ(kept, run.model.get_weights())


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "weight_decay": 0.01, "backbone_lr_factor": 0.1, "clip_norm": 1.0},
        {"optimizer": "sgd", "schedule": "cosine", "max_lr": 0.05, "label_smoothing": 0.1},
        {"optimizer": "lamb", "schedule": "staircase", "focal_gamma": 2.0},
        {"class_weights": "balanced", "unfreeze_from": 0.5, "freeze_norms": True, "mixup": 0.2},
        {"head": "concat", "schedule": "one-cycle", "ema": 0.9},
    ],
)
def test_the_choices_of_a_plan_go_together(two_epochs, changes):
    run = two_epochs("run", **changes)
    assert len(run.history) == 2
    assert all(np.isfinite(row["loss"]) for row in run.history)
    for row in run.history:
        assert row["learning_rate"] == pytest.approx(row["planned_lr"], rel=1e-5)


def test_a_layer_that_is_not_there_is_refused_before_anything_is_trained(two_epochs):
    with pytest.raises(ValueError, match="block9"):
        two_epochs("run", freeze_epochs=5, unfreeze_from="block9")


@pytest.fixture
def compilations(monkeypatch, accelerator, caplog):
    """Call it for how often each phase has been compiled: {"train": n, "predict": n}."""
    if accelerator.backend == "jax":
        import jax

        caplog.set_level(logging.DEBUG, logger="jax")
        jax.config.update("jax_log_compiles", True)

        def count_compiled():
            finished = [text for text in caplog.messages if "Finished XLA compilation" in text]
            return {
                phase: sum(f"{phase}_step" in text for text in finished)
                for phase in ("train", "predict")
            }

        yield count_compiled
        jax.config.update("jax_log_compiles", False)
        return
    import tensorflow as tf

    make, made = tf.function, []

    def remember(function=None, **options):
        made.append((function, make(function, **options)))
        return made[-1][1]

    monkeypatch.setattr(tf, "function", remember)

    def count_traced():
        counts = {"train": 0, "predict": 0}
        for function, traced in made:
            if getattr(function, "__name__", "").startswith("one_step_on_data"):
                is_train = "_make_function" in function.__qualname__
                counts["train" if is_train else "predict"] += (
                    traced.experimental_get_tracing_count()
                )
        return counts

    yield count_traced


@pytest.mark.replicas
def test_training_and_predicting_compile_once_each(two_epochs, drawn, compilations):
    run = two_epochs("run")
    predict(run.model, load_split(drawn, "test"), global_batch=run.global_batch)
    assert compilations() == {"train": 1, "predict": 1}
    assert np.isfinite(run.first_step_seconds)
