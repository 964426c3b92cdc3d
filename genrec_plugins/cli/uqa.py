"""``genrec uqa``: user embeddings as soft prompts of a language model, asked the questions of UQABench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    help="""Ask a language model about users, by soft tokens of their embeddings (UQABench, arXiv 2502.19178).

    Examples:
        genrec uqa events pretrain_data_train.arrow --out events.csv
        genrec uqa questions runs/lum --out questions
        genrec uqa train uqa.yaml --out runs/uqa
        genrec uqa evaluate runs/uqa --users shuffled
    """
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IsQuiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.command()
def events(
    arrow: Annotated[Path, typer.Argument(metavar="FILE.ARROW", help="UQABench's pretrain_data_train.arrow.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write.")] = Path("events.csv"),
) -> None:
    """Write UQABench's interactions as a file that the dataset 'taobao-userbehavior' reads, to pre-train on.

    Examples:

        genrec uqa events datas/pretrain_data_train.arrow --out events.csv
    """
    from genrec_plugins.uqa.data import write_events

    users, count = write_events(arrow, out)
    typer.echo(f"{count:,} events of {users:,} users written to {out}")


@app.command()
def questions(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The --out of 'genrec lum pretrain'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for train.jsonl and test.jsonl.")] = Path(
        "questions"
    ),
    test_share: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of the users to test on.")] = 0.2,
    options: Annotated[int, typer.Option(min=2, help="Categories to choose from.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of users and options.")] = 1,
) -> None:
    """Make questions in UQABench's manner about a run's users: last, favourite, recent and next category.

    Examples:

        genrec uqa questions runs/lum_movielens --out questions
    """
    from genrec_plugins.cli.logs import load_torchrec

    load_torchrec()

    from genrec_plugins.lum.run import LumRun
    from genrec_plugins.uqa.make import make_questions

    made = make_questions(LumRun.open(run_dir), test_share=test_share, options=options, seed=seed)
    paths = made.write(out)
    for path, lines in zip(paths, (made.train, made.test), strict=True):
        typer.echo(f"{len(lines):,} questions written to {path}")


@app.command()
def train(
    run_file: Annotated[Path, typer.Argument(metavar="UQA.YAML", help="Questions, users, language model, training.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory [default: runs/NAME of the file].")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the file, as llm.tune=true.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget the checkpoints in the run directory.")] = False,
    quiet: IsQuiet = False,
    json_: AsJson = False,
) -> None:
    """Train an adapter from user embeddings to soft tokens on questions; encoder and language model too, if told so.

    Needs the extra [uqa]. Given again, it goes on after the last whole epoch.

    Examples:

        genrec uqa train uqa.yaml

        genrec uqa train uqa.yaml --out runs/tuned --set users.tune=true --set train.encoder_lr=1e-5
    """
    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.cli.table import print_json
    from genrec_plugins.config import parse_overrides
    from genrec_plugins.uqa.config import load_uqa

    config = load_uqa(run_file, parse_overrides(set_))
    load_torchrec()

    from genrec_plugins.training.reporter import Console, Quiet
    from genrec_plugins.uqa.train import train_uqa

    directory = out or Path("runs") / run_file.stem
    if quiet:
        report = train_uqa(config, directory, Quiet(), restart=restart)
    else:
        with Console() as console:
            report = train_uqa(config, directory, console, restart=restart)
    if json_:
        print_json(report)
        return
    if report["test"] is not None:
        _print_rows(report["test"])
    typer.echo(f"run directory {directory}")


@app.command()
def evaluate(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The --out of 'genrec uqa train'.")],
    questions: Annotated[
        Path | None, typer.Option("--questions", help="Questions to ask [default: the run's test file].")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="choice, greedy or auto [default: what the run says].")] = None,
    users: Annotated[
        str, typer.Option(help="Whose soft tokens: own; shuffled: another user's; none: the bare question.")
    ] = "own",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON lines to write: question, prediction, answer, task.")
    ] = None,
    quiet: IsQuiet = False,
    json_: AsJson = False,
) -> None:
    """Accuracy by task. The difference between --users own and --users shuffled is what the tokens say of the user.

    Examples:

        genrec uqa evaluate runs/uqa

        genrec uqa evaluate runs/uqa --users shuffled

        genrec uqa evaluate runs/uqa --questions datas/align_data_eval.arrow --out predictions.jsonl
    """
    import json

    from genrec_plugins.cli.logs import load_torchrec
    from genrec_plugins.cli.table import print_json
    from genrec_registry import ConfigError, did_you_mean

    modes, kinds = ("auto", "choice", "greedy"), ("own", "shuffled", "none")
    if mode is not None and mode not in modes:
        raise ConfigError(f"--mode is '{mode}'{did_you_mean(mode, modes)}")
    if users not in kinds:
        raise ConfigError(f"--users is '{users}'{did_you_mean(users, kinds)}")
    load_torchrec()

    from genrec_plugins.files import written_aside
    from genrec_plugins.training.reporter import Console, Quiet
    from genrec_plugins.uqa.aligned import Aligned
    from genrec_plugins.uqa.data import read_questions
    from genrec_plugins.uqa.evaluate import Whose
    from genrec_plugins.uqa.evaluate import evaluate as ask

    aligned = Aligned.open(run_dir)
    path = questions or aligned.config.questions.test
    if path is None:
        raise ConfigError(f"{run_dir}: the run names no test questions; give --questions FILE")
    asked = read_questions(path, 0 if questions else aligned.config.questions.limit)
    whose: Whose = next(kind for kind in get_args(Whose) if kind == users)
    if quiet:
        found = ask(aligned, asked, mode=mode, whose=whose, reporter=Quiet())
    else:
        with Console() as console:
            found = ask(aligned, asked, mode=mode, whose=whose, reporter=console)
    if out is not None:
        lines = [
            {"question": question.text, "prediction": prediction, "answer": question.answer, "task": question.task}
            for question, prediction in zip(asked, found.predictions, strict=True)
        ]
        with written_aside(out) as partial:
            partial.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    rows = [row.as_dict() for row in found.rows]
    if json_:
        print_json(rows)
    else:
        _print_rows(rows)


def _print_rows(rows: Sequence[dict[str, Any]]) -> None:
    from genrec_plugins.cli.table import print_table

    cells = [
        (
            row["task"],
            f"{row['questions']:,}",
            f"{row['accuracy']:.4f} ± {row['error']:.4f}",
            "-" if row["chance"] is None else f"{row['chance']:.4f}",
            f"{row['constant']:.4f}",
        )
        for row in rows
    ]
    print_table(("task", "questions", "accuracy", "guessing", "best constant answer"), cells)
