"""A report's template, rendered over the common page."""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render(package: str, template: str, **values: Any) -> str:
    """`template` of `package`'s templates, which may extend `page.html.j2`."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("pipelines.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(template).render(**values)
