import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from flowerkit.reports.pictures import encode_figure, encode_file, encode_photo, new_panel


def opened(picture):
    return Image.open(io.BytesIO(picture.content))


def test_a_figure_becomes_a_small_png_of_its_size():
    picture = encode_figure(new_panel(), "empty axes")
    assert (picture.kind, picture.width_px, picture.height_px) == ("png", 825, 630)
    assert opened(picture).size == (825, 630)
    assert len(picture.content) < 20_000
    assert picture.alt == "empty axes"
    assert plt.get_fignums() == []


def test_a_large_figure_is_at_most_1500_px():
    ax = new_panel()
    ax.figure.set_size_inches(30, 20)
    assert encode_figure(ax, "large").width_px == 1500


def test_a_photo_becomes_a_jpeg_of_at_most_224_px():
    small = encode_photo(np.full((32, 32, 3), (200, 30, 30), "uint8"), "red")
    assert (small.kind, small.width_px, small.height_px) == ("jpeg", 32, 32)
    assert np.abs(np.asarray(opened(small))[5, 5].astype(int) - (200, 30, 30)).max() < 6
    large = encode_photo(np.zeros((512, 256, 3), "uint8"), "black")
    assert (large.width_px, large.height_px) == (112, 224)


def test_a_sheet_is_taken_from_its_file(tmp_path):
    Image.new("RGBA", (2200, 800), "green").save(tmp_path / "sheet.png")
    picture = encode_file(tmp_path / "sheet.png", "green")
    assert (picture.kind, picture.width_px, picture.height_px) == ("jpeg", 1100, 400)
    (tmp_path / "sheet.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match="cannot identify image file"):
        encode_file(tmp_path / "sheet.png", "none")
