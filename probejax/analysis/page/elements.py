"""Small pieces of HTML that every section is made of."""

import html
import re
from collections.abc import Sequence
from importlib import resources

_LINKED = re.compile(
    r"https://(www\.)?(neuronpedia\.org|huggingface\.co|arxiv\.org|github\.com)(/[\w./?=&%#~+-]*)?",
    re.ASCII,
)


def esc(text: object) -> str:
    """Returns text for HTML, quotes included."""
    return html.escape(str(text), quote=True)


def link(text: object, address: str | None) -> str:
    """Returns a text as a link, or alone where the address is not of a site that we know."""
    if not address or not _LINKED.fullmatch(address):
        return esc(text)
    return f'<a href="{esc(address)}" rel="noopener">{esc(text)}</a>'


def block(anchor: str, heading: str, *body: str) -> str:
    """Returns a section, or nothing where it has no body."""
    text = "".join(body)
    return f'<section id="{esc(anchor)}"><h2>{esc(heading)}</h2>{text}</section>' if text else ""


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Returns the key of a chart: (style, name) of each mark."""
    keys = (f'<span><i class="key {style}"></i>{esc(name)}</span>' for style, name in entries)
    return f'<div class="legend">{"".join(keys)}</div>'


def document(title: str, header: str, links: Sequence[tuple[str, str]], main: str) -> str:
    """Returns a whole page that needs no network: style and script stand in it.

    Args:
      title: of the window, as text.
      header: HTML of what opens first, the element `header` itself.
      links: (anchor, name) of each entry of the menu, as text.
      main: HTML of the sections.
    """
    files = resources.files("probejax.analysis.page")
    style, script = (files.joinpath(name).read_text() for name in ("style.css", "script.js"))
    menu = "".join(f'<a href="#{esc(anchor)}">{esc(name)}</a>' for anchor, name in links)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'  # else browsers ask a server for one
        f"<title>{esc(title)}</title><style>{style}</style></head><body>{header}"
        f"<nav>{menu}</nav><main>{main}</main>"
        f'<div id="tip" role="status"></div><script>{script}</script></body></html>\n'
    )
