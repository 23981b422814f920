"""Tables and figures from the finished units of a run, or from the study's own result files.

    python -m experiments.report --out=runs/demo
    python -m experiments.report --published=DIR --out=OUT

Works while a sweep is still running.
"""

from absl import app, flags

from experiments.entry import run
from probejax.analysis import published
from probejax.analysis.report import report

_OUT = flags.DEFINE_string("out", None, "Folder of the run, or for the tables.", required=True)
_PUBLISHED = flags.DEFINE_string(
    "published", None, "Folder with the study's result files, in its own layout."
)
_MODEL = flags.DEFINE_string("model", "gemma-2-9b", "Which model's published files.")
_RANKING = flags.DEFINE_enum(
    "published_ranking", "old", ["old", "new"], "Which generation of the study's SAE files."
)


def main(argv: list[str]) -> None:
    """Reads results and reports on them."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}.")
    results = None
    if _PUBLISHED.value:
        results = published.read(_PUBLISHED.value, _MODEL.value, _RANKING.value)
    print(report(_OUT.value, results))


if __name__ == "__main__":
    run(main)
