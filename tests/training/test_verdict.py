from dataclasses import replace

import numpy as np
import pytest

from flowerkit.prediction import Predictions
from flowerkit.training import History, SavedRun, judge
from flowerkit.training.verdict import chance_f1, find_level

FIVE = np.repeat(np.arange(5), 20)  # 100 val images
IN_TIME = {"stop_reason": "its time was used"}


@pytest.fixture
def make(finished_run):
    """A `SavedRun` of chosen predictions, epochs (dicts of what differs), plan and result."""
    like = SavedRun.load(finished_run.folder)

    def build(predicted=FIVE, rows=({},) * 10, *, labels=FIVE, counts=(80,) * 5, result=(), **plan):
        num_classes = len(counts)
        probabilities = np.eye(num_classes, dtype="float32")[np.asarray(predicted)]
        row = like.history[0] | {"accuracy": 0.5, "val_accuracy": 0.5, "val_f1": 0.5, "steps": 50.0}
        rows = [row | {"epoch": number} | each for number, each in enumerate(rows, 1)]
        data = replace(
            like.environment.data,
            class_names=tuple("abcdefghij"[:num_classes]),
            counts={"train": sum(counts), "val": len(labels), "test": 0},
            class_counts={"train": counts, "val": ()},
        )
        settings = {"weights": "imagenet", "epochs": len(rows), "patience": None} | plan
        return replace(
            like,
            plan=replace(like.plan, **settings),
            environment=replace(like.environment, data=data),
            history=History("val_f1", rows),
            result=replace(like.result, **dict(result)),
            predictions=Predictions(np.arange(len(labels)).astype(str), probabilities, labels),
        )

    return build


def spoil(num, labels=FIVE, classes=5):
    """The labels, with every num-th image taken for the next class."""
    predicted = labels.copy()
    predicted[::num] = (predicted[::num] + 1) % classes
    return predicted


def names(verdict):
    return [finding.name for finding in verdict.findings]


def test_chance_is_one_over_the_classes_that_occur():
    rng = np.random.default_rng(0)
    labels = rng.choice(5, 20_000, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    assert chance_f1(labels) == 0.2
    from flowerkit.metrics import macro_f1

    assert macro_f1(labels, rng.permutation(labels)) == pytest.approx(0.2, abs=0.01)
    assert macro_f1(labels, rng.integers(0, 5, 20_000)) < 0.19
    assert macro_f1(labels, np.zeros(20_000, int)) < 0.15


@pytest.mark.parametrize(
    ("score", "chance", "low", "level"),
    [
        (0.25, 0.2, 0.19, "chance"),
        (0.07, 0.2, 0.05, "chance"),  # everything is one class
        (0.27, 0.2, 0.21, "hardly"),
        (0.53, 0.5, 0.51, "hardly"),
        (0.09, 0.01, 0.07, "low"),  # nine times chance
        (0.51, 0.2, 0.45, "low"),
        (0.53, 0.2, 0.45, "fair"),
        (0.83, 0.2, 0.8, "fair"),
        (0.85, 0.2, 0.8, "good"),
        (1.0, 0.5, 0.97, "good"),
        (1.0, 1.0, 0.9, "chance"),  # val has one class only: nothing was shown
    ],
)
def test_the_level_is_read_off_the_way_from_chance_to_one(score, chance, low, level):
    assert find_level(score, chance, low) == level


def test_a_good_run_is_said_to_be_good_with_what_other_images_would_give(make):
    verdict = judge(make(spoil(20)))
    assert str(verdict) == (
        "macro F1 0.95 on val is good (chance: 0.20); on other images than these 100 it would be "
        "0.91 to 1.00"
    )
    assert (verdict.is_good, verdict.num_images) == (True, 100)
    assert judge(make()).headline.endswith("100 it would be 0.97 to 1.00")


def test_few_steps_near_chance_say_what_to_change(make):
    guesses = np.random.default_rng(3).permutation(FIVE)
    epochs = [{"steps": 4.0}] * 10
    verdict = judge(make(guesses, epochs, per_replica_batch=2))
    assert verdict.headline.startswith("macro F1 0.15 on val is no better than chance (0.20)")
    assert str(verdict.findings[0]) == (
        "40 training steps in all, 4 an epoch, are few: train longer (--epochs 63)"
    )


@pytest.mark.parametrize(
    ("plan", "options"),
    [
        ({"max_minutes": 2.0, "result": IN_TIME}, "--max-minutes 4"),
        ({"max_minutes": 480.0, "epochs": 10}, "--epochs 32"),  # done long before
        ({"patience": 3}, "--patience 6"),  # the first of ten equal epochs is the best
        ({"epochs": 10}, "--epochs 32"),
        ({"epochs": 0, "freeze_epochs": 10}, "--freeze-epochs 32"),
        ({"per_replica_batch": 64}, "--epochs 32 --per-replica-batch 32"),
    ],
)
def test_longer_is_what_ended_the_training(make, plan, options):
    steps = 16.0 if "per_replica_batch" in plan else 8.0
    epochs = [{"steps": steps / 2 if steps == 16 else steps}] * 10
    (finding,) = judge(make(spoil(2), epochs, **{"per_replica_batch": 1} | plan)).findings
    assert (finding.name, finding.options) == ("few steps", options)


def test_steps_on_smaller_images_are_steps_of_the_network_too(make):
    phases = (
        [{"phase": 1.0}] * 2 + [{"phase": 2.0, "steps": 40.0}] * 6 + [{"phase": 3.0, "steps": 20.0}]
    )
    resizing = {"freeze_epochs": 2, "small_epochs": 6, "schedule": "one-cycle", "epochs": 1}
    assert names(judge(make(spoil(2), phases, result=IN_TIME, max_minutes=2.0, **resizing))) == []
    fact = "220 training steps of the whole network, 40 an epoch, are few"
    found = judge(make(spoil(2), phases[:-2] + phases[-1:], **resizing)).findings
    assert fact in str(found[0])


def test_a_head_alone_is_told_from_a_network(make):
    verdict = judge(make(spoil(5), freeze_epochs=10, epochs=5, max_minutes=2.0, result=IN_TIME))
    assert str(verdict.findings[0]) == "the head alone learned: train longer (--max-minutes 4)"
    assert names(judge(make(spoil(5), freeze_epochs=10, epochs=0))) == []


def test_a_curve_that_still_rises_asks_for_more_epochs(make):
    rising = [{"val_f1": 0.1 * number} for number in range(1, 9)]
    (finding,) = judge(make(spoil(5), rising)).findings
    assert str(finding) == (
        "the score still rose in the last 2 epochs, by 0.20: train longer (--epochs 16)"
    )
    flat = [{"val_f1": value} for value in (0.5, 0.7, 0.79, 0.8, 0.81)]
    assert names(judge(make(spoil(5), flat))) == []


def test_overfitting_is_more_right_on_train_than_on_val(make):
    (finding,) = judge(make(spoil(5), [{"accuracy": 0.99, "val_accuracy": 0.71}] * 10)).findings
    assert finding.fact == "overfitted: 99% of the training images are right, 71% of val's"
    assert names(judge(make(spoil(5), [{"accuracy": 0.8, "val_accuracy": 0.71}] * 10))) == []
    few = np.repeat(np.arange(5), 4)  # of 20 images a fifth more or less is chance
    gap = [{"accuracy": 0.86, "val_accuracy": 0.7}] * 10
    assert names(judge(make(spoil(5, few), gap, labels=few))) == []


def test_classes_that_are_never_predicted_are_named(make):
    without = np.where(FIVE == 3, 2, FIVE)
    (finding,) = judge(make(without)).findings
    assert finding.fact == "1 of the 5 classes in val is never predicted: d"
    assert finding.changes == {}
    rare = judge(make(without, counts=(80, 80, 80, 20, 80)))
    assert rare.findings[0].options == "--class-weights balanced"
    balanced = judge(make(without, counts=(80, 80, 80, 20, 80), class_weights="balanced"))
    assert balanced.findings[0].changes == {}
    alone = judge(make(np.full(100, 1), max_lr=0.003))
    assert str(alone.findings[0]) == (
        "every image is predicted as 'b': try a lower rate (--max-lr 0.001)"
    )


def test_random_weights_and_few_photos_are_named_where_the_score_is_not_good(make):
    few = (12, 15, 15, 19, 300)
    assert names(judge(make(spoil(2), weights=None, counts=few))) == ["from scratch", "few photos"]
    verdict = judge(make(spoil(2), weights=None))
    assert str(verdict.findings[0]) == (
        "the network began with random weights, and 400 images are few for that: use a pretrained "
        "one (--plan fine-tune)"
    )
    verdict = judge(make(spoil(2), weights=None, schedule="one-cycle", plateau_patience=None))
    assert str(verdict.findings[0]).endswith("one (--backbone DenseNet121 --weights imagenet)")
    assert names(judge(make(spoil(2), weights=None, counts=(3000,) * 5))) == []
    assert names(judge(make(spoil(20), weights=None, counts=few))) == []


def test_a_run_that_failed_or_was_interrupted_says_so_first(make):
    failed = {"failed": True, "stop_reason": "the loss became nan in epoch 3"}
    verdict = judge(make(spoil(2), [{"steps": 4.0}] * 2, result=failed, max_lr=0.003))
    assert str(verdict.findings[0]) == (
        "not all of the plan was trained, because the loss became nan in epoch 3: train again at a "
        "lower rate (--max-lr 0.001)"
    )
    assert verdict.findings[0].in_python().endswith("train again at a lower rate (max_lr=0.001)")
    interrupted = {"interrupted": True, "stopped_at_epoch": 2}
    (finding,) = judge(make(spoil(2), [{"steps": 4.0}] * 2, result=interrupted)).findings
    assert "interrupted in epoch 3" in finding.fact
    assert "--resume" in str(finding)
    assert finding.in_python().endswith("continue it (resume=True)")


def test_the_weakest_classes_come_worst_first_and_never_all(make):
    weakest = judge(make(np.where((FIVE == 3) | (np.arange(100) == 0), 2, FIVE))).weakest
    assert [row["name"] for row in weakest] == ["d", "c"]
    assert judge(make()).weakest == ()


def test_a_loss_far_above_guessing_is_a_rate_too_high_and_nothing_else_is_advised(make):
    verdict = judge(make(spoil(3), [{"loss": 1.2}, {"loss": 4550.0}], max_lr=3.0))
    (found,) = verdict.findings
    assert (found.name, found.options) == ("diverged", "--max-lr 1")
    assert "4.55e+03, where guessing has 1.6" in found.fact
    assert "diverged" not in names(judge(make(spoil(3), [{"loss": 1.2}, {"loss": 4.8}])))
