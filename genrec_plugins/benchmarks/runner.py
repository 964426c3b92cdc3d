"""How the scripts of the benchmarks are run, and what they ask of their options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from genrec_registry import ConfigError, GenrecError


def run(main: Callable[..., Any], arguments: Sequence[str] | None = None) -> None:
    """Run a script's function as a command line; a user's mistake is one sentence and exit code 2.

    Args:
        main: with the options as its parameters.
        arguments: those of the process if None.

    Raises:
        SystemExit: always.

    Example::

        >>> def main(rows: int) -> None:
        ...     raise ConfigError("rows: found 0, expected 1 at least")
        >>> import contextlib
        >>> with contextlib.redirect_stderr(sys.stdout):  # doctest: +IGNORE_EXCEPTION_DETAIL
        ...     run(main, ["0"])
        Traceback (most recent call last):
        SystemExit: 2
    """
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(main)
    try:
        command(sys.argv[1:] if arguments is None else list(arguments))
    except GenrecError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        message = f"needs the module '{error.name}', which is not installed; make setup, or pip install '.[bench]'"
    except OSError as error:
        if error.filename is None:  # no file that the user named
            raise
        message = f"{error.filename}: {error.strerror}"
    else:
        raise SystemExit(0)
    typer.echo(f"error: {message}", err=True)
    raise SystemExit(2)


def whole_numbers(text: str, option: str) -> list[int]:
    """Numbers above 0, comma-separated.

    Args:
        text: of the option.
        option: its name, for the message.

    Raises:
        ConfigError: one is none.

    Example::

        >>> whole_numbers("1, 16", "--sizes")
        [1, 16]
        >>> whole_numbers("1,x", "--sizes")
        Traceback (most recent call last):
        genrec_registry.errors.ConfigError: --sizes: found 'x', expected whole numbers above 0 with commas between them
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word)):
            raise ConfigError(f"{option}: found '{word}', expected whole numbers above 0 with commas between them")
    return [int(word) for word in words]
