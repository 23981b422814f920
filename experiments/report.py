"""Tables and figures from the finished units of a run, or from the study's own result files.

    python -m experiments.report --out=runs/demo
    python -m experiments.report --published=DIR --out=OUT

Works while a sweep is still running.
"""

from absl import app, flags
from etils import epath

from experiments.entry import run
from probejax import analysis, storage
from probejax.analysis import figures, published

_PUBLISHED = flags.DEFINE_string(
    "published", None, "Folder with the study's result files, in its own layout."
)
_PUBLISHED_MODEL = flags.DEFINE_string("published_model", "gemma-2-9b", "Which model's files.")
_PUBLISHED_RANKING = flags.DEFINE_enum(
    "published_ranking", "old", ["old", "new"], "Generation of the study's SAE files."
)


def write_report(out: str, results=None) -> str:
    """Writes tables and figures into a folder; returns the summary as text.

    Raises:
      FileNotFoundError: the folder holds no finished units.
    """
    if results is None:
        results = analysis.results_table(storage.Store(out).read_all())
    if results.empty:
        raise FileNotFoundError(f"{out} holds no finished units; run experiments.sweep --out={out} first.")
    table = analysis.write_tables(out, results)
    figures.write_figures(out, results)
    return f"{analysis.summary(table)}\n\nTables and figures are in {epath.Path(out)}."


def main(argv: list[str]) -> None:
    """Reads results and reports on them."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}.")
    out, results = flags.FLAGS.out, None
    if _PUBLISHED.value:
        results = published.read(_PUBLISHED.value, _PUBLISHED_MODEL.value, _PUBLISHED_RANKING.value)
    print(write_report(out, results))


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Folder of the run, or for the tables.", required=True)
    run(main)
