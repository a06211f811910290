"""Charts for the page as inline SVG: no script, no request; colours are classes, which dark mode can set.

Coordinates are user units, about a CSS pixel. All text that comes from results is escaped.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from kick.report.palette import Look

DASHES = {"-": "", "--": "5 3", "-.": "6 2 1 2", ":": "1.5 2.5"}


@dataclass(frozen=True)
class Axis:
    """Data to user units, linear or by logarithm."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(value, self.low * 1e-3))
        return self.start + (at - low) / ((high - low) or 1.0) * (self.stop - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the scale."""
        if self.log:
            tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < 200 else (1,)
            found = [float(f"{step}e{power}") for power in tens for step in steps]  # past 1e308: infinite
        else:
            raw = (self.high - self.low) / count or 1.0
            size = 10.0 ** math.floor(math.log10(raw))
            step = next(size * factor for factor in (1, 2, 5, 10) if raw <= size * factor)
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            found = [number * step for number in range(first, last + 1)]
        return [value for value in found if self.low <= value <= self.high]


@dataclass
class Drawing:
    """Elements in the order in which they are painted."""

    width: float
    height: float
    title: str
    parts: list[str] = field(default_factory=list)

    def add(self, name: str, body: object = None, **attributes: object) -> None:
        """An element; `class_` gives the class, underscores in names become hyphens."""
        text = "".join(
            f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
            for key, value in attributes.items()
            if value not in (None, "")
        )
        inner = "" if body is None else body if isinstance(body, Markup) else escape(str(body))
        self.parts.append(f"<{name}{text}>{inner}</{name}>" if body is not None else f"<{name}{text}/>")

    def text(self, x: float, y: float, body: str, kind: str = "", anchor: str = "start") -> None:
        """A line of text with its baseline at y."""
        self.add("text", body, x=x, y=y, class_=kind, text_anchor=anchor)

    def line(self, points: Sequence[tuple[float, float]], kind: str, dash: str = "") -> None:
        """An open line."""
        path = " ".join(f"{_short(x)},{_short(y)}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" class="line {kind}"{dashes}/>')

    def mark(self, x: float, y: float, look: Look, *, title: str = "", hollow: bool = False) -> None:
        """A method's marker, with `title` as its tooltip."""
        kind = f"mark c-{look.color}" + (" hollow" if hollow else "")
        tip = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(f'<path d="{shape(look.marker, x, y)}" class="{kind}">{tip}</path>')

    def render(self) -> Markup:
        """The whole as an SVG element; one without a title is decoration."""
        size = f'viewBox="0 0 {_short(self.width)} {_short(self.height)}" width="{_short(self.width)}"'
        role = f'role="img" aria-label="{escape(self.title)}"' if self.title else 'aria-hidden="true"'
        return Markup(f"<svg {size} {role}>{''.join(self.parts)}</svg>")


def shape(marker: str, x: float, y: float, r: float = 3.4) -> str:
    """The path of a marker, in matplotlib's letters, round a point."""
    corners = _corners().get(marker)
    if corners:
        points = " L".join([f"{_short(x + r * dx)} {_short(y + r * dy)}" for dx, dy in corners])
        return f"M{points}Z"
    return f"M{_short(x - r)} {_short(y)}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"


@functools.cache
def _corners() -> dict[str, Sequence[tuple[float, float]]]:
    """The corners of each marker about (0, 0)."""
    return {
        "s": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
        "^": ((0, -1.1), (1.05, 0.8), (-1.05, 0.8)),
        "v": ((0, 1.1), (1.05, -0.8), (-1.05, -0.8)),
        "<": ((-1.1, 0), (0.8, -1.05), (0.8, 1.05)),
        ">": ((1.1, 0), (-0.8, -1.05), (-0.8, 1.05)),
        "D": ((0, -1.15), (1.15, 0), (0, 1.15), (-1.15, 0)),
        "d": ((0, -1.2), (0.75, 0), (0, 1.2), (-0.75, 0)),
        "p": _ring(5),
        "h": _ring(6),
        "8": _ring(8),
        "*": _ring(10, 0.45),
        "P": _cross(0.4),
        "X": _cross(0.4, 45),
        "x": _cross(0.18, 45),
    }


def _ring(count: int, inner: float = 1.0) -> list[tuple[float, float]]:
    turns = [2 * math.pi * number / count for number in range(count)]
    return [
        ((inner if i % 2 else 1.1) * math.sin(a), -(inner if i % 2 else 1.1) * math.cos(a))
        for i, a in enumerate(turns)
    ]


def _cross(half: float, degrees: float = 0) -> list[tuple[float, float]]:
    ends = [(half, 1), (half, half), (1, half), (1, -half), (half, -half), (half, -1)]
    points = [*ends, *((-x, -y) for x, y in ends)]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(1.1 * (x * cosine - y * sine), 1.1 * (x * sine + y * cosine)) for x, y in points]


def _short(value: object) -> str:
    """A number with two decimals at most."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


def swatch(look: Look) -> Markup:
    """A legend's sample: line and marker."""
    drawn = Drawing(30, 12, "")
    drawn.line([(0, 6), (30, 6)], f"c-{look.color}", DASHES[look.line])
    drawn.mark(15, 6, look)
    return drawn.render()


# -------------------------------------------------------------------------------------- two plots, one y axis


@dataclass(frozen=True)
class Point:
    """A score in readers' units with its interval, its place, and the text of its tooltip.

    orders: the range over orders of the calibration, if it was measured; hollow: the score is an estimate.
    """

    x: float
    y: float
    low: float
    high: float
    title: str
    orders: tuple[float, float] | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Curve:
    """A method's points from left to right. `levels`: whether it has several, which a line may join."""

    look: Look
    points: tuple[Point, ...]
    levels: bool = True


@dataclass(frozen=True)
class Plot:
    """One of the two: what the x axis is called, (place, text) of its ticks, its ends, and its lines."""

    name: str
    ticks: tuple[tuple[float, str], ...]
    ends: tuple[float, float]
    lines: tuple[Curve, ...]


@dataclass(frozen=True)
class Chart:
    """Plots side by side over one y axis, with the dense score as a line and its noise as a band."""

    title: str
    plots: tuple[Plot, ...]
    dense: float
    noise: tuple[float, float] | None
    dense_text: str
    better_up: bool
    log: bool
    write: Callable[[float], str]


def chart(what: Chart, width: float = 400, height: float = 200) -> Markup:
    """The chart as SVG."""
    drawn = Drawing(width, height, what.title)
    left, top, bottom, gap = 40.0, 10.0, height - 34.0, 18.0
    scale = _y_scale(what, bottom, top)
    each = (width - left - 8 - gap * (len(what.plots) - 1)) / len(what.plots)
    for value in scale.ticks():
        drawn.line([(left, scale(value)), (width - 8, scale(value))], "grid")
        drawn.text(left - 5, scale(value) + 3.5, what.write(value), "tick", "end")
    for number, plot in enumerate(what.plots):
        start = left + number * (each + gap)
        _plot(drawn, what, plot, Axis(*plot.ends, start + 6, start + each - 6), scale)
        drawn.line([(start, bottom), (start + each, bottom)], "axis")
        drawn.text(start + each / 2, height - 4, plot.name, "label", "middle")
    if math.isfinite(what.dense):
        above = what.better_up or scale(what.dense) > bottom - 14  # below it would be among the ticks
        place = scale(what.dense) + (-4 if above else 11)
        drawn.text(width - 9, place, what.dense_text, "label halo", "end")
    return drawn.render()


def _y_scale(what: Chart, bottom: float, top: float) -> Axis:
    known = [what.dense, *(what.noise or ())]
    for plot in what.plots:
        for line in plot.lines:
            for point in line.points:
                known += [point.y, point.low, point.high, *(point.orders or ())]
    known = [value for value in known if math.isfinite(value)]
    low, high = min(known), max(known)
    if what.log:
        return Axis(low / 1.1, min(high * 1.1, sys.float_info.max), bottom, top, log=True)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Axis(max(0.0, low - pad) if low >= 0 else low - pad, high + pad, bottom, top)


def _plot(drawn: Drawing, what: Chart, plot: Plot, across: Axis, up: Axis) -> None:
    left, right = across.start - 6, across.stop + 6
    if what.noise:
        first, second = up(what.noise[1]), up(max(what.noise[0], up.low))
        drawn.add("rect", x=left, y=first, width=right - left, height=second - first, class_="noise")
    if math.isfinite(what.dense):
        drawn.line([(left, up(what.dense)), (right, up(what.dense))], "dense", "4 3")
    for at, text in plot.ticks:
        drawn.text(across(at), up.start + 13, text, "tick", "middle")
    for number, line in enumerate(plot.lines):
        apart = min(3.0, 16 / max(len(plot.lines) - 1, 1))  # equal methods do not hide each other
        color, shift = f"c-{line.look.color}", apart * (number - (len(plot.lines) - 1) / 2)
        for point in line.points:
            if math.isfinite(point.low):
                x = across(point.x) + shift
                drawn.line([(x, up(point.low)), (x, up(point.high))], f"whisker {color}")
            if point.orders:
                x = across(point.x) + shift
                drawn.line([(x, up(end)) for end in point.orders], f"orders {color}")
        path = [(across(point.x) + shift * bool(point.title), up(point.y)) for point in line.points]
        kind, dash = (color, DASHES[line.look.line]) if line.levels else (f"{color} thin", "1 4")
        drawn.line(path, kind, dash)
        for point in line.points:
            if point.title:
                drawn.mark(
                    across(point.x) + shift, up(point.y), line.look, title=point.title, hollow=point.hollow
                )
