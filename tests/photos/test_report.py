"""What a conversion says of itself."""

import json

import pytest

from flowerkit.photos.report import Conversion, describe, load_conversion, write_conversion

CONVERSION = Conversion(
    source="own",
    image_size=32,
    resize="pad",
    val_fraction=0.2,
    test_fraction=0.1,
    seed=0,
    jpeg_quality=92,
    class_names=("daisy", "장미"),
    counts={"daisy": {"train": 1200, "val": 3}, "장미": {"train": 5, "val": 1, "test": 1}},
    num_unlabelled=2,
    unreadable={f"daisy/{number}.jpg": "0 bytes" for number in range(4)},
    left_out={"x.jpg": "it stands in no class folder"},
    copies=[["daisy/a.jpg", "daisy/b.jpg"]],
    near_copies=[["daisy/a.jpg", "daisy/b.jpg"], ["장미/1.jpg", "장미/2.jpg", "장미/3.jpg"]],
    notes=["photos in daisy/may/ count as daisy"],
    seconds=12.345,
    photos_per_second=98.4,
)


def test_the_summary_says_how_many_how_fast_and_what_is_missing():
    assert CONVERSION.num_photos == 1212
    assert CONVERSION.summary() == [
        "1,212 photos of 2 classes: train 1,205, val 4, test 3 (12.3 s, 98 photos/s)",
        "unreadable, 4 photos: daisy/0.jpg: 0 bytes; daisy/1.jpg: 0 bytes; daisy/2.jpg: 0 bytes; "
        "and 1 more",
        "left out, 1 photo: x.jpg: it stands in no class folder",
        "copies or near-duplicates, 5 photos in 2 groups, 1 of them byte for byte: each group is on one "
        "side",
        "photos in daisy/may/ count as daisy",
    ]


def test_the_page_lists_classes_reasons_and_groups():
    lines = describe(CONVERSION)
    assert lines[:3] == [
        "# Converted photos",
        "",
        "From own (image_size 32, resize pad, val_fraction 0.2, "
        "test_fraction 0.1, seed 0, jpeg_quality 92).",
    ]
    assert "| daisy | 1,200 | 3 | 0 |" in lines
    assert "- daisy/3.jpg: 0 bytes" in lines
    assert lines[-1] == "- 장미/1.jpg, 장미/2.jpg, 장미/3.jpg"


def test_a_long_list_ends_in_the_json():
    many = Conversion(**vars(CONVERSION) | {"unreadable": {f"{n}.jpg": "" for n in range(250)}})
    assert "- and 50 more, in conversion.json" in describe(many)


def test_the_files_hold_everything_in_utf8_even_paths_that_are_none(tmp_path):
    odd = Conversion(**vars(CONVERSION) | {"left_out": {"rose/\udcb2.jpg": "odd"}})
    write_conversion(tmp_path, odd, [["장미/1, 2.jpg", "장미", "장미", "val", 4, 3, ""]])
    found = json.loads((tmp_path / "conversion.json").read_text(encoding="utf-8"))
    assert found["left_out"] == {"rose/\ufffd.jpg": "odd"}
    assert found["counts"]["장미"] == {"train": 5, "val": 1, "test": 1}
    assert (tmp_path / "photos.csv").read_text(encoding="utf-8") == (
        'id,path,class,split,width,height,notes\n"장미/1, 2.jpg",장미,장미,val,4,3,\n'
    )
    assert "장미" in (tmp_path / "conversion.md").read_text(encoding="utf-8")


def test_a_conversion_comes_back_as_it_was_saved(tmp_path):
    CONVERSION.save(tmp_path)
    assert load_conversion(tmp_path) == CONVERSION


def test_a_folder_that_no_conversion_made_has_none(tmp_path):
    assert load_conversion(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:100], "is damaged"),
        (lambda text: "[]", "is damaged"),
        (lambda text: text.replace('"resize"', '"fit"'), "lacks 'resize'"),
        (lambda text: text.replace('"pad"', '"zoom"'), "resize='zoom'"),
    ],
)
def test_a_damaged_conversion_is_named_with_its_remedy(tmp_path, change, reason):
    CONVERSION.save(tmp_path)
    file = tmp_path / "conversion.json"
    file.write_text(change(file.read_text("utf-8")), "utf-8")
    with pytest.raises(
        ValueError, match=rf"conversion\.json .*{reason}.* Convert the photos again"
    ):
        load_conversion(tmp_path)
