"""The drawn flowers: which species there are, and how they become a competition's folder."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageChops

from flowerkit.data import read_records
from flowerkit.data.tfrecords import scan_shard
from flowerkit.sources.painting import GROUNDS, MARKS
from flowerkit.sources.synthetic import FORMS, draw_competition, draw_flower, draw_photos, species

SMALL = {"num_classes": 4, "image_size": 32, "num_train": 70, "num_val": 8, "num_test": 8}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_competition(tmp_path_factory.mktemp("flowers") / "drawn", **SMALL)


def read_split(data, split):
    return [record for path in data.files[split] for _, record in read_records(path)]


def read_files(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_first_species_are_these():
    names = [species(k).name for k in (0, 1, 2, 3, 4, 103)]
    assert names == [
        "white daisy",
        "cream daisy",
        "wine daisy",
        "cherry daisy",
        "coral primrose",
        "blue garden pansy",
    ]


def test_104_species_differ_in_every_trait():
    kinds = [species(k) for k in range(104)]
    assert len({kind.name for kind in kinds}) == 104
    assert {kind.form.name for kind in kinds} == {form.name for form in FORMS}
    assert {kind.ground for kind in kinds} == set(GROUNDS)
    assert {kind.mark for kind in kinds} == set(MARKS)
    assert len({kind.colour for kind in kinds}) == 17
    assert len({kind.petals for kind in kinds}) > 10
    assert len({kind.form.centre for kind in kinds}) == 5


def test_a_genus_shares_its_form_and_ground_and_a_pair_its_marking_but_none_its_colour():
    for first in range(0, 104, 4):
        genus = [species(k) for k in range(first, first + 4)]
        assert len({(kind.form, kind.ground) for kind in genus}) == 1
        assert len({kind.colour for kind in genus}) == 4
        assert genus[0].mark == genus[1].mark != genus[2].mark == genus[3].mark


@pytest.mark.parametrize("k", [-1, 104])
def test_an_unknown_species_is_refused(k):
    with pytest.raises(ValueError, match=f"104 drawn species, from 0. Received: k={k}"):
        species(k)


@pytest.mark.parametrize("size", [8, 33, 64, 224])
def test_a_flower_is_a_uint8_picture_of_the_size_asked_for(size):
    picture = draw_flower(7, size=size, seed=0)
    assert (picture.shape, picture.dtype) == ((size, size, 3), np.uint8)
    assert picture.std() > 10


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others():
    once = draw_flower(5, size=48, seed=(3, 1, 4))
    assert (once == draw_flower(5, size=48, seed=(3, 1, 4))).all()
    assert np.abs(once.astype(int) - draw_flower(5, size=48, seed=(3, 1, 5))).mean() > 10


def test_a_seed_shows_one_scene_at_every_size():
    small = draw_flower(9, size=64, seed=2).astype(int)
    large = Image.fromarray(draw_flower(9, size=192, seed=2)).reduce(3)
    another = draw_flower(9, size=64, seed=3)
    assert np.abs(small - np.asarray(large)).mean() < 10 < np.abs(small - another).mean()


def test_pictures_of_one_species_vary_in_light_and_pose():
    pictures = np.stack([draw_flower(0, size=32, seed=i) for i in range(24)]).astype(float)
    assert pictures.mean((1, 2, 3)).std() > 10
    assert pictures.std(0).mean() > 30


def test_a_picture_too_small_is_refused():
    with pytest.raises(ValueError, match="size=7 must be 8 or more"):
        draw_flower(0, size=7, seed=0)


def test_a_competition_has_the_counts_the_names_and_the_layout(drawn):
    assert drawn.counts == {"train": 70, "val": 8, "test": 8}
    assert drawn.origin == "drawn"
    assert drawn.image_size == 32
    assert [path.name for path in drawn.files["train"]] == ["00-32x32-64.tfrec", "01-32x32-6.tfrec"]
    names = json.loads((drawn.folder / "classes.json").read_text(encoding="utf-8"))
    assert names == list(drawn.class_names) == [species(k).name for k in range(4)]


def test_its_shards_are_valid_and_only_test_is_unlabelled(drawn):
    for split, paths in drawn.files.items():
        for path in paths:
            faults = scan_shard(path, 32, 4, split != "test", decode=True)[1]
            assert faults == []
    assert {record.label for record in read_split(drawn, "test")} == {None}


def test_a_record_holds_the_drawing_of_its_label(drawn):
    for i, record in enumerate(read_split(drawn, "val")):
        stored = Image.open(io.BytesIO(record.image))
        wanted = Image.fromarray(draw_flower(record.label, size=32, seed=(0, 1, i)))
        difference = ImageChops.difference(stored.reduce(4), wanted.reduce(4))
        assert np.asarray(difference).mean() < 4


def test_classes_are_uneven_and_in_every_split(drawn):
    train = np.bincount([record.label for record in read_split(drawn, "train")])
    val = np.bincount([record.label for record in read_split(drawn, "val")])
    assert sorted(train.tolist()) == [8, 13, 19, 30]
    assert (np.argmax(train), len(val), val.min()) == (np.argmax(val), 4, 1)


def test_a_few_classes_of_104_are_several_times_larger(tmp_path):
    data = draw_competition(tmp_path, image_size=8, num_train=1000, num_val=0, num_test=0)
    counts = np.bincount([record.label for record in read_split(data, "train")])
    assert (len(counts), counts.sum(), counts.min()) == (104, 1000, 3)
    assert 3 * np.median(counts) < counts.max() < 6 * np.median(counts)


def test_ids_are_9_hex_characters_and_none_comes_twice(drawn):
    ids = [record.id for split in drawn.files for record in read_split(drawn, split)]
    assert len(set(ids)) == 86
    assert all(len(name) == 9 and int(name, 16) >= 0 for name in ids)


def test_the_sample_submission_lists_the_test_ids_in_order(drawn):
    lines = (drawn.folder / "sample_submission.csv").read_text().splitlines()
    assert lines == ["id,label", *(f"{record.id},0" for record in read_split(drawn, "test"))]


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(drawn, tmp_path):
    draw_competition(tmp_path / "again", **SMALL)
    draw_competition(tmp_path / "seed 1", **SMALL, seed=1)
    first = read_files(drawn.folder)
    assert read_files(tmp_path / "again") == first
    second = read_files(tmp_path / "seed 1")
    assert second.keys() == first.keys()
    same = [name for name, content in first.items() if second[name] == content]
    assert same == ["classes.json"]


def test_a_split_of_no_pictures_is_left_out(tmp_path):
    data = draw_competition(tmp_path, **(SMALL | {"num_test": 0}))
    assert data.files["test"] == ()
    assert (tmp_path / "sample_submission.csv").read_text() == "id,label\n"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"num_train": 0},
            r"num_train=0 pictures cannot show each of 4 classes\. Pass num_train=4",
        ),
        ({"num_val": 3}, r"num_val=3 pictures cannot show each of 4 classes\."),
        ({"num_test": -1}, r"num_test=-1 pictures cannot"),
        ({"num_classes": 1}, "num_classes must be 2 to 104. Received: 1"),
        ({"num_classes": 105}, "num_classes must be 2 to 104. Received: 105"),
        ({"image_size": 4}, "size=4 must be 8 or more"),
        ({"seed": -1}, "seed=-1 0 or more"),
    ],
)
def test_a_request_that_cannot_be_drawn_is_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        draw_competition(tmp_path / "new", **(SMALL | wrong))
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_shards_is_left_alone(drawn):
    before = read_files(drawn.folder)
    with pytest.raises(FileExistsError, match=r"already holds tfrecords-jpeg-32x32/\. Draw into"):
        draw_competition(drawn.folder, **(SMALL | {"image_size": 16}))
    assert read_files(drawn.folder) == before


def test_photos_are_four_by_three_in_a_folder_for_each_species(tmp_path):
    calls = []
    photos = draw_photos(
        tmp_path / "photos",
        num_classes=2,
        photos_per_class=3,
        image_size=32,
        progress=lambda *line: calls.append(line),
    )
    files = sorted(photos.rglob("*.jpg"))
    assert [str(path.relative_to(photos)) for path in files] == [
        f"{name}/{number}.jpg"
        for name in ("cream daisy", "white daisy")
        for number in ("001", "002", "003")
    ]
    assert [Image.open(path).size for path in files[:3]] == [(32, 24), (32, 24), (24, 32)]
    assert len({path.read_bytes() for path in files}) == 6
    assert calls[-1] == ("drawing photos", 6, 6)


def test_the_same_photos_are_drawn_again_and_never_over_others(tmp_path):
    def draw(name, seed=0):
        folder = tmp_path / name
        return draw_photos(folder, num_classes=2, photos_per_class=2, image_size=16, seed=seed)

    first = draw("first")
    assert read_files(draw("again")) == read_files(first)
    assert read_files(draw("seed 1", seed=1)) != read_files(first)
    with pytest.raises(FileExistsError, match="first is not empty. Draw into a new folder"):
        draw("first")
