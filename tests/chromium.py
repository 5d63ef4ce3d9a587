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
    """One tab. `requests` are the addresses that it asked for, `errors` what its console says."""

    def __init__(self, reading, writing):
        self.reading, self.writing = reading, writing
        self.numbers, self.answers, self.events = itertools.count(1), {}, []
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
        while number not in self.answers:
            self._receive()
        answer = self.answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self):
        data = os.read(self.reading, 1 << 20)
        if not data:
            raise RuntimeError("Chromium ended")
        *messages, self.rest = (self.rest + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                self.events.append(message)

    def run(self, script):
        """The value of a script in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return found["result"].get("value")

    def wait_for(self, script, seconds=30):
        """The value of the script once it is true."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if value := self.run(script):
                return value
            time.sleep(0.2)
        raise TimeoutError(
            f"{script} never was true; the page says: {self.run('document.body.innerText')!r}"
        )

    def choose_file(self, selector, file):
        """As dropping the file on an `<input type=file>` does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    @property
    def requests(self):
        sent = [
            one["params"] for one in self.events if one["method"] == "Network.requestWillBeSent"
        ]
        return [one["request"]["url"] for one in sent]

    @property
    def errors(self):
        logged = [
            one["params"]["entry"] for one in self.events if one["method"] == "Log.entryAdded"
        ]
        thrown = [one for one in self.events if one["method"] == "Runtime.exceptionThrown"]
        return [one["text"] for one in logged if one["level"] == "error"] + thrown


@contextlib.contextmanager
def open_page():
    """A `Page` of a Chromium of its own, which is ended with the block."""
    theirs_in, writing = os.pipe()
    reading, theirs_out = os.pipe()

    def take_places():  # Chromium reads from 3 and writes to 4
        first, second = os.dup(theirs_in), os.dup(theirs_out)
        os.dup2(first, 3)
        os.dup2(second, 4)

    # Its children outlive the kill for a moment and may still write into the profile.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}"],
            preexec_fn=take_places,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Page(reading, writing)
        finally:
            process.kill()
            process.wait()
            os.close(writing)
            os.close(reading)
