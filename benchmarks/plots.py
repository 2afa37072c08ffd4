"""SVG plots whose bytes depend on the data alone, so that a test can compare them."""

import io
from typing import Any, Final

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure as Drawing

STYLE: Final[dict[Any, Any]] = {
    # The hash salt and the text as text keep ids and glyphs the same in every run.
    "svg.hashsalt": "esper",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(
        color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888"]
    ),
}
"""matplotlib settings of all plots; draw and save within `mpl.rc_context(STYLE)`."""


def svg(drawing: Drawing) -> str:
    """Return a drawing as SVG without date, creator or trailing spaces."""
    written = io.StringIO()
    with mpl.rc_context(STYLE):
        drawing.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in written.getvalue().splitlines())
