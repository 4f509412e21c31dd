"""Plots as inline SVG, in the page's own ink."""

from __future__ import annotations

import html
import io
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# One ink for the whole plot: the page replaces it by its own text colour, light or dark.
_INK = "#010203"
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#888888")
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def style() -> AbstractContextManager[None]:
    """Figures that are made within look like the page."""
    return matplotlib.rc_context(_STYLE)


def colour(place: int) -> str:
    """Of the line or bar that comes at `place`."""
    return _COLOURS[place % len(_COLOURS)]


def legend(figure: Figure, panel: Any) -> None:
    """Above the panels, in as many columns as fit."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=max(1, min(len(labels), 90 // (6 + max(map(len, labels))))),
        frameon=False,
    )


def svg(figure: Figure, description: str) -> str:
    """The figure as an inline <svg>, transparent, in the page's ink, the same bytes every time."""
    buffer = io.StringIO()
    # The salt keeps the ids of one page's plots apart.
    with matplotlib.rc_context({"svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    drawing = text[text.index("<svg") :].replace(_INK, "currentColor")
    label = html.escape(description, quote=True)
    return drawing.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
