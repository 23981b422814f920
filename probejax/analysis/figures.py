"""Which figures there are, where they stand on the page, and their files."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from etils import epath

from probejax import foreign, storage
from probejax.analysis import layer_figures, overview_figures, regime_figures, sae_figures
from probejax.analysis.drawing import Picture, embedded, encoded, style
from probejax.analysis.findings import Findings
from probejax.analysis.group import Group
from probejax.analysis.left_out import attempt

_OF_REGIME: dict[str, tuple[str, Callable[[Group, str], Picture | None]]] = {
    "": ("Change of test AUC", regime_figures.change),
    "chosen_": ("Who was chosen", regime_figures.chosen),
    "tasks_": ("Every task at every level", regime_figures.tasks_by_level),
}
_OF_GROUP: dict[str, tuple[str, str, Callable[[Group], Picture | None]]] = {
    "regimes": ("overview", "Test AUC per regime", overview_figures.regimes),
    "win_rates": ("overview", "Tasks won and lost", overview_figures.win_rates),
    "curves": ("overview", "Both quivers against the level", overview_figures.curves),
    "auc_against_k": ("standard", "AUC against k", sae_figures.against_k),
    "auc_against_l0": ("standard", "AUC against L0", sae_figures.against_l0),
    "auc_against_width": ("standard", "AUC against width", sae_figures.against_width),
    "l0_by_width": ("standard", "AUC by width and L0", sae_figures.l0_by_width),
    "difference_by_sae": ("standard", "SAE probes minus logreg", sae_figures.beside_logreg),
    "covariate_shift_tasks": ("covariate_shift", "Task by task", overview_figures.shifted_tasks),
}
_WIDE = 6.0  # inches; a wider figure takes a row of the page


class Shown(NamedTuple):
    """A figure as the page shows it.

    Attributes:
      group: the place of its group, -1 where it is about all of them.
      section: where it stands: a regime, or another section's anchor.
      caption: what stands above it.
      wide: whether it takes a whole row.
      svg: an element of the page.
    """

    group: int
    section: str
    caption: str
    wide: bool
    svg: str


def write_figures(
    out: epath.PathLike, found: Findings, left_out: list[str] | None = None
) -> list[Shown]:
    """Writes every figure that the results allow, as PNG and SVG, and returns them for the page.

    The first of the groups has its figures in `figures/`; any other that can be compared has those
    of its regimes in a folder of its own below.

    Args:
        out: the run's folder.
        found: what the results say.
        left_out: gets a line for every figure that cannot be drawn, see `attempt`.

    Raises:
        StorageError: the folder is unwritable.
    """
    left_out, shown = [] if left_out is None else left_out, []
    for path, group, section, caption, draw in _drawings(found, left_out):
        save = partial(_save, epath.Path(out), path, draw, f"f{len(shown)}")
        if made := attempt(left_out, f"figures/{path}", save):
            picture, svg = made
            wide = picture.figure.get_figwidth() > _WIDE
            shown.append(Shown(group, section, caption, wide, svg))
    return shown


Drawing = tuple[str, int, str, str, Callable[[], Picture | None]]


def _drawings(found: Findings, left_out: list[str]) -> Iterator[Drawing]:
    """Yields the path of each figure without its ending, its place on the page, what draws it."""
    for place, group in enumerate(found.groups):
        folder = f"{group.model}_{group.site}_{group.protocol}"
        folder = f"{foreign.file_name(folder)}/" if place else ""
        for regime in group.compared_regimes:
            for prefix, (caption, draw) in _OF_REGIME.items():
                path = folder + foreign.file_name(prefix + regime)
                yield path, place, regime, caption, partial(draw, group, regime)
        if not place and group.compared_regimes:
            for name, (section, caption, draw) in _OF_GROUP.items():
                yield name, place, section, caption, partial(draw, group)
    more: Sequence[tuple[str, Callable[[], dict[str, Picture]]]] = (
        ("layers", lambda: layer_figures.layers(found.layers)),
        ("layers", lambda: layer_figures.best_baselines(found.results)),
        ("multi_token", lambda: overview_figures.token_panels(found.tokens)),
    )
    for section, make in more:
        with style():
            pictures = attempt(left_out, f"figures/{section}", make) or {}
        for name, picture in pictures.items():
            draw = partial(_itself, picture)
            yield foreign.file_name(name), -1, section, picture.label, draw
    draw = partial(sae_figures.architectures, found.studies)
    yield "architectures", -1, "architectures", "AUC against L0", draw


def _itself(picture: Picture) -> Picture:
    return picture


def _save(
    out: epath.Path, path: str, draw: Callable[[], Picture | None], name: str
) -> tuple[Picture, str] | None:
    """Draws a figure and writes it, unless there is nothing that it could show."""
    with style():
        picture = draw()
    if picture is None:
        return None
    files = encoded(picture)
    for kind, content in files.items():
        storage.write_atomic(out / "figures" / f"{path}.{kind}", content)
    return picture, embedded(files["svg"], picture, name)
