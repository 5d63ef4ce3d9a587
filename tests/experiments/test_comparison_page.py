import re

import matplotlib.pyplot as plt
import pytest
from chromium import CHROMIUM, open_page
from PIL import Image
from run_pages import Page

from flowerkit.experiments import compare_runs, write_comparison

LABELS = [0, 1, 2] * 40


@pytest.fixture(scope="module")
def written(make_run, tmp_path_factory):
    """The files of a comparison of two experiments, one with two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    before = plt.get_fignums(), plt.get_backend()
    comparison = compare_runs(
        [
            make_run(folder / "net-seed0", f1=0.9),
            make_run(folder / "net-seed1", f1=0.8, seed=1),
            make_run(folder / "<b>장미", f1=0.5, dropout=0.5),
        ]
    )
    files = write_comparison(comparison, folder / "out")
    assert (plt.get_fignums(), plt.get_backend()) == before
    return files


@pytest.fixture(scope="module")
def page(written):
    return Page(written[0])  # well formed, asks for nothing, holds no script


def test_four_files_are_written(written):
    kinds = ("html", "md", "csv", "png")
    assert [file.name for file in written] == [f"compare.{kind}" for kind in kinds]
    with Image.open(written[3]) as image:
        assert image.width == 1890
        assert len(image.getcolors(1 << 24)) > 50


def test_the_page_has_results_chance_runs_and_what_is_shared(page):
    assert "2 experiments compared" in page.text
    assert "Highest macro F1 0.850 net" in page.text
    assert "Runs 3 of 2 experiments" in page.text
    assert "net 2 0.850 ± 0.071" in page.text
    assert "behind net, which is inside the noise" in page.text
    assert re.search(r"net-seed1 1 0\.800 .* the plan's epochs were done", page.text)
    assert "In common data drawn, 3 classes" in page.text


def test_names_cannot_become_markup(page):
    assert "<b>장미 1 0.500" in page.text


def test_the_curves_are_pictures_with_words(page):
    assert [image["alt"] for image in page.images] == [
        f"{title} by epoch; the highest macro F1 has net."
        for title in ("Macro F1 on val", "Loss on val", "Loss in training")
    ]


def test_lines_have_the_colours_of_the_curves(page):
    lines = [attrs["style"] for tag, attrs in page.tags if attrs.get("class") == "chip"]
    assert sum("#0072B2" in style for style in lines) == 3  # in two tables and above the curves
    assert sum("#D55E00" in style for style in lines) == 3


def test_a_single_run_has_a_page_too(make_run, tmp_path):
    found = Page(write_comparison(compare_runs([make_run(tmp_path / "only")]), tmp_path)[0])
    assert "The plan data drawn, 3 classes" in found.text
    assert "chance" not in found.text


def test_what_cannot_be_compared_has_no_common_winner(make_run, tmp_path):
    folders = [make_run(tmp_path / "a"), make_run(tmp_path / "b", labels=(0, 1), predicted=(0, 1))]
    found = Page(write_comparison(compare_runs(folders), tmp_path)[0])
    highest = r"Highest macro F1 0\.600 {}, on val"
    assert re.search(f"{highest.format('a')} .* {highest.format('b')}", found.text)
    assert found.images[0]["alt"].endswith("the highest macro F1 has a and b.")


@pytest.mark.slow
def test_more_experiments_than_lines_are_counted(make_run, tmp_path):
    folders = [make_run(tmp_path / f"n{k}", f1=k / 100, dropout=k / 100) for k in range(23)]
    found = Page(write_comparison(compare_runs(folders), tmp_path)[0])
    assert "The best 21 of 23 are drawn." in found.text
    assert "n0" in found.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_it_whole_at_any_width(written):
    with open_page() as page:
        for width in (390, 1200):
            page.show(written[0], width)
            assert page.run("document.documentElement.scrollWidth") <= width
            assert page.run("[...document.images].filter(one => one.naturalWidth > 0).length") == 3
        assert page.errors == []
