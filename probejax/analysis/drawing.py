"""How a figure is drawn, once: a file for `figures/`, and the same picture for the page."""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

INK, SOFT, LINE = "#1c1e21", "#5c636b", "#e2e4e7"
BLUE, ORANGE, GREY = "#0b6fb3", "#c2500c", "#6b7480"  # apart for colour-blind readers too
SAES = (BLUE, "#6db3e0", "#009e73", "#7fcdb0", "#b8568f", "#e2a9c9")
BASELINES = ("#3f4750", "#78828c", "#a7b0b8", "#8a6a3f", "#c0a06a", "#dfcfa5", "#6d5a7d", "#b3a3c0")
CYCLE = (*SAES[::2], ORANGE, *SAES[1::2], *BASELINES[::3])
# Colours of a change of AUC, from much worse to much better; the ends of all but the outer ones.
WORSE = ("#8a3706", "#c95a1c", "#e88a56", "#f5b895", "#fbdccb")
BETTER = ("#cfe3f2", "#9fc8e6", "#5ea5d3", "#1f7cba", "#0a4c80")
UNCHANGED = "#e9ebee"
ENDS = (0.005, 0.01, 0.02, 0.05, 0.1)  # the first is the study's margin
SHADES = (ListedColormap([*WORSE, UNCHANGED, *BETTER]).with_extremes(bad="none"), BoundaryNorm(
    [-1, *(-end for end in ENDS[::-1]), *ENDS, 1], 11))  # fmt: skip

# The page's style sheet may give these colours other values, in its dark scheme.
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", BLUE: "accent", ORANGE: "second",
              GREY: "base", UNCHANGED: "z"}  # fmt: skip
_VARIABLES |= {colour: f"n{5 - i}" for i, colour in enumerate(WORSE)}
_VARIABLES |= {colour: f"p{1 + i}" for i, colour in enumerate(BETTER)}
_VARIABLES |= {colour: f"b{i}" for i, colour in enumerate(BASELINES)}
_VARIABLES |= {colour: f"s{i}" for i, colour in enumerate(SAES[1:], 1)}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    **{f"boxplot.{part}.color": SOFT for part in ("boxprops", "whiskerprops", "capprops")},
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.markersize": 4,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "probejax",  # the same figure gives the same bytes
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a task's name is one
}
_NO_TEXT = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0


class Picture(NamedTuple):
    """A figure, and what it says beside its ink.

    Attributes:
      figure: as matplotlib has it.
      label: what it shows, for readers who cannot see it.
      tips: per artist (its `gid`), the text of each of its marks, which the page shows on hover.
    """

    figure: Figure
    label: str
    tips: dict[str, Sequence[str]]

    @property
    def axes(self) -> list[Axes]:
        """The axes, from left to right."""
        return self.figure.axes

    def tell(self, artist: Artist, texts: Sequence[str]) -> None:
        """Gives each mark of an artist a text."""
        gid = f"tips{len(self.tips)}"
        artist.set_gid(gid)
        self.tips[gid] = texts


def style():
    """Returns the context in which figures are drawn."""
    return matplotlib.rc_context(_STYLE)


def canvas(label: str, width: float = 5.2, height: float = 3.5, columns: int = 1) -> Picture:
    """Returns an empty picture with `columns` axes; sizes are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.subplots(1, columns)
    return Picture(figure, label, {})


def legend(axes: Axes, columns: int = 2) -> None:
    """Sets the key below the axes, where it covers nothing."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns)


def encoded(picture: Picture, wanted: Sequence[str] = ("png", "svg")) -> dict[str, bytes]:
    """Returns a picture as files, of both kinds or one of them."""
    kinds: dict[str, dict[str, Any]] = {
        "png": {"dpi": 200, "facecolor": "white"},
        "svg": {"metadata": {"Date": None, "Title": picture.label}, "transparent": True},
    }
    found = {}
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box in the PNG
        for kind in wanted:
            buffer = io.BytesIO()
            picture.figure.savefig(buffer, format=kind, **kinds[kind])
            picture.figure.set_layout_engine("none")  # the first has arranged it; half of the time
            found[kind] = buffer.getvalue()
    if "svg" in found:
        found["svg"] = _NO_TEXT.sub("", found["svg"].decode()).encode()
    return found


def embedded(svg: bytes, picture: Picture, name: str) -> str:
    """Returns the file of a picture as an element of the page.

    Args:
        svg: the file.
        picture: what it shows.
        name: begins the ids in it, which must be no other picture's.
    """
    root = ET.fromstring(svg)
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        node.attrib = {key.rpartition("}")[2]: value for key, value in node.attrib.items()}
    for parent in list(root.iter()):
        for child in [x for x in parent if x.tag in ("metadata", "style", "title")]:
            parent.remove(child)
    by_id = {node.get("id"): node for node in root.iter()}
    for gid, texts in picture.tips.items():
        marks = _marks(by_id[gid]) if gid in by_id else []
        for mark, text in zip(marks, texts, strict=False) if len(marks) == len(texts) else ():
            if text:
                mark.set("data-t", _NO_TEXT.sub("", text))
    wanted = re.compile(r"(url\(#|\A#)(\w+)")
    used: set[str] = set()
    for node in root.iter():
        for key in {"d", "x", "y", "transform"} & node.attrib.keys():
            short = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", node.attrib[key])
            node.set(key, " ".join(short.split()))
        for key in ("clip-path", "href", "style"):
            value = node.get(key, "")
            used |= {own for _, own in wanted.findall(value)}
            value = wanted.sub(rf"\1{name}-\2", value)
            if key == "style":
                value = re.sub("#[0-9a-f]{6}", lambda m: _variable(m[0]), value)
            if value:
                node.set(key, value)
    for node in root.iter():
        if (own := node.attrib.pop("id", None)) in used:
            node.set("id", f"{name}-{own}")
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"class": "chart", "role": "img", "aria-label": _NO_TEXT.sub("", picture.label)}
    return ET.tostring(root, encoding="unicode")


def _marks(node: ET.Element) -> list[ET.Element]:
    """Returns the marks of an artist: the uses of its marker, or else its shapes."""
    inside = {id(x) for defs in node.iter("defs") for x in defs.iter()}
    found = [x for x in node.iter("use") if id(x) not in inside]
    return found or [x for x in node.iter("path") if id(x) not in inside]


def _variable(colour: str) -> str:
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour
