import logging
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import font_manager
from PIL import Image

from flowerkit import plots
from flowerkit.plots import style
from flowerkit.schedules import RAMP

pytestmark = pytest.mark.usefixtures("no_screen")


@pytest.fixture
def no_fallbacks(monkeypatch):
    """A machine with matplotlib's own fonts alone."""
    monkeypatch.setattr(style, "_find_fallbacks", list)
    style._explain_boxes.cache_clear()


def test_saving_writes_the_plot_and_leaves_nothing_open(tmp_path):
    settings = dict(matplotlib.rcParams)
    plots.save_figure(plots.plot_schedule(RAMP, 5), tmp_path / "rate.png", dpi=100)
    plots.save_figure(plots.plot_images(np.zeros((2, 4, 4, 3)), ["장미", "b"]), tmp_path / "g.png")
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == settings
    assert Image.open(tmp_path / "rate.png").size == (750, 400)


def test_off_screen_figures_are_unknown_to_pyplot():
    with plots.off_screen():
        ax = plots.plot_schedule(RAMP, 5)
    assert plt.get_fignums() == []
    assert ax.figure.axes == [ax]
    plots.plot_schedule(RAMP, 5)
    assert len(plt.get_fignums()) == 1


def test_names_are_short_and_no_formulas():
    assert style.format_name(" a$b$ ") == r"a\$b\$"
    assert style.format_name("x" * 41) == "x" * 39 + "…"
    assert style.format_name("x" * 40) == "x" * 40


def test_letters_that_the_font_lacks_come_from_an_installed_font():
    own = list(matplotlib.rcParams["font.family"])
    assert style.font_families(["rose"]) == own
    installed = set(font_manager.get_font_names()) & set(style.FALLBACK_FAMILIES)
    assert set(style.font_families(["장미"])) == {*own, *installed}


def test_a_font_installed_a_moment_ago_is_found(monkeypatch):
    """matplotlib keeps its list of fonts on disk and does not look again."""
    added = []
    files = ["/fonts/NotoSerif.ttf", "/fonts/NanumGothic.ttf"]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    monkeypatch.setattr(font_manager.fontManager, "addfont", added.append)
    style._find_fallbacks.__wrapped__()
    assert added == files[1:]


@pytest.mark.filterwarnings("error")
def test_any_class_name_can_be_drawn(tmp_path):
    names = ["장미", "$\\frac{a$", "half \ud800\x00", "x" * 200, "🌹", "<script>"]
    plots.save_figure(plots.plot_confusion(np.eye(6, dtype=int), names), tmp_path / "names.png")
    with Image.open(tmp_path / "names.png") as image:
        assert image.width > 600


def test_missing_letters_are_explained_once_and_other_warnings_pass(no_fallbacks, caplog, tmp_path):
    for name in ("장미", "수국"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            axes = plots.plot_images(np.zeros((1, 4, 4, 3)), [name])
            plots.save_figure(axes, tmp_path / "boxes.png")
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "fonts-noto-cjk" in record.getMessage()
    with pytest.warns(UserWarning, match="another"), style.missing_letters_in_one_line():
        warnings.warn("another", UserWarning, stacklevel=1)
