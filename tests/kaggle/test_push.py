"""Push and watch, by the real `kaggle` client, against a small Kaggle on loopback."""

import json

import pytest
from fake_kaggle import DEVICE, KERNEL, KEY

from flowerkit.kaggle import push
from flowerkit.kaggle.bundle import BUNDLE
from flowerkit.kaggle.client import KaggleError, KernelRun
from flowerkit.kaggle.metadata import METADATA, KernelMetadata
from flowerkit.kaggle.push import RunFailed, push_notebook, watch_run

RUN = KernelRun.parse(KERNEL)

# Push ---------------------------------------------------------------------------------------------


def test_what_is_pushed_is_the_bundle_for_a_tpu_in_the_users_name(fake, client, checkout):
    before = (checkout / METADATA).read_bytes()
    assert push_notebook(client, checkout) == KernelRun.parse(f"{KERNEL}/1")
    (pushed,) = fake.pushed
    assert pushed["slug"] == KERNEL
    assert pushed["enableTpu"] is True
    assert pushed["machineShape"] == "TpuV5E8"
    assert pushed["competitionDataSources"] == ["tpu-getting-started"]
    assert "dockerImage" not in pushed
    cells = json.loads(pushed["text"])["cells"]
    assert len(cells) == len(json.loads((checkout / BUNDLE).read_text())["cells"])
    assert (checkout / METADATA).read_bytes() == before  # the credentials' owner is not stored


def test_data_sets_are_attached_to_this_push_alone(fake, client, checkout):
    before = (checkout / METADATA).read_bytes()
    weights = "https://www.kaggle.com/datasets/flora/densenet-weights?select=x.h5"
    push_notebook(client, checkout, data_sets=["someone/compiled-v5e", weights])
    attached = ["someone/compiled-v5e", "flora/densenet-weights"]
    assert fake.pushed[0]["datasetDataSources"] == attached
    assert (checkout / METADATA).read_bytes() == before
    with pytest.raises(ValueError, match=r"'compiled' is no data set OWNER/NAME"):
        push_notebook(client, checkout, data_sets=["compiled"])
    assert len(fake.pushed) == 1


def test_another_plan_and_its_minutes_are_those_of_this_push_alone(fake, client, checkout):
    before = (checkout / BUNDLE).read_bytes()
    push_notebook(client, checkout, plan="contest", max_minutes=240)
    text = fake.pushed[0]["text"]
    (plan,) = [cell for cell in json.loads(text)["cells"] if cell["id"] == "plan"]
    assert "".join(plan["source"]).startswith('plan_name = "contest"\nmax_minutes = 240\n')
    assert (checkout / BUNDLE).read_bytes() == before


def test_weights_that_are_attached_make_a_push_without_internet_valid(
    fake, client, checkout, lines
):
    metadata = KernelMetadata.load(checkout)
    KernelMetadata(metadata.values | {"enable_internet": False}).save(checkout)
    with pytest.raises(KaggleError, match="nothing was pushed: 1 problem"):
        push_notebook(client, checkout)
    assert "--weights-dataset OWNER/NAME" in lines[0]
    push_notebook(client, checkout, data_sets=["flora/densenet-weights"])
    assert fake.pushed[0]["enableInternet"] is False


def test_nothing_is_pushed_while_lint_finds_problems(fake, client, lines, checkout):
    (checkout / "flowerkit/__init__.py").write_text("# newer\n")
    with pytest.raises(KaggleError, match="nothing was pushed: 2 problems"):
        push_notebook(client, checkout, require="gpu")
    device, stale = lines
    assert "--require tpu" in device
    assert "stale" in stale
    assert fake.calls == []


def test_what_the_server_refuses_is_an_error_although_the_client_exits_with_0(
    fake, client, checkout
):
    fake.push_response = {"error": f"Maximum weekly TPU quota reached ({KEY})."}
    with pytest.raises(KaggleError, match=r"quota reached \(\[credentials\]\).*`kaggle quota`"):
        push_notebook(client, checkout)
    fake.push_response = {"invalidCompetitionSources": ["tpu-getting-started"]}
    with pytest.raises(KaggleError, match="competition tpu-getting-started.*accept the .* rules"):
        push_notebook(client, checkout)


def test_a_500_may_be_the_fault_of_the_metadata_and_is_not_sent_again(fake, client, checkout):
    fake.faults["SaveKernel"] = [500] * 3
    with pytest.raises(KaggleError, match=r"500: .*check in kernel-metadata.json the title"):
        push_notebook(client, checkout)
    assert fake.calls.count("SaveKernel") == 1


def test_a_push_whose_response_is_lost_is_not_repeated(fake, client, checkout):
    fake.faults["SaveKernel"] = ["lose"]
    assert push_notebook(client, checkout).version == 1
    assert fake.calls == ["GetKernel", "SaveKernel", "GetKernel"]
    fake.faults["SaveKernel"] = ["drop"]
    with pytest.raises(KaggleError, match=f"pushing {KERNEL}: .* try again"):
        push_notebook(client, checkout)
    assert fake.version == 1
    assert fake.calls.count("SaveKernel") == 2


# Watch --------------------------------------------------------------------------------------------


def test_the_log_of_a_run_is_echoed_live_each_line_once(fake, client, lines):
    fake.statuses = ["QUEUED", "RUNNING", "RUNNING", "COMPLETE"]
    fake.faults["stream"] = [lambda handler: handler.stream(fake.log[:3], end=False)]
    log = watch_run(client, KernelRun.parse(f"{KERNEL}/1"), require="tpu")
    assert log.device == DEVICE
    assert lines == [
        f"{KERNEL}/1: queued",
        f"{KERNEL}/1: running",
        "  flowerkit 0.1.0",
        f"  {DEVICE}",
        "  epoch 1/2",
        "  epoch 2/2",
        f"{KERNEL}/1: complete",
    ]
    assert fake.calls.count("stream") == 2
    assert set(fake.versions_asked) == {"v1"}  # never a run before the push


def test_without_a_live_log_the_log_follows_at_the_end_and_the_wait_shows_signs_of_life(
    fake, client, lines, monkeypatch
):
    monkeypatch.setattr(push, "HEARTBEAT_POLLS", 2)
    fake.statuses = [*["RUNNING"] * 4, "COMPLETE"]
    fake.faults["stream"] = [404, 403, "drop", 503]
    watch_run(client, RUN, require="tpu")
    assert f"{KERNEL}: still running" in lines
    assert lines[-5:-3] == [f"{KERNEL}: complete", "  flowerkit 0.1.0"]
    assert lines[-1] == "  epoch 2/2"


def test_a_run_that_fails_shows_its_last_lines_without_credentials(fake, client, lines):
    fake.statuses, fake.failure = ["ERROR"], "Notebook Threw Exception"
    fake.log = [f"{DEVICE}\n", *(f"line {k}\n" for k in range(40)), f"ValueError: {KEY}"]
    with pytest.raises(RunFailed, match=f"{KERNEL} failed: Notebook Threw Exception. "):
        watch_run(client, RUN)
    assert lines[-2:] == ["  line 39", "  ValueError: [credentials]"]


def test_a_cancelled_run_is_no_success(fake, client):
    fake.statuses = ["RUNNING", "CANCEL_ACKNOWLEDGED"]
    with pytest.raises(RunFailed, match="was cancelled: Kaggle gives no reason"):
        watch_run(client, RUN)


def test_a_run_on_another_device_is_an_error_as_soon_as_its_log_shows_it(fake, client, lines):
    fake.log[1] = "CPU: 1 replica, jax, float32 (no TPU or GPU here)\n"
    with pytest.raises(RunFailed, match=r"ran on a CPU, not the required TPU.*no docker_image"):
        watch_run(client, RUN, require="tpu")
    assert "  epoch 1/2" not in lines  # it did not wait for the end
    assert fake.calls[-1] == "stream"


def test_a_finished_run_on_another_or_an_unknown_device_is_an_error_too(fake, client):
    fake.statuses = ["COMPLETE"]
    fake.log[1] = "GPU: 2 replicas, tensorflow, float32 (two GPUs)\n"
    assert watch_run(client, RUN, require="gpu").device.startswith("GPU")
    with pytest.raises(RunFailed, match="ran on a GPU"):
        watch_run(client, RUN, require="tpu")
    fake.log = ["hello\n"]
    assert watch_run(client, RUN).device is None
    with pytest.raises(RunFailed, match="names no device in its log"):
        watch_run(client, RUN, require="tpu")
