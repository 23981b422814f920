"""Everything that is written about a run's results."""

import pandas as pd
from etils import epath

from probejax import storage
from probejax.analysis.figures import write_figures
from probejax.analysis.tables import results_table, summary, write_tables


def report(out: epath.PathLike, results: pd.DataFrame | None = None) -> str:
    """Writes tables and figures into a folder; works while a sweep is still running.

    Args:
      out: folder of a run, or for the tables of other results.
      results: a results table; None reads the finished units of the run.

    Returns:
      The summary to print.

    Raises:
      FileNotFoundError: the folder holds no finished units.
      StorageError: the folder cannot be written, or a unit is damaged.
    """
    if results is None:
        results = results_table(storage.Store(out).read_all())
    if results.empty:
        raise FileNotFoundError(
            f"{out} holds no finished units; run `python -m experiments.sweep --out={out}` first."
        )
    table = write_tables(out, results)
    write_figures(out, results)
    return f"{summary(table)}\n\nTables and figures are in {epath.Path(out)}."
