"""How does text become HTML? Through jinja2 templates that escape whatever they are given; only what a template has made is taken as it is.

A template stands beside the file that fills it, and is named from nrms/ on: `report/pages/index.html.j2`.
"""

from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


@cache
def environment() -> Environment:
    """The one environment of all our templates: a name that a template asks for and does not get is an error."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    return templates


def escaped(value: Any) -> Markup:
    """What a template shows: markup as it is; all else as text, its quotes spelled as Python's `html.escape` spells them and not by number."""
    return value if hasattr(value, "__html__") else Markup(escape(str(value)))


def render(template: str, **values: Any) -> Markup:
    """What the template makes of these values: markup, which another template takes as it is."""
    return Markup(environment().get_template(template).render(values))
