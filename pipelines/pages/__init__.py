"""What every HTML report is made of: one page without a network, plots inline, light and dark.

`plots.py` draws; `templates/page.html.j2` is the page that a report's own template extends.
"""

from pipelines.pages.page import render
from pipelines.pages.plots import colour, legend, style, svg

__all__ = ["colour", "legend", "render", "style", "svg"]
