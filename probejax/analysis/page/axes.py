"""Scales, ticks and the frame of a chart, as SVG text. Colours are the style sheet's."""

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probejax.analysis.labels import Value

# Drawn at this size and scaled to the column; small, so that text stays legible on a phone.
WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 44


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels, linearly or by their logarithm."""

    low: Value
    high: Value
    start: Value
    end: Value
    log: bool = False

    def __call__(self, value: Value) -> float:
        """Returns the pixel of a value."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(value))
            if self.log
            else (self.low, self.high, value)
        )
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def nice_ticks(low: Value, high: Value, count: int = 5) -> list[float]:
    """Returns about `count` round numbers between two values."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def thinned(values: Sequence[Value], count: int = 8) -> list[Value]:
    """Returns every n-th value, so that at most `count` remain."""
    step = max(1, math.ceil(len(values) / count))
    return list(values)[::step]


def apart(values: Sequence[Value], scale: Scale, pixels: float = 34) -> list[Value]:
    """Returns rising values from the first on, those left out that would touch the one before."""
    kept = list(values)[:1]
    for value in values:
        if abs(scale(value) - scale(kept[-1])) >= pixels:
            kept.append(value)
    return kept


def esc(text: object) -> str:
    """Returns text for HTML, quotes included."""
    return html.escape(str(text), quote=True)


_LINKED = re.compile(
    r"https://(www\.)?(neuronpedia\.org|huggingface\.co|arxiv\.org|github\.com)(/[\w./?=&%#~+-]*)?",
    re.ASCII,
)


def link(text: object, address: str | None) -> str:
    """Returns a text as a link, or alone where the address is not of a site that we know."""
    if not address or not _LINKED.fullmatch(address):
        return esc(text)
    return f'<a href="{esc(address)}" rel="noopener">{esc(text)}</a>'


def tip(text: str) -> str:
    """Returns the attribute that shows a text on hover."""
    return f' data-t="{esc(text)}"'


def px(value: Value) -> str:
    """Returns a coordinate with one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def picture(body: str, label: str, width: Value = WIDTH, height: Value = HEIGHT) -> str:
    """Returns a chart as an SVG element; `label` says what it shows to who cannot see it."""
    size = f'viewBox="0 0 {px(width)} {px(height)}"'
    return f'<svg class="chart" role="img" aria-label="{esc(label)}" {size}>{body}</svg>'


def _fitted(label: str, pixels: Value) -> str:
    """Returns the attributes that squeeze a label into its axis if it is longer."""
    if 7 * len(label) <= pixels:  # no letter of most fonts is wider at this size
        return ""
    return f' textLength="{px(pixels)}" lengthAdjust="spacingAndGlyphs"'


@dataclass(frozen=True)
class Frame:
    """The two scales of a chart, and what they measure."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str

    def axes(
        self,
        x_ticks: Sequence[Value],
        y_ticks: Sequence[Value],
        x_text: Callable[[Value], str],
        y_text: Callable[[Value], str],
    ) -> str:
        """Returns grid lines, tick labels and axis labels."""
        parts = []
        for value in y_ticks:
            at = px(self.y(value))
            parts.append(f'<path class="grid" d="M{px(self.x.start)} {at}H{px(self.x.end)}"/>')
            parts.append(f'<text x="{px(self.x.start - 6)}" y="{at}" class="ytick">')
            parts.append(f"{esc(y_text(value))}</text>")
        for value in x_ticks:
            at = px(self.x(value))
            parts.append(f'<text x="{at}" y="{px(self.y.start + 15)}" class="xtick">')
            parts.append(f"{esc(x_text(value))}</text>")
        middle = px((self.x.start + self.x.end) / 2)
        parts.append(f'<path class="axis" d="M{px(self.x.start)} {px(self.y.start)}')
        parts.append(f'H{px(self.x.end)}"/>')
        fit = _fitted(self.x_label, self.x.end - self.x.start)
        parts.append(f'<text x="{middle}" y="{px(self.y.start + 33)}" class="xtick label"{fit}>')
        parts.append(f"{esc(self.x_label)}</text>")
        parts.append(f'<text transform="translate(12 {px((self.y.start + self.y.end) / 2)})')
        fit = _fitted(self.y_label, self.y.start - self.y.end)
        parts.append(f' rotate(-90)" class="xtick label"{fit}>{esc(self.y_label)}</text>')
        return "".join(parts)


def frame(
    xs: Sequence[Value],
    ys: Sequence[Value],
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    height: Value = HEIGHT,
) -> Frame:
    """Returns a frame that holds all values with a little room."""
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = (x_low / 2, x_high * 2) if log else (x_low - 0.5, x_high + 0.5)
    y_low, y_high = min(ys), max(ys)
    room = 0.06 * (y_high - y_low) or 0.01
    x = Scale(x_low, x_high, LEFT + 8, WIDTH - RIGHT - 8, log)
    return Frame(x, Scale(y_low - room, y_high + room, height - BOTTOM, TOP), x_label, y_label)
