"""Tables, figures and report.html from a run's finished units, or the study's own result files.

    python -m experiments.report --out=runs/demo
    python -m experiments.report --out=runs/paper --also=runs/strict
    python -m experiments.report --published=DIR --out=OUT

Works while a sweep is still running.
"""

from absl import app, flags

from experiments import flags as common
from experiments.entry import run
from probejax.analysis.report import report, report_published

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


def main(argv: list[str]) -> None:
    """Reads results and reports on them."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}.")
    cache_dir = common.CACHE_DIR.value
    if _PUBLISHED.value:
        if _ALSO.value:
            raise app.UsageError("--also goes with a run, not with --published.")
        model = common.MODEL.value if common.MODEL.present else "gemma-2-9b"
        where = (_OUT.value, _PUBLISHED.value, model, _RANKING.value)
        print(report_published(*where, cache_dir=cache_dir))
    else:
        print(report(_OUT.value, also=_ALSO.value, cache_dir=cache_dir))


if __name__ == "__main__":
    run(main)
