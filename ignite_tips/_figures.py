"""A figure that a notebook shows. Imported only to draw, because it needs matplotlib."""

import io
from collections.abc import Sequence

from matplotlib.figure import Figure

__all__ = ["NotebookFigure", "name_line"]

_DPI = 96  # a browser's pixels per inch
_NAMED = 3


def name_line(names: Sequence[str]) -> str:
    """Return the name of one line for several equal curves, of which only the last would be seen.

    Example:
        >>> name_line(["body", "head"]), name_line("abcdef")
        ('body, head', 'a, b, c and 3 more')
    """
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


class NotebookFigure(Figure):
    """A figure that a notebook shows as a cell's last expression, without pyplot and its global list of figures.

    IPython learns how to show matplotlib's own Figure only when pyplot is imported.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return a PNG of two pixels per pixel shown, for sharp lines on every screen, and the size to show it in."""
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=2 * _DPI)
        width, height = self.get_size_inches() * _DPI
        return picture.getvalue(), {"width": round(width), "height": round(height)}
