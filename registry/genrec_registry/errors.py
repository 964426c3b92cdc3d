"""Errors that are written for the user.

Every message is one sentence (or a short list of them) that names the file, field or key, says what was found, what
was expected, and what to do. The CLI prints the message alone and exits with ``exit_code``; a traceback of one of
these classes is never shown to a user who did not ask for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GenrecError(Exception):
    """Base of all errors a user can cause and mend.

    Example::

        >>> try:
        ...     raise ConfigError("run.yaml:3:1: unknown key 'modle', did you mean 'model'?")
        ... except GenrecError as error:
        ...     print(error.exit_code, error)
        2 run.yaml:3:1: unknown key 'modle', did you mean 'model'?
    """

    exit_code = 1


class ConfigError(GenrecError):
    """A run configuration names a wrong key, type or value."""

    exit_code = 2


class PluginError(GenrecError):
    """A plugin cannot be found, loaded, or told apart from another one."""

    exit_code = 3


class DataError(GenrecError):
    """An input file or row is not what its dataset adapter expects; names file, row and column."""

    exit_code = 4


class ModelError(GenrecError):
    """A module cannot be built, swapped or loaded as asked."""

    exit_code = 5


class SetupError(GenrecError):
    """A package is missing, or its version does not go with the others; carries the command that mends it."""

    exit_code = 6


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the nearest known name, or a list of the known names.

    Args:
        found: what the user wrote.
        known: the names that would have been valid.

    Example::

        >>> did_you_mean("modle", ["model", "train"])
        ", did you mean 'model'?"
        >>> did_you_mean("zzz", ["model", "train"])
        '; known: model, train'
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.6)
    if near:
        return f", did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""
