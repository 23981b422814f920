"""What a run will take on a machine, told before anything is downloaded for it or computed."""

import dataclasses
import math
from collections.abc import Iterator

from probejax import probes
from probejax import sizes as listed
from probejax.activations import duration, flops_per_token
from probejax.sweep import data, machines, memory, token_disk, work
from probejax.sweep.machines import Machine
from probejax.sweep.plan import Plan
from probejax.sweep.source import Vectors
from probejax.sweep.units import Unit
from probejax.tasks import sentences

_FIT_BYTES = 140  # of a fit in a unit's file
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
      faults: sentences: what does not fit, and which flag mends it.
    """

    machine: Machine
    tasks: int
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
        return _START + self.harvest + known / min(self.machine.devices, self.tasks)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def look(
    plan: Plan, target: str = "cpu", model_parallel: int = 1, memory_gb: float | None = None
) -> Outlook:
    """Foresees a run: counts its fits and tokens exactly, and estimates time and memory.

    Args:
      plan: the run.
      target: a machine, see `rules.TARGETS`; `cpu` is this one.
      model_parallel: devices that hold the language model together.
      memory_gb: memory for one process; None is what the machine has.

    Raises:
      ValueError: there is no such machine, or the memory does not hold one fit of a task.
    """
    machine = machines.machine(target, plan.config.dtype)
    drawn = {task: plan.source.drawing(task) for task in plan.tasks}
    prompts = {task: sum(len(each.prompts) for each in drawn[task].sets) for task in plan.tasks}
    lanes = {task: work.sizes_of(data.pack(drawn[task].conditions)) for task in plan.tasks}
    widths = {plan.name_of(site): plan.width(site) for site in plan.sites}
    _check_memory(plan, memory_gb, max(prompts.values()))
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
    on_disk = {"units": float(_FIT_BYTES * sum(row.fits for row in rows))} | on_disk
    on_device = _on_device(plan, max(prompts.values()), per_token, model_parallel, machine.is_cpu)
    return Outlook(
        machine=machine,
        tasks=len(plan.tasks),
        left_out=tuple(sentences(plan.left_out)),
        rows=tuple(rows),
        tokens=tokens,
        harvest=machine.model_seconds(tokens * per_token, plan.config.dtype),
        on_device=on_device,
        on_disk=on_disk,
        faults=tuple(_faults(machine, on_device)),
    )


def _check_memory(plan: Plan, memory_gb: float | None, prompts: int) -> None:
    """Raises ValueError where the run would, of a task of so many prompts; tokens are not seen."""
    if memory_gb is None:
        return
    d_sae = max((sae.d_sae for sae in plan.saes.values()), default=0)
    for site in plan.sites:
        memory.rows_that_fit(memory_gb, prompts, plan.width(site), d_sae, plan.most_latents)


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


def _on_device(
    plan: Plan, prompts: int, per_token: float, parallel: int, cpu: bool
) -> dict[str, float]:
    """Returns the bytes that a device holds, of a task of so many prompts."""
    d_sae = max((sae.d_sae for sae in plan.saes.values()), default=0)
    sizes = (prompts, max(map(plan.width, plan.sites)), d_sae, plan.most_latents)
    rest = float(memory.predicted_bytes(*sizes, 0))
    fits = memory.predicted_bytes(*sizes, listed.TRAIN[-1]) - rest
    fits = fits if cpu else memory.batch_bytes(listed.TRAIN[-1], sizes[1])
    model = 0.0
    if not isinstance(plan.source, Vectors):
        config, size = plan.checkpoint.config, 4 if plan.config.dtype == "float32" else 2
        model = size * (per_token / 2 + config.d_vocab * config.d_model) / parallel
    in_hand = "a fit in hand" if cpu else "a batch of fits in hand"
    return {"language model": model, "features, SAE, programs": rest, in_hand: float(fits)}


def _faults(machine: Machine, on_device: dict[str, float]) -> Iterator[str]:
    """Yields what does not fit, and which flag mends it."""
    room, model = machine.memory, on_device["language model"]
    if machine.is_cpu:
        room /= machine.devices
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
    devices = f"{machine.devices} {what}{'s' if machine.devices > 1 else ''}"
    unknown = sum(math.isnan(row.seconds) for row in rows)
    known = machine.is_cpu and not unknown
    floor = "about" if known else "at the least"
    floor += "" if machine.is_cpu else " (roofline; compiling comes on top)"
    several = f"{unknown} methods" if unknown > 1 else "a method"
    without = f", without {several} whose time is not known" if unknown else ""
    yield f"In all, on {devices}: {floor} {duration(found.seconds)}{without}."
    yield from (f"Does not fit: {line}" for line in found.faults)
