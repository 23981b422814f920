"""What a run will take on a machine, told before anything is downloaded for it or computed."""

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence

from probejax import activations, probes
from probejax import sizes as listed
from probejax.activations import duration, flops_per_token
from probejax.report_size import report_bytes
from probejax.sweep import data, machines, memory, token_disk, work
from probejax.sweep.machines import Machine
from probejax.sweep.plan import Plan
from probejax.sweep.source import Vectors
from probejax.sweep.units import Unit
from probejax.tasks import Drawing, LeftOut, sentences

_FIT_BYTES = 300  # of a fit in its unit and scores; measured
_START = 20.0  # seconds until the first unit begins, and of the report after the last
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Row:
    """A method of the run.

    Attributes:
      method: its name.
      units: how many.
      fits: that they return, conditions that share one counted once.
      seconds: of one device for all of them; NaN where it is not known.
      programs: to compile.
    """

    method: str
    units: int
    fits: int
    seconds: float
    programs: int | None


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What a run will take, see `look`; `str` is a page of it.

    Attributes:
      machine: that it is told for.
      tasks: how many run, or go on.
      finished: units that are not among those told of.
      left_out: those that do not and regimes that cannot be had, each with its reason.
      rows: a line for each method.
      tokens: that the language model has to read.
      harvest: seconds that it takes on all devices.
      on_device: what a device holds -> bytes.
      on_disk: what the disk holds -> bytes.
      at_once: cores that fit tasks side by side, or devices, which share the fits of one.
      faults: sentences: what does not fit, and which flag mends it.
    """

    machine: Machine
    tasks: int
    finished: int
    at_once: int
    left_out: LeftOut
    rows: tuple[Row, ...]
    tokens: int
    harvest: float
    on_device: dict[str, float]
    on_disk: dict[str, float]
    faults: tuple[str, ...]

    @property
    def ran(self) -> bool:
        """Whether no task has to be left out, as `Run.ran` will say."""
        return not any(isinstance(why, str) for why in self.left_out.values())

    @property
    def seconds(self) -> float:
        """Of the whole run, where no program has to be compiled; methods not known left out."""
        known = sum(row.seconds for row in self.rows if not math.isnan(row.seconds))
        start = _START if self.machine.is_cpu and self.rows else 0  # else a floor
        return start + self.harvest + known / self.at_once

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def look(
    plan: Plan,
    target: str = "cpu",
    model_parallel: int = 1,
    memory_gb: float | None = None,
    *,
    workers: int | None = None,
    disk_gb: float | None = None,
    keep_tokens: bool = False,
    units: Sequence[Unit] | None = None,
    finished: int = 0,
) -> Outlook:
    """Foresees a run: counts its fits and tokens exactly, and estimates time and memory.

    Args:
      plan: the run.
      target: a machine, see `rules.TARGETS`; `cpu` is this one.
      model_parallel: devices that hold the language model together.
      memory_gb: memory for one process; None is what the machine has.
      workers: tasks at a time; None is as many as the run would take.
      disk_gb: what all-token activations may take on the disk; None is no limit.
      keep_tokens: whether they stay when the units of their task are written.
      units: those that are to run; None is all.
      finished: how many are not, because they have.

    Raises:
      ValueError: there is no such machine, the model cannot be cut over so many devices, the
        memory does not hold one fit of a task, or the disk what is harvested.
    """
    machine = machines.machine(target, plan.config.dtype)
    _check_parallel(plan, machine, model_parallel)
    units = plan.units() if units is None else units
    drawn = {task: plan.source.drawing(task) for task in dict.fromkeys(u.task for u in units)}
    at_once = machine.devices
    if machine.is_cpu:
        at_once, room = memory.at_once(plan, workers, model_parallel)
        at_once = min(max(at_once, 1), max(len(drawn), 1))
        memory_gb = room if memory_gb is None else memory_gb
    most = max((sum(len(each.prompts) for each in some.sets) for some in drawn.values()), default=0)
    if memory_gb is not None:
        _check_memory(plan, memory_gb, most)
    lists = {} if isinstance(plan.source, Vectors) else token_disk.plans(plan, list(drawn))
    together = 1  # on a device
    if not machine.is_cpu:
        each = -(-len(drawn) // machine.devices)
        together = memory.together(plan, each, machine.memory, model_parallel)
    if plan.reads_tokens and lists:
        limits = {"keep": keep_tokens, "allowed_gb": disk_gb, "free": sys.maxsize}
        token_disk.forecast(lists, workers=at_once, **limits)
    rows = tuple(_rows(plan, units, drawn, machine, together))
    fits = sum(row.fits for row in rows)
    tokens, per_token, on_disk = _harvest(plan, lists)
    results = _FIT_BYTES * fits + report_bytes(fits, pages=len(drawn)) if rows else 0.0
    on_disk = {"results": results} | on_disk
    on_device = _on_device(plan, most, together, model_parallel, machine.is_cpu)
    return Outlook(
        machine=machine,
        tasks=len(drawn),
        finished=finished,
        at_once=at_once,
        left_out=plan.left_out,
        rows=rows,
        tokens=tokens,
        harvest=machine.model_seconds(tokens * per_token, plan.config.dtype),
        on_device=on_device,
        on_disk=on_disk,
        faults=tuple(_faults(machine, at_once, on_device)),
    )


def _rows(
    plan: Plan,
    units: Sequence[Unit],
    drawn: Mapping[str, Drawing],
    machine: Machine,
    together: int,
) -> Iterator[Row]:
    """Yields a line for each method that has units, of so many tasks together on a device."""
    prompts = {task: sum(len(each.prompts) for each in drawn[task].sets) for task in drawn}
    lanes = {task: work.sizes_of(data.pack(drawn[task].conditions), together) for task in drawn}
    widths = {plan.name_of(site): plan.width(site) for site in plan.sites}
    by_method: dict[str, list[Unit]] = {name: [] for name in plan.methods}
    for unit in units:
        by_method[unit.method].append(unit)
    seen: set[str] = set()
    for name, some in by_method.items():
        if not some:
            continue
        method = probes.parse(name)
        known = [
            work.of_unit(
                method, lanes[unit.task], prompts[unit.task], widths[unit.site], _d_sae(plan, unit)
            )
            for unit in some
        ]
        times = [math.nan if one is None else work.seconds(one, method, machine) for one in known]
        fits = sum(size.lanes for unit in some for size in lanes[unit.task])
        programs = work.programs(method, again=method.family in seen)
        seen.add(method.family)
        yield Row(name, len(some), fits, sum(times), programs)


def _check_memory(plan: Plan, memory_gb: float, prompts: int) -> None:
    """Raises ValueError where the run would, of a task of so many prompts; tokens are not seen."""
    memory.rows_that_fit(memory_gb, prompts, *memory.widths(plan))


def _check_parallel(plan: Plan, machine: Machine, count: int) -> None:
    """Raises ValueError unless a host of the machine can cut the language model over so many."""
    if machine.is_cpu:
        plan.check_parallel(count)
    elif count > machine.devices:
        raise ValueError(
            f"--model_parallel={count} cuts the model over as many devices, and a host of "
            f"{machine.name} has {machine.devices}."
        )


def _d_sae(plan: Plan, unit: Unit) -> int:
    return plan.saes[unit.sae_id].d_sae if unit.sae_id else 0


def _harvest(
    plan: Plan, lists: Mapping[str, Sequence[activations.Plan]]
) -> tuple[int, float, dict[str, float]]:
    """Returns tokens to read, operations for each, and bytes of activations on the disk.

    Args:
      plan: the run.
      lists: what the harvest of each task takes; none where vectors are given.
    """
    if isinstance(plan.source, Vectors):
        return 0, 0.0, {}
    every = [each for some in lists.values() for each in some]
    places = {"activations in the cache": True, "activations to come": False}
    return (
        sum(each.tokens for each in every if not each.cached),
        flops_per_token(plan.checkpoint.config, plan.sites),
        {
            name: float(sum(each.bytes for each in every if each.cached == cached))
            for name, cached in places.items()
        },
    )


def _on_device(
    plan: Plan, prompts: int, together: int, parallel: int, cpu: bool
) -> dict[str, float]:
    """Returns the bytes that a device holds, of so many tasks together of so many prompts."""
    sizes = (prompts, *memory.widths(plan))
    rest = float(memory.predicted_bytes(*sizes, 0, on_host=cpu))
    fits = memory.predicted_bytes(*sizes, listed.TRAIN[-1], on_host=cpu) - rest
    fits = fits if cpu else memory.batch_bytes(listed.TRAIN[-1], sizes[1])
    model = memory.model_bytes(plan, parallel)
    in_hand = "a fit in hand" if cpu else "a batch of fits in hand"
    beside = "features, SAE, programs" if cpu else f"features and SAEs of {together}"
    return {"language model": model, beside: rest * together, in_hand: float(fits)}


def _faults(machine: Machine, at_once: int, on_device: dict[str, float]) -> Iterator[str]:
    """Yields what does not fit, and which flag mends it."""
    room, model = machine.memory, on_device["language model"]
    if machine.is_cpu:
        room /= at_once
    what = f"a device of {machine.name} has {room / _GB:.0f}"
    if model > room:
        yield (
            f"The language model takes {model / _GB:.1f} GB up to this site, and {what}: give "
            "--dtype=bfloat16, --model_parallel=N, an earlier --site, or a larger machine."
        )
    elif (total := sum(on_device.values())) > room:
        yield (
            f"Model, features and fits take {total / _GB:.1f} GB, and {what}: give "
            "--dtype=bfloat16, --model_parallel=N or a narrower SAE, or harvest first "
            "(experiments.harvest)."
        )


def _lines(found: Outlook) -> Iterator[str]:
    machine, rows = found.machine, found.rows
    units, fits = sum(row.units for row in rows), sum(row.fits for row in rows)
    yield from (f"Left out: {line}" for line in sentences(found.left_out))
    if not rows:
        yield f"Nothing is left to run here; {found.finished:,} units are finished."
        return
    yield ", ".join(
        f"{count:,} {what}{'s' if count != 1 else ''}"
        for count, what in ((found.tasks, "task"), (units, "unit"), (fits, "fit"))
    )
    if found.finished:
        yield f"{found.finished:,} units are finished and not among them."
    width = max(len(row.method) for row in rows)
    yield f"{'method':{width}}  units    fits  programs  time on {machine.name}"
    for row in rows:
        programs = "?" if row.programs is None else str(row.programs)
        time = "not known" if math.isnan(row.seconds) else duration(row.seconds)
        yield f"{row.method:{width}} {row.units:6d} {row.fits:7,d} {programs:>9}  {time}"
    where = {"on a device": found.on_device, "on the disk": found.on_disk}
    for place, parts in where.items():
        held = ", ".join(f"{name} {size / _GB:.2f}" for name, size in parts.items())
        yield f"GB {place}: {held}."
    if found.tokens:
        yield f"The language model reads {found.tokens:,} tokens, {duration(found.harvest)}."
    what = "core" if machine.is_cpu else "device"
    places = f"{machine.devices} {what}{'s' if machine.devices > 1 else ''}"
    unknown = sum(math.isnan(row.seconds) for row in rows)
    known = machine.is_cpu and not unknown
    floor = "about" if known else "at the least"
    floor += "" if machine.is_cpu else " (roofline; compiling comes on top)"
    several = f"{unknown} methods" if unknown > 1 else "a method"
    without = f", without {several} whose time is not known" if unknown else ""
    yield f"In all, on {places}: {floor} {duration(found.seconds)}{without}."
    yield from (f"Does not fit: {line}" for line in found.faults)
