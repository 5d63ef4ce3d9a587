import json
import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest
from compared import LABELS, leave
from PIL import Image
from run_pages import Page

from flowerkit.experiments.compare import compare_runs
from flowerkit.experiments.page import write_comparison


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of a comparison of two experiments, one with two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    comparison = compare_runs(
        [
            leave(folder / "net-seed0", wrong=range(12), f1=0.9),
            leave(folder / "net-seed1", wrong=range(24), f1=0.8, seed=1),
            leave(folder / "<b>장미", wrong=range(60), dropout=0.5),
        ]
    )
    return write_comparison(comparison, folder / "out")


@pytest.fixture(scope="module")
def page(written):
    found = Page(written[0].read_text(encoding="utf-8"))
    assert found.problems == []  # well formed, asks for nothing, holds no script
    return found


def test_four_files_are_written(written):
    assert [file.name for file in written] == [
        "compare.html",
        "compare.md",
        "compare.csv",
        "compare.png",
    ]
    pixels = np.asarray(Image.open(written[3]).convert("RGB"))
    assert pixels.shape[1] == 1890
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_the_page_says_what_came_out(page):
    assert "2 experiments compared" in page.text
    assert "Highest macro F1 0.850 net" in page.text
    assert "Runs 3 of 2 experiments" in page.text
    assert "net 2 0.850 ± 0.071" in page.text
    assert "behind net, which is inside the noise" in page.text
    assert "Alike in all data drawn, 3 classes" in page.text


def test_names_cannot_become_markup(page):
    assert "<b>장미 1 0.500" in page.text


def test_every_run_stands_in_the_fold(page):
    assert re.search(r"net-seed1 1 0\.800 .* the plan's epochs were done", page.text)


def test_the_curves_are_pictures_with_words(page):
    assert [image["alt"] for image in page.images] == [
        f"{what} by epoch; the highest macro F1 has net."
        for what in ("Macro F1 on val", "Loss on val", "Loss in training")
    ]


def test_lines_bear_the_colours_of_the_curves(page):
    chips = [attrs["style"] for tag, attrs in page.tags if tag == "span" and "style" in attrs]
    assert sum("solid #0072B2" in style for style in chips) == 3  # in two tables and at the curves
    assert sum("solid #D55E00" in style for style in chips) == 3


def test_a_single_run_has_a_page_too(tmp_path):
    files = write_comparison(compare_runs([leave(tmp_path / "only")]), tmp_path)
    found = Page(files[0].read_text(encoding="utf-8"))
    assert found.problems == []
    assert "The plan data drawn, 3 classes" in found.text
    assert "What of it is chance" not in found.text


def test_what_cannot_be_compared_has_no_common_winner(tmp_path):
    folders = [leave(tmp_path / "a", labels=LABELS[:90]), leave(tmp_path / "b", wrong=(1,))]
    found = Page(write_comparison(compare_runs(folders), tmp_path)[0].read_text(encoding="utf-8"))
    assert re.search(
        r"Highest macro F1 \S+ a, on val .* Highest macro F1 \S+ b, on val", found.text
    )
    assert found.images[0]["alt"].endswith("the highest macro F1 has a and b.")


def test_more_experiments_than_lines_are_told(tmp_path):
    folders = [leave(tmp_path / f"n{k}", wrong=range(k), dropout=k / 100) for k in range(23)]
    found = Page(write_comparison(compare_runs(folders), tmp_path)[0].read_text(encoding="utf-8"))
    assert "The best 21 of 23 are drawn." in found.text
    assert "n22" in found.text


def test_the_callers_figures_and_backend_are_left_alone(tmp_path):
    before, backend = plt.get_fignums(), plt.get_backend()
    write_comparison(compare_runs([leave(tmp_path / "only")]), tmp_path)
    assert (plt.get_fignums(), plt.get_backend()) == (before, backend)


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_without_scrolling_sideways(written, tmp_path, width):
    """The page itself; tables scroll in their boxes. Measured by a script in a page around it."""
    frame = tmp_path / "frame.html"
    content = json.dumps(written[0].read_text(encoding="utf-8")).replace("</", "<\\/")
    frame.write_text(
        f"<iframe width={width} height=900></iframe><p id=said></p><script>"
        f"const frame = document.querySelector('iframe'); frame.srcdoc = {content};"
        "frame.onload = () => { const page = frame.contentDocument; said.textContent = 'wide ' +"
        "page.documentElement.scrollWidth + ' pictures ' + [...page.images].filter("
        "image => image.complete && image.naturalWidth > 100).length + ' done'; };</script>"
    )
    done = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--dump-dom",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=3000",
            f"file://{frame}",
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    wide, pictures = map(int, re.search(r"wide (\d+) pictures (\d+) done", done.stdout).groups())
    assert wide <= width
    assert pictures == 3
