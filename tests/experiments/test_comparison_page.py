import re
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from chromium import CHROMIUM, open_page
from PIL import Image
from run_pages import Page

from flowerkit.experiments import compare_runs, write_comparison
from flowerkit.training import RunFolder

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
        assert image.width == 1440
        assert len(image.getcolors(1 << 24)) > 50


def test_the_page_has_results_chance_runs_and_what_is_shared(page):
    assert "2 experiments compared" in page.text
    assert (
        "0.850 highest macro F1 on val No clear winner: net is first (macro F1 0.850 on val), but "
        "<b>장미 might be as good." in page.text
    )
    assert "Runs 3 of 2 experiments" in page.text
    assert "net 2 0.850 ± 0.071" in page.text
    assert "behind net, which is inside the noise" in page.text
    assert re.search(r"net-seed1 1 0\.800 .* the plan's epochs were done", page.text)
    assert "In common data drawn, 3 classes" in page.text


def test_names_cannot_become_markup(page):
    assert "<b>장미 1 0.500" in page.text


def test_the_curves_have_their_content_in_words(page):
    charts = [attrs["aria-label"] for tag, attrs in page.tags if attrs.get("class") == "chart"]
    assert charts == [
        f"{title} by epoch. The highest macro F1 has net."
        for title in ("Macro F1 on val", "Loss on val", "Loss in training")
    ]
    assert page.pointed[0] == "Epoch 1: net 0.425, <b>장미 0.250"


def test_lines_have_the_colours_of_the_curves(page):
    classes = [attrs.get("class", "") for _, attrs in page.tags]
    # In two tables and above the curves.
    assert [classes.count(f"chip c{number} d0") for number in range(3)] == [3, 3, 0]
    assert [classes.count(f"line d{number}") for number in range(2)] == [6, 0]


@pytest.fixture(scope="module")
def disagreeing(make_run, finished_run, tmp_path_factory):
    """The page of two runs on the val images of `drawn`, which differ in six of 18 images."""
    folder = tmp_path_factory.mktemp("disagree")
    true = finished_run.predictions.labels
    names = RunFolder(finished_run.folder).environment().data.class_names
    folders = []
    for name, wrong in (("first", [0, 1]), ("second", [1, 2, 3, 4, 5])):
        predicted = true.copy()
        predicted[wrong] = (predicted[wrong] + 1) % 4
        changed = {"f1": 0.9 - len(wrong) / 10, "dropout": len(wrong) / 10}
        changed["data"] = {"images": finished_run.environment.data.images}
        path = make_run(folder / name, names=names, labels=true, predicted=predicted, **changed)
        found = RunFolder(path).val_predictions()
        replace(found, ids=finished_run.predictions.ids).save(path / "val_predictions.npz")
        folders.append(path)
    return write_comparison(compare_runs(folders), folder / "out")[0]


def test_photos_on_which_two_runs_disagree_are_shown(disagreeing):
    page = Page(disagreeing)
    assert "Right by first alone: 4 of 18" in page.text
    assert "Right by second alone: 1 of 18" in page.text
    assert page.text.count("70% for the other") == 5
    assert len([image for image in page.images if ", taken for " in image["alt"]]) == 5
    _, *classes = (
        page.text.split("largest difference first")[1].split("Photos on which")[0].split("+")
    )
    assert float(classes[0].split()[0]) >= float(classes[-1].split()[0]) > 0


def test_data_that_is_gone_costs_the_photos_and_not_the_page(make_run, tmp_path, caplog):
    runs = [
        make_run(tmp_path / name, predicted=predicted, dropout=k / 10, data={"folder": "/gone"})
        for k, (name, predicted) in enumerate({"a": (0, 2, 2), "b": (0, 1, 1)}.items())
    ]
    page = Page(write_comparison(compare_runs(runs), tmp_path)[0])
    assert page.images == []
    assert "Right by" in page.text
    (warning,) = caplog.messages
    assert "without photos" in warning
    assert "/gone" in warning


def test_a_single_run_has_a_page_too(make_run, tmp_path):
    found = Page(write_comparison(compare_runs([make_run(tmp_path / "only")]), tmp_path)[0])
    assert "The plan data drawn, 3 classes" in found.text
    assert "only: macro F1 0.600 on val." in found.text
    assert "Class by class" not in found.text


def test_what_cannot_be_compared_has_no_common_winner(make_run, tmp_path):
    folders = [make_run(tmp_path / "a"), make_run(tmp_path / "b", labels=(0, 1), predicted=(0, 1))]
    found = Page(write_comparison(compare_runs(folders), tmp_path)[0])
    assert (
        "No common winner: not all can be compared. The best of those that can are a, b."
        in found.text
    )
    assert "Highest macro F1 0.600 b, on val images of its own" in found.text
    assert "Class by class" not in found.text


@pytest.mark.slow
def test_more_experiments_than_lines_are_counted(make_run, tmp_path):
    folders = [make_run(tmp_path / f"n{k}", f1=k / 100, dropout=k / 100) for k in range(23)]
    found = Page(write_comparison(compare_runs(folders), tmp_path)[0])
    assert "The best 21 of 23 are drawn." in found.text
    assert "n0" in found.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_it_whole_at_any_width(written, disagreeing):
    with open_page() as page:
        for file in (written[0], disagreeing):
            for width in (390, 1200):
                page.show(file, width)
                assert page.run("document.documentElement.scrollWidth") <= width
        box = page.find("svg[data-chart='chart-1']")
        page.move_pointer(box["x"] + box["width"] - 20, box["y"] + 60)
        said = page.run("document.getElementById('chart-1').textContent")
        assert said == "Epoch 2: first 0.700, second 0.400"
        assert page.errors == []
