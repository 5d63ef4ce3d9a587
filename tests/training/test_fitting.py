"""fitting: size, rate and epochs by what is measured, on a machine whose seconds are made up."""

import dataclasses
import re
import signal
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from flowerkit.accelerator import hosts
from flowerkit.data import load_split
from flowerkit.models import activation_bytes, build_classifier
from flowerkit.prediction import compute_features, predict
from flowerkit.schedules import OneCycle
from flowerkit.training import callbacks, fitting, trainer, validation
from flowerkit.training import step as steps
from flowerkit.training.fitting import (
    build_in_time,
    check_memory,
    fit_network,
    has_time_for_batch,
    shrink_batch,
)
from flowerkit.training.history import History
from flowerkit.training.optimizers import copies_of
from flowerkit.training.phases import Clock, plan_phases
from flowerkit.training.plan import TrainingPlan
from flowerkit.training.run_folder import RunFolder
from flowerkit.training.step import RunContext, TrainStep
from flowerkit.training.trainer import train


class Machine:
    """Networks are trained and predict as always, in seconds that are made up.

    A training step of the network takes `step` seconds, one of the head alone a thousandth of one; a
    forward pass takes `image` seconds for an image, and the first of a body `compile` seconds besides.
    """

    def __init__(self):
        self.now = 1000.0
        self.step, self.image, self.compile = 1.0, 0.01, 0.0

    def monotonic(self):
        return self.now

    perf_counter = monotonic

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    for module in (callbacks, fitting, trainer, hosts):
        monkeypatch.setattr(module, "time", made)
    with_rate = callbacks.StepHooks._with_rate

    def take_step(hooks, state):
        made.spend(made.step if len(hooks.trained.inputs) == 2 else 1e-3)  # images, parameters
        return with_rate(hooks, state)

    def predict_slowly(model, split, **options):
        made.spend(made.image * len(split))
        return predict(model, split, **options)

    def compute_slowly(body, split, **options):
        made.spend(made.image * len(split))
        return compute_features(body, split, **options)

    def recompute(statistics):
        made.spend(made.image * sum(map(len, statistics.batches())))

    def time_body(body, batches, **options):
        start = made.now
        for number, batch in enumerate(batches):
            made.spend(made.image * len(batch) + (made.compile if number == 0 else 0.0))
            yield
        made.now = start  # so that it does not matter here how many they are

    monkeypatch.setattr(callbacks.StepHooks, "_with_rate", take_step)
    monkeypatch.setattr(steps, "predict", predict_slowly)
    monkeypatch.setattr(steps, "compute_features", compute_slowly)
    monkeypatch.setattr(validation.NormStatistics, "recompute", recompute)
    monkeypatch.setattr(fitting, "stream_outputs", time_body)
    return made


HEAD = [{"epoch": 1, "phase": 1, "val_f1": 0.5, "steps": 3}]


# Before the first step: size and batch ---------------------------------------------------------------


@pytest.fixture
def build(machine, drawn, quick_plan, accelerator):
    """The plan of a head at 224 px, of 68 images in train and val and 22 in test, and the reasons.

    An image takes half a second; of 16 images the first batch takes 10 s, of which 2 s are compiling.
    """
    machine.image, machine.compile = 0.5, 2.0

    def build(seconds, *, is_open=False, is_flip_open=False, needs_features=True, **changes):
        changes = {"input_size": 224, "freeze_epochs": 2, "max_minutes": 1.0} | changes
        plan = dataclasses.replace(quick_plan, **changes)
        run = RunContext(drawn, plan, accelerator)
        run.clock = Clock(at=machine.now + seconds, num_val=18, num_test=22)
        run.history = History("val_f1", () if needs_features else HEAD * 2)
        was_open = {"input_size": "224: wide"} if is_open else {}
        run.chosen = was_open | ({"freeze_flip": "True: flip"} if is_flip_open else {})
        build_in_time(run)
        size = run.plan.small_px(32) if run.is_small else run.plan.input_size
        assert run.classifier.get_layer("backbone").input_shape[1] == size
        kept = {name: getattr(plan, name) for name in ("freeze_flip", "small_epochs")}
        as_before = {"input_size": 224} | kept
        assert dataclasses.replace(run.plan, **as_before) == plan
        return run

    return build


# Of these seconds 5 are for saving, 4 for compiling twice, and 14.3 for the test split, with a margin.
@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        (95, 224),  # 34 s of features, 71.7 s are left
        (84, 192),  # 60.7 s are left; at 192 px 25.0 of 64.5 s
        (34, 96),  # 10.7 s; at 96 px 6.2 of 22.4 s
    ],
)
def test_the_size_is_as_large_as_half_of_the_time_allows_for_the_features(build, seconds, size):
    run = build(seconds, is_open=True)
    assert run.plan.input_size == size
    assert run.classifier.input_shape[1] == 32  # images as stored; the model resizes them
    assert run.clock.compile_seconds == pytest.approx(2.0)
    assert run.clock.image_seconds == pytest.approx(0.5 * (size / 224) ** 2)
    if size == 224:
        assert run.chosen == {"input_size": "224: wide"}
    else:
        assert run.chosen["input_size"].startswith(
            f"{size}: at 224 px the features of 68 images would take 34 s of the "
        )


# Of 50 images in train and 18 in val the features take 34 s, with those of mirrored images 59 s.
@pytest.mark.parametrize(("seconds", "flips"), [(202, True), (199, False)])
def test_mirrored_images_are_seen_where_both_views_take_a_third_of_the_time(build, seconds, flips):
    run = build(seconds, is_flip_open=True, freeze_flip=True)
    assert run.plan.freeze_flip is flips
    too_long = "the features would take 59 s of the 2 min 56 s that are left"
    assert (too_long in run.chosen["freeze_flip"]) == (not flips)
    assert build(seconds, freeze_flip=True).plan.freeze_flip is True  # as it was given


# Of large images the features take 34 s and an epoch with its validations 143 s, of those of 128 px
# 11.1 s and 46.7 s. 23.3 s are for the csv.
@pytest.mark.parametrize(
    ("seconds", "epochs", "reason"),
    [
        (400, 0, "3.9 of 128 px, in half of the time, are too few"),  # of 365.6 s
        (415, 4.1, "of images of 128 px: only"),
        (5100, 54, "of images of 128 px: only"),
        (5300, 0, "37 epochs of 224 px fit into the time"),  # more than enough
    ],
)
def test_images_are_small_at_first_where_the_time_is_for_few_large_ones(
    build, seconds, epochs, reason
):
    run = build(seconds, is_open=True, small_epochs="auto", schedule="one-cycle")
    assert run.plan.small_epochs == pytest.approx(epochs, rel=0.02)
    assert (run.plan.input_size, run.is_small) == (224, epochs > 0)
    size = 128 if epochs else 224
    assert run.clock.image_seconds == pytest.approx(0.5 * (size / 224) ** 2)
    assert run.chosen["small_epochs"].startswith(f"{run.plan.small_epochs:g}")
    assert reason in run.chosen["small_epochs"]


def test_a_size_that_is_given_is_kept_and_too_little_time_is_refused_with_what_would_do(build):
    assert build(95).plan.input_size == 224
    # 10.7 s are left for 34 s of features: 23.3 s are missing, and a tenth more.
    with pytest.raises(ValueError, match=r"max_minutes=1 is too short .*--max-minutes 1\.5\)"):
        build(34)


def test_time_that_is_up_already_is_refused_before_anything_is_trained(build):
    with pytest.raises(ValueError, match=r"max_minutes=1 is too short .*--max-minutes [\d.]+\)"):
        build(-3600, is_open=True)


def test_without_a_limit_or_a_head_to_learn_nothing_is_timed(build, machine):
    before = machine.now
    for options in ({"needs_features": False}, {}):
        seconds = 60 if options else np.inf
        run = build(seconds, is_open=True, **options)
        assert (run.plan.input_size, run.clock.image_seconds) == (224, 0.0)
    assert machine.now == before


# When the head has learned: rate and epochs ----------------------------------------------------------


@pytest.fixture
def make_run(machine, drawn, quick_plan, accelerator):
    """Makes the context of a fresh network, of which 30 steps show all images once.

    A validation takes 6.8 s, 18 images and 50 for the statistics, and the csv 7.9 s.
    """

    def make(seconds=np.inf, *, head_rows=(), image_seconds=0.1, **changes):
        plan = {"epochs": "auto", "max_lr": 0.01, "schedule": "one-cycle"} | changes
        plan = dataclasses.replace(quick_plan, **plan)
        if seconds < np.inf:
            plan = dataclasses.replace(plan, max_minutes=seconds / 60)
        run = RunContext(drawn, plan, accelerator)
        run.build()
        run.train, run.val = (load_split(drawn, name) for name in ("train", "val"))
        run.num_steps, run.history = 30, History("val_f1", head_rows)
        run.clock = Clock(at=machine.now + seconds, num_val=68, num_test=22)
        run.clock.image_seconds = image_seconds if seconds < np.inf else 0.0
        return run

    return make


@pytest.fixture
def fit(make_run, accelerator):
    """(run, phase, reasons) for a network whose step takes a second; 4 s pass for finding that out."""

    def fit(*seconds, spoil=None, **changes):
        run = make_run(*seconds, **changes)
        with accelerator.scope():
            step = TrainStep.for_phase(run, False)
        if spoil:
            spoil(run.classifier)
        phase = plan_phases(run.plan, global_batch=16, steps_an_epoch=30)[-1]
        phase = dataclasses.replace(phase, first_epoch=len(run.history))
        before = bytes_of(step.model)
        phase = fit_network(run, step, phase)
        assert bytes_of(step.model) == before  # rates are tried on it, and nothing stays
        return run, phase, run.chosen

    return fit


@pytest.mark.parametrize(
    ("seconds", "batch"),
    [
        (100, 8),  # 92 s, or 307 images: far from 300 steps of 8
        (2000, 16),
        (np.inf, 16),
    ],
)
def test_a_network_that_has_time_for_few_steps_takes_smaller_batches(
    make_run, accelerator, seconds, batch
):
    run = make_run(seconds)
    shrink_batch(run)
    assert run.global_batch == batch
    assert run.plan.per_replica_batch == batch // accelerator.replicas
    if batch == 16:
        assert (run.num_steps, run.chosen) == (30, {})
    else:
        assert run.num_steps == 6  # of 50 images
        assert run.chosen["per_replica_batch"].startswith(
            f"{run.plan.per_replica_batch}, of the network: "
        )


@pytest.mark.parametrize(
    ("seconds", "is_sure"),
    [
        (2000, False),  # it would stay, but not by far: 250 steps take 1200 s
        (3000, True),
        (np.inf, True),
    ],
)
def test_a_step_is_compiled_ahead_where_its_batch_is_sure_to_stay(make_run, seconds, is_sure):
    assert has_time_for_batch(make_run(seconds)) == is_sure


def test_the_smaller_batches_of_images_that_are_mixed_are_pairs(make_run, accelerator):
    """As on the 8 cores of a TPU, of which each has two images."""
    run = make_run(100, mixup=0.2, per_replica_batch=2)
    run.accelerator = dataclasses.replace(accelerator, replicas=8)
    shrink_batch(run)
    assert run.plan.per_replica_batch == 2


def bytes_of(model):
    variables = [*model.variables, *model.optimizer.variables]
    copies = [copy for variable in variables for copy in copies_of(variable)]
    return [keras.ops.convert_to_numpy(copy).tobytes() for copy in copies]


def test_without_a_limit_the_epochs_are_those_of_the_kind_of_network(fit):
    run, phase, reasons = fit()
    assert run.plan.epochs == 40  # from scratch
    assert (phase.epochs, phase.steps, phase.end) == (40, 30, 40)
    assert reasons.keys() == {"epochs"}
    assert reasons["epochs"].startswith("40: ")
    assert "--max-minutes" in reasons["epochs"]


def test_what_is_given_is_not_measured(fit, machine):
    before = machine.now
    run, phase, reasons = fit(epochs=2.5)
    assert (run.plan.epochs, run.plan.max_lr) == (2.5, 0.01)
    assert (phase.epochs, phase.steps, phase.end) == (3, 25, 2.5)
    assert reasons == {}
    assert machine.now == before


def test_the_epochs_are_those_that_end_in_time(fit):
    run, phase, reasons = fit(99)
    # 87.1 s are left: three validations and 66 steps.
    assert run.plan.epochs == 2.2
    assert (phase.epochs, phase.steps) == (3, 22)
    assert (phase.start, phase.end, phase.most_epochs) == (0, 2.2, 120)
    assert phase.schedule == OneCycle(0.01, 2.2)
    assert reasons["epochs"] == "2.20: a step takes 1.0 s, a validation 6.8 s, 87 s are left"


def test_averaged_weights_are_a_validation_more(fit):
    run, phase, _ = fit(99, ema=0.9)
    assert run.plan.epochs == pytest.approx(59 / 30, abs=1e-5)  # two of 13.6 s
    assert (phase.epochs, phase.steps) == (2, 30)


def test_of_epochs_and_minutes_the_smaller_counts(fit):
    run, phase, reasons = fit(99, epochs=3)
    assert run.plan.epochs == 3  # as it was asked for
    assert (phase.epochs, phase.steps) == (3, 22)
    assert (phase.start, phase.end) == (0, 3)  # with the whole schedule
    assert reasons["max_minutes"].startswith("1.65: time for 2.20 epochs; a step takes ")
    run, phase, reasons = fit(990, epochs=3)
    assert (run.plan.epochs, phase.epochs, phase.steps, phase.end) == (3, 3, 30, 3)
    assert reasons["max_minutes"].startswith("16.5: time for 3.00 epochs; ")


def test_however_much_time_there_is_images_are_shown_so_often_at_most(fit):
    run, phase, _ = fit(1e6)
    assert run.plan.epochs == phase.epochs == phase.most_epochs == 120


def test_no_time_for_the_network_leaves_the_head(fit):
    _, phase, reasons = fit(25, head_rows=HEAD)
    assert phase is None
    assert reasons["epochs"].startswith("0: the head alone; a step takes 1.0 s")
    _, phase, _ = fit(99, head_rows=HEAD)
    assert (phase.first_epoch, phase.epochs, phase.steps) == (1, 3, 22)


def test_no_time_for_a_network_without_a_head_is_refused_with_what_would_do(fit):
    with pytest.raises(ValueError, match=r"max_minutes=0\.25 is too short .*--max-minutes 0\.[45]"):
        fit(15)


# The rate -------------------------------------------------------------------------------------------


def rate_of(reason):
    return float(re.match(r"[\d.e-]+", reason).group().rstrip("."))


@pytest.mark.backends
def test_the_rate_is_the_valley_of_a_range_test_in_a_twentieth_of_the_steps(fit, machine):
    before = machine.now
    run, phase, reasons = fit(epochs=20, max_lr="auto", optimizer="sgd")
    assert machine.now - before <= 30  # of 600 steps
    assert 1e-5 < run.plan.max_lr < 0.5
    assert run.plan.max_lr == rate_of(reasons["max_lr"]) == phase.schedule.max_lr
    assert re.search(r": the valley of a range test, \d+ steps in [\d.]+ s$", reasons["max_lr"])


def test_the_valley_is_a_rate_for_the_batch_that_the_plan_names(fit, monkeypatch):
    monkeypatch.setattr(fitting, "find_rate", lambda reader, rates: (1e-4, 0.5))
    run, phase, _ = fit(epochs=20, max_lr="auto", lr_reference_batch=64)
    assert run.plan.max_lr == pytest.approx(2e-4)
    assert phase.schedule.max_lr == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("valley", "rate", "reason"),
    [
        (2e-4, 2e-4, r"0\.0002: the valley of a range test, \d+ steps in "),
        (
            1.8e-3,
            7e-4,
            r"0\.0007: the plan's own; the valley of a range test is higher \(0\.0018, ",
        ),
    ],
)
def test_a_range_test_lowers_adams_rate_and_does_not_raise_it(
    fit, monkeypatch, valley, rate, reason
):
    monkeypatch.setattr(fitting, "find_rate", lambda reader, rates: (valley, 0.5))
    run, phase, reasons = fit(epochs=20, max_lr="auto")
    assert run.plan.max_lr == phase.schedule.max_lr == rate
    assert re.match(reason, reasons["max_lr"])


def test_without_time_for_a_range_test_the_rate_is_the_plans_own(fit):
    run, _, reasons = fit(epochs=2, max_lr="auto")
    assert run.plan.max_lr == 7e-4
    assert reasons["max_lr"] == ("0.0007: the plan's own; a range test has no time (3 of 20 steps)")
    run, _, reasons = fit(99, max_lr="auto")  # 87 steps
    assert run.plan.max_lr == 7e-4
    assert "(4 of 20 steps)" in reasons["max_lr"]


def test_where_the_loss_is_not_a_number_at_once_the_rate_is_the_plans_own(fit):
    def poison(classifier):
        backbone = classifier.get_layer("backbone")
        backbone.set_weights([np.full_like(weight, np.nan) for weight in backbone.get_weights()])

    run, _, reasons = fit(epochs=20, max_lr="auto", spoil=poison)
    assert run.plan.max_lr == 7e-4
    assert reasons["max_lr"].startswith("0.0007: the plan's own; the range test shows no valley (")
    assert "nan" in reasons["max_lr"]


def test_where_the_loss_does_not_fall_the_rate_is_the_plans_own(fit, monkeypatch):
    monkeypatch.setattr(fitting, "RANGE_TEST_RATES", (1e-12, 1e-11))
    run, _, reasons = fit(epochs=70, max_lr="auto")
    assert run.plan.max_lr == 7e-4
    assert reasons["max_lr"].startswith(
        "0.0007: the plan's own; in the range test the loss fell by "
    )


# Whole runs -----------------------------------------------------------------------------------------


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            self.model.stop_training = True


@pytest.fixture
def run(machine, quick_plan, drawn, accelerator, tmp_path):
    """Two epochs of the head, then the network in what is left of a minute: 3 s of training an epoch."""

    def train_plan(name="run", *, callbacks=(), resume=False, **changes):
        defaults = {
            "freeze_epochs": 2,
            "freeze_lr": 2e-3,
            "epochs": "auto",
            "max_lr": "auto",
            "schedule": "one-cycle",
            "max_minutes": 1.0,
        }
        machine.start = machine.now
        return train(
            drawn,
            dataclasses.replace(quick_plan, **defaults | changes),
            out=tmp_path / name,
            accelerator=accelerator,
            callbacks=callbacks,
            resume=resume,
            started=machine.now,
        )

    train_plan.path = tmp_path / "run"
    return train_plan


def assert_same(history, whole):
    assert len(history) == len(whole)
    for row, other in zip(history, whole, strict=True):
        for name in ("phase", "steps", "loss", "val_loss", "learning_rate", "planned_lr"):
            assert row[name] == pytest.approx(other[name], rel=1e-4), name


@pytest.mark.backends
@pytest.mark.replicas
def test_a_run_uses_its_time_ends_in_it_and_says_what_was_fitted_from_what(run, machine):
    machine.step = 2.0
    result = run()
    seconds = machine.now - machine.start
    # 5.3 s are for the csv.
    assert 0.9 * 54.7 < seconds < 54.7
    folder = RunFolder(result.folder)
    plan, fitted = folder.plan(), folder.fitted()
    assert plan == result.plan
    assert (plan.max_lr, plan.freeze_epochs, plan.max_minutes) == (7e-4, 2, 1.0)
    assert fitted.reasons.keys() == {"epochs", "max_lr"}
    assert fitted.reasons["epochs"].startswith(f"{plan.epochs:.2f}: a step takes 2.0 s, ")
    assert fitted.reasons["max_lr"].startswith("0.0007: the plan's own; ")
    network = result.history.of_phase(2)
    assert (fitted.rest.number, fitted.rest.end) == (2, plan.epochs)
    assert fitted.rest.first_epoch + fitted.rest.epochs == len(result.history)
    assert sum(row["steps"] for row in network) == pytest.approx(3 * plan.epochs, abs=3)
    assert network.last["planned_lr"] < 7e-4 / 3  # the schedule ends
    assert result.summary.stop_reason == "its time was used"


SMALL = {"small_epochs": "auto", "input_size": 64}


class StopAfterHead(keras.callbacks.Callback):
    """Interrupt before the network's first epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.backends
@pytest.mark.replicas
def test_of_the_networks_time_half_is_for_small_images(run, machine):
    machine.step, machine.image = 1.0, 0.006
    result = run(**SMALL)
    assert 0.9 * 54.7 < machine.now - machine.start < 54.9
    plan, fitted = result.plan, RunFolder(result.folder).fitted()
    assert fitted.reasons.keys() == {"small_epochs", "epochs", "max_lr"}
    assert fitted.reasons["small_epochs"].startswith(f"{plan.small_epochs:.2f}: a step takes 1.0 s")
    small, large = (result.history.of_phase(number) for number in (2, 3))
    of_small, of_large = (sum(row["seconds"] for row in rows) for rows in (small, large))
    assert 0.4 < of_small / (of_small + of_large) < 0.6
    assert small.last["planned_lr"] < 7e-4 / 3  # each has a cycle of its own
    assert max(row["planned_lr"] for row in large) < 0.3 * 7e-4
    assert large.last["planned_lr"] < 0.3 * 7e-4 / 3
    assert result.summary.stop_reason == "its time was used"


@pytest.mark.parametrize("size", [32, 64])
def test_a_run_of_small_images_is_resumed_with_a_time_of_its_own(run, machine, size):
    machine.step, machine.image = 1.0, 0.006

    class PowerCut(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            layers = self.model.layers
            if layers[-1].name == "flower_classifier" and layers[-1].input_shape[1] == size:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(**SMALL, callbacks=[PowerCut()])
    left = RunFolder(run.path).history()
    resumed = run(resume=True, **SMALL)
    assert 0.8 * 54.7 < machine.now - machine.start < 54.9
    assert_same(resumed.history[: len(left)], left)
    assert resumed.history.last["phase"] == 3


def test_a_run_that_was_killed_in_the_first_epoch_of_large_images_goes_on_with_them(run, machine):
    machine.step, machine.image = 1.0, 0.006

    class PowerCut(keras.callbacks.Callback):
        """After it the machine has become slower, and so the small images were seen less often."""

        def on_epoch_end(self, epoch, logs=None):
            machine.step = 1.0 if epoch == 3 else machine.step

        def on_train_batch_end(self, batch, logs=None):
            layers = self.model.layers
            if layers[-1].name == "flower_classifier" and layers[-1].input_shape[1] == 64:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(**SMALL, callbacks=[PowerCut()])
    folder = RunFolder(run.path)
    before, left = folder.plan(), folder.history()
    assert (left.last["phase"], folder.fitted().rest.number) == (2, 3)
    resumed = run(**SMALL, resume=True)
    assert resumed.history[len(left)]["phase"] == 3
    assert resumed.plan.small_epochs == before.small_epochs
    assert resumed.plan.epochs > before.epochs  # in a time of its own


def test_small_epochs_that_are_given_on_resume_are_no_longer_the_runs_choice(run, machine):
    machine.step, machine.image = 1.0, 0.006
    run(**SMALL, callbacks=[StopAfterHead()])
    resumed = run(resume=True, **SMALL | {"small_epochs": 2.0})
    assert (resumed.plan.small_epochs, len(resumed.history.of_phase(2))) == (2.0, 2)
    assert "small_epochs" not in RunFolder(resumed.folder).fitted().reasons


def test_a_time_that_is_up_while_the_head_learns_ends_a_run_of_small_images(run, machine):
    class Sleep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            machine.spend(54.0)

    result = run(small_epochs=2.0, epochs=2, input_size=64, callbacks=[Sleep()])
    assert result.summary.stop_reason == "the time was up"
    assert {row["phase"] for row in result.history} == {1}


@pytest.mark.backends
def test_a_fitted_run_is_resumed_exactly(run, machine):
    machine.step = 2.0
    whole = run("whole")
    left = run("parts", callbacks=[StopAfter(5)])  # at the fourth it was fitted anew
    assert [row["phase"] for row in left.history] == [1, 1, 2, 2, 2]
    before = RunFolder(left.folder).fitted()
    resumed = run("parts", resume=True, max_minutes=None)
    assert_same(resumed.history, whole.history)
    assert RunFolder(resumed.folder).fitted() == before
    assert (resumed.plan.epochs, resumed.plan.max_lr) == (whole.plan.epochs, 7e-4)


@pytest.mark.parametrize("stop_after", [4, 5])
def test_a_run_that_is_resumed_with_a_time_of_its_own_uses_that(run, machine, stop_after):
    machine.step = 2.0
    left = run(callbacks=[StopAfter(stop_after)])
    resumed = run(resume=True)
    assert 0.85 * 54.7 < machine.now - machine.start < 54.7
    assert_same(resumed.history[:stop_after], left.history)
    rates = [row["planned_lr"] for row in resumed.history.of_phase(2)]
    assert max(rates) > 6e-4
    assert rates[-1] < 7e-4 / 3
    assert resumed.summary.stop_reason == "its time was used"


@pytest.mark.backends
def test_a_machine_that_slows_down_is_given_fewer_steps_and_ends_in_time(run, machine):
    class SlowDown(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            machine.step = 4.0 if epoch + 1 >= 5 else 1.0

    result = run(callbacks=[SlowDown()])
    assert machine.now - machine.start < 60 - 5.3
    network = result.history.of_phase(2)
    rest = RunFolder(result.folder).fitted().rest
    assert rest.first_epoch >= 5
    assert rest.start > 0
    assert rest.first_epoch + rest.epochs == len(result.history)
    assert network.last["planned_lr"] < 7e-4 / 3
    assert result.summary.stop_reason == "its time was used"


def test_a_machine_that_becomes_faster_is_given_more_epochs(run, machine):
    class SpeedUp(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            machine.step = 0.5 if epoch + 1 >= 4 else 3.0

    machine.step = 3.0
    planned = {}

    class Note(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            planned.setdefault("epochs", self.params["epochs"])

    result = run(callbacks=[SpeedUp(), Note()], freeze_epochs=0)
    assert len(result.history) > planned["epochs"]
    assert 0.85 * 54.7 < machine.now - machine.start < 54.7
    rates = [row["planned_lr"] for row in result.history]
    assert rates[-1] < max(rates) / 3


def test_epochs_that_are_given_are_the_most(run, machine):
    machine.step = 0.1
    result = run(epochs=3)
    assert [row["steps"] for row in result.history] == [3] * 5
    assert machine.now - machine.start < 10
    assert result.plan.epochs == 3


def test_a_clock_that_jumps_an_hour_ahead_ends_the_run_with_the_epochs_that_were_whole(
    run, machine
):
    class Jump(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (4, 0):
                machine.spend(3600.0)

    result = run(callbacks=[Jump()])
    assert result.summary.stop_reason == "the time was up"
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4]
    assert (result.folder / "model.keras").is_file()
    best = result.history.best
    assert result.predictions.score()["val_f1"] == pytest.approx(best["val_f1"], rel=1e-5)
    # With more time the run goes on.
    resumed = run(resume=True, epochs=3, max_minutes=None)
    assert len(resumed.history) > 4


def test_a_time_that_is_too_short_for_the_head_is_refused_before_training(run, tmp_path):
    with pytest.raises(
        ValueError, match=r"max_minutes=0\.05 is too short .*--max-minutes 0\.[1-5]"
    ):
        run(max_minutes=0.05)
    assert not (tmp_path / "run" / "history.csv").exists()


def test_a_callback_of_yours_stops_the_run_where_the_time_is_divided_anew_too(run, machine):
    class SlowDown(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            machine.step = 4.0 if epoch == 3 else 1.0

    result = run(callbacks=[SlowDown(), StopAfter(4)])
    assert len(result.history) == 4
    assert result.summary.stop_reason == "one of your callbacks stopped it"


def test_a_network_that_time_stops_in_its_first_epoch_leaves_the_head(run, machine):
    class Jump(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if len(self.model.inputs) == 2 and batch == 0:  # images and parameters
                machine.spend(3600.0)

    result = run(callbacks=[Jump()])
    assert result.summary.stop_reason == "the time was up"
    assert [row["phase"] for row in result.history] == [1, 1]
    best = result.history.best
    assert result.predictions.score()["val_f1"] == pytest.approx(best["val_f1"], rel=1e-5)


def test_a_step_that_needs_more_than_is_free_is_said_before_training(
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
        monkeypatch.setattr(fitting, "free_memory_bytes", lambda: free)
        asked = dataclasses.replace(plan, **changes)
        run = RunContext(drawn, asked, accelerator, RunFolder(tmp_path))
        run.classifier = model
        check_memory(run)
        return caplog.text

    assert not check(32)
    warning = r"WARNING .* it may end out of memory; pass"
    assert re.search(
        r"a step needs about .* 31 images of .* of decoded images", check(30, per_replica_batch=31)
    )
    assert re.search(rf"{warning} accumulate=2 \(--accumulate 2\), .* with 16 images", check(31))
    assert re.search(rf"{warning} accumulate=8 \(--accumulate 8\)", check(4, copies=4))
    assert re.search(rf"{warning} accumulate=16 .* with 2 images", check(3, mixup=0.4))
    assert re.search(rf"{warning} a smaller input_size \(--input-size\)", check(0))
    assert "WARNING" not in check(8, copies=4, accumulate=4)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(OSError, match=r"no room .* are needed, .* are free"):
        check(32)
