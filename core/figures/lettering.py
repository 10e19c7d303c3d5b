"""Text in figures: names as they are, never read as mathematics, never past the edge of the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["headline", "named", "shortened", "text_width", "unlike", "wrapped"]

_TITLE = 11  # points


def shortened(text: str, most: int = 40) -> str:
    """Return text on one line, of `most` letters at most: its middle gives way to an ellipsis."""
    line = " ".join(text.split())
    tail = most // 2
    return line if len(line) <= most else f"{line[: most - 1 - tail].rstrip()}…{line[-tail:].lstrip()}"


def named(names: Sequence[str], most: int = 28) -> list[str]:
    """Return names to hand to matplotlib: shortened, no two alike."""
    return unlike([shortened(name, most) for name in names])


def unlike(names: Sequence[str]) -> list[str]:
    """Return the names, those that came before with a number, `water (2)`, so that no two are alike."""
    found: list[str] = []
    own = set(names)
    for name in names:
        number, unique = 2, name
        while unique in found or (unique != name and unique in own):
            number, unique = number + 1, f"{name} ({number})"
        found.append(unique)
    return found


def text_width(figure: Figure, text: str, *, size: float, bold: bool = False) -> float:
    """Return the width of one line of text in inches, in the font of `core.figures.style.style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.font_manager import FontProperties

    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    return float(canvas.get_renderer().get_text_width_height_descent(text, font, False)[0]) / figure.dpi


def wrapped(figure: Figure, text: str, *, inches: float, size: float, bold: bool = False) -> str:
    """Return text to hand to matplotlib, broken into lines that are no wider than `inches`.

    Lines break between words, and within a word that is wider than a line.
    """

    def fits(line: str) -> bool:
        return text_width(figure, line, size=size, bold=bold) <= inches

    lines: list[str] = []
    for given in text.splitlines():
        line = ""
        for word in given.split():
            longer = f"{line} {word}".strip()
            if fits(longer):
                line = longer
                continue
            if line:
                lines.append(line)
            while not fits(word) and len(word) > 1:
                cut = next((end for end in range(len(word) - 1, 1, -1) if fits(word[:end])), 1)
                lines.append(word[:cut])
                word = word[cut:]
            line = word
        lines.append(line)
    return "\n".join(lines)


def headline(figure: Figure, text: str) -> None:
    """Set what stands above a whole figure, in as many lines as its width asks for."""
    inches = 0.96 * float(figure.get_figwidth()) - 0.1
    broken = wrapped(figure, text, inches=inches, size=_TITLE, bold=True)
    figure.suptitle(broken, x=0.02, ha="left", fontsize=_TITLE, fontweight="bold")
