"""The flags that the commands share. Only this folder reads flags; the library takes arguments.

A command declares those that it obeys as its key flags: its --help lists them, others are refused.
"""

from absl import flags

from probejax.rules import DTYPES

MODEL = flags.DEFINE_string(
    "model",
    "gemma-3-270m",
    "gemma-3-270m (fetched without an account), a Hugging Face id, a model folder or a GGUF file.",
)
LAYER = flags.DEFINE_string(
    "layer", None, "Zero-based block whose output is probed, or `embed`. Default: the SAE's layer."
)
TASKS = flags.DEFINE_list(
    "tasks",
    None,
    "Tasks: `demo`, `all`, `own` (those of --tasks_dir), names or globs; a name with a comma in "
    "double quotes. Default: `own` with --tasks_dir, else `demo`.",
)
TASKS_DIR = flags.DEFINE_string(
    "tasks_dir", None, "Folder with <task>.csv files (prompt,target) that take precedence."
)
DTYPE = flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Dtype of the model.")
MAX_LENGTH = flags.DEFINE_integer(
    "max_length", 1024, "Tokens kept of a prompt, BOS included; the beginning is cut.", 2
)
DISK_GB = flags.DEFINE_float(
    "disk_gb",
    None,
    "Gigabytes that the harvested activations may take (in a sweep: all-token ones); more is "
    "refused.",
    0.0,
)
CACHE_DIR = flags.DEFINE_string(
    "cache_dir", None, "Where downloads and activations live. Default: $PROBEJAX_CACHE."
)


def chosen_tasks() -> tuple[str, ...]:
    """Returns what --tasks says, or stands for where it is not given."""
    if TASKS.value is not None:
        return tuple(TASKS.value)
    return ("own",) if TASKS_DIR.value else ("demo",)
