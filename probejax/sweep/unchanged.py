"""Whether the files that a unit is named for are still what they were when the run began.

A unit's name holds hashes of its files, taken by the process that starts the run. Whoever fits the
unit, a worker or another host, opens these files itself, and somebody may have written one anew.
"""

from probejax.sweep.plan import Plan
from probejax.sweep.units import Unit


def check_unchanged(plan: Plan, unit: Unit) -> None:
    """Refuses a unit that this process would name otherwise, because it reads something else.

    Args:
      plan: of this process.
      unit: as the process that started the run has it.

    Raises:
      ValueError: a file was changed since, or is another one on this host; the message names it.
    """
    now = plan.again(unit)
    if now == unit:
        return
    files = {
        "task_files": plan.source.where(unit.task),
        "weights": str(plan.checkpoint.path),
        "sae_weights": str(plan.saes[unit.sae_id].path) if unit.sae_id else "",
    }
    fields = [name for name in unit._fields if getattr(now, name) != getattr(unit, name)]
    what = next((files[name] for name in files if name in fields), ", ".join(fields))
    raise ValueError(
        f"{what} is not what it was when the run began, so {unit.label} was not written: put back "
        "what was there and run the same command again, or give another --out."
    )
