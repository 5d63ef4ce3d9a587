"""Errors and exit statuses; what each command does is tested beside its module."""

import os
import pkgutil
import re
import signal
import subprocess
import sys
import time

import pytest

from flowerkit.__main__ import _describe, main
from flowerkit.cli import doctor, use


def in_a_new_process(*words):
    command = [sys.executable, "-m", "flowerkit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("check none.csv --data DATA", "no file none.csv. Check the path"),
        ("check none.csv --data nowhere", "no folder nowhere. Pass the folder"),
        ("train --data nowhere", "no folder nowhere. Pass the folder"),
        ("train --resume --out nowhere", "nowhere is no run folder"),
        ("train --plan broken.json", "broken.json is not JSON: "),
        ("predict nowhere --data DATA --out c", "nowhere is no run folder"),
        ("draw DATA --classes 4 --image-size 32", "DATA already holds tfrecords"),
        ("draw new --classes 4 --train 3", "num_train=3 pictures cannot show each of"),
    ],
)
def test_an_error_is_one_sentence_and_the_status_is_1(
    flowerkit, drawn, tmp_path, monkeypatch, words, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text("{epochs: 3}")
    folder = str(drawn.folder)
    status, _, err = flowerkit(*words.replace("DATA", folder).split())
    assert status == 1
    assert err.startswith("flowerkit: " + sentence.replace("DATA", folder))
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--plan fine-tun", "no plan 'fine-tun'"),
        ("--plan fine-tun", "Did you mean 'fine-tune'?"),
        ("--head notebok", "flowerkit train: --head must be one of notebook, pooled"),
        ("--monitor val_f2", "Did you mean 'val_f1'?"),
        ("--epochs 0 --freeze-epochs 0", "--epochs must be 1 or more. Received: --epochs 0"),
        ("--resume", "--resume needs --out RUN"),
        (
            "--resume --out r --image-size 64 --plan smoke --precision float16",
            "--accumulate and --halve-on-oom may change. Leave out --image-size, --plan, or start",
        ),
        ("--precision float8", "invalid choice: 'float8'"),
    ],
)
def test_options_that_no_plan_can_take_are_wrong_usage(flowerkit, words, sentence):
    status, out, err = flowerkit("train", *words.split())
    assert (status, out) == (2, [])
    assert err.startswith("flowerkit train: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        main(["check", "a.csv", "--data", "nowhere", "--debug"])


def test_an_error_of_many_lines_or_none_is_still_one_sentence(flowerkit, monkeypatch):
    def fail(args, echo, progress):
        raise error

    monkeypatch.setattr(doctor, "run_doctor", fail)
    error = RuntimeError("the graph failed:\n  node 1\n  node 2")
    assert flowerkit("doctor") == (1, [], "flowerkit: the graph failed: (--debug shows the rest)\n")
    error = ModuleNotFoundError("No module named 'tensorflow'")
    assert "'tensorflow'. Install it; `flowerkit doctor`" in flowerkit("doctor")[2]
    error = MemoryError()
    assert flowerkit("doctor") == (1, [], "flowerkit: MemoryError: no details\n")
    error = KeyboardInterrupt()
    assert flowerkit("doctor") == (1, [], "flowerkit: interrupted\n")


def test_sigterm_does_what_ctrl_c_does_and_a_second_one_ends_at_once(flowerkit, monkeypatch):
    def wait(args, echo, progress):
        before_second.append(signal.getsignal(signal.SIGTERM))
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            before_second.append(signal.getsignal(signal.SIGTERM))

    before, before_second = signal.getsignal(signal.SIGTERM), []
    monkeypatch.setattr(doctor, "run_doctor", wait)
    assert flowerkit("doctor") == (1, [], "flowerkit: interrupted\n")
    assert before_second[1] == signal.SIG_DFL != before_second[0]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_where_python_drops_exceptions_comes_again(
    flowerkit, monkeypatch, number
):
    class Last:
        def __del__(self):
            self.close()

        def close(self):
            signal.raise_signal(number)

    def wait(args, echo, progress):
        last = Last()
        del last
        time.sleep(30)

    monkeypatch.setattr(doctor, "run_doctor", wait)
    start = time.monotonic()
    # A shell that starts its jobs in the background has them ignore Ctrl-C.
    before = signal.signal(number, signal.default_int_handler)
    try:
        assert flowerkit("doctor") == (1, [], "flowerkit: interrupted\n")
    finally:
        signal.signal(number, before)
    assert time.monotonic() - start < 20


def test_what_a_terminal_obeys_is_not_printed(flowerkit, monkeypatch):
    def fail(args, echo, progress):
        echo("bell\x07 half\udcff")
        raise ValueError("a\x1b]0;title\x07.jpg cannot be read")

    monkeypatch.setattr(doctor, "run_doctor", fail)
    error = "flowerkit: a?]0;title?.jpg cannot be read\n"
    assert flowerkit("doctor") == (1, ["bell? half\\xff"], error)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_error(drawn, unbuffered):
    sample = drawn.folder / "sample_submission.csv"
    command = [sys.executable, "-m", "flowerkit", "check", sample, "--data", drawn.folder]
    environ = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    program = subprocess.Popen(command, stdout=-1, stderr=-1, env=environ)
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait() == 1
    program.stderr.close()


def test_a_device_that_is_required_and_missing_is_refused_before_photos_are_converted(
    flowerkit, monkeypatch, tmp_path
):
    monkeypatch.delenv("FLOWERKIT_VIRTUAL_CPUS", raising=False)
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path / "cache"))
    photos = tmp_path / "photos"
    flowerkit("draw", photos, "--photos", 4, "--classes", 2, "--image-size", 32)
    done = in_a_new_process("train", "--require", "tpu", "--data", photos)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"flowerkit: require='tpu', but .*\n", done.stderr)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ("train --data nowhere", 1, "no folder nowhere."),
        ("train --data empty", 1, "it holds nothing"),
        ("train --data flat", 1, "flat holds 1 photo, but none in a sub folder"),
        ("train --data a.zip", 1, "Unpack it first: python -m zipfile"),
        ("train --data DATA --image-size 64", 1, "Pass --image-size 32,"),
        ("train --data DATA --backbone DenseNet12", 2, "Did you mean 'DenseNet121'?"),
        ("train --data DATA --backbone no.keras", 1, "no backbone file no.keras"),
        ("train --data DATA --backbone a.zip.keras", 2, "it is no zip file"),
        ("train --data DATA --weights no.h5", 1, "no weights no.h5"),
        ("train --data DATA --backbone a.pt", 2, "a.pt is no file of Keras"),
        ("lr-find --data DATA --weights a.pth", 2, "such as hub:dinov2_base"),
        ("train --data DATA --input-size 16", 2, "Pass --input-size 32 or more"),
        ("train --data DATA --plan smoke --input-size 8", 2, "Pass --input-size 16 or more"),
        ("train --data DATA --out a.zip/run", 1, "a.zip/run cannot be written to"),
        ("train --resume --out empty", 1, "empty is no run folder"),
        ("lr-find --data nowhere", 1, "no folder nowhere."),
        ("lr-find --data DATA --out a.zip/x", 1, "a.zip/x cannot be written to"),
        ("study pooling --data nowhere", 1, "no folder nowhere."),
        ("compare nowhere", 1, "nowhere is no run folder"),
        ("doctor --data nowhere", 1, "no folder nowhere."),
        ("demo --out a.zip/x", 1, "a.zip/x cannot be written to"),
        ("draw a.zip/x", 1, "a.zip/x cannot be written to"),
        ("check empty --data DATA", 1, "empty is a folder. Pass its csv: empty/submission.csv"),
        ("predict nowhere --data DATA --out x", 1, "nowhere is no run folder"),
        ("report nowhere", 1, "nowhere is no run folder"),
        ("classify nowhere flat", 1, "no model nowhere"),
        ("classify RUN nowhere", 1, "no photo nowhere"),
        ("classify RUN empty", 1, "no photos in empty"),
        ("classify RUN flat --csv a.zip/x.csv", 1, "a.zip cannot be written to"),
        ("export RUN --out a.zip/x.onnx", 1, "a.zip cannot be written to"),
        ("serve RUN --port 99999", 2, "--port: must be in 1..65535"),
        ("check-data DATA --out a.zip/x", 1, "a.zip/x cannot be written to"),
        ("convert flat a.zip/x", 1, "none in a sub folder"),
        ("pull a/b a.zip/x", 1, "a.zip/x cannot be written to"),
    ],
)
def test_paths_names_and_sizes_are_refused_before_a_framework_or_a_server_is_asked(
    flowerkit, drawn, tmp_path, monkeypatch, words, status, sentence
):
    def fail(*args, **kwargs):
        raise AssertionError("a device, a framework or Kaggle was asked")

    for place in ("terminal.connect", "kaggle.kaggle.sign_in"):
        module, _, name = f"flowerkit.cli.{place}".rpartition(".")
        monkeypatch.setattr(pkgutil.resolve_name(module), name, fail)
    monkeypatch.setattr(use, "quiet_frameworks", fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "run").mkdir()
    for file in ("flat/a.jpg", "a.zip", "a.zip.keras", "run/model.keras"):
        (tmp_path / file).touch()
    words = words.replace("DATA", str(drawn.folder)).replace("RUN", "run")
    found, out, err = flowerkit(*words.split())
    assert (found, out, err.count("\n")) == (status, [], 1)
    assert sentence in err


@pytest.mark.parametrize("words", [["demo"], ["train"], ["lr-find"]])
def test_without_a_backend_the_first_command_that_needs_one_says_what_to_install(words, tmp_path):
    hide = "import sys; sys.modules['tensorflow'] = sys.modules['jax'] = None; "
    run = "from flowerkit.__main__ import main; sys.exit(main(sys.argv[1:]))"
    environ = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", hide + run, *words],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    sentence = "neither tensorflow nor jax is installed. Run: pip install tensorflow (or jax)"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"flowerkit: {sentence}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes."),  # as JAX's is
        type("ResourceExhaustedError", (Exception,), {})(
            "{{node conv}} OOM when allocating tensor"
        ),
    ],
)
def test_a_device_with_too_little_memory_is_said_with_what_to_pass_in_every_command(error):
    text = _describe(error)
    assert text.startswith("the device has too little memory. Pass a smaller --per-replica-batch")
