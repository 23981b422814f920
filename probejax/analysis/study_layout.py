"""Writes results as the study's own files, so that its notebooks, and `published.read`, read them.

One seed, protocol and main site fit into that layout. What it has no place for is left out:
controls, other seeds, certificates, SAE probes other than `sae_k<k>[_binarised]`, and baselines
that read all tokens.
"""

import pandas as pd
from etils import epath

from probejax import foreign, spreadsheet, storage
from probejax.analysis.facts import CONTROL, is_control, with_facts
from probejax.sites import known

_SEED = 42  # the study's
_METRICS = ["test_f1", "test_acc", "test_auc", "val_auc"]
# regime: folder of baselines, its column of the level, folder of SAE probes, its column
_PLACES = {
    "scarcity": ("scarcity/summary", "num_train", "scarcity", "num_train"),
    "imbalance": ("imbalance", "ratio", "class_imbalance", "frac"),
    "label_noise": ("corrupt", "ratio", "label_noise", "corrupt_frac"),
    "covariate_shift": ("ood", None, "ood", None),
}

_USED = ("task", "regime", "level", "method", "seed", "protocol", "model", "site", "sae_id", "k",
         "num_train", *_METRICS, "family", "binarised", "reads_tokens", *CONTROL)  # fmt: skip


def write_study(out: epath.PathLike, results: pd.DataFrame) -> list[epath.Path]:
    """Writes `study/baseline_probes_<model>/...` and `study/sae_probes_<model>/...`.

    Every model of the table gets its folders; of each, the first protocol (`paper` before others)
    and the site with SAE probes, and under standard conditions the baselines of every site.

    Args:
        out: the run's folder.
        results: the results table.

    Returns:
        The files written.

    Raises:
        StorageError: the folder is unwritable.
    """
    written = []
    results = with_facts(results)[[*_USED]]
    left_out = is_control(results) | results["reads_tokens"].to_numpy(bool)
    for model, part in results[~left_out].groupby("model", sort=False):
        protocols = sorted(part["protocol"].unique(), key=lambda name: (name != "paper", name))
        part = part[part["protocol"] == protocols[0]]
        seed = _SEED if (part["seed"] == _SEED).any() else part["seed"].min()
        part = part[part["seed"] == seed]
        name = foreign.file_name(str(model).rpartition("/")[2])
        for path, table in _files(part).items():
            side, _, rest = path.partition("/")
            target = epath.Path(out) / "study" / f"{side}_probes_{name}" / rest
            storage.write_atomic(target, spreadsheet.encode_csv(table))
            written.append(target)
    return written


def _files(part: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Returns the files of one model by path; the path begins with `baseline` or `sae`."""
    part = part.rename(columns={"task": "dataset"}).reset_index(drop=True)
    places = {text: known(text) for text in part["site"].unique()}
    names = {text: site.short if site else text for text, site in places.items()}
    part["layer"] = part["site"].map(names)  # as the study names it
    is_sae = part["sae_id"] != ""
    probe = (part["family"] == "sae").to_numpy(bool)
    layers = part["layer"][is_sae] if is_sae.any() else part["layer"]
    main = layers.value_counts().index[0]
    files = {}
    standard = part[(part["regime"] == "standard") & ~is_sae]
    for layer, rows in standard.groupby("layer", sort=False):
        path = f"baseline/normal_settings/layer{foreign.file_name(str(layer))}_results.csv"
        files[path] = rows[["dataset", "method", *_METRICS]]
    here = part["layer"] == main
    rows = part[(part["regime"] == "standard") & is_sae & probe & here]
    if len(rows):
        files["sae/normal_setting/all_metrics.csv"] = _sae(rows, None)
    for regime, (folder, column, setting, sae_column) in _PLACES.items():
        rows = part[(part["regime"] == regime) & here]
        base, sae = rows[rows["sae_id"] == ""], rows[(rows["sae_id"] != "") & probe[rows.index]]
        if len(base):
            files[f"baseline/{folder}/all_results.csv"] = _baseline(base, column)
        if len(sae):
            files[f"sae/{setting}_setting/all_metrics.csv"] = _sae(sae, sae_column)
    return files


def _baseline(rows: pd.DataFrame, column: str | None) -> pd.DataFrame:
    if column == "num_train":
        rows = rows.assign(num_train=rows["level"].astype(int))
        return rows[["dataset", "method", "num_train", *_METRICS]]
    if column:
        rows = rows.assign(**{column: rows["level"]})
        return rows[["dataset", "method", column, "num_train", *_METRICS]]
    return rows[["dataset", "method", *_METRICS]]


def _sae(rows: pd.DataFrame, column: str | None) -> pd.DataFrame:
    rows = rows.assign(reg_type="l1", binarize=rows["binarised"])
    if column:
        level = rows["level"].astype(int) if column == "num_train" else rows["level"]
        rows = rows.assign(**{column: level})
    names = [*_METRICS, "k", "dataset", "layer", "sae_id", "reg_type", "binarize"]
    return rows[names + ([column] if column else [])]
