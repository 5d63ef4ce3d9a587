"""Photos read by processes and kept on the disk: found again, cut off, damaged, in use."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowerkit.photos import cache as photo_cache
from flowerkit.photos.cache import PhotoCache, fill, read_photos
from flowerkit.photos.listing import list_photos

OPTIONS = {"image_size": 16, "resize": "crop"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """70 photos, enough to start processes for; one is no photo."""
    folder = tmp_path_factory.mktemp("spool") / "photos"
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


def fill_some(spool, folder, photos, **options):
    return fill(spool, folder, photos, **OPTIONS, workers=1, **options)


def test_processes_read_what_one_process_reads_in_the_same_order(folder, photos):
    alone = list(read_photos(folder, photos, 16, "crop", 1))
    shared = list(read_photos(folder, photos, 16, "crop", 2))
    assert [photo for photo, _ in shared] == list(photos)
    for (_, one), (_, other) in zip(alone, shared, strict=True):
        assert getattr(one, "jpeg", one) == getattr(other, "jpeg", other)
    reasons = [read for _, read in shared if isinstance(read, str)]
    assert reasons == ["no picture (begins with b'no photo at ', 15 bytes)"]


def test_a_file_that_is_gone_is_a_reason_and_no_error(tmp_path, photos):
    (_, reason), *_ = read_photos(tmp_path, photos[:1], 16, "crop", 1)
    assert reason == "cannot be opened (No such file or directory)"


def test_a_script_without_a_guard_is_read_by_one_process_and_told_why(folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import logging, sys\n"
        "logging.basicConfig()\n"
        "from flowerkit.photos.listing import list_photos\n"
        "from flowerkit.photos.cache import is_helper_starting, read_photos\n"
        "from pathlib import Path\n"
        "if is_helper_starting():\n"
        "    raise RuntimeError('once more')\n"
        f"folder = Path({str(folder)!r})\n"
        "print(len(list(read_photos(folder, list_photos(folder).photos, 16, 'crop', 2))))\n"
    )
    environ = os.environ | {"PYTHONPATH": str(Path(photo_cache.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, env=environ
    )
    assert done.stdout == "70\n"
    assert "no helper process could be started, so one process reads all photos" in done.stderr


def test_a_process_that_dies_later_is_an_error_that_names_where(folder, photos, monkeypatch):
    class DyingPool:
        def __init__(self, *args, **options):
            self.count = itertools.count()

        def submit(self, function, *args):
            return Result(next(self.count), function, args)

        def shutdown(self, **options):
            pass

    class Result:
        def __init__(self, number, function, args):
            self.number, self.function, self.args = number, function, args

        def result(self):
            if self.number == 2:
                raise photo_cache.BrokenProcessPool("died")
            return self.function(*self.args)

    monkeypatch.setattr(photo_cache, "ProcessPoolExecutor", DyingPool)
    with pytest.raises(RuntimeError, match=r"one of 24 photos, .*/class0/32\.png to .*workers=1"):
        list(read_photos(folder, photos, 16, "crop", 2))


def test_a_spool_gives_back_what_was_read(folder, photos, tmp_path):
    calls = []
    with PhotoCache(tmp_path, OPTIONS) as spool:
        unreadable = fill_some(spool, folder, photos, progress=lambda *call: calls.append(call))
        assert unreadable == {"class0/68.png": "no picture (begins with b'no photo at ', 15 bytes)"}
        read = dict(read_photos(folder, photos[:3], 16, "crop", 1))
        for photo, one in read.items():
            assert spool.read_jpeg(photo.path) == one.jpeg
            entry = spool.entries[photo.path]
            assert (entry.width, entry.height, entry.digest) == (20, 20, one.digest)
            assert (entry.picture_hash, entry.notes) == (one.picture_hash, ())
        thumbnails = spool.read_thumbnails([photo.path for photo in read])
        assert (thumbnails == np.stack([one.thumbnail for one in read.values()])).all()
        assert spool.read_thumbnails([]).shape == (0, 16, 16, 3)
    assert (calls[0], calls[-1]) == (("photos", 0, 70), ("photos", 70, 70))


def test_an_interrupted_spool_goes_on_and_reads_nothing_twice(folder, photos, tmp_path):
    def stop(what, done, total):
        if done == 30:
            raise KeyboardInterrupt

    with PhotoCache(tmp_path, OPTIONS) as spool, pytest.raises(KeyboardInterrupt):
        fill_some(spool, folder, photos, progress=stop)
    calls = []
    with PhotoCache(tmp_path, OPTIONS) as spool:
        assert len(spool.entries) == 30
        fill_some(spool, folder, photos, progress=lambda *call: calls.append(call))
        assert len(spool.entries) == 69
    assert calls[0] == ("photos", 30, 70)
    with PhotoCache(tmp_path / "whole", OPTIONS) as whole, PhotoCache(tmp_path, OPTIONS) as spool:
        fill_some(whole, folder, photos)
        for path in whole.entries:
            assert spool.read_jpeg(path) == whole.read_jpeg(path)


@pytest.mark.parametrize("broken", ["journal.jsonl", "spool"])
def test_what_a_crash_cut_off_is_read_again(folder, photos, tmp_path, broken):
    with PhotoCache(tmp_path, OPTIONS) as spool:
        fill_some(spool, folder, photos[:10])
    file = tmp_path / broken
    file.write_bytes(file.read_bytes()[:-5])
    with PhotoCache(tmp_path, OPTIONS) as spool:
        assert list(spool.entries) == [photo.path for photo in photos[:9]]
        fill_some(spool, folder, photos[:10])
        assert len({spool.read_jpeg(photo.path) for photo in photos[:10]}) == 10
    with PhotoCache(tmp_path, OPTIONS) as spool:
        assert len(spool.entries) == 10


def test_a_photo_that_changed_is_read_again(folder, photos, tmp_path):
    with PhotoCache(tmp_path / "spool", OPTIONS) as spool:
        fill_some(spool, folder, photos[:2])
        before = spool.read_jpeg(photos[0].path)
        other = tmp_path / photos[0].path
        other.parent.mkdir()
        Image.new("RGB", (30, 30), "red").save(other)
        status = other.stat()
        changed = photo_cache.dataclasses.replace(
            photos[0], num_bytes=status.st_size, changed_ns=status.st_mtime_ns
        )
        assert spool.knows(photos[0])
        assert not spool.knows(changed)
        fill_some(spool, tmp_path, [changed])
    with PhotoCache(tmp_path / "spool", OPTIONS) as spool:
        assert spool.knows(changed)
        assert spool.read_jpeg(changed.path) != before


def test_bytes_that_changed_on_the_disk_are_never_handed_on(folder, photos, tmp_path):
    with PhotoCache(tmp_path, OPTIONS) as spool:
        fill_some(spool, folder, photos[:2])
    data = bytearray((tmp_path / "spool").read_bytes())
    data[100] ^= 1
    (tmp_path / "spool").write_bytes(data)
    with (
        PhotoCache(tmp_path, OPTIONS) as spool,
        pytest.raises(RuntimeError, match="is damaged on the disk. Remove"),
    ):
        spool.read_jpeg(photos[0].path)


def test_other_options_do_not_go_on_with_it(tmp_path):
    PhotoCache(tmp_path / "out", OPTIONS).close()
    with pytest.raises(
        FileExistsError, match=r"unfinished conversion with resize='crop'\. Go on with"
    ):
        PhotoCache(tmp_path / "out", OPTIONS | {"resize": "pad"})
    assert json.loads((tmp_path / "out" / "options.json").read_text())["resize"] == "crop"


@pytest.mark.skipif(photo_cache.fcntl is None, reason="Windows locks otherwise")
def test_a_spool_is_of_one_process(tmp_path):
    code = (
        "from pathlib import Path\nfrom flowerkit.photos.cache import PhotoCache\n"
        f"PhotoCache(Path({str(tmp_path)!r}), {OPTIONS})"
    )
    with PhotoCache(tmp_path, OPTIONS):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "FileExistsError: another process is converting into" in done.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
