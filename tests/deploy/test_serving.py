"""serving: the page in a browser, and what it shows."""

import base64
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from chromium import CHROMIUM, open_page
from exported_run import draw_photo, export, skip_without, train_on_photos
from PIL import Image

from flowerkit.deploy import load_classifier
from flowerkit.deploy.local_server import serve_locally
from flowerkit.deploy.serving import ClassifierPage


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(train_on_photos("pad"))


@pytest.fixture(scope="module")
def page(classifier):
    return ClassifierPage(classifier, similar=2)


@pytest.fixture
def photo(tmp_path):
    draw_photo("rose", 60).save(tmp_path / "flower.png")
    return tmp_path / "flower.png"


def decode(uri):
    """The pixels of a picture in a data URI."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def ask(page, photo):
    reply = page("POST", "/classify", photo.read_bytes())
    assert (reply.status, reply.kind) == (200, "application/json")
    return json.loads(reply.body)


@pytest.mark.backends
def test_a_photo_gets_its_classes_the_map_and_the_nearest_training_photos(page, classifier, photo):
    found = ask(page, photo)
    shares = classifier.predict(photo)[0].classes
    assert (found["answer"], found["isKnown"]) == ("rose", True)
    assert [name for name, _ in found["classes"]] == [name for name, _ in shares[:3]]
    assert found["classes"][0][1] == pytest.approx(shares[0][1], abs=1e-4)
    assert decode(found["photo"]).shape == (720, 720, 3)
    dark = decode(found["map"])
    assert dark.shape == (32, 32, 2)
    assert not dark[..., 0].any()
    assert (dark[..., 1].min(), dark[..., 1].max() > 0) == (
        0,
        True,
    )  # the whole photo shows nowhere
    assert [near["className"] for near in found["similar"]] == ["rose", "rose"]
    assert decode(found["similar"][0]["photo"]).shape == (32, 32, 3)


def test_an_unreadable_file_gets_a_message(page):
    reply = json.loads(page("POST", "/classify", b"no photo").body)
    assert reply["problem"].startswith("This file cannot be read: no picture")
    assert "0 bytes" in json.loads(page("POST", "/classify", b"").body)["problem"]


@pytest.mark.backends
def test_what_is_less_certain_than_val_is_none_of_the_classes(classifier, photo):
    card = replace(classifier.card, val_certainty=[-100.0] + [1.0] * 100)
    found = ask(ClassifierPage(replace(classifier, card=card)), photo)
    assert (found["answer"], found["isKnown"]) == ("none of these classes", False)
    assert found["classes"][0][0] == "rose"
    with pytest.raises(ValueError, match=r"accept=2"):
        ClassifierPage(classifier, accept=2)


def test_the_page_names_the_model_and_its_score_and_has_six_examples(page, classifier):
    text = page("GET", "/", b"").body.decode()
    score = f"macro F1 {classifier.card.val_f1:.3f} on val"
    assert f"<title>run, {score}: flowerkit</title>" in text
    assert text.count('class="example"') == 6
    for path in ("/page.css", "/page.js"):
        assert len(page("GET", path, b"").body) > 1000
    assert page("GET", "/classify", b"") is page("GET", "/model.keras", b"") is None


def test_an_export_elsewhere_has_neither_examples_nor_similar_photos_nor_a_map(
    photo, tmp_path, caplog
):
    skip_without("onnx")
    shutil.copy(export("onnx").path, tmp_path / "m.onnx")
    page = ClassifierPage(load_classifier(tmp_path / "m.onnx"), similar=2)
    assert "the page shows no photos of the run's data" in caplog.text
    found = ask(page, photo)
    assert (found["answer"], found["map"], found["similar"]) == ("rose", None, [])
    assert 'class="example"' not in page("GET", "/", b"").body.decode()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_photos_get_their_class_and_nothing_leaves(page, classifier, photo):
    share = classifier.predict(photo)[0].classes[0][1]
    bad = photo.with_name("bad.jpg")
    bad.write_text("no photo")
    with serve_locally(page) as url, open_page() as tab:
        tab.call("Page.navigate", url=url)
        tab.wait_for("document.querySelectorAll('.example').length == 6")
        tab.choose_file("#file", photo)
        tab.wait_for("document.querySelector('#answer .name')?.innerText == 'rose'")
        tab.wait_for("document.querySelector('#photo').naturalWidth == 720")
        bars = tab.run("document.querySelector('#classes li').innerText").split("\n")
        assert bars == ["rose", f"{100 * share:.1f} %"]
        assert tab.run("document.querySelectorAll('#similar li').length") == 2
        tab.run(
            "strength.value = 80; document.querySelector('#strength').dispatchEvent(new Event('input'))"
        )
        assert tab.run("getComputedStyle(document.querySelector('#map')).opacity") == "0.8"
        tab.choose_file("#file", bad)
        tab.wait_for("document.querySelector('#answer').innerText.includes('no picture')")
        tab.run("document.querySelector('.example').click()")
        tab.wait_for("document.querySelector('#answer .name') != null")
        assert tab.errors == []
        assert [u for u in tab.requests if not u.startswith((url, "data:", "blob:"))] == []
        tab.run("fetch('https://example.com').then(() => window.left = 1, () => window.left = 0)")
        tab.wait_for("window.left === 0")
        for width in (390, 1280):
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            tab.call("Emulation.setDeviceMetricsOverride", **metrics)
            tab.wait_for(f"innerWidth == {width}")
            assert tab.run("document.documentElement.scrollWidth") <= width
            # Photos have their place's size, not their own.
            of_photos = "[...document.querySelectorAll('.photos img')]"
            beyond = "map(each => each.width - each.parentElement.clientWidth)"
            assert {round(each) for each in tab.run(f"{of_photos}.{beyond}")} == {0}
