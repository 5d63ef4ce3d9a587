"""Push and watch, by the real `kaggle` client, against a small Kaggle on loopback."""

import json

import pytest
from fake_kaggle import DEVICE, KERNEL, KEY, NAME, SOUND

from flowerkit.kaggle.metadata import BUNDLE, METADATA, SOURCE

# In one command -----------------------------------------------------------------------------------


def test_one_command_leads_from_the_checkout_to_a_checked_csv(
    command, fake, checkout, five_images, tmp_path
):
    out = tmp_path / "results"
    status, said, err = command("push", "--root", checkout, "--data", five_images, "--out", out)
    assert (status, err) == (0, "")
    assert said.splitlines() == [
        f"pushed {KERNEL} version 1: https://www.kaggle.com/code/{KERNEL}",
        f"{KERNEL}/1: queued",
        f"{KERNEL}/1: running",
        "  flowerkit 0.1.0",
        f"  {DEVICE}",
        "  epoch 1/2",
        "  epoch 2/2",
        f"{KERNEL}/1: complete",
        f"{KERNEL}/1 is done, on {DEVICE}",
        f"  {out}/history.csv (6 bytes)",
        f"  {out}/run/plan.json (2 bytes)",
        f"  {out}/submission.csv (69 bytes)",
        f"  {out}/{NAME}.log (what it printed)",
        f"{out}/submission.csv: sound (every id of the data once)",
        f"submit it with: flowerkit submit {out}/submission.csv",
    ]
    assert fake.calls == [
        "GetKernel",
        "SaveKernel",
        *["GetKernelSessionStatus"] * 2,
        "stream",
        "GetKernelSessionStatus",
        "ListKernelSessionOutput",
        "ListKernelSessionOutput",
        "file",
        "file",
        "ListKernelSessionOutput",
        "file",
    ]
    assert set(fake.versions_asked) == {"v1"}  # never a run before the push
    assert (out / "submission.csv").read_bytes() == SOUND
    assert (out / f"{NAME}.log").read_text() == f"flowerkit 0.1.0\n{DEVICE}\nepoch 1/2\nepoch 2/2\n"
    assert str(fake.server_address[1]) in (tmp_path / "sockets").read_text()  # the record works


def test_what_is_pushed_is_the_bundle_for_a_tpu_in_the_users_name(command, fake, checkout):
    before = (checkout / METADATA).read_bytes()
    status, said, _ = command("push", "--root", checkout, "--no-watch")
    assert status == 0
    assert said.endswith(f"follow it with: flowerkit watch {KERNEL}/1 --require tpu\n")
    (pushed,) = fake.pushed
    assert pushed["slug"] == KERNEL
    assert pushed["enableTpu"] is True
    assert pushed["machineShape"] == "TpuV5E8"
    assert pushed["competitionDataSources"] == ["tpu-getting-started"]
    assert "dockerImage" not in pushed
    cells = json.loads(pushed["text"])["cells"]
    assert len(cells) == len(json.loads((checkout / BUNDLE).read_text())["cells"])
    assert (checkout / METADATA).read_bytes() == before  # credentials' owner is not written down


def test_push_can_submit_what_is_sound_and_tells_the_score(command, fake, checkout, five_images):
    words = [
        "push",
        "--root",
        checkout,
        "--data",
        five_images,
        "--submit",
        "--message",
        "first try",
    ]
    status, said, _ = command(*words)
    assert status == 0
    assert said.endswith("submission 41: public score 0.97\n")
    assert fake.uploads == [SOUND]
    assert [one["description"] for one in fake.submissions] == ["first try"]


# Push ---------------------------------------------------------------------------------------------


def spoil_bundle(root):
    with (root / "flowerkit" / "plan.py").open("a") as file:
        file.write("# newer\n")


def spoil_notebook(root):
    text = (root / SOURCE).read_text()
    (root / SOURCE).write_text(text.replace("find_data", "find_date"))


def spoil_title(root):
    metadata = json.loads((root / METADATA).read_text())
    (root / METADATA).write_text(json.dumps(metadata | {"title": "Pet"}))


def spoil_owner(root):
    text = (root / METADATA).read_text()
    (root / METADATA).write_text(text.replace("INSERT_OWNER_HERE", "somebody"))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (spoil_bundle, "stale"),
        (spoil_notebook, "stale"),
        (spoil_title, "title 'Pet' has 3 characters"),
        (spoil_owner, "is not yours: these credentials are flora's. Run `flowerkit bundle --owner"),
    ],
)
def test_nothing_is_pushed_while_something_is_wrong(command, fake, mine, spoil, sentence):
    spoil(mine)
    status, said, err = command("push", "--root", mine)
    assert (status, err) == (1, "flowerkit: nothing was pushed, 1 to mend first\n")
    assert sentence in said
    assert said.count("\n") == 1
    assert fake.calls == []


def test_the_owner_who_is_named_must_be_the_one_who_signs_in(command, fake, checkout):
    status, _, err = command("push", "--root", checkout, "--owner", "somebody")
    assert status == 1
    assert err == (
        "flowerkit: --owner somebody is not you: these credentials are flora's. Leave --owner out, "
        "or use the credentials of somebody.\n"
    )
    assert fake.calls == []
    assert command("push", "--root", checkout, "--owner", "Flora", "--no-watch")[0] == 0


def test_a_device_that_the_metadata_does_not_ask_for_is_not_pushed_for(command, fake, mine):
    status, said, _ = command("push", "--root", mine, "--require", "gpu")
    assert status == 1
    assert said == (
        'kernel-metadata.json asks for a TPU, --require for a GPU. Write "enable_tpu": false, '
        '"enable_gpu": true, "machine_shape": "NvidiaTeslaT4", or pass --require tpu.\n'
    )
    assert fake.calls == []


def test_a_push_for_a_gpu_must_get_one(command, fake, mine):
    gpu = {"enable_tpu": False, "enable_gpu": True, "machine_shape": "NvidiaTeslaT4"}
    metadata = json.loads((mine / METADATA).read_text())
    (mine / METADATA).write_text(json.dumps(metadata | gpu))
    status, _, err = command("push", "--root", mine)
    assert status == 1
    assert "ran on tpu although a GPU was asked for" in err
    assert (fake.pushed[0]["enableGpu"], fake.pushed[0].get("enableTpu", False)) == (True, False)
    assert fake.pushed[0]["machineShape"] == "NvidiaTeslaT4"
    fake.log[1] = "GPU: 2 replicas, tensorflow, float32 (two GPUs)\n"
    fake.statuses = ["COMPLETE"]
    status, said, _ = command("push", "--root", mine, "--require", "gpu", "--force")
    assert f"{KERNEL}/2 is done, on GPU: 2 replicas" in said


def test_what_the_server_refuses_is_an_error_although_the_client_exits_with_0(
    command, fake, checkout
):
    fake.push_answer = {"error": "The requested title is already in use by a notebook."}
    status, _, err = command("push", "--root", checkout)
    assert status == 1
    assert f"Kaggle did not take {KERNEL}: The requested title is already in use" in err
    assert err.endswith("Mend that and push again.\n")
    fake.push_answer = {"error": f"Maximum weekly TPU quota of 20.00 hours reached ({KEY})."}
    status, _, err = command("push", "--root", checkout)
    assert status == 1
    assert "Maximum weekly TPU quota of 20.00 hours reached ([credentials]). TPU time is" in err
    assert "`kaggle quota`" in err
    assert "GetKernelSessionStatus" not in fake.calls


def test_inputs_that_kaggle_drops_are_an_error(command, fake, checkout):
    fake.push_answer = {"invalidCompetitionSources": ["tpu-getting-started"]}
    status, _, err = command("push", "--root", checkout)
    assert status == 1
    assert "not its inputs (competition tpu-getting-started), so its run will find no data" in err
    assert "accept the competition's rules" in err


def test_a_push_whose_answer_is_lost_is_not_pushed_twice(command, fake, checkout):
    fake.faults["SaveKernel"] = ["lose"]
    status, said, _ = command("push", "--root", checkout, "--no-watch")
    assert status == 0
    assert f"pushing {KERNEL}: the connection failed or was dropped" in said
    assert f"pushed {KERNEL} version 1" in said
    assert fake.calls == ["GetKernel", "SaveKernel", "GetKernel"]
    fake.calls.clear()
    fake.faults["SaveKernel"] = [500, "drop"]
    status, said, _ = command("push", "--root", checkout, "--no-watch")
    assert status == 0
    assert f"pushed {KERNEL} version 2" in said
    assert fake.version == 2
    assert fake.calls.count("SaveKernel") == 3


# Watch --------------------------------------------------------------------------------------------


def test_a_run_that_fails_shows_its_last_lines(command, fake):
    fake.statuses, fake.failure = ["ERROR"], "Notebook Threw Exception"
    fake.log = [f"{DEVICE}\n", *(f"line {k}\n" for k in range(40)), "ValueError: no data\n"]
    status, said, err = command("watch", KERNEL)
    assert status == 1
    assert err == (
        f"flowerkit: {KERNEL} failed: Notebook Threw Exception. "
        f"https://www.kaggle.com/code/{KERNEL}\n"
    )
    tail = said[said.index("the last lines of its log:") :].splitlines()
    assert len(tail) == 16
    assert tail[-2:] == ["  line 39", "  ValueError: no data"]


def test_a_cancelled_run_is_no_success(command, fake):
    fake.statuses = ["RUNNING", "CANCEL_ACKNOWLEDGED"]
    status, _, err = command("watch", KERNEL)
    assert status == 1
    assert f"{KERNEL} was cancelled: Kaggle gives no reason" in err


def test_a_run_on_another_device_is_an_error_as_soon_as_its_log_says_so(command, fake, checkout):
    fake.log[1] = "CPU: 1 replica, jax, float32 (no TPU or GPU here)\n"
    status, said, err = command("push", "--root", checkout)
    assert status == 1
    assert f"{KERNEL}/1 ran on cpu although a TPU was asked for (CPU: 1 replica, jax, " in err
    assert "that it has no docker_image" in err
    assert "epoch 1" not in said  # it did not wait for the end
    assert fake.find_seen()[-1] == "stream"


def test_a_finished_run_on_another_device_is_an_error_too(command, fake):
    fake.statuses = ["COMPLETE"]
    fake.log[1] = "CPU: 1 replica, jax, float32 (no TPU or GPU here)\n"
    assert command("watch", KERNEL)[0] == 0
    status, _, err = command("watch", KERNEL, "--require", "tpu")
    assert status == 1
    assert "ran on cpu although a TPU was asked for" in err
    fake.log = ["hello\n"]
    status, _, err = command("watch", KERNEL, "--require", "tpu")
    assert status == 1
    assert "names no device in its log, so it may not have been a TPU" in err


def test_connections_that_drop_and_servers_that_stumble_are_asked_again(command, fake):
    fake.faults = {
        "GetKernelSessionStatus": ["drop", 500, None, 429, None, None, None],
        "stream": [lambda handler: handler.stream(fake.log[:3], end=False), 503],
        "ListKernelSessionOutput": ["drop"],
    }
    fake.statuses = ["RUNNING"] * 3 + ["COMPLETE"]
    status, said, _ = command("watch", KERNEL)
    assert status == 0
    assert "the connection failed or was dropped; trying again in 0.0 s" in said
    assert "500: server says 500; trying again in" in said
    assert "429: server says 429; trying again in" in said
    assert [line for line in said.splitlines() if "epoch" in line] == ["  epoch 1/2", "  epoch 2/2"]
    assert fake.calls.count("stream") == 3


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("drop", "no answer from Kaggle in 3 tries (the connection failed"),
        (429, "Kaggle's rate limit, in 3 tries (429: server says 429). Wait some minutes"),
        (500, "trouble at Kaggle, in 3 tries (500: server says 500). Try again later."),
    ],
)
def test_retries_are_bounded(command, fake, fault, sentence):
    fake.faults["GetKernelSessionStatus"] = [fault] * 9
    status, _, err = command("watch", KERNEL)
    assert status == 1
    assert sentence in err
    assert fake.calls == ["GetKernelSessionStatus"] * 3


def test_without_a_live_log_the_log_is_shown_at_the_end(command, fake):
    fake.faults["stream"] = [404]
    fake.statuses = ["RUNNING", "RUNNING", "COMPLETE"]
    status, said, _ = command("watch", KERNEL, "--require", "tpu")
    assert status == 0
    assert "no live log here; it will be shown when the run has ended" in said
    assert "  epoch 2/2" in said
    assert fake.calls.count("stream") == 1


def test_a_silent_connection_is_given_up_and_a_silent_run_told_again(command, fake):
    fake.faults = {"GetKernelSessionStatus": ["hang"], "stream": ["hang", 404]}
    fake.statuses = [*["RUNNING"] * 4, "COMPLETE"]
    code = (
        "from flowerkit.kaggle.client import RetryPolicy, sign_in\n"
        "from flowerkit.kaggle.push import watch\n"
        "patience = RetryPolicy(poll_seconds=0, retry_seconds=0, silence_seconds=0.3, "
        "heartbeat_seconds=0)\n"
        f"watch(sign_in(patience, print), {KERNEL!r}, require='tpu')\n"
    )
    status, said, err = command("-c", code)
    assert (status, err) == (0, "")
    assert f"asking after {KERNEL}: the connection failed or was dropped; trying again" in said
    assert f"{KERNEL}: still running after 0 min" in said
    assert said.endswith(
        f"{KERNEL}: complete\n  flowerkit 0.1.0\n  {DEVICE}\n  epoch 1/2\n  epoch 2/2\n"
    )
