"""The charts of the report, as inline SVG with a text on every mark."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from probejax.analysis.labels import Value, number, percent
from probejax.analysis.page.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Frame,
    Scale,
    apart,
    esc,
    frame,
    nice_ticks,
    picture,
    px,
    thinned,
    tip,
)

# Upper ends of |change of AUC| per shade of a heat map; the first is the study's margin.
SHADES = (0.005, 0.01, 0.02, 0.05, 0.1)


class Series(NamedTuple):
    """One line: `style` is a class of the style sheet, `tips` what each point shows on hover."""

    name: str
    style: str
    x: Sequence[Value]
    y: Sequence[Value]
    tips: Sequence[str] = ()


class Band(NamedTuple):
    """The area between two lines."""

    name: str
    style: str
    x: Sequence[Value]
    low: Sequence[Value]
    high: Sequence[Value]


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Returns the key of a chart: (style, name) of each mark."""
    keys = (f'<span><i class="key {style}"></i>{esc(name)}</span>' for style, name in entries)
    return f'<div class="legend">{"".join(keys)}</div>'


def lines(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    label: str,
    *,
    bands: Sequence[Band] = (),
    log: bool = False,
    zero: bool = False,
    x_text: Callable[[Value], str] = lambda value: f"{value:g}",
    height: Value = HEIGHT,
) -> str:
    """Returns lines with points over bands, and their key."""
    series = [_finite(one) for one in series]
    bands = [_finite_band(one) for one in bands]
    xs = [x for one in (*series, *bands) for x in one.x]
    ys = [y for one in series for y in one.y]
    ys += [y for one in bands for y in (*one.low, *one.high)] + ([0.0] if zero else [])
    if not xs:
        return ""
    at = frame(xs, ys, x_label, y_label, log=log, height=height)
    ticks = apart(sorted(set(xs)), at.x)
    y_ticks = nice_ticks(at.y.low, at.y.high)
    parts = [at.axes(ticks, y_ticks, x_text, _decimals(y_ticks))]
    if zero:
        parts.append(f'<path class="zero" d="M{px(at.x.start)} {px(at.y(0))}H{px(at.x.end)}"/>')
    for band in bands:
        edge = [
            *zip(band.x, band.high, strict=True),
            *list(zip(band.x, band.low, strict=True))[::-1],
        ]
        parts.append(f'<path class="band {band.style}" d="{_path(at, edge)}Z"/>')
    for one in series:
        points = list(zip(one.x, one.y, strict=True))
        parts.append(f'<path class="line {one.style}" d="{_path(at, points)}"/>')
        for (x, y), text in zip(points, one.tips, strict=False):
            parts.append(
                f'<circle class="dot {one.style}" cx="{px(at.x(x))}" cy="{px(at.y(y))}" r="3"'
                f"{tip(text)}/>"
            )
    entries = [(f"line-key {one.style}", one.name) for one in series if one.name]
    entries += [(f"band-key {band.style}", band.name) for band in bands if band.name]
    return picture("".join(parts), label, height=height) + legend(entries)


def _finite(one: Series) -> Series:
    keep = [i for i, y in enumerate(one.y) if np.isfinite(y)]
    tips = [one.tips[i] for i in keep] if one.tips else ()
    return one._replace(x=[one.x[i] for i in keep], y=[one.y[i] for i in keep], tips=tips)


def _finite_band(one: Band) -> Band:
    keep = [i for i in range(len(one.x)) if np.isfinite(one.low[i]) and np.isfinite(one.high[i])]
    return one._replace(
        x=[one.x[i] for i in keep], low=[one.low[i] for i in keep], high=[one.high[i] for i in keep]
    )


def _path(at: Frame, points: Sequence[tuple[Value, Value]]) -> str:
    steps = (f"{px(at.x(x))} {px(at.y(y))}" for x, y in points)
    return "M" + "L".join(steps) if points else "M0 0"


def _decimals(ticks: Sequence[Value]) -> Callable[[Value], str]:
    """Returns how to write ticks: with as many decimals as their step needs."""
    step = min(np.diff(ticks), default=1.0)
    digits = next((d for d in range(6) if abs(round(step, d) - step) < 1e-9), 6)
    return lambda value: number(value, digits)


class Point(NamedTuple):
    """A point of a scatter plot."""

    x: Value
    y: Value
    style: str
    text: str


def scatter(
    points: Sequence[Point],
    x_label: str,
    y_label: str,
    label: str,
    entries: Sequence[tuple[str, str]],
) -> str:
    """Returns points against the diagonal, on two equal scales."""
    if not points:
        return ""
    values = [value for point in points for value in (point.x, point.y)]
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.01
    low, high = low - room, min(high + room, 1.0 + room)
    size = HEIGHT + 60
    at = Frame(
        Scale(low, high, LEFT + 8, WIDTH - RIGHT),
        Scale(low, high, size - BOTTOM, TOP),
        x_label,
        y_label,
    )
    ticks = [tick for tick in nice_ticks(low, high) if tick <= 1]
    text = _decimals(ticks)
    parts = [at.axes(ticks, ticks, text, text)]
    parts.append(f'<path class="zero" d="{_path(at, [(low, low), (high, high)])}"/>')
    for point in points:
        parts.append(
            f'<circle class="mark {point.style}" cx="{px(at.x(point.x))}" cy="{px(at.y(point.y))}"'
            f' r="4"{tip(point.text)}/>'
        )
    keys = legend([(f"mark-key {style}", name) for style, name in entries])
    return picture("".join(parts), label, height=size) + keys


def stacked(
    names: Sequence[str],
    counts: np.ndarray,
    categories: Sequence[tuple[str, str]],
    x_label: str,
    label: str,
) -> str:
    """Returns one bar of shares per name.

    Args:
        names: what each bar is.
        counts: [bars, categories].
        categories: (style, name) from the bottom up.
        x_label: what the bars are.
        label: what the chart shows.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    y = Scale(0, 1, HEIGHT - BOTTOM, TOP)
    at = Frame(Scale(0, len(names), LEFT, WIDTH - RIGHT), y, x_label, "share of cells")
    shown = thinned(range(len(names)), 10)
    middles = [i + 0.5 for i in shown]
    quarters = [0, 0.25, 0.5, 0.75, 1]
    parts = [at.axes(middles, quarters, lambda x: names[int(x)], percent)]
    width = at.x(1) - at.x(0)
    for i, name in enumerate(names):
        base = 0.0
        for j, (style, category) in enumerate(categories):
            if not counts[i, j]:
                continue
            top = base + shares[i, j]
            text = f"{name}: {category}\n{counts[i, j]:g} of {totals[i, 0]:g} cells"
            text += f" ({percent(shares[i, j])})"
            parts.append(
                f'<rect class="bar {style}" x="{px(at.x(i) + 0.06 * width)}" y="{px(y(top))}"'
                f' width="{px(0.88 * width)}" height="{px(y(base) - y(top))}"{tip(text)}/>'
            )
            base = top
    keys = [(f"bar-key {style}", name) for style, name in categories]
    return picture("".join(parts), label) + legend(keys)


def bars(rows: Sequence[tuple[str, int, str]], entries: Sequence[tuple[str, str]]) -> str:
    """Returns horizontal bars of counts: (name, count, style); wraps on a phone, needs no scale."""
    total = sum(count for _, count, _ in rows) or 1
    most = max((count for _, count, _ in rows), default=1)
    lines = (
        f'<div class="hbar"><span>{esc(name)}</span><i class="{style}" style="width:'
        f'{100 * count / most:.1f}%"{tip(f"{name}: {count} of {total} cells")}></i>'
        f"<b>{count} ({percent(count / total)})</b></div>"
        for name, count, style in rows
    )
    keys = legend([(f"bar-key {style}", name) for style, name in entries])
    return f'<div class="hbars">{"".join(lines)}</div>{keys}'


def shade(value: Value) -> str:
    """Returns the style of a heat map's cell: `p3` for a gain of the third shade, `n1`, `z`."""
    if not np.isfinite(value):
        return "none"
    step = int(np.searchsorted(SHADES, abs(value), side="left"))
    return "z" if step == 0 else ("p" if value > 0 else "n") + str(step)


def heat(
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    x_label: str,
    label: str,
) -> str:
    """Returns a map of rows x columns, one text per cell; an absent value stays empty."""
    left, top, cell_height, width = 190, 22, 11, 760
    step = (width - left - 8) / len(columns)
    parts = []
    for j in (columns.index(name) for name in columns):
        if j in thinned(range(len(columns)), 12):
            parts.append(f'<text class="xtick" x="{px(left + (j + 0.5) * step)}" y="14">')
            parts.append(f"{esc(columns[j])}</text>")
    for i, row in enumerate(rows):
        y = top + i * cell_height
        parts.append(f'<g data-head="{esc(row)}"><text class="row" x="{left - 6}" y="{y + 8}">')
        parts.append(f"{esc(row if len(row) < 34 else row[:32] + '…')}</text>")
        for j in range(len(columns)):
            if np.isfinite(values[i, j]):
                parts.append(
                    f'<rect class="{shade(values[i, j])}" x="{px(left + j * step)}" y="{y}"'
                    f' width="{px(step - 1)}" height="{cell_height - 1}"{tip(texts[i][j])}/>'
                )
        parts.append("</g>")
    height = top + len(rows) * cell_height + 24
    parts.append(f'<text class="xtick label" x="{(left + width) / 2}" y="{height - 8}">')
    parts.append(f"{esc(x_label)}</text>")
    keys = [
        (f"bar-key n{i}", f"\N{MINUS SIGN}{SHADES[i - 1]:g}") for i in range(len(SHADES), 0, -1)
    ]
    keys += [("bar-key z", "within 0.005")]
    keys += [(f"bar-key p{i}", f"+{SHADES[i - 1]:g}") for i in range(1, len(SHADES) + 1)]
    body = picture("".join(parts), label, width, height)
    return f'<div class="scroll heat">{body}</div>{legend(keys)}'
