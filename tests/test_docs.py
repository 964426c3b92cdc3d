"""README and docs: python blocks run, `genrec` lines run on generated rows, YAML blocks validate.

The blocks of one file run in order as one module, in an empty folder. A block below a line
``<!-- no-run: reason -->`` is skipped, and listed as skipped.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from genrec_plugins import config
from genrec_plugins.cli import main
from genrec_plugins.config import RunConfig, load_run, parse_run
from genrec_plugins.lum.config import LumConfig, load_lum, parse_lum
from genrec_plugins.synthetic import generate
from genrec_plugins.tokenizers.fit_config import load_tokenize, parse_tokenize
from genrec_registry import Registry, parse_yaml, read_yaml
from tests.plugins.item_cases import write_index, write_map
from tests.plugins.lum_cases import write_lists, write_ratings

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
SHELLS = {"bash", "sh", "shell", "console"}
SEPARATORS = {"&&", "||", "|", ";", "&", ">", ">>", "2>"}
NO_RUN = re.compile(r"<!--\s*no-run:(.*?)-->")
#: what a YAML block may leave out
MINIMUM: dict[str, Any] = {
    "dataset": {"type": "criteo-kaggle", "path": "train.txt"},
    "model": {"interaction": {"type": "dot"}},
}
LUM_MINIMUM: dict[str, Any] = {"dataset": {"type": "movielens", "path": "ml-100k"}, "encoder": {"type": "lum"}}


@dataclass(frozen=True)
class Block:
    """A fenced block: its file, the line of its first code line, its language, and why it is not run."""

    path: Path
    line: int
    language: str
    code: str
    no_run: str | None

    @property
    def label(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks_of(path: Path, text: str | None = None) -> Iterator[Block]:
    """The fenced blocks of a Markdown file."""
    lines = (path.read_text(encoding="utf-8") if text is None else text).splitlines()
    index, above = 0, ""
    while index < len(lines):
        opening = re.match(r"^(\s*)(`{3,}|~{3,})\s*([\w+-]*)", lines[index])
        if not opening:
            above = lines[index] if lines[index].strip() else above
            index += 1
            continue
        start = index + 1
        index = start
        while index < len(lines) and lines[index].strip() != opening.group(2):
            index += 1
        if index == len(lines):
            raise ValueError(f"{path}:{start}: the block is not closed")
        reason = NO_RUN.fullmatch(above.strip())
        code = dedent("\n".join(lines[start:index]))
        yield Block(path, start + 1, opening.group(3).lower(), code, reason.group(1).strip() if reason else None)
        above = ""
        index += 1


BLOCKS = [block for path in FILES if path.exists() for block in blocks_of(path)]
WITH_PYTHON = sorted({block.path for block in BLOCKS if block.language in ("python", "py")})


def _of(*languages: str) -> list[Any]:
    chosen = [block for block in BLOCKS if block.language in languages and block.no_run is None]
    return [pytest.param(block, id=block.label) for block in chosen]


@pytest.mark.parametrize("path", WITH_PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_run(path, tmp_path, monkeypatch):
    """As one module, whose line numbers are those of the Markdown file."""
    source: list[str] = []
    for block in BLOCKS:
        if block.path == path and block.language in ("python", "py") and block.no_run is None:
            source += [""] * (block.line - 1 - len(source)) + block.code.splitlines()
    name = "docs_" + re.sub(r"\W", "_", str(path.relative_to(ROOT).with_suffix("")))
    (tmp_path / "code").mkdir()
    (tmp_path / "cwd").mkdir()
    script = tmp_path / "code" / f"{name}.py"
    script.write_text("\n".join(source) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "cwd")
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # so that classes can be pickled and scripted
    spec.loader.exec_module(module)


_NOT_RUN = [pytest.param(block, id=block.label) for block in BLOCKS if block.no_run is not None]


@pytest.mark.parametrize("block", _NOT_RUN)
def test_blocks_that_do_not_run_say_why(block):
    assert block.no_run, f"{block.label}: write the reason, <!-- no-run: reason -->"
    pytest.skip(f"{block.label}: {block.no_run}")


def _genrec_lines(code: str) -> Iterator[list[str]]:
    """The words after ``genrec`` in each call of it."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words:
            stop = next((i for i, word in enumerate(words) if word in SEPARATORS), len(words))
            command, words = words[:stop], words[stop + 1 :]
            while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
                command = command[1:]
            if command and command[0].rpartition("/")[2] == "genrec":
                yield command[1:]


def check_command(words: list[str]) -> None:
    """Raise AssertionError unless the command and all its options exist."""
    command: Any = main._click_group(main.app)
    for position, word in enumerate(words):
        if word.startswith("-"):
            known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
            known |= {"-h", "--help", "--traceback"}
            assert word.partition("=")[0] in known, f"genrec {' '.join(words)}: no option {word}"
        elif getattr(command, "commands", None) is not None:
            assert word in command.commands, f"genrec {' '.join(words)}: no command {word}"
            command = main.load_command(word) if position == 0 else command.commands[word]


@pytest.mark.parametrize("block", _of(*SHELLS))
def test_genrec_lines_name_commands_and_options_that_exist(block):
    for words in _genrec_lines(block.code):
        check_command(words)


#: tested with their packages installed, and over HTTP
ELSEWHERE = {"plugins", "doctor", "serve"}
#: options whose numbers are made small, so that a command runs in seconds: everything else runs as it is written
SMALL = {"--rows": "2000", "--seeds": "1", "--trials": "2", "--finalists": "1"}


def shrink(words: list[str]) -> list[str]:
    """The command on a few rows."""
    small = [SMALL.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    return [*small, "--rows", SMALL["--rows"]] if small == ["demo"] else small


def write_inputs(folder: Path, path: Path) -> None:
    """The files that the commands of ``path`` name: raw rows, and the run file that the page shows."""
    generate("criteo", 2000, folder / "train.txt.gz", seed=1)
    generate("avazu", 2000, folder / "train.gz", seed=1)
    (folder / "train_sample.csv.gz").symlink_to("train.gz")
    write_ratings(folder / "ml-100k")
    films = [f"i{item}\tFilm of {item}\t{1990 + item % 9}\t{('Drama', 'Comedy War')[item % 2]}" for item in range(24)]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "ml-100k" / "small.item").write_text("\n".join([header, *films]) + "\n")
    write_lists(folder / "beauty.inter.json")
    write_map(folder / "items.json.gz", 0, 300)
    write_map(folder / "new.json.gz", 290, 320)
    write_index(folder / "index.json.gz", 300)
    (folder / "examples").symlink_to(ROOT / "examples")
    for block in blocks_of(path):
        data = parse_yaml(block.code).data if block.language == "yaml" else {}
        if "tokenizer" in data:
            (folder / "sid.yaml").write_text(block.code)
        elif "dataset" in data:
            (folder / ("lum.yaml" if is_pretraining(data) else "run.yaml")).write_text(block.code)


def is_pretraining(data: dict[str, Any]) -> bool:
    """Whether a file is one of ``genrec lum pretrain``: those have no model, but an encoder or an objective."""
    return bool({"encoder", "objective"} & set(data)) and "model" not in data


@pytest.mark.parametrize(
    "path", [path for path in FILES if any(True for b in blocks_of(path) if b.language in SHELLS)], ids=str
)
def test_genrec_lines_run(path, tmp_path, monkeypatch):
    """Every ``genrec`` line of a page, in order, in one folder, on generated rows."""
    lines = [words for b in blocks_of(path) if b.language in SHELLS and not b.no_run for words in _genrec_lines(b.code)]
    lines = [words for words in lines if words[0] not in ELSEWHERE]
    if not lines:
        pytest.skip(f"{path.name}: no command that reads rows")
    write_inputs(tmp_path, path)
    monkeypatch.chdir(tmp_path)
    for words in lines:
        with pytest.raises(SystemExit) as stopped:
            main.run(shrink(words))
        assert not stopped.value.code, f"{path.name}: genrec {' '.join(words)} ended with {stopped.value.code}"


def register_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer the plugins of the example packages to configs, as if they were installed."""
    registry = Registry()
    for project in (ROOT / "examples").glob("*/pyproject.toml"):
        monkeypatch.syspath_prepend(project.parent / "src")
        for name, module in tomllib.loads(project.read_text())["project"]["entry-points"]["genrec.plugins"].items():
            if not any(component.plugin == name for component in registry):
                registry.register(importlib.import_module(module), distribution=project.parent.name, name=name)
    monkeypatch.setattr(config, "_default_model", lambda: config.run_config_model(registry))


@pytest.mark.parametrize("block", _of("yaml", "yml"))
def test_yaml_blocks_are_run_configs(block, monkeypatch):
    register_examples(monkeypatch)
    data = parse_yaml(block.code, name=block.label).data
    if not set(data) & (set(RunConfig.model_fields) | set(LumConfig.model_fields)):
        pytest.skip("not a run config")
    if "tokenizer" in data:
        parse_tokenize(data)
    elif is_pretraining(data):
        parse_lum(LUM_MINIMUM | data)
    else:
        parse_run(MINIMUM | data)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda path: path.name)
def test_example_run_files_validate(path):
    data = read_yaml(path).data
    if "tokenizer" in data:
        load_tokenize(path)
    elif is_pretraining(data):
        load_lum(path)
    else:
        load_run(path)


# -- the checks themselves --------------------------------------------------------------------------------------------


def test_blocks_are_found_with_their_lines_and_reasons():
    text = "# T\n\n```python\na = 1\n```\n\n<!-- no-run: needs a GPU -->\n\n```bash\ngenrec x\n```\n~~~\nplain\n~~~\n"
    found = list(blocks_of(ROOT / "T.md", text))
    assert [(block.line, block.language, block.no_run) for block in found] == [
        (4, "python", None),
        (10, "bash", "needs a GPU"),
        (13, "", None),
    ]
    with pytest.raises(ValueError, match="not closed"):
        list(blocks_of(ROOT / "T.md", "```python\n"))


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("$ genrec plugins list --kind dataset  # all", [["plugins", "list", "--kind", "dataset"]]),
        ("cd x && GENREC_TRACEBACK=1 genrec doctor | head -3", [["doctor"]]),
        ("genrec train \\\n  run.yaml", [["train", "run.yaml"]]),
        ("pip install genrec", []),
        (".venv/bin/genrec schema > x.json", [["schema"]]),
    ],
)
def test_genrec_calls_are_found(line, calls):
    assert list(_genrec_lines(line)) == calls


def test_wrong_commands_are_caught():
    check_command(["plugins", "list", "--kind", "dataset"])
    for wrong in (["plugin"], ["plugins", "lst"], ["plugins", "list", "--knid", "x"], ["--verison"]):
        with pytest.raises(AssertionError, match=r"no (command|option)"):
            check_command(wrong)
