"""A run's configuration: everything that decides its results."""

import dataclasses

from probejax import probes, saes
from probejax.probes import methods
from probejax.tasks import REGIMES


@dataclasses.dataclass(frozen=True)
class Config:
    """A run, each field a flag of the same name.

    Attributes:
      model: see `probejax.models.find`.
      layer: zero-based block, or `embed`; None takes the SAE's, then the study's for the model.
      sae: SAEs, see `probejax.saes.find`; empty takes those that ship for the model.
      tasks: names, globs, `demo` or `all`.
      regimes: some of `probejax.tasks.REGIMES`.
      methods: see `probejax.probes.methods`; `default`, `all` and `multitoken` are
        lists of them.
      controls: whether the controls of every method run too.
      ranking: how latents are ranked, `normalised` or `raw`.
      protocol: `paper` or `strict`.
      seeds: one set of draws for each.
      dtype: of the model, `float32` or `bfloat16`.
      max_length: tokens kept of a prompt.
      tasks_dir: folder with the user's own task files.
    """

    model: str = "gemma-3-270m"
    layer: str | None = None
    sae: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("demo",)
    regimes: tuple[str, ...] = REGIMES
    methods: tuple[str, ...] = methods.DEFAULT
    controls: bool = False
    ranking: str = "normalised"
    protocol: str = "paper"
    seeds: tuple[int, ...] = (42,)
    dtype: str = "float32"
    max_length: int = 1024
    tasks_dir: str | None = None

    def __post_init__(self):
        """Raises ValueError for a regime, method, ranking or protocol that does not exist."""
        for flag, values, known in (
            ("regimes", self.regimes, REGIMES),
            ("ranking", (self.ranking,), saes.RANKINGS),
            ("protocol", (self.protocol,), probes.PROTOCOLS),
            ("dtype", (self.dtype,), ("float32", "bfloat16")),
        ):
            for value in values:
                if value not in known:
                    raise ValueError(
                        f"--{flag}={value} does not exist; choose from {', '.join(known)}."
                    )
        for flag in ("tasks", "regimes", "methods", "seeds"):
            if not getattr(self, flag):
                raise ValueError(f"--{flag} is empty; give at least one.")
        self.all_methods()

    def all_methods(self) -> tuple[str, ...]:
        """Returns the names of all methods that run, lists and controls written out."""
        lists = {"default": methods.DEFAULT, "all": methods.ALL, "multitoken": methods.MULTITOKEN}
        names = [name for each in self.methods for name in lists.get(each, (each,))]
        for name in names:
            probes.parse(name)
        if self.controls:
            names = [extra for name in names for extra in (name, *methods.controls(name))]
        return tuple(dict.fromkeys(names))
