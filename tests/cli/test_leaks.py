"""`flowerkit check-data`, as it is called."""

import argparse
import io

import pytest
from PIL import Image

from flowerkit.cli.leaks import add_check_data_options, run_check_data
from flowerkit.data import Record, read_records, write_shards
from flowerkit.sources import draw_flower


def run(*words):
    parser = argparse.ArgumentParser()
    add_check_data_options(parser)
    lines = []
    status = run_check_data(parser.parse_args(list(map(str, words))), lines.append, lambda *_: None)
    return status, lines


def draw(label, seed, quality=92):
    file = io.BytesIO()
    Image.fromarray(draw_flower(4 * label, size=48, seed=seed)).save(file, "JPEG", quality=quality)
    return Record(file.getvalue(), f"{label}-{seed}-{quality}", label)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """Of 2 classes, 6 train and 24 val pictures, 22 of these copies saved anew."""
    folder = tmp_path_factory.mktemp("leaking")
    wish = {"image_size": 48, "shard_size": 100}
    train = [draw(k % 2, k) for k in range(22)]
    write_shards(folder, "train", train, **wish)
    val = [draw(k % 2, k, quality=60) for k in range(22)]
    write_shards(folder, "val", [*val, draw(0, 90), draw(1, 91)], **wish)
    return folder


def test_sound_data_end_with_0_and_say_by_what(drawn):
    status, lines = run(drawn.folder)
    assert status == 0
    assert lines[0].startswith("checked flowers of a folder: 4 classes, 32 px, train 50, val 18")
    assert lines[-1] == "no picture stands on two sides, by ids, bytes and looks"
    assert run(drawn.folder, "--no-near")[1][-1].endswith("by ids and bytes")


def test_leaks_end_with_1_and_the_first_20_are_told(leaking):
    status, lines = run(leaking)
    assert status == 1
    assert "pairs of the same picture between train and val: 22 near duplicate" in lines
    told = [line for line in lines if line.startswith("problem: in train and val, near duplicate")]
    assert len(told) == 20
    assert lines[-1] == "and 2 problems more; --out FOLDER writes them all"
    assert run(leaking, "--no-near")[0] == 0


def test_out_holds_the_pairs_as_a_table_and_as_pictures(leaking, tmp_path):
    status, lines = run(leaking, "--out", tmp_path / "found")
    assert status == 1
    assert f"wrote {tmp_path / 'found/pairs.csv'} (22 pairs)" in lines
    assert f"wrote {tmp_path / 'found/pairs.png'} (22 of them, problems first)" in lines
    assert len((tmp_path / "found/pairs.csv").read_text().splitlines()) == 23
    assert Image.open(tmp_path / "found/pairs.png").width == 4 * 334


def test_an_external_folder_is_compared_as_well(drawn, tmp_path):
    records = [record for _, record in read_records(drawn.files["val"][0])][:2]
    write_shards(tmp_path, "train", records, image_size=32, shard_size=9)
    status, lines = run(drawn.folder, "--external", tmp_path)
    assert status == 1
    assert lines[1].startswith(
        "and flowers of a folder: 104 classes, 32 px, train 2, val 0, test 0"
    )
    assert [line[:50] for line in lines if line.startswith("problem")] == [
        "problem: in val and external, same bytes: val/00-3"
    ] * 2


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tfrecords-jpeg-SxS/ under"):
        run(tmp_path)
