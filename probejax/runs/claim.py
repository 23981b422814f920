"""Whose a folder is, and what of its run is left for this process to do."""

import dataclasses

from etils import epath

from probejax import foreign, hosts, storage, sweep

_ADDED = (  # of which --extend may name more
    *("tasks", "methods", "controls", "sae", "site"),
    *("data", "text_column", "label_column", "positive"),
)


def check(plan: "sweep.Plan", out: epath.PathLike, done: set[str], extend: bool) -> None:
    """Raises ConfigMismatch for a folder with another run; writes nothing.

    Args:
      plan: what is to run there.
      out: the folder.
      done: names of the units that are there.
      extend: whether the run there may have fewer units than this one.
    """
    _claim(plan, out, done, extend, storage.check_config)


def claim(plan: "sweep.Plan", out: epath.PathLike, done: set[str], extend: bool) -> None:
    """Makes a folder this run's, or raises ConfigMismatch because it is another's; see `check`."""
    _claim(plan, out, done, extend, storage.write_config)


def left(
    plan: "sweep.Plan",
    out: epath.PathLike,
    done: set[str],
    share: tuple[int, int],
    save_probes: bool,
) -> tuple[list["sweep.Unit"], list["sweep.Unit"]]:
    """Returns the units that are this process's, and those of them that it has to run.

    Args:
      plan: the run.
      out: its folder.
      done: names of the units that are there.
      share: this process's number, and how many there are.
      save_probes: whether a unit without its probes has to run again.
    """
    ours = [unit for group in hosts.share(sweep.by_task(plan.units()), *share) for unit in group]
    kept = done - plan.without_probes(out, ours) if save_probes else done
    return ours, [unit for unit in ours if unit.name not in kept]


def _claim(plan: "sweep.Plan", out, done: set[str], extend: bool, take) -> None:
    place, units = str(out), plan.units()
    identity = dataclasses.asdict(plan.config)
    identity |= {"site": plan.site_names, "methods": plan.methods}
    try:
        if extend:
            sweep.check_done(place, units, done | _planned(place))
        free = _ADDED if extend else ()
        take(place, identity, dataclasses.asdict(sweep.Config()), free=free)
    except storage.ConfigMismatch as error:
        hint = (
            "To add to a run, name its tasks, methods, SAEs and sites too, and leave all else "
            "as it is." if extend else "To add tasks, methods, SAEs or sites to it give --extend."
        )  # fmt: skip
        raise storage.ConfigMismatch(f"{error} {hint}") from None
    sweep.check_done(place, units, done)


def _planned(place: str) -> set[str]:
    """Returns the names of the units that the run in a folder was to have."""
    path = epath.Path(place) / "plan.json"
    if not path.exists():
        return set()
    advice = "delete it and give the flags of the run as it was"
    return set(foreign.read_json(path, dict[str, list[str]], advice).get("units", []))
