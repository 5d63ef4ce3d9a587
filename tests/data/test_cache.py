"""decode_cache: files that grow hidden, are checked when opened, and give way to newer ones."""

import errno
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from flowerkit.data import cache as decode_cache
from flowerkit.data.cache import (
    GIB,
    clear_cache,
    decoded_folder,
    grow_file,
    limit_bytes,
    list_cached,
    make_key,
    make_room,
    open_cached,
)

SHAPE = (3, 4, 4, 3)
NUM_BYTES = 144


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWERKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FLOWERKIT_CACHE_GIB", raising=False)
    return tmp_path / "cache" / "decoded"


def write(key, used_at=None, value=7):
    growing = grow_file(key, SHAPE, f"val of {key}")
    growing.images[:] = value
    growing.checksums[:] = [11, 12, 13]
    growing.keep()
    if used_at is not None:
        os.utime(growing.path, (used_at, used_at))
    return growing.path


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_key_depends_on_size_bytes_and_order():
    keys = [
        make_key(32, np.array([1, 2])),
        make_key(64, np.array([1, 2])),
        make_key(32, np.array([2, 1])),
        make_key(32, np.array([1, 2, 3])),
    ]
    assert len(set(keys)) == 4
    assert keys[0] == make_key(32, np.array([1, 2]))


@pytest.mark.parametrize(("text", "wanted"), [("", 20 * GIB), ("1.5", 3 * GIB // 2), ("0", 0)])
def test_the_limit_comes_from_the_environment(monkeypatch, text, wanted):
    monkeypatch.setenv("FLOWERKIT_CACHE_GIB", text)
    assert limit_bytes() == wanted


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("FLOWERKIT_CACHE_GIB", text)
    with pytest.raises(ValueError, match=f"FLOWERKIT_CACHE_GIB must be a number .* got '{text}'"):
        limit_bytes()


# Opening and making -------------------------------------------------------------------------------


def test_a_file_is_hidden_while_it_grows_and_found_when_it_is_whole(folder):
    assert open_cached("a", SHAPE) is None
    growing = grow_file("a", SHAPE, "val")
    growing.images[:] = 5
    assert open_cached("a", SHAPE) is None
    assert growing.hidden.stat().st_size == NUM_BYTES  # its room on the disk is taken at once
    growing.keep()
    cached = open_cached("a", SHAPE)
    assert cached.images.shape == SHAPE
    assert (cached.images == 5).all()
    assert cached.checksums.tolist() == [0, 0, 0]
    assert list_names(folder) == ["a.json", "a.uint8"]


def test_files_of_other_numbers_are_kept_and_cleared_alike(folder):
    growing = grow_file("f", (3, 5), "features of val", "float32")
    growing.images[:] = 0.5
    growing.keep()
    del growing
    write("a")
    assert open_cached("f", (3, 5)) is None  # another kind of file
    assert open_cached("f", (3, 5), "float32").images.sum() == 7.5
    assert {entry.path.name: entry.num_bytes for entry in list_cached()} == {
        "a.uint8": NUM_BYTES,
        "f.float32": 60,
    }
    assert clear_cache() == NUM_BYTES + 60


def test_an_open_file_cannot_be_written(folder):
    write("a")
    with pytest.raises(ValueError, match="read-only"):
        open_cached("a", SHAPE).images[0] = 1


def test_a_file_that_is_dropped_leaves_nothing(folder):
    grow_file("a", SHAPE, "val").drop()
    assert list_names(folder) == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.uint8", b"short", r"5 bytes, wanted 144"),
        ("a.json", b"{", "the description beside them is not JSON"),
        ("a.json", b"\xff", "the description beside them is not JSON"),
        ("a.json", b"[]", "made anew"),
        ("a.json", b"{}", "made anew"),
        ("a.json", b'{"format": 1, "shape": [9, 4, 4, 3]}', r"described as \[9, 4, 4, 3\], wanted"),
        ("a.json", None, "the description beside them is missing"),
    ],
)
def test_a_damaged_file_is_said_and_made_anew(folder, caplog, name, content, reason):
    write("a")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert open_cached("a", SHAPE) is None
    assert "made anew" in caplog.text
    assert re.search(reason, caplog.text)
    assert list_names(folder) == []
    write("a", value=9)
    assert (open_cached("a", SHAPE).images == 9).all()


def test_a_full_disk_is_an_error_before_a_byte_is_written(folder, monkeypatch):
    def fail(descriptor, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="No space left on device"):
        grow_file("a", SHAPE, "val")
    assert list_names(folder) == []


def test_the_rest_of_the_run_keeps_room_on_the_disk(folder, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=NUM_BYTES + 10)
    monkeypatch.setattr(decode_cache.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"0.0 MiB more fit neither under .* \(20 GiB\) nor beside"):
        grow_file("a", SHAPE, "val")


# Counting and removing ----------------------------------------------------------------------------


def test_files_are_listed_with_size_time_and_what_they_hold():
    assert list_cached() == []
    paths = [write("b", used_at=2000), write("a", used_at=1000)]
    entries = list_cached()
    assert [entry.path for entry in entries] == paths[::-1]
    assert [entry.num_bytes for entry in entries] == [NUM_BYTES] * 2
    assert [entry.used_at for entry in entries] == [1000, 2000]
    assert [entry.what for entry in entries] == ["val of a", "val of b"]


def test_a_file_that_is_opened_counts_as_used():
    write("a", used_at=1000)
    open_cached("a", SHAPE)
    assert list_cached()[0].used_at > 1e9


def test_the_file_used_longest_ago_makes_room(folder, monkeypatch):
    for number, key in enumerate("cab"):
        write(key, used_at=1000 + number)
    monkeypatch.setattr(decode_cache, "limit_bytes", lambda: 3 * NUM_BYTES)
    write("d")
    assert [entry.path.stem for entry in list_cached()] == ["a", "b", "d"]
    assert not (folder / "c.json").exists()


def test_a_file_in_use_makes_no_room(monkeypatch):
    write("a", used_at=1000)
    write("b", used_at=3000)
    held = open_cached("a", SHAPE)
    os.utime(held.path, (1000, 1000))
    monkeypatch.setattr(decode_cache, "limit_bytes", lambda: 2 * NUM_BYTES)
    write("c")
    assert [entry.path.stem for entry in list_cached()] == ["a", "c"]


def test_more_than_the_limit_is_refused_with_both_figures(monkeypatch):
    monkeypatch.setenv("FLOWERKIT_CACHE_GIB", "0.5")
    with pytest.raises(OSError, match=r"1.00 GiB are more than FLOWERKIT_CACHE_GIB allows \(0.5"):
        make_room(GIB)


def test_clearing_frees_what_nobody_uses(folder):
    write("a")
    write("b")
    held = open_cached("a", SHAPE)
    assert clear_cache() == NUM_BYTES
    assert list_names(folder) == ["a.json", "a.uint8"]
    del held
    assert clear_cache() == NUM_BYTES
    assert clear_cache() == 0
    assert list_names(folder) == []


def run_python(code):
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


HOLD = """
import sys
from flowerkit.data.cache import grow_file, open_cached
held = {call}
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "kind", ["open_cached('a', (3, 4, 4, 3))", "grow_file('a', (3, 4, 4, 3), '')"]
)
def test_what_another_run_has_open_stays_until_that_run_ends(folder, kind):
    if kind.startswith("open"):
        write("a")
    other = run_python(HOLD.format(call=kind))
    assert other.stdout.readline() == "held\n"
    before = list_names(folder)
    clear_cache()
    assert list_names(folder) == before
    other.kill()  # it has no time to tidy up
    other.wait()
    clear_cache()
    assert list_names(folder) == []


def test_two_runs_that_make_the_same_file_leave_one_whole_file(folder):
    first, second = grow_file("a", SHAPE, "one"), grow_file("a", SHAPE, "two")
    for growing in (first, second):
        growing.images[:] = 5
    first.keep()
    read = open_cached("a", SHAPE)
    second.keep()
    assert list_names(folder) == ["a.json", "a.uint8"]
    assert (read.images == 5).all()
    assert (open_cached("a", SHAPE).images == 5).all()


def test_without_file_locks_everything_still_works(monkeypatch, folder):
    """As on Windows, and on disks of the network."""
    monkeypatch.setattr(decode_cache, "fcntl", None)
    write("a")
    held = open_cached("a", SHAPE)
    assert clear_cache() == NUM_BYTES
    assert (held.images == 7).all()
    assert decoded_folder() == folder
