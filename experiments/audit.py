"""What is wrong with a dataset: suspect labels, shortcuts, duplicates; a page and tables.

    python -m experiments.audit --tasks=87_glue_cola --out=runs/audit
    python -m experiments.audit --data=my.csv --groups=writer --out=runs/audit
    python -m experiments.audit --activations=x.npy --labels=y.npy --out=runs/audit

Opens at OUT/audit.html; of several tasks each has a folder of its own.
"""

from absl import flags

import probejax as px
from experiments import config_flags
from experiments import flags as common
from experiments.entry import run

for _flag in (*config_flags.VECTORS, common.CACHE_DIR, common.DRY_RUN, common.TARGET):
    flags.declare_key_flag(_flag)
_OUT = common.unless_dry(flags.DEFINE_string("out", None, "Folder or gs:// prefix for the pages."))
_CORPUS = flags.DEFINE_string(
    "corpus",
    None,
    "Neutral texts for the probe's direction on single tokens: a .txt file with one per line, a "
    "file as --data takes, or a folder of them. Default: prompts of the study's other tasks.",
)
_KEEP = flags.DEFINE_string(
    "keep",
    None,
    "Latents that you would keep on the task's shifted set, the best first: a file with a number "
    "per line, or CSV with a column `latent`.",
)


def main(_: list[str]) -> None:
    """Audits every task and prints what was found."""
    target, config = common.target(), config_flags.config(protocol="strict")
    if not common.DRY_RUN.value:
        px.storage.check_place(_OUT.value)
    if config.activations is None:
        px.tasks.match(config.tasks or (), config.own)  # told before JAX is imported
    if _CORPUS.value is not None:
        px.auditing.neutral_texts.read(_CORPUS.value)
    if _KEEP.value is not None:
        px.auditing.keep.read(_KEEP.value)
    where = {"corpus": _CORPUS.value, "keep": _KEEP.value, "cache_dir": common.CACHE_DIR.value}
    if common.DRY_RUN.value:
        print(px.auditing.look(px.auditing.ready(config, **where), target))
        return
    for place, found in px.auditing.run(config, _OUT.value, **where):
        print(f"{found}\n\nThe page and its tables are in {place}.\n", flush=True)


if __name__ == "__main__":
    run(main)
