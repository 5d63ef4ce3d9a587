"""photo_sources: paths, folders, pictures and arrays become one list; what is no picture is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from flowerkit.deploy.inputs import list_sources, to_bytes, to_image

GREY = np.full((20, 30), 128, "uint8")


def test_a_folder_is_its_photos_in_order_without_hidden_and_other_files(tmp_path):
    for name in ("b.JPG", "a.png", "sub/c.webp", ".hidden.jpg", ".cache/d.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [name for name, _ in list_sources(tmp_path)]
    assert found == [str(tmp_path / name) for name in ("a.png", "b.JPG", "sub/c.webp")]
    assert [name for name, _ in list_sources([tmp_path / "b.JPG", tmp_path])][:2] == [
        str(tmp_path / "b.JPG"),
        str(tmp_path / "a.png"),
    ]


def test_an_empty_folder_and_a_missing_path_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"no photos in .*\(1 other files\)\. Photos end in \.jpg"):
        list(list_sources(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no photo .*none\.jpg"):
        list(list_sources(str(tmp_path / "none.jpg")))


def test_pictures_and_arrays_are_numbered():
    batch = np.zeros((2, 8, 8, 3), "uint8")
    names = [name for name, _ in list_sources([Image.new("RGB", (8, 8)), GREY, batch])]
    assert names == ["photo 1", "photo 2", "photo 3", "photo 4"]
    assert list(list_sources([])) == []


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (np.zeros((2, 2, 5)), r"shape \(2, 2, 5\) is no picture"),
        (np.zeros(7), "is no picture"),
        (np.zeros((0, 4, 3)), "is no picture"),
        (np.full((4, 4), np.nan), "holds nan or inf"),
        (np.zeros((4, 4), complex), "this array is complex128"),
        (np.full((4, 4), 0.5), r"go up to 0\.5 only; pass 0\.\.255, not 0\.\.1"),
        (np.full((4, 4), 300), "go from 300 to 300"),
        (np.full((4, 4), -1.0), "go from -1 to -1"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array, fault):
    with pytest.raises(ValueError, match=fault):
        list(list_sources(array))


def test_other_things_are_refused():
    with pytest.raises(ValueError, match="Received: int"):
        list(list_sources(7))


def test_arrays_become_pictures():
    assert to_image(GREY).mode == "L"
    assert to_image(GREY[..., None]).mode == "L"
    assert to_image(np.full((4, 4, 4), 254.6)).mode == "RGBA"
    assert np.asarray(to_image(np.full((4, 4, 3), 254.6)))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "F", "HSV"])
def test_a_picture_of_any_mode_becomes_a_file(mode):
    with Image.open(io.BytesIO(to_bytes(Image.new(mode, (9, 5))))) as image:
        assert image.size == (9, 5)
        assert image.mode == {"HSV": "RGB", "F": "RGB"}.get(mode, mode)


def test_how_a_picture_is_to_be_turned_goes_along():
    image = Image.new("RGB", (9, 5))
    image.getexif()[0x0112] = 6
    with Image.open(io.BytesIO(to_bytes(image))) as read:
        assert read.getexif()[0x0112] == 6
