"""A headless Chromium that a test drives: the DevTools protocol over two pipes, nothing to install."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)


class Page:
    """One tab. `requests` are the addresses that it requested, `errors` those of its console."""

    def __init__(self, reading, writing):
        self.reading, self.writing = reading, writing
        self.numbers, self.replies, self.events = itertools.count(1), {}, []
        self.rest, self.session = b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while number not in self.replies:
            self._receive()
        reply = self.replies.pop(number)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    def _receive(self):
        data = os.read(self.reading, 1 << 20)
        if not data:
            raise RuntimeError("Chromium ended")
        *messages, self.rest = (self.rest + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self.replies[message["id"]] = message
            else:
                self.events.append(message)

    def run(self, script):
        """The value of a script in the page."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return reply["result"].get("value")

    def wait_for(self, script, seconds=30):
        """The value of the script once it is true."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if value := self.run(script):
                return value
            time.sleep(0.05)
        raise TimeoutError(
            f"{script} was never true; the page says: {self.run('document.body.innerText')!r}"
        )

    def show(self, file, width):
        """Open a file in a window `width` px wide, and wait until it is there."""
        metrics = {"width": width, "height": 2000, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Page.navigate", url=file.as_uri())
        self.wait_for(f"document.readyState == 'complete' && innerWidth == {width}")

    def find(self, selector):
        """The box of an element in px of the window, after it was scrolled into view."""
        return self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center', behavior: 'instant'});"
            "return one.getBoundingClientRect().toJSON(); })()"
        )

    def click(self, selector):
        """A click of a mouse on the middle of an element."""
        box = self.find(selector)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind in ("mousePressed", "mouseReleased"):
            pressed = {"type": kind, "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", x=x, y=y, **pressed)

    def move_pointer(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def touch(self, x, y):
        """A tap of a finger."""
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key):
        """A key such as "Enter"."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def choose_file(self, selector, file):
        """As dropping the file on an `<input type=file>` does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    @property
    def requests(self):
        sent = self._select("Network.requestWillBeSent")
        return [params["request"]["url"] for params in sent]

    @property
    def errors(self):
        entries = [params["entry"] for params in self._select("Log.entryAdded")]
        logged = [entry["text"] for entry in entries if entry["level"] == "error"]
        return logged + self._select("Runtime.exceptionThrown")

    def _select(self, method):
        """The parameters of all events of a method so far."""
        return [event["params"] for event in self.events if event["method"] == method]


@contextlib.contextmanager
def open_page():
    """A `Page` of a new Chromium, which ends with the block."""
    child_in, writing = os.pipe()
    reading, child_out = os.pipe()

    def move_pipes():  # Chromium reads from 3 and writes to 4
        first, second = os.dup(child_in), os.dup(child_out)
        os.dup2(first, 3)
        os.dup2(second, 4)

    # Its children outlive the kill for a moment and may still write into the profile.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}"],
            preexec_fn=move_pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_in)
        os.close(child_out)
        try:
            yield Page(reading, writing)
        finally:
            process.kill()
            process.wait()
            os.close(writing)
            os.close(reading)
