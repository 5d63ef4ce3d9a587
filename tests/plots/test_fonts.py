"""fonts: letters that are drawn, and what happens to those that no font has."""

import logging

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import font_manager

from flowerkit.plots import fonts
from flowerkit.plots.fonts import drawable, find_undrawable, lettering, set_letters


@pytest.fixture(autouse=True)
def _no_screen_and_nothing_remembered():
    plt.switch_backend("agg")
    fonts._cover.cache_clear()
    fonts._note_undrawable.cache_clear()
    yield
    plt.close("all")
    fonts._cover.cache_clear()


def has_korean_font():
    return not find_undrawable(["장미"])


@pytest.fixture
def only_matplotlibs_fonts(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: [])


def test_no_setting_is_left_behind():
    before = dict(matplotlib.rcParams)
    with lettering(["장미", "rose"]):
        pass
    assert dict(matplotlib.rcParams) == before


def test_latin_names_ask_for_no_other_font(monkeypatch):
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: pytest.fail("looked for fonts"))
    with lettering(["rose", "élan", "θ", "ирис"]) as names:
        assert matplotlib.rcParams["font.family"] == ["sans-serif"]
    assert names == ["rose", "élan", "θ", "ирис"]


def test_korean_names_keep_their_font_after_the_settings_are_back(recwarn):
    if not has_korean_font():
        pytest.skip("no font with Korean letters here")
    given = plt.subplots()[1]
    with lettering(["장미", "rose"]) as names:
        ax = plt.subplots()[1]
        for one in (ax, given):
            one.set_title(names[0])
            one.set_yticks([0, 1], names)
        set_letters(given)  # its texts are older than the fonts
    assert names == ["장미", "rose"]
    family = ax.title.get_fontfamily()
    assert family[0] == "sans-serif"
    assert given.title.get_fontfamily() == given.get_yticklabels()[0].get_fontfamily() == family
    assert ord("장") in font_manager.get_font(font_manager.findfont(family[1])).get_charmap()
    ax.figure.canvas.draw()
    given.figure.canvas.draw()
    assert [str(one.message) for one in recwarn] == []


def test_two_korean_names_look_different():
    if not has_korean_font():
        pytest.skip("no font with Korean letters here")
    pictures = []
    for name in ("장미", "튤립"):
        figure = plt.figure(figsize=(1, 1), dpi=50)
        with lettering([name]) as (shown,):
            figure.text(0.1, 0.5, shown)
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba()).copy())
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.filterwarnings("error")
def test_without_a_font_there_are_boxes_with_the_number_and_a_note(only_matplotlibs_fonts, caplog):
    class_names = ["rose", "장미", "붉은 iris "]
    with caplog.at_level(logging.WARNING, "flowerkit"), lettering(class_names) as names:
        plt.figure().text(0, 0, names[1])
        plt.gcf().canvas.draw()
    assert names == ["rose", "□□ (class 1)", "□□ iris (class 2)"]
    assert caplog.messages == [
        "no font here has the letters of '장미', '붉은 iris ': pictures show boxes and the class's "
        "number. Install one that has them (Noto Sans CJK: apt install fonts-noto-cjk)."
    ]
    with lettering(class_names):
        pass
    assert len(caplog.messages) == 1  # said once


def test_a_font_installed_a_moment_ago_is_found(only_matplotlibs_fonts, monkeypatch, tmp_path):
    """matplotlib keeps its list of fonts on disk and does not look again."""
    folder = matplotlib.get_data_path() + "/fonts/ttf/"
    sans = frozenset("rose")
    monkeypatch.setattr(fonts, "_letters_of", lambda _: sans)  # as if its own font had no more
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    files = [str(tmp_path / "damaged.ttf"), folder + "DejaVuSerif.ttf", folder + "DejaVuSans.ttf"]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: files)
    assert fonts._find_fonts(["rosé"]) == ("DejaVu Sans",)  # without serifs first
    assert fonts._find_fonts(["rose"]) == ()


def test_the_bold_letters_come_with_the_plain_ones(monkeypatch):
    """Or matplotlib complains of each bold name."""
    folder = matplotlib.get_data_path() + "/fonts/ttf/"
    files = [f"{folder}DejaVu{name}.ttf" for name in ("Serif", "Sans", "Sans-Bold", "SansMono")]
    added = []
    monkeypatch.setattr(fonts, "_letters_of", lambda _: frozenset("rose"))
    monkeypatch.setattr(font_manager, "get_font_names", lambda: [])
    monkeypatch.setattr(font_manager.fontManager, "addfont", added.append)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: files)
    assert fonts._find_fonts(["rosé"]) == ("DejaVu Sans",)
    assert set(files[1:3]) <= set(added)
    assert files[0] not in added


def test_names_for_figures_are_short_and_no_formulas():
    assert drawable(" a$b$ ") == r"a\$b\$"
    assert drawable("x" * 41) == "x" * 39 + "…"
    assert drawable("x" * 40) == "x" * 40


def test_only_letters_that_no_font_has_are_undrawable():
    # A private-use letter is in no font.
    assert find_undrawable(["daisy", "élan", "\ue0ff rose", "half \ud800"]) == ["\ue0ff rose"]


def test_what_a_notebook_sets_with_the_first_figure_stays_set(monkeypatch):
    """Its backend becomes interactive when pyplot first asks for it, perhaps inside `lettering`."""
    monkeypatch.setitem(matplotlib.rcParams, "interactive", False)
    with lettering(["rose"]):
        matplotlib.rcParams["interactive"] = True
    assert matplotlib.rcParams["interactive"]
