"""tfrecords: shards in folders, written, found by name, parsed and checked."""

import io

import pytest
import tensorflow as tf
from PIL import Image

from flowerkit.data.records import CorruptRecord, Record
from flowerkit.data.tfrecords import (
    FlowerData,
    check_counts,
    check_shard,
    count_in_name,
    find_shards,
    find_sizes,
    parse_example,
    write_shards,
)

NAMES = ("daisy", "rose", "tulip")


def jpeg(shade=0):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (200, shade, 90)).save(picture, "JPEG")
    return picture.getvalue()


def make_records(num, *, labelled=True):
    return (Record(jpeg(i), f"{i:09x}", i % 3 if labelled else None) for i in range(num))


def write_data(folder):
    write_shards(folder, "train", make_records(7), image_size=8, shard_size=3)
    write_shards(folder, "val", make_records(3), image_size=8, shard_size=3)
    write_shards(folder, "test", make_records(2, labelled=False), image_size=8, shard_size=3)
    return find(folder)


def find(folder, image_size=None):
    return find_shards(folder, image_size=image_size, class_names=NAMES, origin="folder")


def touch(folder, image_size, name):
    path = folder / f"tfrecords-jpeg-{image_size}x{image_size}" / "train" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_flower_data_prints_on_one_line(tmp_path):
    counts = {"train": 12753, "val": 240, "test": 0}
    files = dict.fromkeys(counts, ())
    data = FlowerData(tmp_path, files, counts, NAMES, 64, "drawn")
    assert str(data) == (
        f"drawn flowers: 3 classes, 64 px, train 12,753, val 240, test 0 ({tmp_path})"
    )
    assert data.num_classes == 3


def test_shards_are_named_by_number_size_and_count(tmp_path):
    shards = write_shards(tmp_path, "train", make_records(7), image_size=8, shard_size=3)
    folder = tmp_path / "tfrecords-jpeg-8x8" / "train"
    assert shards == tuple(
        folder / name for name in ("00-8x8-3.tfrec", "01-8x8-3.tfrec", "02-8x8-1.tfrec")
    )
    assert sorted(folder.iterdir()) == list(shards)
    assert [path.name for path in folder.parent.iterdir()] == ["train"]


def test_the_same_records_give_the_same_bytes(tmp_path):
    first, second = (
        write_shards(tmp_path / name, "train", make_records(5), image_size=8, shard_size=3)
        for name in ("first", "second")
    )
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_no_records_make_no_files(tmp_path):
    assert write_shards(tmp_path, "test", [], image_size=8, shard_size=3) == ()
    assert list((tmp_path / "tfrecords-jpeg-8x8").iterdir()) == []


def test_records_are_taken_one_at_a_time_while_their_shard_grows(tmp_path):
    growing = tmp_path / "tfrecords-jpeg-8x8"
    taken = []

    def watched():
        for i, record in enumerate(make_records(6)):
            taken.append((i, len(list(growing.glob(".train-*/train/*.tfrec")))))
            yield record

    write_shards(tmp_path, "train", watched(), image_size=8, shard_size=2)
    assert taken == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]


def test_a_split_that_fails_half_way_leaves_nothing_behind(tmp_path):
    def failing():
        yield from make_records(4)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_shards(tmp_path, "train", failing(), image_size=8, shard_size=3)
    assert list((tmp_path / "tfrecords-jpeg-8x8").iterdir()) == []


def test_writing_over_a_split_is_refused(tmp_path):
    write_shards(tmp_path, "train", make_records(2), image_size=8, shard_size=3)
    with pytest.raises(FileExistsError, match="train is not empty. Remove it, or write elsewhere"):
        write_shards(tmp_path, "train", make_records(2), image_size=8, shard_size=3)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'dev'. Pass one of train, val, test"):
        write_shards(tmp_path, "dev", [], image_size=8, shard_size=3)


def test_found_data_has_files_counts_and_size(tmp_path):
    data = write_data(tmp_path)
    assert data.counts == {"train": 7, "val": 3, "test": 2}
    assert [path.name for path in data.files["train"]] == [
        "00-8x8-3.tfrec",
        "01-8x8-3.tfrec",
        "02-8x8-1.tfrec",
    ]
    assert (data.folder, data.class_names, data.image_size) == (tmp_path, NAMES, 8)


def test_a_split_that_is_not_there_is_empty(tmp_path):
    write_shards(tmp_path, "train", make_records(2), image_size=8, shard_size=3)
    data = find(tmp_path)
    assert (data.files["val"], data.counts["val"]) == ((), 0)


def test_unless_chosen_the_size_is_224_px_or_the_only_size(tmp_path):
    touch(tmp_path, 64, "00-64x64-5.tfrec")
    assert find(tmp_path).image_size == 64
    touch(tmp_path, 224, "00-224x224-5.tfrec")
    assert find(tmp_path).image_size == 224
    assert find(tmp_path, image_size=64).image_size == 64
    assert find_sizes(tmp_path) == [64, 224]


def test_several_sizes_without_224_must_be_chosen_from(tmp_path):
    touch(tmp_path, 64, "00-64x64-5.tfrec")
    touch(tmp_path, 128, "00-128x128-5.tfrec")
    with pytest.raises(ValueError, match=r"several image sizes \(64, 128\). Pass image_size="):
        find(tmp_path)


def test_a_size_that_is_not_there_lists_those_that_are(tmp_path):
    for size in (224, 331, 512):
        touch(tmp_path, size, f"00-{size}x{size}-5.tfrec")
    with pytest.raises(FileNotFoundError, match=r"-192x192/.*224, 331, 512.*224 \(--image-size\)"):
        find(tmp_path, image_size=192)


def test_a_folder_without_shards_says_what_it_holds(tmp_path):
    (tmp_path / "daisy").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=r"it holds daisy, notes.txt\).*flowerkit draw FOLDER"
    ):
        find(tmp_path)


def test_a_missing_folder_and_the_folder_of_a_size_say_what_to_pass(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*elsewhere. Pass the folder"):
        find(tmp_path / "elsewhere")
    touch(tmp_path, 64, "00-64x64-5.tfrec")
    with pytest.raises(FileNotFoundError, match=f"Pass its parent, {tmp_path}"):
        find(tmp_path / "tfrecords-jpeg-64x64")


@pytest.mark.parametrize("name", ["part-0.tfrecord", "00-64x64.tfrec", "00-64x32-5.tfrec"])
def test_a_shard_with_another_name_is_refused(tmp_path, name):
    touch(tmp_path, 64, name)
    with pytest.raises(ValueError, match=f"{name} is not named NN-SxS-COUNT.tfrec"):
        find(tmp_path)


def test_a_shard_in_the_folder_of_another_size_is_refused(tmp_path):
    touch(tmp_path, 64, "00-224x224-5.tfrec")
    with pytest.raises(ValueError, match="says 224 px in the folder of 64 px"):
        find(tmp_path)


def test_hidden_and_foreign_files_are_passed_over(tmp_path):
    for name in ("00-64x64-5.tfrec", "._00-64x64-5.tfrec", "README.txt"):
        touch(tmp_path, 64, name)
    assert [path.name for path in find(tmp_path).files["train"]] == ["00-64x64-5.tfrec"]


def test_the_count_is_read_from_the_name():
    assert count_in_name("train/15-224x224-783.tfrec") == 783
    with pytest.raises(ValueError, match="flowers.tfrec is not named"):
        count_in_name("flowers.tfrec")


def test_parsing_gives_images_ids_and_classes_of_a_batch(tmp_path):
    data = write_data(tmp_path)
    batch = next(iter(tf.data.TFRecordDataset(str(data.files["train"][0])).batch(3)))
    images, ids, classes = parse_example(batch, labelled=True)
    assert images.numpy().tolist() == [jpeg(0), jpeg(1), jpeg(2)]
    assert ids.numpy().tolist() == [b"000000000", b"000000001", b"000000002"]
    assert classes.numpy().tolist() == [0, 1, 2]
    assert classes.dtype == tf.int32


def test_parsing_works_in_a_map_one_record_at_a_time(tmp_path):
    data = write_data(tmp_path)
    records = tf.data.TFRecordDataset(str(data.files["test"][0]))
    parsed = list(records.map(lambda record: parse_example(record, labelled=False)))
    assert [image_id.numpy() for _, image_id, _ in parsed] == [b"000000000", b"000000001"]
    assert [label.numpy() for _, _, label in parsed] == [-1, -1]


def test_a_label_beyond_int32_does_not_wrap_into_the_valid_range(tmp_path):
    (shard,) = write_shards(
        tmp_path, "train", [Record(jpeg(), "a", 2**32 + 1)], image_size=8, shard_size=1
    )
    record = next(iter(tf.data.TFRecordDataset(str(shard))))
    assert parse_example(record, labelled=True)[2].numpy() == 2147483647


def test_parsing_an_unlabelled_record_as_labelled_is_an_error(tmp_path):
    data = write_data(tmp_path)
    record = next(iter(tf.data.TFRecordDataset(str(data.files["test"][0]))))
    with pytest.raises(tf.errors.InvalidArgumentError, match="class"):
        parse_example(record, labelled=True)


def test_a_wrong_count_and_a_cut_file_are_faults(tmp_path):
    data = write_data(tmp_path)
    assert [check_counts(files) for files in data.files.values()] == [[], [], []]
    train, val = data.files["train"][0], data.files["val"][0]
    renamed = train.rename(train.with_name("00-8x8-9.tfrec"))
    val.write_bytes(val.read_bytes()[:-3])
    assert check_counts([renamed, val]) == [
        CorruptRecord(renamed, None, "9 records by its name, 3 in the file"),
        CorruptRecord(val, 2, "truncated (3 bytes are missing)"),
        CorruptRecord(val, None, "3 records by its name, 2 in the file"),
    ]


def test_a_valid_shard_has_no_faults(tmp_path):
    data = write_data(tmp_path)
    for split, shards in data.files.items():
        for path in shards:
            labelled = split != "test"
            assert check_shard(path, image_size=8, num_classes=3, labelled=labelled) == []


def test_checking_lists_every_fault_with_its_record_and_the_count_last(tmp_path):
    records = [
        Record(jpeg(), "a", 0),
        Record(b"not a flower", "b", 1),
        Record(jpeg(), "c", 3),
        Record(jpeg(), "d", 1),
    ]
    (path,) = write_shards(tmp_path, "train", records, image_size=8, shard_size=9)
    path = path.rename(path.with_name("00-8x8-5.tfrec"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF  # the checksum of the last payload
    path.write_bytes(content)
    assert list(map(str, check_shard(path, image_size=8, num_classes=3, labelled=True))) == [
        "00-8x8-5.tfrec, record 1: not a JPEG (12 bytes)",
        "00-8x8-5.tfrec, record 2: label 3 is outside 0..2",
        "00-8x8-5.tfrec, record 3: bad checksum",
        "00-8x8-5.tfrec: 5 records by its name, 4 in the file",
    ]


def test_checking_a_cut_shard_counts_what_is_whole(tmp_path):
    (path,) = write_shards(tmp_path, "train", make_records(3), image_size=8, shard_size=3)
    path.write_bytes(path.read_bytes()[:-5])
    assert list(map(str, check_shard(path, image_size=8, num_classes=3, labelled=True))) == [
        "00-8x8-3.tfrec, record 2: truncated (5 bytes are missing); "
        "no record from here on can be read",
        "00-8x8-3.tfrec: 3 records by its name, 2 in the file",
    ]
