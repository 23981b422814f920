"""How every command starts and how it fails: one sentence, and an exit code."""

import sys
from collections.abc import Callable

import jax
from absl import app, flags, logging

from probejax.artifacts import ArtifactError


def run(main: Callable[[list[str]], None]) -> None:
    """Parses flags and runs `main`; what a user can mend is one sentence and exit code 1 or 2."""

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # orbax tells forty lines per checkpoint
        try:
            main(argv)
        except (ValueError, OSError, ArtifactError) as error:
            if isinstance(error, app.UsageError):
                raise
            sys.exit(f"Error: {error}")

    jax.config.config_with_absl()
    app.run(guarded)
