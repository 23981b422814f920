"""The words by which a run's rules are chosen, free of whatever is slow to import."""

PROTOCOLS = ("paper", "strict")
"""`paper` is the study's way, leaks included; `strict` has none."""

RANKINGS = ("raw", "normalised")
"""How latents are ranked: by the difference of class means, or by that over their spread."""

DTYPES = ("float32", "bfloat16")
"""What a language model may compute in."""

ENGINES = ("auto", "float32", "float64")
"""What the solvers' loops compute in; `auto` is what suits the device."""

ARCHITECTURES = ("jumprelu", "relu", "gated", "topk", "batchtopk", "matryoshka")
"""Kinds of SAE that can be trained."""

TARGETS = ("cpu", "v5e-8", "v5p-8", "v6e-8", "h100", "a100")
"""Machines that a run can be planned for; `cpu` is the one at hand."""

MAX_ROWS = 65535
"""Test rows that can be scored exactly: twice the number of (positive, negative) pairs is at most
rows**2 / 2 and must fit an int32."""

BOS_RULES = ("auto", "always", "never")
"""Whether a BOS token is put before each prompt; `auto` does as the model's convention has it."""

PREPENDED, NO_BOS = "prepended", "none"
"""What was done about BOS, as it stands in results and in the cache."""
