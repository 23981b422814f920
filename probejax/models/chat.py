"""A prompt as the user's turn of a chat, by the template that comes with a model's tokenizer."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from probejax.foreign import read_bytes, read_json, reason

_MOST = 1 << 24  # bytes of a template, or of the tokenizer_config.json that holds one


class _Named(msgspec.Struct):
    name: str
    template: str


class _Settings(msgspec.Struct):
    """The part of a tokenizer_config.json that is about chats."""

    chat_template: str | list[_Named] | None = None


def of_header(fields: Mapping[str, Any]) -> str | None:
    """Returns the template in the fields of a GGUF header; None if there is none."""
    found = fields.get("tokenizer.chat_template")
    return found if isinstance(found, str) else None


def of_folder(folder: Path) -> str | None:
    """Returns the template in chat_template.jinja or else tokenizer_config.json of a folder.

    Raises:
      DamagedFile: that file is damaged.
    """
    if (path := folder / "chat_template.jinja").exists():
        return read_bytes(path, _MOST).decode("utf-8", "replace")
    if not (path := folder / "tokenizer_config.json").exists():
        return None
    found = read_json(path, _Settings, "download it again", most=_MOST).chat_template
    if not isinstance(found, list):
        return found
    return next((each.template for each in found if each.name == "default"), None)


def digest(template: str | None) -> str:
    """Returns a hash of a template, as it stands in results and in the cache; empty for none."""
    return "" if template is None else hashlib.sha256(template.encode()).hexdigest()[:16]


def turns(template: str | None, prompts: Sequence[str], model: str) -> list[str]:
    """Returns each prompt as a chat of one turn, the user's, up to the end of that turn.

    The template gets an empty BOS, which `tokens.encode` puts before all, and no date: those that
    ask for one have a fixed one of their own. It runs in a sandbox.

    Args:
      template: in Jinja's language, as transformers reads it; None leaves prompts as they are.
      prompts: texts.
      model: its name, for messages.

    Raises:
      ValueError: the template cannot be read, or refuses such a chat.
    """
    if template is None:
        return list(prompts)
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    place = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    place.globals["raise_exception"] = refuse
    known = {"bos_token": "", "eos_token": "", "add_generation_prompt": False}
    try:
        made = place.from_string(template)
        return [made.render(messages=[{"role": "user", "content": p}], **known) for p in prompts]
    except Exception as error:  # a template can raise anything
        raise ValueError(
            f"The chat template of {model} cannot be used ({reason(error)}); leave it out."
        ) from error
