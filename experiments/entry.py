"""How every command starts and how it fails: one sentence, and an exit code.

A command's file imports only what is fast, so that a mistake in a flag is told at once; what is
slow comes through `import probejax as px`, which imports a room when it is first used.
"""

import contextlib
import math
import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging

_INTERRUPTED = 130  # what a shell says of a command that ended by Ctrl-C
_UNREAD = 141  # and of one whose reader has seen enough, such as `head`


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses flags and runs `main`; whatever goes wrong is one sentence and exit code 1 or 2."""

    def guarded(argv: list[str]) -> int | None:
        try:
            _check_flags(argv)
            if not flags.FLAGS["verbosity"].present:
                logging.set_verbosity(logging.WARNING)  # orbax tells forty lines per checkpoint
            code = main(argv)
            sys.stdout.flush()
            return code
        except app.UsageError:
            raise
        except KeyboardInterrupt:
            _leave("\nInterrupted; the same command goes on.", _INTERRUPTED)
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                os._exit(_UNREAD)
            if flags.FLAGS.verbosity >= 1:
                raise
            _leave(f"Error: {sentence(error)}", 1)

    if any(argument.lstrip("-").startswith(("jax", "nojax")) for argument in sys.argv[1:]):
        import jax  # its own flags are known only when it is asked for them

        jax.config.config_with_absl()
    if {"--help", "-help", "--helpfull", "-?"} & set(sys.argv[1:]):  # which absl calls a failure
        with contextlib.suppress(SystemExit):
            app.run(guarded)
        return
    app.run(guarded)


def _leave(message: str, code: int) -> NoReturn:
    """Says a last sentence and ends this process at once, not by way of `sys.exit`.

    A thread may still harvest or fit. Python would take it down in the middle of compiled code,
    which then aborts the process, with a page of its own and exit code 134.
    """
    with contextlib.suppress(OSError):  # nobody reads what stdout has
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
    os._exit(code)


def _nobody_reads() -> bool:
    """Says whether the other end of the standard output is gone."""
    if not hasattr(select, "poll"):  # on Windows, where pipes cannot be asked
        return True
    asked = select.poll()
    asked.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in asked.poll(0))


def sentence(error: Exception) -> str:
    """Returns what an error says; one that was not made to be read says what it is, too."""
    text = str(error).strip()
    if isinstance(error, (ValueError, OSError)) or type(error).__module__.startswith("probejax"):
        return text or type(error).__name__
    where = "--verbosity=1 shows where"
    return f"{type(error).__name__}: {' '.join(text.split()) or 'no message'} ({where})."


def _check_flags(argv: list[str]) -> None:
    """Raises for words that are no flags, numbers without end, and flags of other commands."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}.")
    mine = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(argv[0])}
    by_module = flags.FLAGS.flags_by_module_dict()
    shared = ("experiments.flags", "experiments.config_flags")
    for flag in (each for module in shared for each in by_module.get(module, ())):
        if flag.present and flag.name not in mine:
            raise app.UsageError(f"--{flag.name} has no effect on this command.")
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.value, float) and not math.isfinite(flag.value):
            raise ValueError(f"--{name}={flag.value} is no number to work with.")
        if flag.present and isinstance(flag.value, str) and not flag.value:
            raise ValueError(f"--{name} is empty; give it a value or leave it out.")
