"""Fills the cache with activations, and says before what that takes.

    python -m experiments.harvest --tasks=all
    python -m experiments.harvest --tasks=all --positions=all --disk_gb=200
    python -m experiments.harvest --model=gemma-2-9b --site=resid_post.20 --tasks=all \
        --positions=all --dtype=bfloat16 --dry_run

Killed at any moment, the same command goes on where it was. A dry run needs no weights for the
published Gemma models: their tokens are then counted with the tokenizer of gemma-3-270m.
"""

from absl import flags

import probejax as px
from experiments import flags as common
from experiments.entry import run

for _flag in (*common.READS, common.DISK_GB):
    flags.declare_key_flag(_flag)
_POSITIONS = flags.DEFINE_string(
    "positions", "last", "What to keep of a prompt: `all` tokens, or one as --position of a sweep."
)


def main(_: list[str]) -> None:
    """Prints the plan, then harvests."""
    target = common.target()
    own, chosen = common.own(), common.chosen_tasks()
    px.tasks.match(chosen, data=own)  # told before JAX is imported
    filling = px.runs.plan_filling(
        common.MODEL.value,
        chosen,
        common.chosen_sites(),
        data=own,
        positions=_POSITIONS.value,
        dtype=common.DTYPE.value,
        max_length=common.MAX_LENGTH.value if common.MAX_LENGTH.present else None,
        bos=common.BOS.value,
        chat_template=common.CHAT_TEMPLATE.value,
        weights=not common.DRY_RUN.value,
        target=target,
        cache_dir=common.CACHE_DIR.value,
    )
    print(filling, flush=True)
    limits = {"disk_gb": common.DISK_GB.value, "model_parallel": common.MODEL_PARALLEL.value}
    if common.DRY_RUN.value:
        px.runs.check_filling(filling, **limits)
    else:
        folder = px.runs.fill_cache(filling, **limits)
        print(f"All {len(filling.prompts)} lists of prompts are in {folder}.")


if __name__ == "__main__":
    run(main)
