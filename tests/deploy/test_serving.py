"""serving: the page in a browser, and what it shows."""

import json
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, open_page
from exported_run import CLASSES, draw_photo, export, skip_without, train_on_photos

from flowerkit.deploy import load_classifier
from flowerkit.deploy.serving import build_page, find_cams_of, serve, show


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(train_on_photos("pad"))


@pytest.fixture
def photo(tmp_path):
    draw_photo("rose").save(tmp_path / "flower.png")
    return tmp_path / "flower.png"


def test_a_photo_gets_its_classes_and_the_class_activation_map(classifier, photo):
    shares, picture, message = show(classifier, find_cams_of(classifier), str(photo))
    assert set(shares) == set(CLASSES)
    assert (picture.shape, picture.dtype) == ((32, 32, 3), "uint8")
    assert (picture <= classifier.prepare(photo)).all()  # dark where it does not look
    assert message == "`flower.png`: rose"


def test_another_format_shows_the_photo_without_a_map(photo):
    skip_without("onnx")
    classifier = load_classifier(export("onnx").path)
    assert find_cams_of(classifier) is None
    picture = show(classifier, None, str(photo))[1]
    np.testing.assert_array_equal(picture, classifier.prepare(photo))


def test_an_unreadable_file_gets_a_message(classifier, tmp_path):
    (tmp_path / "a.jpg").write_text("no photo")
    shares, picture, message = show(classifier, None, str(tmp_path / "a.jpg"))
    assert shares is picture is None
    assert message.startswith("`a.jpg` cannot be read: no picture")
    assert show(classifier, None, None) == (None, None, "")


def test_the_page_forbids_other_hosts_and_its_port_is_taken_while_it_runs(classifier):
    pytest.importorskip("gradio", reason="pip install 'gradio>=6,<7'")
    page, second = build_page(classifier), build_page(classifier)
    with serve(page) as url:
        with urllib.request.urlopen(url) as response:
            assert "default-src 'self'" in response.headers["content-security-policy"]
        request = urllib.request.Request(url, headers={"Host": "example.com"})
        with pytest.raises(urllib.request.HTTPError, match="400"):
            urllib.request.urlopen(request)
        port = urllib.parse.urlsplit(url).port
        for used in (port, 70000):
            with pytest.raises(OSError, match=f"no free port {used}.*--port"):
                serve(second, port=used).__enter__()


def post(url, body, kind, **headers):
    request = urllib.request.Request(url, body, {"Content-Type": kind} | headers)
    with urllib.request.urlopen(request) as response:
        return json.loads(response.read())


def upload(url, photo, **headers):
    head = b'--X\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + photo.read_bytes() + b"\r\n--X--\r\n"
    kind = "multipart/form-data; boundary=X"
    return Path(post(f"{url}gradio_api/upload", body, kind, **headers)[0])


def classify(url, file):
    """The outputs of the page's one function for an uploaded file, as the page itself calls it."""
    photo = {"path": str(file), "meta": {"_type": "gradio.FileData"}}
    call = {"data": [photo], "fn_index": 0, "session_hash": "me"}
    post(f"{url}gradio_api/queue/join", json.dumps(call).encode(), "application/json")
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=me") as events:
        for line in events:
            if b"process_completed" in line:
                return json.loads(line.removeprefix(b"data: "))["output"]["data"]


def test_other_pages_cannot_upload_and_a_photo_is_gone_once_it_was_read(classifier, photo):
    pytest.importorskip("gradio", reason="pip install 'gradio>=6,<7'")
    with serve(build_page(classifier)) as url:
        for elsewhere in (
            "https://example.com",
            "null",
            "http://localhost:3000",
            "http://127.0.0.1",
        ):
            with pytest.raises(urllib.request.HTTPError, match="403"):
                upload(url, photo, Origin=elsewhere)
        file = upload(url, photo, Origin=url.rstrip("/"))
        assert file.read_bytes() == photo.read_bytes()
        label, picture, message = classify(url, file)
        assert (label["label"], message) == ("rose", "`a.png`: rose")
        assert not file.exists()
        shown = Path(picture["path"])
        assert shown.exists()
    assert not shown.exists()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_a_dropped_photo_gets_its_class_and_nothing_leaves(classifier, photo):
    pytest.importorskip("gradio", reason="pip install 'gradio>=6,<7'")
    share = classifier.predict(photo)[0].classes[0][1]
    bad = photo.with_name("bad.jpg")
    bad.write_text("no photo")
    choose = "#photo input[type=file]"
    with serve(build_page(classifier)) as url, open_page() as page:
        page.call("Page.navigate", url=url)
        page.wait_for(f"!!document.querySelector('{choose}')")
        page.choose_file(choose, photo)
        page.wait_for("document.querySelector('#message').innerText.includes('flower.png: rose')")
        page.wait_for("document.querySelector('#picture img')?.naturalWidth == 32")
        bars = page.run("document.querySelector('#classes').innerText").split("\n")
        assert bars[2:4] == ["rose", f"{round(100 * share)}%"]
        assert page.errors == []
        page.run("document.querySelector('#photo [aria-label=Clear]')?.click()")
        page.wait_for(f"!!document.querySelector('{choose}')")
        page.choose_file(choose, bad)
        page.wait_for("document.body.innerText.includes('no picture')")
        assert [u for u in page.requests if not u.startswith((url, "data:", "blob:"))] == []
        blocked = "fetch('https://example.com').then(() => 1, error => 2), document.fonts.size"
        assert page.run(blocked) == 0


def test_without_gradio_the_line_for_pip_is_named(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(RuntimeError, match=r"needs Gradio.*pip install 'gradio>=6,<7'"):
        build_page(classifier)
