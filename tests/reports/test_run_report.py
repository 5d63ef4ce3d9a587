import json
import shutil

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from chromium import CHROMIUM, open_page
from PIL import Image
from run_pages import Page

from flowerkit.models import build_classifier
from flowerkit.reports import Picture, run_report, write_pictures, write_report
from flowerkit.training import RunFolder

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")


@pytest.fixture(scope="module")
def report(finished_run, tmp_path_factory):
    """The report of a run with its images and its model."""
    folder = tmp_path_factory.mktemp("reported") / "petals"
    shutil.copytree(finished_run.folder, folder)
    return write_report(
        folder, val_images=finished_run.val_images, submission_problems=[], model=finished_run.model
    )


@pytest.fixture
def no_drawing(monkeypatch):
    """Plots are not rendered, for tests of the text."""
    monkeypatch.setattr(
        run_report, "encode_figure", lambda axes, alt: Picture(b"", "png", 825, 630, alt)
    )


@pytest.fixture
def text_of(make_run, tmp_path, no_drawing):
    """The text of the report of a run with such predictions, plan, ..."""

    def read(val_images=None, model=None, **run):
        folder = make_run(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", **run)
        return Page(write_report(folder, val_images=val_images, model=model)).text

    return read


# Pictures -----------------------------------------------------------------------------------------


def test_pictures_are_written_beside_the_run_and_a_report_without_images_uses_them(
    finished_run, run_copy
):
    (run_copy / "curves.png").write_text("an older file")
    before, backend = plt.get_fignums(), plt.get_backend()
    files = write_pictures(run_copy, val_images=finished_run.val_images)
    names = ["curves.png", "rates.png", "confusion.png", "mistakes.png"]
    assert files == [run_copy / name for name in names]
    for file in files:
        with Image.open(file) as image:
            assert min(image.size) > 200
            assert len(image.getcolors(1 << 24)) > 20
    assert (plt.get_fignums(), plt.get_backend()) == (before, backend)
    page = Page(write_report(run_copy))
    assert page.images[4]["alt"] == "The worst mistakes with their predictions"
    (run_copy / "mistakes.png").write_bytes(b"damaged")
    assert "Their pictures were not available" in Page(write_report(run_copy)).text


# The page -----------------------------------------------------------------------------------------


def test_the_report_is_one_file_that_asks_for_nothing(report):
    page = Page(report)
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2")]
    assert headings == ["h1", *["h2"] * 8]
    assert all(image["alt"] and int(image["width"]) > 0 for image in page.images)
    assert report.stat().st_size < 400_000


def test_the_strict_reader_does_see_problems(tmp_path):
    """The test above would hold for any page if it saw none."""
    for text in ("<p><b></p>", '<img src="https://a.b/c.png">', "<script></script>"):
        (tmp_path / "page.html").write_text(text)
        with pytest.raises(AssertionError):
            Page(tmp_path / "page.html")


def test_the_same_run_gives_the_same_bytes(report, finished_run, run_copy):
    again = write_report(
        run_copy,
        val_images=finished_run.val_images,
        submission_problems=[],
        model=finished_run.model,
    )
    assert again.read_bytes() == report.read_bytes()


def test_the_figures_are_those_of_the_result(report, finished_run):
    text, result = Page(report).text, finished_run.summary
    for part in (
        f"Training report: petals Macro F1 {result.val_f1:.3f} on validation images",
        f"Accuracy {result.val_accuracy:.1%} of 18 validation images",
        f"Best epoch {result.best_epoch} of 2 done, by val_f1",
        "Stopped after epoch 2 of at most 2, because the plan's epochs were done.",
        "Images train 50, val 18, test 22, 32 px",
        "Batches 16 images a step",
        "Learning rate 0.001 to 0.002 over 1 epoch, then",
        "Augmentation flip Stops after 3 epochs without a better val_f1; the best is kept",
        f"{result.best_epoch} (best)",
        "train 50 images of 4 classes",
        "The run folder has no such file.",
        f"keras {keras.__version__}",
    ):
        assert part in text
    assert "F1 on test" not in text
    assert "phase" not in text


def test_each_mistake_has_its_photo_and_where_the_model_looked(report, finished_run):
    page = Page(report)
    wrong = int((finished_run.predictions.predicted != finished_run.predictions.labels).sum())
    photos, maps = page.images[4:-2:2], page.images[5:-2:2]
    assert len(photos) == len(maps) == min(wrong, 12)
    assert all(", taken for " in image["alt"] for image in photos)
    assert all(image["alt"].startswith("Where it looked for ") for image in maps)
    assert (maps[0]["width"], maps[0]["height"]) == ("192", "192")
    assert "Beside each: bright parts spoke for the predicted class" in page.text


def test_pictures_have_their_content_in_words(make_run, tmp_path):
    page = Page(write_report(make_run(tmp_path / "run")))
    assert [image["alt"] for image in page.images] == [
        "Loss over 2 epochs, best epoch 2: training 1.000, validation 1.100 there.",
        "Accuracy and macro F1 over 2 epochs, best epoch 2: validation accuracy 0.500, macro F1 "
        "0.600 there.",
        "The learning rate was as planned over 2 epochs.",
        "Confusion matrix: 2 of 3 right; the list says more.",
        "Expected calibration error 0.033 (too sure by 0.033)",
        "train: 1,003 images of 3 classes, 1 to 1,000 of each (median 2). val: 3 images of 3 classes, "
        "1 to 1 of each (median 1)",
    ]


def test_the_plan_is_described(text_of):
    text = text_of(
        device={"replicas": 8},
        data={"origin": "folder", "photos": "C:\\me\\My flowers", "image_size": 64},
        result={"test_f1": 0.75, "test_images": 8, "seconds_per_epoch": 200.0},
        dropout=0.25,
        optimizer="adamw",
        weight_decay=0.01,
        label_smoothing=0.1,
        mixup=0.2,
        min_crop_area=0.6,
        input_size=96,
        patience=None,
        freeze_epochs=1,
        freeze_lr=0.01,
    )
    for part in (
        "F1 on test 0.750 on 8 test images",
        "An epoch 3 min 20 s",
        "Data My flowers (a folder), 3 classes",
        "64 px, seen by the network at 96 px",
        "Network tiny from random weights, head “notebook”, dropout 0.25",
        "replicas with",
        "Phase 1 1 epoch, the head alone: 0.01 throughout Phase 2 2 epochs, the network: 0.001 to",
        "Optimizer adamw, weight decay 0.01, label smoothing 0.1",
        "Augmentation flip, min crop area 0.6, mixup 0.2",
        "Stops never early",
        "The training loss is with label smoothing and mixup, the validation loss without.",
        "epoch phase loss",
    ):
        assert part in text


def test_class_names_are_text_whatever_they_hold(make_run, tmp_path):
    names = ["<script>alert(1)</script>", '장미 "&" $x$', "half HALF\x00"]
    folder = make_run(tmp_path / "<b>", names=names)
    environment = RunFolder(folder).environment_file
    values = json.loads(environment.read_text().replace("HALF", "\\ud800"))  # as JSON can hold it
    del values["checksum"]
    environment.write_text(json.dumps(values))
    path = write_report(folder, val_images=IMAGES)
    page = Page(path)
    assert "<script>alert(1)</script> 1.00" in page.text
    assert '장미 "&" $x$ taken for half \\ud800?' in page.text
    assert page.text.startswith("<b>: flowerkit report Training report: <b>")
    assert "<script" not in path.read_text(encoding="utf-8")


def test_the_most_confused_pairs_and_the_worst_classes_are_listed(text_of):
    text = text_of(names=["daisy", "rose", "lily", " ", "lotus"])
    assert "1 of 3 validation images were taken for another class." in text
    assert "rose taken for lily: 1 of 1 (100%)" in text
    assert "rose 0.00 0.00 0.00 1 lily 0.67 0.50 1.00 1 daisy 1.00 1.00 1.00 1" in text
    assert "2 of 5 classes have none, and so no row." in text
    assert "Fewest in train rose: 1, lily: 2, (no name): 3" in text


def test_a_report_of_104_classes_is_small_and_folds_the_classes_below_the_worst_ten(
    make_run, tmp_path
):
    names = [f"a flower of kind {k}" for k in range(104)]
    labels = [k for k in range(104) for _ in range(2)]
    predicted = [(k + place) % 104 for k in range(104) for place in (0, 1)]
    folder = make_run(tmp_path / "run", names=names, labels=labels, predicted=predicted)
    images = np.random.default_rng(0).integers(0, 256, (208, 64, 64, 3), "uint8")
    path = write_report(folder, val_images=images)
    page = Page(path)
    assert len(page.images) == 18
    assert path.stat().st_size < 1_000_000
    worst, every = page.text.split("Class by class")[1].split("All 104 classes")
    assert worst.count("kind") == 10
    assert every.split("How sure")[0].count("kind") == 104


def test_a_mistake_shows_the_predicted_and_the_true_class(text_of):
    text = text_of(val_images=IMAGES)
    assert "The 1 of 1 with the least probability of the true class, worst first." in text
    assert "✗ predicted lily 70% ✓ is rose 10% id1" in text


def test_a_run_without_mistakes_says_so(text_of):
    text = text_of(val_images=IMAGES, predicted=(0, 1, 2))
    assert "There are none in the validation images." in text
    assert "0 of 3 validation images were taken" in text


def test_a_model_without_a_feature_map_costs_the_maps_and_not_the_report(text_of):
    dense = build_classifier(3, image_size=32, backbone="dense-small", weights=None, head="plain")
    text = text_of(val_images=IMAGES, model=dense)
    assert "Where the model looked is not shown: 'flower_classifier' has no feature map" in text
    assert "✗ predicted lily" in text


def test_images_of_another_split_are_refused(text_of):
    with pytest.raises(ValueError, match="2 images but 3 predictions. Pass those of val."):
        text_of(val_images=IMAGES[:2])


def test_an_error_leaves_the_older_report(run_copy):
    (run_copy / "report.html").write_text("an older report")
    (run_copy / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is not JSON"):
        write_report(run_copy)
    assert (run_copy / "report.html").read_text() == "an older report"


@pytest.mark.parametrize(
    ("csv", "problems", "verdict"),
    [
        (None, None, "The run folder has no such file."),
        ("a,0\nb,2\n", [], "✓ Valid: 2 rows, labels in 0..2, every id of the test set once."),
        ("a,0\nb,2\n", None, "✓ Well formed: 2 rows, labels in 0..2, each id once."),
        ("a,0\nb,3\n", None, "✗ 1 problem: do not submit it. line 3: label 3 is outside 0..2"),
        ("a,0\na,1\n", [], "✗ 1 problem: do not submit it."),
        (
            "a,0\n",
            [f"line {k}: <b>" for k in range(2, 24)],
            "✗ 22 problems: do not submit it. line 2",
        ),
        ("a,0\n", [f"line {k}: <b>" for k in range(2, 24)], "line 21: <b> and 2 more line 22: <b>"),
    ],
)
def test_the_submission_beside_it_is_judged(make_run, tmp_path, no_drawing, csv, problems, verdict):
    folder = make_run(tmp_path / "run")
    if csv:
        (folder / "submission.csv").write_text("id,label\n" + csv)
    text = Page(write_report(folder, submission_problems=problems)).text
    assert verdict in text.split("submission.csv", 1)[1]
    assert ("flowerkit check submission.csv --data DATA" in text) == ("Well formed" in verdict)


# In a browser -------------------------------------------------------------------------------------


@pytest.fixture
def hard_report(make_run, tmp_path):
    """Long and strange names and problems."""
    folder = make_run(tmp_path / "run", names=["<script>", "장미", "x" * 90])
    return write_report(folder, val_images=IMAGES, submission_problems=["line 2: " + "y" * 200])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_it_whole_at_any_width_and_asks_for_nothing(hard_report):
    with open_page() as page:
        for width in (390, 1200):
            page.show(hard_report, width)
            assert page.run("document.documentElement.scrollWidth") <= width
            assert page.run("[...document.images].filter(one => one.naturalWidth > 0).length") == 7
        assert page.errors == []
        assert {url for url in page.requests if not url.startswith("data:")} == {
            hard_report.as_uri()
        }
        # A picture from outside is refused: the lines above would hold for any page otherwise.
        text = hard_report.read_text(encoding="utf-8")
        hard_report.write_text(text.replace("</h1>", '</h1><img src="http://127.0.0.1:9/a.png">'))
        page.show(hard_report, 390)
        assert "Content Security Policy" in page.errors[0]
