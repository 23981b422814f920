"""Reads the study's own result files into the table that our units make.

The study (arXiv 2502.16681) published CSV files in `baseline_probes_<model>/` and
`sae_probes_<model>/`. Models differ in what they have: files, methods and columns may be missing.
"""

import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from probejax import foreign, spreadsheet
from probejax.analysis.left_out import attempt
from probejax.analysis.tables import as_results
from probejax.saes.suites import SUITES
from probejax.sites import parse

_METRICS = ("val_auc", "test_auc", "test_acc", "test_f1")
# The wide covariate-shift file does not name its SAE probe; the paper does (section 4).
_SHIFT_SAE = {"gemma-2-9b": ("layer_20/width_131k/average_l0_114", 128)}
_SEED = 42  # the study's only one
_L0 = "/l0_"  # what stands before the L0 where an id does not tell SAEs apart
_SUITE = [series for suite in SUITES.values() for series in suite]


class _Regime(NamedTuple):
    name: str
    baselines: tuple[str, ...]  # the first that exists is read
    saes: str
    baseline_level: str | None
    sae_level: str | None


_REGIMES = (
    _Regime("scarcity", ("scarcity/summary", "scarcity"), "scarcity", "num_train", "num_train"),
    _Regime("imbalance", ("imbalance",), "class_imbalance", "ratio", "frac"),
    _Regime("label_noise", ("corrupt",), "label_noise", "ratio", "corrupt_frac"),
)


def read(
    folder: str | pathlib.Path,
    model: str = "gemma-2-9b",
    ranking: str = "old",
    *,
    ks: Sequence[int] | None = (16, 128),
    every_layer: bool = False,
    left_out: list[str] | None = None,
) -> pd.DataFrame:
    """Returns the study's results of one model as a results table.

    Numbers are parsed exactly: a value a few units in the last place off ties no more. Where the
    standard SAE file is missing, the label-noise rows without noise stand in for it; they are the
    same numbers. `OOD_setting/` is not read, because its test rows are in-distribution.

    Args:
        folder: holds `baseline_probes_<model>/` and `sae_probes_<model>/`.
        model: as in the folders' names.
        ranking: how latents were ranked: `old`, by raw mean difference (the paper's first
            version), or `new`, each latent first divided by its mean activation.
        ks: keep SAE probes with these numbers of latents (the study's quiver); None keeps all.
        every_layer: also the baselines of other layers, under standard conditions.
        left_out: gets a line for every file that cannot be read, and the rest is returned; without
            it such a file is an error.

    Raises:
        FileNotFoundError: the folder has no results of this model.
        ValueError: the ranking is unknown or was not published, or a file is damaged.
    """
    if ranking not in ("old", "new"):
        raise ValueError(f"Unknown ranking {ranking!r}; there are old and new.")
    root = pathlib.Path(folder)
    baselines, saes = root / f"baseline_probes_{model}", root / f"sae_probes_{model}"
    if not baselines.is_dir():
        found = models(root)
        raise FileNotFoundError(
            f"{root} has no folder {baselines.name}; results are there of: "
            f"{', '.join(found) or 'no model'}."
        )

    def part(what: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        once = lambda: _once(make(), what)
        found = once() if left_out is None else attempt(left_out, f"{model}, {what}", once)
        return pd.DataFrame() if found is None else found

    places = {r.name: (saes / f"{r.saes}_setting", r.sae_level) for r in _REGIMES}
    places["standard"] = (saes / "normal_setting", None)
    sae_rows = {
        name: part(f"SAE probes, {name}", partial(_read_sae_file, folder, level, ranking))
        for name, (folder, level) in places.items()
    }
    if sae_rows["standard"].empty and not sae_rows["label_noise"].empty:
        noise = sae_rows["label_noise"]
        sae_rows["standard"] = noise[noise["level"] == 0].assign(level=np.nan)
    layer = _layer(baselines, sae_rows)
    normal = baselines / "normal_settings"
    baseline = lambda path, level: part(f"baselines, {path.name}", lambda: _read_csv(path, level))
    parts = [("standard", baseline(normal / f"layer{layer}_results.csv", None))]
    parts += [("standard", sae_rows["standard"])]
    for regime in _REGIMES:
        paths = [baselines / place / "all_results.csv" for place in regime.baselines]
        path = next((p for p in paths if p.exists()), paths[0])
        parts += [(regime.name, baseline(path, regime.baseline_level))]
        parts += [(regime.name, sae_rows[regime.name])]
    shifted = part("covariate shift", lambda: _read_shift(baselines, saes, model, ranking))
    parts += [("covariate_shift", shifted)]
    parts = [(regime, rows.assign(site=_site(layer))) for regime, rows in parts if not rows.empty]
    for other in sorted(_layers(normal) - {layer}) if every_layer else ():
        rows = baseline(normal / f"layer{other}_results.csv", None)
        parts.append(("standard", rows.assign(site=_site(other))))
    if not parts:
        raise FileNotFoundError(f"{baselines} and {saes} hold no result file of the study's names.")
    table = pd.concat([rows.assign(regime=name) for name, rows in parts], ignore_index=True)
    if ks is not None:
        table = table[(table["sae_id"] == "") | table["k"].isin(list(ks))]
    table = table.assign(seed=_SEED, protocol="paper", model=model).reset_index(drop=True)
    return as_results(table, _facts(table))


def models(folder: str | pathlib.Path) -> list[str]:
    """Returns the models that a folder has baselines of, sorted."""
    found = pathlib.Path(folder).glob("baseline_probes_*")
    return sorted(path.name.removeprefix("baseline_probes_") for path in found if path.is_dir())


def _once(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """Returns the table, in which no fit may stand twice."""
    names = table.columns.intersection(["task", "level", "method", "sae_id", "k"])
    twice = table.duplicated(list(names)) if len(table) else pd.Series(dtype=bool)
    if twice.any():
        first = ", ".join(f"{name}={table.loc[twice, name].iloc[0]}" for name in names)
        raise ValueError(f"{what}: {twice.sum()} fits occur twice, the first: {first}")
    return table


def _facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Returns what the files say of each SAE: its L0, and where it is of a known suite the rest."""
    known = {}
    for sae_id in table["sae_id"].unique():
        name = sae_id.rpartition(_L0)[0] or sae_id
        ways = (f"/gemma-2-2b_{name}/", f"/old_{name}/")
        series = next((x for x in _SUITE if any(way in x.folder for way in ways)), None)
        if series:
            known[sae_id] = {"architecture": series.architecture, "released": series.released}
    if "sae_l0" in table:
        rows = table[(table["sae_l0"].fillna("") != "").to_numpy(bool)]
        for sae_id, l0 in zip(rows["sae_id"], rows["sae_l0"], strict=True):
            known.setdefault(sae_id, {})["l0"] = float(l0)
    return known


def _layer(baselines: pathlib.Path, sae_rows: dict[str, pd.DataFrame]) -> str:
    """Returns the layer of the SAE rows; without any, the only layer with baselines."""
    layers = {x for rows in sae_rows.values() if "layer" in rows for x in rows["layer"].unique()}
    if not layers:
        layers = _layers(baselines / "normal_settings")
        layers = layers if len(layers) == 1 else {""}
    if len(layers) > 1:
        raise ValueError(f"{baselines.name}: SAE results of several layers: {sorted(layers)}.")
    return layers.pop()


def _site(layer: str) -> str:
    """Returns the site that the study calls by its layer."""
    return str(parse(layer)) if layer else ""


def _layers(folder: pathlib.Path) -> set[str]:
    names = (path.stem for path in folder.glob("layer*_results.csv"))
    return {name.removeprefix("layer").removesuffix("_results") for name in names}


def _read_sae_file(folder: pathlib.Path, level: str | None, ranking: str) -> pd.DataFrame:
    old, new = folder / "all_metrics_old.csv", folder / "all_metrics.csv"
    if ranking == "new" and new.exists() and not old.exists():
        # Models that were run once were run with the old ranking (the paper's appendix).
        raise ValueError(f"{new} holds the old ranking, the only one published; use ranking='old'.")
    path = old if ranking == "old" and old.exists() else new
    table = _read_csv(path, level)
    if table.empty:
        return table
    if "k" not in table:
        raise ValueError(f"{path} has no column k.")
    table["k"] = _floats(table["k"], path)
    variants = [
        ("reg_type", lambda value: "" if value == "l1" else f"_{value}"),
        ("binarize", lambda value: "_binarised" if value == "True" else ""),
    ]
    table["method"] = "sae_k" + table["k"].astype(int).astype(str)
    for column, suffix in variants:
        if column in table:
            table["method"] += table[column].map(suffix)
    if "sae_id" not in table:
        table["sae_id"] = "unnamed"
    if "sae_l0" in table:  # the id may name the architecture alone
        several = table.groupby("sae_id")["sae_l0"].transform("nunique") > 1
        table["sae_id"] += (_L0 + table["sae_l0"]).where(several, "")
    return table


def _read_shift(
    baselines: pathlib.Path, saes: pathlib.Path, model: str, ranking: str
) -> pd.DataFrame:
    path = baselines / "ood" / "all_results.csv"
    # By listing: on a file system that ignores case, the name would also open `OOD_setting`.
    listed = saes.is_dir() and any(p.name == "ood_setting" for p in saes.iterdir())
    probes = _read_sae_file(saes / "ood_setting", None, ranking) if listed else pd.DataFrame()
    wide = _read_csv(path, None, needed=())
    if "test_auc_baseline" not in wide:
        return pd.concat([wide, probes], ignore_index=True)
    baseline = wide[["task"]].assign(
        method="logreg", sae_id="", test_auc=_floats(wide["test_auc_baseline"], path)
    )
    if probes.empty and "test_auc_sae" in wide:
        sae_id, k = _SHIFT_SAE.get(model, ("unnamed", 128))
        auc = _floats(wide["test_auc_sae"], path)
        probes = wide[["task"]].assign(method=f"sae_k{k}", sae_id=sae_id, k=k, test_auc=auc)
    return pd.concat([baseline, probes], ignore_index=True)


def read_csv(path: pathlib.Path, **options: Any) -> pd.DataFrame:
    """Reads a CSV file with pandas' options.

    Raises:
        OSError: as `open` does.
        ValueError: it is no regular file, or no CSV file.
    """
    foreign.require_regular(path)
    try:
        return pd.read_csv(path, **options)
    except ValueError as error:  # also pandas' parser errors
        raise ValueError(f"{path} is no CSV file: {foreign.reason(error)}.") from error


def _read_csv(
    path: pathlib.Path, level: str | None, needed: tuple[str, ...] = ("test_auc",)
) -> pd.DataFrame:
    """Reads a file with its numbers exact; an absent file gives an empty table."""
    if not path.exists():
        return pd.DataFrame()
    table = read_csv(path, dtype=str, keep_default_na=False).apply(spreadsheet.plain_text)
    missing = [c for c in ("dataset", *needed, *([level] if level else [])) if c not in table]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}.")
    table = table.rename(columns={"dataset": "task"})
    for name in {*_METRICS, "num_train"} & set(table.columns):
        table[name] = _floats(table[name], path)
    if level:
        # Ratios were stored with rounding errors (0.15000000000000002); all are steps of 0.05.
        steps: Callable[[float], float] = lambda x: round(round(x, 2) * 20) / 20
        values = _floats(table[level], path)
        table["level"] = values if level == "num_train" else values.map(steps)
    if "sae_id" not in table and "method" in table:
        table["sae_id"] = ""
    return table


def _floats(text: pd.Series, path: pathlib.Path) -> pd.Series:
    """Parses numbers to the nearest float, which pandas' own parser does only in some versions."""
    try:
        return pd.Series([float(x) if x else np.nan for x in text], text.index, dtype="float64")
    except ValueError as error:
        raise ValueError(f"{path}, column {text.name}: {error}.") from error
