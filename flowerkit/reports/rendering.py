"""Templates -> a page: one HTML file without scripts, that loads nothing else.

Values are escaped, and cleaned of what HTML cannot hold, so that no class name becomes markup.
"""

import functools
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
    environment.filters |= {
        "number": format_number,
        "percent": percent,
        "pluralize": pluralize,
        "seconds": format_seconds,
    }
    return environment
