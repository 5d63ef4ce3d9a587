"""The Kaggle commands, by the real `kaggle` client, against a small Kaggle on loopback."""

import json
import re

import pytest
from fake_kaggle import DEVICE, KERNEL, KEY, NAME, VALID_CSV, refuse

from flowerkit.kaggle import push
from flowerkit.kaggle.bundle import BUNDLE
from flowerkit.kaggle.metadata import METADATA


def interrupt(seconds):
    raise KeyboardInterrupt


def test_bundle_writes_what_push_takes_and_reports_when_it_is_stale(command, fake, checkout):
    status, out, _ = command("bundle", "--root", checkout)
    assert status == 0
    assert f"wrote {checkout / BUNDLE} (" in out
    assert "before a push: the owner in id 'INSERT_OWNER_HERE/" in out
    assert "`flowerkit push`" in command("bundle", "--root", checkout, "--owner", "flora")[1]
    assert json.loads((checkout / METADATA).read_text())["id"] == KERNEL
    assert command("bundle", "--root", checkout, "--check")[0] == 0
    (checkout / "flowerkit/__init__.py").write_text("# newer\n")
    status, out, _ = command("bundle", "--root", checkout, "--check")
    assert status == 1
    assert "stale" in out
    assert fake.calls == []


def test_one_command_leads_from_the_checkout_to_a_score(
    command, fake, checkout, five_images, tmp_path
):
    out = tmp_path / "results"
    status, text, err = command(
        "push", "--root", checkout, "--data", five_images, "--out", out, "--submit"
    )
    assert (status, err) == (0, "")
    assert text.splitlines() == [
        f"pushed {KERNEL}/1: https://www.kaggle.com/code/{KERNEL}",
        f"{KERNEL}/1: queued",
        f"{KERNEL}/1: running",
        "  flowerkit 0.1.0",
        f"  {DEVICE}",
        "  epoch 1/2",
        "  epoch 2/2",
        f"{KERNEL}/1: complete",
        f"{KERNEL}/1 is done, on {DEVICE}",
        f"  {out}/history.csv (6 bytes)",
        f"  {out}/{NAME}.log (87 bytes)",
        f"  {out}/run/plan.json (2 bytes)",
        f"  {out}/submission.csv (69 bytes)",
        f"{out}/submission.csv: valid (every id of the data once)",
        "submission 41 is in; waiting for its score",
        "submission 41: public score 0.97",
    ]
    assert fake.uploads == [VALID_CSV]


def test_a_contest_is_pushed_with_its_minutes(command, fake, checkout, tmp_path):
    options = ("--plan", "contest", "--max-minutes", "240")
    command("push", "--root", checkout, "--out", tmp_path / "out", *options)
    assert r"plan_name = \"contest\"" in fake.pushed[0]["text"]
    assert "max_minutes = 240" in fake.pushed[0]["text"]


def test_a_push_for_a_gpu_must_get_one(command, fake, checkout):
    gpu = {"enable_tpu": False, "enable_gpu": True, "machine_shape": "NvidiaTeslaT4"}
    metadata = json.loads((checkout / METADATA).read_text())
    (checkout / METADATA).write_text(json.dumps(metadata | gpu))
    status, out, err = command("push", "--root", checkout)
    assert status == 1
    assert "ran on a TPU, not the required GPU" in err
    assert "the run goes on" not in out


@pytest.mark.parametrize("options", [(), ("--require", "tpu")])
def test_ctrl_c_in_watch_tells_how_to_go_on(command, fake, monkeypatch, options):
    monkeypatch.setattr(push.time, "sleep", interrupt)
    status, out, err = command("watch", KERNEL, *options)
    assert (status, err) == (1, "flowerkit: interrupted\n")
    assert out.endswith(f"flowerkit watch {' '.join([KERNEL, *options])}\n")


def test_a_failure_after_the_push_tells_how_to_go_on(command, fake, checkout, tmp_path):
    fake.faults["GetKernelSessionStatus"] = ["drop"] * 6
    status, out, _ = command("push", "--root", checkout)
    assert status == 1
    assert out.endswith(f"follow it with: flowerkit watch {KERNEL}/1 --require tpu\n")
    fake.faults["file"] = [404]
    status, out, err = command("push", "--root", checkout, "--out", tmp_path / "my results")
    assert status == 1
    assert out.endswith(f"fetch it with: flowerkit pull {KERNEL}/2 '{tmp_path}/my results'\n")
    assert "fetching the outputs" in err


def test_lint_s_problems_are_listed_and_nothing_is_pushed(command, fake, checkout):
    (checkout / "flowerkit/__init__.py").write_text("# newer\n")
    status, out, err = command("push", "--root", checkout)
    assert status == 1
    assert "stale" in out
    assert err == "flowerkit: nothing was pushed: 1 problem\n"
    assert fake.calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push", "--root", "checkout", "--data", "dta"], "no folder dta"),
        (["push", "--root", "checkout", "--out", "file/run"], "Pass another folder"),
        (["push"], "--root FOLDER"),
        (["bundle", "--check"], "--root FOLDER"),
        (["submit", "checkout"], "Pass its csv"),
        (["submit", "no-such-thing"], "OWNER/NAME"),
        (["submit", f"kaggle.com/code/{KERNEL}?scriptVersionId=7"], f"{KERNEL}/VERSION"),
        (["watch", "no-such-thing"], "OWNER/NAME"),
    ],
)
def test_a_slip_in_the_arguments_is_reported_before_anything_is_sent(
    command, fake, checkout, tmp_path, arguments, message
):
    (tmp_path / "file").touch()
    status, _, err = command(*arguments)
    assert status == 1
    assert message in err
    assert fake.calls == []


def test_pull_fetches_checks_and_tells_how_to_submit(command, fake, five_images, tmp_path):
    fake.statuses = ["COMPLETE"]
    status, out, _ = command("pull", KERNEL, tmp_path / "out", "--data", five_images)
    assert status == 0
    assert out.endswith(f"submit it with: flowerkit submit {tmp_path}/out/submission.csv\n")
    status, out, _ = command("pull", KERNEL, tmp_path / "out")
    assert status == 1  # five rows are not the competition's
    assert "5 rows" in out


def test_an_address_that_names_a_version_by_its_id_is_said_to_be_the_newest(
    command, fake, five_images, tmp_path
):
    address = f"https://www.kaggle.com/code/{KERNEL}/edit/run/7"
    fake.version, fake.outputs, fake.statuses = 6, {"submission.csv": VALID_CSV}, ["COMPLETE"]
    status, out, _ = command("pull", address, tmp_path / "out", "--data", five_images)
    assert status == 0
    assert out.startswith(
        f"this is the newest version of {KERNEL}: Kaggle's API does not know the id 7"
    )


def test_an_invalid_csv_is_submitted_only_with_force(command, fake, five_images, tmp_path):
    csv = tmp_path / "submission.csv"
    csv.write_bytes(VALID_CSV + b"foreign,1\n")
    status, out, _ = command("submit", csv, "--data", five_images)
    assert status == 1
    assert "'foreign'" in out
    assert out.endswith("--force\n")
    assert fake.calls == []
    status, out, _ = command("submit", csv, "--data", five_images, "--force")
    assert status == 0
    assert len(fake.submissions) == 1


def test_a_version_of_a_notebook_is_checked_and_submitted(command, fake, five_images):
    fake.version, fake.statuses = 7, ["COMPLETE"]
    status, out, _ = command("submit", f"{KERNEL}/6", "--data", five_images)
    assert status == 0
    assert out.endswith("submission 41: public score 0.97\n")
    assert "CreateCodeSubmission" in fake.calls
    assert fake.calls.count("file") == 1  # the csv alone, not a model of a hundred megabytes
    assert set(fake.versions_asked) == {"v6"}
    fake.outputs["submission.csv"] = VALID_CSV.replace(b",3", b",4")
    assert command("submit", KERNEL, "--data", five_images)[0] == 1
    assert set(fake.versions_asked) == {"v6", "v7"}  # the newest, by its number
    assert len(fake.submissions) == 1


def test_credentials_stay_hidden_with_debug_and_in_a_log_that_repeats_them(
    command, fake, monkeypatch, tmp_path
):
    monkeypatch.setenv("VERBOSE", "1")
    fake.log = [f"{DEVICE}\n", f"the key is {KEY}\n"]
    fake.faults["GetKernelSessionStatus"] = [lambda handler: handler._send(500, refuse(500, KEY))]
    assert "  the key is [credentials]" in command("watch", KERNEL)[1]
    command("pull", KERNEL, tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_publish_makes_a_data_set_and_says_how_a_push_attaches_it(
    command, fake, checkout, five_images, tmp_path
):
    (tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5").write_bytes(
        b"\x89HDF\r\n\x1a\n"
    )
    (weights,) = tmp_path.glob("*.h5")
    options = ("--weights-dataset", "flora/vgg16-weights", "--licence", "CC-BY-4.0", "--public")
    status, out, err = command("publish", weights, *options)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"uploading {weights.name} (0.0 MiB)",
        "published flora/vgg16-weights, version 1, public: "
        "https://www.kaggle.com/datasets/flora/vgg16-weights",
        "next: flowerkit push --weights-dataset flora/vgg16-weights",
    ]
    assert not fake.created[0].get("isPrivate")
    next_options = out.splitlines()[-1].split()[3:]
    assert command("push", "--root", checkout, "--data", five_images, *next_options)[0] == 0
    assert fake.pushed[0]["datasetDataSources"] == ["flora/vgg16-weights"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kaggle-model", "flora/petals-kit"], "a licence is needed, and none is given. .*mit"),
        (["--kaggle-model", "flora/rose", "--license", "MIT"], "6 to 50 letters"),
        (["--kaggle-model", "flora/petals-kit", "--licence", "MIT"], "no run folder"),
        (["--weights-dataset", "flora/petals-kit", "--licence", "other"], "no run folder"),
    ],
)
def test_publish_refuses_before_it_asks_kaggle(command, fake, tmp_path, options, message):
    status, out, err = command("publish", tmp_path, *options)
    assert (status, out) == (1, "")
    assert re.search(message, err)
    assert fake.calls == []


def test_publish_without_credentials_says_where_to_get_them(command, monkeypatch, tmp_path):
    monkeypatch.delenv("KAGGLE_KEY")
    options = ("--kaggle-model", "flora/petals-kit", "--licence", "MIT")
    status, _, err = command("publish", tmp_path, *options)
    assert status == 1
    assert "no Kaggle credentials here" in err
