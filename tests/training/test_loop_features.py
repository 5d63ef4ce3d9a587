"""fitting on features: the head alone, as if it saw images; and what keeps, steers and ends phases."""

import dataclasses

import keras
import numpy as np
import pytest
from flowerkit.training.loop import open_batches

from flowerkit.data.split import load_split
from flowerkit.models.classifier import build_classifier, split_classifier
from flowerkit.schedules import OfEpochAndRate
from flowerkit.sources import draw_competition
from flowerkit.training.features import compute_features
from flowerkit.training.run_folder import load_run
from flowerkit.training.trainer import train

pytestmark = pytest.mark.backends

HEAD = {"epochs": 0, "freeze_epochs": 3, "freeze_lr": 1e-2, "schedule": "constant", "flip": False}


@pytest.fixture
def run(quick_plan, drawn, accelerator, tmp_path):
    def run_plan(name="run", *, data=drawn, options=(), **changes):
        plan = dataclasses.replace(quick_plan, **(HEAD | changes))
        return train(plan, data, out=tmp_path / name, accelerator=accelerator, **dict(options))

    return run_plan


class LeaveAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epochs


def list_checkpoints(run):
    return sorted(path.name for path in (run.folder / "checkpoints").iterdir())


@pytest.mark.parametrize("head", [pytest.param("notebook", marks=pytest.mark.replicas), "pooled"])
def test_a_head_learns_on_features_what_it_learns_on_images(run, drawn, head):
    on_images, on_features = (
        run(str(views), feature_views=views, head=head, dropout=0.3) for views in (0, 1)
    )
    for row, other in zip(on_images.history, on_features.history, strict=True):
        for name in ("loss", "val_loss", "val_f1", "learning_rate", "planned_lr"):
            assert row[name] == pytest.approx(other[name], rel=1e-4), name
    assert [row["phase"] for row in on_features.history] == [1, 1, 1]
    assert list_checkpoints(on_features) == ["best.weights.h5", "last.weights.h5"]
    # The file predicts what was recorded from features.
    model, val = load_run(on_features.folder)[2], load_split(drawn, "val")
    whole = keras.ops.convert_to_numpy(model(val.images, training=False))
    np.testing.assert_allclose(on_features.predictions.probabilities, whole, atol=1e-5)


def test_the_network_goes_on_where_the_head_has_ended(run):
    plans = [{"feature_views": views, "epochs": 2, "freeze_epochs": 2} for views in (0, 1)]
    on_images, on_features = (run(str(number), **plan) for number, plan in enumerate(plans))
    assert [row["phase"] for row in on_features.history] == [1, 1, 2, 2]
    for row, other in zip(on_images.history, on_features.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_epochs_take_the_views_by_turns_in_the_order_of_the_images(quick_plan, drawn, accelerator):
    plan = dataclasses.replace(quick_plan, feature_views=2, min_crop_area=0.5)
    keras.utils.set_random_seed(0)
    with accelerator.scope():
        classifier = build_classifier(4, image_size=32, backbone="tiny", weights=None, head="plain")
        body = split_classifier(classifier)[0]
    train_split = load_split(drawn, "train")
    found = compute_features(
        body, train_split, global_batch=16, views=2, augmentation=plan.view_augmentation()
    )
    of_images, of_features = (
        open_batches(plan, accelerator, source, num_classes=4).take(9).as_numpy_iterator()
        for source in (train_split, found)
    )
    for number, (image_batch, (features, labels)) in enumerate(
        zip(of_images, of_features, strict=True)
    ):
        np.testing.assert_array_equal(labels, image_batch[1])
        view = found.arrays[(number // 3) % 2]
        assert all((view == row).all(axis=1).any() for row in features)


def test_a_tpus_precision_is_kept_in_features(accelerator, quick_plan, drawn, tmp_path):
    as_on_tpu = dataclasses.replace(accelerator, precision="mixed_bfloat16")
    plan = dataclasses.replace(quick_plan, **HEAD)
    trained = train(plan, drawn, out=tmp_path / "run", accelerator=as_on_tpu)
    val = load_split(drawn, "val")
    whole = keras.ops.convert_to_numpy(trained.model(val.images, training=False))
    np.testing.assert_allclose(trained.predictions.probabilities, whole, atol=0.01)


def test_the_engine_is_the_same_on_features(run):
    """Averaged weights, smoothing, weights for classes, a cycle per step, decay, clipping, views."""
    everything = run(
        ema=0.9,
        label_smoothing=0.1,
        class_weights="balanced",
        schedule="one-cycle",
        optimizer="adamw",
        weight_decay=0.01,
        clip_norm=1.0,
        flip=True,
        mixup=0.2,
        feature_views=2,
        head="concat",
        backbone_lr_factor=0.1,
    )
    for row in everything.history:
        assert np.isfinite(row["val_loss"])
        assert row["learning_rate"] == pytest.approx(row["planned_lr"], rel=1e-5)
    assert list_checkpoints(everything) == [
        "best.weights.h5",
        "best_raw.weights.h5",
        "last.weights.h5",
    ]


def test_early_stopping_on_features_keeps_the_best_head(run):
    stopped = run(freeze_epochs=30, freeze_lr=3.0, patience=2, monitor="val_loss")
    assert stopped.stop_reason == "val_loss had not improved for 2 epochs (early stopping)"
    assert stopped.predictions.score()["val_loss"] == pytest.approx(
        stopped.best["val_loss"], rel=1e-5
    )
    assert stopped.best["epoch"] == stopped.history[-1]["epoch"] - 2


@pytest.mark.replicas
def test_a_run_resumed_on_features_ends_like_the_whole_one(run):
    changes = {"freeze_epochs": 4, "schedule": "one-cycle", "epochs": 1}
    whole = run("whole", **changes)
    run("parts", **changes, options={"callbacks": [LeaveAfter(2)]})
    parts = run("parts", **changes, options={"resume": True})
    assert [row["phase"] for row in parts.history] == [1, 1, 1, 1, 2]
    for row, other in zip(whole.history, parts.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)


def test_a_run_that_was_killed_on_features_still_has_its_best_head(run, monkeypatch):
    def die(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flowerkit.training.callbacks.Checkpoint.complete", die)
        with pytest.raises(KeyboardInterrupt):
            run()
    resumed = run(options={"resume": True})
    assert resumed.predictions.score()["val_f1"] == pytest.approx(resumed.best["val_f1"])
    assert list_checkpoints(resumed) == ["best.weights.h5", "last.weights.h5"]
    assert resumed.stop_reason == "the plan's epochs were done before (--epochs N goes further)"


def test_features_that_you_have_are_used_and_others_refused(run, drawn, accelerator, quick_plan):
    def compute(seed, train_split="train"):
        keras.utils.set_random_seed(seed)
        with accelerator.scope():
            model = build_classifier(4, image_size=32, backbone="tiny", weights=None)
            body = split_classifier(model)[0]
        return [
            compute_features(body, load_split(drawn, name), global_batch=16, keep="ram")
            for name in (train_split, "val")
        ]

    given = run("given", options={"features": compute(quick_plan.seed)})
    own = run("own")
    assert given.history[-1]["loss"] == pytest.approx(own.history[-1]["loss"], rel=1e-5)
    with pytest.raises(
        ValueError, match="these features are of another model: computed from a body"
    ):
        run("other", options={"features": compute(quick_plan.seed + 1)})
    with pytest.raises(ValueError, match="are of other data: computed from 22 images of 32 px"):
        run("data", options={"features": compute(quick_plan.seed, "test")})
    with pytest.raises(ValueError, match="hold 1 views of each image, the plan wants 2"):
        run("views", flip=True, feature_views=2, options={"features": compute(quick_plan.seed)})
    with pytest.raises(ValueError, match="were given, but no phase of this plan learns from any"):
        run("none", feature_views=0, options={"features": compute(quick_plan.seed)})


# What is kept, and what steers -------------------------------------------------------------------


def test_the_weights_of_every_second_epoch_are_kept_through_a_resume(run, drawn):
    changes = {"freeze_epochs": 3, "epochs": 2, "checkpoint_every": 2}
    run(**changes, options={"callbacks": [LeaveAfter(2)]})
    resumed = run(**changes, options={"resume": True})
    assert list_checkpoints(resumed) == [
        "best.weights.h5",
        "epoch-02.weights.h5",
        "epoch-04.weights.h5",
        "last.weights.h5",
    ]
    val = load_split(drawn, "val")
    scores = []
    for number in (2, 4):
        resumed.model.load_weights(resumed.folder / f"checkpoints/epoch-{number:02d}.weights.h5")
        probabilities = keras.ops.convert_to_numpy(resumed.model(val.images, training=False))
        scores.append(-np.log(probabilities[np.arange(len(val)), val.labels]).mean())
    assert scores == pytest.approx(
        [resumed.history[number - 1]["val_loss"] for number in (2, 4)], rel=1e-4
    )


def test_a_schedule_of_your_own_is_followed_recorded_and_wanted_again(run):
    def halve(epoch, lr):
        return lr if epoch == 0 else lr / 2

    own = {"schedule": OfEpochAndRate(halve, 4e-3)}
    followed = run(options=own)
    rates = [4e-3, 2e-3, 1e-3]
    assert [row["planned_lr"] for row in followed.history] == pytest.approx(rates)
    assert [row["learning_rate"] for row in followed.history] == pytest.approx(rates)
    named = r"followed 0\.004, then as .*:.*halve says every epoch, and would now follow its plan"
    with pytest.raises(ValueError, match=named):
        run(options={"resume": True})
    assert len(run(options={"resume": True, **own}).history) == 3
    with pytest.raises(
        ValueError, match="two controllers .* plateau_patience=1, and your schedule"
    ):
        run("other", plateau_patience=1, options=own)


def test_a_plateaus_waiting_survives_a_resume_and_it_cools_down(run):
    class Worsen(keras.callbacks.Callback):
        """Sure of class 0 from the second epoch on."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch:
                head = self.model.get_layer("head").get_layer("probabilities")
                kernel, bias = head.get_weights()
                head.set_weights([0 * kernel, 100.0 * (np.arange(len(bias)) == 0)])

    changes = {
        "freeze_epochs": 7,
        "plateau_patience": 2,
        "plateau_cooldown": 1,
        "patience": None,
        "monitor": "val_loss",
        "freeze_lr": 8e-3,
    }
    run(**changes, options={"callbacks": [Worsen(), LeaveAfter(2)]})
    resumed = run(**changes, options={"callbacks": [Worsen()], "resume": True})
    assert [row["learning_rate"] for row in resumed.history] == pytest.approx(
        [8e-3, 8e-3, 8e-3, 4e-3, 4e-3, 4e-3, 2e-3]
    )


def test_two_classes_are_told_apart_by_one_sigmoid_and_more_are_refused(run, accelerator, tmp_path):
    pair = draw_competition(
        tmp_path / "pair", num_classes=2, image_size=32, num_train=32, num_val=8, num_test=8
    )
    binary = run(data=pair, binary=True, epochs=1, freeze_epochs=1, schedule="ramp")
    assert binary.model.get_layer("logit").units == 1
    assert binary.predictions.probabilities.shape == (8, 2)
    np.testing.assert_allclose(binary.predictions.probabilities.sum(axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="binary tells two classes apart; there are 4"):
        run("four", binary=True)
