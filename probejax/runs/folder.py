"""A run's folder, read back: its results, one row per fit, and its units."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import pandas as pd
from etils import epath

from probejax import storage, tasks


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run as its folder holds it, finished or not.

    Attributes:
      out: the folder.
      config: what of the run's configuration is read back; empty where the folder has none.
      payloads: of the finished units, as they are stored.
      left_out: task -> why it could not run, or regime of it -> why that could not be had.
      status: how far it is, in a sentence.
    """

    out: epath.Path
    config: Mapping[str, Any]
    payloads: list[dict[str, Any]]
    left_out: tasks.LeftOut
    status: str

    @functools.cached_property
    def results(self) -> pd.DataFrame:
        """One row per fit: task, regime, level, seed, method, SAE, AUCs, gap, ..."""
        from probejax.analysis import results_table

        return results_table(self.payloads)

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """One row per unit and test prompt of its standard condition: what the probe says of it.

        `row` is the prompt's place in the task, from 0, `label` 0 or 1; a `logit` above 0 predicts
        label 1. Units from before there were test scores have no rows.

        Raises:
          DamagedFile: a unit's scores are damaged.
        """
        store, parts = storage.Store(self.out), []
        for payload in self.payloads:
            unit = payload["unit"]
            found = store.read_scores(storage.unit_id(unit))
            for draw in found.draws if found else ():
                of = {name: unit[name] for name in ("task", "site", "method", "sae_id")}
                of |= {"seed": draw.seed, "row": draw.rows, "label": draw.labels}
                parts.append(pd.DataFrame(of | {"logit": draw.logits}))
        columns = ["task", "site", "method", "sae_id", "seed", "row", "label", "logit"]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    @property
    def units(self) -> pd.DataFrame:
        """One row per finished unit: what decides its numbers, and how many fits it has."""
        counts = [len(each["fits"]["regime"]) for each in self.payloads]
        table = pd.DataFrame([each["unit"] for each in self.payloads]).assign(fits=counts)
        by = [name for name in ("task", "site", "source", "method") if name in table]
        return table.sort_values(by, ignore_index=True) if by else table

    def quiver(self, **settings: Any) -> pd.DataFrame:
        """Returns what choosing among all probes is worth beside those without SAEs, per regime.

        Args:
          **settings: see `probejax.analysis.quiver`.
        """
        from probejax.analysis import quiver

        return quiver(self.results, **settings)

    @property
    def ran(self) -> bool:
        """Whether no task had to be left out; a regime that its rows cannot give is no failure."""
        return not any(isinstance(why, str) for why in self.left_out.values())

    @property
    def probes(self) -> list[epath.Path]:
        """Files of saved probes, `<task>__<source>__<method>.safetensors`, see `load_probe`.

        Those of a run at several sites have `__<site>` behind the method.
        """
        folder = self.out / "probes"
        return sorted(folder.glob("*.safetensors")) if folder.exists() else []

    def __repr__(self) -> str:
        lines = [f"Run in {self.out}. {self.status}."]
        if self.payloads and not (found := self.results).empty:
            from probejax.analysis.labels import counted

            where = ["site"] if found["site"].nunique() > 1 else []
            parts = [
                counted(count, name)
                for name in ("task", *where, "method", "regime")
                if (count := found[name].nunique())
            ]
            lines.append(f"{len(found):,} fits ({', '.join(parts)}); mean test AUC:")
            means = found.groupby([*where, "method", "regime"], sort=False)["test_auc"].mean()
            lines.append(means.unstack().round(4).to_string())
        lines += [f"Left out: {why}" for why in tasks.sentences(self.left_out)]
        return "\n".join(lines)


def read(out: epath.PathLike) -> Run:
    """Reads a run's folder as it stands, while a sweep is running too.

    Args:
      out: what `run` was given, a folder or a gs:// prefix.

    Returns:
      The run. Printed, it says how far it is, with mean test AUCs; `results` is a pandas table of
      one row per fit, `scores` of one row per test prompt and unit, `quiver()` compares with and
      without SAEs, `probes` are the files of saved probes.

    Raises:
      FileNotFoundError: no run has written there.
      StorageError: a unit is damaged or cannot be read.
      DamagedFile: `config.json` is damaged.

    Example:
      >>> import numpy as np
      >>> import probejax as px
      >>> x = np.random.default_rng(0).normal(size=(300, 8))
      >>> np.save("x.npy", x); np.save("y.npy", x[:, 0] > 0)
      >>> config = px.Config(activations="x.npy", labels="y.npy", methods=("mean_difference",),
      ...                    regimes=("standard",))
      >>> px.run(config, out="mine", workers=1, save_probes=True, show="nothing").ran
      True
      >>> found = px.read("mine")
      >>> found.results[["task", "method", "num_train"]]
        task           method  num_train
      0    x  mean_difference        225
      >>> px.load_probe(found.probes[0])(x[:5]).shape  # a line for each condition, here one
      (1, 5)
    """
    from probejax.analysis.run import read_left_out, read_run

    storage.check_place(str(out))
    folder = epath.Path(out)
    known = read_run(folder)
    if not known.done and not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no run: it has neither config.json nor units/.")
    left_out = read_left_out(folder)
    return Run(folder, known.config, known.payloads, left_out, known.status)
