"""records: small shards written with TensorFlow, then broken byte by byte."""

import io
from pathlib import Path

import pytest
import tensorflow as tf
from PIL import Image

from flowerkit.data.records import (
    CorruptRecord,
    Record,
    check_payload,
    find_frames,
    read_frames,
    read_record,
    read_records,
    serialize,
)


def jpeg(width=8, height=8):
    picture = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 90)).save(picture, "JPEG")
    return picture.getvalue()


RECORDS = [Record(jpeg(), f"00000000{i}", i % 2) for i in range(4)]


def write_payloads(folder, payloads):
    path = folder / f"00-8x8-{len(payloads)}.tfrec"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for payload in payloads:
            writer.write(payload)
    return path


def example(**features):
    kinds = {bytes: ("bytes_list", tf.train.BytesList), int: ("int64_list", tf.train.Int64List)}
    feature = {}
    for name, values in features.items():
        field, kind = kinds[type(values[0])]
        feature[name.rstrip("_")] = tf.train.Feature(**{field: kind(value=values)})
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


@pytest.fixture
def shard(tmp_path):
    return write_payloads(tmp_path, [serialize(record) for record in RECORDS])


def flip_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


def frame_bytes():
    return 12 + len(serialize(RECORDS[0])) + 4


def test_a_fault_names_file_record_and_reason():
    path = Path("train/03-224x224-462.tfrec")
    assert str(CorruptRecord(path, 118, "not a JPEG (12 bytes)")) == (
        "03-224x224-462.tfrec, record 118: not a JPEG (12 bytes)"
    )
    assert str(CorruptRecord(path, None, "empty")) == "03-224x224-462.tfrec: empty"
    explained = CorruptRecord(path, 118, "not a JPEG").explain(num_more=2)
    assert explained.startswith(
        "train/03-224x224-462.tfrec, record 118: not a JPEG (the first of 3"
    )


def test_a_record_has_the_competitions_features():
    labelled = tf.train.Example.FromString(serialize(RECORDS[1])).features.feature
    assert sorted(labelled) == ["class", "id", "image"]
    assert labelled["class"].int64_list.value == [1]
    assert labelled["id"].bytes_list.value == [b"000000001"]
    unlabelled = serialize(Record(jpeg(), "000000001", None))
    assert sorted(tf.train.Example.FromString(unlabelled).features.feature) == ["id", "image"]


def test_a_record_has_its_features_in_the_order_of_their_names_whatever_protobuf_does():
    assert serialize(Record(b"\xff\xd8\xff", "0a", 3)) == (
        b"\n0\n\x0e\n\x05class\x12\x05\x1a\x03\n\x01\x03"
        b"\n\x0c\n\x02id\x12\x06\n\x04\n\x020a"
        b"\n\x10\n\x05image\x12\x07\n\x05\n\x03\xff\xd8\xff"
    )


def test_frames_are_found_without_their_payloads(shard):
    frames, fault = find_frames(shard)
    assert fault is None
    content = shard.read_bytes()
    assert [content[start : start + length] for start, length in frames] == [
        serialize(record) for record in RECORDS
    ]
    flip_byte(shard, 40)  # inside the first payload
    assert find_frames(shard) == (frames, None)
    assert read_record(shard, 2) == RECORDS[2]


def test_an_empty_file_holds_no_records(tmp_path):
    path = tmp_path / "00-8x8-0.tfrec"
    path.touch()
    assert find_frames(path) == ([], None)
    assert list(read_records(path)) == []


def test_the_frames_of_a_cut_file_end_with_the_record_that_is_cut(shard):
    shard.write_bytes(shard.read_bytes()[:-3])
    frames, fault = find_frames(shard)
    assert len(frames) == 3
    assert fault == CorruptRecord(shard, 3, "truncated (3 bytes are missing)")


def test_a_file_that_is_no_shard_has_a_broken_length(tmp_path):
    path = tmp_path / "00-8x8-4.tfrec"
    path.write_text("<html>Please sign in</html>")
    assert find_frames(path) == ([], CorruptRecord(path, 0, "broken length (bad checksum)"))


def test_reading_gives_back_what_was_written(shard):
    assert list(read_records(shard)) == list(enumerate(RECORDS))


def test_an_unlabelled_record_reads_as_label_none(tmp_path):
    unlabelled = Record(jpeg(), "0a1b2c3d4", None)
    path = write_payloads(tmp_path, [serialize(unlabelled)])
    assert list(read_records(path)) == [(0, unlabelled)]


def test_a_bad_checksum_raises_with_the_remedy(shard):
    flip_byte(shard, frame_bytes() + 40)
    with pytest.raises(ValueError, match="record 1: bad checksum.*--on-corrupt skip"):
        list(read_records(shard))


def test_a_broken_length_and_a_missing_feature_raise_with_the_record(shard, tmp_path):
    path = write_payloads(tmp_path, [serialize(RECORDS[0]), example(image=[jpeg()], class_=[1])])
    with pytest.raises(ValueError, match="record 1: missing feature 'id'"):
        list(read_records(path))
    flip_byte(shard, 2 * frame_bytes())
    with pytest.raises(ValueError, match=r"record 2: broken length .* no record from here on"):
        list(read_records(shard))


def test_a_cut_payload_and_a_cut_head_are_both_truncated(shard):
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    (*_, (number, payload, reason)) = read_frames(shard)
    assert (number, payload) == (3, None)
    assert reason == "truncated (10 bytes are missing); no record from here on can be read"
    shard.write_bytes(content[: 3 * frame_bytes() + 5])
    (*_, (number, payload, reason)) = read_frames(shard)
    assert (number, payload) == (3, None)
    assert reason.startswith("truncated (7 bytes of its head are missing)")


def test_frame_checksums_agree_with_tensorflows_for_every_byte_value(tmp_path):
    path = write_payloads(tmp_path, [b"", bytes(range(256)), b"123456789" * 50])
    assert [(payload, reason) for _, payload, reason in read_frames(path)] == [
        (b"", None),
        (bytes(range(256)), None),
        (b"123456789" * 50, None),
    ]


PAYLOADS = {
    "valid": (example(image=[jpeg()], id=[b"a"], class_=[1]), []),
    "no protobuf": (b"\xff\xff\xff", ["not a tf.train.Example (3 bytes)"]),
    "no image": (example(id=[b"a"], class_=[1]), ["missing feature 'image'"]),
    "no id": (example(image=[jpeg()], class_=[1]), ["missing feature 'id'"]),
    "no class": (example(image=[jpeg()], id=[b"a"]), ["missing feature 'class'"]),
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
    "two faults": (
        example(image=[b"x"], id=[b"a"], class_=[9]),
        ["not a JPEG (1 bytes)", "label 9 is outside 0..1"],
    ),
}


@pytest.mark.parametrize(("payload", "reasons"), PAYLOADS.values(), ids=PAYLOADS)
def test_every_fault_inside_a_record_has_its_sentence(payload, reasons):
    assert check_payload(payload, image_size=8, num_classes=2, labelled=True) == reasons


def test_an_unlabelled_split_needs_no_class():
    payload = example(image=[jpeg()], id=[b"a"])
    assert check_payload(payload, image_size=8, num_classes=2, labelled=False) == []
