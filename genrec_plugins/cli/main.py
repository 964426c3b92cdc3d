"""Entry point of ``genrec``: a table of commands, each loaded when it is called, and how errors reach the user.

- ``genrec --help`` imports no command: the table has the one-line helps. Torch takes seconds to import.
- A GenrecError is printed alone, without traceback, and its ``exit_code`` becomes the process's.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from inspect import cleandoc
from typing import Any

import typer
from typer.core import TyperGroup

from genrec_plugins import __version__
from genrec_plugins.training.launch import end, launched
from genrec_registry.errors import GenrecError, SetupError

#: command -> (``module:attribute`` of a function or a Typer app, one line of help), in the order of ``--help``
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("genrec_plugins.cli.demo:demo", "The whole path on generated rows, from raw file to table."),
    "generate": ("genrec_plugins.cli.generate:app", "Write Criteo or Avazu rows with a known best possible AUC."),
    "preprocess": ("genrec_plugins.cli.preprocess:preprocess", "Turn raw rows into Parquet with vocabularies and ids."),
    "train": ("genrec_plugins.cli.train:train", "Train the model of a run file."),
    "evaluate": ("genrec_plugins.cli.train:evaluate", "Compute exact metrics of a trained run on a split."),
    "predict": ("genrec_plugins.cli.train:predict", "Write a trained run's probabilities to Parquet."),
    "runs": ("genrec_plugins.cli.runs:app", "List run directories and compare them."),
    "report": ("genrec_plugins.cli.report:report", "Write one HTML page about runs, which needs no network."),
    "export": ("genrec_plugins.cli.export:export", "Write a trained run as a directory to serve raw rows from."),
    "serve": ("genrec_plugins.cli.serve:serve", "Serve an exported model over HTTP, with JSON or Arrow."),
    "knowledge": ("genrec_plugins.cli.knowledge:app", "Put a knowledge store where 'genrec serve' reads it by key."),
    "bench": ("genrec_plugins.cli.bench:bench", "Compare interactions under one budget; table, JSON and HTML."),
    "tune": ("genrec_plugins.cli.tune:tune", "Find settings for interactions with an equal budget, on validation."),
    "ablate": ("genrec_plugins.cli.ablate:ablate", "Change one setting of an interaction at a time, on validation."),
    "scale": ("genrec_plugins.cli.scale:scale", "Train a run at several sizes and fit the laws its metric follows."),
    "lum": ("genrec_plugins.cli.lum:app", "Pre-train on behaviour sequences, and query the knowledge of every user."),
    "retrieve": ("genrec_plugins.cli.retrieve:retrieve", "Write the best next items of users, from a pre-trained run."),
    "uqa": ("genrec_plugins.cli.uqa:app", "Ask a language model about users, by soft tokens of their embeddings."),
    "tokenize": ("genrec_plugins.cli.tokenize:app", "Fit semantic-ID tokenizers, give items IDs, measure IDs."),
    "profile": ("genrec_plugins.cli.profile:profile", "Measure MFU, FLOPs, operators and memory of components."),
    "schema": ("genrec_plugins.cli.schema:schema", "Print the JSON Schema of a run file, for editors."),
    "plugins": ("genrec_plugins.cli.plugins:app", "List, show and check the installed plugins."),
    "new": ("genrec_plugins.cli.new:app", "Write a new plugin package, ready to be installed and tested."),
    "doctor": ("genrec_plugins.cli.doctor:doctor", "Say what is missing or mismatched in this installation."),
}


class _LazyGroup(TyperGroup):
    """A group whose listed commands are stubs; the real one is imported when it is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, stub, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else stub, rest


app = typer.Typer(
    name="genrec",
    cls=_LazyGroup,
    help="Plugin framework for TorchRec: train and compare CTR models whose parts are named in a YAML file.",
    epilog="Errors are one line; --traceback (or GENREC_TRACEBACK=1) shows where they come from.",
    rich_markup_mode=None,  # rich help costs its import, and this help is plain text
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"genrec-plugins {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Show the version and exit.", is_eager=True, callback=_print_version
    ),
    show_traceback: bool = typer.Option(
        False, "--traceback", help="Show the traceback of an error; may stand anywhere."
    ),
) -> None:
    pass


for _name, (_, _help) in COMMANDS.items():
    app.command(_name, help=_help)(lambda: None)


def load_command(name: str) -> Any:
    """Import a command of :data:`COMMANDS`.

    Args:
        name: its name on the command line.

    Returns:
        The click command.

    Raises:
        SetupError: it, or a package it needs, is not installed.

    Example::

        >>> load_command("schema").name
        'schema'
    """
    reference, summary = COMMANDS[name]
    module, _, attribute = reference.partition(":")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise SetupError(
            f"'genrec {name}' needs the module '{error.name}', which is not installed; run 'genrec doctor'"
        ) from error
    # a parent of its own hands down the plain help, and keeps completion options off the command
    parent = typer.Typer(add_completion=False, rich_markup_mode=None)
    parent.callback()(lambda: None)
    if isinstance(target, typer.Typer):
        parent.add_typer(target, name=name, no_args_is_help=True)
    else:
        parent.command(name)(target)
    command = _click_group(parent).commands[name]
    for one in (command, *getattr(command, "commands", {}).values()):
        one.help = keep_examples(one.help or summary)
    return command


def _click_group(typer_app: typer.Typer) -> Any:
    return typer.main.get_command(typer_app)


def keep_examples(text: str) -> str:
    r"""Mark the paragraphs of a docstring that must not be re-wrapped: from ``Examples:`` on.

    Args:
        text: a command's help.

    Example::

        >>> keep_examples("Train.\n\nExamples:\n    genrec train run.yaml")
        'Train.\n\n\x08\nExamples:\n    genrec train run.yaml'
    """
    prose, examples, rest = cleandoc(text).partition("Examples:\n")
    if not examples:
        return prose
    kept = (examples + rest).replace("\b\n", "").split("\n\n")
    return prose.removesuffix("\b\n") + "\n\n".join(f"\b\n{part}" for part in kept)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; the console script.

    Args:
        arguments: those of the process if None.

    Raises:
        SystemExit: always; 0, the error's ``exit_code``, 2 for wrong usage, or 130 after Ctrl-C.
    """
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as done:
        if arguments is None and _was_in_group():
            end(done.code if isinstance(done.code, int) else int(done.code is not None))
        raise


def _was_in_group() -> bool:
    """Whether this process had collectives: one that torchrun started, or one that trains alone."""
    return launched() or ("torch.distributed" in sys.modules and sys.modules["torch.distributed"].is_initialized())


def _run(given: list[str]) -> None:
    words = [word for word in given if word != "--traceback"]
    wanted = len(words) < len(given) or os.environ.get("GENREC_TRACEBACK", "") not in ("", "0")
    try:
        try:
            _click_group(app)(words, prog_name="genrec")
        finally:
            sys.stdout.flush()
    except GenrecError as error:
        if wanted:
            traceback.print_exc()
        else:
            print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # the reader (head, less) has gone; python would complain again when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    run()
