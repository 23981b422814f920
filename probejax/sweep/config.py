"""A run's configuration: everything that decides its results."""

import collections
import dataclasses

from probejax import positions, sites
from probejax.positions import LAST
from probejax.probes import methods
from probejax.rules import BOS_RULES, DTYPES, ENGINES, PROTOCOLS, RANKINGS
from probejax.sites import Site
from probejax.sweep import fields
from probejax.tasks import ALL_REGIMES, REGIMES, Own

_BY_GROUP = "group_shift"
_OF_A_MODEL = ("model", "site", "dtype", "max_length", "bos", "chat_template", "position")


@dataclasses.dataclass(frozen=True)
class Config:
    """A run, each field a flag of the same name; where several may stand, one may stand alone.

    Attributes:
      model: see `probejax.models.find`.
      site: where the model is read, one or several, each as for `sites.expand`; all are read in
        one pass and each is a run of its own in the results. None takes those of the SAEs, then the
        study's for the model.
      sae: SAEs, see `probejax.saes.find`; empty takes those that ship for the model. Each is used
        at the site it says, one that says none at every site.
      tasks: names, globs, `demo`, `all` or `own`; None takes one's own, else the demo's.
      regimes: some of `probejax.tasks.ALL_REGIMES`; `groups` adds `group_shift`.
      methods: see `probejax.probes.methods`; `default`, `all` and `multitoken` are
        lists of them.
      controls: whether the controls of every method run too.
      ranking: how latents are ranked, `normalised` or `raw`.
      protocol: `paper` or `strict`.
      seeds: one set of draws for each.
      dtype: of the model, `float32` or `bfloat16`.
      engine: what the solvers' loops compute in, `float32`, `float64`, or `auto` for what suits
        the device, see `probejax.solvers.arithmetic`.
      max_length: tokens kept of a prompt.
      bos: whether BOS is put before each prompt: `always`, `never`, or `auto` for what is the
        model's own convention, see `probejax.models.bos`.
      chat_template: whether each prompt is read as the user's turn of a chat, by the tokenizer's
        own template; the last token is then that of the turn.
      position: which token of a prompt is read, or the mean of all, see `probejax.positions`.
      data: a file of one's own (CSV, TSV, JSONL or Parquet) or a folder of such files.
      text_column: of these, holds the texts; None finds it by its name.
      label_column: of these, holds the labels; None finds it by its name.
      positive: the label that counts as 1, against all others.
      groups: column of these by which the regime `group_shift` holds rows out.
      activations: vectors that were made elsewhere, in place of a model, see
        `probejax.activations.given`.
      labels: of these, if they are in a file of their own.
    """

    model: str = "gemma-3-270m"
    site: tuple[Site | str | int, ...] | Site | str | int | None = None
    sae: tuple[str, ...] = ()
    tasks: tuple[str, ...] | None = None
    regimes: tuple[str, ...] = REGIMES
    methods: tuple[str, ...] = methods.DEFAULT
    controls: bool = False
    ranking: str = "normalised"
    protocol: str = "paper"
    seeds: tuple[int, ...] = (42,)
    dtype: str = "float32"
    engine: str = "auto"
    max_length: int = 1024
    bos: str = "auto"
    chat_template: bool = False
    position: str = LAST
    data: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    positive: str | None = None
    groups: str | None = None
    activations: str | None = None
    labels: str | None = None

    def __post_init__(self):
        """Raises ValueError for a value of a wrong type, that does not exist, or stands twice."""
        for field in dataclasses.fields(self):
            if field.name != "site":  # which has a type of its own
                value = fields.taken(field.name, field.type, getattr(self, field.name))
                object.__setattr__(self, field.name, value)
        for flag, values, known in (
            ("regimes", self.regimes, tuple(ALL_REGIMES)),
            ("ranking", (self.ranking,), RANKINGS),
            ("protocol", (self.protocol,), PROTOCOLS),
            ("dtype", (self.dtype,), DTYPES),
            ("engine", (self.engine,), ENGINES),
            ("bos", (self.bos,), BOS_RULES),
        ):
            for value in values:
                if value not in known:
                    raise ValueError(
                        f"--{flag}={value} does not exist; choose from {', '.join(known)}."
                    )
        object.__setattr__(self, "position", positions.parse(self.position))
        self._check_own()
        if self.tasks is None:
            object.__setattr__(self, "tasks", ("own",) if self.data else ("demo",))
        if self.groups is not None and _BY_GROUP not in self.regimes:
            object.__setattr__(self, "regimes", (*self.regimes, _BY_GROUP))
        if self.site is not None:
            text = lambda given: given if sites.kind_of_all(given) else str(sites.parse(given))
            object.__setattr__(self, "site", tuple(dict.fromkeys(map(text, self.named_sites))))
        for flag in ("tasks", "regimes", "methods", "seeds", "site"):
            if getattr(self, flag) is not None and not getattr(self, flag):
                raise ValueError(f"--{flag} is empty; give at least one.")
        for flag in ("regimes", "seeds"):  # twice the same would count twice
            value, count = collections.Counter(getattr(self, flag)).most_common(1)[0]
            if count > 1:
                raise ValueError(f"--{flag} names {value} {count} times; give each once.")
        if wrong := [seed for seed in self.seeds if not 0 <= seed < 1 << 31]:
            raise ValueError(f"--seeds={wrong[0]} is no seed: a whole number from 0 to 2**31 - 1.")
        if self.max_length < 2:
            raise ValueError(f"--max_length={self.max_length} leaves no token beside BOS.")
        reads = [name for name in self.all_methods() if methods.parse(name).reads_tokens]
        if reads and self.position != LAST:
            raise ValueError(
                f"--position={self.position} is of one vector per prompt, and {reads[0]} reads all "
                "tokens; leave one of them out."
            )

    def _check_own(self) -> None:
        """Raises ValueError for a setting of own data that there are no data for."""
        if self.activations is None and self.labels is not None:
            raise ValueError("--labels are those of --activations; give both.")
        if self.activations is not None and (self.data is not None or self.tasks is not None):
            other = "--tasks" if self.data is None else "--data"
            raise ValueError(f"--activations are one task, so {other} has no place beside them.")
        for name in _OF_A_MODEL if self.activations is not None else ():
            if (value := getattr(self, name)) != type(self).__dataclass_fields__[name].default:
                shown = ",".join(map(str, value)) if isinstance(value, tuple | list) else value
                raise ValueError(
                    f"--activations are read by no model, so --{name}={shown} means none."
                )
        for flag in ("text_column", "label_column", "groups"):
            if getattr(self, flag) is not None and self.data is None:
                raise ValueError(f"--{flag} names a column of --data; give that, too.")
        if self.positive is not None and self.data is None and self.activations is None:
            raise ValueError("--positive names a label of --data or --activations; give one, too.")
        if _BY_GROUP in self.regimes and self.groups is None:
            raise ValueError(
                f"--regimes={_BY_GROUP} holds out groups; name their column: --groups."
            )

    @property
    def own(self) -> Own | None:
        """The user's own data, as `probejax.tasks` takes them."""
        if self.data is None:
            return None
        return Own(self.data, self.text_column, self.label_column, self.positive, self.groups)

    @property
    def named_sites(self) -> tuple[Site | str | int, ...]:
        """What `site` names, one or several; empty for None."""
        named = () if self.site is None else self.site
        if isinstance(named, Site | str | int):
            return (named,)
        if not isinstance(named, list | tuple | range):
            raise ValueError(
                f"--site={named!r} is of a wrong type; give a site, or a tuple of them."
            )
        return tuple(named)

    def all_methods(self) -> tuple[str, ...]:
        """Returns the names of all methods that run, lists and controls written out."""
        lists = {"default": methods.DEFAULT, "all": methods.ALL, "multitoken": methods.MULTITOKEN}
        names = [name for each in self.methods for name in lists.get(each, (each,))]
        for name in names:
            methods.parse(name)
        if self.controls:
            names = [extra for name in names for extra in (name, *methods.controls(name))]
        return tuple(dict.fromkeys(names))
