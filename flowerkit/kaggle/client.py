"""The `kaggle` client, asked with patience: signed in, retried within bounds, its errors explained.

The client forgets time limits, takes its own exit status for success and prints credentials when
VERBOSE is set. Here every question has a limit, a failure is an exception with a remedy, and what
the client prints is dropped.
"""

import base64
import contextlib
import importlib.metadata
import io
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flowerkit.sources.competition import SLUG, has_kaggle_token

MIN_VERSION = (2, 2, 4)  # read and run; before it the live log or the version of a run is missing
SETTINGS = "https://www.kaggle.com/settings"
RULES = f"https://www.kaggle.com/competitions/{SLUG}/rules"
PASSING = (429, 500, 502, 503, 504)  # answers that may be better a moment later

_TOKEN_REMEDY = (
    f"Make a token at {SETTINGS} (API), then `export KAGGLE_API_TOKEN=...`, or save it as "
    "~/.kaggle/access_token"
)

# A path in the place of an address has one slash fewer.
_NAME = re.compile(
    r"(?:(?:https?:/{1,2})?(?:www\.)?kaggle\.com/code/)?([\w-]+)/([\w-]+)(?:/v?(\d{1,9}))?/?"
)

Answer = TypeVar("Answer")


class KaggleError(RuntimeError):
    """Kaggle, or the way to it, failed; the message says what to do. It holds no credentials."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often Kaggle is asked, and how long for; seconds are real ones."""

    poll_seconds: float = 20.0  # between two looks at a run
    retry_seconds: float = 2.0  # before the second try; doubled before each later one
    max_retry_seconds: float = 60.0
    max_tries: int = 6
    connect_seconds: float = 15.0
    silence_seconds: float = 120.0  # the longest wait for the next byte of an answer
    heartbeat_seconds: float = 300.0  # a run of which nothing new is heard is told again
    num_score_polls: int = 15


@dataclass
class Client:
    """A signed-in client. `ask` puts a question to Kaggle; `api` is the client's own KaggleApi."""

    patience: RetryPolicy
    echo: Callable[[str], None]
    api: Any = None
    _secrets: list[str] = field(default_factory=list, repr=False)

    @property
    def username(self) -> str | None:
        """The Kaggle user name that the credentials belong to, as far as the client knows it."""
        return self.api.config_values.get(self.api.CONFIG_NAME_USER)

    def ask(
        self,
        what: str,
        question: Callable[[], Answer],
        *,
        arrived: Callable[[], Answer | None] | None = None,
    ) -> Answer:
        """What `question()` returns, tried again after failures that pass; `what` is told in errors.

        A question that changes something on Kaggle needs `arrived`: an answer may get lost though
        the question arrived, and asked twice it would be done twice. It returns the answer that
        was lost, or None. Raises KaggleError.
        """
        for attempt in range(1, self.patience.max_tries + 1):
            try:
                with hushed():
                    return question()
            except KaggleError:
                raise
            except Exception as cause:  # the client lets the errors of several libraries through
                if not _is_passing(cause) or attempt == self.patience.max_tries:
                    raise KaggleError(self.scrub(self._explain(what, cause, attempt))) from None
                wait = self._find_wait(cause, attempt)
                failure = self.scrub(f"{what}: {_describe(cause)}")
                self.echo(f"{failure}; trying again in {wait:,.1f} s")
            time.sleep(wait)
            if arrived and (answer := self.ask(f"{what} (did it arrive?)", arrived)) is not None:
                return answer
        raise KaggleError(f"{what}: max_tries must be 1 or more")

    def scrub(self, text: str) -> str:
        """The text without the credentials, should a server have repeated them."""
        for secret in self._secrets:
            text = text.replace(secret, "[credentials]")
        return text

    def learn_secrets(self) -> None:
        """Remember what must never be shown."""
        config = self.api.config_values
        values = {
            config.get(self.api.CONFIG_NAME_KEY),
            config.get(self.api.CONFIG_NAME_TOKEN),
            os.environ.get("KAGGLE_KEY"),
            os.environ.get("KAGGLE_API_TOKEN"),
        }
        known = {value.strip() for value in values if value and len(value.strip()) > 3}
        basic = {f"{self.username}:{value}".encode() for value in known}
        known |= {base64.b64encode(pair).decode() for pair in basic}
        self._secrets = sorted(known, key=len, reverse=True)

    def _find_wait(self, cause: Exception, attempt: int) -> float:
        grown = self.patience.retry_seconds * 2 ** (attempt - 1)
        headers = getattr(getattr(cause, "response", None), "headers", None) or {}
        with contextlib.suppress(ValueError):  # it may be a date
            grown = max(grown, float(headers.get("Retry-After", 0)))
        return min(grown, self.patience.max_retry_seconds)

    def _explain(self, what: str, cause: Exception, tries: int) -> str:
        status, reason = _find_status(cause), _describe(cause)
        if status == 401:
            return (
                f"{what}: Kaggle does not accept the credentials, which may have expired "
                f"({reason}). {_TOKEN_REMEDY}."
            )
        if status == 403:
            return (
                f"{what}: not allowed to {self.username or 'this user'} ({reason}). Check the name "
                f"and its owner; a private notebook must be yours, and the rules accepted at {RULES}."
            )
        if status == 404:
            return (
                f"{what}: Kaggle does not know it ({reason}). Check the name; it stands at the end of "
                "the notebook's address, kaggle.com/code/OWNER/NAME."
            )
        if status == 429:
            limited = f"{what}: Kaggle's rate limit, in {tries} tries ({reason})"
            return f"{limited}. Wait some minutes, then go on."
        if status in PASSING:
            return f"{what}: trouble at Kaggle, in {tries} tries ({reason}). Try again later."
        if _is_passing(cause):
            return (
                f"{what}: no answer from Kaggle in {tries} tries ({reason}). Check the network, then "
                "try again; a run that was pushed goes on meanwhile."
            )
        if status:
            return (
                f"{what}: Kaggle refuses it ({reason}). If that does not say what to mend, "
                "update the client: `pip install --upgrade kaggle six`."
            )
        return f"{what}: {reason}"


def sign_in(
    patience: RetryPolicy | None = None, echo: Callable[[str], None] = lambda line: None
) -> Client:
    """A client with the credentials that are saved here; `tell` is called with lines of progress.

    Raises KaggleError if the client is missing, too old or broken, if there are no credentials, or
    if Kaggle refuses them.
    """
    _check_version()
    has_kaggle_token()  # in a Colab notebook this fetches it
    client = Client(patience or RetryPolicy(), echo)
    client.api = _make_api(client.patience)
    client.learn_secrets()  # an error while signing in may repeat them
    client.ask("signing in", lambda: _authenticate(client.api))
    client.learn_secrets()
    return client


def split_name(kernel: str) -> tuple[str, str, int | None]:
    """Owner, name and version of OWNER/NAME or OWNER/NAME/VERSION; else ValueError.

    The whole address, as a browser shows it, will do.

    >>> split_name("flora/petals/3")
    ('flora', 'petals', 3)
    >>> split_name("https://www.kaggle.com/code/flora/petals")
    ('flora', 'petals', None)
    """
    found = _NAME.fullmatch(kernel)
    if not found:
        raise ValueError(
            f"{kernel!r} is no OWNER/NAME of a notebook. It stands at the end of the notebook's "
            "address, kaggle.com/code/OWNER/NAME; a version may follow: OWNER/NAME/3."
        )
    return found[1], found[2], int(found[3]) if found[3] else None


@contextlib.contextmanager
def hushed():
    """Drop what the client prints: it speaks to people at its own command line."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _check_version() -> None:
    wanted = ".".join(map(str, MIN_VERSION))
    remedy = f"Run `pip install 'kaggle>={wanted}' six`."
    try:
        version = importlib.metadata.version("kaggle")
    except importlib.metadata.PackageNotFoundError:
        raise KaggleError(f"the kaggle client is not installed. {remedy}") from None
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
    if numbers < MIN_VERSION:
        raise KaggleError(f"the kaggle client is too old ({version}, wanted {wanted}). {remedy}")


def _make_api(patience: RetryPolicy):
    try:
        with hushed():
            from kaggle.api.kaggle_api_extended import KaggleApi
    except ImportError as error:
        raise KaggleError(
            f"the kaggle client does not start ({error}). Run `pip install --upgrade kaggle six`."
        ) from None

    class PatientApi(KaggleApi):
        # With VERBOSE in the environment it would print the header with the credentials.
        args = [word for word in KaggleApi.args if word != "--verbose"]

        def build_kaggle_client(self):
            return _limit_time(super().build_kaggle_client(), patience)

    return PatientApi()


def _limit_time(kaggle, patience: RetryPolicy):
    """The client's session waits for ever where the other side has gone silently; ours does not."""
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(self, request, stream=False, timeout=None, **options):
            limits = timeout or (patience.connect_seconds, patience.silence_seconds)
            return super().send(request, stream=stream, timeout=limits, **options)

    http = kaggle.http_client()
    http._init_session()
    for scheme in ("http://", "https://"):
        http._session.mount(scheme, Adapter())
    return kaggle


def _authenticate(api) -> None:
    try:
        api.authenticate()
    except Exception:
        raise
    except BaseException as error:  # without credentials the client exits the process
        if isinstance(error, KeyboardInterrupt):
            raise
        raise KaggleError(f"{_find_lack()}. {_TOKEN_REMEDY}.") from None


def _find_lack() -> str:
    """Why the client found nothing to sign in with."""
    if has_kaggle_token():
        return "Kaggle does not accept the credentials that are saved here; they may have expired"
    pair = ("KAGGLE_USERNAME", "KAGGLE_KEY")
    lacking = [name for name in pair if not os.environ.get(name)]
    if len(lacking) == 1:
        there = next(name for name in pair if name not in lacking)
        return f"no Kaggle credentials here: {there} is set, {lacking[0]} is not"
    return "no Kaggle credentials here"


def _find_status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_passing(error: Exception) -> bool:
    import requests

    dropped = (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
    )
    return isinstance(error, dropped) or _find_status(error) in PASSING


def _describe(error: Exception) -> str:
    """One line without addresses, for those of files are signed."""
    status, text = _find_status(error), " ".join(str(error).split())
    if status:
        text = text.split(" for url")[0].removeprefix(f"{status} ")
        return f"{status}: {text}"[:300]
    if _is_passing(error):
        return "the connection failed or was dropped"
    return text[:300] or type(error).__name__
