"""Small pieces of HTML that every section is made of."""

import html
import re
from collections.abc import Sequence

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
