import base64

from run_pages import Page

from flowerkit.reports.html import (
    Html,
    Picture,
    bar_cell,
    element,
    facts,
    figures,
    fold,
    image,
    join,
    name_of,
    page,
    scrolling,
    section,
    table,
)
from flowerkit.text import clean


def test_text_is_escaped_and_html_is_not():
    assert element("p", "a < b & c", Html("<br>")) == "<p>a &lt; b &amp; c<br></p>"


def test_attributes_are_escaped_and_named_after_html():
    made = element("p", class_="a", aria_label='say "x"', id=None)
    assert made == '<p class="a" aria-label="say &quot;x&quot;"></p>'


def test_void_elements_have_no_end():
    assert element("br") == "<br>"
    assert element("meta", name="viewport") == '<meta name="viewport">'


def test_what_html_cannot_hold_becomes_a_question_mark():
    assert clean("장미\x00\x1b \ud83c\n") == "장미?? ?\n"


def test_parts_are_joined_escaped():
    assert join(["<", Html("<br>")], ", ") == "&lt;, <br>"


def test_a_class_without_a_name_is_still_seen():
    assert name_of("  ") == "<b><bdi>(no name)</bdi></b>"


def test_a_class_named_script_runs_nothing():
    assert name_of("<script>") == "<b><bdi>&lt;script&gt;</bdi></b>"


def test_a_picture_is_inside_with_its_size_and_words():
    (attrs,) = Page(image(Picture(b"\x89PNG", "png", 30, 20, 'a "rose"'))).images
    assert attrs == {
        "src": "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode(),
        "alt": 'a "rose"',
        "width": "30",
        "height": "20",
    }


def test_a_table_takes_text_html_and_whole_cells():
    made = table(("a", "b"), [("<", bar_cell(0.256, "0.26"))], what="x & y")
    assert '<th scope="col">a</th>' in made
    assert '<tr><td>&lt;</td><td class="bar" style="--share:26%">0.26</td></tr>' in made
    assert made.startswith('<div class="scroll" role="region" aria-label="x &amp; y" tabindex="0">')


def test_a_cell_that_begins_like_a_cell_is_text_when_it_is_text():
    assert "<td>&lt;td&gt;</td>" in table(("a",), [("<td>",)], what="t")


def test_the_page_asks_for_nothing_and_is_well_formed():
    text = page(
        "<title> & more",
        section("A", facts([("x", "y")]), figures([("F1", "0.7", "val")])),
        fold("more", scrolling(element("p", "wide"), what="w")),
    )
    made = Page(text)
    assert made.problems == []
    assert text.startswith("<!DOCTYPE html>\n<html><head>".replace("<html>", '<html lang="en">'))
    metas = [attrs for tag, attrs in made.tags if tag == "meta"]
    assert {"charset": "utf-8"} in metas
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    (policy,) = [attrs["content"] for attrs in metas if "http-equiv" in attrs]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert made.text == "<title> & more A x y F1 0.7 val more wide"


def test_the_strict_reader_does_see_problems():
    """The test above would hold for any page if it saw none."""
    assert Page("<p><b></p>").problems == ["</p> does not close what is open", "<p> is not closed"]
    assert Page('<img src="https://a.b/c.png">').problems == ["<img> leads to https://a.b/c.png"]
    assert Page("<script></script>").problems == ["<script>"]
