"""The `kaggle` client with time limits, retries, and errors that name a remedy and no credentials."""

import base64
import contextlib
import importlib.metadata
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self, TypeVar

from packaging.version import Version

from flowerkit.sources import SLUG

MIN_VERSION = "2.2.5"  # an older one loses the version of a run and stores error pages as outputs
RULES = f"https://www.kaggle.com/competitions/{SLUG}/rules"

_TOKEN_REMEDY = (
    "Make a token at https://www.kaggle.com/settings (API), then `export KAGGLE_API_TOKEN=...`, or "
    "save it as ~/.kaggle/access_token"
)
_REMEDIES = {
    401: f"The credentials may have expired. {_TOKEN_REMEDY}",
    403: "Check the name and its owner: a private notebook must be yours, and the competition's rules "
    f"accepted at {RULES}",
    404: "Check the name at the end of the notebook's address, kaggle.com/code/OWNER/NAME",
    429: "Kaggle limits the rate of requests. Wait some minutes, then try again",
}
# A request that changes something must not be repeated: it may have arrived, only its response be
# lost. A log that is silent is read again when the run's status is known.
_SENT_ONCE = re.compile(r"/(SaveKernel|Create\w+|logs/stream/.*)$")
_BY_ID = re.compile(r"scriptVersionId=(\d+)|/run/(\d+)", re.IGNORECASE)

Response = TypeVar("Response")


class KaggleError(RuntimeError):
    """Kaggle or the network failed; the message names a remedy and holds no credentials."""


def split_address(text: str, page: str) -> tuple[list[str], bool]:
    """Owner, name and what follows them in OWNER/NAME or an address kaggle.com/PAGE/OWNER/NAME.

    An empty list where it has none; the second value: whether it begins with the host.

    >>> split_address("https://www.kaggle.com/datasets/flora/petals?select=x.h5", "datasets")
    (['flora', 'petals'], True)
    """
    path = re.split("[?#]", text.strip().strip("<>'\""))[0].rstrip("/")
    # A path instead of an address has one slash fewer.
    host, name = r"(?:https?:/{1,2})?(?:www\.)?kaggle\.com/+", r"[\w-]+/[\w-]+(?:/.*)?"
    found = re.fullmatch(rf"(?i)({host})?({page}/)?(?!{page}/)({name})", path)
    if not found or (found[1] and not found[2]):
        return [], False
    return found[3].split("/"), bool(found[1])


@dataclass(frozen=True)
class KernelRun:
    """A version of a notebook on Kaggle, or its newest one where `version` is None."""

    owner: str
    name: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """From OWNER/NAME, OWNER/NAME/VERSION or any address of the notebook; else ValueError.

        An address that names its version by an id, `find_version_id`, is one of the newest.

        >>> str(KernelRun.parse("https://www.kaggle.com/code/flora/petals/3"))
        'flora/petals/3'
        >>> str(KernelRun.parse("www.kaggle.com/code/flora/petals/edit/run/7#Results"))
        'flora/petals'
        """
        parts, has_host = split_address(text, "code")
        version = re.fullmatch(r"v?(\d{1,9})", parts[2]) if len(parts) == 3 else None
        if not (version or has_host or len(parts) == 2):
            raise ValueError(
                f"{text!r} is no OWNER/NAME of a notebook. Take it from the end of the notebook's "
                "address, kaggle.com/code/OWNER/NAME; a version may follow: OWNER/NAME/3."
            )
        return cls(parts[0], parts[1], int(version[1]) if version else None)

    @staticmethod
    def find_version_id(text: str) -> str | None:
        """The id by which an address names a version, and which Kaggle's API does not know."""
        found = _BY_ID.search(text)
        return found and (found[1] or found[2])

    @property
    def kernel(self) -> str:
        """OWNER/NAME."""
        return f"{self.owner}/{self.name}"

    @property
    def url(self) -> str:
        return f"https://www.kaggle.com/code/{self.kernel}"

    def __str__(self) -> str:
        return f"{self.kernel}/{self.version}" if self.version else self.kernel


@dataclass(frozen=True)
class Client:
    """A signed-in client: `api` is the kaggle package's KaggleApi, `echo` takes lines of progress."""

    api: Any
    echo: Callable[[str], None]
    poll_seconds: float

    @property
    def username(self) -> str | None:
        """The Kaggle user name of the credentials, as far as the client knows it."""
        return self.api.config_values.get(self.api.CONFIG_NAME_USER)

    def call(
        self,
        action: str,
        request: Callable[[], Response],
        *,
        find_result: Callable[[], Response | None] | None = None,
        suspects: str = "its names",
        remedies: Mapping[int, str] = MappingProxyType({}),
    ) -> Response:
        """What `request()` returns; `action` names it in errors. Raises KaggleError.

        A request that changes something on Kaggle may arrive and its response get lost: `find_result`
        returns what that would have held, or None. Kaggle responds with status 500 to requests that it
        does not expect, too: `suspects` are what to check in this one; `remedies` by status are its own.
        """
        try:
            with hushed():
                return request()
        except KaggleError:
            raise
        except Exception as cause:  # the client passes on the errors of several libraries
            if hasattr(cause.__context__, "response"):  # it takes a 401 for a wrong name
                cause = cause.__context__
            if find_result and _is_lost(cause) and (result := find_result()) is not None:
                return result
            raise KaggleError(
                self.scrub(f"{action}: {_describe(cause, suspects, remedies)}")
            ) from None

    def find(
        self, action: str, get: Callable, *, missing=(403, 404), remedies=MappingProxyType({})
    ):
        """What `get()` returns; None where Kaggle has it not: it may respond 403 then, too."""
        from requests.exceptions import HTTPError

        def look():
            try:
                return get()
            except HTTPError as error:
                if error.response.status_code not in missing:
                    raise

        return self.call(action, look, remedies=remedies)

    def scrub(self, text: str) -> str:
        """The text without the credentials, in case a server has repeated them."""
        names = (self.api.CONFIG_NAME_KEY, self.api.CONFIG_NAME_TOKEN)
        values = [self.api.config_values.get(name) for name in names]
        values += [os.environ.get("KAGGLE_KEY"), os.environ.get("KAGGLE_API_TOKEN")]
        secrets = {value.strip() for value in values if value and len(value.strip()) > 3}
        secrets |= {base64.b64encode(f"{self.username}:{s}".encode()).decode() for s in secrets}
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "[credentials]")
        return text


def sign_in(
    echo: Callable[[str], None] = lambda line: None,
    *,
    poll_seconds: float = 20.0,
    backoff_seconds: float = 2.0,
    timeout_seconds: tuple[float, float] = (15.0, 120.0),
) -> Client:
    """A client with the credentials that are saved here.

    A run's status is requested every `poll_seconds`; a failed request is sent six times, with pauses
    that grow from `backoff_seconds`; `timeout_seconds` limit the connection and each silence. Raises
    KaggleError if the client is missing or too old, or if Kaggle accepts no credentials.
    """
    try:
        version = importlib.metadata.version("kaggle")
    except importlib.metadata.PackageNotFoundError:
        version = None
    if version is None or Version(version) < Version(MIN_VERSION):
        raise KaggleError(
            f"the kaggle client {MIN_VERSION} or newer is needed, found {version or 'none'}. "
            f"Run `pip install 'kaggle>={MIN_VERSION}' six`."
        )
    client = Client(_build_api(backoff_seconds, timeout_seconds), echo, poll_seconds)
    try:
        client.call("signing in", client.api.authenticate)
    except SystemExit:  # the client exits where it finds nothing that Kaggle accepts
        raise KaggleError(
            "no Kaggle credentials here (KAGGLE_API_TOKEN, KAGGLE_USERNAME with KAGGLE_KEY, or a file "
            f"in ~/.kaggle), or they have expired. {_TOKEN_REMEDY}."
        ) from None
    return client


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Drop what the client prints and urllib3 logs: both may show signed addresses."""
    log = logging.getLogger("urllib3.connectionpool")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def _build_api(backoff_seconds: float, timeout_seconds: tuple[float, float]) -> Any:
    """The kaggle package's API, with limits of time and retries in every session."""
    from requests import Session
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    with hushed():
        from kaggle.api.kaggle_api_extended import KaggleApi, ResumableUploadResult

    retry = Retry(
        5,
        allowed_methods=None,  # Kaggle's API reads by POST
        status_forcelist=(429, 500, 502, 503, 504),
        backoff_factor=backoff_seconds,
        raise_on_status=False,  # the client explains the last response
        respect_retry_after_header=False,  # it may ask for hours
    )

    class Adapter(HTTPAdapter):
        def send(self, request, stream=False, timeout=None, **options):
            self.max_retries = Retry(0) if _SENT_ONCE.search(request.url) else retry
            return super().send(request, stream, timeout or timeout_seconds, **options)

    class Api(KaggleApi):
        # With VERBOSE in the environment it would print the header with the credentials.
        args = [word for word in KaggleApi.args if word != "--verbose"]

        def with_retry(self, func, **_):
            return func  # the adapter repeats what may be

        def upload_complete(self, path, url, quiet, resume=False):
            # The client's own waits without limit and hides why it failed.
            with Session() as session, open(path, "rb") as file:
                for scheme in ("http://", "https://"):
                    session.mount(scheme, Adapter())
                session.put(url, data=file).raise_for_status()
            return ResumableUploadResult.COMPLETE

        def build_kaggle_client(self):
            kaggle = super().build_kaggle_client()
            http = kaggle.http_client()
            http._init_session()
            for scheme in ("http://", "https://"):
                http._session.mount(scheme, Adapter())
            return kaggle

    return Api()


def _is_lost(cause: Exception) -> bool:
    """Whether a request may have arrived all the same."""
    from requests.exceptions import ChunkedEncodingError, ConnectionError, Timeout

    lost = isinstance(cause, (ConnectionError, Timeout, ChunkedEncodingError))
    return lost or _find_status(cause) >= 500


def _find_status(cause: Exception) -> int:
    return getattr(getattr(cause, "response", None), "status_code", 0)


def _describe(cause: Exception, suspects: str, remedies: Mapping[int, str]) -> str:
    """Reason and remedy on one line, without addresses, because those of files are signed."""
    status, text = _find_status(cause), " ".join(str(cause).split())
    if status:
        text = text.split(" for url")[0].removeprefix(f"{status} ")
        remedy = "If the reason does not help, run `pip install --upgrade kaggle six`"
        if status == 500:
            remedy = f"Kaggle may not have expected it: check {suspects}, else try again later"
        elif status > 500:
            remedy = "Kaggle has trouble. Try again later"
        return f"{status}: {text[:300]}. {(_REMEDIES | remedies).get(status, remedy)}."
    if _is_lost(cause):
        return (
            "no response from Kaggle, the connection failed or broke. Check the network, then try "
            "again; a run that was pushed goes on meanwhile."
        )
    return text[:300] or type(cause).__name__
