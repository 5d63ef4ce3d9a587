import json
import shutil
from dataclasses import replace

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from chromium import CHROMIUM, open_page
from PIL import Image
from run_pages import Page

from flowerkit.files import write_dataclass
from flowerkit.models import build_classifier
from flowerkit.reports import run_report, write_pictures, write_report
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
def text_of(make_run, tmp_path):
    """The text of the report of a run with such predictions, plan, ..."""

    def read(val_images=None, model=None, **run):
        folder = make_run(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", **run)
        return Page(write_report(folder, val_images=val_images, model=model)).text

    return read


# Pictures -----------------------------------------------------------------------------------------


def test_pictures_are_written_beside_the_run(finished_run, run_copy):
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


# The page -----------------------------------------------------------------------------------------


def test_the_report_is_one_file_that_asks_for_nothing(report):
    page = Page(report)
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2")]
    assert headings == ["h1", *["h2"] * (8 if "labels" in page.targets else 7)]
    assert all(image["alt"] for image in page.images)
    assert report.stat().st_size < 400_000


def test_the_strict_reader_does_see_problems(tmp_path):
    """The test above would hold for any page if it saw none."""
    for text in (
        "<p><b></p>",
        '<img src="https://a.b/c.png">',
        "<script>alert(1)</script>",
        '<a href="#x">x</a>',
    ):
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
        f"Training report petals {result.val_f1:.3f} macro F1 on val Macro F1 {result.val_f1:.2f}",
        f"Accuracy {result.val_accuracy:.1%} of 18 validation images",
        f"Best epoch {result.best_epoch} of 2, by val_f1",
        "Stopped after epoch 2, because the plan's epochs were done.",
        "the whole network 2 ",
        "loading, features, compiling, measuring, saving",
        "Images train 50, val 18, test 22, 32 px train 50 images of 4 classes",
        "Batches 16 images a step",
        "Learning rate 0.001 to 0.002 over 1 epoch, then",
        "Augmentation flip Stops after 3 epochs without a better val_f1; the best is kept",
        f"{result.best_epoch} (best)",
        "The run folder has no submission.csv.",
        f"keras {keras.__version__}",
    ):
        assert part in text
    assert "F1 on test" not in text
    assert "phase" not in text


def test_each_mistake_has_its_photo(report, finished_run):
    wrong = int((finished_run.predictions.predicted != finished_run.predictions.labels).sum())
    photos = [image["alt"] for image in Page(report).images if ", taken for " in image["alt"]]
    assert len(photos) == min(wrong, 12) + wrong  # once more where its kind of mistake is


def test_charts_have_their_content_in_words(make_run, tmp_path):
    page = Page(write_report(make_run(tmp_path / "run")))
    charts = [attrs["aria-label"] for tag, attrs in page.tags if attrs.get("class") == "chart"]
    assert charts == [
        "Loss by epoch. Best epoch 2: training 1.000, validation 1.100",
        "Score by epoch. Best epoch 2: macro F1 on val 0.600, accuracy on val 0.500, in training 0.500",
        "Learning rate by epoch. Best epoch 2: used 1.00e-03",
        "Right predictions, by their probability by probability. Expected calibration error 0.033; too "
        "sure by 0.033 on average.",
    ]
    assert page.pointed[0] == "Epoch 1: training 1.000, validation 1.100"


def test_a_rate_that_was_not_as_planned_is_drawn_beside_the_plan(make_run, tmp_path):
    folder = make_run(tmp_path / "run")
    history = RunFolder(folder).history()
    history.rows[1]["learning_rate"] = 5e-4
    history.save()
    assert "used 5.00e-04, planned 1.00e-03" in Page(write_report(folder)).text


def test_the_plan_is_described(text_of):
    text = text_of(
        device={"replicas": 8},
        data={"origin": "folder", "photos": "C:\\me\\My flowers", "image_size": 64},
        result={"test_f1": 0.75, "test_images": 8, "seconds_per_epoch": 200.0},
        dropout=0.25,
        optimizer="adamw",
        weight_decay=0.01,
        ema=0.99,
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
        "images/s, 3 min 20 s an epoch",
        "Data My flowers (a folder), 3 classes",
        "64 px, seen by the network at 96 px",
        "Network tiny from random weights, head “notebook”, dropout 0.25",
        "(8 replicas with",
        "Phase 1 1 epoch, the head alone: 0.01 throughout Phase 2 2 epochs, the network: 0.001 to",
        "Optimizer adamw, weight decay 0.01, ema 0.99, label smoothing 0.1",
        "Augmentation flip, min crop area 0.6, mixup 0.2",
        "Stops never early",
        "The training loss is with label smoothing and mixup, the validation loss without. A phase is a "
        "part of training: the head alone learns first (phase 1), then the network (phase 2). "
        "Each epoch scores the raw weights, as its last step left them, and their running mean (EMA)",
        "in the best epoch those were the raw ones.",
        "epoch phase loss",
    ):
        assert part in text


def test_smaller_images_are_named_where_the_run_began_on_them(make_run, tmp_path):
    run = RunFolder(make_run(tmp_path / "run"))
    phases = {"freeze_epochs": 1, "small_epochs": 2, "epochs": 1, "schedule": "one-cycle"}
    run.write_plan(replace(run.plan(), **phases, input_size=64), run.fitted())
    text = Page(write_report(run.path)).text
    for part in (
        "32 px train",  # what the best epoch saw: the images as they are stored
        "the head alone learns first, on smaller images (phase 1), then the network, on smaller images "
        "(phase 2), then the network (phase 3).",
        "Phase 2 2 epochs, the network, on smaller images: one cycle",
        "Phase 3 1 epoch, the network: one cycle",
    ):
        assert part in text
    assert "seen by the network" not in text


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
    assert page.text.startswith("<b>: flowerkit report Training report <b>")
    assert path.read_text(encoding="utf-8").count("<script") == 1


def test_the_most_confused_pairs_and_the_worst_classes_are_listed(text_of):
    text = text_of(names=["daisy", "rose", "lily", " ", "lotus"])
    assert "1 of 3 validation images were taken for another class." in text
    assert "The one kind of mistake rose taken for lily: 1 of 1 (100%)" in text
    assert "rose 0.00 0.00 0.00 1 1 lily 0.67 0.50 1.00 1 2 daisy 1.00 1.00 1.00 1 1,000" in text
    assert "2 of 5 classes have none, and so no row." in text
    assert "Fewest in train rose: 1, lily: 2, (no name): 3" in text


@pytest.fixture(scope="module")
def large_report(make_run, tmp_path_factory):
    """104 classes, two images each: one is right, the other taken for the next class."""
    names = [f"a flower of kind {k}" for k in range(104)]
    labels = [k for k in range(104) for _ in range(2)]
    predicted = [(k + step) % 104 for k in range(104) for step in (0, 1)]
    folder = tmp_path_factory.mktemp("large") / "run"
    make_run(folder, names=names, labels=labels, predicted=predicted)
    images = np.random.default_rng(0).integers(0, 256, (208, 48, 48, 3), "uint8")
    return write_report(folder, val_images=images)


def test_a_report_of_104_classes_is_small_and_has_photos_of_the_kinds_of_mistakes(large_report):
    page = Page(large_report)
    assert large_report.stat().st_size < 3_000_000
    pairs = [attrs["aria-label"] for _, attrs in page.tags if attrs.get("class") == "pair"]
    assert len(pairs) == 104
    assert pairs[0] == "a flower of kind 0 taken for a flower of kind 1: 1 of 2"
    cells = [attrs for tag, attrs in page.tags if tag == "rect" and attrs.get("class") == "miss"]
    assert len(cells) == 104
    assert (cells[0]["x"], cells[0]["y"]) == ("1", "0")
    assert pairs[0] in page.pointed
    # Each photo once, however often it is drawn.
    assert len([tag for tag, _ in page.tags if tag == "symbol"]) == 208
    assert len(page.images) > 312


def test_photos_end_where_the_page_would_be_too_large(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_report, "PHOTO_BYTES", 2000)
    folder = make_run(tmp_path / "run", labels=(0, 1, 2), predicted=(1, 2, 0))
    page = Page(write_report(folder, val_images=IMAGES))
    assert len([tag for tag, _ in page.tags if tag == "symbol"]) == 1
    (listed,) = (words for words in page.text.split("Kinds of mistakes")[1:])
    assert listed.split("Class by class")[0].count("taken for") == 3


def test_a_small_confusion_matrix_is_a_table_of_the_classes_that_occur(make_run, tmp_path):
    names = [f"kind {k}" for k in range(50)]
    folder = make_run(tmp_path / "run", names=names, labels=(7, 7, 9), predicted=(7, 20, 9))
    page = Page(write_report(folder, val_images=IMAGES))
    assert "1 2 3 1 kind 7 1 1 2 kind 9 1 3 kind 20" in page.text
    assert {"pair-7-20"} == {target for target in page.targets if target.startswith("pair")}


def test_a_mistake_shows_the_predicted_and_the_true_class_with_a_right_answer_of_each(text_of):
    text = text_of(val_images=IMAGES)
    assert "The 1 of 1 with the least probability of the true class, worst first" in text
    assert "✗ predicted lily 70% ✓ is rose 10% id1" in text
    assert "✗ 70% sure ✓ lily" in text  # no rose was right


def test_labels_that_are_probably_wrong_are_shown(make_run, tmp_path):
    labels, predicted = [0] * 9 + [1] * 9 + [1], [0] * 9 + [1] * 9 + [0]
    folder = make_run(tmp_path / "run", labels=labels, predicted=predicted)
    page = Page(write_report(folder, val_images=np.zeros((19, 32, 32, 3), "uint8")))
    assert "1 validation label is doubtful: the model did not learn from this photo" in page.text
    assert "labelled rose 20% looks like daisy 70% id18" in page.text
    assert "Labelled rose, looks like daisy" in [image["alt"] for image in page.images]
    bare = Page(write_report(folder))
    assert "All 1 id18 labelled rose, looks like daisy (70%)" in bare.text
    assert bare.images == []
    poor = make_run(tmp_path / "poor", labels=labels, predicted=[*predicted[:-3], 0, 0, 0])
    assert "Labels to check" not in Page(write_report(poor)).text


def test_a_run_without_mistakes_says_so(text_of):
    text = text_of(val_images=IMAGES, predicted=(0, 1, 2))
    assert "There are none in the validation images." in text
    assert "0 of 3 validation images were taken" in text


def test_a_model_without_a_feature_map_costs_the_maps_and_not_the_report(text_of):
    dense = build_classifier(3, image_size=32, backbone="dense-small", weights=None, head="plain")
    text = text_of(val_images=IMAGES, model=dense)
    assert "Where the model looked is not shown: 'flower_classifier' has no feature map" in text
    assert "✗ predicted lily" in text


def test_where_the_model_looked_is_shown_if_its_feature_map_is_fine_enough(make_run, tmp_path):
    model = build_classifier(3, image_size=64, backbone="tiny", weights=None, head="plain")
    images = IMAGES.repeat(2, axis=1).repeat(2, axis=2)
    page = Page(write_report(make_run(tmp_path / "run"), val_images=images, model=model))
    (cam,) = (attrs for tag, attrs in page.tags if tag == "img")
    assert (cam["alt"], cam["width"], cam["height"]) == ("Where it looked for lily", "192", "192")
    assert "In the second picture bright parts spoke for the predicted class" in page.text


def test_a_coarse_feature_map_is_not_shown_and_the_report_says_why(report):
    text = Page(report).text
    assert "not shown: its last feature map has 2 x 2 places" in text
    assert "--input-size" in text


def test_photos_and_problems_of_the_csv_are_found_where_the_data_of_the_run_are(
    run_copy, finished_run, caplog
):
    (run_copy / "submission.csv").write_text("id,label\nforeign,0\n")
    page = Page(write_report(run_copy))
    given = Page(
        write_report(run_copy, val_images=finished_run.val_images, model=finished_run.model)
    )
    assert [image["alt"] for image in page.images] == [image["alt"] for image in given.images] != []
    assert "not shown: its last feature map has 2 x 2 places" in page.text
    assert "none of the 1 rows starts with an id of the test set" in page.text
    assert caplog.messages == []


@pytest.mark.parametrize("photos", [None, "/my photos"])
def test_a_report_without_photos_warns_and_names_the_command_with_them(
    make_run, tmp_path, caplog, photos
):
    folder = make_run(tmp_path / "a run", data={"folder": "/gone", "photos": photos})
    assert Page(write_report(folder)).images == []
    (warning,) = caplog.messages
    assert f"{folder} was trained on are not in /gone any more" in warning
    source = "'/my photos'" if photos else "FOLDER"
    assert f"`flowerkit report '{folder}' --data {source}`, in Python val_images=" in warning


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
        (None, None, "The run folder has no submission.csv."),
        (
            "a,0\nb,2\n",
            [],
            "✓ submission.csv is valid: 2 rows, labels in 0..2, every id of the test set once.",
        ),
        (
            "a,0\nb,2\n",
            None,
            "✓ submission.csv is well formed: 2 rows, labels in 0..2, each id once.",
        ),
        ("a,0\nb,3\n", None, "Problems of submission.csv line 3: label 3 is outside 0..2"),
        ("a,0\na,1\n", [], "✗ submission.csv: 1 problem: do not use it."),
        (
            "a,0\n",
            [f"line {k}: <b>" for k in range(2, 24)],
            "✗ submission.csv: 22 problems: do not use it.",
        ),
        ("a,0\n", [f"line {k}: <b>" for k in range(2, 24)], "line 21: <b> and 2 more line 22: <b>"),
    ],
)
def test_the_submission_beside_it_is_judged(make_run, tmp_path, csv, problems, verdict):
    folder = make_run(tmp_path / "run")
    if csv:
        (folder / "submission.csv").write_text("id,label\n" + csv)
    text = Page(write_report(folder, submission_problems=problems)).text
    assert verdict in text
    assert ("flowerkit check submission.csv --data DATA" in text) == ("well formed" in verdict)


def test_data_without_a_test_split_need_no_csv(make_run, tmp_path):
    folder = make_run(tmp_path / "run")
    environment = RunFolder(folder).environment()
    without = replace(environment.data, counts={**environment.data.counts, "test": 0})
    file = RunFolder(folder).environment_file
    write_dataclass(file, replace(environment, data=without))
    assert "There is no test split, so no submission.csv." in Page(write_report(folder)).text


# In a browser -------------------------------------------------------------------------------------

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def browser():
    with open_page() as page:
        yield page


@pytest.fixture
def hard_report(make_run, tmp_path):
    """Long and strange names and problems."""
    folder = make_run(tmp_path / "run", names=["<script>", "장미", "x" * 90])
    return write_report(folder, val_images=IMAGES, submission_problems=["line 2: " + "y" * 200])


@needs_chromium
def test_a_browser_shows_it_whole_at_any_width_and_asks_for_nothing(hard_report, large_report):
    with open_page() as page:
        for file in (hard_report, large_report):
            for width in (390, 1200):
                page.show(file, width)
                assert page.run("document.documentElement.scrollWidth") <= width
        assert page.errors == []
        local = {hard_report.as_uri(), large_report.as_uri()}
        assert {url for url in page.requests if not url.startswith("data:")} == local
        # A picture from outside and another script are refused: the above would hold for any page.
        text = hard_report.read_text(encoding="utf-8")
        foreign = '</h1><img src="http://127.0.0.1:9/a.png"><script>document.title = "no"</script>'
        hard_report.write_text(text.replace("</h1>", foreign))
        page.show(hard_report, 390)
        assert len([error for error in page.errors if "Content Security Policy" in error]) == 2
        assert page.run("document.title") != "no"


@needs_chromium
def test_on_a_phone_a_field_of_the_plan_is_broken_at_its_underscores_alone(browser, hard_report):
    browser.show(hard_report, 390)
    browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
    lines_of = browser.run(
        "Object.fromEntries([...document.querySelectorAll('.plan td:first-child code')]"
        ".flatMap((field) => [...field.childNodes].filter((node) => node.data)).map((node) => {"
        "const range = document.createRange(); range.selectNodeContents(node);"
        "return [node.data, range.getClientRects().length]; }))"
    )
    assert lines_of["backbone_"] == lines_of["smoothing"] == 1
    assert set(lines_of.values()) == {1}


@needs_chromium
@pytest.mark.parametrize("is_script_on", [True, False])
def test_a_cell_of_the_matrix_shows_its_photos(browser, large_report, is_script_on):
    browser.call("Emulation.setScriptExecutionDisabled", value=not is_script_on)
    browser.show(large_report, 1200)
    shown = (
        "[...document.querySelectorAll('.pair')].filter(one => one.offsetParent).map(one => one.id)"
    )
    assert browser.run(shown) == ["pair-0-1"]
    for link in ("svg a[href='#pair-5-6'] rect", "li a[href='#pair-9-10']"):
        browser.click(link)
        assert browser.run(shown) == [link.partition("#")[2].partition("'")[0]]
    photo = "document.querySelector('#pair-9-10 .photo').getBoundingClientRect().width > 50"
    assert browser.run(photo)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)


@needs_chromium
def test_the_table_of_classes_is_sorted_and_searched(browser, large_report):
    browser.show(large_report, 1200)
    first = "document.querySelector('table[data-sort] tbody tr:not([hidden]) td').textContent"
    browser.click("table[data-sort] th:first-child button")
    assert browser.run(first) == "a flower of kind 0"
    browser.click("table[data-sort] th:last-child button")
    browser.click("table[data-sort] th:last-child button")
    head = "document.querySelector('table[data-sort] th:last-child').ariaSort"
    assert browser.run(head) == "descending"
    numbers = (
        "[...document.querySelectorAll('table[data-sort] td:last-child')].map(x => x.textContent)"
    )
    assert browser.run(numbers)[:3] == ["1,000", "103", "102"]
    browser.run(
        "const field = document.querySelector('input[type=search]'); field.value = 'KIND 77';"
        "field.dispatchEvent(new Event('input'))"
    )
    assert browser.run(first) == "a flower of kind 77"
    assert browser.run("document.querySelector('.tools output').textContent") == "1 of 104"


@needs_chromium
def test_curves_answer_to_a_pointer_a_finger_and_the_keys(browser, large_report):
    browser.show(large_report, 390)
    said = "document.getElementById('chart-1').textContent"
    usual = browser.run(said)
    box = browser.find("svg[data-chart='chart-1']")
    for x, epoch in ((box["x"] + 70, 1), (box["x"] + box["width"] - 20, 2)):
        browser.move_pointer(x, box["y"] + 60)
        assert browser.run(said).startswith(f"Epoch {epoch}: training")
    browser.move_pointer(1, 1)
    assert browser.run(said) == usual
    browser.touch(box["x"] + 70, box["y"] + 60)
    assert browser.run(said).startswith("Epoch 1: training")
    browser.run("document.querySelector('svg[data-chart=chart-1]').focus()")
    browser.press("ArrowRight")
    assert browser.run(said).startswith("Epoch 2: training")
    browser.press("Escape")
    assert browser.run(said) == usual
    # In the matrix a finger finds the nearest cell, and Enter opens its photos.
    browser.run("document.querySelector('svg[data-chart=cell]').focus()")
    browser.press("ArrowLeft")
    browser.press("Enter")
    assert browser.run("location.hash") == "#pair-103-0"


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(browser, large_report, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    browser.show(large_report, 1200)
    colours = browser.run(
        "(() => { const style = getComputedStyle(document.documentElement);"
        "return Object.fromEntries(['text', 'soft', 'right', 'wrong', 'ground', 'card']"
        ".map(name => [name, style.getPropertyValue('--' + name).trim()])); })()"
    )
    assert (luminance(colours["ground"]) > 0.5) == (scheme == "light")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == rgb(colours["ground"])
    for name in ("text", "soft", "right", "wrong"):
        for ground in ("ground", "card"):
            dark, light = sorted(map(luminance, (colours[name], colours[ground])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, 1.4.3
    browser.call("Emulation.setEmulatedMedia", features=[])


def parts(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return [int(digits[place : place + 2], 16) for place in (0, 2, 4)]


def rgb(colour):
    return f"rgb({', '.join(map(str, parts(colour)))})"


def luminance(colour):
    """The relative luminance of WCAG 2.2."""
    shares = [part / 255 for part in parts(colour)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
