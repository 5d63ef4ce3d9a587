"""leaks: pictures are put where they must not be, and found there."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flowerkit.data.leaks import DuplicatePair, Place, draw_pairs, find_leaks, write_pairs
from flowerkit.data.tfrecords import Record, find_shards, read_record, write_shards
from flowerkit.sources import draw_flower

NAMES = ("white daisy", "cream daisy", "wine daisy")


def encode(pixels, quality=92):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def draw(label, seed, id=None, quality=92):
    """A record of a drawn flower; another quality is a near duplicate, not the same bytes."""
    image = encode(draw_flower(4 * label, size=48, seed=seed), quality)
    return Record(image, id or f"{label}-{seed}", label)


def write(folder, train, val=(), test=(), *, names=NAMES):
    test = [replace(record, label=None) for record in test]
    for split, records in (("train", train), ("val", val), ("test", test)):
        write_shards(folder, split, records, image_size=48, shard_size=5)
    return find_shards(folder, class_names=names, origin="folder")


def clean_train():
    return [draw(label, seed) for seed in range(3) for label in range(3)]


def clean_val():
    return [draw(label, 10) for label in range(3)]


def describe(report):
    return [(pair.kind, pair.first.id, pair.second.id) for pair in report.pairs]


# Clean --------------------------------------------------------------------------------------------


def test_drawn_flowers_are_clean(drawn):
    report = find_leaks(drawn)
    assert report.counts == {"train": 50, "val": 18, "test": 22}
    assert report.problems == ()
    assert report.notes == ()
    assert report.pairs == ()


def test_the_splits_may_lack_test_and_val(tmp_path):
    report = find_leaks(write(tmp_path, clean_train()))
    assert report.counts == {"train": 9, "val": 0, "test": 0}
    assert report.problems == ()
    assert report.notes == (
        "classes in train, but not in val: 3 (white daisy, cream daisy, wine daisy)",
    )


# Across splits ------------------------------------------------------------------------------------


def test_the_same_bytes_in_train_and_val_are_named_with_file_record_and_id(tmp_path):
    data = write(tmp_path, clean_train(), [*clean_val(), draw(1, 2, id="again")])
    report = find_leaks(data, near=False)
    assert report.problems == (
        "in train and val, same bytes: train/01-48x48-4.tfrec, record 2 (id 1-2, cream daisy) and "
        "val/00-48x48-4.tfrec, record 3 (id again, cream daisy)",
    )
    assert report.notes == ("pairs of the same picture between train and val: 1 same bytes",)


def test_a_near_copy_in_test_is_found_by_looking_only(tmp_path):
    data = write(tmp_path, clean_train(), clean_val(), [draw(2, 1, id="anew", quality=60)])
    assert find_leaks(data, near=False).problems == ()
    report = find_leaks(data)
    assert describe(report) == [("near duplicate", "2-1", "anew")]
    assert report.pairs[0].distance <= 4
    assert report.pairs[0].similarity > 0.98
    assert report.problems[0].startswith("in train and test, near duplicate, ")
    assert report.problems[0].endswith("test/00-48x48-1.tfrec, record 0 (id anew)")


@pytest.mark.parametrize(
    ("turn", "text"),
    [
        (lambda pixels: pixels[:, ::-1], "mirrored"),
        (lambda pixels: np.rot90(pixels), "turned by 90 degrees"),
        (lambda pixels: pixels[::-1, ::-1], "turned by 180 degrees"),
        (lambda pixels: np.rot90(pixels, 3), "turned by 270 degrees"),
    ],
)
def test_a_mirrored_and_a_turned_copy_is_found(tmp_path, turn, text):
    pixels = np.ascontiguousarray(turn(draw_flower(8, size=48, seed=1)))
    data = write(tmp_path, clean_train(), [*clean_val(), Record(encode(pixels, 80), "copy", 2)])
    report = find_leaks(data)
    assert describe(report) == [("turned copy", "2-1", "copy")]
    assert report.pairs[0].turn == text
    assert report.problems[0].startswith(f"in train and val, turned copy, {text}, ")
    assert report.notes == ("pairs of the same picture between train and val: 1 turned copy",)


def test_a_damaged_picture_that_decoders_show_is_a_problem(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), "uint8")
    jpeg = encode(noise)
    half = len(jpeg) // 2
    jpeg = jpeg[:half] + (b"flowers" * half)[: half - 2] + jpeg[-2:]
    report = find_leaks(write(tmp_path, [*clean_train(), Record(jpeg, "half", 0)], clean_val()))
    assert report.problems[0].startswith(
        "train/01-48x48-5.tfrec, record 4 (id half): damaged (Corrupt JPEG data: "
    )


def test_a_shard_that_is_missing_between_others_is_a_problem(tmp_path):
    data = write(tmp_path, [*clean_train(), *clean_train()[:3]], clean_val())
    data.files["train"][1].unlink()
    assert find_leaks(find_shards(tmp_path, class_names=NAMES, origin="folder")).problems == (
        "train: no shard has the number 01. Download the shards again.",
    )


def test_a_shared_id_is_a_leak_whatever_it_shows(tmp_path):
    data = write(tmp_path, clean_train(), [*clean_val(), draw(0, 77, id="0-1")])
    assert describe(find_leaks(data)) == [("same id", "0-1", "0-1")]
    assert find_leaks(data).problems[0].startswith("in train and val, same id: train/00-48x48-5")


def test_what_is_found_twice_is_reported_once(tmp_path):
    data = write(tmp_path, clean_train(), [*clean_val(), draw(0, 1)])
    assert describe(find_leaks(data)) == [("same bytes", "0-1", "0-1")]
    assert len(find_leaks(data).problems) == 1


# Within a split -----------------------------------------------------------------------------------


def test_copies_within_a_split_are_counted_and_no_problem(tmp_path):
    train = [*clean_train(), draw(0, 1, id="copy"), draw(1, 1, id="near", quality=60)]
    report = find_leaks(write(tmp_path, train, clean_val()))
    assert report.problems == ()
    assert report.notes == (
        "pairs of the same picture within train: 1 same bytes, 1 near duplicate",
    )


def test_a_picture_under_two_labels_is_a_problem_within_a_split_as_well(tmp_path):
    train = [*clean_train(), replace(draw(0, 1, id="wrong"), label=2)]
    report = find_leaks(write(tmp_path, train, clean_val()))
    assert report.problems == (
        "under two labels, same bytes: train/00-48x48-5.tfrec, record 3 (id 0-1, white daisy) and "
        "train/01-48x48-5.tfrec, record 4 (id wrong, wine daisy)",
    )


def test_two_labels_and_two_splits_are_reported_in_a_line(tmp_path):
    val = [*clean_val(), replace(draw(0, 1, id="wrong"), label=2)]
    (problem,) = find_leaks(write(tmp_path, clean_train(), val)).problems
    assert problem.startswith("in train and val and under two labels, same bytes: ")


# External -----------------------------------------------------------------------------------------


def test_an_external_set_leaks_where_it_holds_val_or_test_and_not_where_it_repeats_train(tmp_path):
    data = write(tmp_path / "own", clean_train(), clean_val(), [draw(0, 20, id="t")])
    external = write(
        tmp_path / "more",
        [draw(0, 1, id="as train"), draw(0, 20, id="as test", quality=70), draw(0, 30, id="0-10")],
        [draw(2, 10, id="as val")],
    )
    report = find_leaks(data, external=external)
    assert report.counts == {"train": 9, "val": 3, "test": 1, "external": 4}
    assert sorted(describe(report)) == [
        ("near duplicate", "t", "as test"),
        ("same bytes", "0-1", "as train"),
        ("same bytes", "2-10", "as val"),
    ]
    assert len(report.problems) == 2
    assert "external: val/00-48x48-1.tfrec, record 0 (id as val, wine daisy)" in report.problems[0]
    assert "pairs of the same picture between train and external: 1 same bytes" in report.notes


def test_labels_of_an_external_set_with_other_classes_are_not_compared(tmp_path):
    data = write(tmp_path / "own", clean_train(), clean_val())
    external = write(tmp_path / "more", [replace(draw(0, 1), label=1)], names=("a", "b"))
    report = find_leaks(data, external=external)
    assert [pair.second.label for pair in report.pairs] == [None]
    assert report.problems == ()


# Classes and damage -------------------------------------------------------------------------------


def test_a_class_that_is_measured_but_never_learned_is_a_problem(tmp_path):
    train = [draw(label, seed) for seed in range(3) for label in (0, 1)]
    report = find_leaks(write(tmp_path, train, clean_val()))
    assert report.problems == ("classes in val, but never in train: 1 (wine daisy)",)


def test_a_shard_that_is_cut_off_or_misnamed_is_a_problem_and_nothing_is_compared(tmp_path):
    data = write(tmp_path, clean_train(), clean_val())
    shard = data.files["train"][1]
    shard.write_bytes(shard.read_bytes()[:-5])
    report = find_leaks(data)
    assert report.problems == (
        "train/01-48x48-4.tfrec, record 3: truncated (5 bytes are missing)",
        "train/01-48x48-4.tfrec: 4 records by its name, 3 in the file",
    )
    assert report.notes == ("nothing was compared: repair the shards first",)


def test_a_damaged_picture_is_refused_with_its_file_and_record(tmp_path):
    broken = Record(b"\xff\xd8\xff" + bytes(40), "broken", 0)
    data = write(tmp_path, [*clean_train(), broken], clean_val())
    with pytest.raises(ValueError, match=r"train/01-48x48-5.tfrec, record 4: undecodable JPEG"):
        find_leaks(data)


def test_no_pictures_at_all_are_refused(tmp_path):
    (tmp_path / "tfrecords-jpeg-48x48").mkdir()
    data = find_shards(tmp_path, class_names=NAMES, origin="folder")
    with pytest.raises(ValueError, match="holds no pictures. Pass a folder with filled shards"):
        find_leaks(data)


# Showing ------------------------------------------------------------------------------------------


def test_progress_ends_at_all_pictures(tmp_path):
    seen = []
    find_leaks(
        write(tmp_path, clean_train(), clean_val()), progress=lambda *step: seen.append(step)
    )
    assert seen == [("pictures", 9, 12), ("pictures", 12, 12)]


def test_the_csv_has_all_pairs_and_the_problems_first(tmp_path):
    train = [*clean_train(), draw(0, 1, id="copy")]
    val = [*clean_val(), draw(1, 1, id="near", quality=60)]
    report = find_leaks(write(tmp_path, train, val))
    write_pairs(tmp_path / "pairs.csv", report)
    with open(tmp_path / "pairs.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["crosses"], row["id_2"]) for row in rows] == [
        ("near duplicate", "True", "near"),
        ("same bytes", "False", "copy"),
    ]
    assert (rows[0]["file_1"], rows[0]["record_1"], rows[0]["label_1"]) == (
        "00-48x48-5.tfrec",
        "4",
        "1",
    )
    assert rows[1]["similarity"] == "1.0000"


def test_the_surest_problem_comes_first(tmp_path):
    val = [*clean_val(), draw(1, 1, id="near", quality=60), draw(0, 1, id="copy")]
    report = find_leaks(write(tmp_path, [*clean_train(), draw(2, 2, id="twice")], val))
    assert [pair.second.id for pair in report.sorted_pairs()] == ["copy", "near", "twice"]


def test_a_pair_of_external_and_train_does_not_cross(tmp_path):
    own, more = (
        Place(split, tmp_path / "train/00-48x48-1.tfrec", 0, "a", 1)
        for split in ("train", "external")
    )
    assert not DuplicatePair("same bytes", own, more, 0, 1.0).crosses
    assert DuplicatePair("same bytes", replace(own, split="test"), more, 0, 1.0).crosses


@pytest.fixture(scope="module")
def pairs(drawn):
    """Record k of train beside record k of val, for 6 of them."""
    train, val = drawn.files["train"][0], drawn.files["val"][0]
    return [
        DuplicatePair(
            "near duplicate",
            Place("train", train, k, f"t{k}", 0),
            Place("val", val, k, f"v{k}", k % 2),
            k,
            0.95,
        )
        for k in range(6)
    ]


def test_each_pair_is_drawn_side_by_side(pairs, tmp_path):
    assert draw_pairs(tmp_path / "pairs.png", pairs) == 6
    sheet = np.asarray(Image.open(tmp_path / "pairs.png")).astype(int)
    assert sheet.shape == (2 * (160 + 44), 4 * (2 * 160 + 14), 3)
    for k, (left, top) in {1: (334, 0), 5: (334, 204)}.items():
        val = Image.open(io.BytesIO(read_record(pairs[k].second.file, k).image))
        val = np.asarray(val.resize((160, 160), Image.Resampling.BICUBIC))
        assert (sheet[top : top + 160, left + 160 : left + 320] == val).all()


def test_no_more_than_sixty_are_drawn_and_nothing_for_nothing(pairs, tmp_path):
    assert draw_pairs(tmp_path / "sixty.png", pairs * 11) == 60
    assert draw_pairs(tmp_path / "two.png", pairs[:2]) == 2
    assert Image.open(tmp_path / "two.png").size == (2 * 334, 204)
    assert draw_pairs(tmp_path / "none.png", []) == 0
    assert not (tmp_path / "none.png").exists()
