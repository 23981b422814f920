"""The flags that the commands share. Only this folder reads flags; the library takes arguments.

A command declares those that it obeys as its key flags: its --help lists them, others are refused.
"""

from absl import flags

from probejax.rules import BOS_RULES, DTYPES, TARGETS
from probejax.tasks import Own

MODEL = flags.DEFINE_string(
    "model",
    "gemma-3-270m",
    "gemma-3-270m or smollm2-135m (fetched without an account), a Hugging Face id, a model folder "
    "or a GGUF file.",
)
SITE = flags.DEFINE_list(
    "site",
    None,
    "Where the model is read: resid_post.9, mlp_out.9, attn_out.9 or attn_z.9 (zero-based blocks), "
    "`embed`, or mlp_out.all for every block; several in one pass. Default: the SAE's site.",
)
LAYER = flags.DEFINE_list(
    "layer",
    None,
    "Blocks: --layer=4,9 is short for --site=resid_post.4,resid_post.9; `all` is every block.",
)
TASKS = flags.DEFINE_list(
    "tasks",
    None,
    "Tasks: `demo`, `all`, `own` (those of --data), names or globs; a name with a comma in double "
    "quotes. Default: `own` with --data, else `demo`.",
)
DATA = flags.DEFINE_string(
    "data",
    None,
    "Your own texts and labels: a CSV, TSV, JSONL or Parquet file, or a folder of them.",
)
TEXT_COLUMN = flags.DEFINE_string(
    "text_column", None, "Column of --data with the texts. Default: the one called text or alike."
)
LABEL_COLUMN = flags.DEFINE_string(
    "label_column",
    None,
    "Column of --data with the labels. Default: the one called label or alike.",
)
POSITIVE = flags.DEFINE_string(
    "positive",
    None,
    "The label that counts as positive, against all others. Default: of two the larger; of more "
    "each in turn, as tasks of their own.",
)
DTYPE = flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Dtype of the model.")
MAX_LENGTH = flags.DEFINE_integer(
    "max_length", 1024, "Tokens kept of a prompt, BOS included; the beginning is cut.", 2
)
BOS = flags.DEFINE_enum(
    "bos",
    "auto",
    list(BOS_RULES),
    "Whether a BOS token is put before each prompt; auto: as the model's own convention has it.",
)
CHAT_TEMPLATE = flags.DEFINE_bool(
    "chat_template",
    False,
    "Read each prompt as the user's turn of a chat, by the tokenizer's own template.",
)
POSITION = flags.DEFINE_string(
    "position",
    "last",
    "The token of a prompt that is read: last, a number from the end such as -2, or after:TEXT for "
    "the one with which TEXT ends; mean is that of all but BOS.",
)
MODEL_PARALLEL = flags.DEFINE_integer(
    "model_parallel", 1, "Devices of this machine that hold the language model together.", 1
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
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what it would take, and stop.")
TARGET = flags.DEFINE_enum(
    "target",
    None,
    list(TARGETS),
    "The machine that --dry_run tells the time for. Default: cpu, which is this one.",
)

OWN = (DATA, TEXT_COLUMN, LABEL_COLUMN, POSITIVE)
READS = (  # of every command that lets a language model read texts
    *(MODEL, SITE, LAYER, TASKS, *OWN, DTYPE, MAX_LENGTH, BOS, CHAT_TEMPLATE, MODEL_PARALLEL),
    *(CACHE_DIR, DRY_RUN, TARGET),
)


def unless_dry(flag: flags.FlagHolder) -> flags.FlagHolder:
    """Returns a flag that must be given, except to a dry run."""
    flags.register_multi_flags_validator(
        [flag.name, DRY_RUN.name],
        lambda values: values[flag.name] is not None or values[DRY_RUN.name],
        f"Give --{flag.name}; only --dry_run needs none.",
    )
    return flag


def target() -> str:
    """Returns the machine that a dry run is for.

    Raises:
      ValueError: one is named, and this is no dry run.
    """
    if TARGET.value and not DRY_RUN.value:
        raise ValueError(f"--target={TARGET.value} is for --dry_run; give both or neither.")
    return TARGET.value or "cpu"


def own() -> Own | None:
    """Returns the user's own data, for commands that have no `Config`.

    Raises:
      ValueError: something is said of data that are not given.
    """
    place, *columns = (flag.value for flag in OWN)
    if place is not None:
        return Own(place, *columns)
    for flag in OWN[1:]:
        if flag.value is not None:
            raise ValueError(f"--{flag.name}={flag.value} is about --data; give that, too.")
    return None


def chosen_sites() -> tuple[str, ...] | None:
    """Returns what --site says, or --layer, which is short for one; None for neither.

    Raises:
      ValueError: both are given.
    """
    if SITE.value is not None and LAYER.value is not None:
        layer, site = ",".join(LAYER.value), ",".join(SITE.value)
        raise ValueError(
            f"--layer={layer} is short for a --site, and --site={site} is given too; leave one out."
        )
    given = LAYER.value if SITE.value is None else SITE.value
    return None if given is None else tuple(given)


def chosen_tasks() -> tuple[str, ...]:
    """Returns what --tasks says, or stands for where it is not given."""
    if TASKS.value is not None:
        return tuple(TASKS.value)
    return ("own",) if DATA.value else ("demo",)
