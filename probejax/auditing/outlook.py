"""What an audit will take, told before anything is harvested for it."""

from probejax import activations, sweep
from probejax.auditing import corpus
from probejax.auditing.ready import Ready
from probejax.sweep.source import Vectors


def look(about: Ready, target: str = "cpu") -> str:
    """Returns what the language model has to read, exactly, and about how long that takes.

    Args:
      about: the audit.
      target: the machine whose time is told, see `rules.TARGETS`; `cpu` is this one.

    Raises:
      ValueError: there is no such machine.
    """
    plan = about.plan
    if isinstance(plan.source, Vectors):
        rows = sum(len(task.labels) for task in about.tasks)
        count = f"{len(about.tasks)} task{'s' if len(about.tasks) > 1 else ''}"
        return f"{count}, {rows:,} vectors; there is nothing for a model to read."
    checkpoint, config = plan.checkpoint, plan.config
    machine = sweep.machine(target, config.dtype)
    tokenizer, bos = checkpoint.tokenizer(), checkpoint.bos_token(config.bos)
    lists = {}
    for task in about.tasks:
        lists[task.name] = task.prompts
        if task.name in about.shifted:
            lists[f"{task.name}, shifted"] = about.shifted[task.name].prompts
    texts = about.neutral_texts()
    _, some = corpus.drawn(tokenizer, texts, bos)
    neutral = {"neutral texts": [texts[int(i)] for i in some]}
    plans = []
    for prompts, recipe in ((lists, plan.recipe), (neutral, corpus.recipe(plan))):
        plans += activations.plan(
            prompts,
            [plan.sites[0]],
            recipe,
            tokenizer,
            checkpoint.config,
            bos=bos,
            template=checkpoint.template(config.chat_template) if recipe.chat else None,
            cache_dir=plan.cache_dir,
        )
    tokens = sum(each.tokens for each in plans if not each.cached)
    flops = tokens * activations.flops_per_token(checkpoint.config, [plan.sites[0]])
    seconds = machine.model_seconds(flops, config.dtype)
    lines = [
        *about.missing.values(),
        activations.table(plans, target=target),
        f"Neutral texts are {len(some):,} of {about.about}; audits that read the same share them.",
        f"The language model reads {tokens:,} tokens in all, "
        f"{'about' if machine.is_cpu else 'at the least'} {activations.duration(seconds)} on "
        f"{machine.name}; probes and features come on top.",
    ]
    return "\n".join(lines)
