"""Settings beside an SAE: every field is applied, known to change no latent, or refused by name.

Each maker's settings are a class here called a `Settings`. Its fields are those that are applied;
`only` has the values of those that are implemented in part or not at all; `idle` names those that
sound as if they changed latents and do not, for they steered the training. A field that no maker
is known to write is ignored where it sounds like bookkeeping and refused where it does not.
"""

import math
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from probejax import foreign

ADVICE = "restore it from where the SAE came from"
Width = Annotated[int, msgspec.Meta(ge=1)]
Layer = Annotated[int, msgspec.Meta(ge=0)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Size = Annotated[float, msgspec.Meta(gt=0)]
_MOST = 1 << 22  # bytes; a training run's whole configuration has some thousand
_SHOWN = 80  # characters of a value in a message
_NEUTRAL = (None, False, 0, "", "none", [], {})
_WORDS = (
    r"k acts? activat\w* nonlinear\w* norms? normali\w* (re)?scal\w* factor bias(es)? b_enc b_dec "
    r"b_pre thresh\w* gated? gating top_?k \w*relu encod\w* decod\w* cent(er|re)\w* shift means? "
    r"std variance whiten\w* rotat\w* reshap\w* transform\w* skip\w* residual errors? softmax "
    r"temperature noise dropout quanti\w* lora rank heads? groups? window attn affine"
)
_CHANGES_LATENTS = re.compile(rf"(?:^|_)(?:{'|'.join(_WORDS.split())})(?:_|$)")


class Settings(msgspec.Struct, frozen=True):
    """What is applied of one maker's settings; a field that is null counts as absent.

    Attributes:
      only: values of fields that have others too; no value at all means that none is implemented.
      idle: names of fields that change no latent, although they sound like it.
    """

    only: ClassVar[dict[str, tuple[Any, ...]]] = {}
    idle: ClassVar[frozenset[str]] = frozenset()


Kind = TypeVar("Kind", bound=Settings)


def read(path: Path | None) -> dict[str, Any]:
    """Returns the fields of a JSON object that are not null, nor are in the objects inside it.

    Args:
      path: the file; None, where there is none, has no fields.

    Raises:
      DamagedFile: it is no JSON object.
    """
    if path is None:
        return {}
    found = foreign.read_json(path, dict[str, Any], ADVICE, _MOST)
    with foreign.parsing(path, ADVICE):  # it may be nested too deeply
        return _not_null(found)


def _not_null(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _not_null(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if value is not None
    }


def settle(path: Path | None, found: dict[str, Any], kind: type[Kind]) -> Kind:
    """Returns fields as the settings of one maker.

    Args:
      path: the file, for messages.
      found: its fields, as `read` returns them.
      kind: the maker's class.

    Raises:
      ValueError: a field is not of its type, or asks for what is not implemented.
    """
    with foreign.parsing(path or "no file", ADVICE):
        settings = msgspec.convert(found, kind)
    for name, value in found.items():
        if name in kind.only and value not in kind.only[name]:
            raise refusal(path, name, value, kind.only[name])
        if name in kind.only or name in kind.idle or name in kind.__struct_fields__:
            continue
        if value not in _NEUTRAL and changes_latents(name):
            raise ValueError(
                f"{path} says {name}={shown(value)}, which probejax does not know and which may "
                "change the latents; delete that field if it does not."
            )
    return settings


def changes_latents(name: str) -> bool:
    """Says whether a name sounds like a part of the encoder."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return bool(_CHANGES_LATENTS.search(snake))


def refusal(path: Path | None, name: str, value: Any, expected: tuple[Any, ...]) -> ValueError:
    """Returns the error for a field that asks for what is not implemented."""
    known = ", ".join(map(shown, expected)) or "null"
    return ValueError(f"{path} says {name}={shown(value)}; expected {known}.")


def shown(value: Any) -> str:
    """Returns a value as JSON writes it, text without its quotes, cut where it is long."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def whole(path: Path | None, name: str, value: float | None) -> int:
    """Returns a count.

    Raises:
      ValueError: it is missing, or no whole number.
    """
    if value is None or not math.isfinite(value) or value != int(value):
        raise ValueError(f"{path} says {name}={shown(value)}; expected a whole number.")
    return int(value)


def same_widths(
    path: Path | None, weights: Path, shape: tuple[int, ...], **stated: int | None
) -> None:
    """Checks the widths that the settings name, in the order of the encoder's axes.

    Raises:
      ValueError: the weights have others, so the two files are of different SAEs.
    """
    for (name, said), size in zip(stated.items(), shape, strict=True):
        if said not in (None, size):
            raise ValueError(
                f"{path} says {name}={said}, but the encoder in {weights} is {shape}; take both "
                "files from the same SAE."
            )
