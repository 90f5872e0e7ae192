"""The look of every plot that is a picture."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#2563a8", "#c2571a", "#3d8b37", "#8a4fbe", "#b8860b", "#1b8a8f", "#a83254", "#5f6b7a")


def to_svg(drawing: Figure) -> bytes:
    """A drawing as SVG, without the date and with names that follow from what is drawn: same values, same bytes."""
    from matplotlib import rc_context  # dear to import

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "svg"}):
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def dress(axis: Axes, title: str, x_label: str, y_label: str) -> None:
    """The look of every plot: title, labels, grid, no frame."""
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(x_label, fontsize=8)
    axis.set_ylabel(y_label, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
