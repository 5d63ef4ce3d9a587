"""label_review: which labels are doubted, what a person decides, and the page in a browser."""

import csv
import json
import shutil
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from chromium import CHROMIUM, open_page
from exported_run import CLASSES, train_on_photos

from flowerkit.deploy.label_review import DECISIONS, LabelReview, ReviewPage
from flowerkit.deploy.local_server import serve_locally
from flowerkit.files import read_json, write_json
from flowerkit.photos import Decision, load_conversion, read_decisions, relabel, write_decisions
from flowerkit.sources import find_data
from flowerkit.training import RunFolder

WRONG = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on photos of four classes, three of whose training labels are wrong, as it says itself."""
    from flowerkit.data import load_split
    from flowerkit.training.trainer import train

    whole = RunFolder(train_on_photos("pad"))
    trained_on = whole.environment().data
    data = find_data(trained_on.folder)
    split = load_split(data, "train", cache="none")
    ids, labels = split.ids.tolist(), split.labels.tolist()
    wrong = {id: (label + 1) % 4 for id, label in list(zip(ids, labels, strict=True))[:WRONG]}
    folder = tmp_path_factory.mktemp("review") / "run"
    train(relabel(data, wrong), whole.plan(), out=folder)
    return RunFolder(folder)


@pytest.fixture(scope="module")
def reviewed(run, tmp_path_factory):
    return LabelReview(run, tmp_path_factory.mktemp("decisions") / "d.csv")


@pytest.fixture
def review(reviewed, tmp_path):
    """With a csv of its own."""
    reviewed.file, reviewed.decisions = tmp_path / "d.csv", {}
    return reviewed


def test_the_wrong_labels_of_a_run_stand_first_with_the_right_ones(run, review):
    wrong = run.environment().data.relabelled
    first = review.first(WRONG)
    assert {doubt.id for doubt in first} == set(wrong)
    assert all(doubt.is_issue for doubt in first)
    for doubt in first:
        assert doubt.given == CLASSES[wrong[doubt.id]]
        assert doubt.file.startswith(f"{doubt.suggested}/")  # the folder that the photo is in
        assert doubt.split == "train"
    assert len(review.doubts) == sum(run.environment().data.counts.values())
    assert review.first() == review.doubts[: max(review.num_issues, 3)]


def test_decisions_are_written_at_once_taken_back_and_taken_up(run, review):
    first, second = review.first(2)
    review.decide(first, first.suggested)
    review.decide(second, second.given)
    review.decide(second, "leave out")
    found = read_decisions(review.file)
    assert [(d.given, d.new) for d in found.values()] == [
        (first.given, first.suggested),
        (second.given, "leave out"),
    ]
    assert found[first.id].file == first.file
    review.decide(second, None)
    assert list(read_decisions(review.file)) == [first.id]
    with pytest.raises(ValueError, match="no class 'Rose'. Did you mean 'rose'.*iris.*'leave out'"):
        review.decide(first, "Rose")
    for num in (0, -1, 2.5):
        with pytest.raises(ValueError, match=rf"num={num} \(--top {num}\).*from 1"):
            review.first(num)


def test_the_list_is_a_csv_to_fill_in_which_train_and_convert_take(run, review, tmp_path):
    review.write_list(review.file, review.first(2))
    assert read_decisions(review.file) == {}
    rows = list(csv.DictReader(review.file.open(encoding="utf-8")))
    rows[0]["new"] = rows[0]["suggested"]
    with review.file.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    wrong = run.environment().data.relabelled[rows[0]["id"]]
    assert rows[0]["given"] == CLASSES[wrong]
    assert list(read_decisions(review.file)) == [rows[0]["id"]]


def test_decisions_on_other_data_and_data_that_are_gone_are_refused(run, tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("id,file,given,new\nx,,rose,iris\n", encoding="utf-8")
    with pytest.raises(ValueError, match="other data.*--out"):
        LabelReview(run, file)
    moved = RunFolder(shutil.copytree(run.path, tmp_path / "moved"))
    values = read_json(moved.environment_file)
    values["data"]["folder"] = str(tmp_path / "gone")
    del values["checksum"]
    write_json(moved.environment_file, values)
    with pytest.raises(FileNotFoundError, match="gone any more"):
        LabelReview(moved, tmp_path / "d.csv")
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        LabelReview(run, tmp_path / "d.csv", folder=tmp_path / "elsewhere")


def post(url, value, **headers):
    """The status and text of a decision that is sent."""
    request = urllib.request.Request(url + "decide", json.dumps(value).encode(), headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read().decode()
    except urllib.request.HTTPError as error:
        return error.code, error.read().decode()


def test_the_page_writes_what_fits_and_other_pages_write_nothing(review):
    with serve_locally(ReviewPage(review, 3)) as url:
        with urllib.request.urlopen(url + "photo/0") as response:
            assert response.read()[:2] == b"\xff\xd8"
        with pytest.raises(urllib.request.HTTPError, match="404"):
            urllib.request.urlopen(url + "photo/3")
        for value in ({"number": 3, "new": "rose"}, {"number": 0, "new": "fern"}, {}, [], 7):
            assert post(url, value)[0] == 400
        answer = {"number": 0, "new": "leave out"}
        assert post(url, answer, Origin="https://example.com")[0] == 403
        assert not review.file.exists()
        assert post(url, answer) == (200, "{}")
    assert [d.new for d in read_decisions(review.file).values()] == ["leave out"]


def test_decisions_on_photos_that_a_conversion_left_out_go_on(run, tmp_path):
    decision = Decision("rose/99.png", "rose/99.png", "rose", "leave out", "")
    write_decisions(tmp_path / "d.csv", [decision])
    folder = run.data().folder
    conversion = load_conversion(folder)
    try:
        replace(conversion, left_out={"rose/99.png": "d.csv leaves it out"}).save(folder)
        assert list(LabelReview(run, tmp_path / "d.csv").decisions.values()) == [decision]
    finally:
        conversion.save(folder)


def test_a_folder_is_no_csv_to_write_decisions_into(run, tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder"):
        LabelReview(run, tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_click_decides_in_a_browser_and_no_request_leaves_the_machine(review, width):
    with serve_locally(ReviewPage(review, 4)) as url, open_page() as page:
        metrics = {"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 500}
        page.call("Emulation.setDeviceMetricsOverride", **metrics)
        page.call("Page.navigate", url=url)
        loaded = "document.readyState == 'complete'"  # and so its script
        page.wait_for(loaded + " && document.querySelectorAll('.labels li').length == 4")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        click = "document.querySelectorAll('.labels li')[%d].querySelector('%s').click()"
        page.run(click % (0, ".choices button:nth-child(2)"))
        page.wait_for("document.getElementById('done').textContent == '1'")
        page.run(click % (1, ".choices button:nth-child(1)"))
        page.wait_for("document.getElementById('done').textContent == '2'")
        page.run(
            "(() => { const input = document.querySelectorAll('.labels li')[2].querySelector('input');"
            "input.value = 'iris'; input.dispatchEvent(new Event('change')); })()"
        )
        page.wait_for("document.getElementById('done').textContent == '3'")
        page.run(click % (1, ".undo"))
        page.wait_for("document.getElementById('done').textContent == '2'")
        assert {each.split("/")[2] for each in page.requests} == {url.split("/")[2]}
        assert page.errors == []
    shown = review.first(4)
    found = read_decisions(review.file)
    assert {id: d.new for id, d in found.items()} == {
        shown[0].id: shown[0].suggested,
        shown[2].id: "iris",
    }
    assert np.isin(list(found), [doubt.id for doubt in shown]).all()
    assert DECISIONS == "decisions.csv"
