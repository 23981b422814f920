"""The methods on the residual of the last token, by name."""

import importlib
from collections.abc import Callable

from probejax.probes.methods import LAST_TOKEN
from probejax.probes.scores import Fit

# Each is `fit(features, rows, protocol) -> Fit`.
BASELINES: dict[str, Callable[..., Fit]] = {
    name: importlib.import_module(f"probejax.probes.{name}").fit for name in LAST_TOKEN
}
