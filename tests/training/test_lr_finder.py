import dataclasses
import functools
import json

import keras
import numpy as np
import pytest

from flowerkit.data import load_split
from flowerkit.models.classifier import build_classifier
from flowerkit.training import lr_finder as lr_search
from flowerkit.training.lr_finder import LRFinderResult, lr_find
from flowerkit.training.optimizers import copies_of
from flowerkit.training.phases import find_phase
from flowerkit.training.step import RunContext, TrainStep

STEPS = 20


@pytest.fixture
def classifier(accelerator):
    """Without dropout, so that a reference draws nothing."""
    keras.utils.set_random_seed(3)
    with accelerator.scope():
        return build_classifier(4, image_size=32, backbone="tiny", weights=None, dropout=0.0)


@pytest.fixture(scope="module")
def split(drawn):
    return load_split(drawn, "train")


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
def search(drawn, accelerator, split):
    """One whole search of a fresh classifier, far enough that it diverges, with its progress."""
    steps = []
    plan = lr_search.TrainingPlan(
        backbone="tiny", weights=None, per_replica_batch=16 // accelerator.replicas
    )
    found = lr_find(
        plan,
        drawn,
        accelerator=accelerator,
        split=split,
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


def make_step(plan, accelerator, classifier, split):
    run = RunContext(plan, accelerator, classifier, split, None, global_batch=16, num_steps=3)
    with accelerator.scope():
        return TrainStep.for_phase(run, find_phase(plan, None, global_batch=run.global_batch))


@pytest.mark.backends
def test_the_losses_are_those_of_single_steps_at_these_rates(
    quick_plan, drawn, accelerator, split, classifier
):
    """The reference: epochs of one step each, whose mean is the batch's loss, at a rate set between."""
    before = bytes_of(classifier.variables)
    rates = lr_search.spread_rates(1e-5, 1e-2, STEPS)
    found = lr_find(
        quick_plan,
        drawn,
        accelerator=accelerator,
        classifier=classifier,
        split=split,
        min_lr=1e-5,
        max_lr=1e-2,
        num_steps=STEPS,
    )
    assert bytes_of(classifier.variables) == before
    step = make_step(quick_plan, accelerator, classifier, split)
    history = step.model.fit(
        step.batches(first_epoch=0).for_keras(),
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


@pytest.mark.backends
@pytest.mark.replicas
def test_a_search_that_fails_in_the_middle_of_a_training_leaves_no_trace(
    quick_plan, drawn, accelerator, split, classifier
):
    def fail(description, done, total):
        if done == 3:
            raise KeyboardInterrupt

    step = make_step(quick_plan, accelerator, classifier, split)
    model = step.model
    model.fit(step.batches(first_epoch=0).for_keras(), steps_per_epoch=2, verbose=0, shuffle=False)
    held = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before, rate = bytes_of(held), model.optimizer.learning_rate
    with pytest.raises(KeyboardInterrupt):
        lr_find(
            quick_plan,
            drawn,
            accelerator=accelerator,
            classifier=classifier,
            split=split,
            min_lr=0.1,
            progress=fail,
        )
    assert bytes_of(held) == before
    assert model.optimizer.learning_rate is rate
    pixels = np.zeros((2, 32, 32, 3), "uint8")
    assert np.isfinite(keras.ops.convert_to_numpy(classifier(pixels))).all()


def test_a_loss_that_is_no_number_from_the_start_is_an_error(
    quick_plan, drawn, accelerator, split, classifier
):
    bias = classifier.get_layer("probabilities").bias
    bias.assign(np.full(bias.shape, np.nan, "float32"))
    with pytest.raises(ValueError, match="the loss is nan at the very first step, before any rate"):
        lr_find(quick_plan, drawn, accelerator=accelerator, classifier=classifier, split=split)
    assert np.isnan(keras.ops.convert_to_numpy(bias)).all()


def test_rates_that_are_too_high_from_the_start_leave_nothing_to_read(
    quick_plan, drawn, accelerator, split, classifier
):
    with pytest.raises(
        ValueError, match=r"the loss .* after \d+ of 100 steps: too few .*--min-rate; it was 100"
    ):
        lr_find(
            quick_plan,
            drawn,
            accelerator=accelerator,
            classifier=classifier,
            split=split,
            min_lr=100.0,
            max_lr=1e4,
        )


def test_a_frozen_phase_searches_the_rate_of_the_head(
    quick_plan, drawn, accelerator, split, classifier
):
    plan = dataclasses.replace(quick_plan, freeze_epochs=1, optimizer="sgd", lr_reference_batch=32)
    layers = list(classifier._flatten_layers())
    before = [layer.trainable for layer in layers]
    seen = []
    search = lr_find(
        plan,
        drawn,
        accelerator=accelerator,
        classifier=classifier,
        split=split,
        num_steps=STEPS,
        progress=lambda *_: seen.append(classifier.get_layer("backbone").trainable),
    )
    assert set(seen) == {False}
    assert [layer.trainable for layer in layers] == before
    assert search.field == "freeze_lr"
    assert search.scale == 0.5  # with sgd the rate goes with the batch


def test_the_heads_rate_is_searched_on_features(
    quick_plan, drawn, accelerator, split, classifier, tmp_path, monkeypatch
):
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path))
    before, steps = bytes_of(classifier.variables), []
    found = lr_find(
        dataclasses.replace(quick_plan, epochs=0, freeze_epochs=2, schedule="constant"),
        drawn,
        min_lr=1e-4,
        max_lr=1e-2,
        num_steps=STEPS,
        accelerator=accelerator,
        classifier=classifier,
        split=split,
        progress=lambda *step: steps.append(step[0]),
    )
    assert bytes_of(classifier.variables) == before
    assert found.smoothed[-1] < found.smoothed[0]
    assert (found.field, found.scale) == ("freeze_lr", 1.0)
    assert set(steps) == {"range test", "features of train"}


def test_the_networks_rate_is_searched_in_a_plan_with_frozen_epochs(
    quick_plan, drawn, accelerator, split, classifier
):
    plan = dataclasses.replace(quick_plan, epochs=0, freeze_epochs=3)
    find = functools.partial(
        lr_find, plan, drawn, accelerator=accelerator, classifier=classifier, split=split
    )
    assert find(phase="whole", num_steps=STEPS).field == "max_lr"
    with pytest.raises(ValueError, match="Received: phase='hole'. Did you mean 'whole'"):
        find(phase="hole")


def test_rates_are_spread_by_a_constant_factor():
    rates = lr_search.spread_rates(1e-6, 1.0, 61)
    assert rates[0] == 1e-6
    assert rates[30] == 1e-3
    assert rates[-1] == 1.0
    assert np.diff(np.log10(rates)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("min_lr", "max_lr"), [(0, 1), (-1, 1), (1, 1), (2, 1), (1, np.inf), (np.nan, 1)]
)
def test_rates_out_of_order_are_refused(min_lr, max_lr):
    with pytest.raises(ValueError, match="the rates must climb from above 0. Received: min_lr="):
        lr_search.spread_rates(min_lr, max_lr, 100)


def test_a_handful_of_steps_is_refused():
    with pytest.raises(ValueError, match=r"\(--steps\) is 19; a curve that can be read needs 20"):
        lr_search.spread_rates(1e-6, 1, 19)


def test_the_smoothed_loss_is_right_from_the_first_step():
    assert lr_search.smooth_losses([3.0] * 5) == pytest.approx([3.0] * 5)
    assert lr_search.smooth_losses([4.0, 2.0])[1] == pytest.approx((0.98 * 4 + 2) / 1.98)
    assert lr_search.smooth_losses([]).shape == (0,)


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
    assert lr_search.find_valley(RATES, np.array(smoothed, "float64")) == pytest.approx(rate)


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
        assert lr_search.find_valley(rates, losses + noise) == valley_as_fastai_writes_it(
            rates, losses + noise
        )


def test_a_flat_curve_is_warned_about(quick_plan, drawn, accelerator, split, classifier, caplog):
    lr_find(
        quick_plan,
        drawn,
        accelerator=accelerator,
        classifier=classifier,
        split=split,
        min_lr=1e-9,
        max_lr=1e-8,
        num_steps=STEPS,
    )
    assert "so the suggestion says little" in caplog.text
