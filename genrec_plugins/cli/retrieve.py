"""``genrec retrieve``: the k best next items of users, by beam search over codes or by o_q against item vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import polars as pl

METHODS = ("auto", "beam", "dense")
INDEXES = ("flat", "hnsw")
#: users whose list is shown on the terminal
SHOWN = 3


def retrieve(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The --out of 'genrec lum pretrain'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file: user, rank, item, score.")] = Path(
        "recs.parquet"
    ),
    method: Annotated[
        str, typer.Option(help="beam (objective semantic-id), dense (the others), or auto: what goes with the run.")
    ] = "auto",
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Items a user.")] = 10,
    user: Annotated[list[str] | None, typer.Option("--user", help="Id of a user; may be given again.")] = None,
    users: Annotated[Path | None, typer.Option("--users", help="Text file of user ids, one a line.")] = None,
    condition: Annotated[
        list[str] | None, typer.Option("--condition", help="NAME=VALUE the next item is asked for under, action=like.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Knowledge store of 'genrec lum query': take its vectors, run no model.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="Which query of the store [default: its only one].")] = None,
    exclude_seen: Annotated[bool, typer.Option("--exclude-seen", help="Leave out items of the history.")] = False,
    width: Annotated[int, typer.Option(min=0, help="Prefixes kept in beam search [default: the run's].")] = 0,
    index: Annotated[str, typer.Option(help="Dense: flat (exact) or hnsw (a graph, approximate).")] = "flat",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Write the k best next items of all users, or of some, after all their events.

    Examples:

        genrec retrieve runs/generative_beauty --k 20 --exclude-seen --out recs.parquet

        genrec retrieve runs/lum_movielens --condition action=like --user 1 --user 7

        genrec retrieve runs/lum_movielens --store stores/likes --query like --index hnsw
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_registry import ConfigError, did_you_mean

    for option, value, known in (("--method", method, METHODS), ("--index", index, INDEXES)):
        if value not in known:
            raise ConfigError(f"{option} is '{value}'{did_you_mean(value, known)}")
    if query is not None and store is None:
        raise ConfigError("--query names a query of a knowledge store; add --store, or ask by --condition")
    chosen = named_users(user, users)
    conditions = named_conditions(condition)
    load_torchrec()

    from genrec_plugins.cli.table import print_json
    from genrec_plugins.files import written_aside
    from genrec_plugins.lum.retrieve import Request, method_of, recommend
    from genrec_plugins.lum.run import LumRun
    from genrec_plugins.training.reporter import Console, Quiet

    run = LumRun.open(run_dir)
    request = Request(
        k=k,
        method=method,  # type: ignore[arg-type]
        conditions=conditions,
        exclude_seen=exclude_seen,
        width=width,
        index=index,  # type: ignore[arg-type]
        store=store,
        query=query,
    )
    if quiet:
        found = recommend(run, request, chosen, Quiet())
    else:
        with Console(unit="users") as console:
            found = recommend(run, request, chosen, console)
    with written_aside(out) as partial:
        found.write_parquet(partial)
    if json_:
        used = method_of(run, request.method)
        print_json({"out": str(out), "method": used, "users": found["user"].n_unique(), "rows": found.height})
        return
    _print_some(found)
    typer.echo(f"{found['user'].n_unique():,} users, {found.height:,} rows: {out}")


def named_conditions(pairs: list[str] | None) -> dict[str, str]:
    """``["action=like"]`` to ``{"action": "like"}``.

    Raises:
        ConfigError: a pair has no ``=``.

    Example::

        >>> named_conditions(["action=like", "scene=home=page"])
        {'action': 'like', 'scene': 'home=page'}
    """
    from genrec_registry import ConfigError

    for pair in pairs or ():
        if not pair.partition("=")[0].strip() or "=" not in pair:
            raise ConfigError(f"--condition {pair}: expected NAME=VALUE, as action=like")
    return {pair.partition("=")[0].strip(): pair.partition("=")[2] for pair in pairs or ()}


def named_users(user: list[str] | None, users: Path | None) -> list[str] | None:
    """The users of ``--user`` and ``--users``; None for all.

    Raises:
        ConfigError: the file cannot be read, or names nobody.
    """
    from genrec_registry import ConfigError

    if users is None:
        return list(user) if user else None
    try:
        lines = users.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--users {users}: cannot be read ({error}); name a text file with one user a line"
        ) from error
    named = [*(user or ()), *(line.strip() for line in lines if line.strip())]
    if not named:
        raise ConfigError(f"--users {users}: names no user; expected one user id a line")
    return named


def _print_some(found: pl.DataFrame) -> None:
    from genrec_plugins.cli.table import print_table

    some = found["user"].unique(maintain_order=True).head(SHOWN).to_list()
    shown = found.filter(found["user"].is_in(some) & (found["rank"] <= 5))
    print_table(
        ["user", "rank", "item", "score"],
        [[user, rank, item, f"{score:.4f}"] for user, rank, item, score in shown.iter_rows()],
    )
