"""Push the notebook, then watch its run until it ends.

Watching can start later and on another machine: it needs only the notebook's name.
"""

import contextlib
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowerkit.files import parse_json, read_json, write_json
from flowerkit.kaggle.bundle import BUNDLE, set_values
from flowerkit.kaggle.client import Client, KaggleError, KernelRun
from flowerkit.kaggle.metadata import METADATA, PLACEHOLDER, KernelMetadata, lint
from flowerkit.text import pluralize

HEARTBEAT_POLLS = 15
FINISHED = ("COMPLETE", "ERROR", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED")

# What notebook 01 prints: "TPU: 8 replicas, jax, bfloat16 (...)"
_DEVICE = re.compile(r"^ *((?:TPU|GPU|CPU): \d+ replicas?, .*?) *$", re.MULTILINE)


class RunFailed(KaggleError):
    """The run on Kaggle did not end well."""


# Push ---------------------------------------------------------------------------------------------


def push_notebook(
    client: Client,
    root: str | Path,
    *,
    require: str | None = None,
    data_sets: Sequence[str] = (),
    plan: str | None = None,
    max_minutes: float | None = None,
) -> KernelRun:
    """Push the bundled notebook of the checkout `root`; Kaggle begins to run it.

    Where kernel-metadata.json has no owner yet, the credentials' user is; the checkout is not changed.
    `data_sets` (OWNER/NAME, or addresses) are attached. `plan` (a name, or "contest") and `max_minutes`
    replace those of the notebook in this push alone. Raises KaggleError if `lint` (see there for
    `require`) finds problems, which are echoed, or if Kaggle refuses the notebook or its inputs.
    """
    problems = lint(root, owner_known=bool(client.username), require=require, data_sets=data_sets)
    for problem in problems:
        client.echo(problem)
    if problems:
        raise KaggleError(f"nothing was pushed: {pluralize(len(problems), 'problem')}")
    metadata = KernelMetadata.load(root)
    if metadata.kernel.startswith(f"{PLACEHOLDER}/"):
        metadata = metadata.with_owner(client.username)
    for name in data_sets:
        metadata = metadata.with_data_set(name)
    asked = {"plan_name": plan, "max_minutes": max_minutes}
    values = {name: value for name, value in asked.items() if value is not None}
    run = KernelRun.parse(metadata.kernel)
    before = find_version(client, run)

    def find_pushed() -> KernelRun | None:
        version = find_version(client, run)
        return replace(run, version=version) if version > before else None

    with tempfile.TemporaryDirectory(prefix="flowerkit-push-") as folder:
        metadata.save(folder)
        code = Path(folder, metadata.values["code_file"])
        code.parent.mkdir(parents=True)
        write_json(code, set_values(read_json(Path(root, BUNDLE)), values), indent=1)
        return client.call(
            f"pushing {run}",
            lambda: _read_response(client, run, client.api.kernels_push(folder)),
            find_result=find_pushed,
            suspects=(
                f"in {METADATA} the title and that each source exists and is yours or public, and on "
                f"kaggle.com/settings that your phone is verified, which internet and TPUs need"
            ),
        )


def find_version(client: Client, run: KernelRun) -> int:
    """The newest version's number; 0 for a notebook that Kaggle does not have."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = run.owner, run.name

    def get():
        with client.api.build_kaggle_client() as kaggle:
            return kaggle.kernels.kernels_api_client.get_kernel(request).metadata

    found = client.find(f"looking for {run}", get)
    return (found and found.current_version_number) or 0


def _read_response(client: Client, run: KernelRun, response) -> KernelRun:
    if response.error:
        raise KaggleError(
            f"Kaggle did not take {run}: {client.scrub(response.error.strip().rstrip('.'))}. Correct "
            "that and push again; `kaggle quota` shows the TPU time that is left."
        )
    refused = [
        f"{kind} {name}"
        for kind in ("competition", "dataset", "kernel", "model")
        for name in getattr(response, f"invalid_{kind}_sources", None) or ()
    ]
    found = re.search(r"/code/([^/?#]+/[^/?#]+)", response.url or "")
    named = KernelRun.parse(found[1]) if found else run
    if refused:
        raise KaggleError(
            f"Kaggle took {named} but not its inputs ({', '.join(refused)}), so its run will find no "
            f"data. Stop it at {named.url}, accept the competition's rules, push again."
        )
    return replace(named, version=response.version_number)


# Watch --------------------------------------------------------------------------------------------


@dataclass
class RunLog:
    """What a run printed so far; each line is echoed once, as soon as it is whole."""

    client: Client
    text: str = ""

    @property
    def device(self) -> str | None:
        """The line that names the device."""
        found = _DEVICE.search(self.text)
        return found[1] if found else None

    def update(self, text: str) -> None:
        """`text` is the log from its beginning, as far as it is known now."""
        new = text[len(self.text) : text.rfind("\n") + 1]
        self.text += new
        for line in new.split("\n"):
            if line.strip():
                self.client.echo(self.client.scrub(f"  {line.rstrip()}"))


def watch_run(client: Client, run: KernelRun, *, require: str | None = None) -> RunLog:
    """Follow a run to its end and echo its log.

    Raises RunFailed as soon as the log names another device than `require` ("tpu", "gpu", "cpu"), and
    if the run fails, is cancelled, or names none although one is required.
    """
    log = RunLog(client)
    ended = _follow(client, run, log, require)
    whole = client.call(f"the log of {run}", lambda: client.api.kernels_logs(str(run)))
    log.update(read_log(whole) + "\n")
    _refuse_device(run, log, require)
    if ended.status.name != "COMPLETE":
        raise RunFailed(f"{describe_end(client, run, ended)}. {run.url}")
    if require and not log.device:
        raise RunFailed(
            f"{run} names no device in its log, so it may not have used a {require.upper()}. {run.url}"
        )
    return log


def _follow(client: Client, run: KernelRun, log: RunLog, require: str | None):
    """The session's status at its end."""
    status, polls = None, 0
    while True:
        session = get_session(client, run)
        before, status, polls = status, session.status.name, polls + 1
        if status != before:
            polls = 0
            client.echo(f"{run}: {status.lower()}")
        elif polls % HEARTBEAT_POLLS == 0:
            client.echo(f"{run}: still {status.lower()}")
        if status == "RUNNING":
            _stream_log(client, run, log, require)
        if status in FINISHED:
            return session
        time.sleep(client.poll_seconds)


def _stream_log(client: Client, run: KernelRun, log: RunLog, require: str | None) -> None:
    """The live log until it ends or the connection does; without any, it follows when the run ends."""
    from requests.exceptions import RequestException

    with contextlib.suppress(RequestException, ValueError):  # ValueError: the client's for 401, 403
        text = ""  # each connection repeats the log from its beginning
        for event in client.api.kernels_logs_stream(str(run)):
            text += _read_event(event)
            log.update(text)
            _refuse_device(run, log, require)


def _refuse_device(run: KernelRun, log: RunLog, require: str | None) -> None:
    if require and log.device and not log.device.lower().startswith(require):
        raise RunFailed(
            f"{run} ran on a {log.device[:3]}, not the required {require.upper()} ({log.device}). If it "
            f"still runs, stop it at {run.url}; then check machine_shape in {METADATA}, that it has no "
            "docker_image, and push again."
        )


# The state of a run -------------------------------------------------------------------------------


def get_session(client: Client, run: KernelRun):
    """Kaggle's record of a run: its `status`, at the end one of FINISHED, and `failure_message`."""
    return client.call(f"the status of {run}", lambda: client.api.kernels_status(str(run)))


def describe_end(client: Client, run: KernelRun, session) -> str:
    """How a run ended that did not complete, without a full stop."""
    reason = client.scrub(session.failure_message or "Kaggle gives no reason").rstrip(".")
    ending = "failed" if session.status.name == "ERROR" else "was cancelled"
    return f"{run} {ending}: {reason}"


def read_log(text: str) -> str:
    """What a run printed, from its log, which Kaggle keeps as a list of {stream_name, time, data}."""
    try:
        return "".join(map(_read_event, parse_json(text, source="the log", kind=list)))
    except ValueError:
        return text


def _read_event(event) -> str:
    return str(event.get("data") or "") if isinstance(event, dict) else ""
