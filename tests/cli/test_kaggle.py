"""The commands around the round trip; test_round_trip.py and its neighbours run the others."""

import json

import pytest
from fake_kaggle import KERNEL, SOUND

from flowerkit.kaggle.metadata import BUNDLE, METADATA, SOURCE


def test_bundle_writes_what_push_takes_and_tells_when_it_is_stale(command, fake, mine):
    status, said, _ = command("bundle", "--root", mine, "--owner", "flora")
    assert status == 0
    assert f"wrote {mine / BUNDLE} (" in said
    assert said.endswith(
        "ready: push it with `flowerkit push`, or with the plain client, `kaggle kernels push`\n"
    )
    assert json.loads((mine / METADATA).read_text())["id"] == KERNEL
    assert command("bundle", "--root", mine, "--check") == (
        0,
        f"{mine / BUNDLE} is in step with flowerkit/ and {SOURCE}\n",
        "",
    )
    with (mine / "flowerkit" / "plan.py").open("a") as file:
        file.write("# newer\n")
    status, said, _ = command("bundle", "--root", mine, "--check")
    assert status == 1
    assert "stale" in said
    assert fake.calls == []


def test_bundle_needs_no_framework_and_not_even_the_client(command, fake, mine):
    code = (
        "import sys\n"
        "from flowerkit.__main__ import main\n"
        f"main(['bundle', '--root', {str(mine)!r}])\n"
        "print({'tensorflow', 'keras', 'jax', 'numpy', 'kaggle', 'requests'} & set(sys.modules))\n"
    )
    status, said, _ = command("-c", code)
    assert status == 0
    assert said.endswith("set()\n")
    assert "before a push: the owner in id 'INSERT_OWNER_HERE/" in said


INTERRUPTED = """
import signal, sys, time
from flowerkit.__main__ import main
# A shell's background job ignores SIGINT, and hands that down.
signal.signal(signal.SIGINT, signal.default_int_handler)
time.sleep = lambda seconds: signal.raise_signal(signal.SIGINT)
sys.exit(main([*sys.argv[1:], "--poll-seconds", "30"]))
"""


@pytest.mark.parametrize("options", [(), ("--require", "tpu")])
def test_ctrl_c_in_watch_tells_how_to_go_on(command, fake, options):
    status, said, err = command("-c", INTERRUPTED, "watch", KERNEL, *options)
    assert (status, err) == (1, "flowerkit: interrupted\n")
    hint = " ".join(["flowerkit watch", KERNEL, *options])
    assert said.endswith(f"the run goes on; follow it with: {hint}\n")
    assert hint.split()[1:] == ["watch", KERNEL, *options]


def test_ctrl_c_in_push_tells_how_to_go_on(command, fake, checkout):
    status, said, err = command("-c", INTERRUPTED, "push", "--root", checkout)
    assert (status, err) == (1, "flowerkit: interrupted\n")
    hint = f"the run goes on; follow it with: flowerkit watch {KERNEL}/1 --require tpu\n"
    assert said.endswith(hint)


def test_a_way_that_fails_after_the_push_tells_how_to_go_on(command, fake, checkout, tmp_path):
    fake.faults["GetKernelSessionStatus"] = ["drop"] * 3
    status, said, _ = command("push", "--root", checkout)
    assert status == 1
    assert said.endswith(f"follow it with: flowerkit watch {KERNEL}/1 --require tpu\n")
    fake.faults["file"] = ["drop"] * 3
    out = tmp_path / "my results"
    status, said, err = command("push", "--root", checkout, "--out", out)
    assert status == 1
    assert said.endswith(f"fetch it with: flowerkit pull {KERNEL}/2 '{out}'\n")
    assert "fetching history.csv: no answer from Kaggle in 3 tries" in err


def test_a_slip_in_an_option_is_known_before_the_push(command, fake, checkout, tmp_path):
    status, _, err = command("push", "--root", checkout, "--data", tmp_path / "dta")
    assert status == 1
    assert err.startswith(f"flowerkit: no folder {tmp_path}/dta. Pass the folder that holds")
    (tmp_path / "file").touch()
    status, _, err = command("push", "--root", checkout, "--out", tmp_path / "file" / "run")
    assert status == 1
    assert err == (
        f"flowerkit: {tmp_path}/file/run cannot hold the outputs: {tmp_path}/file is no folder that "
        "you may write into. Pass another one.\n"
    )
    assert fake.calls == []


def test_outside_a_checkout_the_commands_say_so(command, fake, tmp_path):
    for words in (["bundle"], ["bundle", "--check"], ["push"]):
        status, _, err = command(*words)
        assert status == 1
        assert err.startswith(f"flowerkit: {tmp_path} is no checkout of flowerkit: it has no")
    assert fake.calls == []


def test_a_folder_is_no_csv_and_no_notebook(command, fake, tmp_path):
    (tmp_path / "runs" / "kaggle-1").mkdir(parents=True)
    status, _, err = command("submit", "runs/kaggle-1")
    assert status == 1
    assert err == (
        "flowerkit: runs/kaggle-1 is a folder. Pass a csv file, or OWNER/NAME of a notebook.\n"
    )
    (tmp_path / "runs" / "kaggle-1" / "submission.csv").write_bytes(SOUND)
    err = command("submit", "runs/kaggle-1")[2]
    assert err.endswith("is a folder. Pass its csv: runs/kaggle-1/submission.csv.\n")
    assert fake.calls == []


def test_a_version_goes_with_a_notebook_not_with_a_file(command, fake):
    status, _, err = command("submit", "a.csv", "--version", "3")
    assert status == 1
    assert "--version 3 is of a notebook, a.csv is a file." in err
    status, _, err = command("submit", "no-such-thing")
    assert status == 1
    assert "'no-such-thing' is no OWNER/NAME of a notebook" in err
    assert fake.calls == []
