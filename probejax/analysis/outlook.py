"""What a report takes, told before it is written."""

from collections.abc import Sequence
from pathlib import Path

from etils import epath

from probejax import storage
from probejax.activations import duration
from probejax.analysis.labels import counted
from probejax.analysis.published import models
from probejax.analysis.run import Run, check_finished, read_run
from probejax.report_size import report_bytes

_START, _OF_A_FIT, _OF_A_PAGE = 6.3, 0.25e-3, 0.135  # seconds: BUILD_NOTES.md, "Report"


def look(out: epath.PathLike, also: Sequence[epath.PathLike] = ()) -> str:
    """Returns what `report` would read, and about what that takes; writes nothing.

    Args:
      out: folder of a run.
      also: folders of other runs to show beside this one.

    Raises:
      FileNotFoundError: a folder holds no finished units.
      StorageError: a unit is damaged.
      DamagedFile: a run's `config.json` is.
    """
    lines, all_fits, all_pages = [], 0, 0
    for folder in map(epath.Path, (out, *also)):
        run = read_run(folder)
        check_finished(folder, run)
        fits = sum(len(payload["fits"]["regime"]) for payload in run.payloads)
        tasks, pages = {payload["unit"]["task"] for payload in run.payloads}, _pages(folder, run)
        lines.append(
            f"{folder}: {run.status}; {counted(len(tasks), 'task')}, {fits:,} fits, "
            f"{counted(pages, 'page')} of examples"
        )
        all_fits, all_pages = all_fits + fits, all_pages + pages
    seconds = _START + _OF_A_FIT * all_fits + _OF_A_PAGE * all_pages
    size = report_bytes(all_fits, all_pages)
    lines.append(
        f"The report takes about {duration(seconds)} on one core and {size / 1e6:.0f} MB in {out}; "
        "no model and no device is needed."
    )
    return "\n".join(lines)


def look_published(out: epath.PathLike, folder: str | Path, model: str | None = None) -> str:
    """Returns what `report_published` would read; writes nothing.

    Args:
      out: folder for the tables and the report.
      folder: the study's files.
      model: the model to read; None reads all that there are.

    Raises:
      FileNotFoundError: the folder has no results of this model.
    """
    root, there = Path(folder), models(folder)
    if not there or model not in (None, *there):
        raise FileNotFoundError(
            f"{root} has no results of {model or 'any model'}; it has those of: "
            f"{', '.join(there) or 'none'}."
        )
    names = [model] if model else there
    places = (root / f"{side}_probes_{name}" for name in names for side in ("baseline", "sae"))
    files = [path for place in places if place.exists() for path in place.glob("**/*.csv")]
    size = sum(path.stat().st_size for path in files)
    return (
        f"{root}: {', '.join(names)}; {counted(len(files), 'file')} of {size / 1e6:.0f} MB\n"
        f"The report goes to {out}; no model and no device is needed. Its time is not known."
    )


def _pages(folder: epath.Path, run: Run) -> int:
    """Returns how many tasks have test scores, which are shown with their prompts."""
    units = [payload["unit"] for payload in run.payloads]
    there = (
        {path.name for path in scores.iterdir()} if (scores := folder / "scores").exists() else ()
    )
    return len({u["task"] for u in units if f"{storage.unit_id(u)}.safetensors" in there})
