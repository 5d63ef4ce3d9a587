"""A real contest of two small dense networks on drawn flowers: two folds, an epoch each."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowerkit.data import load_split
from flowerkit.deploy import ClassifierPage, LabelReview, export_model, load_classifier
from flowerkit.experiments import contest as contest_module
from flowerkit.experiments import entries as entries_module
from flowerkit.experiments import make_folds, run_contest
from flowerkit.metrics import macro_f1
from flowerkit.models import build_classifier
from flowerkit.photos import TEST_LABELS
from flowerkit.photos.conversion_file import Conversion
from flowerkit.prediction import Predictions, blend
from flowerkit.reports import write_report
from flowerkit.submission import check_predictions, check_submission, read_labels, write_submission
from flowerkit.training import Pace, RunFolder, TrainingPlan

BACKBONES = ("dense-small", "dense-small-bn")


@pytest.fixture(scope="module")
def plan(dense_plan):
    return replace(dense_plan, max_lr=1e-3, max_minutes=60)


@pytest.fixture(scope="module")
def data(drawn, tmp_path_factory):
    """`drawn` with known labels of test, invented ones."""
    folder = tmp_path_factory.mktemp("labelled") / "flowers"
    shutil.copytree(drawn.folder, folder)
    ids = load_split(drawn, "test").ids
    write_submission(folder / TEST_LABELS, ids, np.arange(len(ids)) % 4)
    files = {
        split: tuple(folder / file.relative_to(drawn.folder) for file in files)
        for split, files in drawn.files.items()
    }
    return replace(drawn, folder=folder, files=files)


@pytest.fixture(scope="module")
def contest(data, plan, accelerator, tmp_path_factory):
    out = tmp_path_factory.mktemp("contest") / "c"
    return run_contest(data, plan, out=out, backbones=BACKBONES, folds=2, accelerator=accelerator)


def run(data, plan, contest, accelerator, **options):
    options = {"out": contest.folder, "backbones": BACKBONES, "folds": 2} | options
    return run_contest(data, plan, accelerator=accelerator, **options)


def test_each_network_has_its_folds_and_the_winner_a_run_on_everything(contest, data):
    folds = [f"{name}-fold{number}" for name in BACKBONES for number in (1, 2)]
    runs = sorted(path.name for path in contest.folder.iterdir() if path.is_dir())
    assert runs == sorted([*folds, f"{contest.winner}-all"])
    last = RunFolder(contest.folder / f"{contest.winner}-all")
    assert last.environment().data.counts == {"train": 68, "val": 0, "test": 22}
    assert last.plan().monitor == "epoch"
    assert last.plan().epochs == 1  # of the folds' best
    assert last.result().val_f1 is None
    for name in runs:
        csv = contest.folder / name / "submission.csv"
        ids = load_split(data, "test").ids.tolist()
        assert check_submission(csv, ids, 4, data.csv_labels) == []


@pytest.mark.backends
@pytest.mark.replicas
def test_out_of_fold_each_image_is_predicted_once_by_a_run_that_has_not_learned_it(contest):
    runs = [RunFolder(contest.folder / f"{contest.winner}-fold{number}") for number in (1, 2)]
    parts = [run.val_predictions() for run in runs]
    assert sorted(contest.out_of_fold.ids.tolist()) == sorted(
        [name for part in parts for name in part.ids.tolist()]
    )
    assert len(set(contest.out_of_fold.ids.tolist())) == 68
    true = np.concatenate([part.labels for part in parts])
    predicted = np.concatenate([part.predicted for part in parts])
    step = next(s for s in contest.steps if s.name == contest.winner)
    assert step.macro_f1 == pytest.approx(macro_f1(true, predicted))
    assert (step.num_images, step.interval) == (68, None)


@pytest.mark.backends
@pytest.mark.replicas
def test_the_csv_is_the_weighted_mean_of_the_runs(contest, data):
    def load(name, *parts):
        files = [contest.folder / f"{name}-{part}" / "test_predictions.npz" for part in parts]
        return blend([Predictions.load(file) for file in files])

    parts = {name: ["fold1", "fold2", *["all"] * (name == contest.winner)] for name in BACKBONES}
    expected = blend([load(n, *parts[n]) for n in BACKBONES], list(contest.weights.values()))
    np.testing.assert_allclose(contest.predictions.probabilities, expected.probabilities)
    labels = read_labels(contest.folder / "submission.csv", data.csv_labels)
    assert [labels[name] for name in expected.ids.tolist()] == expected.predicted.tolist()
    assert contest.problems == []
    assert sum(contest.weights.values()) == pytest.approx(1)


def test_the_page_tells_what_each_step_brought(contest):
    names = [(step.on, step.name) for step in contest.steps]
    assert names == [
        ("out of fold", "dense-small"),
        ("out of fold", "dense-small-bn"),
        ("out of fold", "the blend"),
        ("test", f"{contest.winner}: a fold alone, on average"),
        ("test", "the folds averaged"),
        ("test", "once more on everything, alone"),
        ("test", "both averaged"),
        ("test", "the blend"),
    ]
    page = contest.page.read_text(encoding="utf-8")
    for step in contest.steps:
        assert f"{step.macro_f1:.4f}" in page
        assert step.name in page
    assert "are not known here" not in page


@pytest.mark.parametrize("part", ["fold2", "all"])
def test_a_run_of_a_contest_is_used_with_its_photos_as_any_other(contest, part, tmp_path):
    """Its shards hold the photos of other folds, too; the run on everything has no val."""
    run = RunFolder(contest.folder / f"{contest.winner}-{part}")
    train, val = run.split("train"), run.split("val")
    assert (len(train), len(val)) == {"fold2": (34, 34), "all": (68, 0)}[part]
    assert sorted(val.ids.tolist()) == sorted(run.val_predictions().ids.tolist())
    classifier = load_classifier(run.path)
    page = ClassifierPage(classifier, similar=2)
    assert len(page.examples) == min(6, len(val))
    (found,) = classifier.predict(train.images[3], similar=1)
    np.testing.assert_array_equal(found.similar[0].pixels, train.images[3])
    assert len(LabelReview(run, tmp_path / "d.csv").doubts) == 68
    export = export_model(run.path, tmp_path / "m.keras", "keras")
    assert bool(export.card.val_certainty) == (part == "fold2")
    no_threshold = "no photo is of none of these classes, for which 19 val photos"
    assert (no_threshold in str(classifier)) == (part == "all")


def test_the_last_fold_is_there_to_look_at_whether_this_call_trained_it_or_not(
    contest, data, plan, accelerator
):
    again = run(data, plan, contest, accelerator).run
    assert again.folder == contest.run.folder == contest.folder / "dense-small-bn-fold2"
    assert again.summary == contest.run.summary
    assert str(again) == str(contest.run)
    np.testing.assert_array_equal(again.val_images[:], contest.run.val_images[:])
    np.testing.assert_array_equal(again.predictions.ids, contest.run.predictions.ids)
    np.testing.assert_array_equal(again.model.get_weights()[0], contest.run.model.get_weights()[0])


@pytest.mark.backends
def test_what_is_finished_is_not_trained_again_and_a_run_that_was_cut_off_is(
    contest, data, plan, accelerator, tmp_path
):
    """Of a copy, where one run is killed before its csv, another before its first epoch's end."""
    out = tmp_path / "c"
    shutil.copytree(contest.folder, out)
    (out / "dense-small-fold1" / "submission.csv").unlink()
    shutil.rmtree(out / "dense-small-bn-fold2")
    kept = [*out.glob("*/model.keras"), *out.glob("*/history.csv")]
    before = {file: file.stat().st_mtime_ns for file in kept}
    again = run(data, plan, contest, accelerator, out=out)
    assert {file: file.stat().st_mtime_ns for file in kept} == before
    assert again.weights == contest.weights
    probabilities = contest.predictions.probabilities
    np.testing.assert_allclose(again.predictions.probabilities, probabilities, atol=1e-5)


def test_another_plan_or_other_data_are_refused(contest, data, plan, accelerator):
    other = replace(plan, dropout=0.5)
    with pytest.raises(ValueError, match=r"another plan: dropout 0.0 and 0.5\..*--out"):
        run(data, other, contest, accelerator)
    with pytest.raises(ValueError, match="another plan: folds 2 and 3"):
        run(data, plan, contest, accelerator, folds=3)
    fewer = replace(data, files={**data.files, "val": ()}, counts={**data.counts, "val": 0})
    with pytest.raises(ValueError, match=r"other images, labels or ids in train and val\..*--out"):
        run(fewer, plan, contest, accelerator)
    renamed = replace(data, class_names=("tulip", *data.class_names[1:]))
    with pytest.raises(ValueError, match=rf"class 0 is '{data.class_names[0]}' and 'tulip'.*--out"):
        run(renamed, plan, contest, accelerator)


def damage(folder, file, other):
    if file is None:
        shutil.rmtree(folder)
        shutil.copytree(folder.with_name(other), folder)
    elif other is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes((folder / file).read_bytes()[:other])


@pytest.mark.parametrize(
    ("file", "other", "reason"),
    [
        ("plan.json", None, "no plan.json"),
        ("environment.json", 200, "environment.json is not JSON"),
        ("history.csv", None, "history.csv is damaged"),
        ("result.json", 20, "result.json is not JSON"),
        ("val_predictions.npz", 100, "val_predictions.npz holds no predictions"),
        ("test_predictions.npz", 100, "test_predictions.npz holds no predictions"),
        (None, "dense-small-fold1", "holds a run of another fold"),
    ],
)
def test_a_damaged_fold_is_named_before_anything_is_trained_and_its_removal_mends_it(
    file, other, reason, contest, data, plan, accelerator, tmp_path
):
    out, fold = tmp_path / "c", tmp_path / "c" / "dense-small-fold2"
    shutil.copytree(contest.folder, out)
    damage(fold, file, other)
    shutil.rmtree(out / "dense-small-bn-fold1")
    with pytest.raises(ValueError, match=rf"{reason}.*remove the folder {fold}, and the same"):
        run(data, plan, contest, accelerator, out=out)
    assert not (out / "dense-small-bn-fold1").exists()


def test_a_contest_that_goes_on_without_time_names_its_own_limit(
    contest, data, plan, accelerator, tmp_path
):
    shutil.copy(contest.folder / "contest.json", tmp_path)
    with pytest.raises(
        ValueError, match=r"max_minutes=0\.0001 .*first fold of dense-small .*Pass more"
    ):
        run(data, replace(plan, max_minutes=1e-4), contest, accelerator, out=tmp_path)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"max_minutes": None}, {}, "--max-minutes 480"),
        (
            {"max_minutes": 1e-3},
            {},
            r"Add at least [\d.]+ \(--max-minutes\), or pass fewer folds \(--folds\)",
        ),
        ({}, {"folds": 30}, r"30 folds need 30 different pictures of each class.*--folds \d+"),
        ({}, {"folds": "2"}, r"whole number from 2\..*folds='2'"),
        ({}, {"backbones": ["dense-small@big"]}, "'dense-small@big' is neither"),
        ({}, {"backbones": ["dense-small", "Dense-small"]}, "must differ"),
        ({}, {"backbones": []}, "one backbone or more"),
        ({}, {"backbones": ["dense-smal"]}, "Did you mean 'dense-small'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_the_first_run(
    changes, options, message, data, plan, accelerator, tmp_path
):
    options = {"folds": 2, "out": tmp_path / "c", "accelerator": accelerator} | options
    with pytest.raises(ValueError, match=message):
        run_contest(data, replace(plan, **changes), **options)
    assert not list(tmp_path.glob("c/*/plan.json"))


@pytest.mark.parametrize("file", ["", "model.keras", "checkpoints/best-0001-abc.weights.h5"])
def test_a_run_on_the_same_images_is_no_start_for_a_contest(
    file, contest, data, plan, accelerator, tmp_path
):
    start = replace(plan, weights=str(contest.folder / "dense-small-fold1" / file))
    with pytest.raises(ValueError, match="may have learned.*--weights none"):
        run_contest(data, start, out=tmp_path / "c", accelerator=accelerator)


@pytest.mark.parametrize(
    ("backbones", "names"),
    [
        ([Path("nets/a.keras"), "nets/b.keras@32"], ["a", "b-32"]),
        (
            ["hub:hf://timm/resnet50.a1_in1k", "hub:hf://timm/resnet50.tv_in1k@64"],
            ["hub-hf-timm-resnet50.a1_in1k", "hub-hf-timm-resnet50.tv_in1k-64"],
        ),
        ("dense-small", ["dense-small"]),
    ],
)
def test_each_network_has_folders_of_its_own(backbones, names, plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / "nets").mkdir(exist_ok=True)
        build_classifier(4, image_size=32, backbone="tiny", weights=None).save(f"nets/{name}.keras")
    plans = entries_module.list_plans(plan, backbones)
    assert list(plans) == names
    assert [each.backbone for each in plans.values()] == [
        str(each).partition("@")[0]
        for each in ([backbones] * isinstance(backbones, str) or backbones)
    ]
    (tmp_path / "other").mkdir()
    shutil.copy("nets/a.keras", "other/a.keras")
    with pytest.raises(
        ValueError, match=r"other/a\.keras would have those of another, a\..*rename"
    ):
        entries_module.list_plans(plan, ["nets/a.keras", "other/a.keras"])


def test_more_networks_join_one_of_keras_applications_alone():
    fine_tune = TrainingPlan(max_minutes=60)
    assert list(entries_module.list_plans(fine_tune, None)) == [
        "DenseNet121",
        "EfficientNetV2S",
        "ConvNeXtSmall",
    ]
    for alone in (
        replace(fine_tune, backbone="hub:dinov2_base"),
        replace(fine_tune, weights=None),
        replace(fine_tune, backbone="tiny", weights=None),
    ):
        assert len(entries_module.list_plans(alone, None)) == 1


def test_known_labels_of_no_test_image_are_no_score_and_impossible_ones_are_refused(
    data, plan, contest, accelerator, tmp_path
):
    folder = tmp_path / "flowers"
    shutil.copytree(data.folder, folder)
    write_submission(folder / TEST_LABELS, ["elsewhere"], [0])
    (tmp_path / "c").mkdir()
    shutil.copytree(contest.folder, tmp_path / "c", dirs_exist_ok=True)
    files = {
        split: tuple(folder / file.relative_to(data.folder) for file in files)
        for split, files in data.files.items()
    }
    moved = replace(data, folder=folder, files=files)
    found = run(moved, plan, contest, accelerator, out=tmp_path / "c")
    assert {step.on for step in found.steps} == {"out of fold"}
    write_submission(folder / TEST_LABELS, ["elsewhere"], [4])
    with pytest.raises(ValueError, match=rf"{TEST_LABELS}: the label 4 of 'elsewhere' .*0\.\.3"):
        run(moved, plan, contest, accelerator, out=tmp_path / "c")


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("data", "flowers", r"find_data\('flowers'\)"),
        ("plan", "contest", "plan must be a TrainingPlan"),
    ],
)
def test_names_instead_of_data_and_plan_are_refused(argument, value, message, data, plan, tmp_path):
    given = {"data": data, "plan": plan} | {argument: value}
    with pytest.raises(ValueError, match=message):
        run_contest(**given, out=tmp_path / "c")


@pytest.mark.backends
def test_ctrl_c_ends_the_contest_and_keeps_the_csv(data, plan, accelerator, tmp_path):
    """In the second of its runs, on a folder of photos, whose csv has names."""
    photos = tmp_path / "photos"
    names = (TEST_LABELS, "sample_submission.csv")
    shutil.copytree(data.folder, photos, ignore=lambda _, found: set(found).difference(names))
    counts = {name: {"train": 1} for name in data.class_names}
    made = ("photos", 32, "crop", 0.2, 0.1, 0, 95, data.class_names, counts, 0, {}, {}, [], [], 1.0)
    Conversion(*made).save(photos)
    first = tmp_path / "dense-small-fold1"

    def interrupt(label, done, total):
        if (first / "predictions.csv").is_file() and "epoch" in label:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RuntimeError, match="interrupted"):
        run_contest(
            replace(data, folder=photos),
            plan,
            out=tmp_path,
            backbones=["dense-small"],
            folds=2,
            accelerator=accelerator,
            progress=interrupt,
        )
    ids = load_split(data, "test").ids.tolist()
    assert check_predictions(tmp_path / "predictions.csv", ids, data.class_names) == []
    assert not list(tmp_path.glob("**/submission.csv"))
    report = write_report(first).read_text(encoding="utf-8")
    assert "predictions.csv is well formed:</b> 22 rows, names of classes" in report


def test_as_many_networks_take_part_as_leave_each_run_its_epochs(
    data, plan, accelerator, tmp_path, monkeypatch, caplog
):
    """An epoch of a fold, 34 images, takes about 24 s of the slow network and 0.2 s of the others."""
    paces = {"slow": Pace(32, 0.1, 1.0)}
    monkeypatch.setattr(
        entries_module,
        "measure_pace",
        lambda plan, *_: paces.get(plan.backbone, Pace(32, 0.001, 1.0)),
    )
    folds = make_folds(data, 2)
    plans = {name: replace(plan, backbone=name) for name in ("first", "slow", "third")}
    start = entries_module.time.monotonic()
    with caplog.at_level("INFO", "flowerkit"):
        entries = entries_module.choose_entries(
            plans, folds, accelerator, start + 60, must_build=True
        )
    assert [entry.name for entry in entries] == ["first", "third"]
    assert "slow is left out" in caplog.text
    assert "first at 32 px: 2 folds of 34 images" in caplog.text


@pytest.mark.parametrize(
    ("best", "small_epochs", "epochs", "size"),
    [
        ([(0, 0.0), (0, 2.0), (0, 0.0)], 0, 0.0, 224),
        ([(0, 0.0), (0, 1.75)], 0, 1.75, 224),
        ([(0, 12.0), (0, 9.0), (0, 11.0)], 0, 11.0, 224),
        ([(6.0, 2.0), (6.0, 0.5), (5.0, 2.0)], 5.0, 2.0, 224),
        ([(6.0, 0.0), (6.0, 1.0), (0.0, 0.0)], 0, 6.0, 128),  # small images alone were best
    ],
)
def test_the_run_on_everything_has_the_epochs_of_the_middle_fold(
    best, small_epochs, epochs, size, data, plan, tmp_path, monkeypatch
):
    """Between a head that was best alone and the end of a cycle nothing is good, so it is no mean."""
    left = iter(best)
    monkeypatch.setattr(contest_module, "_count_best_epochs", lambda folder: next(left))
    entry = entries_module.Entry("dense-small", Pace(None, 0.001, 1.0))
    running = contest_module._Running(
        tmp_path, make_folds(data, len(best)), {}, [entry], None, 0.0, None
    )
    changes = {"freeze_epochs": 2, "input_size": 224, "schedule": "one-cycle"}
    last = running._fix_epochs(replace(plan, **changes), entry)
    assert (last.small_epochs, last.epochs, last.input_size) == (small_epochs, epochs, size)
    assert (last.monitor, last.patience) == ("epoch", None)


def test_a_pace_counts_features_epochs_with_their_validation_and_the_csv():
    pace = Pace(224, 0.01, 10.0)
    counts = {"train": 1000, "val": 200, "test": 100}
    assert pace.seconds(counts, 0) == pytest.approx(10 + 0.01 * (1000 + 200 + 130))
    # 3 x 1,000 images and twice 200 + 512 of validation.
    assert pace.seconds(counts, 2) - pace.seconds(counts, 1) == pytest.approx(44.24)
    assert pace.epochs(counts, pace.seconds(counts, 3)) == pytest.approx(3)
