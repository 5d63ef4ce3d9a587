import html
import json
import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from run_pages import Page, leave_run

from flowerkit.models.classifier import build_classifier
from flowerkit.reports.writer import write_pictures, write_report


@pytest.fixture
def run_folder(tmp_path):
    return leave_run(tmp_path / "run")


def _looks_drawn(path):
    """A picture of some size on which something stands."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return min(pixels.shape[:2]) > 200 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_curves_and_confusion_are_written_beside_the_run(run_folder):
    files = write_pictures(run_folder)
    assert files == [run_folder / name for name in ("curves.png", "rates.png", "confusion.png")]
    assert all(map(_looks_drawn, files))
    assert not (run_folder / "mistakes.png").exists()


def test_mistakes_are_drawn_when_the_images_are_given(run_folder):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")
    files = write_pictures(run_folder, val_images=images)
    assert [file.name for file in files] == [
        "curves.png",
        "rates.png",
        "confusion.png",
        "mistakes.png",
    ]
    assert all(map(_looks_drawn, files))


def test_older_pictures_are_replaced(run_folder):
    (run_folder / "curves.png").write_text("an older one")
    write_pictures(run_folder)
    assert _looks_drawn(run_folder / "curves.png")


def test_the_callers_figures_and_backend_are_left_alone(run_folder):
    before, backend = plt.get_fignums(), plt.get_backend()
    write_pictures(run_folder)
    assert plt.get_fignums() == before
    assert plt.get_backend() == backend


def test_a_folder_that_is_no_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run folder \(no plan.json\)"):
        write_pictures(tmp_path)


def test_a_run_without_predictions_is_an_error(run_folder):
    (run_folder / "val_predictions.npz").unlink()
    with pytest.raises(FileNotFoundError, match="no predictions .*val_predictions.npz"):
        write_pictures(run_folder)


# report.html --------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")


def read_page(path):
    """The page, well formed and asking for nothing."""
    page = Page(path.read_text(encoding="utf-8"))
    assert page.problems == []
    return page


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a run with its images, drawn once."""
    folder = leave_run(tmp_path_factory.mktemp("written") / "run")
    return write_report(folder, val_images=IMAGES, submission_problems=[])


def test_the_report_is_one_file_that_asks_for_nothing(written):
    path = written
    assert (path.name, path.parent.name) == ("report.html", "run")
    page = read_page(path)
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2")]
    assert headings == ["h1", *["h2"] * 8]
    assert len(page.images) == 7  # three curves, matrix, one mistake, calibration, histogram
    assert all(image["alt"] and int(image["width"]) > 0 for image in page.images)
    assert [image["alt"] for image in page.images][4] == "rose, taken for lily"
    assert path.stat().st_size < 300_000


def test_the_same_run_gives_the_same_bytes(written, run_folder):
    again = write_report(run_folder, val_images=IMAGES, submission_problems=[])
    assert again.read_bytes() == written.read_bytes()


def test_the_pictures_words_hold_the_figures(run_folder):
    page = read_page(write_report(run_folder))
    assert "Their pictures were not at hand" in page.text
    assert [image["alt"] for image in page.images] == [
        "Loss over 2 epochs, best epoch 2: training 1.000, validation 1.100 there.",
        "Accuracy and macro F1 over 2 epochs, best epoch 2: validation accuracy 0.500, "
        "macro F1 0.600 there.",
        "The learning rate was as planned over 2 epochs.",
        "Confusion matrix: 2 of 3 right; the list says more.",
        "Expected calibration error 0.033 (too sure by 0.033)",
        "val: 3 images of 3 classes, 1 to 1 of each (median 1)",
    ]


@pytest.fixture(scope="module")
def model():
    return build_classifier(3, image_size=32, backbone="tiny", weights=None, input_size=64)


def test_where_the_model_looked_stands_beside_each_mistake(run_folder, model):
    path = write_report(run_folder, val_images=IMAGES, model=model)
    page = read_page(path)
    words = [image["alt"] for image in page.images]
    assert words[4:6] == ["rose, taken for lily", "Where it looked for lily"]
    assert (page.images[5]["width"], page.images[5]["height"]) == ("192", "192")
    assert "Beside each: light is what spoke for the guess" in page.text
    assert (
        write_report(run_folder, val_images=IMAGES, model=model).read_bytes() == path.read_bytes()
    )


def test_a_model_that_shows_no_places_costs_the_maps_and_not_the_report(run_folder):
    dense = build_classifier(3, image_size=32, backbone="dense-small", weights=None, head="plain")
    text = read_page(write_report(run_folder, val_images=IMAGES, model=dense)).text
    assert "Where the model looked is not shown: 'flower_classifier' has no feature map" in text
    assert "✗ guessed lily" in text


def test_a_report_of_104_classes_stays_small(tmp_path):
    names = [f"a flower of kind {k}" for k in range(104)]
    labels = [k for k in range(104) for _ in range(2)]
    predicted = [(k + place) % 104 for k in range(104) for place in (0, 1)]
    folder = leave_run(tmp_path, names=names, labels=labels, predicted=predicted)
    images = np.random.default_rng(0).integers(0, 256, (208, 64, 64, 3), "uint8")
    path = write_report(folder, val_images=images)
    assert len(read_page(path).images) == 18
    assert path.stat().st_size < 1_000_000


def test_class_names_are_text_whatever_they_hold(tmp_path):
    names = ["<script>alert(1)</script>", '장미 "&" $x$', "half \ud800\x00"]
    path = write_report(leave_run(tmp_path / "<b>", names=names), val_images=IMAGES)
    page = read_page(path)
    assert "<script>alert(1)</script> 1.00" in page.text
    assert '장미 "&" $x$ taken for half ??' in page.text
    assert page.text.startswith("<b>: flowerkit report Training report: <b>")
    assert "<script" not in path.read_text(encoding="utf-8")


def test_without_images_the_sheet_of_mistakes_is_used(run_folder):
    write_pictures(run_folder, val_images=IMAGES)
    page = read_page(write_report(run_folder))
    assert page.images[4]["alt"] == "The worst mistakes with what was guessed"
    (run_folder / "mistakes.png").write_bytes(b"damaged")
    assert "Their pictures were not at hand" in read_page(write_report(run_folder)).text


def test_images_of_another_split_are_refused(run_folder):
    with pytest.raises(ValueError, match="2 images but 3 predictions. Pass those of val."):
        write_report(run_folder, val_images=IMAGES[:2])


def test_the_submission_beside_it_is_judged(run_folder):
    (run_folder / "submission.csv").write_text("id,label\na,0\nb,3\n")
    text = read_page(write_report(run_folder)).text
    assert "✗ 1 problem: do not submit it. line 3: label 3 is outside 0..2" in text


def test_an_error_leaves_the_older_report(run_folder):
    (run_folder / "report.html").write_text("an older one")
    (run_folder / "result.json").write_text("{")
    with pytest.raises(ValueError, match="result.json is not JSON"):
        write_report(run_folder)
    assert (run_folder / "report.html").read_text() == "an older one"


# In a browser -------------------------------------------------------------------------------------

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
# Written into a copy of the page, which itself holds no script and would not run one.
MEASURE = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
  shown: [...document.images].filter(image => image.naturalWidth > 0).length,
  folds: document.querySelectorAll("details:not([open])").length,
  width: innerWidth, content: document.documentElement.scrollWidth,
  asked: performance.getEntriesByType("resource").map(entry => entry.name)
    .filter(name => !name.startsWith("data:")) }), "*"))</script>"""
# A window of Chromium is at least 500 px wide, a frame is as wide as it is told.
FRAME = """<!DOCTYPE html><title></title>
<script>onmessage = event => {{ document.title = event.data }}</script>
<iframe src="report.html" width="{width}" height="2000" style="border:0"></iframe>"""


def browse(path, tmp_path):
    """Open a page in headless Chromium: (what the console said, the page as it then stands)."""
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1200,2000",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stdout


@pytest.fixture(scope="module")
def hard_report(tmp_path_factory, model):
    """Long and strange names and problems, and every kind of picture; drawn once."""
    folder = leave_run(
        tmp_path_factory.mktemp("hard") / "run", names=["<script>", "장미", "x" * 90]
    )
    problems = ["line 2: " + "y" * 200]
    return write_report(folder, val_images=IMAGES, submission_problems=problems, model=model)


@pytest.fixture
def report(hard_report, tmp_path):
    """A copy to change."""
    return shutil.copy(hard_report, tmp_path / "report.html")


@in_chromium
def test_the_browsers_console_stays_empty(report, tmp_path):
    console, _ = browse(report, tmp_path)
    assert console == []


@in_chromium
def test_a_picture_from_outside_would_be_refused_and_told(report, tmp_path):
    """The test above would hold for any page if nothing reached the console."""
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace("</h1>", '</h1><img src="http://127.0.0.1:9/a.png">'))
    console, _ = browse(report, tmp_path)
    assert len(console) == 1
    assert "Content Security Policy" in console[0]


@in_chromium
@pytest.mark.parametrize("width", [390, 1200])
def test_every_picture_shows_and_the_page_fits_the_screen(report, tmp_path, width):
    text = report.read_text(encoding="utf-8").replace("default-src 'none'", "default-src *")
    text = text.replace("style-src", "script-src 'unsafe-inline'; style-src")
    report.write_text(text.replace("<title>", MEASURE + "<title>", 1), encoding="utf-8")
    frame = report.with_name("frame.html")
    frame.write_text(FRAME.format(width=width))
    dom = browse(frame, tmp_path)[1]
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))
    assert found == {"shown": 8, "folds": 3, "width": width, "content": width, "asked": []}
