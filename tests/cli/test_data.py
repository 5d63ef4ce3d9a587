"""convert and check-data as they are typed."""

import io
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from flowerkit.cli import data as commands
from flowerkit.cli.parser import parse
from flowerkit.data import Record, read_records, write_shards
from flowerkit.sources import draw_flower, draw_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed") / "own"
    return draw_photos(folder, num_classes=2, photos_per_class=8, image_size=48)


def test_convert_reports_the_splits_and_the_next_command(flowerkit, photos, tmp_path):
    words = "--image-size 32 --val-fraction 0.25 --test-fraction 0 --resize pad --workers 1"
    status, out, _ = flowerkit("convert", photos, tmp_path / "out", *words.split())
    assert status == 0
    assert out[0].startswith("16 photos of 2 classes: train 12, val 4, test 0 (")
    assert out[1] == "no photo in test of any class"
    assert out[-1].endswith(f"next: flowerkit train --data {tmp_path / 'out'}")


def test_convert_asks_which_folders_are_splits_and_takes_the_answer(flowerkit, photos, tmp_path):
    own = tmp_path / "own photos"
    shutil.copytree(photos, own / "first")
    draw_photos(own / "second", num_classes=2, photos_per_class=3, image_size=48, seed=9)
    words = ("convert", own, tmp_path / "out", "--image-size", 32, "--workers", 1)
    status, _, error = flowerkit(*words)
    assert status == 1
    assert f"--train '{own}'" in error
    status, out, _ = flowerkit(*words, "--train", own / "first", "--test", "second")
    assert status == 0
    assert out[0].startswith("22 photos of 2 classes: train 12, val 4, test 6")


def test_an_interrupted_convert_continues(flowerkit, photos, tmp_path):
    words = ("convert", photos, tmp_path / "out", "--image-size", 32, "--workers", 1)

    def interrupt(description, done, total):
        if done == 5:
            raise KeyboardInterrupt

    lines = []
    with pytest.raises(KeyboardInterrupt):
        commands.run_convert(parse(list(map(str, words))), lines.append, interrupt)
    assert lines == [f"{tmp_path / 'out'} keeps what was read; the same command continues"]
    assert flowerkit(*words)[0] == 0


def test_options_of_beam_are_collected():
    assert parse(["convert", "photos", "out"]).beam is None
    args = parse(["convert", "photos", "out", "--beam"])
    assert args.beam == [""]
    words = ["--beam=--runner=FlinkRunner", "--beam=--parallelism=4"]
    assert parse(["convert", "p", "o", *words]).beam == [word[7:] for word in words]


def test_convert_with_beam(flowerkit, photos, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")
    words = ("--image-size", 32, "--beam", "--test-fraction", 0.25)
    status, out, _ = flowerkit("convert", photos, tmp_path / "out", *words)
    assert status == 0
    assert out[0].startswith("16 photos of 2 classes: train ")
    assert len(list((tmp_path / "out/tfrecords-jpeg-32x32/train").glob("*.tfrec"))) == 1


def test_photos_are_drawn_converted_and_checked_without_a_framework(tmp_path):
    lines = (
        "draw photos --classes 2 --image-size 48 --photos 8",
        "convert photos shards --image-size 32 --workers 1",
        "check-data shards",
        "draw drawn --classes 2 --image-size 48 --train 4 --val 2 --test 0",
    )
    commands = [line.split() for line in lines]
    code = (
        "import sys\nfrom flowerkit.__main__ import main\n"
        f"print([main(words) for words in {commands}])\n"
        "print({'tensorflow', 'keras', 'jax'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-2:] == ["[0, 0, 0, 0]", "set()"], done.stderr


# check-data ---------------------------------------------------------------------------------------


def draw(label, seed, quality=92):
    file = io.BytesIO()
    Image.fromarray(draw_flower(4 * label, size=48, seed=seed)).save(file, "JPEG", quality=quality)
    return Record(file.getvalue(), f"{label}-{seed}-{quality}", label)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """Of 2 classes, 22 train and 24 val pictures, 22 of these saved again."""
    folder = tmp_path_factory.mktemp("leaking")
    train = [draw(k % 2, k) for k in range(22)]
    val = [draw(k % 2, k, quality=60) for k in range(22)]
    write_shards(folder, "train", train, image_size=48, shard_size=100)
    write_shards(folder, "val", [*val, draw(0, 90), draw(1, 91)], image_size=48, shard_size=100)
    return folder


def test_data_without_leaks_end_with_0(flowerkit, drawn):
    status, out, _ = flowerkit("check-data", drawn.folder)
    assert status == 0
    assert out[0].startswith("checked flowers of a folder: 4 classes, 32 px, train 50, val 18")
    assert out[-1] == "no picture is in two splits, by ids, bytes and similarity"
    assert flowerkit("check-data", drawn.folder, "--no-near")[1][-1].endswith("by ids and bytes")


def test_leaks_end_with_1_and_the_first_20_are_printed(flowerkit, leaking, tmp_path):
    status, out, _ = flowerkit("check-data", leaking, "--out", tmp_path / "found")
    assert status == 1
    assert "pairs of the same picture between train and val: 22 near duplicate" in out
    problems = [line for line in out if line.startswith("problem: in train and val, near")]
    assert len(problems) == 20
    assert out[-1].startswith("and 2 problems more")
    assert f"wrote {tmp_path / 'found/pairs.csv'} (22 pairs)" in out
    assert len((tmp_path / "found/pairs.csv").read_text().splitlines()) == 23
    assert Image.open(tmp_path / "found/pairs.png").width == 4 * 334
    assert flowerkit("check-data", leaking, "--no-near")[0] == 0


def test_an_external_folder_is_compared_as_well(flowerkit, drawn, tmp_path):
    records = [record for _, record in read_records(drawn.files["val"][0])][:2]
    write_shards(tmp_path, "train", records, image_size=32, shard_size=9)
    status, out, _ = flowerkit("check-data", drawn.folder, "--external", tmp_path)
    assert status == 1
    assert out[1].startswith("and flowers of a folder: 104 classes, 32 px, train 2, val 0, test 0")
    assert len([line for line in out if "in val and external, same bytes" in line]) == 2
