"""Tables, figures and report.html from a run's finished units, or the study's own result files.

    python -m experiments.report --out=runs/demo
    python -m experiments.report --out=runs/paper --also=runs/strict
    python -m experiments.report --published=DIR --out=OUT

Works while a sweep is still running. `--dry_run` says what would be read.
"""

from absl import app, flags

import probejax as px
from experiments import flags as common
from experiments.entry import run

for _flag in (common.MODEL, common.CACHE_DIR, common.DRY_RUN):
    flags.declare_key_flag(_flag)
_OUT = flags.DEFINE_string("out", None, "Folder of the run, or for the tables.", required=True)
_ALSO = flags.DEFINE_multi_string(
    "also", [], "Folder of another run (other protocol, layer, model) to show beside. Repeatable."
)
_PUBLISHED = flags.DEFINE_string(
    "published", None, "Folder with the study's result files, in its own layout."
)
_RANKING = flags.DEFINE_enum(
    "published_ranking", "old", ["old", "new"], "Which generation of the study's SAE files."
)


def main(_: list[str]) -> None:
    """Reads results and reports on them."""
    px.storage.check_place(_OUT.value)
    for flag in (common.MODEL, _RANKING):
        if flag.present and not _PUBLISHED.value:
            raise app.UsageError(f"--{flag.name} is about --published; give that, too.")
    if _ALSO.value and _PUBLISHED.value:
        raise app.UsageError("--also goes with a run, not with --published.")
    from probejax.analysis import outlook  # slow to import
    from probejax.analysis.report import report, report_published

    cache_dir = common.CACHE_DIR.value
    model = common.MODEL.value if common.MODEL.present else None
    if common.DRY_RUN.value and _PUBLISHED.value:
        print(outlook.look_published(_OUT.value, _PUBLISHED.value, model))
    elif common.DRY_RUN.value:
        print(outlook.look(_OUT.value, _ALSO.value))
    elif _PUBLISHED.value:
        where = (_OUT.value, _PUBLISHED.value, model, _RANKING.value)
        print(report_published(*where, cache_dir=cache_dir))
    else:
        print(report(_OUT.value, also=_ALSO.value, cache_dir=cache_dir))


if __name__ == "__main__":
    run(main)
