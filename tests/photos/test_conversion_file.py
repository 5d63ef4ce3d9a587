"""Conversion: saved, loaded, summed up."""

from dataclasses import replace

import pytest

from flowerkit.photos import convert_photos, load_conversion


@pytest.fixture(scope="module")
def conversion(draw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    draw(folder / "own", ["daisy", "장미"], 4)
    out = folder / "out"
    return convert_photos(folder / "own", out, image_size=32, resize="pad", workers=1)[1]


def test_a_conversion_comes_back_as_it_was_saved(conversion, tmp_path):
    conversion.save(tmp_path)
    assert load_conversion(tmp_path) == conversion
    assert (conversion.resize, conversion.counts["장미"]) == (
        "pad",
        {"train": 2, "val": 1, "test": 1},
    )


def test_a_folder_that_no_conversion_made_has_none(tmp_path):
    assert load_conversion(tmp_path) is None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[:100], "is not JSON"),
        (lambda text: "[]", "must hold"),
        (lambda text: text.replace('"resize"', '"fit"'), "lacks resize"),
        (lambda text: text.replace('"pad"', '"zoom"'), "resize='zoom' is none of"),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(conversion, tmp_path, damage, reason):
    conversion.save(tmp_path)
    file = tmp_path / "conversion.json"
    file.write_text(damage(file.read_text("utf-8")), "utf-8")
    with pytest.raises(ValueError, match=rf"conversion\.json .*{reason}.*Convert the ph"):
        load_conversion(tmp_path)


def test_the_summary_counts_photos_and_gives_the_first_reasons(conversion):
    odd = replace(
        conversion,
        unreadable={f"daisy/{number}.jpg": "0 bytes" for number in range(4)},
        near_duplicates=[
            ["daisy/a.jpg", "daisy/b.jpg"],
            ["장미/1.jpg", "장미/2.jpg", "장미/3.jpg"],
        ],
        notes=["photos in daisy/may/ count as daisy"],
        seconds=12.345,
    )
    assert odd.summary() == [
        "8 photos of 2 classes: train 4, val 2, test 2 (12 s)",
        "unreadable, 4 photos: daisy/0.jpg: 0 bytes; daisy/1.jpg: 0 bytes; daisy/2.jpg: 0 bytes "
        "and 1 more",
        "duplicates or near duplicates: 5 photos in 2 groups; each group is in one split",
        "photos in daisy/may/ count as daisy",
    ]
