"""example: the bytes of TensorFlow's message, in both directions."""

import pytest

from flowerkit.data.example import Example

FEATURES = {"image": [b"\xff\xd8\xff"], "id": [b"0a", b""], "class": [3, -1], "share": [0.5, 2.0]}


def fill(example):
    for name, values in FEATURES.items():
        feature = example.features.feature[name]
        kinds = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}
        kinds[type(values[0])].value.extend(values)
    return example


def test_map_entries_are_written_in_the_order_of_their_names():
    assert fill(Example()).SerializeToString(deterministic=True) == (
        b"\nS\n\x18\n\x05class\x12\x0f\x1a\r\n\x0b\x03" + b"\xff" * 9 + b"\x01"
        b"\n\x0e\n\x02id\x12\x08\n\x06\n\x020a\n\x00"
        b"\n\x10\n\x05image\x12\x07\n\x05\n\x03\xff\xd8\xff"
        b"\n\x15\n\x05share\x12\x0c\x12\n\n\x08\x00\x00\x00?\x00\x00\x00@"
    )


def test_numbers_that_are_not_packed_are_read_too():
    payload = b"\n\x0f\n\r\n\x05class\x12\x04\x1a\x02\x08\x03"
    feature = Example.FromString(payload).features.feature["class"]
    assert feature.int64_list.value == [3]


def test_tensorflow_writes_the_same_bytes_and_each_reads_the_others():
    tf = pytest.importorskip("tensorflow")
    ours, theirs = fill(Example()), fill(tf.train.Example())
    payload = ours.SerializeToString(deterministic=True)
    assert theirs.SerializeToString(deterministic=True) == payload
    assert tf.train.Example.FromString(payload) == theirs
    assert Example.FromString(theirs.SerializeToString()) == ours


def test_tensorflow_may_be_imported_too():
    tf = pytest.importorskip("tensorflow")  # which registers the same names
    ours, theirs = Example.DESCRIPTOR, tf.train.Example.DESCRIPTOR
    assert ours.full_name == theirs.full_name == "tensorflow.Example"
    assert ours.file.pool is not theirs.file.pool
