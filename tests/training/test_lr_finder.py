import dataclasses
import functools
import json

import keras
import numpy as np
import pytest

from flowerkit.data import load_split
from flowerkit.training import lr_finder
from flowerkit.training.lr_finder import (
    LRFinderResult,
    find_rate,
    lr_find,
    smooth_losses,
    spread_rates,
    sweep,
    unchanged,
)
from flowerkit.training.optimizers import copies_of
from flowerkit.training.step import RunContext, TrainStep

STEPS = 20


@pytest.fixture
def find(quick_plan, drawn, accelerator):
    """Search with changes of the plan: find(changes, min_lr=..., ...); without dropout."""

    def find_rate(changes=None, **options):
        plan = dataclasses.replace(quick_plan, **{"dropout": 0.0} | (changes or {}))
        options = {"num_steps": STEPS} | options
        return lr_find(drawn, plan, accelerator=accelerator, **options)

    return find_rate


@pytest.fixture
def make_step(quick_plan, drawn, accelerator):
    """The run and the step that `find` searches with."""

    def make(is_frozen=False, **changes):
        plan = dataclasses.replace(quick_plan, **{"dropout": 0.0} | changes)
        run = RunContext(drawn, plan, accelerator)
        run.build()
        run.train = load_split(drawn, "train")
        with accelerator.scope():
            return run, TrainStep.for_phase(run, is_frozen)

    return make


def bytes_of(variables):
    """Every copy on every replica."""
    copies = [copy for variable in variables for copy in copies_of(variable)]
    return [keras.ops.convert_to_numpy(copy).tobytes() for copy in copies]


def found(**changes):
    curve = np.array([4.0, 3.0, 2.0])
    search = LRFinderResult(curve, curve, curve, 0.002, "the loss diverged", 32, "max_lr", 0.5, 7.4)
    return dataclasses.replace(search, **changes)


def test_a_suggestion_is_a_change_of_the_plan_at_the_plans_own_batch(quick_plan):
    assert found().for_plan() == {"max_lr": 0.004}  # at this batch it is halved
    assert found(scale=1.0, field="freeze_lr").for_plan() == {"freeze_lr": 0.002}
    assert dataclasses.replace(quick_plan, **found().for_plan()).max_lr == 0.004


def test_a_search_prints_and_goes_into_json():
    assert "max_lr 0.004 (at this batch 0.002)" in str(found())
    assert "at this batch" not in str(found(scale=1.0))
    values = found().to_dict()
    assert values["rates"] == [4.0, 3.0, 2.0]
    assert values["for_plan"] == {"max_lr": 0.004}
    assert json.loads(json.dumps(values))["seconds"] == 7.4


@pytest.fixture(scope="module")
def search(drawn, accelerator, quick_plan):
    """One whole search of a fresh classifier, far enough that it diverges, with its progress."""
    steps = []
    plan = dataclasses.replace(quick_plan, lr_reference_batch=128)
    found = lr_find(
        drawn,
        plan,
        accelerator=accelerator,
        min_lr=1e-5,
        max_lr=1e3,
        num_steps=40,
        progress=lambda *step: steps.append(step),
    )
    return found, steps


def test_a_search_ends_when_the_loss_diverges(search):
    found, steps = search
    assert found.stop_reason.startswith("the loss diverged at a rate of ")
    assert 15 < len(found.rates) == len(found.losses) == len(found.smoothed) < 40
    assert found.smoothed[-1] > 4 * found.smoothed.min()
    assert not (found.smoothed[:-1] > 4 * np.minimum.accumulate(found.smoothed[:-1])).any()
    assert steps[0] == ("range test", 1, 40)
    assert len(found.losses) <= len(steps) <= len(found.losses) + 2


def test_the_suggestion_of_a_real_search_lies_where_it_learns(search):
    found, _ = search
    assert 1e-5 <= found.suggestion < 1
    assert found.global_batch == 16
    assert found.field == "max_lr"
    assert found.scale == pytest.approx((16 / 128) ** 0.5)


@pytest.mark.backends
def test_the_losses_are_those_of_single_steps_at_these_rates(find, make_step):
    """The reference: epochs of one step each, whose mean is the batch's loss, at a rate set between."""
    rates = spread_rates(1e-5, 1e-2, STEPS)
    found = find(min_lr=1e-5, max_lr=1e-2)
    _, step = make_step()
    history = step.model.fit(
        step.batches(0).for_keras(),
        epochs=STEPS,
        steps_per_epoch=1,
        verbose=0,
        shuffle=False,
        callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch, _: rates[epoch])],
    )
    assert found.rates.tolist() == rates
    assert found.losses == pytest.approx(history.history["loss"], rel=1e-3)
    assert found.losses[0] == pytest.approx(history.history["loss"][0], rel=1e-6)
    assert found.stop_reason == "the highest rate was reached"
    # Of a fifth of fastai's 100 steps, over a fifth as many.
    assert found.smoothed == pytest.approx(smooth_losses(found.losses, 0.9))


def held_by(model):
    return [*model.variables, *model.optimizer.variables]


@pytest.mark.backends
@pytest.mark.replicas
@pytest.mark.parametrize("is_frozen", [False, True])
def test_what_a_block_changes_comes_back_to_the_bit(make_step, is_frozen):
    """Weights, statistics, averages, the optimizer's slots and count, and the state of dropout."""
    _, step = make_step(is_frozen, ema=0.9, dropout=0.5, freeze_epochs=1, freeze_lr=0.1)
    train = functools.partial(step.train, lambda epoch, done: 0.1, [], steps=3)
    train()  # so that nothing is at its beginning
    before = bytes_of(held_by(step.model))
    with unchanged(step.model):
        train()
        changed = bytes_of(held_by(step.model))
    assert bytes_of(held_by(step.model)) == before != changed
    train()
    assert bytes_of(held_by(step.model)) == changed


@pytest.mark.backends
@pytest.mark.replicas
def test_a_search_that_fails_in_the_middle_of_a_training_leaves_no_trace(make_step):
    def fail(description, done, total):
        if done == 3:
            raise KeyboardInterrupt

    run, step = make_step()
    step.train(lambda epoch, done: 1e-3, [], steps=2)
    before, rate = bytes_of(held_by(step.model)), step.model.optimizer.learning_rate
    run.progress = fail
    with pytest.raises(KeyboardInterrupt), unchanged(step.model):
        sweep(step, spread_rates(0.1, 1.0, STEPS))
    assert bytes_of(held_by(step.model)) == before
    assert step.model.optimizer.learning_rate is rate
    pixels = np.zeros((2, 32, 32, 3), "uint8")
    assert np.isfinite(keras.ops.convert_to_numpy(run.classifier(pixels))).all()


def test_a_loss_that_is_no_number_from_the_start_is_an_error(make_step):
    run, step = make_step()
    bias = run.classifier.get_layer("probabilities").bias
    bias.assign(np.full(bias.shape, np.nan, "float32"))
    rates = spread_rates(1e-6, 1.0, STEPS)
    with pytest.raises(ValueError, match="the loss is nan at the very first step, before any rate"):
        find_rate(sweep(step, rates), rates)
    assert np.isnan(keras.ops.convert_to_numpy(bias)).all()


def test_rates_that_are_too_high_from_the_start_leave_nothing_to_read(find):
    with pytest.raises(
        ValueError, match=r"the loss .* after \d+ of 100 steps: too few .*--min-rate; it was 100"
    ):
        find(min_lr=100.0, max_lr=1e4, num_steps=100)


def test_the_first_phase_of_a_plan_with_frozen_epochs_is_the_heads_on_features(
    find, tmp_path, monkeypatch
):
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path))
    steps = []
    found = find(
        {"freeze_epochs": 1, "freeze_flip": True, "optimizer": "sgd", "lr_reference_batch": 32},
        min_lr=1e-3,
        max_lr=1.0,
        progress=lambda *step: steps.append(step[0]),
    )
    assert found.smoothed[-1] < found.smoothed[0]
    assert found.field == "freeze_lr"
    assert found.scale == 0.5  # with sgd the rate goes with the batch
    assert set(steps) == {"range test", "features of train", "features of train, mirrored"}


def test_the_rate_of_a_network_that_begins_on_small_images_is_searched_on_them(find, monkeypatch):
    seen = []

    def sweep_none(step, rates):
        seen.append(step.judged.get_layer("backbone").input_shape[1])
        raise InterruptedError

    monkeypatch.setattr(lr_finder, "sweep", sweep_none)
    resizing = {"freeze_epochs": 1, "schedule": "one-cycle", "input_size": 64}
    for epochs in (0, 2):
        with pytest.raises(InterruptedError):
            find(resizing | {"small_epochs": epochs}, phase="whole")
    assert seen == [64, 32]


def test_the_networks_rate_is_searched_in_a_plan_of_the_head_alone(find):
    probe = {"epochs": 0, "freeze_epochs": 3}
    found = find(probe, phase="whole")
    assert (found.field, found.scale) == ("max_lr", 1.0)
    with pytest.raises(ValueError, match="Received: phase='hole'. Did you mean 'whole'"):
        find(probe, phase="hole")


def test_a_plan_with_fields_that_are_auto_is_settled_as_in_training(drawn, accelerator):
    plan = lr_finder.TrainingPlan(backbone="tiny", weights=None)
    found = lr_find(drawn, plan, accelerator=accelerator, num_steps=STEPS)
    assert found.global_batch == 8  # 50 images
    assert found.scale == 0.5  # of a rate for 32
    assert found.field == "max_lr"


def test_rates_are_spread_by_a_constant_factor():
    rates = spread_rates(1e-6, 1.0, 61)
    assert rates[0] == 1e-6
    assert rates[30] == 1e-3
    assert rates[-1] == 1.0
    assert np.diff(np.log10(rates)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("min_lr", "max_lr"), [(0, 1), (-1, 1), (1, 1), (2, 1), (1, np.inf), (np.nan, 1)]
)
def test_rates_out_of_order_are_refused(min_lr, max_lr):
    with pytest.raises(ValueError, match="the rates must climb from above 0. Received: min_lr="):
        spread_rates(min_lr, max_lr, 100)


def test_a_handful_of_steps_is_refused():
    with pytest.raises(ValueError, match=r"\(--steps\) is 19; a curve that can be read needs 20"):
        spread_rates(1e-6, 1, 19)


def test_the_smoothed_loss_is_right_from_the_first_step():
    assert smooth_losses([3.0] * 5, 0.98) == pytest.approx([3.0] * 5)
    assert smooth_losses([4.0, 2.0], 0.98)[1] == pytest.approx((0.98 * 4 + 2) / 1.98)
    assert smooth_losses([], 0.98).shape == (0,)


RATES = 10.0 ** np.arange(-6, 3)


@pytest.mark.parametrize(
    ("smoothed", "rate"),
    [
        # Seven losses that fall end at the 2; with six, a bump between them, it begins a step later.
        ([9, 8, 7, 6, 4, 3, 2, 5, 9], 1e-4),
        ([9, 8, 8.5, 7, 6, 3, 2, 5, 9], 1e-3),
        # Nothing but a fall, and nothing but a rise.
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 1e-3),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 1e-6),
    ],
)
def test_the_valley_is_read_half_way_down(smoothed, rate):
    assert lr_finder.find_valley(RATES, np.array(smoothed, "float64")) == pytest.approx(rate)


def valley_as_fastai_writes_it(rates, losses):
    """The published loop over all pairs, to compare with."""
    longest, start, end = [1] * len(losses), 0, 0
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and longest[i] < longest[j] + 1:
                longest[i] = longest[j] + 1
            if longest[end] < longest[i]:
                end, start = i, i - longest[i]
    sections = (end - start) / 3
    return rates[max(0, start + int(sections) + int(sections / 2))]


def test_the_valley_is_that_of_fastai_on_noisy_curves():
    rates = np.geomspace(1e-7, 10, 85)
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 0.3, 85)
        losses = np.concatenate(
            [np.linspace(4, 3, 40), np.linspace(3, 1, 30), np.linspace(1, 8, 15)]
        )
        assert lr_finder.find_valley(rates, losses + noise) == valley_as_fastai_writes_it(
            rates, losses + noise
        )


def test_a_flat_curve_is_warned_about(find, caplog):
    find(min_lr=1e-9, max_lr=1e-8, num_steps=100)
    assert "so the suggestion says little" in caplog.text
