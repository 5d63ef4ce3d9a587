"""tfrecords: records parsed and written; shards in folders, found by name and checked."""

import io
from pathlib import Path

import pytest
from PIL import Image

from flowerkit.data.example import Example
from flowerkit.data.records import CorruptRecord, frame
from flowerkit.data.tfrecords import (
    FlowerData,
    Record,
    check_counts,
    check_example,
    count_in_name,
    find_gaps,
    find_shards,
    find_sizes,
    parse_example,
    read_record,
    read_records,
    scan_shard,
    serialize,
    write_shards,
)

NAMES = ("daisy", "rose", "tulip")


def jpeg(shade=0, width=8):
    picture = io.BytesIO()
    Image.new("RGB", (width, 8), (200, shade, 90)).save(picture, "JPEG")
    return picture.getvalue()


def example(**features):
    """A serialized Example with these features, a list each."""
    message = Example()
    for name, values in features.items():
        feature = message.features.feature[name.rstrip("_")]
        values_of = feature.bytes_list if isinstance(values[0], bytes) else feature.int64_list
        values_of.value.extend(values)
    return message.SerializeToString()


def write_payloads(folder, payloads):
    path = folder / f"00-8x8-{len(payloads)}.tfrec"
    path.write_bytes(b"".join(map(frame, payloads)))
    return path


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


# Records ------------------------------------------------------------------------------------------


def test_a_record_has_the_competitions_features_in_the_order_of_their_names():
    assert serialize(Record(b"\xff\xd8\xff", "0a", 3)) == (
        b"\n0\n\x0e\n\x05class\x12\x05\x1a\x03\n\x01\x03"
        b"\n\x0c\n\x02id\x12\x06\n\x04\n\x020a"
        b"\n\x10\n\x05image\x12\x07\n\x05\n\x03\xff\xd8\xff"
    )
    unlabelled = Example.FromString(serialize(Record(b"", "0a", None)))
    assert sorted(unlabelled.features.feature) == ["id", "image"]


def test_parsing_gives_back_what_was_written():
    labelled, unlabelled = Record(jpeg(), "00000000a", 2), Record(jpeg(), "00000000b", None)
    assert parse_example(serialize(labelled), labelled=True) == labelled
    assert parse_example(serialize(labelled)) == labelled
    assert parse_example(serialize(labelled), labelled=False).label is None
    assert parse_example(serialize(unlabelled)) == unlabelled
    with pytest.raises(ValueError, match="missing feature 'class'"):
        parse_example(serialize(unlabelled), labelled=True)


def test_a_shards_records_are_read_with_their_numbers_or_one_alone(tmp_path):
    records = list(make_records(4))
    path = write_payloads(tmp_path, [serialize(record) for record in records])
    assert list(read_records(path)) == list(enumerate(records))
    assert read_record(path, 2) == records[2]


def test_reading_a_bad_record_raises_with_its_number_and_the_remedy(tmp_path):
    records = [serialize(record) for record in make_records(2)]
    path = write_payloads(tmp_path, [records[0], example(image=[jpeg()], class_=[1])])
    with pytest.raises(ValueError, match="record 1: missing feature 'id'.*--on-corrupt skip"):
        list(read_records(path))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="record 1: bad checksum"):
        list(read_records(path))


PAYLOADS = {
    "valid": (example(image=[jpeg()], id=[b"a"], class_=[1]), []),
    "no protobuf": (b"\xff\xff\xff", ["not a tf.train.Example (3 bytes)"]),
    "no id": (
        example(image=[jpeg()], class_=[1]),
        ["missing feature 'id' (found: class, image; wanted: image, id, class)"],
    ),
    "no class": (
        example(image=[jpeg()], id=[b"a"]),
        ["missing feature 'class' (found: id, image; wanted: image, id, class)"],
    ),
    "other names": (
        example(**{"image/encoded": [jpeg()], "image/class/label": [1]}),
        [
            "missing feature 'image' and 'id' and 'class' "
            "(found: image/class/label, image/encoded; wanted: image, id, class)"
        ],
    ),
    "nothing": (
        b"",
        ["missing feature 'image' and 'id' and 'class' (found: none; wanted: image, id, class)"],
    ),
    "two classes": (
        example(image=[jpeg()], id=[b"a"], class_=[1, 0]),
        ["feature 'class' holds 2 int64 values, not 1"],
    ),
    "an id that is a number": (
        example(image=[jpeg()], id=[7], class_=[1]),
        ["feature 'id' holds 0 bytes values, not 1"],
    ),
    "an id that is no text": (
        example(image=[jpeg()], id=[b"\xff"], class_=[1]),
        [r"the id b'\xff' is not UTF-8"],
    ),
    "no picture": (
        example(image=[b"not a flower"], id=[b"a"], class_=[1]),
        ["not a JPEG (12 bytes)"],
    ),
    "half a picture": (
        example(image=[jpeg()[:100]], id=[b"a"], class_=[1]),
        ["undecodable JPEG (100 bytes)"],
    ),
    "a wide picture": (
        example(image=[jpeg(width=16)], id=[b"a"], class_=[1]),
        ["wrong size (got 8x16, expected 8x8)"],
    ),
    "a label too high": (
        example(image=[jpeg()], id=[b"a"], class_=[2]),
        ["label 2 is outside 0..1"],
    ),
    "a label below zero": (
        example(image=[jpeg()], id=[b"a"], class_=[-1]),
        ["label -1 is outside 0..1"],
    ),
    "a label that would wrap into the valid range": (
        example(image=[jpeg()], id=[b"a"], class_=[2**32 + 1]),
        ["label 4294967297 is outside 0..1"],
    ),
    "two faults": (
        example(image=[b"x"], id=[b"a"], class_=[9]),
        ["not a JPEG (1 bytes)", "label 9 is outside 0..1"],
    ),
}


@pytest.mark.parametrize(("payload", "reasons"), PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("decode", [True, False])
def test_every_fault_inside_a_record_has_its_sentence(payload, reasons, decode):
    record, found = check_example(payload, 8, 2, labelled=True, decode=decode)
    assert found == reasons
    assert record == (None if reasons else Record(jpeg(), "a", 1))


def test_an_unlabelled_split_needs_no_class_and_ignores_one():
    for features in ({}, {"class_": [1, 0]}):
        payload = example(image=[jpeg()], id=[b"a"], **features)
        record, reasons = check_example(payload, 8, 2, labelled=False, decode=True)
        assert (record.label, reasons) == (None, [])


# Folders of shards --------------------------------------------------------------------------------


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
    with pytest.raises(
        FileNotFoundError, match=r"-192x192/.*224, 331, 512.*224 \(--image-size 224\)"
    ):
        find(tmp_path, image_size=192)


def test_a_folder_without_shards_says_what_it_holds(tmp_path):
    (tmp_path / "daisy").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=r"it holds daisy, notes.txt\).*flowerkit draw FOLDER"
    ):
        find(tmp_path)


def test_a_missing_folder_and_the_folder_of_a_size_say_what_to_pass(tmp_path):
    draws, fetches = "`flowerkit draw FOLDER`", "`kaggle competitions download tpu-getting-started`"
    with pytest.raises(
        FileNotFoundError, match=f"no folder .*elsewhere. Pass .* {draws} .* {fetches}"
    ):
        find(tmp_path / "elsewhere")
    touch(tmp_path, 64, "00-64x64-5.tfrec")
    for wrong in ("train", "train/daisy", "tfrecords-jpeg-64x64", "tfrecords-jpeg-64x64/val"):
        with pytest.raises(FileNotFoundError, match=rf"Did you mean {tmp_path}\?"):
            find(tmp_path / wrong)


@pytest.mark.parametrize("name", ["part-0.tfrecord", "00-64x64.tfrec", "00-64x32-5.tfrec"])
def test_a_shard_with_another_name_is_refused(tmp_path, name):
    touch(tmp_path, 64, name)
    with pytest.raises(ValueError, match=f"{name} is not named NN-SxS-COUNT.tfrec"):
        find(tmp_path)


def test_the_ending_of_a_shard_may_be_in_capitals(tmp_path):
    touch(tmp_path, 64, "00-64x64-5.TFREC")
    touch(tmp_path, 64, "01-64x64-4.tfrec")
    assert find(tmp_path).counts["train"] == 9


@pytest.mark.parametrize(
    ("ending", "remedy"),
    [
        (".part", "Finish the download"),
        (".crdownload", "Finish the download"),
        (".tmp", "Finish the download"),
        (".gz", "Unpack it: gzip -d "),
        (".zst", "Unpack it: zstd -d "),
    ],
)
def test_what_stands_where_a_shard_should_be_is_refused(tmp_path, ending, remedy):
    touch(tmp_path, 64, "00-64x64-5.tfrec")
    touch(tmp_path, 64, f"01-64x64-5.tfrec{ending}")
    with pytest.raises(ValueError, match=rf"where 01-64x64-5\.tfrec should be\. {remedy}"):
        find(tmp_path)
    touch(tmp_path, 64, "01-64x64-5.tfrec")  # beside which it may be a checksum, or an index
    assert find(tmp_path).counts["train"] == 10


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "VAL"])
def test_a_split_of_another_name_is_refused(tmp_path, name):
    touch(tmp_path, 64, "00-64x64-5.tfrec")
    folder = tmp_path / "tfrecords-jpeg-64x64"
    (folder / name).mkdir()
    assert find(tmp_path).counts["val"] == 0
    (folder / name / "00-64x64-3.tfrec").touch()
    with pytest.raises(
        ValueError, match=rf"{name} holds shards, but .* no val and no test\. Rename"
    ):
        find(tmp_path)


@pytest.mark.parametrize(
    ("numbers", "gaps"),
    [
        ("00 01 02", []),
        ("01 02 03", []),
        ("", []),
        ("00 02", ["train: no shard has the number 01. Download the shards again."]),
        ("02 03", ["train: no shard has the number 00, 01. Download the shards again."]),
        ("00 01 01", ["train: two have 01. Download the shards again."]),
    ],
)
def test_gaps_in_the_numbers_of_shards_are_found(numbers, gaps):
    files = [
        Path(f"train/{number}-8x8-{count}.tfrec") for count, number in enumerate(numbers.split())
    ]
    assert find_gaps(files) == gaps


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
            assert scan_shard(path, 8, 3, labelled, decode=True)[1] == []


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
    assert list(map(str, scan_shard(path, 8, 3, True, decode=True)[1])) == [
        "00-8x8-5.tfrec, record 1: not a JPEG (12 bytes)",
        "00-8x8-5.tfrec, record 2: label 3 is outside 0..2",
        "00-8x8-5.tfrec, record 3: bad checksum",
        "00-8x8-5.tfrec: 5 records by its name, 4 in the file",
    ]


def test_checking_a_cut_shard_counts_what_is_whole(tmp_path):
    (path,) = write_shards(tmp_path, "train", make_records(3), image_size=8, shard_size=3)
    path.write_bytes(path.read_bytes()[:-5])
    assert list(map(str, scan_shard(path, 8, 3, True, decode=True)[1])) == [
        "00-8x8-3.tfrec, record 2: truncated (5 bytes are missing); "
        "no record from here on can be read",
        "00-8x8-3.tfrec: 3 records by its name, 2 in the file",
    ]


def test_a_scan_gives_the_valid_records_their_places_and_digests(tmp_path):
    records = [Record(jpeg(), "a", 0), Record(b"not a flower", "b", 1), Record(jpeg(), "c", 2)]
    (path,) = write_shards(tmp_path, "train", records, image_size=8, shard_size=9)
    (first, last), (fault,) = scan_shard(path, 8, 3, labelled=True, decode=False)
    assert (fault.record, fault.reason) == (1, "not a JPEG (12 bytes)")
    assert [(each.number, each.id, each.label) for each in (first, last)] == [
        (0, "a", 0),
        (2, "c", 2),
    ]
    assert first.digest == last.digest
    content = path.read_bytes()
    for found, record in ((first, records[0]), (last, records[2])):
        assert content[found.offset :][: found.length] == serialize(record)
