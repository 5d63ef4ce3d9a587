"""A small Kaggle on loopback, which the real `kaggle` client talks to as if to its proxy.

With KAGGLE_API_ENVIRONMENT=LOCALHOST the client calls http://localhost, and with HTTP_PROXY it sends
that to this server, in absolute form. Everything else fails at once: HTTPS goes to a closed port, and
each address that a test tries to reach is recorded.
"""

import base64
import json
import os
import shutil
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flowerkit import kaggle
from flowerkit.__main__ import main
from flowerkit.kaggle.bundle import SOURCE
from flowerkit.kaggle.client import sign_in
from flowerkit.kaggle.metadata import write_bundle
from flowerkit.sources import CLASS_NAMES

USER, KEY, TOKEN = "flora", "0123456789abcdef-secret-key", "KGAT_secret_access_token"
KERNELS, COMPETITIONS = "kernels.KernelsApiService", "competitions.CompetitionApiService"
HOST = "http://localhost"
NAME = "petals-to-the-metal-flowerkit"
KERNEL = f"{USER}/{NAME}"
DEVICE = "TPU: 8 replicas, jax, bfloat16 (a TPU is attached)"

IDS = [f"{number:09x}" for number in range(5)]
VALID_CSV = b"id,label\n" + b"".join(
    f"{name},{label}\n".encode() for name, label in zip(IDS, (3, 3, 3, 3, 0), strict=True)
)
SECRETS = (KEY, TOKEN, base64.b64encode(f"{USER}:{KEY}".encode()).decode(), "sesame")

_sockets = []  # every address that a program tries to reach


def _note_socket(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        _sockets.append(args[1][:2])


sys.addaudithook(_note_socket)


class FakeKaggle(ThreadingHTTPServer):
    """One user's Kaggle. Tests set what it holds and what goes wrong, then read what it saw."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.closing = threading.Event()
        self.folder = folder
        self.calls, self.foreign, self.leaks, self.versions_asked = [], [], [], []
        self.faults = {}  # call -> what happens to its first, second ... time; None: nothing
        self.version, self.pushed, self.push_response = 0, [], {}
        self.statuses, self.failure = ["QUEUED", "RUNNING", "COMPLETE"], None
        self.log = ["flowerkit 0.1.0\n", f"{DEVICE}\n", "epoch 1/2\nepoch", " 2/2\n"]
        self.outputs, self.page_size = {}, 2
        self.submissions, self.uploads, self.submit_response = [], [], None
        self.returns_number = True
        self.submission_statuses = ["PENDING", "COMPLETE"]
        self.versions, self.pages, self.blobs = {}, {}, []  # of what was published
        self.created, self.create_response = [], {}
        self.data_set_statuses = ["BLOBS_RECEIVED", "READY"]

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""

    def patch_environment(self, monkeypatch) -> None:
        """Nothing of this machine's Kaggle, no way to the real one, and no waiting."""
        for name in os.environ:
            if name.startswith(("KAGGLE_", "XDG_")) or name.lower().endswith("_proxy"):
                monkeypatch.delenv(name)
        address = f"http://127.0.0.1:{self.server_address[1]}"
        for name, value in {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": USER,
            "KAGGLE_KEY": KEY,
            "HTTP_PROXY": address,
            "http_proxy": address,
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
            "HOME": str(self.folder),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)

    # Responses ------------------------------------------------------------------------------------

    def respond(self, call: str, body: dict) -> dict:
        return getattr(self, f"on_{call}")(body)

    def on_IntrospectToken(self, body):
        return {"active": True, "username": USER} if body["token"] == TOKEN else {"active": False}

    def on_GetKernel(self, body):
        if not self.version or _name(body) != KERNEL:
            return refuse(403, "Permission 'kernels.get' was denied")
        return {"metadata": {"ref": KERNEL, "currentVersionNumber": self.version}, "blob": {}}

    def on_SaveKernel(self, body):
        if not self.push_response.get("error"):
            self.version += 1
            self.pushed.append(body)
        url = f"https://www.kaggle.com/code/{body['slug']}"
        return {"ref": body["slug"], "url": url, "versionNumber": self.version} | self.push_response

    def _note_version(self, body):
        self.versions_asked.append(body.get("versionLabel"))

    def on_GetKernelSessionStatus(self, body):
        self._note_version(body)
        if _name(body) != KERNEL:
            return refuse(404, "Not found")
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return {"status": status} | ({"failureMessage": self.failure} if self.failure else {})

    def on_ListKernelSessionOutput(self, body):
        self._note_version(body)
        if _name(body) != KERNEL:
            return refuse(404, "Not found")
        start = int(body.get("pageToken") or 0)
        names = sorted(self.outputs)
        # The address is signed, as the real one is; the signature must never be shown.
        files = [
            {"fileName": name, "url": f"{HOST}/files/{number}?signature=sesame"}
            for number, name in enumerate(names)
        ][start : start + self.page_size]
        more = start + self.page_size < len(names)
        log = json.dumps([{"stream_name": "stdout", "time": 1.0, "data": t} for t in self.log])
        token = {"nextPageToken": str(start + self.page_size)} if more else {}
        return {"files": files, "log": log} | token

    def on_StartSubmissionUpload(self, body):
        return {"token": "blob-1", "createUrl": f"{HOST}/upload/1?signature=sesame"}

    def on_CreateSubmission(self, body):
        return self._submit(body["submissionDescription"])

    def on_CreateCodeSubmission(self, body):
        assert (body["kernelOwner"], body["kernelSlug"]) == (USER, NAME)
        assert body["fileName"] == "submission.csv"
        return self._submit(body["submissionDescription"]) | {"version": body["kernelVersion"]}

    def _submit(self, description):
        if self.submit_response:
            return self.submit_response
        self.submissions.append({"ref": len(self.submissions) + 41, "description": description})
        number = {"ref": self.submissions[-1]["ref"]} if self.returns_number else {}
        return {"message": "Successfully submitted"} | number

    def on_ListSubmissions(self, body):
        if self.submissions and len(self.submission_statuses) > 1:
            status = self.submission_statuses.pop(0)
        else:
            status = self.submission_statuses[0]
        result = {"status": status, "publicScore": "0.97", "errorDescription": "wrong ids"}
        return {"submissions": [entry | result for entry in self.submissions]}

    # What is published ----------------------------------------------------------------------------

    def on_StartBlobUpload(self, body):
        self.blobs.append(body)
        number = len(self.blobs)
        return {"token": f"blob-{number}", "createUrl": f"{HOST}/upload/{number}?signature=sesame"}

    def files(self) -> dict[str, bytes]:
        """What the newest version holds, by name."""
        tokens = [
            int(file["token"].removeprefix("blob-")) - 1 for file in self.created[-1]["files"]
        ]
        return {self.blobs[number]["name"]: self.uploads[number] for number in tokens}

    def _get(self, name: str, found: dict, *, of=None) -> dict:
        if not name.startswith(f"{USER}/"):
            return refuse(403, "Permission was denied")
        return found if name in (self.versions if of is None else of) else refuse(404, "Not found")

    def _create(self, name: str, body: dict) -> dict:
        if not name.startswith(f"{USER}/"):
            return refuse(403, "Permission was denied")
        if not self.create_response.get("error"):
            self.created.append(body)
            self.versions[name] = self.versions.get(name, 0) + 1
        return {"ref": name, "status": "ok", "url": f"{HOST}/{name}"} | self.create_response

    def on_GetDatasetStatus(self, body):
        statuses = self.data_set_statuses
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        return self._get(_name_data_set(body), {"status": status})

    def on_GetDataset(self, body):
        name = _name_data_set(body)
        return self._get(name, {"ref": name, "currentVersionNumber": self.versions.get(name)})

    def on_CreateDataset(self, body):
        name = f"{body['ownerSlug']}/{body['slug']}"
        if name in self.versions:
            return {"status": "error", "error": "The slug is in use"}
        return self._create(name, body)

    def on_CreateDatasetVersion(self, body):
        return self._create(_name_data_set(body), body["body"])

    def on_GetModel(self, body):
        name = f"{body['ownerSlug']}/{body['modelSlug']}"
        found = {"ref": name, "description": self.pages.get(name, {}).get("description")}
        return self._get(name, found, of=self.pages)

    def on_CreateModel(self, body):
        name = f"{body['ownerSlug']}/{body['slug']}"
        if not name.startswith(f"{USER}/"):
            return refuse(403, "Permission was denied")
        if name in self.pages:
            return refuse(409, "The model exists")
        self.pages[name] = body
        return {"ref": name}

    def on_UpdateModel(self, body):
        page = self.pages[f"{body['ownerSlug']}/{body['modelSlug']}"]
        names = {"is_private": "isPrivate"}
        for name in body["updateMask"].split(","):
            page[names.get(name, name)] = body[names.get(name, name)]
        return {}

    def on_GetModelInstance(self, body):
        name = _name_instance(body, body)
        return self._get(name, {"versionNumber": self.versions.get(name)})

    def on_CreateModelInstance(self, body):
        return self._create(_name_instance(body, body["body"]), body["body"])

    def on_CreateModelInstanceVersion(self, body):
        return self._create(_name_instance(body, body), body["body"])


def _name_data_set(body: dict) -> str:
    return f"{body['ownerSlug']}/{body['datasetSlug']}"


def _name_instance(body: dict, instance: dict) -> str:
    framework = instance["framework"].removeprefix("MODEL_FRAMEWORK_").lower()
    return f"{body['ownerSlug']}/{body['modelSlug']}/{framework}/{instance['instanceSlug']}"


def _name(body: dict) -> str:
    return f"{body['userName']}/{body['kernelSlug']}"


def refuse(status: int, message: str) -> dict:
    """A response that is an error, in Kaggle's form."""
    return {"code": status, "message": message}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self._read_body()
        self._serve(
            self.path.rsplit("/", 1)[1], lambda: self.server.respond(self._call, json.loads(body))
        )

    def do_PUT(self):
        body = self._read_body()
        self._serve("PUT", lambda: self.server.uploads.append(body) or {})

    def do_GET(self):
        if self.path.startswith(f"{HOST}/files/"):
            number = int(self.path.split("/")[-1].split("?")[0])
            self._serve("file", lambda: self.server.outputs[sorted(self.server.outputs)[number]])
        else:
            self._serve("stream", lambda: self.server.log)

    def _serve(self, call, respond):
        fake, self._call = self.server, call
        fake.calls.append(call)
        if not self.path.startswith(f"{HOST}/"):
            fake.foreign.append(self.path)
        signed_in = self.headers.get("Authorization")
        if call in ("file", "PUT"):
            if signed_in:
                fake.leaks.append(self.path)
        elif (
            signed_in not in (f"Basic {SECRETS[2]}", f"Bearer {TOKEN}")
            and call != "IntrospectToken"
        ):
            return self._send(401, refuse(401, "Unauthenticated"))
        faults = fake.faults.get(call, [])
        fault = faults.pop(0) if faults else None
        if fault in ("drop", "lose", "hang"):
            if fault == "lose":  # it arrives, its response does not
                respond()
            if fault == "hang":
                fake.closing.wait(30)
            self.close_connection = True
            return None
        if isinstance(fault, int):
            return self._send(fault, refuse(fault, f"server says {fault}"))
        if callable(fault):
            return fault(self)
        if call == "stream":
            return self.stream(fake.log)
        found = respond()
        return self._send(found.get("code", 200) if isinstance(found, dict) else 200, found)

    def stream(self, pieces, *, end=True):
        """The live log, as server-sent events; without the end the connection is dropped."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in pieces:
            event = json.dumps({"stream_name": "stdout", "time": 1.0, "data": piece})
            self.wfile.write(f"data: {event}\n\n".encode())
        if end:
            self.wfile.write(b"data: END_OF_LOG\n\n")
        self.close_connection = True

    def _send(self, status, found):
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        kind = "application/octet-stream" if isinstance(found, bytes) else "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


# Fixtures -----------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """What a push needs of the repository, made small and freshly bundled, without an owner."""
    root = tmp_path / "checkout"
    (root / "flowerkit").mkdir(parents=True)
    (root / "flowerkit/__init__.py").write_text('__version__ = "0.1.0"\n', encoding="utf-8")
    (root / SOURCE).parent.mkdir()
    shutil.copy(Path(__file__).parents[1] / SOURCE, root / SOURCE)
    write_bundle(root)
    return root


@pytest.fixture
def five_images(tmp_path):
    """A folder of data with five test images, as far as the check of a csv reads it."""
    folder = tmp_path / "data"
    shard = folder / "tfrecords-jpeg-32x32" / "test" / "00-32x32-5.tfrec"
    shard.parent.mkdir(parents=True)
    shard.touch()
    (folder / "classes.json").write_text(json.dumps(CLASS_NAMES[:4]))
    (folder / "sample_submission.csv").write_bytes(VALID_CSV.replace(b",3", b",0"))
    return folder


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A Kaggle whose run left a valid csv; afterwards, that no other address was ever asked."""
    home = tmp_path / "home"
    home.mkdir()
    _sockets.clear()
    with FakeKaggle(home) as fake:
        fake.patch_environment(monkeypatch)
        fake.outputs = {
            "submission.csv": VALID_CSV,
            "history.csv": b"epoch\n",
            "run/plan.json": b"{}",
        }
        yield fake
    assert fake.foreign == []
    assert [address for address in _sockets if address != fake.server_address] == []
    assert fake.leaks == []


@pytest.fixture
def lines():
    """The lines that `client` echoed."""
    return []


@pytest.fixture
def client(fake, lines):
    """The real client, signed in at the fake server, without waiting."""
    return sign_in(lines.append, poll_seconds=0, backoff_seconds=0)


@pytest.fixture
def command(fake, monkeypatch, capsys, caplog, tmp_path):
    """Runs a command without waiting; no output may ever hold credentials or signatures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kaggle, "sign_in", partial(sign_in, poll_seconds=0, backoff_seconds=0))

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert not [secret for secret in SECRETS if secret in out + err + caplog.text]
        return status, out, err

    return run
