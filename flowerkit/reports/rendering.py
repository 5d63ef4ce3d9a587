"""Templates -> a page: one HTML file that loads nothing else.

Values are escaped, and cleaned of what HTML cannot hold, so that no class name becomes markup. The one
script is page.js: the page's policy names its hash, so a browser runs no other.
"""

import base64
import functools
import hashlib
import math
from typing import Any

import jinja2

from flowerkit.text import clean, format_seconds, percent, pluralize


def render(template: str, **values: Any) -> str:
    """The page that `templates/TEMPLATE` makes of `values`; a value that is missing is an error."""
    return _environment().get_template(template).render(values)


def format_number(value: float, form: str = ",") -> str:
    """`value` by a format specification; a dash for NaN.

    >>> [format_number(1234), format_number(0.5, ".1%"), format_number(math.nan, ".3f")]
    ['1,234', '50.0%', '–']
    """
    return "–" if math.isnan(value) else format(value, form)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        # Finds the templates inside a zip too.
        loader=jinja2.PackageLoader("flowerkit.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: clean(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "percent": percent}
    environment.filters |= {"pluralize": pluralize, "seconds": format_seconds}
    # As a browser counts it: without the line ends of a checkout on Windows.
    script = environment.loader.get_source(environment, "page.js")[0].replace("\r\n", "\n")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment.globals |= {"script": script, "script_hash": f"sha256-{digest}"}
    return environment
