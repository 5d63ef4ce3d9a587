"""serving: the page, in a real browser; and what it answers without one."""

import socket

import numpy as np
import pytest
from chromium import CHROMIUM, open_page
from exported_run import CLASSES, make_run
from PIL import Image

from flowerkit.deploy.classifier import Classifier
from flowerkit.deploy.serving import HOST, build_page, check_port, serve, show


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(make_run())


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), "uint8")
    Image.fromarray(pixels).save(tmp_path / "flower.png")
    return tmp_path / "flower.png"


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def test_a_photo_is_answered_with_its_classes_and_the_map(classifier, photo):
    shares, picture, message = show(classifier, str(photo))
    assert set(shares) == set(CLASSES)
    assert (picture.shape, picture.dtype) == ((32, 32, 3), "uint8")
    assert (picture <= classifier.prepare(photo)).all()  # dark where it does not look
    assert message == f"`flower.png`: {max(shares, key=shares.get)}"


def test_a_bad_file_is_answered_kindly(classifier, tmp_path):
    (tmp_path / "a.jpg").write_text("no photo")
    assert show(classifier, str(tmp_path / "a.jpg")) == (
        None,
        None,
        "`a.jpg` cannot be read: no picture (begins with b'no photo', 8 bytes). Try another photo.",
    )
    assert show(classifier, None) == (None, None, "")


def test_a_taken_port_is_refused_with_a_free_one():
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(
            OSError, match=rf"port {taken} of 127\.0\.0\.1 is taken.* --port \d+, which"
        ):
            check_port(taken)
    with pytest.raises(ValueError, match="port 70000 is none"):
        check_port(70000)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_a_dropped_photo_gets_its_class_and_nothing_leaves(classifier, photo, port):
    pytest.importorskip("gradio", reason="pip install 'gradio>=6,<7'")
    expected = classifier.predict(photo)[0]
    bad, large = photo.with_name("bad.jpg"), photo.with_name("large.jpg")
    bad.write_text("no photo")
    large.write_bytes(bytes(2_000_000))
    say = "document.querySelector('#message').innerText"
    choose = "#photo input[type=file]"
    with serve(build_page(classifier), port=port, max_mb=1) as url, open_page() as page:
        page.call("Page.navigate", url=url)
        page.wait_for(f"!!document.querySelector('{choose}')")
        page.choose_file(choose, photo)
        page.wait_for(f"{say}.includes('flower.png: {expected.name}')")
        page.wait_for("document.querySelector('#picture img')?.naturalWidth == 32")
        bars = page.run("document.querySelector('#classes').innerText").split("\n")
        assert bars[2:4] == [expected.name, f"{round(100 * expected.classes[0][1])}%"]
        assert page.errors == []
        for file, answer in ((bad, "no picture"), (large, "exceed the maximum")):
            page.run("document.querySelector('#photo [aria-label=Clear]')?.click()")
            page.wait_for(f"!!document.querySelector('{choose}')")
            page.choose_file(choose, file)
            page.wait_for(f"document.body.innerText.includes({answer!r})")
        foreign = [one for one in page.requests if not one.startswith((url, "data:", "blob:"))]
        assert foreign == []
        assert (
            page.run("fetch('https://example.com').then(() => 1, error => 2), document.fonts.size")
            == 0
        )
    check_port(port)  # it is free again


def test_without_gradio_the_line_for_pip_is_told(classifier, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(RuntimeError, match=r"needs Gradio.*pip install 'gradio>=6,<7'"):
        build_page(classifier)
