"""What a run will take on a machine, told before anything is downloaded for it or computed."""

import dataclasses
import math
import sys
from collections.abc import Iterator

from probejax import devices, probes
from probejax import sizes as listed
from probejax.activations import duration, flops_per_token
from probejax.sweep import data, machines, memory, token_disk, work
from probejax.sweep.machines import Machine
from probejax.sweep.plan import Plan
from probejax.sweep.source import Vectors
from probejax.sweep.units import Unit
from probejax.tasks import sentences

_FIT_BYTES = (
    700  # of a fit in all files of a finished run: 140 in its unit, the rest in pages and tables
)
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
      tasks: how many run.
      left_out: a sentence for each that does not.
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
    at_once: int
    left_out: tuple[str, ...]
    rows: tuple[Row, ...]
    tokens: int
    harvest: float
    on_device: dict[str, float]
    on_disk: dict[str, float]
    faults: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of the whole run, where no program has to be compiled; methods not known left out."""
        known = sum(row.seconds for row in self.rows if not math.isnan(row.seconds))
        start = _START if self.machine.is_cpu else 0  # else a floor
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
) -> Outlook:
    """Foresees a run: counts its fits and tokens exactly, and estimates time and memory.

    Args:
      plan: the run.
      target: a machine, see `rules.TARGETS`; `cpu` is this one.
      model_parallel: devices that hold the language model together.
      memory_gb: memory for one process; None is what the machine has.
      workers: tasks at a time; None is as many as the run would take.
      disk_gb: what all-token activations may take on the disk; None is no limit.

    Raises:
      ValueError: there is no such machine, the model cannot be cut over so many devices, the
        memory does not hold one fit of a task, or the disk what is harvested.
    """
    machine = machines.machine(target, plan.config.dtype)
    _check_parallel(plan, machine, model_parallel)
    drawn = {task: plan.source.drawing(task) for task in plan.tasks}
    prompts = {task: sum(len(each.prompts) for each in drawn[task].sets) for task in plan.tasks}
    lanes = {task: work.sizes_of(data.pack(drawn[task].conditions)) for task in plan.tasks}
    widths = {plan.name_of(site): plan.width(site) for site in plan.sites}
    at_once = machine.devices
    if machine.is_cpu:
        at_once, room = memory.at_once(plan, workers, model_parallel)
        at_once = min(max(at_once, 1), len(plan.tasks))
        memory_gb = room if memory_gb is None else memory_gb
    if memory_gb is not None:
        _check_memory(plan, memory_gb, max(prompts.values()))
    if plan.reads_tokens:
        token_disk.forecast(
            plan, plan.tasks, workers=at_once, keep=False, allowed_gb=disk_gb, free=sys.maxsize
        )
    by_method: dict[str, list[Unit]] = {name: [] for name in plan.methods}
    for unit in plan.units():
        by_method[unit.method].append(unit)
    seen: set[str] = set()
    rows = []
    for name, units in by_method.items():
        method = probes.parse(name)
        known = [
            work.of_unit(
                method, lanes[unit.task], prompts[unit.task], widths[unit.site], _d_sae(plan, unit)
            )
            for unit in units
        ]
        times = [math.nan if one is None else work.seconds(one, method, machine) for one in known]
        fits = sum(size.lanes for unit in units for size in lanes[unit.task])
        programs = work.programs(method, again=method.family in seen)
        seen.add(method.family)
        rows.append(Row(name, len(units), fits, sum(times), programs))
    tokens, per_token, on_disk = _harvest(plan)
    on_disk = {"results": float(_FIT_BYTES * sum(row.fits for row in rows))} | on_disk
    on_device = _on_device(plan, max(prompts.values()), model_parallel, machine.is_cpu)
    return Outlook(
        machine=machine,
        tasks=len(plan.tasks),
        at_once=at_once,
        left_out=tuple(sentences(plan.left_out)),
        rows=tuple(rows),
        tokens=tokens,
        harvest=machine.model_seconds(tokens * per_token, plan.config.dtype),
        on_device=on_device,
        on_disk=on_disk,
        faults=tuple(_faults(machine, at_once, on_device)),
    )


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


def _harvest(plan: Plan) -> tuple[int, float, dict[str, float]]:
    """Returns tokens to read, operations for each, and bytes of activations on the disk."""
    if isinstance(plan.source, Vectors):
        return 0, 0.0, {}
    lists = [each for some in token_disk.plans(plan, plan.tasks).values() for each in some]
    places = {"activations in the cache": True, "activations to come": False}
    return (
        sum(each.tokens for each in lists if not each.cached),
        flops_per_token(plan.checkpoint.config, plan.sites),
        {
            name: float(sum(each.bytes for each in lists if each.cached == cached))
            for name, cached in places.items()
        },
    )


def _on_device(plan: Plan, prompts: int, parallel: int, cpu: bool) -> dict[str, float]:
    """Returns the bytes that a device holds, of a task of so many prompts."""
    sizes = (prompts, *memory.widths(plan))
    rest = float(memory.predicted_bytes(*sizes, 0, on_host=cpu))
    fits = memory.predicted_bytes(*sizes, listed.TRAIN[-1], on_host=cpu) - rest
    fits = fits if cpu else memory.batch_bytes(listed.TRAIN[-1], sizes[1])
    rest = rest if cpu else rest * min(devices.TASKS, len(plan.tasks))  # that are side by side
    model = memory.model_bytes(plan, parallel)
    in_hand = "a fit in hand" if cpu else "a batch of fits in hand"
    beside = "features, SAE, programs" if cpu else "features and SAE"
    return {"language model": model, beside: rest, in_hand: float(fits)}


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
    yield from (f"Left out: {line}" for line in found.left_out)
    yield ", ".join(
        f"{count:,} {what}{'s' if count != 1 else ''}"
        for count, what in ((found.tasks, "task"), (units, "unit"), (fits, "fit"))
    )
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
