"""Curves as inline SVG: no scripts, colours from the page's style, so that they read in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

__all__ = ["chart", "nice_ticks", "short"]

WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 10, 34
MOST = 240  # points per curve; more are drawn as means, with a band from least to greatest
HUES = 8

Points = Sequence[tuple[float, float]]


def chart(series: Mapping[str, Points], *, x_label: str = "step", logarithmic_from: float = 10) -> str:
    """Return one SVG of curves `{label: [(x, y), ...]}` with axes and tool tips.

    Values that are not finite leave a gap. The k-th curve has the class `s<k>`, which the page colours.

    Args:
        series: The curves; more than 240 points are drawn as means with a band from least to greatest.
        x_label: What x is.
        logarithmic_from: The y axis is logarithmic if all values are positive and span more than this factor.
    """
    finite = [(x, y) for points in series.values() for x, y in points if math.isfinite(y)]
    if not finite:
        return '<p class="note">No finite values.</p>'
    low, high = min(y for _, y in finite), max(y for _, y in finite)
    logarithmic = low > 0 and high / low > logarithmic_from
    y_ticks = _decades(low, high) if logarithmic else nice_ticks(low, high, 5)
    x_ends = min(x for x, _ in finite), max(x for x, _ in finite)
    across = _scale(*x_ends, LEFT, WIDTH - RIGHT)
    up = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP, logarithmic=logarithmic)

    name = escape(", ".join(series), quote=True)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">']
    for tick in y_ticks:
        parts.append(_line("grid", up(tick)))
        parts.append(_text(LEFT - 8, up(tick) + 4, "end", short(tick)))
    for tick in nice_ticks(*x_ends, 6):
        if x_ends[0] <= tick <= x_ends[1]:
            parts.append(_text(across(tick), HEIGHT - 17, "middle", short(tick)))
    parts.append(_line("axis", HEIGHT - BOTTOM))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 3, "end", x_label))
    for index, (label, points) in enumerate(series.items()):
        for run in _runs(points):
            parts += _curve(run, f"s{index % HUES}", label, across, up)
    return "".join([*parts, "</svg>"])


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` multiples of 1, 2 or 5 times a power of ten that enclose `low` to `high`."""
    if high <= low:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [multiple * step for multiple in range(first, last + 1)]


def short(value: float, digits: int = 4) -> str:
    """Return a number for people: `digits` significant digits, tiny ones as 1.0e-04, large ones as 12k."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if 0 < size < 1e-3:
        return f"{value:.{max(digits - 3, 1)}e}"
    if size < 10 ** max(digits, 4):
        return f"{value:.0f}" if float(value).is_integer() else f"{value:.{digits}g}"
    scale, unit = (1e9, "G") if size >= 1e9 else (1e6, "M") if size >= 1e6 else (1e3, "k")
    return f"{value / scale:.{max(digits - 1, 3)}g}{unit}"


def _curve(
    run: Points, hue: str, label: str, across: Callable[[float], float], up: Callable[[float], float]
) -> list[str]:
    """Return a curve's band, line, and dots with their values; on long curves only the mouse finds them."""
    joined = _joined(run)
    parts = []
    if len(joined) < len(run):
        upper = [f"{across(x):.1f},{up(high):.1f}" for x, _, _, high in joined]
        lower = [f"{across(x):.1f},{up(low):.1f}" for x, _, low, _ in reversed(joined)]
        parts.append(f'<polygon class="band {hue}" points="{" ".join(upper + lower)}"/>')
    line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _, _ in joined)
    parts.append(f'<polyline class="line {hue}" points="{line}"/>')
    seen = len(joined) <= 30
    look = 'r="2.6"' if seen else 'r="5" fill-opacity="0"'
    for x, y, _, _ in joined[:: max(1, len(joined) // 60)]:
        tip = escape(f"{label} {short(y, 5)} at {short(x, 9)}".strip())
        spot = f'class="dot {hue}" cx="{across(x):.1f}" cy="{up(y):.1f}" {look}'
        parts.append(f"<circle {spot}><title>{tip}</title></circle>")
    return parts


def _line(kind: str, y: float) -> str:
    return f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _scale(
    low: float, high: float, start: float, end: float, *, logarithmic: bool = False
) -> Callable[[float], float]:
    """Return the map of `low..high` onto `start..end`; a single value lies in the middle."""
    bend: Callable[[float], float] = math.log if logarithmic else float
    a, b = bend(low), bend(high)
    return lambda value: start + (end - start) * ((bend(value) - a) / (b - a) if b > a else 0.5)


def _decades(low: float, high: float) -> list[float]:
    """Return ticks that enclose `low` to `high`: 1, 2, 5 per decade if they are few, else powers of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first <= 2:
        fine = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
        begin = max(k for k, tick in enumerate(fine) if tick <= low * (1 + 1e-9))
        end = min(k for k, tick in enumerate(fine) if tick >= high * (1 - 1e-9))
        return fine[begin : end + 1]
    stride = math.ceil((last - first) / 6)
    return [10.0**power for power in range(first, last + stride, stride)]


def _runs(points: Points) -> list[list[tuple[float, float]]]:
    """Cut a curve at values that are not finite."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _joined(points: Points) -> list[tuple[float, float, float, float]]:
    """Return (x, mean, least, greatest) of neighbours, joined so that at most `MOST` are left."""
    size = math.ceil(len(points) / MOST)
    joined = []
    for start in range(0, len(points), size):
        group = points[start : start + size]
        values = [y for _, y in group]
        joined.append((group[-1][0], math.fsum(values) / len(values), min(values), max(values)))
    return joined
