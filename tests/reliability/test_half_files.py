"""No half file under a final name: what writes is written aside, and a killed ``genrec train`` leaves whole files."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import faults
from tests.reliability import cases
from tests.reliability.test_no_pickle import ROOT, sources

# -- the code ------------------------------------------------------------------------------------------------------

WRITERS = (
    "write_text",
    "write_bytes",
    "write_parquet",
    "write_csv",
    "write_ipc",
    "sink_parquet",
    "sink_ipc",
    "savefig",
    "save_file",
    "save_pretrained",
    "copyfile",
    "copy2",
    "np.save",
    "np.savez",
    "ParquetWriter",
    "new_file",
)
#: contexts in which files have no final name yet
ASIDE = ("written_aside", "replaced", "_replaced", "Swap")
#: where else something is written, and why it may: a file or folder, and a function or class or all of it
REASONS = {
    "they fill a directory or a file in the making, whose name the caller gives": {
        ("adapters/genrec_adapters/item_codes.py", "ItemCodes"),
        ("adapters/genrec_adapters/knowledge.py", "KnowledgeStore"),
        ("adapters/genrec_adapters/knowledge_tables.py", "write_users"),
        ("adapters/genrec_adapters/preprocess/", ""),
        ("genrec_plugins/serving/facts.py", "ExportFacts"),
        ("genrec_plugins/tokenizers/base.py", ""),
        ("genrec_plugins/tokenizers/content.py", "FittedContent"),
        ("genrec_plugins/training/checkpoints.py", "CheckpointStore"),
    },
    "lines are appended; the next run drops a last one that is cut": {
        ("genrec_plugins/benchmarks/tune.py", "TrialLog"),
        ("genrec_plugins/training/follow.py", "Follower"),
    },
    "it is written to .part and renamed, by several writers at once": {
        ("genrec_plugins/synthetic/stream.py", "_write"),
    },
    "into memory": {
        ("genrec_plugins/figures.py", "svg_text"),
        ("genrec_plugins/synthetic/stream.py", "_in_order"),
    },
    "a temporary folder": {
        ("genrec_plugins/benchmarks/serving_load.py", "bodies"),
        ("genrec_plugins/benchmarks/soak.py", "soak_stream"),
        ("genrec_plugins/benchmarks/tokenizer_speed.py", "main"),
    },
}
#: measurements on temporary folders, and the kit that plugins are tested with
LEFT_OUT = ("genrec_plugins/benchmarks/speed/", "genrec_plugins/testing/")


def writes(tree: ast.AST) -> Iterator[tuple[str, str, int]]:
    """Function (dotted, from the module), call and line of each write that is not under one of :data:`ASIDE`."""

    def walk(node: ast.AST, place: str) -> Iterator[tuple[str, str, int]]:
        if isinstance(node, ast.With) and any(
            ast.unparse(part).split("(")[0].split(".")[-1] in ASIDE
            for item in node.items
            for part in ast.walk(item.context_expr)
            if isinstance(part, ast.Call)
        ):
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            place = f"{place}.{node.name}".strip(".")
        if isinstance(node, ast.Call) and is_write(node):
            yield place, ast.unparse(node.func), node.lineno
        for child in ast.iter_child_nodes(node):
            yield from walk(child, place)

    yield from walk(tree, "")


def is_write(call: ast.Call) -> bool:
    called = ast.unparse(call.func)
    if called.endswith(WRITERS):
        return True
    opens = called == "open" or called.endswith(".open")
    modes = [*call.args[:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return opens and any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)


def test_what_is_written_has_no_final_name_yet() -> None:
    found, reasons = {}, {place for places in REASONS.values() for place in places}
    for path in sources():
        name = str(path.relative_to(ROOT))
        for place, called, line in writes(ast.parse(path.read_text())):
            known = any(
                name.startswith(file) and f"{place}.".startswith(f"{inside}.".lstrip(".")) for file, inside in reasons
            )
            if not known and not name.startswith(LEFT_OUT):
                found[name, place] = (line, called)
    assert not found, found


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("path.write_text(x)", 1),
        ("def f():\n    with path.open('w') as file:\n        file.write(x)", 1),
        ("with open(path, mode='ab') as file:\n    pass", 1),
        ("with path.open('rb') as file:\n    pass", 0),
        ("with written_aside(path) as partial:\n    partial.write_text(x)", 0),
        ("with errors(), written_aside(path) as partial, ParquetWriter(partial) as w:\n    w.write(x)", 0),
        ("with written_aside(path) as partial:\n    pass\nfigure.savefig(path)", 1),
    ],
)
def test_the_look_finds(code: str, count: int) -> None:
    assert len(list(writes(ast.parse(code)))) == count


# -- the program ---------------------------------------------------------------------------------------------------


def train_from_raw_rows(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """``genrec train``: prepares, trains, evaluates."""
    cases.prepare(config, folder / "prepared")
    return cases.train(config, folder / "prepared", folder / "run")


@dataclass(frozen=True)
class Run:
    """A run, where it ended when nothing happened to it, and how that went."""

    config: dict[str, Any]
    whole: Path
    unbroken: faults.Outcome


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("half")
    config = cases.run_config(cases.write_table(folder / "rows.csv", rows=300))
    unbroken = faults.run(train_from_raw_rows, config, folder / "whole")
    assert not unbroken.crash + unbroken.sentence, unbroken
    assert not cases.half_files(folder / "whole")
    return Run(config, folder / "whole", unbroken)


def survives(run: Run, trial: Path, killed_by: Iterable[faults.Fault]) -> int:
    """Kill ``genrec train``, look at every file, then let it go on; returns how often it was killed."""
    expected, kills = without_logs(run.whole), 0
    for fault in killed_by:
        shutil.rmtree(trial, ignore_errors=True)
        found = faults.run(train_from_raw_rows, run.config, trial, fault=fault)
        assert not found.crash + found.sentence, f"{fault}: {found}"
        kills += found.killed
        assert not cases.half_files(trial), fault
        again = faults.run(train_from_raw_rows, run.config, trial)
        assert not again.crash + again.sentence, f"{fault}: {again}"
        ended = without_logs(trial)
        assert ended.keys() == expected.keys(), fault
        assert ended["run/model.safetensors"] == expected["run/model.safetensors"], fault
    return kills


def without_logs(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in faults.files(folder).items() if "tensorboard" not in name}


def test_a_killed_run_leaves_whole_files(run: Run, tmp_path: Path) -> None:
    assert survives(run, tmp_path / "trial", faults.draw(run.unbroken, 3, seed=4, sizes=(100, 20_000))) > 0


@pytest.mark.long
def test_a_run_killed_anywhere_leaves_whole_files(run: Run, tmp_path: Path) -> None:
    changes = range(1, run.unbroken.changes + 1)
    assert survives(run, tmp_path / "each", map(faults.KillAt, changes)) > 20
    assert survives(run, tmp_path / "any", faults.draw(run.unbroken, 50, seed=5, sizes=(100, 20_000))) > 30


def restart(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    return cases.train(config, folder / "prepared", folder / "run", restart=True)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_a_restart_that_is_killed_leaves_whole_checkpoints_or_none(every: int, run: Run, tmp_path: Path) -> None:
    trial = tmp_path / "trial"
    for change in range(1, 22, every):  # those of the removal, and the first of the training
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(run.whole, trial)
        assert faults.run(restart, run.config, trial, fault=faults.KillAt(change)).killed
        assert not cases.half_files(trial), change
        cases.steps_in(trial / "run")
        again = faults.run(train_from_raw_rows, run.config, trial)
        assert not again.crash + again.sentence, f"{change}: {again}"
        assert without_logs(trial)["run/model.safetensors"] == without_logs(run.whole)["run/model.safetensors"], change
        assert not list(trial.rglob("*partial*")), change


def test_a_half_file_would_be_seen(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(run.whole, out)
    names = [name for name in without_logs(out) if not name.endswith(".lock")]
    assert len(names) > 12
    for name in names:
        content = (out / name).read_bytes()
        for half in (content[: len(content) // 2], b""):
            (out / name).write_bytes(half)
            assert cases.half_files(out), name
        (out / name).write_bytes(content)
    assert not cases.half_files(out)
    (out / "run" / "new.bin").write_bytes(b"?")
    assert cases.half_files(out) == ["run/new.bin: of an unknown kind"]
