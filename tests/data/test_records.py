"""records: small shards framed, then broken byte by byte."""

import gzip
import tracemalloc
from pathlib import Path

import pytest

from flowerkit.data.records import CorruptRecord, _checksum, find_frames, frame, read_frames

PAYLOADS = [b"daisy", b"rosie", b"tulip", b"lilac"]
FRAME_BYTES = 12 + 5 + 4


def write_payloads(folder, payloads):
    path = folder / f"00-8x8-{len(payloads)}.tfrec"
    path.write_bytes(b"".join(map(frame, payloads)))
    return path


@pytest.fixture
def shard(tmp_path):
    return write_payloads(tmp_path, PAYLOADS)


def flip_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


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


def test_a_frame_is_length_and_payload_each_with_its_checksum():
    # RFC 3720, B.4: the CRC-32C of 32 zeros is 0x8a9136aa; masked it is 0x0fd7fffa.
    framed = frame(bytes(32))
    assert framed[:8] == b"\x20\0\0\0\0\0\0\0"
    assert framed[12:44] == bytes(32)
    assert framed[44:] == (0x0FD7FFFA).to_bytes(4, "little")


def test_tensorflow_writes_the_same_file_and_reads_ours(tmp_path):
    tf = pytest.importorskip("tensorflow")
    payloads = [b"", bytes(range(256)), b"123456789" * 5000]
    theirs = tmp_path / "theirs.tfrec"
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for payload in payloads:
            writer.write(payload)
    ours = write_payloads(tmp_path, payloads)
    assert ours.read_bytes() == theirs.read_bytes()
    assert list(tf.data.TFRecordDataset(str(ours)).as_numpy_iterator()) == payloads


def test_frames_are_found_without_their_payloads(shard):
    assert find_frames(shard) == ([(12, 5), (33, 5), (54, 5), (75, 5)], None)
    flip_byte(shard, 14)  # inside the first payload
    assert find_frames(shard) == ([(12, 5), (33, 5), (54, 5), (75, 5)], None)


def test_an_empty_file_holds_no_records(tmp_path):
    path = tmp_path / "00-8x8-0.tfrec"
    path.touch()
    assert find_frames(path) == ([], None)
    assert list(read_frames(path)) == []


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
    numbered = [(number, payload, None) for number, payload in enumerate(PAYLOADS)]
    assert list(read_frames(shard)) == numbered


def test_a_bad_checksum_has_its_number_and_reading_goes_on(shard):
    flip_byte(shard, FRAME_BYTES + 14)
    assert [fault for _, _, fault in read_frames(shard)] == [None, "bad checksum", None, None]


def test_nothing_behind_a_broken_length_is_read(shard):
    flip_byte(shard, 2 * FRAME_BYTES)
    *_, last = read_frames(shard)
    fault = "broken length (bad checksum); no record from here on can be read"
    assert last == (2, None, fault)


def test_a_cut_payload_and_a_cut_head_are_both_truncated(shard):
    content = shard.read_bytes()
    shard.write_bytes(content[:-6])
    (*_, (number, payload, fault)) = read_frames(shard)
    assert (number, payload) == (3, None)
    assert fault == "truncated (6 bytes are missing); no record from here on can be read"
    shard.write_bytes(content[: 3 * FRAME_BYTES + 5])
    (*_, (number, payload, fault)) = read_frames(shard)
    assert (number, payload) == (3, None)
    assert fault.startswith("truncated (7 bytes of its head are missing)")


def append_length(path, num_bytes, *, room=False):
    """The head of a record of `num_bytes`, its checksum right; with `room` the zeros, as a hole."""
    head = num_bytes.to_bytes(8, "little")
    with path.open("ab") as file:
        file.write(head + _checksum(head))
        if room:
            file.truncate(file.tell() + num_bytes + 4)


@pytest.mark.parametrize(
    ("num_bytes", "room"), [(2**40, False), (2**40, True), (2**63, False), (2**64 - 1, False)]
)
def test_a_length_beyond_all_pictures_is_a_fault_and_asks_for_no_memory(shard, num_bytes, room):
    append_length(shard, num_bytes, room=room)
    reason = f"a record of {num_bytes / 2**30:.2f} GiB, and none has over 256 MiB"
    assert find_frames(shard) == (
        [(12, 5), (33, 5), (54, 5), (75, 5)],
        CorruptRecord(shard, 4, reason),
    )
    assert list(read_frames(shard))[4:] == [
        (4, None, f"{reason}; no record from here on can be read")
    ]


def test_a_length_beyond_the_file_asks_for_no_memory(shard):
    append_length(shard, 2**28)
    tracemalloc.start()
    assert list(read_frames(shard))[4][2].startswith("truncated (268435460 bytes are missing)")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("read", [find_frames, lambda path: list(read_frames(path))])
def test_a_file_compressed_by_gzip_is_refused_with_the_command_that_unpacks_it(shard, read):
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(ValueError, match=r"00-8x8-4\.tfrec is compressed by gzip.* gzip -dc < 00"):
        read(shard)


def test_a_length_that_begins_as_gzip_does_is_a_length(tmp_path):
    path = write_payloads(tmp_path, [bytes(0x8B1F)])
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert find_frames(path) == ([(12, 0x8B1F)], None)
    path.write_bytes(path.read_bytes()[:-1])
    assert find_frames(path)[0] == []
