"""HTML in one file that asks for nothing else: elements, pictures inside, and a page around them.

Whatever is not `Html` is escaped on its way in, so that no class name can become markup. Pure
Python; colours are Okabe and Ito's, and never alone in telling things apart.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flowerkit.text import clean

VOID = ("br", "img", "link", "meta")  # elements without an end

# Nothing but what stands in the file: no script, no request, whatever comes into the text.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --text: #1c1c1c; --soft: #5a5a5a; --ground: #fff; --card: #f4f5f6;
  --line: #d5d8db; --right: #005f99; --wrong: #a84300; --bar: #0072b233; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --soft: #a9adb2; --ground: #16181b; --card: #212429; --line: #3a3f46;
    --right: #6cb8ee; --wrong: #ff9d5c; --bar: #56b4e955; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem clamp(.9rem, 3vw, 2rem) 3rem; max-width: 70rem;
  background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans KR", "Noto Sans CJK KR",
    "Apple SD Gothic Neo", "Malgun Gothic", sans-serif; overflow-wrap: break-word; }
h1 { margin: .5rem 0 .25rem; font-size: 1.6rem; line-height: 1.25; }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; border-bottom: 1px solid var(--line);
  padding-bottom: .2rem; }
p { margin: .4rem 0; }
.soft, figcaption, .unit { color: var(--soft); font-size: .9rem; }
.figures { display: grid; gap: .7rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.figures > div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.figures dt { color: var(--soft); font-size: .85rem; }
.figures dd { margin: 0; }
.figures .value { display: block; font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: .8rem 0; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; min-width: 0; }
@media (max-width: 34rem) { .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: .45rem; } }
figure { margin: .8rem 0; }
img { max-width: 100%; height: auto; }
.plots { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.plots figure, .scroll figure { margin: 0; }
.plots img, .sheet { display: block; background: #fff; border-radius: .5rem; padding: .4rem; }
.photos { display: grid; gap: .9rem .8rem; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.photos figure { margin: 0; }
.photos img { display: block; width: 100%; border-radius: .4rem; background: var(--card); }
.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.pairs figure > div { display: grid; grid-template-columns: 1fr 1fr; gap: .25rem; }
.narrow { max-width: 35rem; }
.photos figcaption { margin-top: .25rem; line-height: 1.35; }
.right { color: var(--right); } .wrong { color: var(--wrong); }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal;
  min-width: 8rem; overflow-wrap: anywhere; }
@media (max-width: 34rem) { table { font-size: .875rem; } th, td { padding: .25rem .4rem; }
  th:first-child, td:first-child { min-width: 7rem; } }
.plan th, .plan td { text-align: left; }
.epochs td:first-child, .epochs th:first-child { min-width: 5rem; }
td.bar { background: linear-gradient(to right, var(--bar) var(--share), transparent 0); }
details { margin: .6rem 0; } summary { cursor: pointer; padding: .3rem 0; }
ol, ul { margin: .4rem 0; padding-left: 1.6rem; } li { margin: .2rem 0; }
.verdict { font-weight: 600; }
code { font-size: .9em; overflow-wrap: anywhere; }
footer { margin-top: 3rem; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--right); }
"""


class Html(str):
    """Text that is HTML already; every other text is escaped when it is put into an element."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture: its bytes, "png" or "jpeg", its size in px, and what it shows, in words."""

    content: bytes
    kind: str
    width_px: int
    height_px: int
    alt: str


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """One element; children and attributes are escaped unless they are `Html`.

    A trailing underscore of an attribute is dropped (class_), others become hyphens; one that is
    None is left out.

    >>> element("td", "a < b", class_="bar")
    '<td class="bar">a &lt; b</td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def escape(value: Any) -> Html:
    """`value` as text that means itself in HTML, in text and in quoted attributes.

    >>> escape('<script>alert("장미")</script>')
    '&lt;script&gt;alert(&quot;장미&quot;)&lt;/script&gt;'
    """
    if isinstance(value, Html):
        return value
    return Html(html.escape(clean(str(value))))


def join(parts: Iterable[Any], between: str = "") -> Html:
    """The parts one after another, escaped unless they are `Html`."""
    return Html(between.join(map(escape, parts)))


def name_of(class_name: str) -> Html:
    """A class's name in bold, on its own in a line that runs the other way (Arabic, Hebrew).

    >>> name_of("rose ")
    '<b><bdi>rose</bdi></b>'
    """
    return element("b", element("bdi", class_name.strip() or "(no name)"))


def section(title: str, *children: Any) -> Html:
    """A part of the page under its heading."""
    return element("section", element("h2", title), *children)


def image(picture: Picture, **attributes: Any) -> Html:
    """The picture itself, inside the page, with its size, so that nothing jumps while it is read."""
    data = base64.b64encode(picture.content).decode("ascii")
    return element(
        "img",
        src=f"data:image/{picture.kind};base64,{data}",
        alt=picture.alt,
        width=picture.width_px,
        height=picture.height_px,
        **attributes,
    )


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, what: str, **attributes) -> Html:
    """A table that scrolls sideways where it is too wide; `what` it is, for those who hear it.

    A cell is text, `Html`, or a whole `td` element.
    """
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    body = [element("tr", *map(_cell, row)) for row in rows]
    content = element("table", element("thead", head), element("tbody", *body), **attributes)
    return scrolling(content, what=what)


def scrolling(content: Html, *, what: str) -> Html:
    """A box that scrolls sideways by finger or by keys, instead of the page."""
    return element("div", content, class_="scroll", role="region", aria_label=what, tabindex="0")


def bar_cell(share: float, text: str) -> Html:
    """A table cell with a bar behind its text; `share` of the cell is filled, 0..1."""
    return element("td", text, class_="bar", style=f"--share:{100 * share:.0f}%")


def facts(pairs: Iterable[tuple[str, Any]]) -> Html:
    """Names and what goes with them, a pair a line."""
    items = [element("dt", name) + element("dd", value) for name, value in pairs]
    return element("dl", *map(Html, items), class_="facts")


def figures(entries: Iterable[tuple[str, str, str]]) -> Html:
    """Headline figures, each (what, value, remark)."""
    cards = [
        element(
            "div",
            element("dt", what),
            element(
                "dd", element("span", value, class_="value"), element("span", remark, class_="unit")
            ),
        )
        for what, value, remark in entries
    ]
    return element("dl", *cards, class_="figures")


def fold(summary: str, *children: Any) -> Html:
    """What only some will want to see, behind its summary."""
    return element("details", element("summary", summary), *children)


def page(title: str, *children: Any) -> str:
    """The whole file."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("link", rel="icon", href="data:,"),  # or a browser asks the server for one
        element("style", Html(STYLE)),
    )
    body = element("body", element("main", *children))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _cell(value: Any) -> Html:
    ready = isinstance(value, Html) and value.startswith("<td")
    return value if ready else element("td", value)
