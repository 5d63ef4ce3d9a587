"""The commands around the round trip; test_round_trip.py and its neighbours run the others."""

import json

from fake_kaggle import KERNEL

from flowerkit.kernel import BUNDLE, METADATA


def test_bundle_writes_what_push_takes_and_tells_when_it_is_stale(command, fake, mine):
    status, said, _ = command("bundle", "--root", mine, "--owner", "flora")
    assert status == 0
    assert f"wrote {mine / BUNDLE} (" in said
    assert json.loads((mine / METADATA).read_text())["id"] == KERNEL
    assert command("bundle", "--root", mine, "--check")[:2] == (0, "")
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


def test_ctrl_c_tells_how_to_go_on(command, fake):
    code = (
        "import signal, sys, time\n"
        "from flowerkit.__main__ import main\n"
        # A shell's background job ignores SIGINT, and hands that down.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "time.sleep = lambda seconds: signal.raise_signal(signal.SIGINT)\n"
        f"sys.exit(main(['watch', {KERNEL!r}, '--poll-seconds', '30']))\n"
    )
    status, said, err = command("-c", code)
    assert (status, err) == (1, "flowerkit: interrupted\n")
    assert said.endswith(f"the run goes on; follow it with: flowerkit watch {KERNEL}\n")


def test_a_version_goes_with_a_notebook_not_with_a_file(command, fake):
    status, _, err = command("submit", "a.csv", "--version", "3")
    assert status == 1
    assert "--version 3 is of a notebook, a.csv is a file." in err
    status, _, err = command("submit", "no-such-thing")
    assert status == 1
    assert "'no-such-thing' is no OWNER/NAME of a notebook" in err
    assert fake.calls == []
