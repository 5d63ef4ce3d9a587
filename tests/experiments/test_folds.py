"""folds: drawn flowers divided, and shards made by hand with pictures that are the same."""

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flowerkit.data import Record, find_shards, load_split, read_records, write_shards
from flowerkit.experiments import make_folds


def save_anew(jpeg):
    """The picture in other bytes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folds(drawn):
    return make_folds(drawn, 3)


def test_each_image_is_in_one_fold_and_each_class_in_all_of_them_alike(folds, drawn):
    assert folds.count == 3
    assert len(folds.ids) == len(set(folds.ids.tolist())) == 50 + 18
    for label in range(4):
        sizes = Counter(folds.fold_of[folds.labels == label].tolist())
        assert sorted(sizes) == [0, 1, 2]
        assert max(sizes.values()) - min(sizes.values()) <= 1


def test_a_fold_is_data_whose_splits_load_as_any_other(folds):
    seen = []
    for fold in range(3):
        data = folds.without(fold)
        train, val = load_split(data, "train"), load_split(data, "val")
        assert [len(train), len(val)] == [data.counts["train"], data.counts["val"]]
        assert sorted(val.ids.tolist()) == sorted(folds.ids[folds.fold_of == fold].tolist())
        assert not set(train.ids) & set(val.ids)
        of = dict(zip(folds.ids.tolist(), folds.labels.tolist(), strict=True))
        assert train.labels.tolist() == [of[name] for name in train.ids.tolist()]
        seen += val.ids.tolist()
    assert sorted(seen) == sorted(folds.ids.tolist())


def test_together_all_images_are_in_train_and_none_in_val(folds, drawn, caplog):
    data = folds.together()
    assert (data.counts["train"], data.counts["val"], data.counts["test"]) == (68, 0, 22)
    train = load_split(data, "train")
    assert sorted(train.ids.tolist()) == sorted(folds.ids.tolist())
    assert "Download the shards again" not in caplog.text
    first = load_split(drawn, "train")
    np.testing.assert_array_equal(train.images[:5], first.images[:5])


def test_folds_of_a_fold_divide_its_images_once(folds):
    again = make_folds(folds.without(0), 2)
    assert sorted(again.ids.tolist()) == sorted(folds.ids.tolist())
    first = again.without(0)
    train, val = load_split(first, "train"), load_split(first, "val")
    assert [len(train), len(val)] == [first.counts["train"], first.counts["val"]]
    assert len({*train.ids.tolist(), *val.ids.tolist()}) == len(folds.ids) == len(train) + len(val)


def test_the_folds_depend_on_images_and_seed_alone(folds, drawn):
    again, other = make_folds(drawn, 3), make_folds(drawn, 3, seed=1)
    assert again.key == folds.key
    np.testing.assert_array_equal(again.fold_of, folds.fold_of)
    assert other.key != folds.key


def test_the_same_picture_is_in_one_fold_by_its_bytes_its_id_or_its_look(drawn, tmp_path):
    """Under another id, under its own in the other split, and saved anew."""
    records = [record for file in drawn.files["train"] for _, record in read_records(file)]
    val = [record for file in drawn.files["val"] for _, record in read_records(file)]
    copies = [replace(records[0], id="copy"), Record(save_anew(records[2].image), "anew", 0)]
    write_shards(tmp_path, "train", [*records, *copies], image_size=32, shard_size=64)
    write_shards(tmp_path, "val", [*val, records[1]], image_size=32, shard_size=64)
    data = find_shards(tmp_path, class_names=drawn.class_names, origin="folder")
    folds = make_folds(data, 5)
    fold_of = dict(zip(folds.ids.tolist(), folds.fold_of.tolist(), strict=True))
    assert fold_of["copy"] == fold_of[records[0].id]
    assert fold_of["anew"] == fold_of[records[2].id]
    assert len(set(folds.fold_of[folds.ids == records[1].id].tolist())) == 1
    data = folds.without(fold_of[records[1].id])
    assert records[1].id not in load_split(data, "train").ids.tolist()


def test_a_class_with_fewer_pictures_than_folds_is_refused_with_the_most_folds(drawn, tmp_path):
    records = [record for file in drawn.files["train"] for _, record in read_records(file)]
    few = [record for record in records if record.label == 1][:3]
    kept = [record for record in records if record.label != 1]
    # A copy adds no picture.
    write_shards(
        tmp_path,
        "train",
        [*kept, *few, Record(few[0].image, "copy", 1)],
        image_size=32,
        shard_size=64,
    )
    data = find_shards(tmp_path, class_names=drawn.class_names, origin="folder")
    with pytest.raises(ValueError, match=rf"'{drawn.class_names[1]}' has 3.*--folds 3"):
        make_folds(data, 4)
    assert make_folds(data, 3).count == 3
    with pytest.raises(ValueError, match="whole number from 2. Received: folds=1"):
        make_folds(data, 1)


def test_where_classes_may_be_rare_there_are_no_more_folds_than_the_largest_has(drawn, tmp_path):
    """As where `flowerkit clean` looks at a set with fewer photos a class than its folds."""
    records = [record for file in drawn.files["train"] for _, record in read_records(file)]
    of = {label: [record for record in records if record.label == label] for label in range(4)}

    def divide(name, records):
        write_shards(tmp_path / name, "train", records, image_size=32, shard_size=64)
        data = find_shards(tmp_path / name, class_names=drawn.class_names, origin="folder")
        return make_folds(data, 5, rare=True)

    assert divide("few", [*of[0][:3], *of[1][:2], of[2][0]]).count == 3
    copies = [of[0][0], Record(of[0][0].image, "copy", 0), of[1][0]]
    with pytest.raises(ValueError, match="no class of .*one has two different pictures. Add some"):
        divide("one", copies)


def test_val_without_labels_is_refused_with_its_file(drawn, tmp_path):
    for split in ("train", "val"):
        records = [record for file in drawn.files[split] for _, record in read_records(file)]
        if split == "val":
            records = [replace(record, label=None) for record in records]
        write_shards(tmp_path, split, records, image_size=32, shard_size=64)
    data = find_shards(tmp_path, class_names=drawn.class_names, origin="folder")
    with pytest.raises(ValueError, match="00-32x32-18.tfrec, record 0.*'class'"):
        make_folds(data, 3)
