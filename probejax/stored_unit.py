"""What the file of a finished unit holds: one schema, checked whenever such a file is read.

Runs are passed on as archives, so a unit may come from anywhere. What is checked here need not be
checked by those who read results: names are short text without control characters (a
position may have line ends and tabs, as chat templates do), a site is the text form of one or
`given` (vectors of one's own), scores lie where they can, and all columns of the fits are equally
long.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from probejax import positions, sites

Text = Annotated[str, Meta(max_length=1000, pattern=r"\A[^\x00-\x1f\x7f]*\Z")]
Position = Annotated[str, Meta(max_length=positions.LONGEST, pattern=positions.PATTERN)]
Word = Annotated[str, Meta(max_length=200, pattern=r"\A[A-Za-z][A-Za-z0-9_.-]*\Z")]
Layer = Annotated[str, Meta(pattern=r"\A(?:embed|[0-9]{1,4})\Z")]
_SITE = rf"\A(?:{sites.GIVEN}|(?:{'|'.join(sites.KINDS)})\.[0-9]{{1,4}})\Z"
SiteText = Annotated[str, Meta(pattern=_SITE)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=1 << 40)]


class Facts(msgspec.Struct):
    """What a unit is of: the columns of results that all its fits share."""

    task: Text
    method: Word
    protocol: Word
    model: Text
    sae_id: Text
    k: Count | None
    site: SiteText | None = None
    layer: Layer | None = None  # units from before there were sites have this
    bos: Literal["prepended", "none"] | None = None  # unless it was prepended as is usual
    chat: Text | None = None  # where a template made each prompt a turn of a chat
    position: Position | None = None  # of the token that was read, unless it was the last

    def __post_init__(self):
        """Raises ValueError unless it says where the model was read."""
        if (self.site is None) == (self.layer is None):
            raise ValueError("it needs a site, or in its place the layer of older units")


class Fits(msgspec.Struct):
    """The fits of a unit, a list per column; null stands for a number that there is not."""

    regime: list[Word]
    level: list[float | None]
    seed: list[Annotated[int, Meta(ge=0, lt=1 << 32)]]
    num_train: list[Count | None]
    num_test: list[Count | None]
    val_auc: list[Share | None]
    test_auc: list[Share | None]
    test_acc: list[Share | None]
    test_f1: list[Share | None]
    hyperparameter: list[float | None]
    gap: list[float | None]
    code: list[Count | None]
    test_tpr: list[Share | None] | None = None  # units from before these were measured lack them
    test_ece: list[Share | None] | None = None

    def __post_init__(self):
        """Raises ValueError unless all columns are equally long."""
        columns = {name: getattr(self, name) for name in self.__struct_fields__}
        lengths = {name: len(each) for name, each in columns.items() if each is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"its columns differ in length: {lengths}")


class Card(msgspec.Struct):
    """A latent that a probe reads."""

    index: Count
    mean: tuple[float | None, float | None]
    rate: tuple[float | None, float | None] | None = None
    link: Text | None = None


class Sae(msgspec.Struct):
    """What is known of the SAE beside its name; units from before it was stored lack some of it."""

    architecture: Text | None = None
    width: Annotated[float, Meta(ge=1)] | None = None
    l0: Annotated[float, Meta(ge=0)] | None = None
    layer: Annotated[int, Meta(ge=-1)] | None = None
    released: Text | None = None
    link: Text | None = None
    random: bool | None = None


class StoredUnit(msgspec.Struct):
    """The whole content of a unit's file; other fields may stand beside these."""

    unit: Facts
    fits: Fits
    latents: list[list[Card] | None] | None = None
    sae: Sae | None = None
    groups: list[Text] | None = None  # the name of each level of the regime `group_shift`

    def __post_init__(self):
        """Raises ValueError unless there are as many lists of latents as fits, or none."""
        if self.latents is not None and len(self.latents) != len(self.fits.regime):
            raise ValueError(
                f"it has {len(self.fits.regime)} fits and {len(self.latents)} lists of latents"
            )


def check_name(what: str, name: str) -> None:
    """Raises ValueError for a name that no unit may hold, before any is written."""
    try:
        msgspec.convert(name, Text)
    except msgspec.ValidationError:
        raise ValueError(
            f"The {what} {name!r:.100} cannot stand in results: a name there is one line of at "
            "most 1,000 characters, so rename it."
        ) from None


def checked(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a unit that has been read, with the `site` in the place of the `layer` of older ones.

    Raises:
        ValueError: it departs from the schema; the message says where.
    """
    facts = msgspec.convert(payload, StoredUnit).unit
    unit = {name: value for name, value in payload["unit"].items() if name != "layer"}
    where = facts.site or str(sites.parse(facts.layer or ""))
    return {**payload, "unit": unit | {"site": where}}
