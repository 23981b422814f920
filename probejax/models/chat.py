"""A prompt as the user's turn of a chat, by the template that comes with a model's tokenizer."""

import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from probejax.foreign import read_bytes, read_json, reason
from probejax.models.bos import Added

_READING = 2  # raise it when templates are read otherwise
_TODAY = datetime.date(2024, 7, 26)  # the date that templates of Llama 3 have for such a case
_MOST = 1 << 24  # bytes of a template, or of the tokenizer_config.json that holds one


class _Named(msgspec.Struct):
    name: str
    template: str


class _Tokens(msgspec.Struct):
    """Special tokens that a template may name, but for BOS."""

    eos_token: str | Added | None = None
    unk_token: str | Added | None = None
    pad_token: str | Added | None = None


class _Settings(_Tokens):
    """The part of a tokenizer_config.json that is about chats."""

    chat_template: str | list[_Named] | None = None


_IDS = {
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def of_header(fields: Mapping[str, Any]) -> str | None:
    """Returns the template in the fields of a GGUF header; None if there is none."""
    found, every = fields.get("tokenizer.chat_template"), fields.get("tokenizer.ggml.tokens")
    if not isinstance(found, str):
        return None
    known = {}
    for name, field in _IDS.items():
        number = fields.get(f"tokenizer.ggml.{field}")
        if isinstance(every, list) and isinstance(number, int) and 0 <= number < len(every):
            known[name] = every[number]
    return _with(known, found)


def of_folder(folder: Path) -> str | None:
    """Returns the template in chat_template.jinja or else tokenizer_config.json of a folder.

    Raises:
      DamagedFile: a file is damaged.
    """
    said = _read(folder / "tokenizer_config.json", _Settings)
    found = said.chat_template
    if isinstance(found, list):
        found = next((each.template for each in found if each.name == "default"), None)
    if (path := folder / "chat_template.jinja").exists():
        found = read_bytes(path, _MOST).decode("utf-8", "replace")
    if found is None:
        return None
    others, known = _read(folder / "special_tokens_map.json", _Tokens), {}
    for name in _IDS:
        token = getattr(said, name) or getattr(others, name)
        if token is not None:
            known[name] = token.content if isinstance(token, Added) else token
    return _with(known, found)


def _read(path: Path, kind: Any) -> Any:
    return read_json(path, kind, "download it again", most=_MOST) if path.exists() else kind()


def _with(known: Mapping[str, str], template: str) -> str:
    """Returns a template with the tokens that it names set before it."""
    named = [name for name in known if re.search(rf"\b{name}\b", template)]
    return "".join(f"{{% set {name} = {known[name]!r} +%}}" for name in named) + template


def digest(template: str | None) -> str:
    """Returns a hash of a template, as it stands in results and in the cache; empty for none."""
    if template is None:
        return ""
    return hashlib.sha256(f"{_READING};{template}".encode()).hexdigest()[:16]


def turns(template: str | None, prompts: Sequence[str], model: str) -> list[str]:
    """Returns each prompt as a chat of one turn, the user's, up to the end of that turn.

    The template gets an empty BOS, which `tokens.encode` puts before all, and never the date of
    today, so that a run can be repeated: it has a fixed one of its own, or gets `_TODAY`. It runs
    in a sandbox.

    Args:
      template: in Jinja's language, as transformers reads it; None leaves prompts as they are.
      prompts: texts.
      model: its name, for messages.

    Raises:
      ValueError: the template cannot be read, or refuses such a chat.
    """
    if template is None:
        return list(prompts)
    known = {"bos_token": "", "eos_token": "", "add_generation_prompt": False}
    known |= {"tools": None, "documents": None}
    try:
        made = _environment().from_string(template)
        return [made.render(messages=[{"role": "user", "content": p}], **known) for p in prompts]
    except Exception as error:  # a template can raise anything
        raise ValueError(
            f"The chat template of {model} cannot be used ({reason(error)}); leave it out."
        ) from error


def _environment() -> Any:
    """Returns Jinja as transformers sets it up for templates, but for the date."""
    from jinja2 import Undefined, nodes  # slow to import
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what a model wrote, and changes no text."""

        tags = frozenset({"generation"})  # type: ignore[assignment]

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def no_date(form: str) -> str:
        return _TODAY.strftime(form)

    def is_defined(value: Any) -> bool:  # a template that asks has a date of its own
        return value is not no_date and not isinstance(value, Undefined)

    def as_json(value: Any, ensure_ascii: bool = False, **how: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **how)

    place = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    place.globals |= {"raise_exception": refuse, "strftime_now": no_date}
    place.tests |= {"defined": is_defined, "undefined": lambda value: not is_defined(value)}
    place.filters["tojson"] = as_json
    return place
