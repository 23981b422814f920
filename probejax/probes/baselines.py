"""The methods on the residual of the last token, by name."""

import importlib
from collections.abc import Callable

from probejax.probes.methods import LAST_TOKEN
from probejax.probes.scores import Fitted

# Each is `fit(features, rows, protocol) -> Fitted`.
BASELINES: dict[str, Callable[..., Fitted]] = {
    name: importlib.import_module(f"probejax.probes.{name}").fit for name in LAST_TOKEN
}
