"""Who signs in, and what goes wrong on the way, by the real `kaggle` client."""

import importlib.metadata
import re

import pytest
from fake_kaggle import KERNEL, KEY, SECRETS, TOKEN, refuse

from flowerkit.kaggle.client import KaggleError, KernelRun, sign_in
from flowerkit.kaggle.push import get_session

RUN = KernelRun.parse(KERNEL)


@pytest.mark.parametrize("names", [("KAGGLE_USERNAME", "KAGGLE_KEY"), ("KAGGLE_KEY",)])
def test_missing_credentials_are_named_with_a_remedy(fake, monkeypatch, names):
    for name in names:
        monkeypatch.delenv(name)
    with pytest.raises(KaggleError, match="no Kaggle credentials here .*export KAGGLE_API_TOKEN"):
        sign_in()
    assert fake.calls == []


def test_an_expired_key_is_an_error_that_does_not_show_it(fake, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "worn-out-key")
    with pytest.raises(KaggleError, match="401: .*may have expired.*KAGGLE_API_TOKEN") as caught:
        get_session(sign_in(), RUN)
    assert "worn-out-key" not in str(caught.value)


def sign_in_with(monkeypatch, token):
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    return sign_in(backoff_seconds=0)


def test_an_access_token_is_as_good_as_a_key(fake, monkeypatch):
    assert sign_in_with(monkeypatch, TOKEN).username == "flora"


@pytest.mark.parametrize(
    ("token", "message"),
    [("old-token-123", "they have expired"), ("odd-token-123\n", "credentials")],
)
def test_a_token_that_kaggle_refuses_is_not_shown(fake, monkeypatch, token, message):
    with pytest.raises(KaggleError, match=message) as caught:
        sign_in_with(monkeypatch, token)
    assert "token-123" not in str(caught.value)


def test_credentials_stay_hidden_where_server_and_client_repeat_them(
    fake, monkeypatch, capsys, caplog
):
    monkeypatch.setenv("VERBOSE", "1")
    fake.faults["GetKernelSessionStatus"] = [
        lambda handler: handler._send(400, refuse(400, f"{KEY} {SECRETS[2]}"))
    ]
    client = sign_in()
    with pytest.raises(KaggleError, match=re.escape("400: [credentials] [credentials]. ")):
        get_session(client, RUN)
    get_session(client, RUN)
    shown = "".join(capsys.readouterr()) + caplog.text + repr(client)
    assert not [secret for secret in SECRETS if secret in shown]


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (400, "pip install --upgrade kaggle six"),
        (401, "export KAGGLE_API_TOKEN"),
        (403, "a private notebook must be yours"),
        (404, "kaggle.com/code/OWNER/NAME"),
        (429, "Wait some minutes"),
        (500, "check its names, else try again later"),
        (503, "Kaggle has trouble. Try again later"),
        ("drop", "Check the network, then try again"),
    ],
)
def test_a_failure_names_the_action_the_reason_and_a_remedy(fake, client, fault, remedy):
    fake.faults["GetKernelSessionStatus"] = [fault] * 9
    with pytest.raises(KaggleError) as caught:
        get_session(client, RUN)
    assert str(caught.value).startswith(f"the status of {KERNEL}: ")
    assert remedy in str(caught.value)
    assert len(fake.calls) == (6 if fault in (429, 500, 503, "drop") else 1)


def test_a_request_is_repeated_after_faults_that_pass(fake, client):
    fake.faults["GetKernelSessionStatus"] = ["drop", 500, 429, 503]
    assert get_session(client, RUN).status.name == "QUEUED"
    assert len(fake.calls) == 5


def test_a_silent_connection_is_given_up(fake):
    fake.faults["GetKernelSessionStatus"] = ["hang"]
    client = sign_in(backoff_seconds=0, timeout_seconds=(5, 0.2))
    assert get_session(client, RUN).status.name == "QUEUED"


STARTS = ["http://kaggle.com/code/", "www.kaggle.com/code/", "HTTPS://WWW.Kaggle.com/code/"]
STARTS += ["https:/www.kaggle.com/code/"]
ENDS = ["", "/", "?scriptVersionId=7", "/edit/run/7", "/notebook", "/notebook?scriptVersionId=7"]
ENDS += ["/output?select=submission.csv", "/log", "/comments#3", "#Results", "/edit", "/run/7"]


@pytest.mark.parametrize(
    ("start", "end"),
    [(start, "/output") for start in STARTS] + [("https://www.kaggle.com/code/", x) for x in ENDS],
)
def test_the_address_of_a_notebook_is_as_good_as_its_name(start, end):
    assert KernelRun.parse(f"{start}{KERNEL}{end}") == RUN
    assert RUN.find_version_id(f"{start}{KERNEL}{end}") == ("7" if "7" in end else None)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (KERNEL, None),
        (f" {KERNEL}/\n", None),
        (f"<https://www.kaggle.com/code/{KERNEL}>", None),
        (f"code/{KERNEL}", None),
        (f"{KERNEL}/3", 3),
        (f"{KERNEL}/v3", 3),
        (f"https://www.kaggle.com/code/{KERNEL}/3", 3),
        (f"kaggle.com/code/{KERNEL}/3?scriptVersionId=7", 3),
    ],
)
def test_a_name_may_be_wrapped_and_have_a_version(text, version):
    assert KernelRun.parse(text) == KernelRun(RUN.owner, RUN.name, version)


@pytest.mark.parametrize(
    "text",
    [
        "flora/petals/latest",
        "flora",
        "",
        "petals.csv",
        "flora/petals/3/4",
        "code/petals",
        "https://www.kaggle.com/code/flora",
        "https://www.kaggle.com/flora",
        "https://www.kaggle.com/flora/code",
        "https://www.kaggle.com/flora/petals",
        "https://www.kaggle.com/competitions/tpu-getting-started",
        "https://www.kaggle.com/c/tpu-getting-started/overview",
        "https://www.kaggle.com/datasets/flora/petals",
        "https://www.kaggle.com/models/flora/petals",
        "https://example.org/code/flora/petals",
    ],
)
def test_what_names_no_notebook_is_refused(text):
    with pytest.raises(ValueError, match=r"is no OWNER/NAME .* OWNER/NAME/3"):
        KernelRun.parse(text)


@pytest.mark.parametrize("version", ["2.2.4", None])
def test_a_client_that_is_missing_or_too_old_is_named_with_the_remedy(monkeypatch, version):
    def find_version(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", find_version)
    remedy = re.escape("pip install 'kaggle>=2.2.5' six")
    with pytest.raises(KaggleError, match=rf"found {version or 'none'}.*{remedy}"):
        sign_in()
