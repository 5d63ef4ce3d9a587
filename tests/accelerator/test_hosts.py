"""hosts: what any host may say, and runs of several processes on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from flowerkit.accelerator import hosts
from flowerkit.data import load_split
from flowerkit.prediction.predictions import predict
from flowerkit.training.run_folder import RunFolder


def find_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_without_others_a_host_has_all_rows_and_its_own_clock(tmp_path):
    assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
    assert hosts.own_rows(16) == slice(0, 16)
    assert hosts.broadcast({"a": [1]}) == {"a": [1]}
    assert hosts.on_first(lambda: 3) == 3
    assert abs(hosts.now() - time.monotonic()) < 1
    with pytest.raises(FileExistsError, match="there"):
        hosts.on_first(lambda: (_ for _ in ()).throw(FileExistsError("there")))


# What any host may say -----------------------------------------------------------------------------


class KeyValues:
    """What JAX's service keeps for all hosts, in this process."""

    def __init__(self, count):
        self.values, self.barrier = {}, threading.Barrier(count)

    def key_value_set(self, key, value):
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.values.items() if key.startswith(folder)]

    def wait_at_barrier(self, name, milliseconds):
        self.barrier.wait(milliseconds / 1000)


@pytest.fixture
def two_hosts(monkeypatch):
    """(use, jobs): two joined hosts; from `use(index)` on this process is one of them."""
    jobs = [hosts._Job(None, 2, index) for index in (0, 1)]
    jobs[0].client = jobs[1].client = KeyValues(2)
    monkeypatch.setattr(hosts, "_GRACE_SECONDS", 15)
    monkeypatch.setattr(hosts, "broadcast", lambda value: value)

    def use(index):
        monkeypatch.setattr(hosts, "_job", jobs[index])

    return use, jobs


def test_a_signal_to_any_host_is_heard_by_host_0(two_hosts):
    use, jobs = two_hosts
    listeners = [hosts._Listener(job, pytest.fail) for job in jobs]
    jobs[0].listener, jobs[1].listener = listeners
    use(0)
    assert hosts.heard_signal() is None
    use(1)
    hosts.tell_signal("SIGTERM")
    use(0)
    end = time.monotonic() + 30
    while hosts.heard_signal() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert hosts.heard_signal() == "SIGTERM"
    for listener in listeners:
        listener.stop()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("runs/x is full. Make room."), "host 0 did: runs/x is full. Make room. Start all"),
        (KeyboardInterrupt(), "host 0 did: it was interrupted. Start all again; with --resume"),
    ],
)
def test_a_host_that_fails_ends_the_others_with_its_sentence(two_hosts, monkeypatch, error, said):
    use, jobs = two_hosts
    monkeypatch.setattr(hosts, "_GRACE_SECONDS", 0)
    ended, heard = threading.Event(), []
    other = hosts._Listener(jobs[1], lambda sentence: (heard.append(sentence), ended.set()))
    use(0)
    with pytest.raises(type(error)), hosts.listening(lambda sentence: None):
        raise error
    assert ended.wait(30)
    other.stop()
    assert heard[0].startswith("host 1 of 2 ends, because ")
    assert said in heard[0]
    assert jobs[0].listener is None


def test_what_differs_from_host_0_is_named(two_hosts, monkeypatch):
    two_hosts[0](1)
    monkeypatch.setattr(hosts, "broadcast", lambda value: {"seed": 0, "epochs": 3, "sizes": [1, 2]})
    hosts.check_same({"seed": 0, "epochs": 3, "sizes": (1, 2)}, "arguments")
    with pytest.raises(
        ValueError, match=r"other arguments than host 0: \{'epochs': 5\}, host 0: \{'e.*3\}"
    ):
        hosts.check_same({"seed": 0, "epochs": 5, "sizes": (1, 2)}, "arguments")


def test_hosts_that_end_well_tell_nothing(two_hosts):
    use, jobs = two_hosts
    use(1)
    with hosts.listening(pytest.fail), hosts.listening(pytest.fail):  # of the command, and of train
        assert jobs[1].listener.is_alive()
    assert jobs[1].client.values == {}
    assert jobs[1].listener is None


def test_hosts_that_fail_alike_each_tell_their_own_and_leave_no_scratch_folder(two_hosts):
    use, jobs = two_hosts
    heard = []
    other = hosts._Listener(jobs[1], heard.append)

    def fail_too():
        other.stop()
        other.wait_for_others()

    also = threading.Timer(1, fail_too)
    also.start()
    use(0)
    folder = hosts.scratch()
    with pytest.raises(ValueError, match="no such class"), hosts.listening(pytest.fail):
        raise ValueError("no such class")
    also.join(30)
    assert heard == []
    assert not folder.exists()


# Runs of several processes ------------------------------------------------------------------------

WORDS = ("--plan", "ramp", "--backbone", "tiny", "--weights", "none", "--ema", "0.5")


def start_host(words, *, log, num_devices=1):
    environ = os.environ | {"KERAS_BACKEND": "jax", "FLOWERKIT_VIRTUAL_CPUS": str(num_devices)}
    return subprocess.Popen(
        [sys.executable, "-m", "flowerkit", "train", *map(str, words)],
        env=environ,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )


@pytest.fixture
def train_on(drawn, tmp_path):
    """Train on so many hosts into tmp_path/name: (the run's folder, the output of each host)."""

    def run(name, num_hosts, *words, global_batch=16):
        folder, port = tmp_path / name, find_port()
        common = ["--out", folder, *words]
        if "--resume" not in words:
            batch = global_batch // num_hosts
            common += ["--data", drawn.folder, *WORDS, "--per-replica-batch", batch]
        started = []
        for host in range(num_hosts):
            where = ("--coordinator", f"127.0.0.1:{port}", "--num-hosts", num_hosts, "--host", host)
            log = tmp_path / f"{name}-{host}.log"
            more = where if num_hosts > 1 else ()
            started.append((start_host([*common, *more], log=log), log))
        statuses = [process.wait(1500) for process, _ in started]
        outputs = [log.read_text() for _, log in started]
        assert statuses == [0] * num_hosts, outputs
        return RunFolder(folder), outputs

    return run


def test_two_hosts_train_one_model_and_the_first_alone_writes_and_speaks(
    train_on, drawn, accelerator
):
    run, (first, second) = train_on("two", 2, "--epochs", 1)
    assert "CPU: 2 replicas on 2 hosts, jax" in first
    assert "submission.csv: 22 rows, every id once, labels in 0..3: valid" in first
    assert [line for line in second.splitlines() if "[Gloo]" not in line] == []
    assert (run.environment().accelerator.hosts, run.environment().accelerator.replicas) == (2, 2)
    assert len(run.history()) == 1
    # What the hosts predicted for their rows, put together, is what the model predicts here.
    kept, val = run.val_predictions(), load_split(drawn, "val")
    again = predict(run.model(), val, global_batch=8 * accelerator.replicas)
    assert kept.ids.tolist() == val.ids.tolist()
    np.testing.assert_allclose(kept.probabilities, again.probabilities, atol=1e-4)


@pytest.mark.slow
def test_two_and_four_hosts_equal_one_and_a_run_goes_on_with_another_number(train_on):
    """With both phases, averaged weights, norms, and batches of which mixup pairs hosts' images."""
    words = ("--freeze-epochs", 1, "--epochs", 2, "--mixup", 0.4, "--min-crop-area", 0.5)
    one, _ = train_on("one", 1, *words)
    for num_hosts in (2, 4):
        several, _ = train_on(f"hosts-{num_hosts}", num_hosts, *words)
        assert_equal_runs(one, several)
    part, _ = train_on("part", 4, *words[:2], "--epochs", 1, *words[4:])
    assert len(part.history()) == 2
    _, (first, _) = train_on("part", 2, "--resume", "--epochs", 2)
    assert "replicas 4 -> 2, hosts 4 -> 2; a batch stays 16 images" in first
    assert part.plan().per_replica_batch == 8
    assert len(part.history()) == 3


def assert_equal_runs(one, other):
    for row, same in zip(one.history(), other.history(), strict=True):
        for name in ("loss", "val_loss", "val_f1"):
            assert row[name] == pytest.approx(same[name], abs=1e-5)
    difference = one.val_predictions().probabilities - other.val_predictions().probabilities
    assert np.abs(difference).max() < 1e-5
    for weight, same in zip(one.model().get_weights(), other.model().get_weights(), strict=True):
        np.testing.assert_allclose(weight, same, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_when_a_host_is_lost_the_others_end_within_a_minute_with_a_sentence(lost, drawn, tmp_path):
    run, port, logs = tmp_path / "run", find_port(), [tmp_path / "0.log", tmp_path / "1.log"]
    words = ["--data", drawn.folder, *WORDS, "--epochs", 500, "--patience", "none", "--out", run]
    words += ["--per-replica-batch", 8, "--coordinator", f"127.0.0.1:{port}", "--num-hosts", 2]
    started = [start_host([*words, "--host", host], log=logs[host]) for host in (0, 1)]
    end = time.monotonic() + 300
    while not (run / "history.csv").is_file() and time.monotonic() < end:
        time.sleep(0.2)
    started[lost].kill()
    assert started[1 - lost].wait(60) != 0
    said = logs[1 - lost].read_text()
    assert f"flowerkit: host {1 - lost} of 2 " in said
    assert "Start all again with --resume" in said
    assert json.loads((run / "plan.json").read_text())["epochs"] == 500


# The first word is the host that has no room for its second epoch, the others are the command.
FAILING = """
import sys
from flowerkit.accelerator import hosts
from flowerkit.training.run_folder import RunFolder
from flowerkit.__main__ import run

failing, save_epoch = int(sys.argv.pop(1)), RunFolder.save_epoch

def fail(folder, kind, epoch, save):
    if epoch == 2 and hosts.index() == failing:
        raise OSError(28, "No space left on device", str(folder))
    save_epoch(folder, kind, epoch, save)

RunFolder.save_epoch = fail
run()
"""


def start_two(folder, words, *, program=("-m", "flowerkit")):
    """(processes, logs) of two hosts that train into `folder`."""
    port, logs = find_port(), [folder.with_name(f"{folder.name}-{host}.log") for host in (0, 1)]
    words = ["train", *words, "--out", folder, "--coordinator", f"127.0.0.1:{port}"]
    environ = os.environ | {"KERAS_BACKEND": "jax", "FLOWERKIT_VIRTUAL_CPUS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *program, *map(str, words), "--num-hosts", "2", "--host", str(host)],
            env=environ,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        for host, log in enumerate(logs)
    ], logs


def await_file(path, seconds=600):
    end = time.monotonic() + seconds
    while not path.is_file() and time.monotonic() < end:
        time.sleep(0.1)


@pytest.mark.slow
def test_a_signal_to_any_host_ends_all_after_a_step_and_the_run_goes_on_as_if_whole(
    train_on, drawn, tmp_path
):
    epochs = ("--epochs", 12, "--patience", "none")
    whole, _ = train_on("whole", 2, *epochs)
    for name, signalled, number in (
        ("first", [0], signal.SIGINT),
        ("second", [1], signal.SIGTERM),
        ("both", [0, 1], signal.SIGTERM),
    ):
        run = tmp_path / name
        words = ["--data", drawn.folder, *WORDS, "--per-replica-batch", 8, *epochs]
        started, logs = start_two(run, words)
        await_file(run / "history.csv")
        for host in signalled:
            started[host].send_signal(number)
        assert [process.wait(60) for process in started] == [1, 1], name
        first, second = (log.read_text() for log in logs)
        assert f"because it was interrupted ({signal.Signals(number).name}" in first.replace(
            "Ctrl-C", "SIGINT"
        )
        assert f"flowerkit train --resume --out {run}" in first
        assert first.rstrip().endswith("flowerkit: interrupted")
        assert "flowerkit: host 1 of 2 ends, because host 0 did: it was interrupted." in second
        assert "Fatal" not in second + first
        resumed, _ = train_on(name, 2, "--resume")
        assert_equal_runs(whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_host_without_room_ends_the_others_with_its_own_sentence(failing, drawn, tmp_path):
    words = ["--data", drawn.folder, *WORDS, "--per-replica-batch", 8, "--epochs", 3]
    run = tmp_path / "run"
    started, logs = start_two(run, words, program=("-c", FAILING, str(failing)))
    await_file(run / "history.csv")
    assert [process.wait(120) for process in started] == [1, 1]
    said = [log.read_text() for log in logs]
    assert "No space left on device" in said[failing]
    assert f"ends, because host {failing} did: " in said[1 - failing]
    assert "No space left on device" in said[1 - failing]


@pytest.mark.slow
def test_a_time_limit_is_that_of_host_0_whatever_the_others_clocks_say(train_on, drawn, tmp_path):
    """Host 1's clock runs twice as fast."""
    program = (
        "import sys, time\n"
        "from flowerkit.__main__ import run\n"
        "if sys.argv[-1] == '1':\n"
        "    clock = time.monotonic\n"
        "    time.monotonic = lambda: 2 * clock()\n"
        "run()"
    )
    run = tmp_path / "run"
    words = ["--data", drawn.folder, *WORDS, "--freeze-epochs", 1, "--max-minutes", 8]
    words += ["--epochs", 3, "--per-replica-batch", 8]
    started, logs = start_two(run, words, program=("-c", program))
    assert [process.wait(900) for process in started] == [0, 0], [log.read_text() for log in logs]
    said = logs[0].read_text()
    assert "submission.csv: 22 rows, every id once, labels in 0..3: valid" in said
    assert "are left" in RunFolder(run).fitted().reasons["max_minutes"]
