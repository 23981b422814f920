"""How SAELens ran the model: what of that moves the activations that its SAE reads.

TransformerLens can rewrite a model's weights when it loads them. Writing weights that are centred
leave the residual stream, and all that is added to it, without its mean over d_model; a bias of the
values that is folded, or a factored attention, changes what the heads put out. Nothing else that it
does reaches a place where SAEs read.
"""

import re
from pathlib import Path
from typing import Any

from probejax.saes.formats import settings
from probejax.saes.sae import Normalise

_CENTRED = "center_writing_weights"
_MOVES_HEADS = ("fold_value_biases", "refactor_factored_attn_matrices")
# SAELens' own list says of these repositories what their files do not.
_LISTED = re.compile(
    "GPT2-Small-SAEs-Reformatted|GPT2-Small-Feature-Splitting-Experiment-Layer-8|"
    "gpt2-small-mlp-out-saes"
)
# Of models whose norms take no mean off, TransformerLens leaves the weights as they are.
_NO_MEAN = re.compile(r"(meta-)?(gemma|llama|mistral|mixtral|qwen|deepseek)", re.IGNORECASE)


def reads_centred(
    path: Path | None,
    weights: Path,
    options: dict[str, Any],
    model: str | None,
    kind: str | None,
) -> bool:
    """Says whether an SAE reads activations without their mean over d_model.

    Args:
      path: its settings, for messages.
      weights: the file of its tensors; the names of its folders tell the repository.
      options: with which the model was loaded, `model_from_pretrained_kwargs`.
      model: its usual name.
      kind: the place that the SAE reads, see `sites.KINDS`.

    Raises:
      ValueError: an option is no yes or no, or changes the outputs of the heads that the SAE reads.
    """
    for name in (_CENTRED, *_MOVES_HEADS):
        if type(options.get(name, False)) is not bool:
            raise settings.refusal(path, name, options[name], (True, False))
    if kind == "attn_z":
        for name in _MOVES_HEADS:
            if options.get(name):
                raise settings.refusal(path, name, True, (False,))
        return False
    listed = _LISTED.search(str(weights)) is not None
    return options.get(_CENTRED, listed) and not _NO_MEAN.match(model or "")


def centred(path: Path | None, normalise: Normalise) -> Normalise:
    """Returns the normalisation that takes the mean off first.

    Raises:
      ValueError: it is not implemented together with that.
    """
    if normalise == "constant_norm":
        raise ValueError(
            f"{path} says {_CENTRED}=true and normalize_activations=constant_norm_rescale, which "
            "probejax does not do together; choose an SAE that has one of them."
        )
    return "zero_mean" if normalise == "none" else normalise
