"""programs: what JAX compiles ahead: once, in threads, kept in a cache, and no process waits for it."""

import gc
import logging
import re
import subprocess
import sys

import numpy as np
import pytest

from flowerkit.accelerator import Program, is_compiling, programs, wait_for_programs

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.backends
TWO = jax.ShapeDtypeStruct((2,), "float32")


@pytest.fixture
def lines(caplog):
    """The log lines of what was compiled."""
    caplog.set_level(logging.INFO, logger="flowerkit")
    return lambda: [line for line in caplog.messages if line.startswith("compiled: ")]


@pytest.fixture
def keeping():
    """keep_compilations, undone at the end."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}

    def keep(folder=None):
        jax.config.update("jax_compilation_cache_dir", None)
        programs.keep_compilations(folder)

    yield keep
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def test_a_program_computes_what_the_function_does_and_refuses_other_shapes():
    program = Program("double", lambda tree: {"y": 2 * tree["x"]}, {"x": TWO})
    np.testing.assert_array_equal(program({"x": np.float32([1, 2])})["y"], [2, 4])
    with pytest.raises(TypeError, match="3"):
        program({"x": np.zeros(3, "float32")})


def test_programs_that_xla_cannot_tell_apart_are_compiled_once(lines):
    first, second = (Program(name, lambda x: x * 7, TWO) for name in ("first", "second"))
    wait_for_programs()
    assert first(np.ones(2, "float32")).tolist() == second(np.ones(2, "float32")).tolist()
    (line,) = lines()
    assert "first" in line
    assert "second" not in line
    other = Program("other", lambda x: x * 8, TWO)
    assert other(np.ones(2, "float32")).tolist() == [8, 8]


def test_what_is_needed_first_does_not_wait_for_others_to_be_compiled(monkeypatch):
    """The only thread is busy: the caller compiles."""
    compiler = programs._Compiler()
    monkeypatch.setattr(programs, "_compiler", compiler)
    compiler._threads = programs.ThreadPoolExecutor(1)
    gate = programs.threading.Event()
    compiler._threads.submit(gate.wait)
    program = Program("urgent", lambda x: x + 5, TWO)
    assert program(np.zeros(2, "float32")).tolist() == [5, 5]
    assert is_compiling()
    gate.set()
    wait_for_programs()
    assert not is_compiling()


def test_an_error_of_the_compiler_is_raised_where_the_program_is_called():
    class Broken:
        def as_text(self):
            return "broken"

        def compile(self):
            raise RuntimeError("out of memory")

    compilation = programs._compiler.begin("broken", Broken())
    wait_for_programs()
    with pytest.raises(RuntimeError, match="out of memory"):
        compilation.result()


def test_the_line_says_how_many_were_found_in_the_cache(keeping, tmp_path, lines):
    keeping(tmp_path / "kept")
    for _ in range(2):
        Program("a", lambda x: jax.numpy.sin(x) * 3, TWO)
        wait_for_programs()
        gc.collect()  # nothing is shared inside the process
    first, second = lines()
    assert re.match(rf"compiled: a [\d.]+ s; 0 of 1 found in the cache {tmp_path}", first)
    assert "; 1 of 1 found in the cache " in second
    assert [file.name[:4] for file in (tmp_path / "kept").glob("*-cache")] == ["jit_"]


def test_without_a_folder_the_users_own_setting_stays(keeping, tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path / "cache"))
    keeping()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "compiled")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    programs.keep_compilations()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_on_kaggle_it_is_among_the_outputs_and_begins_with_what_is_attached(
    keeping, tmp_path, monkeypatch
):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setenv("FLOWERKIT_KAGGLE_ROOT", str(tmp_path))
    for folder in ("mine", "datasets/someone/theirs"):
        (tmp_path / "input" / folder).mkdir(parents=True)
        name = folder.split("/")[-1]
        (tmp_path / "input" / folder / f"jit_{name}-0-cache").write_text(name)
        (tmp_path / "input" / folder / "other.txt").write_text("")
    keeping()
    folder = tmp_path / "working" / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert sorted(file.name for file in folder.iterdir()) == [
        "jit_mine-0-cache",
        "jit_theirs-0-cache",
    ]


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/compiled.*Pass another folder"):
        programs.keep_compilations(tmp_path / "file" / "compiled")


def test_a_command_that_fails_does_not_wait_for_what_is_still_being_compiled():
    """Else its end takes minutes, or breaks: a thread of XLA cannot be stopped."""
    code = (
        "import sys, threading\n"
        "from flowerkit import __main__ as cli\n"
        "from flowerkit.accelerator import programs\n"
        "import jax\n"
        "class Slow:\n"
        "    def as_text(self): return 'slow'\n"
        "    def compile(self): threading.Event().wait(600)\n"
        "programs._compiler.begin('slow', Slow())\n"
        "cli.main = lambda: print('failed') or 1\n"
        "cli.run()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (1, "failed\n", "")
