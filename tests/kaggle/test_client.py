"""Who asks and what goes wrong on the way, by the real `kaggle` client."""

import re
from importlib.metadata import PackageNotFoundError

import pytest
from fake_kaggle import DEVICE, KERNEL, KEY, TOKEN, refuse

from flowerkit.kaggle import client as kaggle_client
from flowerkit.kaggle.client import KaggleError, sign_in


def test_no_credentials(command, fake):
    status, said, err = command("watch", KERNEL, KAGGLE_USERNAME=None, KAGGLE_KEY=None)
    assert (status, said) == (1, "")
    assert err.startswith("flowerkit: no Kaggle credentials here. Make a token at")
    assert fake.calls == []


def test_half_of_the_credentials(command, fake):
    status, _, err = command("watch", KERNEL, KAGGLE_KEY=None)
    assert status == 1
    assert "no Kaggle credentials here: KAGGLE_USERNAME is set, KAGGLE_KEY is not. Make a" in err


def test_in_a_colab_notebook_the_token_comes_from_its_secrets(command, fake):
    code = (
        "import sys, types\n"
        "userdata = types.SimpleNamespace(get={'KAGGLE_API_TOKEN': sys.argv[1]}.get)\n"
        "sys.modules['google.colab'] = types.ModuleType('google.colab')\n"
        "sys.modules['google.colab'].userdata = userdata\n"
        "from flowerkit.kaggle.client import sign_in\n"
        "client = sign_in()\n"
        "print(client.username, client.scrub(sys.argv[1]))\n"
    )
    status, said, err = command("-c", code, TOKEN, KAGGLE_USERNAME=None, KAGGLE_KEY=None)
    assert (status, said, err) == (0, "flora [credentials]\n", "")


def test_expired_credentials(command, fake):
    status, _, err = command("watch", KERNEL, KAGGLE_KEY="worn-out-key")
    assert status == 1
    assert "Kaggle does not accept the credentials, which may have expired (401" in err
    assert "worn-out-key" not in err
    secrets = {"KAGGLE_USERNAME": None, "KAGGLE_KEY": None}
    status, _, err = command("watch", KERNEL, KAGGLE_API_TOKEN="old-token-123", **secrets)
    assert status == 1
    assert "does not accept the credentials that are saved here; they may have expired" in err
    assert "old-token-123" not in err
    status, _, err = command("watch", KERNEL, KAGGLE_API_TOKEN="broken-token-123\n", **secrets)
    assert status == 1
    assert "[credentials]" in err
    assert "broken-token-123" not in err


def test_an_access_token_is_as_good_as_a_key(command, fake, checkout):
    secrets = {"KAGGLE_USERNAME": None, "KAGGLE_KEY": None, "KAGGLE_API_TOKEN": TOKEN}
    status, said, _ = command("push", "--root", checkout, "--no-watch", **secrets)
    assert status == 0
    assert f"pushed {KERNEL} version 1" in said


def test_credentials_stay_hidden_when_the_client_and_the_log_are_talkative(command, fake, tmp_path):
    fake.log = [f"{DEVICE}\n", f"the key is {KEY}\n"]
    fake.faults["GetKernelSessionStatus"] = [lambda handler: handler._send(500, refuse(500, KEY))]
    status, said, _ = command("watch", KERNEL, "--debug", VERBOSE="1")
    assert status == 0
    assert "  the key is [credentials]" in said
    assert f"asking after {KERNEL}: 500: [credentials]; trying again in 0.0 s" in said
    assert command("pull", KERNEL, tmp_path / "out", VERBOSE="1")[0] == 1  # five rows only
    fake.faults["GetKernelSessionStatus"] = [400]
    assert command("watch", KERNEL, "--debug", VERBOSE="1")[0] == 1
    stored = [file for file in tmp_path.rglob("*") if file.is_file() and "home" not in file.parts]
    assert stored
    assert not [file for file in stored if KEY.encode() in file.read_bytes()]


def test_a_kernel_that_nobody_knows(command, fake):
    status, _, err = command("watch", "flora/no-such-kernel")
    assert status == 1
    assert (
        "asking after flora/no-such-kernel: Kaggle does not know it (404: Not found). Check" in err
    )
    fake.faults["GetKernelSessionStatus"] = [403]
    status, _, err = command("watch", KERNEL)
    assert status == 1
    assert (
        f"asking after {KERNEL}: not allowed to flora (403: server says 403). Check the name" in err
    )
    status, _, err = command("watch", f"{KERNEL}/latest")
    assert status == 1
    assert "is no OWNER/NAME of a notebook" in err


def test_what_kaggle_refuses_has_a_remedy_too(command, fake):
    fake.faults["GetKernelSessionStatus"] = [400]
    status, _, err = command("watch", KERNEL)
    assert status == 1
    assert f"asking after {KERNEL}: Kaggle refuses it (400: server says 400). If that does" in err
    assert err.endswith("update the client: `pip install --upgrade kaggle six`.\n")


def test_the_address_of_a_notebook_is_as_good_as_its_name(command, fake):
    fake.statuses = ["COMPLETE"]
    for address in ("https://www.kaggle.com/code/", "kaggle.com/code/"):
        status, said, _ = command("watch", f"{address}{KERNEL}/3")
        assert status == 0
        assert said.startswith(f"{KERNEL}/3: complete\n")
    assert command("submit", f"https://www.kaggle.com/code/{KERNEL}")[2] == (
        f"flowerkit: Kaggle knows no version of {KERNEL}. Check the name, or push it first.\n"
    )


def test_a_server_that_is_down(command, fake):
    down = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
    status, _, err = command("watch", KERNEL, **down)
    assert status == 1
    assert "no answer from Kaggle in 3 tries (the connection failed" in err
    assert "then try again; a run that was pushed goes on meanwhile." in err
    assert set(fake.find_strange_sockets()) == {"127.0.0.1 9"}
    (fake.folder / "sockets").unlink()


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        ("2.2.3", "is too old (2.2.3, wanted 2.2.4). Run `pip install 'kaggle>=2.2.4' six`."),
        (None, "the kaggle client is not installed. Run `pip install 'kaggle>=2.2.4' six`."),
    ],
)
def test_a_client_that_is_missing_or_too_old(monkeypatch, version, sentence):
    def find_version(name):
        if version is None:
            raise PackageNotFoundError(name)
        return version

    monkeypatch.setattr(kaggle_client.importlib.metadata, "version", find_version)
    with pytest.raises(KaggleError, match=re.escape(sentence)):
        sign_in()
