import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from flowerkit.plots.curves import plot_confusion
from flowerkit.reports.pictures import (
    drawing,
    encode_figure,
    encode_file,
    encode_panels,
    encode_photo,
    new_panel,
)


def opened(picture):
    return Image.open(io.BytesIO(picture.content))


def test_drawing_changes_no_setting_of_the_caller():
    before = matplotlib.rcParams["backend"], matplotlib.rcParams["font.family"]
    with drawing(["장미"]):
        assert matplotlib.rcParams["backend"].lower() == "agg"
    assert (matplotlib.rcParams["backend"], matplotlib.rcParams["font.family"]) == before


@pytest.mark.filterwarnings("error")
def test_any_class_name_can_be_drawn():
    names = ["장미", "$\\frac{a$", "half \ud800\x00", "x" * 200, "🌹", "<script>"]
    with drawing():
        ax = plot_confusion(np.eye(6, dtype=int), names, new_panel())
        picture = encode_figure(ax, "names")
    assert opened(picture).width > 600
    assert plt.get_fignums() == []


def test_a_figure_becomes_a_small_png_of_its_size():
    picture = encode_figure(new_panel(), "empty axes")
    assert (picture.kind, picture.width_px, picture.height_px) == ("png", 825, 630)
    assert opened(picture).size == (825, 630)
    assert len(picture.content) < 20_000
    assert picture.alt == "empty axes"


def test_a_large_figure_is_at_most_1500_px():
    _, ax = plt.subplots(figsize=(30, 20))
    assert encode_figure(ax, "large").width_px == 1500


def test_panels_are_cut_apart_with_their_titles():
    _, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax, colour in zip(axes, ("red", "blue"), strict=True):
        ax.set_facecolor(colour)
        ax.set_title("a title")
    pictures = encode_panels(axes, ["left", "right"])
    assert [picture.alt for picture in pictures] == ["left", "right"]
    for picture, there, not_there in zip(pictures, (0, 2), (2, 0), strict=True):
        pixels = np.asarray(opened(picture).convert("RGB")).astype(int)
        pure = [(pixels[..., k] - pixels[..., 2 - k] > 200).sum() for k in (there, not_there)]
        assert pure[0] > 50_000
        assert pure[1] == 0
        assert 700 < picture.width_px < 780
        assert (pixels[:3] > 250).all()  # a margin above the title
        assert (pixels[3:40].min(axis=(1, 2)) < 100).any()  # the title
    assert plt.get_fignums() == []


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


def test_a_damaged_sheet_is_an_error(tmp_path):
    (tmp_path / "sheet.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match="cannot identify image file"):
        encode_file(tmp_path / "sheet.png", "none")
