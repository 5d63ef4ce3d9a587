"""The way to Kaggle: push the notebook, watch its run.

Kaggle's own client says nothing when a run lands on another device and takes an error for success.
These functions tell the truth or raise KaggleError. A run can be watched later and from another
machine: all that it takes is the notebook's name.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flowerkit.files import write_json
from flowerkit.kaggle.client import Client, KaggleError, split_name
from flowerkit.kaggle.metadata import METADATA, fill_owner, lint, read_metadata

PAGE_SIZE = 50
TAIL_LINES = 15
FINISHED = ("COMPLETE", "ERROR", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED")

# What notebook 01 prints: "TPU: 8 replicas, jax, mixed_bfloat16 (...)"
_DEVICE = re.compile(r"(TPU|GPU|CPU): \d+ replicas?, .*")
_QUOTA = re.compile(r"quota|limit|exceed|maximum|too many", re.IGNORECASE)


class RunFailed(KaggleError):
    """The run on Kaggle did not end well; `tail` holds the last lines of its log."""

    def __init__(self, message: str, tail: list[str]):
        super().__init__(message)
        self.tail = tail


class NotReady(ValueError):
    """The checkout cannot be pushed as it is; `problems` are what lint found."""

    def __init__(self, problems: list):
        super().__init__(f"nothing was pushed, {len(problems)} to mend first")
        self.problems = problems


@dataclass(frozen=True)
class Pushed:
    """A version of a notebook that Kaggle took and began to run."""

    kernel: str  # OWNER/NAME
    version: int | None
    url: str

    @property
    def run(self) -> str:
        """What watch and pull call it: OWNER/NAME/VERSION."""
        return f"{self.kernel}/{self.version}" if self.version else self.kernel


@dataclass
class RunLog:
    """What a run printed: each line told once, live or afterwards, and its device line found."""

    echo: Callable[[str], None]
    text: str = ""
    num_events: int = 0
    device: str | None = None
    streams: bool = True  # whether the server lets us listen while it runs
    _open_line: str = field(default="", repr=False)

    def add(self, text: str) -> None:
        """More of the log; an unfinished line waits for its end."""
        self.text += text
        *lines, self._open_line = (self._open_line + text).split("\n")
        for line in lines:
            self._take(line)

    def finish(self, text: str) -> None:
        """The whole log, after the run: what was not heard live is told now."""
        if text.startswith(self.text):
            self.add(text[len(self.text) :])
        elif text:
            self.text = text
            self.device = self.device or _find_device(text.split("\n"))
        if self._open_line:
            self.add("\n")

    def find_tail(self) -> list[str]:
        """The last lines."""
        lines = [line.rstrip() for line in self.text.split("\n") if line.strip()]
        return lines[-TAIL_LINES:]

    def _take(self, line: str) -> None:
        self.device = self.device or _find_device([line])
        if line.strip():
            self.echo(f"  {line.rstrip()}")


# Push ---------------------------------------------------------------------------------------------


def push(
    client: Client, root: str | Path, *, owner: str | None = None, require: str | None = None
) -> Pushed:
    """Push the bundled notebook of the checkout `root`; Kaggle begins to run it.

    Where kernel-metadata.json names no owner yet it is the user whose credentials these are, or
    `owner` if they do not tell; the checkout is not changed. `require` is the device that is wanted,
    see `lint`. Raises NotReady with all that `lint` finds, and KaggleError if Kaggle refuses the
    notebook or its inputs.
    """
    owner = _settle_owner(client, owner)
    if problems := lint(root, owner=owner, require=require):
        raise NotReady(problems)
    metadata = fill_owner(read_metadata(root), owner)
    kernel = metadata["id"]
    before = find_version(client, kernel)

    def find_arrived():
        version = find_version(client, kernel)
        return Pushed(kernel, version, _url(kernel)) if version > before else None

    with tempfile.TemporaryDirectory(prefix="flowerkit-push-") as folder:
        write_json(Path(folder, METADATA), metadata)
        code = Path(folder, metadata["code_file"])
        code.parent.mkdir(parents=True)
        shutil.copyfile(Path(root, metadata["code_file"]), code)
        return client.ask(
            f"pushing {kernel}",
            lambda: _read_push_answer(client, kernel, client.api.kernels_push(folder)),
            arrived=find_arrived,
        )


def _settle_owner(client: Client, owner: str | None) -> str:
    known = client.username
    if not (owner or known):
        raise KaggleError("the credentials name no user. Pass --owner, your Kaggle user name.")
    if owner and known and owner.lower() != known.lower():
        raise KaggleError(
            f"--owner {owner} is not you: these credentials are {known}'s. Leave --owner out, or use "
            f"the credentials of {owner}."
        )
    return known or owner


def find_version(client: Client, kernel: str) -> int:
    """The newest version's number; 0 for a notebook that is not there yet."""
    from requests.exceptions import HTTPError

    def look() -> int:
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = ApiGetKernelRequest()
        request.user_name, request.kernel_slug, _ = split_name(kernel)
        with client.api.build_kaggle_client() as kaggle:
            try:
                found = kaggle.kernels.kernels_api_client.get_kernel(request)
            except HTTPError as error:  # Kaggle answers 403 for what may not even exist
                if error.response.status_code in (403, 404):
                    return 0
                raise
        return (found.metadata and found.metadata.current_version_number) or 0

    return client.ask(f"looking for {kernel}", look)


def _read_push_answer(client: Client, kernel: str, answer) -> Pushed:
    if answer.error:
        remedy = "Mend that and push again."
        if _QUOTA.search(answer.error):
            remedy = (
                "TPU time is counted by the week and sessions at once are few: `kaggle quota` shows "
                "what is left, and a session that still runs can be stopped on kaggle.com."
            )
        error = client.scrub(answer.error.strip().rstrip("."))
        raise KaggleError(f"Kaggle did not take {kernel}: {error}. {remedy}")
    kinds = ("competition", "dataset", "kernel", "model")
    refused = [
        f"{kind} {name}"
        for kind in kinds
        for name in getattr(answer, f"invalid_{kind}_sources", None) or ()
    ]
    found = re.search(r"/code/([^/?#]+/[^/?#]+)", answer.url or "")
    pushed = Pushed(found[1] if found else kernel, answer.version_number, answer.url)
    if refused:
        raise KaggleError(
            f"Kaggle took {pushed.kernel} but not its inputs ({', '.join(refused)}), so its run will "
            f"find no data. Stop it at {pushed.url}, accept the competition's rules, push again."
        )
    return pushed


def _url(kernel: str) -> str:
    owner, name, _ = split_name(kernel)
    return f"https://www.kaggle.com/code/{owner}/{name}"


# Watch --------------------------------------------------------------------------------------------


def watch(client: Client, kernel: str, *, require: str | None = None) -> RunLog:
    """Follow a run to its end, its log told as it comes; OWNER/NAME is the newest, or .../VERSION.

    `require` ("tpu", "gpu", "cpu") is compared with the device that the log names. Raises RunFailed
    as soon as that is another one, and if the run fails, is cancelled, or never names a device that
    is required.
    """
    split_name(kernel)
    log = RunLog(lambda line: client.echo(client.scrub(line)))
    answer = _follow(client, kernel, log, require)
    text = list_outputs(client, kernel).log or ""
    log.finish("".join(read_events(text)))
    _refuse_device(kernel, log, require)
    tail = [client.scrub(line) for line in log.find_tail()]
    if answer.status.name != "COMPLETE":
        raise RunFailed(f"{describe_end(client, kernel, answer)}. {_url(kernel)}", tail)
    if require and not log.device:
        raise RunFailed(
            f"{kernel} names no device in its log, so it may not have been a {require.upper()}. "
            f"{_url(kernel)}",
            tail,
        )
    return log


def describe_end(client: Client, kernel: str, answer) -> str:
    """How a run ended that did not end well, without a full stop."""
    reason = client.scrub(answer.failure_message or "Kaggle gives no reason").rstrip(".")
    ending = "failed" if answer.status.name == "ERROR" else "was cancelled"
    return f"{kernel} {ending}: {reason}"


def spell_status(status: str) -> str:
    """A status as a person says it."""
    return status.lower().replace("_", " ")


def _follow(client: Client, kernel: str, log: RunLog, require: str | None):
    """The last answer about a run, when that has ended."""
    status, since, told = None, 0.0, 0.0
    while status not in FINISHED:
        if status is not None:
            time.sleep(client.patience.poll_seconds)
        answer = ask_status(client, kernel)
        now, before, status = time.monotonic(), status, answer.status.name
        if status != before:
            since = told = now
            client.echo(f"{kernel}: {spell_status(status)}")
        elif now - told > client.patience.heartbeat_seconds:
            told = now
            client.echo(
                f"{kernel}: still {spell_status(status)} after {(now - since) / 60:,.0f} min"
            )
        if status == "RUNNING" and log.streams:
            _listen(client, kernel, log, require)
    return answer


def ask_status(client: Client, kernel: str):
    """Kaggle's answer about a run: its `status`, one of FINISHED at the end, and `failure_message`."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

    request = _name_run(ApiGetKernelSessionStatusRequest(), kernel)

    def look():
        with client.api.build_kaggle_client() as kaggle:
            return kaggle.kernels.kernels_api_client.get_kernel_session_status(request)

    return client.ask(f"asking after {kernel}", look)


def list_outputs(client: Client, kernel: str, page_token: str = ""):
    """A page of what a run made: files with their addresses, the log, the next page's token."""
    from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

    request = _name_run(ApiListKernelSessionOutputRequest(), kernel)
    request.page_size, request.page_token = PAGE_SIZE, page_token

    def look():
        with client.api.build_kaggle_client() as kaggle:
            return kaggle.kernels.kernels_api_client.list_kernel_session_output(request)

    return client.ask(f"the outputs of {kernel}", look)


def _name_run(request, kernel: str):
    # The client's own commands are silent about the version before 2.2.5 and ask for the newest,
    # which just after a push may still be the one before.
    request.user_name, request.kernel_slug, version = split_name(kernel)
    if version and hasattr(request, "version_label"):
        request.version_label = f"v{version}"  # Kaggle does not know the bare number
    return request


def _listen(client: Client, kernel: str, log: RunLog, require: str | None) -> None:
    """The live log until it ends or the connection does; a server without one is asked no more."""
    from requests.exceptions import HTTPError, RequestException

    newest = "/".join(split_name(kernel)[:2])
    try:
        # On a new connection the server begins again: what was heard is passed over.
        for number, event in enumerate(client.api.kernels_logs_stream(newest), start=1):
            if number > log.num_events:
                log.num_events = number
                log.add(_read_event(event))
                _refuse_device(kernel, log, require)
    except HTTPError as error:
        log.streams = error.response.status_code >= 429  # the others do not pass
    except ValueError:  # the client's word for 401 and 403
        log.streams = False
    except RequestException:
        return
    if not log.streams:
        client.echo(f"{kernel}: no live log here; it will be shown when the run has ended")


def _read_event(event) -> str:
    return str(event.get("data") or "") if isinstance(event, dict) else ""


def read_events(text: str) -> Iterator[str]:
    """The pieces of a log, which Kaggle keeps as a JSON list of {stream_name, time, data}."""
    try:
        events = json.loads(text)
    except ValueError:
        yield text
        return
    yield from map(_read_event, events if isinstance(events, list) else [events])


def _find_device(lines: list[str]) -> str | None:
    return next((found[0] for line in lines if (found := _DEVICE.match(line.strip()))), None)


def _refuse_device(kernel: str, log: RunLog, require: str | None) -> None:
    if require and log.device and not log.device.lower().startswith(require):
        raise RunFailed(
            f"{kernel} ran on {log.device[:3].lower()} although a {require.upper()} was asked for "
            f"({log.device}). If it still runs, stop it at {_url(kernel)}; then check "
            f"machine_shape in {METADATA}, that it has no docker_image, and push again.",
            log.find_tail(),
        )
