"""Photos read by processes and kept on the disk: found again, cut off, changed, in use."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flowerkit
from flowerkit.photos import cache as cache_module
from flowerkit.photos.cache import PhotoCache
from flowerkit.photos.listing import list_photos
from flowerkit.photos.reader import read_photo

NO_PICTURE = {"class0/68.png": "no picture (begins with b'no photo at ', 15 bytes)"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """70 photos, enough to start processes for; one is no photo."""
    folder = tmp_path_factory.mktemp("cache") / "photos"
    rng = np.random.default_rng(0)
    for number in range(70):
        place = folder / f"class{number % 2}" / f"{number:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), "uint8")).save(place)
    (folder / "class0" / "68.png").write_bytes(b"no photo at all")
    return folder


@pytest.fixture(scope="module")
def photos(folder):
    return list_photos(folder).photos


@pytest.fixture
def cache(folder, tmp_path):
    return PhotoCache(tmp_path, folder, 16, "crop")


def read(cache, photos, workers=1, progress=lambda *call: None):
    """What is known of the photos, and why others are unreadable."""
    results = cache.read(photos, workers, progress)
    unreadable = {path: result for path, result in results.items() if isinstance(result, str)}
    return {path: results[path] for path in results if path not in unreadable}, unreadable


@pytest.fixture
def reads(monkeypatch):
    """The names of the photos that are decoded."""
    names = []

    def note(path, *args):
        names.append(path.name)
        return read_photo(path, *args)

    monkeypatch.setattr(cache_module, "read_photo", note)
    return names


def test_what_is_known_of_a_photo_comes_back_without_its_jpeg(cache, folder, photos):
    calls = []
    known, unreadable = read(cache, photos, progress=lambda *call: calls.append(call))
    assert (len(known), unreadable) == (69, NO_PICTURE)
    assert (calls[0], calls[-1]) == (("photos", 0, 70), ("photos", 70, 70))
    first, photo = known[photos[0].path], read_photo(folder / photos[0].path, 16)
    assert (first.jpeg, cache.read_jpeg(photos[0])) == (b"", photo.jpeg)
    assert (first.digest, first.picture_hash, first.width) == (photo.digest, photo.picture_hash, 20)
    assert (first.thumbnail == photo.thumbnail).all()


def test_processes_of_a_script_without_a_guard_read_what_one_process_reads(cache, folder, photos):
    script = cache.folder / "script.py"
    script.write_text(
        "from flowerkit.photos.cache import PhotoCache\n"
        "from flowerkit.photos.listing import list_photos\n"
        "from pathlib import Path\n"
        f"folder, out = Path({str(folder)!r}), Path({str(cache.folder)!r})\n"
        "cache = PhotoCache(out, folder, 16, 'crop')\n"
        "cache.read(list_photos(folder).photos, 2, print)\n"
    )
    environ = os.environ | {"PYTHONPATH": str(Path(flowerkit.__file__).parents[1])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environ)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("photos 70 70", "")
    alone = PhotoCache(cache.folder / "alone", folder, 16, "crop")
    read(alone, photos[:30])
    for photo in photos[:30]:
        assert cache.read_jpeg(photo) == alone.read_jpeg(photo)


def test_a_process_that_dies_is_an_error_with_a_remedy(cache, folder, photos, monkeypatch):
    # joblib pickles a function of a test's module by value, so that its processes get this one.
    monkeypatch.setattr(cache_module, "_read_into", lambda *args: os._exit(1))
    with pytest.raises(RuntimeError, match=r"a process that reads photos died .*--workers 1"):
        read(cache, photos, workers=2)


def test_an_interrupted_reading_continues_and_reads_nothing_twice(cache, photos, reads):
    def stop(title, done, total):
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(cache, photos, progress=stop)
    assert reads == [Path(photo.path).name for photo in photos[:31]]
    reads.clear()
    known, unreadable = read(cache, photos)
    assert (len(known), unreadable) == (69, NO_PICTURE)
    assert reads == [Path(photo.path).name for photo in photos[31:]]


def test_what_a_crash_cut_off_is_read_again(cache, photos, reads):
    read(cache, photos[:3])
    whole = cache.read_jpeg(photos[0])
    for file, num_bytes in zip(sorted(cache.folder.iterdir()), (0, 700, -1), strict=True):
        file.write_bytes(file.read_bytes()[:num_bytes])
    reads.clear()
    read(cache, photos[:3])
    assert len(reads) == 3
    assert cache.read_jpeg(photos[0]) == whole


def test_a_photo_that_changed_and_one_of_another_size_are_read_again(cache, folder, photos, reads):
    read(cache, photos[:2])
    assert len(reads) == 2
    read(cache, [replace(photos[0], changed_ns=1), photos[1]])
    assert len(reads) == 3
    read(PhotoCache(cache.folder, folder, 16, "pad"), photos[:2])
    assert len(reads) == 5


def test_a_file_that_is_gone_is_unreadable(tmp_path, photos):
    cache = PhotoCache(tmp_path / "cache", tmp_path, 16, "crop")
    assert read(cache, photos[:1]) == (
        {},
        {photos[0].path: "cannot be opened (No such file or directory)"},
    )


def test_a_process_that_reads_photos_ends_with_its_parent_even_after_kill_9():
    reader = (
        "import os, time; from flowerkit.photos.cache import _end_with; _end_with(os.getppid()); "
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {reader!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert int(process.stdout.readline()) > 0
        process.kill()
        assert (
            process.stdout.read() == b""
        )  # the end of the pipe: the reader, which has it too, is gone
