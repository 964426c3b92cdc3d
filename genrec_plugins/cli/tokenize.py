"""``genrec tokenize fit|embed|encode|report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from genrec_plugins.tokenizers.fit_config import LoadedTokenize
    from genrec_plugins.tokenizers.quality import QualityReport

app = typer.Typer(
    help="""Fit semantic-ID tokenizers on item content, give new items IDs, and measure IDs.

    Examples:
        genrec tokenize fit --items items.parquet --out sid
        genrec tokenize encode sid --items new.parquet --out codes.parquet
        genrec tokenize report sid --against index.json.gz
    """
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
_Config = Annotated[Path | None, typer.Argument(metavar="[CONFIG.YAML]", help="Items, content, tokenizer, collisions.")]
_Items = Annotated[
    Path | None, typer.Option("--items", help="Parquet or JSON: item, text, categories; or JSON item -> content.")
]
_Content = Annotated[str | None, typer.Option("--content", "-c", help="Sources, comma-separated [default: tfidf].")]


@app.command()
def fit(
    out: Annotated[Path, typer.Option("--out", "-o", help="The tokenizer's directory; an older one is replaced.")],
    config_file: _Config = None,
    items: _Items = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", "-t", help="Its name [default: rq-kmeans]; see 'genrec plugins list'.")
    ] = None,
    content: _Content = None,
    collisions: Annotated[str | None, typer.Option(help="suffix, knn-cap or none [default: suffix].")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE over the file, as tokenizer.sizes=[64,64].")
    ] = None,
    no_embeddings: Annotated[
        bool, typer.Option("--no-embeddings", help="Keep none: reports cannot look at neighbours then.")
    ] = False,
    json_: _Json = False,
) -> None:
    """Fit a tokenizer on items, give each its ID, and print their quality.

    Examples:
        genrec tokenize fit --items items.json.gz --out sid
        genrec tokenize fit sid.yaml --out sid --set tokenizer.seed=2
        genrec tokenize fit --items items.parquet --content tfidf,sentence-encoder --tokenizer rq-vae --out sid
    """
    from genrec_plugins.cli.table import print_json

    run = _load(config_file, set_, items=items, content=content, tokenizer=tokenizer, collisions=collisions)

    from genrec_plugins.tokenizers.pipeline import fit_directory
    from genrec_plugins.training.reporter import Console

    with Console() as console:
        report = fit_directory(run, out, keep_embeddings=not no_embeddings, reporter=console)
    if json_:
        print_json({"directory": str(out), **report.as_json()})
        return
    _print({out.name: [report]})
    typer.echo(f"{report.items:,} items have IDs: {out}")


@app.command()
def embed(
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet with the columns item and embedding.")],
    config_file: _Config = None,
    items: _Items = None,
    content: _Content = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the file, as content.dim=64.")] = None,
    json_: _Json = False,
) -> None:
    """Write the items' embeddings, to fit several tokenizers on them by the content source 'table'.

    Examples:
        genrec tokenize embed --items items.json.gz --content sentence-encoder --out embeddings.parquet
        genrec tokenize fit --items items.json.gz --set "content={type: table, path: embeddings.parquet}" --out sid
    """
    from genrec_plugins.cli.table import print_json

    run = _load(config_file, set_, items=items, content=content)

    from genrec_plugins.tokenizers.pipeline import embed_file
    from genrec_plugins.training.reporter import Console

    with Console() as console:
        total, width = embed_file(run, out, reporter=console)
    if json_:
        print_json({"file": str(out), "items": total, "width": width})
        return
    typer.echo(f"{out}: {total:,} items, width {width}")


def _load(
    config_file: Path | None,
    set_: list[str] | None,
    *,
    items: Path | None,
    content: str | None,
    tokenizer: str | None = None,
    collisions: str | None = None,
) -> LoadedTokenize:
    """The config of the file, with what the options say over it."""
    from genrec_plugins.config import parse_overrides
    from genrec_plugins.tokenizers.fit_config import parse_tokenize
    from genrec_registry.yaml_source import YamlSource, read_yaml

    source = read_yaml(config_file) if config_file else YamlSource("genrec tokenize", {}, {})
    sources = [name.strip() for name in (content or "").split(",") if name.strip()]
    given: dict[str, Any] = {
        "items": str(items) if items else None,
        "tokenizer": tokenizer or (None if "tokenizer" in source.data else "rq-kmeans"),
        # one source is no list, so that --set content.dim can name it
        "content": sources[0] if len(sources) == 1 else sources or None,
        "collisions": collisions,
    }
    data = source.data | {key: value for key, value in given.items() if value is not None}
    return parse_tokenize(YamlSource(source.name, data, source.positions), parse_overrides(set_))


@app.command()
def encode(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What 'genrec tokenize fit' wrote.")],
    items: Annotated[Path, typer.Option("--items", help="The items, as for 'fit'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet with the columns item and codes.")],
    table: Annotated[
        Path | None, typer.Option("--table", help="Embeddings of these items, for a tokenizer fitted on a table.")
    ] = None,
    remember: Annotated[
        bool, typer.Option("--remember", help="Write new items into DIR, so that they keep their IDs.")
    ] = False,
    json_: _Json = False,
) -> None:
    """Give items IDs without another fit, chunk by chunk; those that DIR knows keep theirs.

    Examples:
        genrec tokenize encode sid --items new.parquet --out codes.parquet
        genrec tokenize encode sid --items new.parquet --out codes.parquet --remember
    """
    from genrec_plugins.cli.table import print_json
    from genrec_plugins.tokenizers.pipeline import encode_file
    from genrec_plugins.training.reporter import Console

    with Console() as console:
        total, new = encode_file(
            directory, items, out, table=str(table) if table else None, remember=remember, reporter=console
        )
    if json_:
        print_json({"file": str(out), "items": total, "new": new})
        return
    typer.echo(f"{out}: {total:,} items, {new:,} of them new")


@app.command()
def report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Tokenizers' directories, or files of item codes.")
    ],
    against: Annotated[
        list[Path] | None, typer.Option("--against", help="Further codes, as a published INDEX.json.gz.")
    ] = None,
    by: Annotated[
        Path | None,
        typer.Option("--by", help="Directory whose embeddings say who is near [default: the first that keeps some]."),
    ] = None,
    neighbours: Annotated[int, typer.Option(min=1, help="Nearest items looked at.")] = 10,
    max_queries: Annotated[int, typer.Option(min=1, help="Items whose neighbours are looked at, at most.")] = 2000,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a picture, PNG.")] = None,
    json_: _Json = False,
) -> None:
    """Measure sets of IDs side by side; fits that differ in their seed alone become mean ± standard deviation.

    Examples:
        genrec tokenize report sid --against index.json.gz --plot quality.png
        genrec tokenize report rq-1 rq-2 rq-3 random-1 random-2 random-3 --by rq-1
    """
    from genrec_plugins.cli.table import print_json
    from genrec_plugins.tokenizers.pipeline import open_codes, report_on

    sets = [open_codes(path) for path in [*paths, *(against or [])]]
    chosen = open_codes(by) if by else next((one for one in sets if one.embeddings is not None), None)
    if chosen is None:
        typer.echo("no directory keeps embeddings: neighbours are left out", err=True)
    reports = report_on(sets, chosen, neighbours=neighbours, max_queries=max_queries)
    if plot:
        from genrec_plugins.tokenizers.quality_plot import write_plot

        write_plot({name: several[0] for name, several in reports.items()}, plot)
        typer.echo(f"{plot}: written", err=True)
    if json_:
        print_json({name: [one.as_json() for one in several] for name, several in reports.items()})
        return
    _print(reports)
    if chosen is not None:
        typer.echo(f"neighbours: the {neighbours} nearest by the embeddings of {chosen.name}")


def _print(reports: Mapping[str, Sequence[QualityReport]]) -> None:
    from genrec_plugins.cli.table import print_table
    from genrec_plugins.tokenizers.quality import comparison

    print_table(*comparison(reports))
